// What happens, as it happens: one stream of server-sent events for the whole page. The browser reconnects by itself and says the last step
// that it has, and the studio tells what was missed.

import { events } from './api.js';

const NAMES = ['run', 'step', 'eval', 'sample', 'check', 'done', 'error', 'progress', 'log'];
const listeners = new Set();
let source = null;

/** Calls `handlers[name](data, step)` for each event until `signal` aborts. */
export function live(handlers, signal) {
  listeners.add(handlers);
  signal?.addEventListener('abort', () => listeners.delete(handlers));
  source ??= events(Object.fromEntries(NAMES.map((name) => [name, (data, step) => { for (const each of [...listeners]) each[name]?.(data, step); }])));
}
