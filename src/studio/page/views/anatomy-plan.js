// What the plan says about a composed adapter: parameters, memory, time, reasons, command.

import { h } from '../lib/dom.js';
import { stacked } from '../lib/charts.js';
import { copyable } from '../lib/controls.js';
import { bytes, whole, percent, duration } from '../lib/format.js';

/** The parts of the answer of /api/plan. */
export function planned(answer, model) {
  const { trainable, memory, step_seconds: seconds, command, recipe, reasons } = answer;
  const entry = (name, value, note) => h('div', h('dt', name), h('dd', value, note && h('small', note)));
  return [
    h('dl.big-numbers',
      entry('trained parameters', whole(trainable), `${percent(trainable / model.parameters, 2)} of the model`),
      entry('memory on the device', bytes(memory.total), 'as the run would allocate it'),
      entry('a step', seconds ? duration(seconds) : 'not known yet', seconds ? 'by products timed on this device' : 'known once the engine was opened, or a step was timed'),
      entry('adapter on disk', bytes(trainable * 4), 'f32, a PEFT folder')),
    stacked([
      { name: 'weights', value: memory.weights, text: bytes(memory.weights), tone: 'tone-base' },
      { name: 'activations', value: memory.activations, text: bytes(memory.activations), tone: 'tone-soft' },
      { name: 'adapter', value: memory.adapter, text: bytes(memory.adapter), tone: 'tone-graft' },
      { name: 'optimizer', value: memory.optimizer, text: bytes(memory.optimizer), tone: 'tone-graft-soft' },
    ], { label: 'Memory on the device' }),
    reasons?.length ? h('details', h('summary', 'Why these choices'), h('dl.reasons', reasons.map(({ choice, why }) => [h('dt', choice), h('dd', why)]))) : null,
    h('div.columns', copyable(command, 'The command'), recipe ? copyable(recipe, 'The same as a recipe (graftling train --config recipe.toml)') : null),
  ];
}
