// The LoRA microscope: how large the update is by layer and module, the matrices of one site, the strength dial, and the proof of fusing.

import { h, add, fill } from '../lib/dom.js';
import * as api from '../lib/api.js';
import { Pane } from '../lib/pane.js';
import { choice } from '../lib/controls.js';
import { heat, namedHeat, scaleBar } from '../lib/heat.js';
import { bars } from '../lib/charts.js';
import { asTable, table } from '../lib/table.js';
import { short, percent, whole } from '../lib/format.js';
import { strengthCard, fuseCard } from './lora-strength.js';

const MEASURES = {
  relative: { text: 'size against W', value: (s) => s.relative, write: (v) => percent(v, 2) },
  norm: { text: 'size', value: (s) => s.norm, write: short },
  effective_rank: { text: 'effective rank', value: (s) => s.effective_rank, write: (v) => v.toFixed(1) },
};

/** A picture of all sites: one row a module, one column a layer. `measure(site)` is a number. */
export function siteMap({ sites, measure, write, label, pick, signal, chosen }) {
  const modules = [...new Set(sites.map((s) => s.module))];
  const layers = [...new Set(sites.map((s) => s.layer))].sort((a, b) => a - b);
  const find = (r, c) => sites.find((s) => s.module === modules[r] && s.layer === layers[c]);
  const place = chosen ? [modules.indexOf(chosen.module), layers.indexOf(chosen.layer)] : undefined;
  const picture = namedHeat({
    rowNames: modules, columnNames: layers.map(String), at: (r, c) => { const site = find(r, c); return site ? measure(site) : null; }, cell: [26, 24], scale: 'linear', label, signal, chosen: place,
    name: (r, c, v) => { const site = find(r, c); return site ? `${site.site}: ${write(v)}` : `no adapter on ${modules[r]} of layer ${layers[c]}`; },
    pick: (r, c) => { const site = find(r, c); if (site) pick(site); },
  });
  return h('figure', picture.element, picture.says, scaleBar({ scale: 'linear', max: picture.max, signal, write }), h('figcaption', 'One row a module, one column a layer; early layers are on the left. Choose a cell to look at its matrices.'));
}

function matrix(title, picture, signal, note) {
  const { rows, columns, values, of, averaged } = picture;
  const drawn = heat({
    rows, columns, at: (r, c) => values[r * columns + c], scale: 'diverging', label: `${title}, ${of.join(' × ')}`, signal,
    cell: [Math.max(2, Math.min(16, 520 / columns)), Math.max(2, Math.min(16, 340 / rows))],
    name: (r, c, v) => (averaged ? `around row ${Math.floor((r * of[0]) / rows)}, column ${Math.floor((c * of[1]) / columns)}: mean ${short(v)}` : `row ${r}, column ${c}: ${short(v)}`),
  });
  return h('figure', h('h3', `${title} · ${of.join(' × ')}`), drawn.element, drawn.says, scaleBar({ scale: 'diverging', max: drawn.max, signal }),
    h('figcaption', note, averaged ? ` Shown as ${rows} × ${columns} means of blocks.` : ''));
}

function one(place, site, signal) {
  const pane = new Pane(`Reading ${site.site}`, signal);
  const total = site.singular.reduce((sum, x) => sum + x * x, 0) || 1;
  fill(place, h('h2', site.site),
    h('p', `${site.method === 'dora' ? 'DoRA' : 'LoRA'} of rank ${site.rank}, alpha ${short(site.alpha)}, so B·A is multiplied by ${short(site.scale)}. The update has ${percent(site.relative, 2)} of the size of W, and uses ${site.effective_rank.toFixed(1)} of its ${site.rank} directions.`),
    site.lengths ? h('p', `DoRA sets the lengths of the rows of W besides: from ${percent(site.lengths.least)} to ${percent(site.lengths.greatest)} of what they were, on average ${percent(site.lengths.mean, 2)}. At half strength the layer lies half way between the frozen and the adapted one.`) : null,
    site.norm === 0 ? h('p.note', 'B is still zero: the adapter does nothing here yet. That is how training begins, so that the first step starts from the base model.') : null,
    pane.element,
    h('h3', 'Singular values'),
    bars(site.singular.map((x, i) => ({ name: String(i + 1), value: x, text: `${short(x)} · ${percent((x * x) / total, 0)}`, graft: true })), { label: 'Singular values of the update' }),
    h('p.note', 'The per cent are shares of the update’s energy. If few values carry it all, a smaller rank would have done; if all are alike, a larger one may help.'));
  pane.run((stop) => api.get('lora/site', { name: site.site }, stop), ({ a, b, ba }, body) => add(body, [
    h('div.columns', { style: { '--column': '15rem' } }, matrix('A', a, signal, 'Reads: what it looks for in the input.'), matrix('B', b, signal, 'Writes: what it adds to the output.'), matrix('B·A', ba, signal, 'Both together, scaled: what is added to W.'))]));
}

