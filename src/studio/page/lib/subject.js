// The sentence or conversation that all views look at: shown as tokens, changed in one place, remembered.

import { h, fill, debounce, uid } from './dom.js';
import { post } from './api.js';
import { get, set, watch, record } from './store.js';
import { choice } from './controls.js';

/** The tokens of the present subject, as the trainer would make them. */
export async function tokens(signal, maxLength) {
  return post('tokens', { record: record(), max_length: maxLength }, signal);
}

const FIELDS = { user: 'User', assistant: 'Assistant', text: 'Text', json: 'A line of a data file (JSON)', system: 'System (may be empty)' };

/** The form that edits the subject. */
export function subjectForm(signal, { system = false } = {}) {
  const place = h('div.subject-fields');
  const draw = () => {
    const subject = get('subject');
    const names = subject.kind !== 'chat' ? [subject.kind] : [...(system ? ['system'] : []), 'user', 'assistant'];
    fill(place, names.map((name) => {
      const id = uid('subject');
      const change = debounce(300, (value) => set({ subject: { ...get('subject'), [name]: value }, token: 0 }));
      const area = h('textarea', { id, rows: 1, spellcheck: 'false', oninput: () => { grow(area); change(area.value); } });
      area.value = subject[name] ?? '';
      requestAnimationFrame(() => grow(area));
      return h('div.subject-field', h('label', { for: id }, FIELDS[name]), area);
    }));
  };
  const kind = choice({
    label: 'Look at', value: get('subject').kind, options: [['chat', 'a conversation'], ['text', 'plain text'], ['json', 'a record']],
    change: (value) => { set({ subject: { ...get('subject'), kind: value }, token: 0 }); draw(); },
  });
  draw();
  return h('form.subject', { onsubmit: (event) => event.preventDefault() }, kind.element, place);
}

function grow(area) {
  area.style.setProperty('height', 'auto');
  area.style.setProperty('height', `${Math.min(240, area.scrollHeight + 2)}px`);
}

/** The subject as one line that opens to be edited; `change()` is called at the start and after every change. */
export function subjectBar(signal, change) {
  const line = h('span.subject-line');
  const write = () => {
    const subject = get('subject');
    line.textContent = subject.kind !== 'chat' ? subject[subject.kind] : `${subject.user} → ${subject.assistant || '…'}`;
  };
  write();
  watch(['subject'], signal, () => { write(); change(); });
  return h('details.subject-bar', h('summary', h('span.subject-key', 'Sentence'), line, h('span.subject-edit', 'change')), subjectForm(signal));
}

/** The part of the tokens that asks: up to the answer of a conversation, all of a plain text but the end that training puts there. */
export function asking(list) {
  if (get('subject').kind === 'text') return list.slice(0, Math.max(1, list.findLastIndex((token) => !token.special) + 1));
  const first = list.findIndex((token) => token.supervised);
  return first > 0 ? list.slice(0, first) : list;
}
