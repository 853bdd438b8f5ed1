// Stop 10, the end: the adapter moves, and the model answers otherwise.

import { h, add } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get } from '../lib/store.js';
import { asking } from '../lib/subject.js';
import { look, strengthSlider } from '../lib/look.js';
import { slider } from '../lib/controls.js';
import { bars } from '../lib/charts.js';
import { percent, visible, whole } from '../lib/format.js';

function sizes(hidden, rank) {
  const full = hidden * hidden, thin = 2 * rank * hidden;
  return h('figure', h('div.thin', { role: 'img', 'aria-label': `W has ${hidden} by ${hidden} numbers, B ${hidden} by ${rank}, A ${rank} by ${hidden}` },
    h('div.block-w', h('b', 'W'), h('small', 'frozen')), h('span', '+'), h('div.block-b', h('b', 'B')), h('span', '×'), h('div.block-a', h('b', 'A'))),
  h('figcaption', `For a matrix of ${whole(hidden)} × ${whole(hidden)} and rank ${rank}: ${whole(thin)} trained numbers beside ${whole(full)} frozen ones, ${percent(thin / full)}.`));
}

export default {
  id: 'adapter', title: 'The adapter moves', short: 'Adapter', backward: true, source: 'src/adapter/lora.rs', view: 'lora', viewName: 'LoRA microscope',
  beats: [
    'The optimizer, AdamW, takes each gradient, smooths it over the last steps, and moves every number of A and B a little against it.',
    'W itself never moves. What has been learned is B·A, a thin product that is added to it.',
    'Then the next records come, and all of this happens again, some hundred times. In the end A and B are a few megabytes: your fine-tuning.',
  ],
  change: 'Turn the adapter’s strength (where one is open), or the rank, and see what changes.',
  touches: 'All of it: this is fine-tuning. Train your own in the theatre, and come back to see where it changed the model.',
  show({ picture, tryIt, signal, state }) {
    const rank = slider({ label: 'Rank', min: 1, max: 64, step: 1, value: 16, input: (r) => { const old = picture.querySelector('figure'); old?.replaceWith(sizes(state.model.hidden, r)); } });
    add(picture, [sizes(state.model.hidden, 16)]);
    if (!state.adapter) {
      add(picture, [h('p', 'No adapter is open, so there is nothing learned to show yet. ', h('a', { href: '#/theatre' }, 'Train one in the theatre'), '.')]);
      add(tryIt, [rank.element]);
      return;
    }
    let base = null; // does not change with the strength
    const { pane, bar, run } = look({
      label: 'Computing the next token', keys: ['strength'], signal,
      ask: async ({ ids, tokens, stop }) => {
        const asked = { ids: ids.slice(0, asking(tokens).length), temperature: 1 };
        const key = JSON.stringify(asked.ids);
        // A token that the adapter adds is none of the base model's.
        const added = asked.ids.some((id) => id >= state.model.vocabulary);
        if (key !== base?.key) base = { key, answer: added ? null : await post('logits', { ...asked, adapter: 0 }, stop) };
        return { base: base.answer, adapted: await post('logits', { ...asked, adapter: get('strength') }, stop) };
      },
      draw: ({ base, adapted }, tokens, place) => {
        const side = (name, { top }, graft) => h('div.stack', h('h2', name), bars(top.slice(0, 8).map((t) => ({ name: visible(t.text), value: t.p, text: percent(t.p), graft })), { of: 1, label: name }));
        add(place, [h('p', 'The next token of your sentence, without and with what was learned:'), h('div.columns', { style: { '--column': '14rem' } }, base ? side('base', base) : null, side(`adapted, strength ${get('strength').toFixed(2)}`, adapted, true))]);
      },
    });
    add(picture, [pane.element]);
    add(tryIt, [strengthSlider(state, signal), rank.element, bar]);
    run();
  },
};