function overview(sites, signal, pick) {
  let measure = 'relative';
  const place = h('div');
  const draw = () => fill(place, siteMap({ sites, measure: MEASURES[measure].value, write: MEASURES[measure].write, label: `${MEASURES[measure].text} of the update by module and layer`, pick, signal }));
  draw();
  const largest = [...sites].sort((a, b) => b.relative - a.relative)[0];
  const parameters = sites.length;
  return [
    h('p', `${whole(parameters)} matrices have an adapter. The largest change against its weight is at ${largest.site} (${percent(largest.relative, 2)}).`),
    choice({ label: 'Colour shows', value: measure, options: Object.entries(MEASURES).map(([key, { text }]) => [key, text]), change: (v) => { measure = v; draw(); } }).element,
    place,
    asTable('all sites', () => table({
      caption: 'All sites of the adapter', rows: sites, limit: 1000, pick, sort: { at: 4, down: true },
      columns: [{ name: 'site', value: (s) => s.site }, { name: 'method', value: (s) => s.method }, { name: 'rank', number: true, value: (s) => s.rank }, { name: 'size', number: true, value: (s) => s.norm, text: (s) => short(s.norm) },
        { name: 'against W', number: true, value: (s) => s.relative, text: (s) => percent(s.relative, 2), bar: (s) => s.relative / (largest.relative || 1) }, { name: 'effective rank', number: true, value: (s) => s.effective_rank, text: (s) => s.effective_rank.toFixed(1) },
        { name: 'largest singular value', number: true, value: (s) => s.singular[0] ?? 0, text: (s) => short(s.singular[0] ?? 0) }],
    })),
  ];
}

function show(body, { signal, state }) {
  if (!state.adapter) {
    add(body, [h('section.card', h('h2', 'No adapter is open'), h('p', 'This view looks at an adapter: a PEFT folder that graftling or Python has trained.'), h('p', h('a', { href: '#/theatre' }, 'Train one in the theatre'), ', or start the studio with one:'), h('pre', h('code', `graftling studio --model ${state.model.path} --adapter DIR`)))]);
    return;
  }
  const pane = new Pane('Measuring the adapter', signal);
  const site = h('section.card');
  add(body, [h('section.card', h('h2', 'The whole adapter'), pane.element), site, strengthCard(state, signal), fuseCard(state, signal)]);
  pane.run((stop) => api.get('lora', {}, stop), ({ sites, left_out: leftOut }, place) => {
    if (leftOut) add(place, [h('p.note', `${whole(leftOut)} matrices of experts have an A and a B too. They are left out here; their gradients are in the backward view.`)]);
    if (!sites.length) {
      if (!leftOut) add(place, [h('p', 'No matrix has an A and a B in this adapter: what it trains stands in the place of the model’s own.')]);
      site.hidden = true;
      return;
    }
    const pick = (chosen) => { one(site, chosen, signal); site.scrollIntoView({ block: 'nearest', behavior: 'smooth' }); };
    add(place, overview(sites, signal, pick));
    one(site, [...sites].sort((a, b) => b.relative - a.relative)[0], signal);
  });
}

export default {
  id: 'lora', key: 'l', title: 'LoRA microscope', op: 'matmul', source: 'src/studio/api/lora.rs',
  lead: 'What training has changed, matrix by matrix.',
  what: [
    'LoRA leaves every weight W as it is and adds a product of two thin matrices, B·A: A picks a few directions of the input, B says what to add for each.',
    'The map shows how large that update is against W in every layer and module; below it are the matrices of one place, with their singular values, which say how many directions are really used.',
    'Turn the strength from 0 (the base model) over 1 (as trained) to 2 and read how the answer changes; “fuse” adds B·A into W and shows that nothing but rounding differs.',
  ],
  show,
};
