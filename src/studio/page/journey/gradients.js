// Stop 9: back through the layers.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { record, watch } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { choice } from '../lib/controls.js';
import { subjectBar } from '../lib/subject.js';
import { bars } from '../lib/charts.js';
import { short, whole } from '../lib/format.js';

export default {
  id: 'gradients', title: 'Back through the layers', short: 'Gradients', backward: true, source: 'src/autograd.rs', view: 'backward', viewName: 'Backward',
  beats: [
    'From the loss the way leads down, layer by layer, by the chain rule: how would the loss change, if this number were a little larger?',
    'The frozen weights are never asked. That saves half of the work, and all of the memory that their gradients would need.',
    'The question is carried down only as far as there is an adapter. Below the lowest one nothing is computed, and nothing had to be kept.',
  ],
  change: 'Look at A, at B, or at both: where does this record push hardest?',
  touches: 'Only A and B get gradients. At the start B is zero, so A gets none in the first step: it has to wait until B has moved.',
  show({ picture, tryIt, signal, state }) {
    const pane = new Pane('One training step, backward', signal);
    const place = h('div.stack');
    let which = 'both';
    let answer = null;
    const draw = () => {
      if (!answer) return;
      const squares = Array.from({ length: state.model.layers }, () => 0);
      const has = new Set();
      for (const s of answer.sites) { has.add(s.layer); squares[s.layer] += (which !== 'B' ? s.a_norm ** 2 : 0) + (which !== 'A' ? s.b_norm ** 2 : 0); }
      const { counts } = answer.graph;
      fill(place,
        h('p', h('b', whole(counts.backward)), ' nodes were computed on the way back, and ', h('b', whole(counts.skipped)), ' were not.', answer.fresh ? ' (No adapter is open: a fresh one stands in, whose B is zero.)' : ''),
        bars([...squares].map((q, l) => ({ name: `layer ${l}`, value: Math.sqrt(q), text: has.has(l) ? short(Math.sqrt(q)) : 'no adapter', graft: true })).reverse(), { label: 'Length of the gradient by layer, from the output down' }));
    };
    const run = () => pane.run(async (stop) => post('backward', { record: record() }, stop), (got, body) => { answer = got; add(body, [place]); draw(); });
    add(picture, [h('h2', 'Length of the gradient, from the output down'), pane.element]);
    add(tryIt, [choice({ label: 'Gradient of', value: which, options: [['both', 'both'], ['A', 'A'], ['B', 'B']], change: (v) => { which = v; draw(); } }).element, subjectBar(signal, run)]);
    run();
  },
};
