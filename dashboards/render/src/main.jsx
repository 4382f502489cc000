// Draws one dashboard with Grafana's own panel components, for a picture.
import { createRoot } from 'react-dom/client';
import { lastValueFrom } from 'rxjs';
import {
  applyFieldOverrides, createTheme, dateTime, EventBusSrv, FieldConfigOptionsRegistry, getFieldDisplayValues, identityOverrideProcessor,
  LoadingState, ReducerID, standardTransformers, standardTransformersRegistry, ThemeContext, transformDataFrame,
} from '@grafana/data';
import {
  BarGauge, BigValue, GlobalStyles, PanelChrome, PanelContextProvider, PortalContainer, Table, TimeSeries, VizLegend,
} from '@grafana/ui';
import { Prometheus } from './query.js';

const [rowHeight, gap] = [30, 8];
// What is drawn at present: begin() sets them.
let ask, theme, cell, from, to, timeRange, report, root;
const eventBus = new EventBusSrv();

standardTransformersRegistry.setInit(() => [...new Map(Object.values(standardTransformers).filter((t) => t?.id).map((t) => [t.id, t])).values()]
  .map((t) => ({ id: t.id, name: t.name, transformation: t, editor: () => null })));

// The options of fields that these dashboards set; Grafana has more.
const options = ['unit', 'min', 'max', 'decimals', 'displayName', 'noValue', 'color', 'mappings', 'thresholds', 'links'];
const custom = [
  'width', 'hidden', 'cellOptions', 'filterable', 'align', 'inspect', 'drawStyle', 'lineInterpolation', 'lineWidth', 'fillOpacity', 'gradientMode', 'showPoints',
  'pointSize', 'spanNulls', 'axisPlacement', 'axisLabel', 'axisSoftMin', 'axisSoftMax', 'axisBorderShow', 'axisColorMode', 'axisCenteredZero', 'scaleDistribution', 'stacking', 'hideFrom',
  'thresholdsStyle', 'barAlignment', 'insertNulls',
];
const registry = new FieldConfigOptionsRegistry(() => [...options.map((id) => [id, false]), ...custom.map((id) => [id, true])].map(([path, isCustom]) => ({
  id: isCustom ? `custom.${path}` : path, path, isCustom, name: path, settings: {}, getItemsCount: () => 1,
  process: identityOverrideProcessor, shouldApply: () => true, override: () => null, editor: () => null,
})));

const replace = (text) => text;

async function prepare(prometheus, panel, width) {
  let frames = await prometheus.frames(panel, width);
  if (panel.transformations?.length) {
    frames = await lastValueFrom(transformDataFrame(panel.transformations, frames, { interpolate: replace }));
  }
  return applyFieldOverrides({ data: frames, fieldConfig: panel.fieldConfig, replaceVariables: replace, theme, timeZone: 'utc', fieldConfigRegistry: registry });
}

function begin(search) {
  ask = new URLSearchParams(search);
  theme = createTheme({ colors: { mode: ask.get('theme') ?? 'dark' } });
  cell = Number(ask.get('width') ?? 1600) / 24;
  to = Number(ask.get('to')) || Math.floor(Date.now() / 1000);
  from = to - Number(ask.get('seconds') ?? 21600);
  timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-6h', to: 'now' } };
  // What was drawn, for the tests.
  report = window.report = { tiles: [], empty: [], cut: [], green: theme.visualization.getColorByName('green') };
  root?.unmount();
  root = createRoot(document.getElementById('root'));
}

function Empty({ panel }) {
  report.empty.push({ title: panel.title, text: panel.fieldConfig?.defaults?.noValue ?? 'No data' });
  return <div style={{ display: 'flex', height: '100%', alignItems: 'center', justifyContent: 'center', color: theme.colors.text.secondary }}>
    {panel.fieldConfig?.defaults?.noValue ?? 'No data'}
  </div>;
}

function display(frames, panel) {
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: { calcs: [ReducerID.lastNotNull], values: false }, replaceVariables: replace, theme, data: frames, timeZone: 'utc', sparkline: false,
  });
}

