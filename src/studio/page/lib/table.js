// Tables: also what every picture says, in words and numbers.

import { h, fill } from './dom.js';

/**
 * A table. `columns` are {name, value(row), text?(row), number?, bar?(row) 0..1}; a click on a head sorts. `pick(row)` makes rows buttons.
 */
export function table({ caption, columns, rows, pick, sort, limit = 200 }) {
  let order = sort ?? null;
  const body = h('tbody');
  const head = h('tr', columns.map((column, at) => h('th', { scope: 'col', class: column.number ? 'number' : null },
    h('button', { type: 'button', onclick: () => { order = { at, down: order?.at === at ? !order.down : Boolean(column.number) }; draw(); } }, column.name))));
  const draw = () => {
    const list = [...rows];
    if (order) {
      const { value } = columns[order.at];
      list.sort((a, b) => (value(a) > value(b) ? 1 : value(a) < value(b) ? -1 : 0) * (order.down ? -1 : 1));
    }
    [...head.children].forEach((th, at) => th.setAttribute('aria-sort', order?.at === at ? (order.down ? 'descending' : 'ascending') : 'none'));
    fill(body, list.slice(0, limit).map((row) => h('tr', columns.map((column, at) => {
      const text = (column.text ?? column.value)(row);
      const content = at === 0 && pick ? h('button.link', { type: 'button', onclick: () => pick(row) }, text) : text;
      const cell = h('td', { class: column.number ? 'number' : null }, content);
      if (column.bar) {
        cell.classList.add('with-bar');
        cell.style.setProperty('--share', Math.max(0, Math.min(1, column.bar(row))));
      }
      return cell;
    }))),
    list.length > limit && h('tr', h('td', { colspan: columns.length }, `… and ${list.length - limit} more`)));
  };
  draw();
  return h('div.table-scroll', { tabindex: 0, role: 'region', 'aria-label': caption }, h('table', h('caption', h('span', caption)), h('thead', head), body));
}

/** A table behind a disclosure: the alternative of a picture. The rows are made when it is opened, and anew by `renew()` of the element. */
export function asTable(caption, make) {
  const place = h('div');
  const element = h('details.as-table', { ontoggle: () => { if (element.open && !place.firstChild) place.append(make()); } },
    h('summary', `As a table: ${caption}`), place);
  element.renew = () => (element.open ? fill(place, make()) : fill(place));
  return element;
}
