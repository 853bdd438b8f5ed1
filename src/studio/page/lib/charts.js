// Charts of our own, in SVG, drawn at their true width so that text keeps its size. Each has words: a label, a readout that the arrow keys
// move, and a table behind a disclosure.

import { h, s, fill, onWidth } from './dom.js';
import { SERIES } from './colour.js';
import { asTable, table } from './table.js';
import { short } from './format.js';

/** Round numbers between two ends. */
export function ticks(from, to, about = 5) {
  const span = to - from || 1;
  const raw = span / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const list = [];
  for (let t = Math.ceil(from / step) * step; t <= to + step * 1e-6; t += step) list.push(Math.abs(t) < step * 1e-6 ? 0 : t);
  return list;
}

/**
 * Lines. `series` are {name, points: [[x, y]...], area?, marks?}. `x`, `y` are {label, log?, from?, to?}. `put(series)` of the element draws
 * others in their place, and keeps what is read there: the focus, the cursor, the open table.
 */
export function lineChart({ label, caption, series: first, x, y, height = 220, signal, write = short, empty = 'Nothing yet.' }) {
  let series = first;
  const plot = h('div.plot', { tabindex: 0, role: 'group', 'aria-label': `${label}. Left and right arrows read the values.` });
  const readout = h('p.readout', { 'aria-live': 'polite' });
  const legend = h('ul.legend');
  const numbers = asTable(label, () => table({
    caption: label, rows: series.flatMap((line) => line.points.map(([px, py]) => ({ name: line.name, px, py }))), limit: 500,
    columns: [{ name: 'series', value: (r) => r.name ?? label }, { name: x.label, number: true, value: (r) => r.px, text: (r) => tidy(r.px) }, { name: y.label, number: true, value: (r) => r.py, text: (r) => write(r.py) }],
  }));
  const figure = h('figure.chart', plot, legend, readout, caption && h('figcaption', caption), numbers);
  const f = y.log ? Math.log10 : (v) => v;
  let xs = [], at = -1, width = 0;
  let place = () => {};
  const draw = () => {
    const all = series.flatMap((line) => line.points).filter(([, v]) => Number.isFinite(v) && (!y.log || v > 0));
    const read = xs[at];
    xs = [...new Set(all.map(([px]) => px))].sort((a, b) => a - b);
    at = xs.indexOf(read);
    legend.hidden = series.length < 2 && !series[0]?.name;
    fill(legend, series.map((line, i) => h('li', key(i, line.marks), line.name)));
    if (!all.length) {
      fill(plot, h('p.note', empty));
      return;
    }
    if (!width) return;
    const yFrom = y.from ?? Math.min(...all.map(([, v]) => v)), yTo = y.to ?? Math.max(...all.map(([, v]) => v));
    const xFrom = x.from ?? xs[0], xTo = x.to ?? xs[xs.length - 1];
    const pad = y.from === undefined && !y.log ? (yTo - yFrom || Math.abs(yTo) || 1) * 0.06 : 0;
    const low = f(yFrom) - pad, high = f(yTo) + (y.log ? 0.05 : (yTo - yFrom || 1) * 0.06);
    const yTicks = y.log ? logTicks(low, high) : ticks(low, high, Math.max(2, Math.round(height / 50)));
    const left = Math.max(...yTicks.map((t) => tidy(y.log ? 10 ** t : t).length)) * 6.5 + 12, right = 10, top = 8, bottom = 34;
    const px = (v) => left + ((v - xFrom) / (xTo - xFrom || 1)) * (width - left - right);
    const py = (v) => top + (1 - (f(v) - low) / (high - low || 1)) * (height - top - bottom);
    const cursor = s('line.cursor', { y1: top, y2: height - bottom, visibility: 'hidden' });
    const svg = s('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' },
      s('g.axis', yTicks.map((t) => { const v = y.log ? 10 ** t : t; return [s('line', { x1: left, x2: width - right, y1: py(v), y2: py(v) }), s('text', { x: left - 6, y: py(v) + 4, 'text-anchor': 'end' }, tidy(v))]; })),
      s('g', ticks(xFrom, xTo, Math.max(2, Math.round(width / 110))).map((t) => s('text', { x: px(t), y: height - bottom + 15, 'text-anchor': 'middle' }, tidy(t)))),
      s('text.axis-label', { x: (left + width - right) / 2, y: height - 3, 'text-anchor': 'middle' }, x.label),
      series.map((line, i) => drawn(line, i, px, py, f(Math.max(yFrom, y.log ? 1e-30 : -Infinity)), y, height - bottom)),
      cursor);
    fill(plot, h('span.y-label', y.label), svg);
    place = () => {
      if (at < 0) return;
      cursor.setAttribute('x1', px(xs[at]));
      cursor.setAttribute('x2', px(xs[at]));
      cursor.setAttribute('visibility', 'visible');
      const said = `${x.label} ${tidy(xs[at])}: ` + series.map((line) => [line.name, line.points.find(([p]) => p === xs[at])]).filter(([, p]) => p).map(([name, p]) => `${name ? `${name} ` : ''}${write(p[1])}`).join(', ');
      if (readout.textContent !== said) readout.textContent = said;
    };
    svg.addEventListener('pointermove', (event) => {
      const box = svg.getBoundingClientRect();
      const v = xFrom + ((event.clientX - box.left - left) / (width - left - right)) * (xTo - xFrom);
      at = xs.reduce((best, p, i) => (Math.abs(p - v) < Math.abs(xs[best] - v) ? i : best), 0);
      place();
    });
    place();
  };
  draw();
  onWidth(plot, signal, (wide) => {
    width = wide;
    draw();
  });
  figure.put = (next) => {
    series = next;
    draw();
    numbers.renew();
  };
  plot.addEventListener('keydown', (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    at = Math.max(0, Math.min(xs.length - 1, at + move));
    if (xs.length) place();
  });
  return figure;
}

