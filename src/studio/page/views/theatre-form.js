// The form of a recipe: every option of `graftling train`, its default and why that is the default, checked as the command line checks.

import { h, add, fill, uid } from '../lib/dom.js';
import * as api from '../lib/api.js';
import { get } from '../lib/store.js';
import { Pane } from '../lib/pane.js';
import { whole } from '../lib/format.js';

/** What most people set; the others are behind disclosures, under the headings of `--help`. */
const FIRST = ['model', 'data', 'out', 'target_modules', 'layers', 'lora_r', 'learning_rate', 'epochs', 'max_steps', 'max_length', 'batch_size', 'eval_data', 'eval_split', 'weights'];

function read(field, input) {
  if (field.kind === 'switch') return input.checked || undefined;
  const text = input.value.trim();
  if (!text) return undefined;
  if (field.kind === 'whole' || field.kind === 'real') return Number(text);
  if (field.kind === 'list') return text.split(',').map((part) => part.trim()).filter(Boolean);
  return text;
}

/** What an empty input stands for: the default, which some options have only in their reason ("16: more capacity than ..."). */
function standing({ default: value, why, placeholder }) {
  if (value !== null && value !== undefined && value !== '') return String(value);
  const named = why?.match(/^([\w.-]+)(?=:|$)/)?.[1];
  return named ?? placeholder?.toLowerCase() ?? '';
}

function control(field, given) {
  const id = uid('recipe');
  const preset = given === undefined ? '' : [given].flat().join(', ');
  const fallback = standing(field);
  let input;
  if (field.kind === 'switch') input = h('input', { type: 'checkbox', id, checked: given === true });
  else if (field.kind === 'choice') {
    input = h('select', { id }, h('option', { value: '' }, field.default ? `${field.default} (default)` : 'as by default'), field.choices.map((c) => h('option', { value: c }, c)));
    input.value = preset;
  } else {
    input = h('input', { id, type: field.kind === 'whole' || field.kind === 'real' ? 'number' : 'text', step: field.kind === 'whole' ? 1 : 'any', placeholder: fallback, required: field.required, spellcheck: 'false', autocomplete: 'off' });
    input.value = preset;
  }
  const note = [field.help, field.why].filter(Boolean);
  const described = uid('why');
  input.setAttribute('aria-describedby', described);
  const label = h('label', { for: id }, h('code', field.key), field.required ? h('span.required', ' needed') : null);
  return { input, element: h('div.field', { class: field.kind === 'switch' ? 'field field-switch' : 'field' }, field.kind === 'switch' ? [h('span.row.tight', input, label)] : [label, input], h('small', { id: described }, h('span', note[0]), note[1] && h('em', note[1]))) };
}

/** `started(run)` is called with what /api/train answers. */
export function recipeForm({ signal, started }) {
  const place = h('div.stack');
  const fields = new Pane('Reading the options', signal);
  const checked = new Pane('Checking, as train --dry-run does', signal);
  const inputs = new Map();
  const recipe = () => Object.fromEntries([...inputs].map(([key, { field, input }]) => [key, read(field, input)]).filter(([, value]) => value !== undefined));
  const check = () => checked.run((stop) => api.post('train/check', recipe(), stop), ({ data, summary, preview, total_steps: steps, parameters }, body) => add(body, [
    h('p', h('b', `${whole(steps)} steps, ${whole(parameters)} trained parameters.`)), h('pre.log', { tabindex: 0, 'aria-label': 'Summary' }, [data, summary].filter(Boolean).join('\n')),
    h('details', h('summary', 'The first records, as the model will see them'), h('pre.log', { tabindex: 0 }, preview))]));
  const start = () => checked.run((stop) => api.post('train', recipe(), stop), (run, body) => { add(body, [h('p.note', 'It has begun.')]); started(run); }, 'Starting');
  const form = h('form', { onsubmit: (event) => { event.preventDefault(); start(); } }, place,
    h('div.row', h('button', { type: 'button', onclick: check }, 'Check it first'), h('button.primary', { type: 'submit' }, 'Start training')), checked.element);
  const box = h('details.form-box', { open: true }, h('summary', h('h2', 'Start a run')), h('p.note', 'Grey values are the defaults. What you leave empty is taken from them, as on the command line.'), fields.element, form);
  fields.run((stop) => api.get('recipe', {}, stop), ({ fields: list, given }) => {
    const make = (field) => {
      const made = control(field, get('recipe')?.[field.key] ?? given?.[field.key]);
      inputs.set(field.key, { field, input: made.input });
      return made.element;
    };
    const first = FIRST.map((key) => list.find((field) => field.key === key)).filter(Boolean);
    const rest = list.filter((field) => !first.includes(field));
    const headings = [...new Set(rest.map((field) => field.heading))];
    fill(place, h('div.fields.recipe', first.map(make)), headings.map((heading) => {
      const own = rest.filter((field) => field.heading === heading);
      return h('details.more', h('summary', `${heading} (${own.length})`), h('div.fields.recipe', own.map(make)));
    }));
  });
  return { element: h('section.card', { tabindex: -1, 'aria-label': 'Start a run' }, box), fold: (folded) => { box.open = !folded; } };
}
