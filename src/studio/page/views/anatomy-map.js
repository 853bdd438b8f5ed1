// The picture of the anatomy: see lib/treemap.js for where the rectangles go.

import { h, s, add, fill, onWidth } from '../lib/dom.js';
import { layout } from '../lib/treemap.js';
import { roving } from '../lib/keyboard.js';
import { whole, percent, count, bytes } from '../lib/format.js';

const NAMES = { mlp: 'MLP', attention: 'attention', embedding: 'embedding', norm: 'norm', head: 'output' };

export function mapLegend() {
  return h('ul.legend', [['part-embedding', 'embedding and output'], ['part-attention', 'attention'], ['part-mlp', 'MLP'], ['is-adapted', 'has an adapter: trained'], ['is-asleep', 'below the lowest adapter: no backward pass, nothing kept']]
    .map(([kind, text]) => h('li', swatch(kind), text)));
}

function swatch(kind) {
  return s('svg', { width: 18, height: 13, 'aria-hidden': 'true' }, s('g', { class: `cell ${kind}` }, s('rect', { width: 18, height: 13, rx: 2 })), kind === 'is-asleep' && s('path.hatching', { d: 'M0 13L13 0M5 13L18 0M-5 8L3 0M11 13L18 6' }));
}

/** The map. `toggle({module, layer})` is called with a module name, or with a layer. */
export function map({ modules, signal, toggle }) {
  const place = h('div.map');
  const readout = h('p.readout', { 'aria-live': 'polite' }, 'Point at a rectangle, or move with the arrow keys, to read its name and size.');
  const beside = h('div.map-graft');
  const total = modules.reduce((sum, m) => sum + m.parameters, 0);
  const resets = [roving(place, '.cell'), roving(place, '.layer-name')];
  let choice = null;
  let trained = 0;
  let size = [0, 0];

  const tell = (cell) => {
    if (cell.kind === 'layer') readout.textContent = `layer ${cell.layer}: ${whole(cell.parameters)} parameters, ${percent(cell.parameters / total, 2)} of the model`;
    else {
      const m = cell.entry;
      readout.textContent = `${m.site}: ${m.shape.join(' × ')} = ${whole(m.parameters)} parameters, ${percent(m.parameters / total, 2)} of the model${m.format ? `, stored as ${m.format}` : ''}${m.bytes ? ` in ${bytes(m.bytes)}` : ''}${state(m) ? `; ${state(m)}` : ''}`;
    }
  };
  const state = (m) => (!choice ? '' : choice.adapted(m) ? 'an adapter is trained here' : choice.asleep(m) ? 'no backward pass here' : m.layer === null || m.layer === undefined ? '' : 'frozen, but gradients pass through');

  const draw = (width) => {
    const height = Math.round(Math.max(380, Math.min(560, width * 0.62)));
    size = [width, height];
    const cells = layout(modules, width, height);
    const svg = s('svg', { width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `Map of the model: ${modules.length} modules, ${whole(total)} parameters. Arrow keys move among the modules, Tab goes on to the layers, Enter puts an adapter there or takes it off.` },
      s('defs', s('pattern', { id: 'hatch', width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: 'rotate(45)' }, s('line.hatching', { x1: 0, y1: 0, x2: 0, y2: 6 }))));
    const group = (label, kind, draw) => s('g', { role: 'group', 'aria-label': label }, cells.filter((cell) => cell.kind === kind).map(draw));
    fill(place, add(svg, [group('Modules', 'cell', rectangle), group('Layers', 'layer', frame)]));
    resets.forEach((reset) => reset());
    paint(choice);
    graft(trained);
  };

  const press = (call) => (event) => {
    if (event.type === 'keydown' && event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    event.stopPropagation();
    call();
  };

  function rectangle(cell) {
    const { entry: m, x, y, width, height } = cell;
    const can = m.part === 'attention' || m.part === 'mlp';
    const act = press(() => { toggle({ module: m.module }); tell(cell); });
    const wide = width > m.module.replace('_proj', '').length * 6.4 + 8 && height > 15;
    const group = s('g', {
      class: `cell part-${m.part}`, role: can ? 'button' : 'img', 'aria-label': `${m.site}, ${count(m.parameters)} parameters`, tabindex: -1, 'data-site': m.site,
      onclick: can ? act : null, onkeydown: can ? act : null, onpointerenter: () => tell(cell), onfocus: () => tell(cell),
    }, s('rect', { x: x + 0.5, y: y + 0.5, width: Math.max(0.1, width - 1), height: Math.max(0.1, height - 1), rx: Math.min(2, height / 4) }),
    s('rect.asleep', { x, y, width, height, fill: 'url(#hatch)' }),
    wide && s('text', { x: x + width / 2, y: y + height / 2 + (height > 40 || m.part !== 'mlp' ? 4 : 4), 'text-anchor': 'middle' }, m.layer === null || m.layer === undefined ? `${m.module} · ${count(m.parameters)}` : m.module.replace('_proj', '')));
    group.entry = m;
    return group;
  }

  function frame({ layer, x, y, width, height, parameters }) {
    const act = press(() => { toggle({ layer }); tell({ kind: 'layer', layer, parameters }); });
    const label = String(layer);
    return s('g.layer-frame', s('rect.outline', { x, y, width, height }),
      s('g', { class: 'layer-name', role: 'button', tabindex: -1, 'aria-label': `layer ${layer}`, 'data-layer': layer, onclick: act, onkeydown: act, onpointerenter: () => tell({ kind: 'layer', layer, parameters }), onfocus: () => tell({ kind: 'layer', layer, parameters }) },
        s('rect', { x: x + 2, y: y + 2, width: label.length * 7 + 8, height: 15, rx: 7 }), s('text', { x: x + 6 + label.length * 3.5, y: y + 13, 'text-anchor': 'middle' }, label)));
  }

  function paint(next) {
    choice = next;
    if (!choice) return;
    for (const group of place.querySelectorAll('.cell')) {
      const m = group.entry;
      group.classList.toggle('is-adapted', choice.adapted(m));
      group.classList.toggle('is-asleep', choice.asleep(m));
      if (group.getAttribute('role') === 'button') group.setAttribute('aria-pressed', String(choice.adapted(m)));
    }
    for (const name of place.querySelectorAll('.layer-name')) name.classList.toggle('is-on', choice.layers.has(Number(name.dataset.layer)));
  }

  function graft(parameters) {
    trained = parameters;
    if (!size[0] || !parameters) { fill(beside); return; }
    const side = Math.sqrt((parameters / total) * size[0] * size[1]);
    const w = Math.min(size[0], side), hgt = side * side / w;
    fill(beside, s('svg', { width: w, height: hgt, role: 'img', 'aria-label': `the adapter at the same scale: ${whole(parameters)} parameters` }, s('rect.graft', { width: w, height: hgt, rx: 2 })),
      h('p', h('b', `${whole(parameters)} trained`), ` parameters at the same scale: ${percent(parameters / total, 2)} of the model. Everything else stays as it is.`));
  }

  onWidth(place, signal, draw);
  return { element: h('figure', place, readout, beside), paint, graft };
}
