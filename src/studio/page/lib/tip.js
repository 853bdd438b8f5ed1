// What a title says where the pointer rests, said where the focus is too: by keys one gets to no tooltip.

import { h } from './dom.js';

const tip = h('div.tip', { 'aria-hidden': 'true', hidden: true });

function put(element) {
  tip.textContent = element.title;
  tip.hidden = false;
  const box = element.getBoundingClientRect(), own = tip.getBoundingClientRect(), room = document.documentElement.clientWidth;
  const below = box.bottom + 6, above = box.top - own.height - 6;
  tip.style.setProperty('left', `${Math.max(4, Math.min(room - own.width - 4, box.left))}px`);
  tip.style.setProperty('top', `${below + own.height > innerHeight && above > 0 ? above : below}px`);
}

/** Shows the titles of what the keys get to, until Escape. */
export function tips() {
  document.body.append(tip);
  const hide = () => (tip.hidden = true);
  document.addEventListener('focusin', ({ target }) => (target.title && target.matches(':focus-visible') ? put(target) : hide()));
  for (const event of ['focusout', 'pointerdown']) document.addEventListener(event, hide);
  document.addEventListener('scroll', () => { if (!tip.hidden) put(document.activeElement); }, { capture: true, passive: true });
  document.addEventListener('keydown', (event) => event.key === 'Escape' && hide());
}
