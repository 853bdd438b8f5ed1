// Stop 8, the way back begins: the loss.

import { h, add } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { record, watch } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { subjectForm } from '../lib/subject.js';
import { tokenRow } from '../lib/tokens.js';
import { scaleBar, shade } from '../lib/heat.js';
import { percent, short, visible } from '../lib/format.js';

export default {
  id: 'loss', title: 'The loss', backward: true, source: 'src/studio/api/backward.rs', view: 'backward', viewName: 'Backward',
  beats: [
    'Now the way back. Training knows the right answer, so it asks at each of its tokens: how surprised were you?',
    'Surprise is −log of the probability that the model gave to the right token. Zero is certain; 0.7 is a coin’s toss; large is a blunder.',
    'The mean of these is the loss. The whole of training is to make this one number smaller.',
  ],
  change: 'Change the answer to something false, or something nobody can know, and see which token hurts.',
  touches: 'Of a conversation only the answer counts: what the user says is read but not learned (no colour), and without an answer there is nothing to learn. Of a plain text every token counts but the first.',
  show({ picture, tryIt, signal }) {
    const pane = new Pane('One training step', signal);
    const run = () => pane.run(async (stop) => post('backward', { record: record() }, stop), ({ tokens, loss }, place) => {
      const learned = tokens.filter((t) => Number.isFinite(t.nll) && t.nll !== null);
      const most = Math.max(...learned.map((t) => t.nll), 1e-9);
      const worst = [...learned].sort((a, b) => b.nll - a.nll)[0];
      const has = (t) => t.nll !== null && t.nll !== undefined;
      add(place, [tokenRow({ tokens: tokens.map((t) => ({ ...t, supervised: has(t) })), label: 'Tokens with their loss', shade: (t) => (has(t) ? shade(t.nll / most) : null), note: (t) => (has(t) ? `loss ${short(t.nll)}, probability ${percent(Math.exp(-t.nll))}` : 'not learned') }),
        scaleBar({ scale: 'sequential', max: most, signal, words: 'loss of a token' }),
        h('dl.big-numbers', h('div', h('dt', 'loss'), h('dd', short(loss))), h('div', h('dt', 'probability a token'), h('dd', percent(Math.exp(-loss)))), worst && h('div', h('dt', 'hardest token'), h('dd', visible(worst.text), h('small', `loss ${short(worst.nll)}`))))]);
    });
    add(picture, [pane.element]);
    add(tryIt, [subjectForm(signal)]);
    watch(['subject'], signal, run);
    run();
  },
};