const tidy = (v) => { const r = Number(v.toPrecision(4)); return (Math.abs(r) >= 1e5 || (r && Math.abs(r) < 1e-3) ? r.toExponential() : String(r)).replace('-', '−'); };

// Powers of ten, or 1, 2 and 5 times them where these are too few.
function logTicks(low, high) {
  const list = (times) => {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++) for (const m of times) { const t = power + Math.log10(m); if (t >= low && t <= high) found.push(t); }
    return found;
  };
  return high - low > 2.5 ? list([1]) : list([1, 2, 5]);
}

function key(i, marks) {
  const { colour, dash } = SERIES[i % SERIES.length];
  return s('svg.key-line', { width: 26, height: 10, 'aria-hidden': 'true' }, marks ? s('circle', { cx: 13, cy: 5, r: 3.5, fill: colour }) : s('line', { x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, 'stroke-width': 2.5, 'stroke-dasharray': dash || null }));
}

function drawn(line, i, px, py, floor, y, bottom) {
  const { colour, dash } = SERIES[i % SERIES.length];
  const points = line.points.filter(([, v]) => Number.isFinite(v) && (!y.log || v > 0));
  if (line.marks || points.length === 1) return points.map(([a, b]) => s('circle', { cx: px(a), cy: py(b), r: 3.5, fill: colour }));
  const path = points.map(([a, b], n) => `${n ? 'L' : 'M'}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join('');
  return [
    line.area && points.length && s('path', { d: `${path}L${px(points[points.length - 1][0])} ${bottom}L${px(points[0][0])} ${bottom}Z`, fill: colour, opacity: 0.15 }),
    s('path', { d: path, fill: 'none', stroke: colour, 'stroke-width': 2, 'stroke-dasharray': dash || null, 'stroke-linejoin': 'round' }),
  ];
}

/** Bars with words: [{name, value, text?, graft?}], each as long as its share of the largest (or of `of`). */
export function bars(list, { of, label } = {}) {
  const most = of ?? Math.max(...list.map(({ value }) => value), 1e-30);
  return h('div.bars', { role: 'list', 'aria-label': label }, list.map(({ name, value, text, graft, title }) => {
    const fillbar = h('i');
    fillbar.style.setProperty('--share', Math.max(0, Math.min(1, value / most)));
    return h('div.bar-row', { role: 'listitem' }, h('span.bar-name', { title }, name), h('div.bar', { class: graft ? 'bar graft' : 'bar', 'aria-hidden': 'true' }, fillbar), h('span', text ?? short(value)));
  }));
}

/** One bar cut into parts that are named under it: [{name, value, text, tone}]. */
export function stacked(parts, { label }) {
  const total = parts.reduce((sum, { value }) => sum + value, 0) || 1;
  return h('figure',
    h('div.stacked', { role: 'img', 'aria-label': `${label}: ${parts.map(({ name, text }) => `${name} ${text}`).join(', ')}` }, parts.map(({ value, tone }) => {
      const piece = h('i', { class: tone });
      piece.style.setProperty('flex-grow', value / total);
      return piece;
    })),
    h('ul.legend', parts.map(({ name, text, tone }) => h('li', h('i.swatch', { class: `swatch ${tone}` }), `${name} ${text}`))));
}
