// Residual stream and logit lens: what the model would say after every layer, base against adapted, and where the answer appears.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, set } from '../lib/store.js';
import { choice } from '../lib/controls.js';
import { shade } from '../lib/heat.js';
import { onTheme } from '../lib/colour.js';
import { asking } from '../lib/subject.js';
import { look, strength, strengthSlider } from '../lib/look.js';
import { bars, lineChart } from '../lib/charts.js';
import { tokenRow } from '../lib/tokens.js';
import { roving } from '../lib/keyboard.js';
import { percent, visible } from '../lib/format.js';

const K = 8;
const WINDOW = 4;
const layerName = (layer, last) => (layer === 0 ? 'embedding' : layer === last ? `${layer} · output` : String(layer));

/** The layer from which on the last layer's first token stays first, at place `at`. */
export function settled(layers, at) {
  const top = (layer) => layer.tokens[at].top[0];
  const last = top(layers[layers.length - 1]);
  if (!last) return null;
  let from = layers.length - 1;
  while (from > 0 && top(layers[from - 1])?.id === last.id) from--;
  return { layer: layers[from].layer, text: last.text, id: last.id, p: last.p };
}

const pOf = (layer, at, id) => layer.tokens[at].top.find((t) => t.id === id)?.p ?? NaN;

function grid(layers, other, shown, tokens, at, pick) {
  const last = layers[layers.length - 1].layer;
  const body = layers.map((layer, l) => h('tr', h('th', { scope: 'row' }, layerName(layer.layer, last)), shown.map((place) => {
    const top = layer.tokens[place].top[0];
    if (!top) return h('td', '–');
    const changed = other && other[l].tokens[place].top[0]?.id !== top.id;
    const cell = h('button.lens-cell', {
      type: 'button', 'data-layer': l, 'data-place': place, 'aria-label': `after ${layerName(layer.layer, last)}, token ${place}: ${visible(top.text)} ${percent(top.p)}${changed ? ', not as the other model' : ''}`,
      title: `${visible(top.text)} ${percent(top.p)}`, onclick: () => pick(l, place),
    }, visible(top.text));
    cell.shown = top.p;
    cell.classList.toggle('changed', Boolean(changed));
    return h('td', cell);
  })));
  const table = h('table.lens', h('thead', h('tr', h('th', { scope: 'col' }, 'after layer'), shown.map((place) => h('th', { scope: 'col', class: place === at ? 'at' : null }, h('span.lens-head', visible(tokens[place].text)))))), h('tbody', body));
  const paint = () => {
    for (const cell of table.querySelectorAll('.lens-cell')) {
      const { background, ink } = shade(cell.shown);
      cell.style.setProperty('background-color', background);
      cell.style.setProperty('color', ink);
    }
  };
  paint();
  roving(table, '.lens-cell');
  return { element: h('div.table-scroll.lens-scroll', { role: 'region', 'aria-label': 'Logit lens: the first token after every layer' }, table), paint };
}

function detail(place, answer, tokens, l, at, signal) {
  // A text with tokens that the adapter adds has no lens of the base model.
  const base = answer.layers?.[l], adapted = answer.adapted?.[l];
  const of = answer.layers ?? answer.adapted;
  const last = of[of.length - 1].layer;
  const column = (name, layer, graft) => h('div.stack', h('h3', name), bars(layer.tokens[at].top.map((t) => ({ name: visible(t.text), value: t.p, text: percent(t.p), graft })), { of: 1, label: name }));
  fill(place,
    h('p', `After ${layerName(of[l].layer, last)}, at token ${at} “${visible(tokens[at].text)}”, the model would go on with:`),
    h('div.columns', { style: { '--column': '14rem' } }, base ? column('base', base) : null, adapted ? column('adapted', adapted, true) : null));
}

