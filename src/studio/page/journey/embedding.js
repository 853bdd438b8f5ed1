// Stop 2: the embedding, and RoPE, by which positions are told.

import { h, s, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { look } from '../lib/look.js';
import { slider } from '../lib/controls.js';
import { heat, scaleBar, namedHeat } from '../lib/heat.js';
import { asTable, table } from '../lib/table.js';
import { short, visible } from '../lib/format.js';

const based = (base) => Math.round(base).toLocaleString('en');
const PAIRS = [0, 2, 4, 7, 11, 16, 22, 31];

function clocks(place, rope, position) {
  const list = PAIRS.filter((i) => i < rope.frequencies.length);
  fill(place, h('div.clocks', { role: 'img', 'aria-label': `At position ${position}: ${list.map((i) => `pair ${i} turned by ${short((position * rope.frequencies[i]) % (2 * Math.PI))} radians`).join(', ')}` }, list.map((i) => {
    const angle = position * rope.frequencies[i];
    const turns = angle / (2 * Math.PI);
    return h('div.clock', s('svg', { viewBox: '-22 -22 44 44', 'aria-hidden': 'true' }, s('circle.face', { r: 20 }), s('line.hand', { x1: 0, y1: 0, x2: 17 * Math.sin(angle), y2: -17 * Math.cos(angle) }), s('circle.hub', { r: 2 })), h('span', `pair ${i}`), h('small', turns < 0.01 ? '< 0.01 turns' : `${turns.toFixed(2)} turns`));
  })));
}

export default {
  id: 'embedding', title: 'Embedding and RoPE', short: 'Embedding', source: 'src/studio/api/embedding.rs', view: 'source?op=rope', viewName: 'Source: rope',
  beats: [
    (model) => `Every id fetches its row of the embedding: a vector of ${model.hidden} numbers. Below are the first 64 of each.`,
    'Tokens of like meaning have like vectors. These numbers, not the letters, are what the layers work with.',
    'The vector does not know where it stands. So layers turn queries and keys by an angle that grows with the position: RoPE.',
    'Pairs of numbers are like clock hands: the first turn fast and tell neighbours apart, the last turn so slowly that they tell chapters apart.',
  ],
  change: 'Move along the text and watch the hands turn.',
  touches: 'The embedding stays frozen, and it is a large part of a small model. RoPE has no weights at all; to read longer texts than the model was made for, --rope-scaling stretches its angles.',
  show({ picture, tryIt, signal, state }) {
    const hands = h('div');
    let rope = null;
    let position = 1;
    const { bar, pane, run } = look({
      label: 'Fetching the embedding', signal, most: 48, ask: ({ ids, stop }) => post('embedding', { ids }, stop),
      draw: (answer, tokens, place) => {
        rope = answer.rope;
        const flat = answer.vectors.flat().map(Math.abs).sort((a, b) => a - b);
        const max = flat[Math.floor(0.995 * (flat.length - 1))] || 1;
        const picture_ = namedHeat({
          rowNames: tokens.map((t) => visible(t.text)), columnNames: [], rows: tokens.length, columns: answer.vectors[0].length, at: (r, c) => answer.vectors[r][c], scale: 'diverging', max, cell: [9, 15], signal,
          label: `First ${answer.vectors[0].length} numbers of each token`, name: (r, c, v) => `“${visible(tokens[r].text)}”, number ${c}: ${short(v)}`,
        });
        add(place, [h('figure', picture_.element, picture_.says, scaleBar({ scale: 'diverging', max, signal })),
          asTable('lengths of the vectors', () => table({ caption: 'Lengths of the vectors', rows: tokens.map((t, i) => ({ t, n: answer.norms[i] })), columns: [{ name: 'token', value: (r) => visible(r.t.text) }, { name: 'length', number: true, value: (r) => r.n, text: (r) => short(r.n) }] })),
          answer.multiplier === 1 ? null : h('p.note', `These are the rows times ${short(answer.multiplier)}: this model multiplies them before the first layer.`),
          h('h2', rope ? `RoPE with base ${based(rope.base)}` : 'This model does not rotate'), hands,
          rope && rope.layers < state.model.layers ? h('p.note', `So do ${rope.layers} of the ${state.model.layers} layers; ${rope.others.length ? `others have the base ${rope.others.map(based).join(' or ')}` : 'the others do not rotate at all'}.`) : null]);
        if (rope) clocks(hands, rope, position);
      },
    });
    add(picture, [pane.element]);
    const control = slider({ label: 'Position', min: 0, max: 200, step: 1, value: position, write: (n) => `token ${n}`, input: (n) => { position = n; if (rope) clocks(hands, rope, n); } });
    add(tryIt, [control.element, bar]);
    run();
    return { beat: (i) => { if (i === 3) { position = 12; control.put(12); if (rope) clocks(hands, rope, 12); } } };
  },
};
