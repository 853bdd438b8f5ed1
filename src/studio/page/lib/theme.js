// Light and dark: as the system says, or as the switch says.

import { get, set } from './store.js';

const dark = matchMedia('(prefers-color-scheme: dark)');

export function apply() {
  const theme = get('theme');
  document.documentElement.dataset.theme = theme === 'system' ? (dark.matches ? 'dark' : 'light') : theme;
  document.dispatchEvent(new Event('themechange'));
}

dark.addEventListener('change', apply);

/** Next of system, light, dark. */
export function turn() {
  const names = ['system', 'light', 'dark'];
  set({ theme: names[(names.indexOf(get('theme')) + 1) % 3] });
  apply();
}
