// Draws dashboards into PNG files over a running Prometheus:
//
//   node draw.mjs --prometheus http://127.0.0.1:9090 --out ../../docs/images \
//     [--seconds 21600] [--to unix-time] [--scrape 15] [--values '{"runner":"7"}'] [overview.json ...]
//
// Ends with status 1 if anything could not be drawn.
import { mkdir, readFile } from 'node:fs/promises';
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
    values: { type: 'string', default: '{}' },
    chromium: { type: 'string', default: '/usr/bin/chromium' },
  },
});
const names = positionals.length ? positionals : ['overview.json', 'tags.json', 'runner.json', 'jobs.json', 'queue.json', 'exporter.json'];

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
for (const name of names) {
  const page = await browser.newPage({ viewport: { width: Number(opt.width) + 40, height: 1000 } });
  const problems = [];
  page.on('pageerror', (e) => problems.push(String(e.stack ?? e)));
  page.on('console', (m) => m.type() === 'error' && process.env.VERBOSE && console.error(m.text()));
  const query = new URLSearchParams({
    dashboard: name, prometheus: opt.prometheus, seconds: opt.seconds, to: opt.to, scrape: opt.scrape, width: opt.width, rows: opt.rows, theme: opt.theme, values: opt.values,
  });
  await page.goto(`${base}?${query}`, { timeout: 300_000 });
  await page.waitForFunction(() => window.drawn, null, { timeout: 300_000 });
  await page.waitForTimeout(3000);
  problems.push(...(await page.evaluate(() => window.problems)));
  const file = join(opt.out, name.replace(/\.json$/, '.png'));
  const picture = page.locator('#picture');
  if (await picture.count()) {
    await picture.screenshot({ path: file });
  } else {
    problems.push('nothing was drawn');
  }
  console.log(`${name} -> ${file}`);
  for (const p of new Set(problems)) {
    failed = true;
    console.error(`${name}: ${p}`);
  }
  await page.close();
}
await browser.close();
await vite.close();
process.exit(failed ? 1 : 0);
