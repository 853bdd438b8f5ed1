// Small controls with their labels: sliders, choices of one among few, selects, buttons that copy.

import { h, uid } from './dom.js';
import { roving } from './keyboard.js';

/** A slider with its value beside it. `write` makes text of a number; `input` is called while it moves. */
export function slider({ label, min, max, step, value, write = String, input, hint }) {
  const id = uid('slider');
  const output = h('output', { for: id }, write(value));
  const range = h('input', {
    type: 'range', id, min, max, step,
    oninput: () => {
      const x = Number(range.value);
      shown(x);
      input(x);
    },
  });
  const shown = (x) => {
    output.textContent = write(x);
    range.setAttribute('aria-valuetext', write(x));
    range.style.setProperty('--fill', (x - min) / (max - min || 1));
  };
  range.value = value;
  shown(value);
  const element = h('div.slider', h('label', { for: id }, label), range, output, hint && h('small', hint));
  return { element, range, put: (x) => { range.value = x; shown(x); } };
}

/** One choice among few, as a row of buttons. `options` are [value, text]. */
export function choice({ label, options, value, change }) {
  const row = h('div.choice', { role: 'radiogroup', 'aria-label': label });
  const put = (to) => {
    for (const button of row.children) {
      const on = button.dataset.value === String(to);
      button.setAttribute('aria-checked', on);
      button.tabIndex = on ? 0 : -1;
    }
  };
  for (const [v, text] of options) {
    row.append(h('button', { type: 'button', role: 'radio', dataset: { value: String(v) }, onclick: () => { put(v); change(v); } }, text));
  }
  put(value);
  roving(row, 'button');
  return { element: h('div.field', h('span.field-label', label), row), put };
}

/** A number that is typed. */
export function number({ label, value, min, max, step = 1, change, hint }) {
  const id = uid('number');
  const input = h('input', { type: 'number', id, min, max, step, onchange: () => input.reportValidity() && change(Number(input.value)) });
  input.value = value;
  return { element: h('div.field', h('label', { for: id }, label), input, hint && h('small', hint)), input };
}

/** One choice among many. */
export function select({ label, options, value, change }) {
  const id = uid('select');
  const list = h('select', { id, onchange: () => change(list.value) }, options.map(([v, text]) => h('option', { value: v }, text)));
  list.value = value;
  return { element: h('div.field', h('label', { for: id }, label), list), list };
}

/** The choice of a layer: a slider with steps, named for screen readers. */
export function layerSlider(layers, value, input, names = (l) => `${l}`) {
  return slider({ label: 'Layer', min: 0, max: layers - 1, step: 1, value: Math.min(value, layers - 1), write: (l) => `${names(l)} of ${layers - 1}`, input });
}

/** A command or recipe that can be copied. */
export function copyable(text, label) {
  const code = h('code', text);
  const button = h('button.small', {
    type: 'button', onclick: async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = 'Copied';
      } catch {
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        button.textContent = 'Selected: press Ctrl+C';
      }
      setTimeout(() => (button.textContent = 'Copy'), 2000);
    },
  }, 'Copy');
  return h('figure.copyable', h('figcaption', label, button), h('pre', { tabindex: 0, 'aria-label': label }, code));
}
