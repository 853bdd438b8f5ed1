// Stop 7: formats and precision. The bits of one real number of this model, the error of each format, and the bytes of the model.

import { h, add, fill } from '../lib/dom.js';
import { once, post } from '../lib/api.js';
import { look } from '../lib/look.js';
import { slider } from '../lib/controls.js';
import { formats as formatTable } from '../views/anatomy.js';
import { short, visible } from '../lib/format.js';
import { f32Bits, bf16, f16, q8_0, q4_0 } from './bits.js';

function bitRow(name, groups, value, exact) {
  const error = exact === 0 ? 0 : Math.abs((value - exact) / exact);
  return [h('span.bits-name', name), h('span.bits', { role: 'img', 'aria-label': `${name}: ${groups.map(([bits, kind]) => `${kind} ${bits}`).join(', ')}` }, groups.map(([bits, kind]) => h('span', { class: `bit-group bit-${kind}`, title: kind }, [...bits].map((b) => h('i', b))))),
    h('span.bits-value', `${value.toPrecision(6)}`, h('small', error === 0 ? ' exact' : ` off by ${short(100 * error)} %`))];
}

export default {
  id: 'formats', title: 'Formats and precision', short: 'Formats', source: 'src/storage/mod.rs', view: 'anatomy', viewName: 'Anatomy',
  beats: [
    'All these numbers have to rest somewhere. In f32 each takes 32 bits: one for the sign, eight for the size, the rest for precision.',
    'Blocks of 32 numbers can share one scale: then eight bits a number are plenty, and four are often enough.',
    (model) => `Your file keeps most of its weights as ${model.format}. The table shows what this model would occupy in each format, and how far off a matrix of it would be.`,
  ],
  change: 'Choose another number of the first token’s vector and see how each format keeps it.',
  touches: 'The frozen weights may rest in 4 bits (with --weights nf4 that is QLoRA), since they are only read. The adapter is trained in f32, and saved in it: small steps need the precision.',
  show({ picture, tryIt, signal, state }) {
    const place = h('div.stack');
    let vector = null;
    let token = '';
    let at = 3;
    const draw = () => {
      if (!vector) return;
      const block = vector.slice(0, 32);
      const x = Math.fround(block[at]);
      fill(place, h('p', `Number ${at} of the vector of “${visible(token)}”, as it enters the first layer:`),
        h('div.bit-table', bitRow('f32', f32Bits(x), x, x), bitRow('bf16', ...bf16(x), x), bitRow('f16', ...f16(x), x), bitRow('q8_0', ...q8_0(block, at), x), bitRow('q4_0', ...q4_0(block, at), x)),
        h('ul.legend', [['sign', 'sign'], ['exponent', 'exponent (size)'], ['fraction', 'fraction (precision)'], ['code', 'code, times the scale of its block of 32']].map(([kind, text]) => h('li', h('i', { class: `swatch bit-${kind}` }), text))));
    };
    const { pane, run, bar } = look({
      label: 'Measuring formats', signal, ask: async ({ ids, stop }) => ({ embedding: await post('embedding', { ids: ids.slice(0, 1) }, stop), anatomy: await once('anatomy') }),
      draw: ({ embedding, anatomy }, tokens, body) => { [vector] = embedding.vectors; token = tokens[0].text; add(body, [place, formatTable(anatomy.formats, state.model)]); draw(); },
    });
    add(picture, [pane.element]);
    add(tryIt, [slider({ label: 'Number', min: 0, max: 31, step: 1, value: at, input: (n) => { at = n; draw(); } }).element, bar]);
    run();
  },
};
