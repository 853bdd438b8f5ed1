// Stop 4: the MLP.

import { h, add, debounce } from '../lib/dom.js';
import { once, post } from '../lib/api.js';
import { set } from '../lib/store.js';
import { experts, layerOf, look, strength } from '../lib/look.js';
import { layerSlider } from '../lib/controls.js';
import { bars } from '../lib/charts.js';
import { histogram } from '../views/mlp.js';
import { count, percent, whole } from '../lib/format.js';

function shape({ hidden, intermediate }) {
  const wide = intermediate || 4 * hidden;
  const bar = (n, name, kind) => {
    const i = h('i', { class: kind });
    i.style.setProperty('width', `${(100 * n) / wide}%`);
    return h('div.funnel-row', i, h('span', `${name}: ${whole(n)}`));
  };
  return h('div.funnel', { role: 'img', 'aria-label': `From ${hidden} numbers to twice ${wide} and back to ${hidden}` }, bar(hidden, 'a token comes in', 'tone-base'), bar(wide, 'gate', 'tone-soft'), bar(wide, 'up', 'tone-soft'), bar(wide, 'activation(gate) × up', 'tone-base'), bar(hidden, 'down: what is added', 'tone-base'));
}

export default {
  id: 'mlp', title: 'The MLP', source: 'src/studio/api/mlp.rs', view: 'mlp', viewName: 'MLP',
  beats: [
    (model) => `After looking around, each token is worked on alone. Two matrices widen its ${whole(model.hidden)} numbers to ${whole(model.intermediate ?? 4 * model.hidden)}: gate and up.`,
    'The gate goes through a curve that lets large numbers pass and nearly silences those below zero; then it multiplies up.',
    'Why so wide? Each of these neurons can stand for one small thing that the model knows, and only few of them speak at a time.',
    'down_proj adds the outcome to the token. Most parameters of the model are in these three matrices.',
  ],
  change: 'Choose another layer: the bars are the gates of your sentence, the line is the curve.',
  touches: 'gate_proj, up_proj, down_proj: the best place for new facts. At the same number of trained parameters, adapters here beat adapters on attention.',
  show({ picture, tryIt, signal, state }) {
    const { model } = state;
    const { bar, pane, run } = look({
      label: 'Reading the MLP', keys: ['layer'], signal,
      ask: async ({ ids, stop }) => {
        const left = experts(model, layerOf(model));
        return { left, mlp: left ? null : await post('mlp', { ids, layer: layerOf(model), adapter: strength(state) }, stop), anatomy: await once('anatomy') };
      },
      draw: ({ left, mlp, anatomy }, tokens, place) => {
        const sums = new Map();
        for (const { part, parameters } of anatomy.modules) sums.set(part, (sums.get(part) ?? 0) + parameters);
        add(place, [...(left ? [left] : [shape(model), histogram({ label: `gates of ${tokens.length} tokens × ${whole(mlp.width)} neurons, and the curve of ${mlp.activation}`, data: mlp.gate, curve: mlp.curve, signal, height: 190 })]),
          h('h3', 'Where the parameters live'), bars([...sums].sort((a, b) => b[1] - a[1]).map(([part, n]) => ({ name: part === 'mlp' ? 'MLP' : part, value: n, text: `${count(n)} · ${percent(n / model.parameters, 0)}` })), { label: 'Parameters by part' })]);
      },
    });
    add(picture, [pane.element]);
    add(tryIt, [layerSlider(model.layers, layerOf(model), debounce(120, (l) => set({ layer: l }))).element, bar]);
    run();
  },
};
