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
  if (/^(Arrow|Home|End|Page)/.test(key) && event.target.closest?.('input, select, summary, [role=application]')) return;
  const entry = [...shortcuts].reverse().find(({ keys }) => keys.includes(both));
  if (!entry) return;
  event.preventDefault();
  entry.call(event);
});

/** Makes the children of `group` that match `selector` one stop of the Tab key; arrows, Home and End move inside. */
export function roving(group, selector, { columns } = {}) {
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
    const row = columns?.() ?? 0;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row || 1, ArrowUp: -(row || 1) };
    let to;
    if (event.key in steps) to = Math.max(0, Math.min(all.length - 1, at + steps[event.key]));
    else if (event.key === 'Home') to = 0;
    else if (event.key === 'End') to = all.length - 1;
    else return;
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
