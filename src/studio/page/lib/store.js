// What all views share: the sentence, the adapter's strength, the chosen layer and token. It outlives a reload (localStorage, this browser only).

const KEY = 'graftling-studio';
const defaults = {
  subject: { kind: 'chat', user: 'What is the capital of France?', assistant: 'The capital of France is Paris.', text: 'The cat sat on the mat because it was tired.' },
  strength: 1,
  layer: 0,
  token: 0,
  seed: 1,
  theme: 'system',
  maxLength: 256,
};

let kept = {};
try {
  kept = JSON.parse(localStorage.getItem(KEY) ?? '{}');
} catch {
  kept = {}; // a browser without storage, or what another version left there
}
const values = { ...defaults, ...kept };
const watchers = new Set();

/** The value of a key. */
export const get = (key) => values[key];

/** Changes some keys and tells those who watch them. */
export function set(changes) {
  const changed = Object.keys(changes).filter((key) => JSON.stringify(values[key]) !== JSON.stringify(changes[key]));
  if (!changed.length) return;
  Object.assign(values, changes);
  try {
    localStorage.setItem(KEY, JSON.stringify(values));
  } catch {
    // Without storage the page works, it only forgets at a reload.
  }
  for (const watcher of [...watchers]) if (watcher.keys.some((key) => changed.includes(key))) watcher.call(changed);
}

/** Calls `call` after any of `keys` changed, until `signal` aborts. */
export function watch(keys, signal, call) {
  const watcher = { keys, call };
  watchers.add(watcher);
  signal?.addEventListener('abort', () => watchers.delete(watcher));
}

/** The record that the subject stands for, in the form that `graftling train --data` reads. */
export function record(subject = get('subject')) {
  if (subject.kind === 'text') return { text: subject.text };
  const messages = [{ role: 'user', content: subject.user }];
  if (subject.system) messages.unshift({ role: 'system', content: subject.system });
  if (subject.assistant) messages.push({ role: 'assistant', content: subject.assistant });
  return { messages };
}
