// Stop 7: formats and precision. One real weight of this model in every format, the error of each format, and the bytes of the model.

import { h, add, debounce } from '../lib/dom.js';
import { once, post } from '../lib/api.js';
import { Pane } from '../lib/pane.js';
import { slider, select } from '../lib/controls.js';
import { formats as formatTable } from '../views/anatomy.js';
import { short } from '../lib/format.js';

const exactly = (x) => String(Number(x.toPrecision(6))).replaceAll('-', '−');
const KINDS = ['sign', 'exponent', 'fraction'];

function row({ name, value, bits, block, block_bytes: bytes }, exact) {
  const off = exact === 0 ? Math.abs(value) : Math.abs((value - exact) / exact);
  const picture = bits
    ? h('span.bits', { role: 'img', 'aria-label': bits.map((b, i) => `${KINDS[i]} ${b}`).join(', ') }, bits.map((group, i) => h('span', { class: `bit-group bit-${KINDS[i]}`, title: KINDS[i] }, [...group].map((b) => h('i', b)))))
    : h('span.block-bits', `${block} weights share ${bytes} bytes: ${((8 * bytes) / block).toFixed(2)} bits each`);
  return [h('span.bits-name', name), picture, h('span.bits-value', exactly(value), h('small', off === 0 ? ' same' : ` off by ${short(100 * off)} %`))];
}

export default {
  id: 'formats', title: 'Formats and precision', short: 'Formats', source: 'src/storage/mod.rs', view: 'anatomy', viewName: 'Anatomy',
  beats: [
    'All these numbers have to rest somewhere. In f32 each takes 32 bits: one for the sign, eight for the size, the rest for precision.',
    'Blocks of 32 or more numbers can share a scale: then eight bits a number are plenty, and four are often enough.',
    (model) => `Your file keeps most of its weights as ${model.format}. The table shows what this model would occupy in each format, and how far off a matrix of it would be.`,
  ],
  change: 'Choose another weight and see how each format keeps it.',
  touches: 'The frozen weights may rest in 4 bits (with --weights nf4 that is QLoRA), since they are only read. The adapter is trained in f32, and saved in it: small steps need the precision.',
  async show({ picture, tryIt, signal, state }) {
    const anatomy = await once('anatomy');
    if (signal.aborted) return;
    const matrices = anatomy.modules.filter((m) => m.shape.length === 2 && m.part !== 'norm');
    const asked = { site: (matrices.find((m) => m.module === 'q_proj') ?? matrices[0]).site, row: 0, column: 3 };
    const pane = new Pane('Reading a weight', signal);
    const run = debounce(60, () => pane.run((stop) => post('weight', asked, stop), ({ value, format, formats: rows }, place) => add(place, [
      h('p', `Row ${asked.row}, column ${asked.column} of ${asked.site} is `, h('b', exactly(value)), `, as the file keeps it (${format}).`),
      h('div.bit-table', rows.map((each) => row(each, value))),
      h('ul.legend', [['sign', 'sign'], ['exponent', 'exponent (size)'], ['fraction', 'fraction (precision)']].map(([kind, text]) => h('li', h('i', { class: `swatch bit-${kind}` }), text)))])));
    const at = (key, label) => slider({ label, min: 0, max: 63, step: 1, value: asked[key], input: (n) => { asked[key] = n; run(); } }).element;
    add(picture, [pane.element, formatTable(anatomy, state.model)]);
    add(tryIt, [select({ label: 'Matrix', value: asked.site, options: matrices.map((m) => [m.site, m.site]), change: (v) => { asked.site = v; run(); } }).element, at('row', 'Row'), at('column', 'Column')]);
    run();
  },
};
