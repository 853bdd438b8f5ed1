// The page: its head, the list of views, and which of them is open. A view is a file in views/ (or journey/) that says what it is and shows itself.

import { h, fill } from './lib/dom.js';
import * as api from './lib/api.js';
import { get, set } from './lib/store.js';
import { apply as applyTheme, turn } from './lib/theme.js';
import { shortcut, known, roving } from './lib/keyboard.js';
import { tips } from './lib/tip.js';
import { errorBox } from './lib/pane.js';
import { bytes, count } from './lib/format.js';
import { live } from './lib/live.js';
import { sourceLink } from './lib/look.js';
import { openDialog } from './lib/open.js';
import journey from './journey/journey.js';
import anatomy from './views/anatomy.js';
import text from './views/text.js';
import attention from './views/attention.js';
import mlp from './views/mlp.js';
import residual from './views/residual.js';
import lora from './views/lora.js';
import backward from './views/backward.js';
import source from './views/source.js';
import chat from './views/chat.js';
import theatre from './views/theatre.js';

const GROUPS = [
  ['Learn', [journey]],
  ['Look inside', [anatomy, text, attention, mlp, residual, lora, backward, source]],
  ['Use', [theatre, chat]],
];
const VIEWS = GROUPS.flatMap(([, views]) => views);
const ENGINE = { closed: 'not opened yet', opening: 'opening', ready: 'ready', training: 'training: looking inside waits' };

const content = document.getElementById('content');
let open = null;
let started = false;
let read = null; // the model that the sentence was last meant for

/** What the address says: #/view/part?key=value */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [id, ...parts] = path.split('/');
  return { id: id || 'journey', parts, query: new URLSearchParams(query ?? '') };
}

function head(view) {
  return h('header.view-head',
    h('h1', view.title),
    h('p.view-lead', view.lead),
    h('details.what', h('summary', 'What am I looking at?'), h('p', view.what.join(' ')),
      h('p.what-source', 'Computed in ', sourceLink(view.source), view.op ? [' · ', h('a', { href: `#/source?op=${view.op}` }, 'formula, gradient and kernel')] : null)));
}

async function show() {
  const { id, parts, query } = address();
  const view = VIEWS.find((v) => v.id === id);
  open?.abort();
  open = new AbortController();
  const { signal } = open;
  for (const link of document.querySelectorAll('#nav a')) {
    if (link.getAttribute('href') === `#/${id}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (!view) {
    fill(content, h('div.error', { role: 'alert' }, h('p.error-what', `there is no view called “${id}”`), h('p.error-propose', h('a', { href: '#/journey' }, 'Begin with the journey'))));
    return;
  }
  document.title = `${view.title} · graftling studio`;
  const body = h('div.view-body');
  fill(content, view.bare ? body : [head(view), body]);
  content.className = `view-${id}`;
  closeMenu();
  scrollTo(0, 0);
  if (started) content.focus({ preventScroll: true });
  started = true;
  try {
    const state = await state_();
    if (signal.aborted) return;
    if (!state.model && !view.withoutModel) fill(body, h('section.card', h('h2', 'No model is open'), h('p', 'This view looks into a model. Open one: a folder, a .gguf file, or a Hugging Face name.'), h('div.row', h('button.primary', { type: 'button', onclick: openAnother }, 'Open …'))));
    else {
      if (state.model && state.model.path !== read) {
        read = state.model.path;
        // A model without a chat template reads texts, not conversations.
        if (!state.model.chat && get('subject').kind === 'chat') set({ subject: { ...get('subject'), kind: 'text' } });
      }
      await view.show(body, { signal, state, parts, query });
    }
  } catch (error) {
    if (signal.aborted || error.name === 'AbortError') return;
    console.debug(error);
    body.prepend(errorBox(error, show));
  }
}

let last = null;
async function state_() {
  const state = (last = await api.get('state'));
  facts(state);
  return state;
}

function facts(state) {
  const { model, adapter, device, engine } = state;
  fill(document.getElementById('facts'),
    h('span.fact', h('b', model?.name ?? 'no model'), model && ` ${count(model.parameters)} · ${bytes(model.bytes)}`),
    adapter && h('span.fact.fact-adapter', `adapter ${adapter.path}`),
    h('span.fact', device ? device.name : ''),
    h('span.fact.fact-engine', { 'data-engine': engine }, `engine ${ENGINE[engine] ?? engine}`));
}

function nav() {
  fill(navigation, GROUPS.map(([name, views]) => h('section', h('h2', name), h('ul', views.map((view) => h('li',
    h('a', { href: `#/${view.id}` }, h('span', view.title), view.key && h('kbd', { 'aria-hidden': 'true' }, `g ${view.key}`))))))));
  roving(navigation, 'a');
  for (const view of VIEWS) if (view.key) shortcut(`g ${view.key}`, view.title, () => (location.hash = `#/${view.id}`));
}

const menu = document.getElementById('menu');
function closeMenu() {
  if (!document.body.classList.contains('menu-open')) return;
  const inside = navigation.contains(document.activeElement);
  document.body.classList.remove('menu-open');
  menu.setAttribute('aria-expanded', 'false');
  if (inside) menu.focus();
}
menu.addEventListener('click', () => {
  const now = document.body.classList.toggle('menu-open');
  menu.setAttribute('aria-expanded', String(now));
  if (now) document.querySelector('#nav a[tabindex="0"]')?.focus();
});
// On a narrow page the list lies over the content: it is closed when the focus goes on, and when the view is open that it is to open.
const navigation = document.getElementById('nav');
navigation.addEventListener('focusout', ({ relatedTarget }) => { if (content.contains(relatedTarget)) closeMenu(); });
navigation.addEventListener('click', ({ target }) => { if (target.closest('a')?.hash === location.hash) closeMenu(); });

const dialog = document.getElementById('dialog');
function help() {
  const rows = known().map(({ keys, does }) => h('tr', h('td', keys.map((key) => h('kbd', key))), h('td', does)));
  fill(dialog, h('h2', { id: 'dialog-title' }, 'Keys'),
    h('p', 'Tab goes from control to control. Inside a group of buttons, tokens or cells the arrow keys move, Home and End jump; in a picture of numbers they read them, and Enter chooses.'),
    h('table', h('tbody', rows)),
    h('form', { method: 'dialog' }, h('button', 'Close')));
  dialog.showModal();
}

const themeButton = document.getElementById('theme');
function themeName() {
  themeButton.setAttribute('aria-label', `Theme: ${get('theme')}`);
  themeButton.textContent = { system: 'System', light: 'Light', dark: 'Dark' }[get('theme')];
}
themeButton.addEventListener('click', () => { turn(); themeName(); });
document.getElementById('help').addEventListener('click', help);
const openAnother = () => openDialog(dialog, last, show);
document.getElementById('open').addEventListener('click', openAnother);
shortcut('o', 'Open another model or adapter', openAnother);
shortcut('?', 'This list', help);
shortcut('t', 'Next theme: system, light, dark', () => { turn(); themeName(); });
shortcut('Escape', 'Close what is open', closeMenu);

// The skip link must not change the view, whose name is in the address too.
document.querySelector('.skip').addEventListener('click', (event) => { event.preventDefault(); content.focus(); });
addEventListener('hashchange', show);
const look = () => state_().catch(() => {});
live({ run: look, done: look, error: look });
// A request may have opened the engine.
document.addEventListener('enginechange', () => last?.engine !== 'ready' && look());
applyTheme();
tips();
themeName();
nav();
show();
