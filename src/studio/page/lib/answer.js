// An answer of the model, token by token: shaded by how unsure it was, with what it might have said instead.

import { h, fill } from './dom.js';
import { tokenRow } from './tokens.js';
import { bars } from './charts.js';
import { shade } from './heat.js';
import { percent, visible } from './format.js';

/** `answer` is that of /api/answer. */
export function answered(answer) {
  const about = h('div.answer-about', { 'aria-live': 'polite' }, h('p.note', 'Point at a token, or move with the arrow keys: what else might have stood there?'));
  const tell = (at) => {
    const token = answer.tokens[at];
    fill(about, h('p.note', `token ${at + 1}: “${visible(token.text)}” had ${percent(token.p)}`), bars((token.top ?? []).map((t) => ({ name: visible(t.text), value: t.p, text: percent(t.p) })), { of: 1, label: 'Most probable tokens here' }));
  };
  const row = tokenRow({ tokens: answer.tokens, label: 'The answer', prose: true, pick: tell, shade: (token) => (token.p < 0.98 ? shade(0.7 * (1 - token.p), 'diverging') : null), note: (token) => `probability ${percent(token.p)}` });
  [...row.querySelectorAll('.token')].forEach((element, at) => {
    element.addEventListener('pointerenter', () => tell(at));
    element.addEventListener('focus', () => tell(at));
  });
  return h('div.answer', row, h('p.note', answer.stopped === 'end' ? 'The model ended here.' : `Stopped at ${answer.tokens.length} tokens.`), about);
}
