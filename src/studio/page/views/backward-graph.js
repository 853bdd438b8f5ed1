// The graph of the training step by layer: forward, backward, and greyed what another trainer would compute and this one does not.

import { h, fill } from '../lib/dom.js';
import { roving } from '../lib/keyboard.js';
import { asTable, table } from '../lib/table.js';
import { whole } from '../lib/format.js';

const STATES = { forward: 'forward', backward: 'backward', skipped: 'not computed' };

/** `graph` is {nodes: [{name, op, layer, state, why}], counts}. */
export function stepGraph({ nodes, counts }, layers) {
  const readout = h('p.readout', { 'aria-live': 'polite' }, 'Point at a node, or move with the arrow keys.');
  const rows = [['before the layers', []], ...Array.from({ length: layers }, (_, l) => [`layer ${l}`, []]), ['output and loss', []]];
  let passed = false;
  for (const node of nodes) {
    if (node.layer !== null && node.layer !== undefined) { rows[node.layer + 1][1].push(node); passed = true; } else rows[passed || node.state !== 'forward' ? layers + 1 : 0][1].push(node);
  }
  const tell = (node) => fill(readout, h('b', node.name), ` · ${node.op} · ${STATES[node.state]}: ${node.why}`);
  // Of three hundred nodes a layer only one group at a time is drawn as buttons: a layer's row is opened by its head.
  const strip = (list, name) => {
    const parts = Object.keys(STATES).map((state) => list.filter((n) => n.state === state));
    const line = h('div.graph-row', { role: 'group', 'aria-label': `${name}: ${parts.map((p, i) => `${p.length} ${Object.values(STATES)[i]}`).join(', ')}` },
      h('span.graph-name', name), h('div.graph-parts', parts.map((part, i) => h('div.graph-part', part.map((node) => {
        const dot = h('button.node', { type: 'button', class: `node is-${Object.keys(STATES)[i]}`, 'aria-label': `${node.name}, ${node.op}, ${STATES[node.state]}`, onclick: () => tell(node), onfocus: () => tell(node), onpointerenter: () => tell(node) });
        return dot;
      })))));
    return line;
  };
  const widest = Object.keys(STATES).map((state) => Math.max(4, ...rows.map(([, list]) => list.filter((n) => n.state === state).length)));
  const box = h('div.graph', { style: { '--parts': widest.map((n) => `minmax(0, ${n}fr)`).join(' ') } }, rows.filter(([, list]) => list.length).map(([name, list]) => strip(list, name)));
  roving(box, '.node');
  const ops = new Map();
  for (const node of nodes) {
    const entry = ops.get(node.op) ?? { op: node.op, forward: 0, backward: 0, skipped: 0 };
    entry[node.state]++;
    ops.set(node.op, entry);
  }
  const reasons = new Map();
  for (const node of nodes.filter((n) => n.state === 'skipped')) reasons.set(node.why, (reasons.get(node.why) ?? 0) + 1);
  return [
    h('p', h('b', whole(counts.forward)), ' nodes forward, ', h('b', whole(counts.backward)), ' backward, and ', h('b', whole(counts.skipped)), ' that full fine-tuning would need and this step does without.'),
    h('ul', [...reasons].map(([why, n]) => h('li', `${whole(n)} not computed: ${why}`))),
    h('ul.legend', Object.entries(STATES).map(([state, name]) => h('li', h('i', { class: `node is-${state}` }), name))),
    readout,
    h('figure', box, h('figcaption', 'One row a layer: first its forward nodes, then its backward ones, then, hollow and grey, what was left out.')),
    asTable('nodes by op', () => table({ caption: 'Nodes by op', rows: [...ops.values()], columns: [{ name: 'op', value: (o) => o.op, text: (o) => h('a', { href: `#/source?op=${o.op}` }, o.op) }, ...Object.entries(STATES).map(([state, name]) => ({ name, number: true, value: (o) => o[state] }))] })),
  ];
}
