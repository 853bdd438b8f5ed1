// A row of tokens: what the model reads. Ids on hover and focus; special and supervised tokens are marked by shape, not by colour alone.

import { h } from './dom.js';
import { visible } from './format.js';
import { roving } from './keyboard.js';

/**
 * Tokens as buttons (with `pick(index)`) or as spans. `tokens` are {id, text, special?, supervised?}; `chosen` is an index;
 * `prose`: as running text, without ids; `note(token, index)` adds words to the tip; `shade(token, index)` gives a colour of the background.
 */
export function tokenRow({ tokens, label, chosen, pick, note, shade, cutFrom, prose }) {
  const row = h(prose ? 'div.tokens.prose' : 'div.tokens', { role: pick ? 'radiogroup' : 'list', 'aria-label': label });
  tokens.forEach((token, at) => {
    const tip = [`token ${at}`, `id ${token.id}`, token.special && 'special', token.supervised && 'learned (supervised)',
      cutFrom !== undefined && at >= cutFrom && 'cut off', note?.(token, at)].filter(Boolean).join(' · ');
    const classes = ['token', token.special && 'special', token.supervised && 'supervised', cutFrom !== undefined && at >= cutFrom && 'cut'].filter(Boolean).join('.');
    const element = h(`${pick ? 'button' : 'span'}.${classes}`, {
      type: pick ? 'button' : null, role: pick ? 'radio' : 'listitem', title: tip, 'aria-checked': pick ? String(at === chosen) : null,
      tabindex: pick ? null : 0, 'aria-label': `${visible(token.text)}: ${tip}`,
      onclick: pick ? () => choose(at) : null,
    }, prose ? token.text.replace(/\n/g, '⏎\n') || visible(token.text) : [h('span.token-text', visible(token.text)), h('span.token-id', token.id)]);
    if (shade) {
      const colour = shade(token, at);
      if (colour) {
        element.style.setProperty('--shade', colour.background ?? colour);
        if (colour.ink) element.style.setProperty('--shade-ink', colour.ink);
        element.classList.add('shaded');
      }
    }
    row.append(element);
    if (!prose && token.text.includes('\n')) row.append(h('span.break', { 'aria-hidden': 'true' }));
  });
  const choose = (at) => {
    [...row.querySelectorAll('.token')].forEach((element, i) => {
      element.setAttribute('aria-checked', String(i === at));
    });
    pick(at);
  };
  roving(row, '.token');
  return row;
}
