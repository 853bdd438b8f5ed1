// MLP: gate and up before they meet, the activation's curve with this text's numbers under it, and the neurons that a token moves most.

import { h, add, fill, debounce, s, onWidth } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, set } from '../lib/store.js';
import { layerSlider } from '../lib/controls.js';
import { experts, layerOf, look, mlpShare, strength, strengthSlider } from '../lib/look.js';
import { tokenRow } from '../lib/tokens.js';
import { asTable, table } from '../lib/table.js';
import { ticks } from '../lib/charts.js';
import { short, whole, percent, visible } from '../lib/format.js';

/** Activations as the page writes them. */
export const ACTIVATIONS = { silu: 'SiLU: x · sigmoid(x)', gelu_tanh: 'GELU (tanh form)' };

/** A histogram, with a curve over it if there is one. */
export function histogram({ label, data, curve, signal, height = 200 }) {
  const { from, to, counts } = data.histogram;
  const place = h('div.plot', { role: 'img', 'aria-label': `${label}: ${counts.reduce((a, b) => a + b, 0)} numbers from ${short(from)} to ${short(to)}, most near ${short(centre(data, counts.indexOf(Math.max(...counts))))}` });
  onWidth(place, signal, (width) => {
    const left = curve ? 34 : 6, right = 6, top = 8, bottom = 22;
    const x = (v) => left + ((v - from) / (to - from || 1)) * (width - left - right);
    const most = Math.max(...counts);
    // The root of the counts, so that tails are seen.
    const y = (n) => (height - bottom) - Math.sqrt(n / most) * (height - top - bottom);
    const step = (width - left - right) / counts.length;
    const ys = curve ? curve.map(([, v]) => v) : [0, 1];
    const low = Math.min(...ys, 0), high = Math.max(...ys, 1e-9);
    const yc = (v) => (height - bottom) - ((v - low) / (high - low)) * (height - top - bottom);
    fill(place, s('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' },
      s('g.histogram', counts.map((n, i) => n > 0 && s('rect', { x: left + i * step, width: Math.max(1, step - 1), y: y(n), height: height - bottom - y(n) }))),
      s('g.axis', s('line', { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }), ticks(from, to, width / 80).map((t) => s('text', { x: x(t), y: height - 6, 'text-anchor': 'middle' }, short(t).replace(/\.0+$/, '')))),
      from < 0 && to > 0 ? s('line.zero', { x1: x(0), x2: x(0), y1: top, y2: height - bottom }) : null,
      curve && [s('path.curve', { d: curve.map(([a, b], i) => `${i ? 'L' : 'M'}${x(a).toFixed(1)} ${yc(b).toFixed(1)}`).join('') }),
        ticks(low, high, 4).map((t) => s('text', { x: left - 5, y: yc(t) + 4, 'text-anchor': 'end' }, short(t).replace(/\.0+$/, '')))]));
  });
  return h('figure', place, h('figcaption', label), asTable(label, () => table({ caption: label, rows: counts.map((n, i) => ({ n, x: centre(data, i) })), columns: [{ name: 'around', number: true, value: (r) => r.x, text: (r) => short(r.x) }, { name: 'count', number: true, value: (r) => r.n, text: (r) => whole(r.n) }] })));
}

const centre = ({ histogram: { from, to, counts } }, i) => from + ((i + 0.5) / counts.length) * (to - from);

function draw(answer, tokens, place, signal) {
  const asleep = answer.gate.histogram.counts.reduce((sum, n, i) => sum + (centre(answer.gate, i) < 0 ? n : 0), 0) / answer.gate.histogram.counts.reduce((a, b) => a + b, 1e-9);
  const strongest = h('div.stack');
  const choose = (at) => {
    set({ token: at });
    const { neurons } = answer.tokens[at];
    const most = Math.max(...neurons.map((n) => Math.abs(n.value)), 1e-30);
    fill(strongest, table({
      caption: `Token ${at} “${visible(tokens[at].text)}”: the ${neurons.length} neurons of the largest output, of ${whole(answer.width)}`, rows: neurons,
      columns: [{ name: 'neuron', number: true, value: (n) => n.neuron }, { name: 'gate', number: true, value: (n) => n.gate, text: (n) => short(n.gate) },
        { name: 'after activation', number: true, value: (n) => n.value / (n.up || 1), text: (n) => short(n.up ? n.value / n.up : 0) }, { name: 'up', number: true, value: (n) => n.up, text: (n) => short(n.up) },
        { name: 'product', number: true, value: (n) => Math.abs(n.value), text: (n) => short(n.value), bar: (n) => Math.abs(n.value) / most }],
    }));
  };
  const at = Math.min(get('token'), tokens.length - 1);
  add(place, [
    h('div.columns', { style: { '--column': '18rem' } },
      histogram({ label: `gate, before ${ACTIVATIONS[answer.activation] ?? answer.activation} (the line; its scale on the left)`, data: answer.gate, curve: answer.curve, signal }),
      histogram({ label: 'up, which the activated gate multiplies', data: answer.up, signal })),
    h('p', `${percent(asleep, 0)} of all gates are below zero on this text: those neurons say almost nothing, and that is the point. Heights are square roots of counts, so that the rare large ones can be seen.`),
    h('h3', 'Strongest neurons of a token'),
    tokenRow({ tokens, label: 'Choose a token', chosen: at, pick: choose }), strongest]);
  choose(at);
}

function show(body, { signal, state }) {
  const { model } = state;
  const view = look({
    label: 'Reading the MLP', keys: ['layer', 'strength'], signal,
    ask: async ({ ids, stop }) => experts(model, layerOf(model)) ?? post('mlp', { ids, layer: layerOf(model), adapter: strength(state) }, stop),
    draw: (answer, tokens, place) => (answer instanceof Node ? add(place, [answer]) : draw(answer, tokens, place, signal)),
  });
  const wide = model.experts?.layers.length === model.layers ? model.experts.intermediate : model.intermediate;
  add(body, [view.bar, h('div.side', h('section.card', h('h2', 'Gate and up'), view.pane.element),
    h('div.stack', h('section.card', h('h2', 'Where to look'), layerSlider(model.layers, layerOf(model), debounce(120, (l) => set({ layer: l }))).element, strengthSlider(state, signal)),
      h('section.card', h('h2', 'What fine-tuning touches'), h('p', `gate_proj and up_proj make ${whole(wide)} numbers of the ${whole(model.hidden)} of a token${model.experts ? ' (in experts, each of them)' : ''}, down_proj writes the result back. ${percent(mlpShare(model), 0)} of the model’s parameters are here, and new facts are stored best where the MLP can change.`))))]);
  view.run();
}

export default {
  id: 'mlp', key: 'm', title: 'MLP', op: 'glu', source: 'src/studio/api/mlp.rs',
  lead: 'Where each token is worked on alone: wide, gated, and mostly silent.',
  what: [
    'In each layer every token passes a wide middle: two matrices, gate and up, make thousands of numbers of it, the activation of the gate decides which of them pass, and down adds the result to the token.',
    'The bars show how the numbers of your sentence are spread, and the line what the activation makes of each.',
    'A neuron is one place of that middle; the table names those that say most about the chosen token.',
  ],
  show,
};
