// Matrices as pictures: one cell a number, a colour scale with its ends written beside it, and words for the cell under the pointer or the
// keyboard's cursor.

import { h, onWidth } from './dom.js';
import { scales, onTheme, css, inkOn } from './colour.js';
import { short } from './format.js';

/**
 * A picture of `rows` x `columns` cells. `at(row, column)` is a number or null (no cell). `scale` is 'sequential' or 'linear' (0 to `max`) or 'diverging'
 * (-`max` to `max`). `name(row, column, value)` says a cell in words. `pick(row, column)` makes cells choosable. `cell` is [width, height]
 * in pixels at the most; the picture shrinks with the page, unless it `scrolls` in its own box.
 */
export function heat({ rows, columns, at, scale = 'sequential', max, cell = [12, 12], label, name, pick, signal, readout, chosen, quiet, scrolls }) {
  const canvas = h('canvas', { width: columns, height: rows });
  const cursor = h('div.heat-cursor', { hidden: true });
  const says = readout ?? h('p.readout', { 'aria-live': 'polite' });
  const box = h('div.heat', { tabindex: quiet ? null : 0, role: pick ? 'application' : 'img', 'aria-label': `${label}${pick ? '. Arrow keys move, Enter chooses.' : quiet ? '' : '. Arrow keys read the cells.'}` }, canvas, cursor);
  canvas.style.setProperty('width', `${columns * cell[0]}px`);
  canvas.style.setProperty('height', `${rows * cell[1]}px`);
  if (!scrolls) canvas.style.setProperty('max-width', '100%');
  if (cell[0] === cell[1]) {
    canvas.style.setProperty('height', 'auto');
    canvas.style.setProperty('aspect-ratio', `${columns} / ${rows}`);
  }
  const top = max ?? largest(rows, columns, at);
  const draw = () => {
    const colours = scales();
    const context = canvas.getContext('2d');
    const image = context.createImageData(columns, rows);
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) {
        const value = at(r, c);
        const rgb = value === null || value === undefined || !Number.isFinite(value) ? colours.none : colours[scale](value / (top || 1));
        image.data.set([...rgb, 255], 4 * (r * columns + c));
      }
    }
    context.putImageData(image, 0, 0);
  };
  draw();
  onTheme(signal, draw);
  let place = chosen ?? null;
  const mark = (r, c) => {
    place = [r, c];
    cursor.hidden = false;
    for (const [key, value] of [['left', c / columns], ['top', r / rows], ['width', 1 / columns], ['height', 1 / rows]]) cursor.style.setProperty(key, `${100 * value}%`);
  };
  const tell = (r, c) => { if (name) says.textContent = name(r, c, at(r, c)); };
  if (place) mark(...place);
  if (!quiet) {
    const under = (event) => {
      const rect = canvas.getBoundingClientRect();
      const spot = (x, size, of) => Math.max(0, Math.min(of - 1, Math.floor((x / size) * of)));
      return [spot(event.clientY - rect.top, rect.height, rows), spot(event.clientX - rect.left, rect.width, columns)];
    };
    canvas.addEventListener('pointermove', (event) => tell(...under(event)));
    canvas.addEventListener('click', (event) => { const spot = under(event); mark(...spot); tell(...spot); pick?.(...spot); });
    box.addEventListener('keydown', (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: [0, -columns], End: [0, columns], PageUp: [-rows, 0], PageDown: [rows, 0] }[event.key];
      if (move) {
        event.preventDefault();
        event.stopPropagation();
        const [r, c] = place ?? move.map((by) => (by ? -1 : 0));
        mark(Math.max(0, Math.min(rows - 1, r + move[0])), Math.max(0, Math.min(columns - 1, c + move[1])));
        tell(...place);
        cursor.scrollIntoView({ block: 'nearest', inline: 'nearest' });
      } else if ((event.key === 'Enter' || event.key === ' ') && place && pick) {
        event.preventDefault();
        event.stopPropagation();
        pick(...place);
      }
    });
  }
  return { element: box, says, mark, max: top };
}

function largest(rows, columns, at) {
  let most = 0;
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) { const v = at(r, c); if (Number.isFinite(v)) most = Math.max(most, Math.abs(v)); }
  return most;
}

/** The colour scale with its ends in numbers. */
export function scaleBar({ scale, max, signal, write = short, words }) {
  const canvas = h('canvas', { width: 64, height: 1, 'aria-hidden': 'true' });
  const draw = () => {
    const colours = scales();
    const context = canvas.getContext('2d');
    for (let i = 0; i < 64; i++) {
      context.fillStyle = css(colours[scale](scale === 'diverging' ? (i / 63) * 2 - 1 : i / 63));
      context.fillRect(i, 0, 1, 1);
    }
  };
  draw();
  onTheme(signal, draw);
  return h('div.scale', scale === 'diverging' ? write(-max) : '0', canvas, write(max), words && h('span', words));
}

/** A shade for a token: background and readable ink, from 0 to 1 (or -1 to 1). */
export function shade(value, scale = 'sequential') {
  const rgb = scales()[scale](value);
  return { background: css(rgb), ink: inkOn(rgb) };
}

/** A heat picture whose rows and columns have names, such as layers and modules. */
export function namedHeat({ rowNames, columnNames, title, ...rest }) {
  // A picture without names of its columns has tokens both ways: on a narrow page it scrolls beside the names of its rows.
  const scrolls = columnNames.length === 0;
  const picture = heat({ rows: rowNames.length, columns: columnNames.length, scrolls, ...rest }); // `rest` may give another number of columns
  const grid = h('div.named-heat', h('div.row-names', { 'aria-hidden': 'true' }, rowNames.map((name) => h('span', name))),
    h('div.column-names', { 'aria-hidden': 'true' }, columnNames.map((name, i) => h('span', { class: columnNames.length > 12 && i % 5 ? 'minor' : null }, name))), picture.element);
  if (scrolls) grid.classList.add('token-heat');
  // Names are as tall as the rows really are.
  onWidth(picture.element, rest.signal, () => {
    const row = picture.element.clientHeight / rowNames.length;
    grid.style.setProperty('--name-size', `${Math.min(12, 0.86 * row).toFixed(1)}px`);
  });
  return { ...picture, element: h('div.stack', title && h('p.note', title), grid) };
}
