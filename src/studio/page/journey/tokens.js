// Stop 1: the tokenizer.

import { h, add } from '../lib/dom.js';
import { Pane } from '../lib/pane.js';
import { watch } from '../lib/store.js';
import { subjectForm, tokens } from '../lib/subject.js';
import { tokenRow } from '../lib/tokens.js';
import { whole } from '../lib/format.js';

export default {
  id: 'tokenizer', title: 'The tokenizer', view: 'text', viewName: 'Text', source: 'src/text/tokenizer.rs',
  beats: [
    'A model reads no letters. Your sentence is first cut into tokens: words, pieces of words, signs.',
    (model) => `Each token has a number, its id, from a vocabulary of ${whole(model.vocabulary)} that was fixed before training.`,
    (model) => (model.chat ? 'The dashed ones are special: the chat template puts them in to say who speaks and where a turn ends.' : 'The dashed ones are special: nobody types them, they say where a text begins and where it ends.'),
    'From here on your sentence is nothing but this row of numbers.',
  ],
  change: 'Write another sentence, or a word that nobody knows, and see how it falls to pieces.',
  touches: 'Nothing: the vocabulary stays as it is. A new name is spelled with old pieces, and the layers above learn what it means. Only --train-tokens adds rows of its own.',
  show({ picture, tryIt, signal }) {
    const pane = new Pane('Cutting the text', signal);
    const run = () => pane.run((stop) => tokens(stop), ({ tokens: list }, place) => {
      const letters = list.filter((t) => !t.special).reduce((sum, t) => sum + t.text.length, 0);
      add(place, [tokenRow({ tokens: list, label: 'Your sentence as tokens' }),
        h('p', `${letters} letters became `, h('b', `${list.length} tokens`), `, ${list.filter((t) => t.special).length} of them special.`),
        h('p.ids', list.map((t) => t.id).join('  '))]);
    });
    add(picture, [pane.element]);
    add(tryIt, [subjectForm(signal)]);
    watch(['subject'], signal, run);
    run();
  },
};
