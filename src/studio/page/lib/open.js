// Another model or adapter: a small dialog.

import { h, fill } from './dom.js';
import * as api from './api.js';
import { errorBox } from './pane.js';

/** Opens the dialog; `opened()` is called when the studio has what was asked for. */
export function openDialog(dialog, state, opened) {
  const model = h('input', { type: 'text', id: 'open-model', spellcheck: 'false', value: state?.model?.path ?? '' });
  const adapter = h('input', { type: 'text', id: 'open-adapter', spellcheck: 'false', value: state?.adapter?.path ?? '', placeholder: 'none: the base model alone' });
  const trouble = h('div');
  const button = h('button.primary', { type: 'submit' }, 'Open');
  const form = h('form', {
    onsubmit: async (event) => {
      event.preventDefault();
      button.disabled = true;
      fill(trouble, h('p.note', 'Opening …'));
      try {
        await api.post('open', { model: model.value.trim() || undefined, adapter: adapter.value.trim() || undefined });
        api.forget();
        dialog.close();
        opened();
      } catch (error) {
        fill(trouble, errorBox(error));
      }
      button.disabled = false;
    },
  },
  h('div.field', h('label', { for: 'open-model' }, 'Model'), model, h('small', 'A folder, a .gguf file, or a Hugging Face name')),
  h('div.field', h('label', { for: 'open-adapter' }, 'Adapter'), adapter, h('small', 'A PEFT folder: the output of a run, one of its checkpoints, or one that Python has trained')),
  trouble, h('div.row', button, h('button', { type: 'button', onclick: () => dialog.close() }, 'Cancel')));
  fill(dialog, h('h2', { id: 'dialog-title' }, 'Open a model or adapter'), form);
  dialog.showModal();
}
