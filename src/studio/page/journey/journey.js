// The journey: from a sentence to the next word, and back into the adapter. Stops are files of this folder; each says its sentences one after
// the other (beats), shows real numbers of the open model, has one thing to change, and says what fine-tuning touches there.

import { h, fill } from '../lib/dom.js';
import { shortcut, roving } from '../lib/keyboard.js';
import { sourceLink } from '../lib/look.js';
import tokens from './tokens.js';
import embedding from './embedding.js';
import attention from './attention.js';
import mlp from './mlp.js';
import layers from './layers.js';
import output from './output.js';
import formats from './formats.js';
import loss from './loss.js';
import gradients from './gradients.js';
import adapter from './adapter.js';

export const STOPS = [tokens, embedding, attention, mlp, layers, output, formats, loss, gradients, adapter];

/** A button that was clicked with a mouse gives the keys back, so that Space plays. */
const calm = (event) => { if (event.detail > 0) event.currentTarget?.blur(); };

/** The button of the player that has the focus while one stop gives way to another. */
let leaving = -1;

/** Seconds for reading a sentence of so many letters. */
const reading = (text) => Math.max(3, text.length / 22);

function rail(at) {
  const dots = h('ol.rail', { 'aria-label': 'Stops of the journey' }, STOPS.map((stop, i) => h('li', { class: `${stop.backward ? 'back ' : ''}${i < at ? 'done' : ''}` },
    h('a', { href: `#/journey/${stop.id}`, 'aria-current': i === at ? 'step' : null, title: stop.title }, h('i', { 'aria-hidden': 'true' }, String(i + 1)), h('span', stop.short ?? stop.title)))));
  roving(dots, 'a');
  return dots;
}

async function show(body, { signal, state, parts, query }) {
  const at = Math.max(0, STOPS.findIndex((stop) => stop.id === parts[0]));
  const stop = STOPS[at];
  const beats = stop.beats.map((beat) => (typeof beat === 'function' ? beat(state.model, state) : beat));
  let beat = query.get('from') === 'end' ? beats.length - 1 : 0;
  let playing = query.get('play') === '1';
  let timer = 0;
  let stage = null;

  const go = (i, more = '') => {
    leaving = [...player.querySelectorAll('button')].indexOf(document.activeElement);
    location.hash = `#/journey/${STOPS[i].id}${more}`;
  };
  const lines = h('ol.beats', beats.map((text, i) => h('li', h('button', { type: 'button', onclick: (event) => { put(i); calm(event); } }, text))));
  const play = h('button.primary', { type: 'button', onclick: (event) => { toggle(); calm(event); } });
  const progress = h('i.beat-progress', { 'aria-hidden': 'true' });
  const put = (i) => {
    beat = i;
    [...lines.children].forEach((li, n) => {
      li.className = n === i ? 'now' : n < i ? 'past' : '';
      li.firstChild.setAttribute('aria-current', n === i ? 'true' : 'false');
    });
    stage?.beat?.(i);
    run();
  };
  const forward = () => { if (beat + 1 < beats.length) put(beat + 1); else if (at + 1 < STOPS.length) go(at + 1, playing ? '?play=1' : ''); else { playing = false; run(); } };
  const back = () => { if (beat > 0) put(beat - 1); else if (at > 0) go(at - 1, '?from=end'); };
  const isEnd = () => at + 1 === STOPS.length && beat + 1 === beats.length;
  const toggle = () => {
    if (!playing && isEnd()) go(0, '?play=1');
    else { playing = !playing; run(); }
  };
  const run = () => {
    clearTimeout(timer);
    play.textContent = playing ? 'Pause' : isEnd() ? 'The end: again?' : 'Play';
    play.setAttribute('aria-pressed', String(playing));
    progress.classList.remove('runs');
    if (!playing) return;
    const seconds = reading(beats[beat]);
    void progress.offsetWidth; // begins the animation anew
    progress.style.setProperty('--seconds', `${seconds}s`);
    progress.classList.add('runs');
    timer = setTimeout(forward, 1000 * seconds);
  };
  signal.addEventListener('abort', () => clearTimeout(timer));
  shortcut('Space', 'Journey: play or pause', () => toggle(), signal);
  shortcut('ArrowRight', 'Journey: next sentence or stop', forward, signal);
  shortcut('ArrowLeft', 'Journey: back', back, signal);
  shortcut('ArrowDown', 'Journey: next stop', () => at + 1 < STOPS.length && go(at + 1), signal);
  shortcut('ArrowUp', 'Journey: stop before', () => at > 0 && go(at - 1), signal);

  const picture = h('div.stage');
  const tryIt = h('div.try');
  const player = h('div.player', h('button', { type: 'button', onclick: (event) => { back(); calm(event); }, 'aria-label': 'Back' }, '←'), play,
    h('button', { type: 'button', onclick: (event) => { forward(); calm(event); }, 'aria-label': 'Forward' }, '→'), h('small', h('kbd', 'Space'), ' plays, ', h('kbd', '←'), ' ', h('kbd', '→'), ' step, ', h('kbd', '↑'), ' ', h('kbd', '↓'), ' stops'), progress);
  // Whoever goes on by the player's buttons keeps the one that was pressed.
  const held = leaving;
  leaving = -1;
  fill(body, h('article.journey',
    rail(at),
    h('header.stop-head', h('p.stop-count', `${stop.backward ? 'Backward' : 'Forward'} · stop ${at + 1} of ${STOPS.length}`), h('h1', stop.title)),
    h('div.stop',
      h('section.stop-text', { 'aria-label': 'What happens here' }, lines, player),
      h('section.card.stop-picture', { 'aria-label': 'Numbers of your model' }, picture, h('p.note', stop.view ? ['More in the view ', h('a', { href: `#/${stop.view}` }, stop.viewName), ' · '] : null, 'computed in ', sourceLink(stop.source))),
      h('section.try-box', h('h2', 'Change one thing'), h('p', stop.change), tryIt),
      h('section.touches', h('h2', 'What fine-tuning touches here'), h('p', typeof stop.touches === 'function' ? stop.touches(state.model, state) : stop.touches)))));
  if (held >= 0) player.querySelectorAll('button')[held].focus();
  put(beat);
  stage = await stop.show({ picture, tryIt, signal, state });
  if (!signal.aborted) stage?.beat?.(beat);
}

export default {
  id: 'journey', key: 'j', title: 'The journey', bare: true, source: 'src/studio/page/journey/journey.js',
  lead: 'From a sentence to the next word, and back into the adapter.', what: [], show,
};