const kinds = {
  stat({ panel, frames, width, height }) {
    const values = display(frames, panel); // of no frames too: Grafana decides on text and color
    report.tiles.push(...values.map((v) => ({ title: panel.title, text: v.display.text, name: v.display.title ?? '', color: v.display.color })));
    return values.map((v, i) => <BigValue key={i} value={v.display} theme={theme} width={width / values.length} height={height} colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode} textMode={panel.options.textMode} />);
  },
  bargauge({ panel, frames, width, height }) {
    const values = display(frames, panel);
    if (!frames.length) {
      report.tiles.push({ title: panel.title, text: values[0].display.text, name: '', color: values[0].display.color });
      return <Empty panel={panel} />;
    }
    const each = Math.min(26, Math.floor(height / values.length));
    const names = Math.min(width / 2.2, 8 * Math.max(...values.map((v) => v.display.title.length)) + 10);
    return values.map((v, i) => <div key={i} style={{ height: each }}>
      <BarGauge value={v.display} width={width} height={each - 6} orientation="horizontal" displayMode={panel.options.displayMode} field={v.field} theme={theme}
        valueDisplayMode={panel.options.valueMode} namePlacement="left" display={v.view?.getFieldDisplayProcessor(v.colIndex)} itemSpacing={4} lcdCellWidth={12}
        text={{ titleSize: 12, valueSize: 12 }} alignmentFactors={{ title: 'm'.repeat(Math.ceil(names / 9)), text: '000.0 min', numeric: 0, suffix: '', prefix: '' }} />
    </div>);
  },
  timeseries({ panel, frames, width, height }) {
    if (!frames.length) {
      return <Empty panel={panel} />;
    }
    const legend = { showLegend: true, calcs: [], ...panel.options.legend };
    return <PanelContextProvider value={{ eventBus, eventsScope: '', sync: () => 0 }}>
      <TimeSeries frames={frames} timeRange={timeRange} timeZone="utc" width={width} height={height} legend={legend} options={panel.options} replaceVariables={replace} structureRev={1}
        annotationLanes={0}>{() => null}</TimeSeries>
    </PanelContextProvider>;
  },
  table({ panel, frames, width, height }) {
    if (!frames.length || !frames[0].length) {
      return <Empty panel={panel} />;
    }
    return <Table data={frames[0]} width={width} height={height} cellHeight={panel.options.cellHeight} enableSharedCrosshair={false}
      initialSortBy={(panel.options.sortBy ?? []).map((s) => ({ displayName: s.displayName, desc: s.desc }))} timeRange={timeRange} />;
  },
};

function Panel({ panel, frames, values }) {
  const { x, y, w, h } = panel.gridPos;
  const box = { position: 'absolute', left: x * cell, top: y * (rowHeight + gap), width: w * cell - gap, height: h * (rowHeight + gap) - gap };
  if (panel.type === 'row') {
    return <div style={{ ...box, color: theme.colors.text.primary, fontSize: 16, fontWeight: 500, paddingTop: 4 }}>{'⌄ '}{panel.title}</div>;
  }
  const Kind = kinds[panel.type];
  return <div style={box}>
    <PanelChrome title={panel.title} description={panel.description} width={box.width} height={box.height} loadingState={LoadingState.Done}>
      {(width, height) => <div style={{ width, height, overflow: 'hidden' }}><Kind panel={panel} frames={frames} width={width} height={height} values={values} /></div>}
    </PanelChrome>
  </div>;
}

async function draw() {
  const dashboard = await (await fetch(`/dashboards/${ask.get('dashboard')}`)).json();
  const prometheus = new Prometheus(ask.get('prometheus'), Number(ask.get('scrape') ?? 15), from, to);
  await prometheus.choose(dashboard.templating.list, JSON.parse(ask.get('values') ?? '{}'));
  const panels = [];
  for (const panel of dashboard.panels) {
    panels.push({ panel, frames: panel.type === 'row' ? [] : await prepare(prometheus, panel, panel.gridPos.w * cell) });
  }
  const last = Number(ask.get('rows')) || Infinity;
  const shown = panels.filter(({ panel }) => panel.gridPos.y + panel.gridPos.h <= last);
  const bottom = Math.max(...shown.map(({ panel }) => panel.gridPos.y + panel.gridPos.h)) * (rowHeight + gap);
  const names = dashboard.templating.list.filter((v) => v.type === 'query' && v.hide !== 2);
  document.body.style.background = theme.colors.background.canvas;
  root.render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      <div id="picture" style={{ width: 24 * cell + gap, padding: gap, background: theme.colors.background.canvas, fontFamily: theme.typography.fontFamily, color: theme.colors.text.primary }}>
        <div style={{ fontSize: 18, padding: '4px 0' }}>{dashboard.title}</div>
        <div style={{ display: 'flex', gap: 12, padding: '4px 0 8px', fontSize: 12 }}>
          {names.map((v) => <span key={v.name}><span style={{ color: theme.colors.text.secondary }}>{v.label} </span>
            <b>{v.includeAll && prometheus.values[v.name] === v.allValue ? 'All' : prometheus.values[v.name]}</b></span>)}
        </div>
        <div style={{ position: 'relative', height: bottom }}>
          {shown.map(({ panel, frames }) => <Panel key={panel.id} panel={panel} frames={frames} values={prometheus.values} />)}
        </div>
      </div>
    </ThemeContext.Provider>,
  );
}

/** Draws a board, and answers what went wrong. */
window.draw = async (search) => {
  try {
    begin(search);
    await draw();
  } catch (e) {
    return String(e.stack ?? e);
  }
  return '';
};
