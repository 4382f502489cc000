// What Grafana's Prometheus data source does with a dashboard's targets and
// variables, as far as these dashboards use it.
import { FieldType, toDataFrame } from '@grafana/data';

const steps = [5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
const seconds = (s) => {
  const m = /^(\d+)(s|m|h|d)$/.exec(s);
  return Number(m[1]) * { s: 1, m: 60, h: 3600, d: 86400 }[m[2]];
};

export class Prometheus {
  constructor(url, scrape, from, to) {
    Object.assign(this, { url, scrape, from, to, values: {} });
  }

  async get(path, args) {
    const answer = await fetch(`${this.url}/api/v1/${path}`, { method: 'POST', body: new URLSearchParams(args) });
    const body = await answer.json();
    if (body.status !== 'success') {
      throw new Error(body.error);
    }
    return body.data;
  }

  /** Fills in variables: a regular expression where several values are allowed. */
  fill(text, step) {
    const interval = Math.max(step + this.scrape, 4 * this.scrape);
    const known = { ...this.values, __rate_interval: `${interval}s`, __range: `${this.to - this.from}s`, __interval: `${step}s` };
    return text.replace(/\$\{(\w+)(?::\w+)?\}|\$(\w+)/g, (all, a, b) => known[a ?? b] ?? all);
  }

  /** Gives each variable the value it has when the dashboard is opened, or the given one. */
  async choose(variables, given) {
    for (const v of variables) {
      if (v.type !== 'query') {
        continue;
      }
      if (given[v.name] !== undefined) {
        this.values[v.name] = given[v.name];
        continue;
      }
      if (v.includeAll && v.allValue) {
        this.values[v.name] = v.allValue;
        continue;
      }
      const options = await this.options(v);
      const escape = (s) => s.replace(/[\\^$*+?.()|[\]{}]/g, '\\\\$&');
      this.values[v.name] = v.includeAll ? options.map(escape).join('|') : options[0];
    }
  }

  async options(v) {
    const query = this.fill(v.query.query, 60);
    const values = /^label_values\((.*),\s*(\w+)\)$/.exec(query);
    if (values) {
      return (await this.get('series', { 'match[]': values[1], start: this.from, end: this.to }))
        .map((s) => s[values[2]]).filter((x, i, all) => x !== undefined && all.indexOf(x) === i).sort();
    }
    const result = /^query_result\((.*)\)$/s.exec(query);
    if (!result) {
      throw new Error(`cannot answer ${query}`);
    }
    const regex = /^\/(.*)\/(\w*)$/.exec(v.regex);
    return (await this.get('query', { query: result[1], time: this.to })).result.map((r) => {
      const text = '{' + Object.entries(r.metric).map(([k, x]) => `${k}="${x}"`).join(',') + '}';
      let found = {};
      for (const m of text.matchAll(new RegExp(regex[1], regex[2]))) {
        found = { ...found, ...Object.fromEntries(Object.entries(m.groups).filter(([, x]) => x !== undefined)) };
      }
      return found;
    }).sort((a, b) => (v.sort ? (a.text ?? '').localeCompare(b.text ?? '') : 0)).map((o) => o.value);
  }

  /** Runs a panel's targets and answers data frames as the data source makes them. */
  async frames(panel, width) {
    const least = panel.interval ? seconds(panel.interval) : this.scrape;
    const step = steps.find((s) => s >= Math.max(least, (this.to - this.from) / width));
    const out = [];
    for (const target of panel.targets ?? []) {
      const expr = this.fill(target.expr, step);
      const many = panel.targets.length > 1;
      try {
        if (target.format === 'table') {
          out.push(tableFrame((await this.get('query', { query: expr, time: this.to })).result, target.refId, many));
        } else if (target.instant) {
          for (const r of (await this.get('query', { query: expr, time: this.to })).result) {
            out.push(seriesFrame(r.metric, [[r.value[0], r.value[1]]], target));
          }
        } else {
          const start = Math.floor(this.from / step) * step;
          for (const r of (await this.get('query_range', { query: expr, start, end: this.to, step })).result) {
            const at = new Map(r.values);
            const rows = [];
            for (let t = start; t <= this.to; t += step) {
              rows.push([t, at.get(t) ?? null]);
            }
            out.push(seriesFrame(r.metric, rows, target));
          }
        }
      } catch (e) {
        throw new Error(`${panel.title} ${target.refId}: ${e.message}\n${expr}`);
      }
    }
    return out;
  }
}

const number = (s) => (s === null ? null : s === '+Inf' ? Infinity : s === '-Inf' ? -Infinity : Number(s));

function seriesFrame(labels, rows, target) {
  const name = target.legendFormat === '__auto'
    ? JSON.stringify(labels)
    : target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, l) => labels[l] ?? '').trim();
  return toDataFrame({
    refId: target.refId,
    name,
    fields: [
      { name: 'Time', type: FieldType.time, values: rows.map((r) => r[0] * 1000), config: {} },
      { name: 'Value', type: FieldType.number, values: rows.map((r) => number(r[1])), labels, config: { displayNameFromDS: name } },
    ],
  });
}

function tableFrame(result, refId, many) {
  const labels = [...new Set(result.flatMap((r) => Object.keys(r.metric)))].sort();
  return toDataFrame({
    refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: result.map((r) => r.value[0] * 1000), config: {} },
      ...labels.map((l) => ({ name: l, type: FieldType.string, values: result.map((r) => r.metric[l] ?? ''), config: {} })),
      { name: many ? `Value #${refId}` : 'Value', type: FieldType.number, values: result.map((r) => number(r.value[1])), config: {} },
    ],
  });
}
