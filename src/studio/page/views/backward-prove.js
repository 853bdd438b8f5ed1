// "Prove it": the gradient of one number of A or B beside a finite difference that is measured on the device.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { record } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { choice, number } from '../lib/controls.js';
import { table } from '../lib/table.js';
import { short, percent } from '../lib/format.js';

export function proveCard(signal) {
  const asked = { site: null, matrix: 'B', row: 0, column: 0 };
  const name = h('code', 'choose a cell in the map above');
  const pane = new Pane('Changing the number and computing the loss again', signal);
  const tried = [];
  const button = h('button.primary', { type: 'button', disabled: true, onclick: () => prove() }, 'Prove it');
  const prove = () => pane.run((stop) => post('prove', { record: record(), ...asked }, stop), (answer, place) => {
    tried.unshift({ ...asked, ...answer });
    const { gradient, difference, relative, step, value, uncertainty, losses } = answer;
    const close = uncertainty === undefined || Math.abs(gradient - difference) <= Math.max(3 * uncertainty, 0.05 * Math.abs(gradient));
    add(place, [
      h('dl.big-numbers', [['the number', short(value)], ['by the backward pass', gradient.toExponential(4)], ['by differences', difference.toExponential(4), uncertainty === undefined ? '' : `± ${short(uncertainty)}`], ['they differ by', percent(relative, 2), close ? 'as the measurement allows' : 'more than the measurement allows']]
        .map(([dt, dd, note]) => h('div', h('dt', dt), h('dd', dd, note && h('small', note))))),
      losses && h('p.note', `The number was set to ${[-2, -1, 1, 2].map((t) => `${t < 0 ? '−' : '+'}${Math.abs(t) === 1 ? '' : '2'}h`).join(', ')} from where it was (h = ${short(step)}), and the loss became ${losses.map((l) => l.toFixed(6)).join(', ')}. Its slope is the difference. The adapter is what it was again.`),
      tried.length > 1 ? table({ caption: 'Proofs so far', rows: tried, columns: [{ name: 'where', value: (t) => `${t.site} ${t.matrix}[${t.row}, ${t.column}]` }, { name: 'backward', number: true, value: (t) => t.gradient, text: (t) => t.gradient.toExponential(3) }, { name: 'difference', number: true, value: (t) => t.difference, text: (t) => t.difference.toExponential(3) }, { name: 'apart', number: true, value: (t) => t.relative, text: (t) => percent(t.relative, 2) }] }) : null,
    ]);
  });
  const element = h('section.card', h('h2', 'Prove it'),
    h('p', 'A gradient claims: change this number by a little, and the loss changes by so much. So change it, on the device, and look.'),
    h('div.row', h('div.field', h('span.field-label', 'Site'), name),
      choice({ label: 'Matrix', value: 'B', options: [['A', 'A'], ['B', 'B']], change: (v) => (asked.matrix = v) }).element,
      number({ label: 'Row', value: 0, min: 0, max: 1e6, change: (n) => (asked.row = n) }).element,
      number({ label: 'Column', value: 0, min: 0, max: 1e6, change: (n) => (asked.column = n) }).element, button),
    h('p.note', 'A has as many rows as the rank, B as many columns; both are counted from 0.'), pane.element);
  return {
    element,
    site: (site) => { if (!site) return; asked.site = site.site; fill(name, site.site); button.disabled = false; },
    clear: () => { pane.stop(); fill(pane.body); tried.length = 0; },
  };
}
