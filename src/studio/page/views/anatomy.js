// Anatomy: the model as a map whose areas are parameters, and the adapter that is composed on it.

import { h, add, debounce } from '../lib/dom.js';
import { once, post } from '../lib/api.js';
import { Pane } from '../lib/pane.js';
import { table, asTable } from '../lib/table.js';
import { count, bytes, percent, whole, short } from '../lib/format.js';
import { map, mapLegend } from './anatomy-map.js';
import { composer } from './anatomy-compose.js';
import { planned } from './anatomy-plan.js';

async function show(body, { signal, state }) {
  const anatomy = await once('anatomy');
  if (signal.aborted) return;
  const { modules } = anatomy;
  const model = state.model;
  const plan = new Pane('Planning', signal);
  const drawing = map({ modules, signal, toggle: ({ module, layer }) => choose.toggle(module, layer) });
  const choose = composer({ modules, layers: model.layers, formats: anatomy.formats, signal, change: (choice) => { drawing.paint(choice); ask(choice); } });
  const ask = debounce(150, (choice) => plan.run((stop) => post('plan', choice.request, stop), (answer, place) => {
    drawing.graft(answer.trainable);
    add(place, planned(answer, model, choice.request));
  }));
  add(body, [
    h('div.side.wide',
      h('section.card', h('h2', 'The map'), drawing.element, mapLegend(),
        asTable('all modules', () => table({
          caption: `${whole(modules.length)} modules of ${model.name}`, rows: modules, limit: 1000,
          columns: [
            { name: 'site', value: (m) => m.site }, { name: 'layer', number: true, value: (m) => m.layer ?? -1, text: (m) => m.layer ?? '–' }, { name: 'part', value: (m) => m.part },
            { name: 'shape (out × in)', value: (m) => m.shape.join(' × ') }, { name: 'parameters', number: true, value: (m) => m.parameters, text: (m) => whole(m.parameters) },
            { name: 'share', number: true, value: (m) => m.parameters, text: (m) => percent(m.parameters / model.parameters, 2) },
            { name: 'bytes', number: true, value: (m) => m.bytes ?? 0, text: (m) => bytes(m.bytes ?? 0) }, { name: 'stored as', value: (m) => m.format ?? '' },
          ],
        })), parts(modules)),
      h('section.card', h('h2', 'Your adapter'), choose.element)),
    h('section.card', h('h2', 'What it costs'), plan.element),
    h('section.card', h('h2', 'The same weights in other formats'), formats(anatomy, model)),
  ]);
  choose.start();
}

function parts(modules) {
  const sums = new Map();
  let total = 0;
  for (const { part, parameters } of modules) {
    sums.set(part, (sums.get(part) ?? 0) + parameters);
    total += parameters;
  }
  const text = [...sums].sort((a, b) => b[1] - a[1]).map(([part, n]) => `${part === 'mlp' ? 'MLP' : part} ${count(n)} (${percent(n / total, 1)})`).join(', ');
  return h('p.note', `In words: ${text}.`);
}

/** Bytes and error of this model in each storage format. */
export function formats({ formats: list, measured_on: name, modules }, model) {
  const site = name.replace(/^model\.|\.weight$/g, '');
  return table({
    caption: `What the weights would occupy on the device (a matrix that a format does not fit keeps another), and how far off they would be (root mean square, relative, on ${site}, stored as ${modules.find((m) => m.site === site)?.format})`, rows: list,
    sort: { at: 2, down: true },
    columns: [
      { name: 'format', value: (f) => f.name }, { name: 'bits a weight', number: true, value: (f) => f.bits, text: (f) => f.bits.toFixed(2) },
      { name: 'bytes', number: true, value: (f) => f.bytes, text: (f) => bytes(f.bytes), bar: (f) => f.bytes / (model.parameters * 4) },
      { name: 'error', number: true, value: (f) => f.error ?? -1, text: (f) => (f.error === null || f.error === undefined ? 'its own' : f.error === 0 ? 'none' : `${short(100 * f.error)} %`) },
    ],
  });
}

export default {
  id: 'anatomy', key: 'a', title: 'Anatomy', op: 'matmul', source: 'src/architecture/sites.rs',
  lead: 'Where the parameters of your model are, and what an adapter on some of them costs.',
  what: [
    'Every rectangle is a weight matrix of your model, and its area is the number of its parameters; the layers run from left to right and top to bottom, as a text passes them.',
    'Click a matrix to put an adapter on it, or a layer to leave it out: what is trained turns orange, and what then needs no backward pass at all is hatched.',
    'The costs come from the same plan that `graftling train` makes, and the command below starts exactly this run.',
  ],
  show,
};
