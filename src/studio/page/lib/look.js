// What views that look into the model have in common: the sentence, its tokens, the adapter's strength, and a pane that works.

import { h, debounce } from './dom.js';
import { whole } from './format.js';
import { get, set, watch } from './store.js';
import { Pane } from './pane.js';
import { slider } from './controls.js';
import { subjectBar, tokens } from './subject.js';

/** The layer that is looked at: the one that was chosen, or, since early layers look at little but their neighbours, one of the middle. */
export const layerOf = (model) => Math.min(get('layer') ?? Math.floor(model.layers / 2), model.layers - 1);

/** A link to a file of this program. */
export const sourceLink = (path) => h('a', { href: `#/source?file=${path}` }, h('code', path));

/** The strength to send: nothing where no adapter is open. */
export const strength = (state) => (state.adapter ? get('strength') : undefined);

/** The slider of the adapter's strength, or words where there is none. */
export function strengthSlider(state, signal) {
  if (!state.adapter) return h('p.note', 'No adapter is open: this is the base model. Start with ', h('code', '--adapter DIR'), ' to compare.');
  const control = slider({
    label: 'Strength of the adapter', min: 0, max: 2, step: 0.05, value: get('strength'), write: (x) => (x === 0 ? '0: base model' : x === 1 ? '1: as trained' : x.toFixed(2)),
    input: debounce(150, (x) => set({ strength: x })),
  });
  control.element.classList.add('graft');
  return control.element;
}

/** Where a layer has experts in the place of its MLP: what that is, and that it is not shown, in words. */
export function experts({ experts: some, layers }, layer) {
  if (!some?.layers.includes(layer)) return null;
  const others = Array.from({ length: layers }, (_, l) => l).filter((l) => !some.layers.includes(l));
  return h('div.stack',
    h('p', `Layer ${layer} has ${some.count} experts in the place of one MLP. Each is an MLP of its own, ${whole(some.intermediate)} numbers wide; a router sends every token to ${some.per_token} of them${some.shared ? `, and all tokens go through one more, ${whole(some.shared)} numbers wide` : ''}.`),
    h('p.note', `Experts are left out here: neither where a token was sent nor what was computed there is shown. ${others.length ? `Layers with one MLP: ${others.join(', ')}.` : 'Every layer of this model has experts.'} Attention, the residual stream and the gradients of these layers are in their views.`));
}

/** Which share of the parameters is in matrices of MLPs, those of experts among them. */
export function mlpShare({ hidden, intermediate, layers, parameters, experts: some }) {
  const wide = some ? some.layers.length * (some.count * some.intermediate + (some.shared ?? 0)) : 0;
  return (3 * hidden * (wide + (layers - (some?.layers.length ?? 0)) * intermediate)) / parameters;
}

/** Steps of texts that probes take; longer ones are looked at in part. */
const MOST = 96;

/**
 * Asks for the subject's tokens, then for `ask({ids, tokens, stop})`, and shows `draw(answer, tokens, place)`. Again whenever the sentence or one of `keys` changes.
 */
export function look({ label, keys = [], signal, ask, draw, most = MOST }) {
  const pane = new Pane(label, signal);
  let known = null;
  const run = () => pane.run(async (stop) => {
    known ??= await tokens(stop);
    const all = known.tokens;
    const shown = all.length > most ? all.slice(0, most) : all;
    return { tokens: shown, cut: all.length - shown.length, answer: await ask({ ids: shown.map((t) => t.id), tokens: shown, stop }) };
  }, ({ tokens: shown, cut, answer }, place) => {
    if (cut) place.append(h('p.note', `The first ${most} tokens of ${most + cut} are looked at here.`));
    return draw(answer, shown, place);
  });
  watch(keys, signal, run);
  const bar = subjectBar(signal, () => { known = null; run(); });
  return { bar, pane, run };
}
