// The theatre: start a run, watch it, pause it, go on, stop it; and what has been.

import { h, add } from '../lib/dom.js';
import { stage } from './theatre-run.js';
import { recipeForm } from './theatre-form.js';
import { pastRuns } from './theatre-past.js';

function show(body, { signal, state, parts }) {
  const past = pastRuns({ signal, show: (run) => { now.shown(run); now.element.focus(); } });
  const form = recipeForm({ signal, started: (run) => { now.shown(run); now.element.focus(); now.element.scrollIntoView({ block: 'start' }); } });
  const now = stage({ signal, ended: past.refresh, known: (run) => { if (parts[0] !== 'start') form.fold(Boolean(run)); } });
  add(body, [now.element, form.element, past.element]);
  if (state.run) now.refresh();
  else now.none();
  past.refresh();
  if (parts[0] === 'start') {
    form.element.focus();
    form.element.scrollIntoView({ block: 'start' });
  }
}

export default {
  id: 'theatre', withoutModel: true, key: 'o', title: 'Theatre', source: 'src/studio/runs/mod.rs',
  lead: 'Train, and watch it happen.',
  what: [
    'A run that you start here is a process of its own: `graftling train` with the recipe below, with the same checks and the same messages as in a terminal.',
    'Its curves come step by step; if you reload the page or lose the connection, it is told what it has missed.',
    'Pausing saves a checkpoint and gives the device back, so that you can look inside the half-trained model and then go on with the very same numbers.',
  ],
  show,
};