function draw(answer, tokens, place, signal) {
  const { layers, adapted } = answer;
  const { shown } = answer;
  const asked = asking(tokens).length - 1;
  const depth = (layers ?? adapted).length - 1;
  let at = get('token') && shown.includes(get('token')) ? get('token') : shown.includes(asked) ? asked : shown[shown.length - 1];
  let which = adapted ? 'adapted' : 'base';
  const box = h('div.stack'), about = h('div.stack'), story = h('div.stack');
  let paint = () => {};
  onTheme(signal, () => paint());
  const pick = (l, to) => { at = to; set({ token: to }); detail(about, answer, tokens, l, to, signal); tell(); };
  const drawGrid = () => {
    const [own, other] = which === 'adapted' ? [adapted, layers] : [layers, adapted];
    const made = grid(own, other, shown, tokens, at, pick);
    paint = made.paint;
    fill(box, made.element);
  };
  const tell = () => {
    const sayings = [['base', layers], ['adapted', adapted]].filter(([, list]) => list).map(([name, list]) => [name, settled(list, at), list]);
    const wanted = sayings[sayings.length - 1][1];
    fill(story,
      sayings.map(([name, found]) => h('p', h('b', name), `: at token ${at} the answer “${visible(found.text)}” (${percent(found.p)}) is first from ${found.layer === 0 ? 'the embedding' : `layer ${found.layer}`} on.`)),
      lineChart({
        label: `Probability of “${visible(wanted.text)}” after each layer`, signal, height: 190, write: (p) => percent(p),
        series: sayings.map(([name, , list]) => ({ name, points: list.map((layer) => [layer.layer, pOf(layer, at, wanted.id)]).filter(([, p]) => Number.isFinite(p)) })),
        x: { label: 'layer', from: 0, to: depth }, y: { label: 'probability', from: 0, to: 1 }, caption: `Layers where it is not among the first ${K} have no point.`,
      }),
      lineChart({
        label: `Length of the hidden state of token ${at}`, signal, height: 160,
        series: sayings.map(([name, , list]) => ({ name, points: list.map((layer) => [layer.layer, layer.tokens[at].norm]) })),
        x: { label: 'layer' }, y: { label: 'length (log scale)', log: true }, caption: 'Each layer adds to the stream, and none replaces it: mostly it grows, and it shrinks where a layer takes back what others have written.',
      }));
  };
  add(place, [
    adapted && layers ? choice({ label: 'Show', value: which, options: [['adapted', 'adapted model'], ['base', 'base model']], change: (v) => { which = v; drawGrid(); } }).element : null,
    box, h('p.note', `Each column is a place in the text, each cell what the model would say next there, if it stopped after that layer; the stronger the colour, the surer.${adapted && layers ? ' Cells with an orange edge differ between base and adapted.' : ''}`),
    about, story]);
  drawGrid();
  pick(depth, at);
  return at;
}

/** The places that are looked at: around `centre`, or where the answer begins. */
function places(tokens, centre) {
  const n = tokens.length;
  const from = Math.max(0, Math.min(n - WINDOW, centre === null ? asking(tokens).length - 2 : centre - WINDOW / 2));
  return Array.from({ length: Math.min(WINDOW, n) }, (_, i) => from + i);
}

function show(body, { signal, state }) {
  let centre = null;
  const row = h('div.stack');
  const view = look({
    label: 'Looking through the lens', keys: ['strength'], signal,
    ask: ({ ids, tokens, stop }) => post('lens', { ids, adapter: strength(state), k: K, tokens: places(tokens, centre) }, stop),
    draw: (answer, tokens, place) => {
      const at = draw(answer, tokens, place, signal);
      fill(row, h('p.note', 'The whole text. Choose a token to look around it:'), tokenRow({ tokens, label: 'Where to look', chosen: at, pick: (i) => { centre = i; set({ token: i }); view.run(); } }));
    },
  });
  add(body, [view.bar, h('section.card', h('h2', 'The logit lens'), strengthSlider(state, signal), row, view.pane.element)]);
  view.run();
}

export default {
  id: 'residual', key: 'r', title: 'Residual stream', op: 'rms_norm', source: 'src/studio/api/lens.rs',
  lead: 'What the model would say after every layer, and where the answer appears.',
  what: [
    'A token is a list of numbers that passes all layers, and each layer only adds to it: that list is the residual stream.',
    'The logit lens takes the stream after some layer and sends it through the last norm and the output matrix at once, as if the model were over there; early layers have only guesses, and somewhere the answer settles.',
    'With an adapter open, base and adapted stand side by side, so that you see in which layers fine-tuning changed the answer.',
  ],
  show,
};
