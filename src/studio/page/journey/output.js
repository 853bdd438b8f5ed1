// Stop 6: the output layer and sampling.

import { h, add, fill, debounce } from '../lib/dom.js';
import { post } from '../lib/api.js';
import { asking } from '../lib/subject.js';
import { look, strength } from '../lib/look.js';
import { slider } from '../lib/controls.js';
import { bars } from '../lib/charts.js';
import { asTable, table } from '../lib/table.js';
import { percent, visible, whole, short } from '../lib/format.js';

export default {
  id: 'output', title: 'The output layer', short: 'Output', source: 'src/studio/api/logits.rs', view: 'chat', viewName: 'Chat',
  beats: [
    (model) => `The last token’s numbers meet the output matrix, which gives every one of ${whole(model.vocabulary)} tokens a score: its logit.`,
    'Softmax turns scores into probabilities. Temperature divides the scores first: low makes the best one surer, high gives the others a chance.',
    'top-k keeps the k best, top-p keeps as many as together have that probability; then one is drawn by chance, and the journey begins again with it.',
  ],
  change: 'Turn temperature, top-k and top-p, and watch who may still be drawn (full bars) and who may not (pale ones).',
  touches: 'The output matrix stays frozen (often it is the embedding itself). Fine-tuning changes what arrives here. --modules-to-save trains it whole, at a price.',
  show({ picture, tryIt, signal, state }) {
    const settings = { temperature: 1, top_k: 0, top_p: 1 };
    const { bar, pane, run } = look({
      label: 'Computing logits', signal,
      ask: ({ ids, tokens, stop }) => post('logits', { ids: ids.slice(0, asking(tokens).length), adapter: strength(state), temperature: settings.temperature, top_k: settings.top_k || undefined, top_p: settings.top_p < 1 ? settings.top_p : undefined }, stop),
      draw: ({ top, kept }, all, place) => {
        const tokens = asking(all);
        const list = bars(top.slice(0, 16).map((t) => ({ name: visible(t.text), value: t.p, text: percent(t.p), title: `logit ${short(t.logit)}` })), { of: Math.max(top[0].p, 0.25), label: 'Most probable next tokens' });
        [...list.querySelectorAll('.bar')].forEach((b, i) => b.classList.toggle('out', !top[i].kept));
        add(place, [h('p', `After “${visible(tokens.slice(-6).map((t) => t.text).join(''))}” come:`), list,
          h('p', kept === undefined ? '' : kept === 1 ? h('span', h('b', 'One token'), ' may be drawn: this is greedy, the same every time.') : h('span', h('b', whole(kept)), ' tokens may be drawn.')),
          asTable('logits', () => table({ caption: 'Logits', rows: top, columns: [{ name: 'token', value: (t) => visible(t.text) }, { name: 'id', number: true, value: (t) => t.id }, { name: 'logit', number: true, value: (t) => t.logit, text: (t) => short(t.logit) }, { name: 'probability', number: true, value: (t) => t.p, text: (t) => percent(t.p) }, { name: 'may be drawn', value: (t) => (t.kept ? 'yes' : 'no') }] }))]);
      },
    });
    add(picture, [pane.element]);
    const turn = debounce(80, run);
    const temperature = slider({ label: 'Temperature', min: 0, max: 2, step: 0.1, value: 1, write: (x) => (x ? x.toFixed(1) : '0: greedy'), input: (x) => { settings.temperature = x; turn(); } });
    const k = slider({ label: 'top-k', min: 0, max: 50, step: 1, value: 0, write: (x) => (x ? String(x) : 'off'), input: (x) => { settings.top_k = x; turn(); } });
    const p = slider({ label: 'top-p', min: 0.05, max: 1, step: 0.05, value: 1, write: (x) => (x < 1 ? x.toFixed(2) : 'off'), input: (x) => { settings.top_p = x; turn(); } });
    add(tryIt, [temperature.element, k.element, p.element, bar]);
    run();
  },
};
