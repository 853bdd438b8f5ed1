// What the plan says about a composed adapter: parameters, memory, time, reasons, command.

import { h, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { stacked } from '../lib/charts.js';
import { copyable } from '../lib/controls.js';
import { set } from '../lib/store.js';
import { bytes, whole, percent, duration } from '../lib/format.js';

/** The parts of the answer of /api/plan to `request`. */
export function planned(answer, model, request) {
  const { trainable, memory, step_seconds: seconds, command, recipe, reasons } = answer;
  const entry = (name, value, note) => h('div', h('dt', name), h('dd', value, note && h('small', note)));
  const timed = h('div');
  const tellTime = (s) => fill(timed, h('dt', 'a step'), h('dd', duration(s), h('small', 'by a step that was timed on this device')));
  const time = async () => {
    fill(timed, h('dt', 'a step'), h('dd', h('small', 'Timing one …')));
    try { tellTime((await post('time', request)).step_seconds); } catch (error) { fill(timed, h('dt', 'a step'), h('dd', h('small', error.message))); }
  };
  if (seconds) tellTime(seconds);
  else fill(timed, h('dt', 'a step'), h('dd', h('button.small', { type: 'button', onclick: time }, 'Time one'), h('small', 'opens the model on the device')));
  return [
    h('dl.big-numbers',
      entry('trained parameters', whole(trainable), `${percent(trainable / model.parameters, 2)} of the model`),
      entry('memory on the device', bytes(memory.total), 'as the run would allocate it'),
      timed,
      entry('adapter on disk', bytes(trainable * 4), 'f32, a PEFT folder')),
    stacked([
      { name: 'weights', value: memory.weights, text: bytes(memory.weights), tone: 'tone-base' },
      { name: 'activations', value: memory.activations, text: bytes(memory.activations), tone: 'tone-soft' },
      { name: 'adapter', value: memory.adapter, text: bytes(memory.adapter), tone: 'tone-graft' },
      { name: 'optimizer', value: memory.optimizer, text: bytes(memory.optimizer), tone: 'tone-graft-soft' },
    ], { label: 'Memory on the device' }),
    reasons?.length ? h('details', h('summary', 'Why these choices'), h('dl.reasons', reasons.map(({ choice, value, why, evidence, if_wrong: wrong }) => [h('dt', value ? `${choice} = ${value}` : choice), h('dd', h('p', why), evidence && h('p.note', `Evidence: ${evidence}`), wrong && h('p.note', `If wrong: ${wrong}`))]))) : null,
    h('div.row', h('button.primary', { type: 'button', onclick: () => { set({ recipe: request }); location.hash = '#/theatre/start'; } }, 'Take this to the theatre')),
    h('div.columns', copyable(command, 'The command'), recipe ? copyable(recipe, 'The same as a recipe (graftling train --config recipe.toml)') : null),
  ];
}
