// Opens each page that it is given in headless Chromium, as a desk and as a
// phone, in light and in dark, and prints a line of JSON for each view: what
// axe-core finds, whether the layout is wider than the window, whether foreign
// text was run, what the keyboard reaches. With a folder it draws pictures.
//
//   node check.mjs '{"pages": {"name": "http://..."}, "out": "folder or empty"}'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { chromium } from 'playwright-core'

const { pages, out } = JSON.parse(process.argv[2])
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
})
const views = { desk: { width: 1280, height: 800 }, phone: { width: 390, height: 844 } }
for (const [name, url] of Object.entries(pages)) {
  for (const [kind, viewport] of Object.entries(views)) {
    for (const colorScheme of ['light', 'dark']) {
      // axe-core is a script: without bypassCSP the page's own policy refuses it, as it should.
      const context = await browser.newContext({ viewport, colorScheme, bypassCSP: true })
      const page = await context.newPage()
      const errors = []
      page.on('pageerror', (e) => errors.push(String(e)))
      const response = await page.goto(url, { waitUntil: 'load' })
      if (out) await page.screenshot({ path: `${out}/${name}-${kind}-${colorScheme}.png` })
      const title = await page.title()
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth)
      await page.evaluate(axe)
      const found = await page.evaluate(() => axe.run({ resultTypes: ['violations'] }))
      // Tab through the first links: each must be seen to have the focus.
      const focus = []
      for (let i = 0; i < 8; i++) {
        await page.keyboard.press('Tab')
        focus.push(await page.evaluate(() => {
          const e = document.activeElement
          return { tag: e.tagName, outline: getComputedStyle(e).outlineStyle }
        }))
      }
      console.log(JSON.stringify({
        name, kind, colorScheme, status: response.status(), title, wide, errors, focus,
        violations: found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 3).join(' | ')}`),
      }))
      await context.close()
    }
  }
}
// The policy in force: a script that got into a page would not run.
const context = await browser.newContext()
const page = await context.newPage()
const blocked = []
page.on('console', (m) => blocked.push(m.text()))
await page.goto(Object.values(pages)[0])
const ran = await page.evaluate(() => {
  const s = document.createElement('script')
  s.textContent = 'document.title = "run"'
  document.body.append(s)
  return document.title
})
console.log(JSON.stringify({ name: 'policy', title: ran, errors: blocked }))
await browser.close()
