// What has been: runs and sweeps that lie below the folder of the studio, side by side.

import { h, s, add, fill } from '../lib/dom.js';
import * as api from '../lib/api.js';
import { Pane, errorBox } from '../lib/pane.js';
import { lineChart } from '../lib/charts.js';
import { table } from '../lib/table.js';
import { percent, short, whole } from '../lib/format.js';
import { checks } from './theatre-run.js';

const MOST = 6;

function spark(curve) {
  if (curve.length < 2) return '';
  const ys = curve.map(([, y]) => y), low = Math.min(...ys), high = Math.max(...ys);
  const x = (v) => ((v - curve[0][0]) / (curve[curve.length - 1][0] - curve[0][0] || 1)) * 88 + 1;
  const y = (v) => 21 - ((v - low) / (high - low || 1)) * 20;
  return s('svg.spark', { width: 90, height: 22, role: 'img', 'aria-label': `loss from ${short(ys[0])} to ${short(ys[ys.length - 1])}` }, s('path', { d: curve.map(([a, b], i) => `${i ? 'L' : 'M'}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join('') }));
}

const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' }) : '');

async function compared(runs, chosen, signal, place) {
  const dirs = runs.map((run) => run.dir).filter((dir) => chosen.has(dir));
  if (!dirs.length) { fill(place, h('p.note', `Tick up to ${MOST} runs to lay their curves over each other.`)); return; }
  let list;
  try { list = await Promise.all(dirs.map((dir) => api.get('run', { dir }, signal))); } catch (error) { if (error.name !== 'AbortError') fill(place, errorBox(error)); return; }
  const line = (key) => list.map((run) => ({ name: run.dir, points: run.metrics.filter((m) => Number.isFinite(m[key])).map((m) => [m.step, m[key]]) })).filter((each) => each.points.length);
  const options = [...new Set(list.flatMap((run) => Object.keys(run.about?.options ?? {})))].filter((key) => new Set(list.map((run) => run.about?.options?.[key])).size > 1);
  const held = line('eval_loss');
  const right = list.map((run) => ({ name: run.dir, points: checks(run.metrics)[0]?.points ?? [] })).filter((each) => each.points.length);
  fill(place,
    lineChart({ label: 'Loss by step of the chosen runs', series: line('loss'), x: { label: 'step' }, y: { label: 'loss', from: 0 }, signal, height: 260 }),
    held.length ? lineChart({ label: 'Held-out loss of the chosen runs', series: held, x: { label: 'step' }, y: { label: 'held-out loss', from: 0 }, signal, height: 220 }) : null,
    right.length ? lineChart({ label: 'Questions answered right, of the chosen runs', series: right, x: { label: 'step' }, y: { label: 'share answered right', from: 0, to: 1 }, write: (p) => percent(p), signal, height: 220 }) : null,
    list.length > 1 ? table({ caption: options.length ? 'What differs between them' : 'Their options are the same', rows: options, columns: [{ name: 'option', value: (key) => key }, ...list.map((run) => ({ name: run.dir, value: (key) => run.about?.options?.[key] ?? '–' }))] }) : null);
}

function sweep({ dir, results }) {
  const figures = [...new Set(results.arms.flatMap((arm) => Object.keys(arm.figures ?? {})))];
  const value = (figure) => (typeof figure === 'number' ? figure : figure?.mean ?? figure?.value ?? NaN);
  return h('section.stack', h('h3', dir),
    results.best ? h('p', 'Chosen: ', h('b', results.best.arm), ` by ${results.best.by}.`) : h('p.note', results.complete ? '' : 'Not finished yet.'),
    table({
      caption: `Arms of ${dir}`, rows: results.arms,
      columns: [{ name: 'arm', value: (arm) => arm.name }, { name: 'varies', value: (arm) => Object.entries(arm.varies ?? {}).map(([k, v]) => `${k} = ${v}`).join(', ') }, { name: 'runs', number: true, value: (arm) => arm.runs?.length ?? 0 },
        ...figures.map((name) => ({ name: name.replaceAll('_', ' '), number: true, value: (arm) => value(arm.figures?.[name]), text: (arm) => short(value(arm.figures?.[name])) }))],
    }));
}

/** `show(run)` is called with the run that was opened. */
export function pastRuns({ signal, show }) {
  const pane = new Pane('Looking for runs', signal);
  const chosen = new Set();
  const picture = h('div');
  const open = async (run, cell) => {
    try { show(await api.post('run/show', { dir: run.dir })); scrollTo({ top: 0 }); } catch (error) { cell.replaceChildren(h('span.bad', `${error.message}: ${error.propose ?? ''}`)); }
  };
  const refresh = () => pane.run((stop) => api.get('runs', {}, stop), ({ runs, sweeps, cut }, place) => {
    if (!runs.length && !sweeps.length) { add(place, [h('p', 'There are none below the folder that the studio was started in.')]); return; }
    compared(runs, chosen, signal, picture);
    const row = (run) => {
      const box = h('input', { type: 'checkbox', 'aria-label': `compare ${run.dir}`, checked: chosen.has(run.dir), onchange: () => { if (box.checked) chosen.add(run.dir); else chosen.delete(run.dir); if (chosen.size > MOST) { chosen.delete(run.dir); box.checked = false; } compared(runs, chosen, signal, picture); } });
      const cell = h('td');
      cell.append(h('button.small', { type: 'button', onclick: () => open(run, cell) }, 'Show'));
      return h('tr', h('td', box), h('td', h('b', run.dir), h('small.block', run.model ?? '')), h('td', spark(run.curve)), h('td.number', `${whole(run.steps)}${run.total_steps ? ` of ${whole(run.total_steps)}` : ''}`), h('td.number', short(run.loss)), h('td.number', short(run.eval_loss)), h('td', run.running ? 'training' : run.adapter ? 'has an adapter' : ''), h('td', when(run.changed)), cell);
    };
    add(place, [
      runs.length ? h('div.table-scroll', { tabindex: 0, role: 'region', 'aria-label': 'Runs' }, h('table', h('thead', h('tr', ['compare', 'folder', 'loss', 'steps', 'last loss', 'held-out', 'state', 'when', 'show'].map((name, i) => h('th', { scope: 'col', class: i >= 3 && i <= 5 ? 'number' : null }, name)))), h('tbody', runs.map(row)))) : null,
      runs.length ? picture : null, sweeps.length ? [h('h2', 'Sweeps'), sweeps.map(sweep)] : null, cut ? h('p.note', 'There are more folders than are looked into; start the studio in a folder nearer to your runs.') : null]);
  });
  return { element: h('section.card', h('div.row', h('h2', 'Runs of the past'), h('button.small', { type: 'button', onclick: refresh }, 'Look again')), pane.element), refresh };
}
