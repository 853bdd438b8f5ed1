// A region of a view that shows the answer of one request: while it waits it says so and can be cancelled, an error is shown in the
// command line's three parts, and the last picture stays, dimmed, until the next one is there.

import { h, fill, keepFocus } from './dom.js';
import { ApiError } from './api.js';
import { live } from './live.js';

/** The box of an error: what, where, and what to do about it. */
export function errorBox(error, again) {
  const known = error instanceof ApiError ? error : { what: String(error?.message ?? error), where: 'this page', propose: 'reload the page; if it happens again, please report it' };
  return h('div.error', { role: 'alert' },
    h('p.error-what', known.what),
    known.where && h('p.error-where', h('span.key', 'where'), h('span', known.where)),
    known.propose && h('p.error-propose', h('span.key', 'what to do'), h('span', known.propose)),
    again && h('button.small', { type: 'button', onclick: again }, 'Try again'));
}

export class Pane {
  /** `label` says what is being worked on: "Reading attention of layer 3". `signal` ends everything with the view. */
  constructor(label, signal) {
    this.label = label;
    this.status = h('div.pane-status', { 'aria-live': 'polite' });
    this.body = h('div.pane-body');
    this.element = h('section.pane', { tabindex: -1, role: 'group', 'aria-label': label }, this.status, this.body);
    this.running = null;
    this.signal = signal;
    signal?.addEventListener('abort', () => this.stop());
  }

  stop() {
    this.running?.abort();
    this.running = null;
  }

  /** Runs `task(signal)`, then `show(answer, body)`. A task that still runs is given up. */
  async run(task, show, label = this.label) {
    this.stop();
    if (this.signal?.aborted) return;
    const running = (this.running = new AbortController());
    const started = performance.now();
    const seconds = h('span.seconds'), doing = h('span', `${label} …`);
    const clock = setInterval(() => (seconds.textContent = `${((performance.now() - started) / 1000).toFixed(0)} s`), 500);
    live({ progress: ({ what, done, total }) => (doing.textContent = `${label} … ${what}${total ? `, ${done} of ${total}` : ''}`) }, running.signal);
    // Answers that come at once need no bar.
    const bar = setTimeout(() => {
      this.element.classList.add('busy');
      fill(this.status, h('div.busy-bar', h('i'), doing, seconds,
        h('button.small', { type: 'button', onclick: () => this.cancel(label, task, show) }, 'Cancel')));
    }, 200);
    try {
      const answer = await task(running.signal);
      if (this.running !== running) return;
      fill(this.status);
      await keepFocus(this.body, () => {
        this.body.replaceChildren();
        return show(answer, this.body);
      });
    } catch (error) {
      if (this.running !== running) return;
      console.debug(error);
      fill(this.body);
      fill(this.status, errorBox(error, () => this.run(task, show, label)));
    } finally {
      clearTimeout(bar);
      clearInterval(clock);
      running.abort();
      if (this.running === running) {
        this.running = null;
        this.element.classList.remove('busy');
      }
      document.dispatchEvent(new Event('enginechange'));
    }
  }

  cancel(label, task, show) {
    this.stop();
    this.element.classList.remove('busy');
    fill(this.status, h('p.note', `Cancelled: ${label}. `, h('button.small', { type: 'button', onclick: () => this.run(task, show, label) }, 'Start again')));
  }
}
