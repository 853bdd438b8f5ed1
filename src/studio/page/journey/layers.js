// Stop 5: stacked layers and the residual stream.

import { h, add, fill } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { asking } from '../lib/subject.js';
import { look, strength } from '../lib/look.js';
import { tokenRow } from '../lib/tokens.js';
import { lineChart } from '../lib/charts.js';
import { percent, visible } from '../lib/format.js';
import { settled } from '../views/residual.js';

const PARTS = ['early: spelling, neighbours', 'middle: meaning, facts', 'late: choosing the word'];

function tower(layers, at, third) {
  return h('ol.tower', { 'aria-label': 'First token after every layer' }, layers.map((layer) => {
    const top = layer.tokens[at].top[0];
    const bar = h('i', { 'aria-hidden': 'true' });
    bar.style.setProperty('--share', top?.p ?? 0);
    const part = layer.layer === 0 ? null : Math.min(2, Math.floor((layer.layer - 1) / third));
    return h('li', { class: part === null ? 'start' : `part-${part}` }, h('span.tower-layer', layer.layer === 0 ? 'embedding' : layer.layer), h('code', top ? visible(top.text) : '–'), bar, h('span.tower-p', top ? percent(top.p) : ''));
  }));
}

export default {
  id: 'layers', title: 'Stacked layers', short: 'Layers', source: 'src/studio/api/lens.rs', view: 'residual', viewName: 'Residual stream',
  beats: [
    (model) => `Attention and MLP make one layer, and there are ${model.layers} of them. None replaces the token’s numbers: each only adds to them. That sum is the residual stream.`,
    'So one may look at it after any layer and ask: what would you say, if you had to stop here? That is the logit lens.',
    'Early layers have wild guesses. In the middle the matter gets clear, and late layers choose the very word.',
  ],
  change: 'Choose a token: what does the model expect to come after it, layer by layer?',
  touches: (model) => `--layers says which layers get an adapter. Nothing below the lowest of them needs a backward pass, so late layers alone (${Math.floor((2 * model.layers) / 3)}-${model.layers - 1}) train faster and in less memory.`,
  show({ picture, tryIt, signal, state }) {
    const place = h('div.stack');
    const choice = h('div.stack');
    let at = null; // the last one that asks
    const spot = (tokens) => Math.min(at ?? Infinity, tokens.length - 1);
    const { bar, pane, run } = look({
      label: 'Looking through the lens', signal, most: 64,
      ask: ({ ids, tokens, stop }) => post('lens', { ids: ids.slice(0, asking(tokens).length), adapter: strength(state), k: 5, tokens: [spot(asking(tokens))] }, stop),
      draw: (answer, all, body) => {
        const tokens = asking(all);
        const here = spot(tokens);
        const layers = answer.adapted ?? answer.layers;
        const found = settled(layers, here);
        fill(choice, tokenRow({ tokens, label: 'Choose a token', chosen: here, pick: (i) => { at = i; run(); } }));
        fill(place, h('p', `After “${visible(tokens[here].text)}” the model says “${visible(found.text)}” (${percent(found.p)}); it is first from ${found.layer === 0 ? 'the embedding' : `layer ${found.layer}`} on.`), tower(layers, here, Math.max(1, Math.ceil(state.model.layers / 3))), h('ul.legend', PARTS.map((part, i) => h('li', h('i', { class: `swatch tower-${i}` }), part))),
          lineChart({ label: 'Length of the stream after each layer', signal, height: 140, series: [{ points: layers.map((l) => [l.layer, l.tokens[here].norm]) }], x: { label: 'layer' }, y: { label: 'length (log scale)', log: true } }));
        add(body, [place]);
      },
    });
    add(picture, [pane.element]);
    add(tryIt, [choice, bar]);
    run();
  },
};
