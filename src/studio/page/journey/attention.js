// Stop 3: attention.

import { h, add, fill, debounce } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { set } from '../lib/store.js';
import { layerOf, look, strength } from '../lib/look.js';
import { layerSlider, slider } from '../lib/controls.js';
import { namedHeat, scaleBar, shade } from '../lib/heat.js';
import { tokenRow } from '../lib/tokens.js';
import { percent, visible } from '../lib/format.js';
import { habits, limits } from '../views/attention.js';

export default {
  id: 'attention', title: 'Attention', source: 'src/studio/api/attention.rs', view: 'attention', viewName: 'Attention',
  beats: [
    'Now tokens look at each other. Each makes a query (what do I look for?), a key (what am I?), and a value (what do I give?).',
    'Where a query meets a like key, much of the value is taken. A row of the picture is one token, and its colours are what it reads.',
    'The upper right is empty: no token may look ahead, or it would see the answer that it is to guess. That is the causal mask.',
    (model) => `${model.heads} heads do this side by side in every layer, and ${model.heads / model.kv_heads > 1 ? `${model.kv_heads === 1 ? 'all' : model.heads / model.kv_heads} of them share one key and value` : 'each has its own key and value'}. Heads that have nothing to do look at the first token.`,
  ],
  change: 'Go through layers and heads: some look one token back, some at the first token, some at what matters.',
  touches: 'q_proj and k_proj: where heads look. v_proj and o_proj: what they carry. An adapter on attention alone can change style and format, but stores facts badly.',
  show({ picture, tryIt, signal, state }) {
    const { model } = state;
    let head = 0;
    const place = h('div.stack');
    let last = null;
    const draw = () => {
      if (!last) return;
      const { answer, tokens } = last;
      const one = answer.heads[Math.min(head, answer.heads.length - 1)];
      const n = tokens.length, size = Math.max(11, Math.min(18, Math.floor(480 / n)));
      const habit = habits(one);
      const name = (i) => `“${visible(tokens[i].text)}”`;
      const reads = h('div.stack');
      const choose = (i) => fill(reads, h('p', `${name(i)} reads:`), tokenRow({ tokens, label: 'What the token reads', shade: (_, j) => (j <= i ? shade(one.rows[i][j]) : null), note: (_, j) => (j <= i ? percent(one.rows[i][j]) : 'masked') }));
      const drawn = namedHeat({
        rowNames: tokens.map((t) => visible(t.text)), columnNames: [], rows: n, columns: n, at: (i, j) => (j <= i ? one.rows[i][j] : null), max: 1, cell: [size, size], signal, label: `Head ${one.head}`,
        name: (i, j, p) => (p === null ? 'masked: it comes later' : `${name(i)} reads ${percent(p)} from ${name(j)}`), pick: choose,
      });
      fill(place, h('p', h('b', `Head ${one.head}`), ` (key/value head ${one.kv_head}): ${percent(habit.first, 0)} from the first token, ${percent(habit.previous, 0)} from the one before.${limits(answer, habit)}`), h('figure', drawn.element, drawn.says, scaleBar({ scale: 'sequential', max: 1, signal })), reads);
      choose(n - 1);
    };
    const { bar, pane, run } = look({
      label: 'Reading attention', keys: ['layer'], signal, most: 48,
      ask: ({ ids, stop }) => post('attention', { ids, layer: layerOf(model), adapter: strength(state) }, stop),
      draw: (answer, tokens, body) => { last = { answer, tokens }; add(body, [place]); draw(); },
    });
    add(picture, [pane.element]);
    add(tryIt, [layerSlider(model.layers, layerOf(model), debounce(120, (l) => set({ layer: l }))).element,
      slider({ label: 'Head', min: 0, max: model.heads - 1, step: 1, value: 0, write: (k) => `${k} of ${model.heads - 1}`, input: (k) => { head = k; draw(); } }).element, bar]);
    run();
  },
};
