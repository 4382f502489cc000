// Draws dashboards into PNG files over a running Prometheus:
//
//   node draw.mjs --prometheus http://127.0.0.1:9090 --out ../../docs/images \
//     [--seconds 21600] [--to unix-time] [--scrape 15] [--values '{"runner":"7"}'] [--width 1280,1920] [--theme dark,light] \
//     [--report report.json] [--fleet http://127.0.0.1:9756/fleet] [overview.json ...]
//
// Of several widths or themes each picture's name has both. The report has, for each picture, the texts and colors
// of the tiles, the texts of empty panels, and titles that are cut off. --fleet adds fleet.png, the exporter's own page
// at that address. Ends with status 1 if anything could not be drawn.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { createServer } from 'vite';

const here = fileURLToPath(new URL('.', import.meta.url));
const { values: opt, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prometheus: { type: 'string', default: 'http://127.0.0.1:9090' },
    out: { type: 'string', default: join(here, '../../docs/images') },
    seconds: { type: 'string', default: '21600' },
    to: { type: 'string', default: '' },
    scrape: { type: 'string', default: '15' },
    width: { type: 'string', default: '1600' },
    rows: { type: 'string', default: '' },
    theme: { type: 'string', default: 'dark' },
    report: { type: 'string', default: '' },
    values: { type: 'string', default: '{}' },
    fleet: { type: 'string', default: '' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});
const names = positionals.length ? positionals : (await readdir(join(here, '..'))).filter((f) => f.endsWith('.json')).sort();
const looks = opt.width.split(',').flatMap((width) => opt.theme.split(',').map((theme) => ({ width, theme })));

// Vite serves the page from its sources; what it makes of node_modules is kept there.
const vite = await createServer({
  root: here,
  configFile: join(here, 'vite.config.mjs'),
  server: { host: '127.0.0.1', port: 0, hmr: false, watch: null },
  plugins: [{
    name: 'dashboards',
    configureServer(server) {
      server.middlewares.use('/dashboards/', async (request, response) => {
        response.end(await readFile(join(here, '..', basename(request.url))));
      });
    },
  }],
});
await vite.listen();
const base = `http://127.0.0.1:${vite.httpServer.address().port}/`;

await mkdir(opt.out, { recursive: true });
const browser = await chromium.launch({
  executablePath: opt.chromium,
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
});
let failed = false;
const reports = [];
if (opt.fleet) {
  // Before the boards, whose loading takes minutes on a slow machine.
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: looks[0].theme });
  const fleet = await context.newPage();
  const response = await fleet.goto(opt.fleet);
  await fleet.screenshot({ path: join(opt.out, 'fleet.png'), fullPage: true });
  failed = !response.ok();
  console.log(`${opt.fleet} -> ${join(opt.out, 'fleet.png')}, HTTP ${response.status()}`);
  await context.close();
}
// One page for all: to load Grafana's components takes longer than to draw.
const page = await browser.newPage();
let problems = [];
page.on('pageerror', (e) => problems.push(String(e.stack ?? e)));
page.on('console', (m) => m.type() === 'error' && process.env.VERBOSE && console.error(m.text()));
if (opt.to) {
  await page.clock.setFixedTime(Number(opt.to) * 1000); // "2 minutes ago" is before that
}
await page.goto(base, { timeout: 300_000 });
await page.waitForFunction(() => window.draw, null, { timeout: 300_000 });
for (const name of names) {
  for (const { width, theme } of looks) {
    problems = [];
    await page.setViewportSize({ width: Number(width), height: 1000 });
    const query = new URLSearchParams({
      dashboard: name, prometheus: opt.prometheus, seconds: opt.seconds, to: opt.to, scrape: opt.scrape, width: String(Number(width) - 40), rows: opt.rows, theme, values: opt.values,
    });
    const problem = await page.evaluate((search) => window.draw(search), String(query));
    if (problem) {
      problems.push(problem);
    }
    await page.waitForTimeout(1000);
    const look = looks.length > 1 ? `-${width}-${theme}` : '';
    const file = join(opt.out, name.replace(/\.json$/, `${look}.png`));
    const picture = page.locator('#picture');
    if (await picture.count()) {
      await picture.screenshot({ path: file });
      const report = await page.evaluate(() => {
        for (const h of document.querySelectorAll('#picture h2')) {
          if (h.scrollWidth > h.clientWidth) {
            window.report.cut.push(h.textContent);
          }
        }
        return { ...window.report, titles: document.querySelectorAll('#picture h2').length };
      });
      reports.push({ board: name, width: Number(width), theme, ...report });
    } else {
      problems.push('nothing was drawn');
    }
    console.log(`${name} -> ${file}`);
    for (const p of new Set(problems)) {
      failed = true;
      console.error(`${name}: ${p}`);
    }
  }
}
if (opt.report) {
  await writeFile(opt.report, JSON.stringify(reports));
}
await browser.close();
await vite.close();
process.exit(failed ? 1 : 0);
