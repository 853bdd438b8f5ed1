// Stop 4: the MLP.

import { h, add, debounce } from '../lib/dom.js';
import { once, post } from '../lib/api.js';
import { set } from '../lib/store.js';
import { experts, layerOf, look, mlpShare, strength } from '../lib/look.js';
import { layerSlider } from '../lib/controls.js';
import { bars } from '../lib/charts.js';
import { ACTIVATIONS, histogram } from '../views/mlp.js';
import { count, percent, whole } from '../lib/format.js';

const wide = (model) => (model.experts?.layers.length === model.layers ? model.experts.intermediate : model.intermediate);

function shape({ hidden, intermediate }) {
  const bar = (n, name, kind) => {
    const i = h('i', { class: kind });
    i.style.setProperty('width', `${(100 * n) / Math.max(hidden, intermediate)}%`);
    return h('div.funnel-row', i, h('span', `${name}: ${whole(n)}`));
  };
  return h('div.funnel', { role: 'img', 'aria-label': `From ${hidden} numbers to twice ${intermediate} and back to ${hidden}` }, bar(hidden, 'a token comes in', 'tone-base'), bar(intermediate, 'gate', 'tone-soft'), bar(intermediate, 'up', 'tone-soft'), bar(intermediate, 'activation(gate) × up', 'tone-base'), bar(hidden, 'down: what is added', 'tone-base'));
}

export default {
  id: 'mlp', title: 'The MLP', source: 'src/studio/api/mlp.rs', view: 'mlp', viewName: 'MLP',
  beats: [
    (model) => `After looking around, each token is worked on alone. Two matrices make of its ${whole(model.hidden)} numbers ${whole(wide(model))} each: gate and up.${model.experts ? ' (Where a layer has experts, each of them does so, and a token is sent to a few.)' : ''}`,
    'The gate goes through a curve that lets large numbers pass and nearly silences those below zero; then it multiplies up.',
    'Why so many? Each of these neurons can stand for one small thing that the model knows, and only few of them speak at a time.',
    (model) => `down_proj brings them back to as many as came in, and the outcome is added to the token. ${percent(mlpShare(model), 0)} of the model’s parameters are in these three matrices.`,
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
        add(place, [...(left ? [left] : [shape(model), histogram({ label: `gates of ${tokens.length} tokens × ${whole(mlp.width)} neurons, and the curve of ${ACTIVATIONS[mlp.activation] ?? mlp.activation}`, data: mlp.gate, curve: mlp.curve, signal, height: 190 })]),
          h('h2', 'Where the parameters live'), bars([...sums].sort((a, b) => b[1] - a[1]).map(([part, n]) => ({ name: part === 'mlp' ? 'MLP' : part, value: n, text: `${count(n)} · ${percent(n / model.parameters, 0)}` })), { label: 'Parameters by part' })]);
      },
    });
    add(picture, [pane.element]);
    add(tryIt, [layerSlider(model.layers, layerOf(model), debounce(120, (l) => set({ layer: l }))).element, bar]);
    run();
  },
};
