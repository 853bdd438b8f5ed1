// Chat: the base model and the adapted one answer side by side.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, set } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { slider, number } from '../lib/controls.js';
import { strengthSlider } from '../lib/look.js';
import { answered } from '../lib/answer.js';

function show(body, { signal, state }) {
  const chat = state.model.chat !== false;
  const sides = state.adapter ? [['base', 'Base model', () => 0], ['adapted', 'Adapted model', () => get('strength')]] : [['base', 'The model', () => undefined]];
  const histories = Object.fromEntries(sides.map(([key]) => [key, []]));
  const settings = { temperature: 0, top_k: 0, top_p: 1, max_tokens: 96 };
  const columns = sides.map(([key, title, adapter]) => ({ key, adapter, talk: h('div.talk', { role: 'log', 'aria-label': title }), title }));

  const say = async () => {
    const text = input.value.trim();
    if (!text) return;
    input.value = '';
    for (const { key, adapter, talk } of columns) {
      histories[key].push({ role: 'user', content: text });
      const pane = new Pane('Answering', signal);
      talk.append(h('p.said', text), pane.element);
      const sampling = settings.temperature > 0 ? { temperature: settings.temperature, top_k: settings.top_k || undefined, top_p: settings.top_p < 1 ? settings.top_p : undefined } : {};
      const question = chat ? { messages: [...histories[key]] } : { prompt: text };
      await pane.run((stop) => post('answer', { ...question, adapter: adapter(), seed: get('seed'), max_tokens: settings.max_tokens, ...sampling }, stop), (answer, place) => {
        histories[key].push({ role: 'assistant', content: answer.text });
        place.append(answered(answer));
      });
    }
  };
  const input = h('textarea', { rows: 2, id: 'say', 'aria-label': 'Your message', placeholder: `${state.adapter ? 'Ask both models the same' : 'Ask the model'}. Enter sends, Shift+Enter begins a new line.`, onkeydown: (event) => { if (event.key === 'Enter' && !event.shiftKey) { event.preventDefault(); say(); } } });
  input.value = get('subject').user;
  const clear = () => { for (const { key, talk } of columns) { histories[key].length = 0; fill(talk); } input.focus(); };
  add(body, [
    h('div.columns.chat', columns.map(({ key, title, talk }) => h('section.card', { class: `card side-${key}` }, h('h2', title), talk))),
    h('section.card', input, h('div.row', h('button.primary', { type: 'button', onclick: say }, 'Send'), h('button', { type: 'button', onclick: clear }, 'New conversation')),
      state.adapter ? strengthSlider(state, signal) : h('p.note', 'No adapter is open, so there is one side only.'),
      h('div.fields',
        slider({ label: 'Temperature', min: 0, max: 2, step: 0.1, value: 0, write: (x) => (x ? x.toFixed(1) : '0: greedy'), input: (x) => (settings.temperature = x) }).element,
        slider({ label: 'top-k', min: 0, max: 100, step: 1, value: 0, write: (x) => (x ? String(x) : 'off'), input: (x) => (settings.top_k = x) }).element,
        slider({ label: 'top-p', min: 0.05, max: 1, step: 0.05, value: 1, write: (x) => (x < 1 ? x.toFixed(2) : 'off'), input: (x) => (settings.top_p = x) }).element,
        number({ label: 'Seed', value: get('seed'), min: 0, max: 4294967295, change: (n) => set({ seed: n }) }).element,
        number({ label: 'Longest answer, tokens', value: settings.max_tokens, min: 1, max: 1024, change: (n) => (settings.max_tokens = n) }).element),
      chat ? null : h('p.note', 'This model has no chat template: it goes on with your text, each message by itself, and does not know that it is asked.'),
      state.adapter ? h('p.note', 'Both sides draw with the same seed, so what differs is the model and not the dice.') : null)]);
}

export default {
  id: 'chat', key: 'c', title: 'Chat', source: 'src/studio/api/answer.rs',
  lead: 'The same question to the base model and to yours.',
  what: [
    'Both sides get your message through the same chat template and the same sampler; the right one has the adapter on, at the strength of the slider.',
    'The stronger a token is coloured, the less sure the model was of it; point at it to see what it might have said instead.',
    'Each side keeps its own conversation, so that later answers build on its own earlier ones.',
  ],
  show,
};
