// Attention: what each head of a layer reads, grouped by the key/value head that it shares, and the dial of the rotation.

import { h, add, fill, debounce } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, set } from '../lib/store.js';
import { layerSlider, slider, select } from '../lib/controls.js';
import { heat, namedHeat, scaleBar, shade } from '../lib/heat.js';
import { layerOf, look, strength, strengthSlider } from '../lib/look.js';
import { tokenRow } from '../lib/tokens.js';
import { asTable, table } from '../lib/table.js';
import { roving } from '../lib/keyboard.js';
import { percent, visible, short } from '../lib/format.js';

/** What a head does on this text, as shares of its weight, over all tokens but the first. */
export function habits({ rows }) {
  const sum = { first: 0, self: 0, previous: 0, distance: 0, sink: 0 };
  const n = Math.max(1, rows.length - 1);
  rows.forEach((row, i) => {
    if (i === 0) return;
    sum.first += row[0];
    sum.sink += 1 - row.reduce((all, p) => all + p, 0);
    sum.self += row[i];
    if (i > 1) sum.previous += row[i - 1];
    row.forEach((p, j) => (sum.distance += p * (i - j)));
  });
  return Object.fromEntries(Object.entries(sum).map(([key, value]) => [key, value / n]));
}

/** What bounds a head of this layer, in words. */
export function limits(answer, { sink }) {
  return [
    answer.window && ` A token sees ${answer.window} tokens at the most, itself included.`,
    sink > 1e-3 && ` ${percent(sink, 0)} goes to the head’s sink, a learned number from which nothing is read.`,
    answer.softcap && ` Scores are bent so that none is beyond ±${short(answer.softcap)}.`,
    answer.normed && ' Queries and keys are normed before they meet.',
    answer.rotated === false && ' This layer does not rotate: it knows no positions.',
  ].filter(Boolean).join('');
}

function show(body, { signal, state }) {
  const { model } = state;
  let head = 0;
  let dial = {};
  let known = null;
  let own = null; // the pattern with the model's own rotation, to compare a dialled one with
  const chosen = h('div.stack', h('p.note', 'The chosen head stands here.'));
  const dialled = () => Object.keys(dial).length > 0;
  const view = look({
    label: 'Reading attention', keys: ['layer', 'strength'], signal,
    ask: async ({ ids, stop }) => {
      const body_ = { ids, layer: layerOf(model), adapter: strength(state) };
      const answer = await post('attention', { ...body_, rope: dial }, stop);
      const key = JSON.stringify(body_);
      if (!dialled()) known = { key, answer };
      else if (known?.key !== key) known = { key, answer: await post('attention', body_, stop) };
      own = dialled() ? known.answer : null;
      return answer;
    },
    draw: (answer, tokens, place) => {
      head = Math.min(head, answer.heads.length - 1);
      const one = () => drawHead(chosen, answer.heads[head], tokens, answer, signal, own?.heads[head]);
      add(place, [heads(answer, tokens, signal, head, (to) => { head = to; one(); }), scaleBar({ scale: 'sequential', max: 1, signal, words: `share of what a token reads (weights of a row add up to 1${answer.heads.some((each) => habits(each).sink > 1e-3) ? ' with the sink' : ''})` }),
        dialled() && own ? h('p.note.told', difference(answer, own, dial)) : null]);
      one();
    },
  });
  const layer = layerSlider(model.layers, layerOf(model), debounce(120, (l) => set({ layer: l })));
  const heading = h('div.columns', { style: { '--column': '16rem' } }, layer.element, strengthSlider(state, signal));
  add(body, [view.bar, h('section.card', h('h2', 'Heads'), heading, view.pane.element), h('section.card', chosen),
    h('div.columns', h('section.card', h('h2', 'The dial of RoPE'), dialForm((changes) => { dial = changes; view.run(); })),
      h('section.card', h('h2', 'What fine-tuning touches'), h('p', 'q_proj and k_proj decide where a head looks, v_proj what it takes from there, o_proj what it writes back. ',
        `${model.heads} query heads share ${model.kv_heads === 1 ? 'one key/value head' : `${model.kv_heads} key/value heads`} here, so k_proj and v_proj are ${model.heads / model.kv_heads > 1 ? `${model.heads / model.kv_heads} times smaller than q_proj` : 'as large as q_proj'}.`)))]);
  view.run();
}

function heads({ heads: list }, tokens, signal, present, pick) {
  const groups = new Map();
  for (const head of list) groups.set(head.kv_head, [...(groups.get(head.kv_head) ?? []), head]);
  const n = tokens.length;
  const element = h('div.heads', { role: 'radiogroup', 'aria-label': 'Heads' }, [...groups].map(([kv, members]) => h('section.kv-group', { 'aria-label': `key/value head ${kv}` },
    h('h3', `key/value head ${kv}`), h('div.kv-heads', members.map((head) => {
      const { first, previous, self } = habits(head);
      const button = h('button.head', { type: 'button', role: 'radio', 'aria-checked': String(head.head === present),
        'aria-label': `head ${head.head}: ${percent(first, 0)} on the first token, ${percent(previous, 0)} on the one before, ${percent(self, 0)} on itself`,
        onclick: () => { for (const other of element.querySelectorAll('.head')) other.setAttribute('aria-checked', String(other === button)); pick(head.head); } },
      heat({ rows: n, columns: n, at: (i, j) => (j <= i ? head.rows[i][j] : null), max: 1, cell: [7, 7], label: `head ${head.head}`, signal, quiet: true }).element,
      h('span', `head ${head.head}`));
      return button;
    })))));
  roving(element, '.head');
  return element;
}

