// Source: what stands behind a number. Formula, gradient rule, the f64 twin, the kernels, and the time that they took.

import { h, add, fill } from '../lib/dom.js';
import * as api from '../lib/api.js';
import { Pane } from '../lib/pane.js';
import { roving } from '../lib/keyboard.js';
import { markdown } from '../lib/markdown.js';
import { code } from '../lib/code.js';
import { percent, whole } from '../lib/format.js';
import { sourceLink } from '../lib/look.js';

function one(answer) {
  const { op, formula, gradient, reference, wgsl, kernels, path, repository_lines: lines, time } = answer;
  const files = h('div.stack', { role: 'tabpanel', id: 'kernel-file' });
  const names = wgsl.map(({ name }) => name);
  const start = Math.max(0, names.indexOf(answer.shader));
  const tabs = h('div.tabs', { role: 'tablist', 'aria-label': 'Files of the kernels' }, names.map((name, i) => h('button', { type: 'button', role: 'tab', 'aria-controls': files.id, 'aria-selected': String(i === start), onclick: () => open(i) }, name)));
  const open = (i) => {
    [...tabs.children].forEach((tab, at) => tab.setAttribute('aria-selected', String(at === i)));
    fill(files, code(wgsl[i].text, 'wgsl', wgsl[i].name));
  };
  if (names.length) open(start);
  roving(tabs, '[role=tab]');
  return [
    h('section.card', h('h2', h('code', op)), h('p.note', 'In ', sourceLink(path), lines ? `, lines ${Array.isArray(lines) ? lines.join(' to ') : lines}` : '', time ? ` · in the last profile ${whole(time.calls)} calls, ${time.ms.toFixed(1)} ms, ${percent(time.share)} of the step` : ' · no profile of a run is open: train with --profile, and open the run, to see its time'),
      h('div.columns', h('section.stack.maths', h('h3', 'What it computes'), markdown(formula)), h('section.stack.maths', h('h3', 'How its gradient is found'), gradient ? markdown(gradient) : h('p', 'This op has no gradient.')))),
    h('section.card', h('h2', 'The f64 twin'), h('p', 'Plain Rust in double precision, with no device: what the kernel is compared with in the tests.'), code(reference, 'rust', `${op} in f64`)),
    h('section.card', h('h2', 'The kernels'), kernels?.length ? h('p', `${kernels.length} kernels may compute it; which one does depends on the device and the sizes: `, kernels.slice(0, 40).map((k, i) => [i ? ', ' : '', h('code', k.name)]), kernels.length > 40 ? ', …' : '') : null,
      names.length ? [h('p.note', 'WGSL, as the device gets it, file by file. The first comment says how it works, what it reads and what it adds up.'), tabs, files] : h('p', 'It runs without a kernel of its own.')),
  ];
}

async function show(body, { signal, query }) {
  const { ops } = await api.once('sources');
  if (signal.aborted) return;
  const wanted = query.get('op');
  const pane = new Pane('Reading the source', signal);
  const list = h('ul.op-list', { 'aria-label': 'Ops' }, ops.map((o) => h('li', h('a', { href: `#/source?op=${o.op}`, 'aria-current': o.op === wanted ? 'true' : null }, h('b', o.op), h('span', o.what.replace(/[`*]/g, ''))))));
  roving(list, 'a');
  const known = ops.some((o) => o.op === wanted);
  const file = query.get('file');
  if (file) {
    add(body, [pane.element, h('details.card.all-ops', h('summary', `All ${ops.length} ops`), list)]);
    pane.run((stop) => api.get('file', { path: file }, stop), ({ path, text }, place) => add(place, [h('section.card', h('h2', h('code', path)),
      h('p.note', `The file, ${whole(text.split('\n').length - 1)} lines, as this program was built from it.`), code(text, path.endsWith('.js') ? 'js' : 'rust', path))]));
  } else if (known) {
    add(body, [h('details.card.all-ops', h('summary', `All ${ops.length} ops`), list), pane.element]);
    pane.run((stop) => api.get('source', { op: wanted }, stop), (answer, place) => add(place, one(answer)));
  } else add(body, [wanted ? h('p.note', `There is no op “${wanted}”.`) : null, h('section.card', h('h2', 'All ops'), h('p', 'An op is one step of the computation. Everything that the studio shows was computed by these.'), list)]);
}

export default {
  id: 'source', withoutModel: true, key: 's', title: 'Source', source: 'src/studio/api/sources.rs',
  lead: 'The formula, the gradient, the plain twin and the kernel behind every number.',
  what: [
    'Everything that the model computes is made of a few operations, and each of them lives in one file of this program.',
    'Here is, for each, what it computes, how its gradient is derived, the same in plain f64 for checking, and the WGSL kernel that your device ran.',
    'The texts are read from the very files that this program was built from, so they cannot disagree with what it does.',
  ],
  show,
};
