// The adapter's strength against the answer, and the proof that a fused adapter answers the same.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, watch, question } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { strengthSlider } from '../lib/look.js';
import { subjectBar, tokens } from '../lib/subject.js';
import { bars } from '../lib/charts.js';
import { answered } from '../lib/answer.js';
import { table } from '../lib/table.js';
import { percent, short, visible } from '../lib/format.js';

/** Tokens of an answer that follows the slider: few, so that it follows at once. */
const LENGTH = 16;

export function strengthCard(state, signal) {
  const pane = new Pane('Answering', signal);
  const ask = () => pane.run(async (stop) => post('answer', { ...question(), adapter: get('strength'), max_tokens: LENGTH }, stop), (answer, place) => {
    const log = answer.tokens.reduce((sum, t) => sum + Math.log(Math.max(t.p, 1e-12)), 0);
    add(place, [
      h('p', `At strength ${get('strength').toFixed(2)} the whole answer has a probability of ${percent(Math.exp(log))}; a token of it ${percent(Math.exp(log / Math.max(1, answer.tokens.length)), 0)} on average (geometric mean).`),
      answered(answer, signal),
      h('h3', 'The first token of the answer'),
      bars((answer.tokens[0]?.top ?? []).map((t) => ({ name: visible(t.text), value: t.p, text: percent(t.p), graft: true })), { of: 1, label: 'Most probable first tokens' }),
    ]);
  });
  watch(['strength'], signal, ask);
  const card = h('section.card', h('h2', 'Turn it up and down'), subjectBar(signal, ask), strengthSlider(state, signal), pane.element);
  ask();
  return card;
}

export function fuseCard(state, signal) {
  const pane = new Pane('Adding B·A into the weights, layer by layer', signal);
  const prove = () => pane.run(async (stop) => {
    const { tokens: list } = await tokens(stop);
    return post('fuse', { ids: list.map((t) => t.id), adapter: get('strength') }, stop);
  }, (answer, place) => {
    const { unmerged, merged, texts, largest_difference: difference, largest_logit: logit, largest_effect: effect } = answer;
    add(place, [
      h('p', `Largest difference between merged and unmerged, over the whole vocabulary: `, h('b', short(difference)), logit ? `, where the largest logit is ${short(logit)}` : '', effect ? ` and the adapter itself moves logits by up to ${short(effect)}` : '', '. What is left is rounding of f32.'),
      table({
        caption: 'Logits of the next token, both ways', rows: unmerged.map((u, i) => ({ text: texts?.[i] ?? String(i), u, m: merged[i] })).slice(0, 12),
        columns: [{ name: 'token', value: (r) => visible(r.text) }, { name: 'adapter beside W', number: true, value: (r) => r.u, text: (r) => r.u.toFixed(5) }, { name: 'adapter in W', number: true, value: (r) => r.m, text: (r) => r.m.toFixed(5) }, { name: 'difference', number: true, value: (r) => Math.abs(r.u - r.m), text: (r) => short(Math.abs(r.u - r.m)) }],
      }),
    ]);
  });
  return h('section.card', h('h2', 'Fuse: the proof'), h('p', 'An adapter can stay beside the weights, or be added into them: W + scale · B·A. Both ways must give the same logits, or an exported model would answer otherwise than the one you tested.'),
    h('div.row', h('button.primary', { type: 'button', onclick: prove }, 'Prove it on this sentence')), pane.element);
}
