// Text: a record as the model reads it. Template, special tokens, what is learned, and what a shorter row would lose.

import { h, add } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { get, set, watch, record } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { slider } from '../lib/controls.js';
import { subjectForm } from '../lib/subject.js';
import { tokenRow } from '../lib/tokens.js';
import { asTable, table } from '../lib/table.js';
import { whole, percent, visible } from '../lib/format.js';

const LEGEND = [
  ['span.token', 'Hello', 'an ordinary token'],
  ['span.token.special', '<s>', 'special: never typed, put in by the template or the tokenizer'],
  ['span.token.supervised', 'Hi', 'learned: the loss is taken here'],
  ['span.token.cut', 'lost', 'cut off: the row is full'],
];

function legend() {
  return h('ul.legend', LEGEND.map(([tag, text, means]) => h('li', h(tag, text), means)));
}

function numbers({ tokens, cut, kind, bos }, chat) {
  const learned = tokens.filter((token) => token.supervised).length;
  const lost = tokens.slice(tokens.length - cut).filter((token) => token.supervised).length;
  const letters = tokens.filter((token) => !token.special).reduce((sum, token) => sum + token.text.length, 0);
  const plain = tokens.filter((token) => !token.special).length;
  const entry = (name, value, note) => h('div', h('dt', name), h('dd', value, note && h('small', note)));
  return h('dl.big-numbers',
    entry('tokens', whole(tokens.length), `read as ${kind}${bos ? ', begins with the start token' : ''}`),
    entry('learned', whole(learned), learned ? `${percent(learned / tokens.length, 0)} of what is computed` : 'nothing here is an answer'),
    entry('special', whole(tokens.length - plain), kind === 'text' || !chat ? 'from the tokenizer' : 'from the template'),
    entry('letters a token', plain ? (letters / plain).toFixed(1) : '–', 'more is better: fewer steps'),
    cut ? entry('cut off', whole(cut), lost ? `${lost} of them would have been learned` : 'none of them is learned') : null);
}

function show(body, { signal, state }) {
  const pane = new Pane('Cutting the text into tokens', signal);
  const ids = h('label.row.tight', h('input', { type: 'checkbox', checked: true, onchange: (event) => pane.body.classList.toggle('no-ids', !event.target.checked) }), 'show ids');
  const length = slider({
    label: 'Length of a row (max_length)', min: 8, max: 512, step: 8, value: get('maxLength'), write: (n) => `${n} tokens`, input: (n) => set({ maxLength: n }),
    hint: 'Training cuts every record to this length. Shorten it and see what is lost.',
  });
  const refresh = () => pane.run(async (stop) => post('tokens', { record: record(), max_length: get('maxLength') }, stop), (answer, place) => {
    const { tokens, cut, notes } = answer;
    add(place, [
      numbers(answer, state.model.chat),
      notes?.length ? h('ul.notes', notes.map((note) => h('li', note))) : null,
      h('figure',
        tokenRow({ tokens, label: 'Tokens in the order that the model reads them', cutFrom: tokens.length - cut }),
        h('figcaption', 'Each box is one token, the number under it its id. ␣ is a space, ⏎ a new line. Point at a token, or move with the arrow keys, to read about it.')),
      asTable('tokens', () => table({
        caption: `${tokens.length} tokens`, rows: tokens.map((token, at) => ({ ...token, at })), limit: 1024,
        columns: [
          { name: 'place', number: true, value: (t) => t.at }, { name: 'text', value: (t) => visible(t.text) }, { name: 'id', number: true, value: (t) => t.id },
          { name: 'special', value: (t) => (t.special ? 'yes' : '') }, { name: 'learned', value: (t) => (t.supervised ? 'yes' : '') },
          { name: 'cut off', value: (t) => (t.at >= tokens.length - cut ? 'yes' : '') },
        ],
      })),
    ]);
  });
  add(body, [
    h('div.side',
      h('section.card', h('h2', 'What the model reads'), pane.element, legend()),
      h('section.card', h('h2', 'What you write'), subjectForm(signal, { system: true }), length.element, ids,
        h('p.note', `The vocabulary of ${state.model.name} has ${whole(state.model.vocabulary)} tokens. `,
          'Fine-tuning does not change it: a new word is spelled with the pieces that exist, unless you add tokens with --train-tokens.'))),
  ]);
  watch(['subject', 'maxLength'], signal, refresh);
  refresh();
}

export default {
  id: 'text', key: 't', title: 'Text', op: 'embedding', source: 'src/studio/api/tokens.rs',
  lead: 'A record of your data, cut into the pieces that the model reads.',
  what: [
    'A model reads no letters but tokens: pieces of text with a number, and around a conversation the chat template puts special ones that say who speaks.',
    'When training, every token is read, but of a conversation the loss is taken only where the assistant answers, of a plain text everywhere: those tokens have an orange foot.',
    'What you see is what `graftling train` makes of the same record, cut at the same length.',
  ],
  show,
};
