// Which modules and layers get an adapter, of what rank, and how the run is fed.

import { h, fill, debounce } from '../lib/dom.js';
import { slider, number, select, choice } from '../lib/controls.js';
import { roving } from '../lib/keyboard.js';

const RANKS = [1, 2, 4, 8, 16, 32, 64, 128];

/** Layers as `--layers` writes them: 0-3,7 */
function written(layers) {
  const list = [...layers].sort((a, b) => a - b);
  const runs = [];
  for (const l of list) {
    const last = runs[runs.length - 1];
    if (last && last[1] === l - 1) last[1] = l;
    else runs.push([l, l]);
  }
  return runs.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(',');
}

/**
 * The form. `change({request, adapted(m), asleep(m), layers})` is called at `start()` and after each change.
 */
export function composer({ modules, layers, formats, change }) {
  const names = [...new Set(modules.filter((m) => m.part === 'attention' || m.part === 'mlp').map((m) => m.module))].filter((name) => /_proj|_fc|fc/.test(name));
  const part = (name) => modules.find((m) => m.module === name).part;
  const chosen = new Set(names);
  const on = new Set(Array.from({ length: layers }, (_, l) => l));
  const settings = { lora_r: 16, lora_alpha: 32, batch_size: 4, max_length: 512, recompute: 'cheap', weights: '' };

  // The shorthand where there is one, as a person would write it.
  const named = () => {
    const is = (test) => names.every((name) => chosen.has(name) === test(name));
    if (is(() => true)) return 'all-linear';
    if (is((name) => part(name) === 'attention')) return 'attention';
    if (is((name) => part(name) === 'mlp')) return 'mlp';
    return [...chosen];
  };
  const tell = debounce(0, () => {
    const lowest = Math.min(...on, Infinity);
    const adapted = (m) => chosen.has(m.module) && on.has(m.layer);
    const none = !chosen.size || !on.size;
    change({
      layers: on, adapted, none,
      asleep: (m) => !adapted(m) && (none || (m.layer === null || m.layer === undefined ? m.part === 'embedding' : m.layer < lowest)),
      request: { ...settings, weights: settings.weights || undefined, recompute: settings.recompute === 'cheap' ? undefined : settings.recompute, rank_pattern: settings.rank_pattern || undefined, target_modules: named(), layers: on.size === layers ? undefined : written(on) },
    });
  });

  const chips = h('div.chips', { role: 'group', 'aria-label': 'Modules' });
  const strip = h('div.strip', { role: 'group', 'aria-label': 'Layers' });
  const says = h('p.note', { 'aria-live': 'polite' });
  const draw = () => {
    for (const button of chips.children) button.setAttribute('aria-pressed', String(chosen.has(button.dataset.name)));
    for (const button of strip.children) button.setAttribute('aria-pressed', String(on.has(Number(button.dataset.layer))));
    says.textContent = !chosen.size || !on.size ? 'Nothing is chosen: there is nothing to train.' : `${chosen.size} of ${names.length} modules in ${on.size} of ${layers} layers${on.size && on.size < layers ? ` (${written(on)})` : ''}.`;
    tell();
  };
  const flip = (set, value) => { if (!set.delete(value)) set.add(value); draw(); };
  fill(chips, names.map((name) => h('button', { type: 'button', dataset: { name }, onclick: () => flip(chosen, name) }, name)));
  let last = null;
  fill(strip, Array.from({ length: layers }, (_, l) => h('button', {
    type: 'button', dataset: { layer: l }, 'aria-label': `layer ${l}`, title: `layer ${l}`,
    onclick: (event) => {
      if (event.shiftKey && last !== null) {
        for (let i = Math.min(last, l); i <= Math.max(last, l); i++) if (on.has(last)) on.add(i); else on.delete(i);
        draw();
      } else flip(on, l);
      last = l;
    },
  }, String(l))));
  roving(chips, 'button');
  roving(strip, 'button');

  const setModules = (test) => { chosen.clear(); for (const name of names.filter(test)) chosen.add(name); draw(); };
  const setLayers = (from, to) => { on.clear(); for (let l = from; l < to; l++) on.add(l); draw(); };
  const third = Math.floor(layers / 3);
  const quick = (list) => h('div.row.tight', list.map(([text, call]) => h('button.small', { type: 'button', onclick: call }, text)));
  const rank = slider({ label: 'Rank (lora_r)', min: 0, max: RANKS.length - 1, step: 1, value: 4, write: (i) => String(RANKS[i]), input: (i) => { settings.lora_r = RANKS[i]; draw(); }, hint: 'Small for a style, larger for many facts.' });
  rank.element.classList.add('graft');

  const element = h('div.stack',
    h('div.field', h('span.field-label', 'Modules (target_modules)'), chips, quick([['all', () => setModules(() => true)], ['attention', () => setModules((n) => part(n) === 'attention')], ['MLP', () => setModules((n) => part(n) === 'mlp')], ['none', () => setModules(() => false)]])),
    h('div.field', h('span.field-label', 'Layers (layers)'), strip, h('small', 'With Shift: all from the last one pressed to this.'), quick([['all', () => setLayers(0, layers)], ['early', () => setLayers(0, third)], ['middle', () => setLayers(third, layers - third)], ['late', () => setLayers(layers - third, layers)]])),
    says, rank.element,
    h('div.fields',
      number({ label: 'lora_alpha', value: 32, min: 1, max: 1024, change: (n) => { settings.lora_alpha = n; draw(); } }).element,
      number({ label: 'batch_size', value: 4, min: 1, max: 256, change: (n) => { settings.batch_size = n; draw(); } }).element,
      number({ label: 'max_length', value: 512, min: 8, max: 8192, step: 8, change: (n) => { settings.max_length = n; draw(); } }).element,
      select({ label: 'weights', value: '', options: [['', 'as in the file'], ...formats.map((f) => [f.name, f.name])], change: (v) => { settings.weights = v; draw(); } }).element),
    choice({ label: 'Recompute activations instead of keeping them', value: 'cheap', options: [['cheap', 'norms and activation functions'], ['none', 'none'], ['auto', 'auto'], ['all', 'all layers']], change: (v) => { settings.recompute = v; draw(); } }).element,
    rankPattern((text) => { settings.rank_pattern = text; draw(); }));
  return {
    element,
    start: draw,
    toggle: (module, layer) => (module === undefined ? flip(on, layer) : names.includes(module) && flip(chosen, module)),
  };
}

function rankPattern(change) {
  const input = h('input', { type: 'text', id: 'rank-pattern', placeholder: 'q_proj=2,down_proj=6', spellcheck: 'false', onchange: () => change(input.value.trim()) });
  return h('div.field', h('label', { for: 'rank-pattern' }, 'Other ranks for some modules (rank_pattern)'), input);
}
