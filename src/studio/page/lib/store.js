// What all views share: the sentence, the adapter's strength, the chosen layer and token. It outlives a reload (localStorage, this browser only).

import { ApiError } from './api.js';

const KEY = 'graftling-studio';
const defaults = {
  subject: { kind: 'chat', user: 'What is the capital of France?', assistant: 'The capital of France is Paris.', text: 'The cat sat on the mat because it was tired.', json: '{"prompt": "The opposite of hot is", "completion": " cold."}' },
  strength: 1,
  layer: null, // the one that a view thinks best
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
const values = { ...defaults, ...kept, subject: { ...defaults.subject, ...kept.subject } };
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
  if (subject.kind === 'json') {
    try {
      const value = JSON.parse(subject.json);
      if (value !== null && typeof value === 'object' && !Array.isArray(value)) return value;
    } catch (error) {
      throw new ApiError(400, { what: error.message, where: 'your record', propose: 'give one JSON object, as a line of a data file has it' });
    }
    throw new ApiError(400, { what: 'it is no object', where: 'your record', propose: 'give one JSON object, such as {"prompt": "...", "completion": "..."}' });
  }
  const messages = [{ role: 'user', content: subject.user }];
  if (subject.system) messages.unshift({ role: 'system', content: subject.system });
  if (subject.assistant) messages.push({ role: 'assistant', content: subject.assistant });
  return { messages };
}

/** What the subject asks, in the form of /api/answer: a conversation up to the answer, or a text to go on with. */
export function question(subject = get('subject')) {
  if (subject.kind === 'text') return { prompt: subject.text };
  if (subject.kind === 'chat') return { messages: record({ ...subject, assistant: '' }).messages };
  const { messages, prompt, text } = record(subject);
  if (!messages) return { prompt: String(prompt ?? text ?? '') };
  const last = messages.map((m) => m.role).lastIndexOf('assistant');
  return { messages: (last > 0 ? messages.slice(0, last) : messages).map(({ role, content }) => ({ role, content: String(content ?? '') })) };
}
