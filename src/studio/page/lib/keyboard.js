// Keys: shortcuts of the page and of the view that is open, and groups in which the arrows move (roving tabindex).

const shortcuts = [];

const typing = (target) => target.closest?.('input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]');

/** Registers a shortcut until `signal` aborts. `keys` is what `event.key` says, or several of them in a list; `does` is for the help. */
export function shortcut(keys, does, call, signal) {
  const entry = { keys: [keys].flat(), does, call };
  shortcuts.push(entry);
  signal?.addEventListener('abort', () => shortcuts.splice(shortcuts.indexOf(entry), 1));
}

/** All shortcuts that work now, for the help. */
export const known = () => shortcuts.map(({ keys, does }) => ({ keys, does }));

let pending = '';
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || typing(event.target)) return;
  if (document.querySelector('dialog[open]')) return;
  const key = event.key === ' ' ? 'Space' : event.key;
  // Keys of two strokes, such as "g a", as in many web tools.
  const both = pending ? `${pending} ${key}` : key;
  pending = key === 'g' && !pending ? 'g' : '';
  // Space on a button presses it, and arrows on a slider move it.
  if (key === 'Space' && event.target.closest?.('button, summary, a, input, [tabindex="0"]')) return;
  // Arrows are also for what has the focus to be scrolled or read by them.
  if (/^(Arrow|Home|End|Page)/.test(key) && event.target.closest?.('input, select, summary, [tabindex="0"]:not(a, button)')) return;
  const entry = [...shortcuts].reverse().find(({ keys }) => keys.includes(both));
  if (!entry) return;
  event.preventDefault();
  entry.call(event);
});

// What the keys get to is to be seen whole, with its outline; a browser is content with a part of it. (What `keepFocus` restores, which comes
// from nowhere, scrolls nothing.)
document.addEventListener('focusin', ({ target, relatedTarget }) => {
  if (relatedTarget && target.matches(':focus-visible')) target.scrollIntoView({ block: 'nearest', inline: 'nearest' });
});

// The item above or below, as they are seen: of the nearest line in that direction the one that is the least to the side.
function across(items, from, down) {
  const middle = (box) => (box.left + box.right) / 2;
  const own = from.getBoundingClientRect();
  const away = (box) => (down ? box.top - own.bottom : own.top - box.bottom);
  const beyond = items.map((item) => [item, item.getBoundingClientRect()]).filter(([item, box]) => item !== from && away(box) > -Math.min(own.height, box.height) / 2);
  const aside = (box) => Math.max(0, Math.abs(middle(box) - middle(own)) - (box.width + own.width) / 2);
  const nearest = Math.min(...beyond.map(([, box]) => away(box)));
  const line = beyond.filter(([, box]) => away(box) <= nearest + own.height / 2);
  return line.sort(([, a], [, b]) => aside(a) - aside(b) || Math.abs(middle(a) - middle(own)) - Math.abs(middle(b) - middle(own)))[0]?.[0];
}

/**
 * Makes the children of `group` that match `selector` one stop of the Tab key. Left and right go through them in order, up and down from line to
 * line where there are several, Home and End to the first and last.
 */
export function roving(group, selector) {
  const items = () => [...group.querySelectorAll(selector)].filter((item) => !item.hidden && !item.disabled);
  const reset = () => {
    const all = items();
    const present = all.find((item) => item.tabIndex === 0 && (item === document.activeElement || item.matches('[aria-checked=true],[aria-selected=true],[aria-current]')))
      ?? all.find((item) => item.matches('[aria-checked=true],[aria-selected=true],[aria-current]')) ?? all[0];
    for (const item of all) item.tabIndex = item === present ? 0 : -1;
  };
  reset();
  group.addEventListener('keydown', (event) => {
    const all = items();
    const at = all.indexOf(event.target.closest(selector));
    if (at < 0) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    let to = Math.max(0, Math.min(all.length - 1, at + step));
    if (/Up|Down/.test(event.key)) {
      const lined = across(all, all[at], step > 0);
      if (lined) to = all.indexOf(lined);
      else if (across(all, all[at], step < 0)) to = at; // it is in the first or last line
    }
    event.preventDefault();
    event.stopPropagation();
    for (const item of all) item.tabIndex = -1;
    all[to].tabIndex = 0;
    all[to].focus();
  });
  group.addEventListener('focusin', (event) => {
    const item = event.target.closest(selector);
    if (!item) return;
    for (const other of items()) other.tabIndex = other === item ? 0 : -1;
  });
  return reset;
}