function drawHead(place, head, tokens, answer, signal, own) {
  const n = tokens.length;
  const reads = h('div.stack');
  const name = (i) => `“${visible(tokens[i].text)}”`;
  const at = Math.min(get('token') || n - 1, n - 1);
  const choose = (i) => {
    set({ token: i });
    const row = head.rows[i];
    const best = row.map((p, j) => [p, j]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    fill(reads, h('p', `Token ${i} ${name(i)} reads ${best.map(([p, j]) => `${percent(p, 0)} from ${j === i ? 'itself' : name(j)}`).join(', ')}.`),
      tokenRow({ tokens, label: 'What the chosen token reads; choose another reader', chosen: i, pick: choose, shade: (_, j) => (j <= i ? shade(row[j]) : null), note: (_, j) => (j <= i ? `${percent(row[j])} of what token ${i} reads` : 'in the future: masked') }));
    reads.querySelectorAll('.token')[i]?.classList.add('reader');
  };
  // Names must be readable; what is then too wide is scrolled in its own box.
  const size = Math.max(11, Math.min(22, Math.floor(600 / n)));
  const big = namedHeat({
    rowNames: tokens.map((t) => visible(t.text)), columnNames: [], rows: n, columns: n, at: (i, j) => (j <= i ? head.rows[i][j] : null), max: 1, cell: [size, size],
    label: `Pattern of head ${head.head}: row reads column`, signal, chosen: [at, at],
    name: (i, j, p) => (p === null ? `${name(j)} comes after ${name(i)}: the causal mask hides it` : `${name(i)} reads ${percent(p)} from ${name(j)}${own ? ` (own rotation: ${percent(own.rows[i][j])})` : ''}`),
    pick: choose,
  });
  const habit = habits(head);
  fill(place, h('h2', `Head ${head.head}`),
    h('p', `On this text it reads ${percent(habit.first, 0)} from the first token, ${percent(habit.previous, 0)} from the one before, ${percent(habit.self, 0)} from itself; on average ${habit.distance.toFixed(1)} tokens back. ${habit.first > 0.5 ? 'Much on the first token means: nothing to do here. ' : ''}Products are multiplied by ${short(answer.scale)}.${limits(answer, habit)}`),
    h('div.pattern',
      h('figure', big.element, big.says, h('figcaption', 'One row a token that reads, one column a token that is read. The upper right is empty: no token sees the future (the causal mask).')),
      h('div.stack', h('h3', 'What a token reads'), reads)),
    asTable(`weights of head ${head.head}`, () => table({
      caption: `Weights above 1 %, head ${head.head}`, limit: 400,
      rows: head.rows.flatMap((row, i) => row.map((p, j) => ({ i, j, p })).filter(({ p }) => p >= 0.01)),
      columns: [{ name: 'reader', value: (r) => r.i, text: (r) => `${r.i} ${visible(tokens[r.i].text)}` }, { name: 'reads', value: (r) => r.j, text: (r) => `${r.j} ${visible(tokens[r.j].text)}` }, { name: 'weight', number: true, value: (r) => r.p, text: (r) => percent(r.p), bar: (r) => r.p }],
    })));
  choose(at);
}

function difference(answer, own, dial) {
  let most = 0;
  answer.heads.forEach((head, k) => head.rows.forEach((row, i) => row.forEach((p, j) => (most = Math.max(most, Math.abs(p - own.heads[k].rows[i][j]))))));
  const only = Object.keys(dial).join() === 'shift';
  return `Against the model's own rotation, the weight that changed most changed by ${most < 1e-3 ? short(most) : percent(most)}. ${only ? 'Shifting all positions together changes nothing but rounding: RoPE tells distances, not places.' : 'Another base or scaling stretches distances, and heads that measure them read elsewhere.'}`;
}

function dialForm(change) {
  const values = {};
  const tell = debounce(200, () => change({ ...values }));
  const put = (key, value) => { if (value === undefined) delete values[key]; else values[key] = value; tell(); };
  return h('div.stack',
    h('p.note', 'Queries and keys are turned by an angle that grows with their place. Turn the dial and see which heads care.'),
    slider({ label: 'Shift all positions by', min: 0, max: 4096, step: 64, value: 0, write: (n) => `${n}`, input: (n) => put('shift', n || undefined) }).element,
    slider({ label: 'Base (rope_theta)', min: 2.9, max: 7, step: 0.1, value: 2.9, write: (e) => (e < 3 ? 'the model’s own' : Math.round(10 ** e).toLocaleString('en')), input: (e) => put('base', e < 3 ? undefined : Math.round(10 ** e)) }).element,
    select({ label: 'Scaling (--rope-scaling)', value: '', options: [['', 'the model’s own'], ['none', 'none'], ['linear:2', 'linear, 2 times'], ['linear:8', 'linear, 8 times'], ['dynamic:4', 'dynamic, 4 times'], ['yarn:4', 'YaRN, 4 times']], change: (v) => put('scaling', v || undefined) }).element);
}

export default {
  id: 'attention', key: 'h', title: 'Attention', op: 'attention', source: 'src/studio/api/attention.rs',
  lead: 'What each token reads from the tokens before it, head by head.',
  what: [
    'Each small square is one head of the chosen layer on your sentence: a strong colour means that the token of its row takes much from the token of its column.',
    'Heads stand in groups, since several query heads share one key/value head; that saves memory when a model generates, and makes k_proj and v_proj small.',
    'The weights come from the queries, keys and log-sum-exps of the very kernel that trains, not from a second implementation.',
  ],
  show,
};
