// Backward: one record through the training step. Loss by token, gradients by place, what was not computed, and the proof of one number.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { record, watch } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { choice } from '../lib/controls.js';
import { subjectBar } from '../lib/subject.js';
import { tokenRow } from '../lib/tokens.js';
import { shade, scaleBar } from '../lib/heat.js';
import { asTable, table } from '../lib/table.js';
import { siteMap } from './lora.js';
import { stepGraph } from './backward-graph.js';
import { proveCard } from './backward-prove.js';
import { short, percent, visible } from '../lib/format.js';

const NORMS = { b_norm: 'gradient of B', a_norm: 'gradient of A', m_norm: 'gradient of m' };

function losses({ tokens, loss }, signal) {
  const learned = tokens.filter((t) => t.nll !== null && t.nll !== undefined);
  const most = Math.max(...learned.map((t) => t.nll), 1e-9);
  const worst = [...learned].sort((a, b) => b.nll - a.nll)[0];
  return [
    h('p', 'The mean over ', h('b', `${learned.length} learned tokens`), ' is ', h('b', short(loss)), ` (the model gave them ${percent(Math.exp(-loss))} each, as a geometric mean). `, worst ? `Most surprising was “${visible(worst.text)}”: ${short(worst.nll)}, a probability of ${percent(Math.exp(-worst.nll), 2)}.` : ''),
    tokenRow({ tokens: tokens.map((t) => ({ ...t, supervised: t.nll !== null && t.nll !== undefined })), label: 'Tokens with their loss', shade: (t) => (t.supervised ? shade(t.nll / most) : null), note: (t) => (t.supervised ? `loss ${short(t.nll)}, probability ${percent(Math.exp(-t.nll))}` : 'read, not learned') }),
    scaleBar({ scale: 'sequential', max: most, signal, words: 'loss of a token (−log p); tokens without colour are read only' }),
    asTable('loss by token', () => table({ caption: 'Loss by token', rows: tokens.map((t, at) => ({ ...t, at })), limit: 1024, columns: [{ name: 'place', number: true, value: (t) => t.at }, { name: 'token', value: (t) => visible(t.text) }, { name: 'loss', number: true, value: (t) => t.nll ?? -1, text: (t) => (t.nll === null || t.nll === undefined ? 'not learned' : short(t.nll)) }, { name: 'probability', number: true, value: (t) => (t.nll === null ? -1 : Math.exp(-t.nll)), text: (t) => (t.nll === null || t.nll === undefined ? '' : percent(Math.exp(-t.nll))) }] })),
  ];
}

function gradients(answer, signal, pick) {
  let key = 'b_norm';
  const place = h('div');
  const has = (norm) => answer.sites.some((s) => s[norm] !== null && s[norm] !== undefined);
  const draw = () => fill(place, siteMap({ sites: answer.sites, measure: (s) => s[key], write: short, label: `Length of the ${NORMS[key]} by module and layer`, pick, signal }));
  draw();
  return [
    answer.fresh ? h('p.note.told', 'No adapter is open, so a fresh one stands in, as training would begin: its B is zero, therefore A has no gradient yet, and the model answers as the base does.') : null,
    choice({ label: 'Colour shows', value: key, options: Object.entries(NORMS).filter(([norm]) => has(norm)), change: (v) => { key = v; draw(); } }).element,
    place,
    asTable('gradients by site', () => table({ caption: 'Lengths of the gradients', rows: answer.sites, limit: 1000, pick, columns: [{ name: 'site', value: (s) => s.site }, { name: 'A', number: true, value: (s) => s.a_norm, text: (s) => short(s.a_norm) }, { name: 'B', number: true, value: (s) => s.b_norm, text: (s) => short(s.b_norm) }, ...(has('m_norm') ? [{ name: 'm', number: true, value: (s) => s.m_norm ?? 0, text: (s) => short(s.m_norm) }] : [])] })),
  ];
}

function show(body, { signal, state }) {
  const pane = new Pane('One training step, forward and backward', signal);
  const prove = proveCard(signal, Boolean(state.adapter));
  const run = () => pane.run(async (stop) => post('backward', { record: record() }, stop), (answer, place) => {
    prove.site(answer.sites.find((s) => s.b_norm > 0) ?? answer.sites[0]);
    add(place, [
      h('section.card', h('h2', 'Loss by token'), losses(answer, signal)),
      h('section.card', h('h2', 'Where the gradient arrives'), gradients(answer, signal, (site) => { prove.site(site); prove.element.scrollIntoView({ block: 'nearest' }); })),
      h('section.card', h('h2', 'What was computed, and what was not'), stepGraph(answer.graph, state.model.layers)),
    ]);
  });
  watch(['subject'], signal, prove.clear);
  add(body, [subjectBar(signal, run), pane.element, prove.element]);
  run();
}

export default {
  id: 'backward', key: 'b', title: 'Backward', op: 'linear_cross_entropy', source: 'src/studio/api/backward.rs',
  lead: 'One training step on your record: what it costs, where it pushes, and what is left out.',
  what: [
    'Training asks for every learned token how surprised the model was (the loss), and then goes backward through the layers to find how each number of the adapter should change.',
    'Only A and B get a gradient; the frozen weights get none, and below the lowest adapted layer nothing is computed at all: in the graph both are grey.',
    'Nothing is updated here; the graph is the one that training runs, and “prove it” measures one of its gradients by changing that number on the device.',
  ],
  show,
};
