// "Prove it": the gradient of one number of A, B or DoRA's m beside a finite difference that is measured on the device.

import { h, add, fill } from '../lib/dom.js';
import { get, post } from '../lib/api.js';
import { heat } from '../lib/heat.js';
import { record } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { choice, number } from '../lib/controls.js';
import { table } from '../lib/table.js';
import { short, percent } from '../lib/format.js';

/** `adapter`: whether one is open, so that its matrices can be shown and clicked. */
export function proveCard(signal, adapter) {
  const asked = { site: null, matrix: 'B', row: 0, column: 0 };
  const name = h('code', 'choose a cell in the map above');
  const pane = new Pane('Changing the number and computing the loss again', signal);
  const tried = [];
  const button = h('button.primary', { type: 'button', disabled: true, onclick: () => prove() }, 'Prove it');
  const prove = () => pane.run(async (stop) => post('prove', { record: record(), ...asked }, stop), (answer, place) => {
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
  const row = number({ label: 'Row', value: 0, min: 0, max: 1e6, change: (n) => (asked.row = n) });
  const column = number({ label: 'Column', value: 0, min: 0, max: 1e6, change: (n) => (asked.column = n) });
  const choosing = new Pane('Reading the matrix', signal);
  const matrices = choice({ label: 'Matrix', value: 'B', options: [['A', 'A'], ['B', 'B'], ['m', 'm']], change: (v) => { asked.matrix = v; picture(); } });
  const magnitude = matrices.element.querySelector('[data-value=m]');
  const picture = () => {
    choosing.stop();
    fill(choosing.body);
    if (adapter && asked.site && asked.matrix !== 'm') draw();
  };
  const draw = () => choosing.run((stop) => get('lora/site', { name: asked.site }, stop), (answer, place) => {
    const { rows, columns, values, of, averaged } = answer[asked.matrix.toLowerCase()];
    // A cell of an averaged picture stands for a block, of which the first number is taken.
    const first = (at, shown, all) => Math.floor((at * all) / shown);
    const drawn = heat({
      rows, columns, at: (r, c) => values[r * columns + c], scale: 'diverging', label: `${asked.matrix}, ${of.join(' × ')}`, signal, cell: [Math.max(3, Math.min(16, 640 / columns)), Math.max(3, Math.min(16, 256 / rows))],
      name: (r, c, v) => `${asked.matrix}[${first(r, rows, of[0])}, ${first(c, columns, of[1])}]${averaged ? ' and its neighbours' : ''}: ${short(v)}`,
      pick: (r, c) => { asked.row = first(r, rows, of[0]); asked.column = first(c, columns, of[1]); row.input.value = asked.row; column.input.value = asked.column; prove(); },
    });
    add(place, [h('figure', drawn.element, drawn.says, h('figcaption', `${asked.matrix} of ${asked.site}, ${of.join(' × ')}: click a number to prove its gradient.`))]);
  });
  const element = h('section.card', h('h2', 'Prove it'),
    h('p', 'A gradient claims: change this number by a little, and the loss changes by so much. So change it, on the device, and look.'),
    h('div.row', h('div.field', h('span.field-label', 'Site'), name),
      matrices.element,
      row.element, column.element, button),
    choosing.element,
    h('p.note', 'A has as many rows as the rank, B as many columns, DoRA’s m one column; all are counted from 0.'), pane.element);
  return {
    element,
    site: (site) => {
      if (!site) return;
      asked.site = site.site;
      fill(name, site.site);
      button.disabled = false;
      // Only DoRA has an m.
      magnitude.hidden = site.m_norm === null || site.m_norm === undefined;
      if (magnitude.hidden && asked.matrix === 'm') { asked.matrix = 'B'; matrices.put('B'); }
      picture();
    },
    clear: () => { pane.stop(); fill(pane.body); tried.length = 0; },
  };
}
