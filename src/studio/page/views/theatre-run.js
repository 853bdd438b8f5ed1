// The run that is shown: where it is, its curves, what it says, and the buttons that lead it.

import { h, add, fill } from '../lib/dom.js';
import * as api from '../lib/api.js';
import { live } from '../lib/live.js';
import { errorBox } from '../lib/pane.js';
import { lineChart } from '../lib/charts.js';
import { bytes, duration, short, whole, percent } from '../lib/format.js';

const PHASES = {
  idle: 'not training', running: 'training', pausing: 'pausing: it saves a checkpoint', stopping: 'stopping: it saves a checkpoint',
  paused: 'paused', stopped: 'stopped', done: 'done', failed: 'failed',
};

const share = ({ right, of }) => (of ? right / of : NaN);

/** Curves of the questions of --check-data that were answered right: all of them, and each group of them. */
export function checks(metrics) {
  const asked = metrics.filter((m) => m.check);
  const groups = [...new Set(asked.flatMap((m) => Object.keys(m.check.groups ?? {})))];
  const line = (name, of) => ({ name, points: asked.filter(of).map((m) => [m.step, share(of(m))]) });
  return asked.length ? [line('all', (m) => m.check.all), ...groups.map((group) => line(group, (m) => m.check.groups?.[group]))] : [];
}

/** Answers that are shown at first: the newest. */
const SAMPLES = 24;
const sampled = ({ step, prompt, answer }) => h('figure.sample', h('figcaption', `step ${step}: ${prompt}`), h('blockquote', answer));
/** A run of which nobody saw the end is done if its last step is. */
function phase({ phase: now, about, metrics }) {
  return now === 'idle' && about && metrics[metrics.length - 1]?.step >= about.total_steps ? 'done' : now;
}

/** The card. `ended()` is called when a run has ended, `known(run)` once it is known which run is shown, if any. */
export function stage({ signal, ended, known }) {
  const element = h('section.card.theatre-now', { 'aria-label': 'The run', tabindex: -1 });
  const trouble = h('div');
  const numbers = h('dl.big-numbers'), bar = h('div.run-bar', { role: 'progressbar', 'aria-label': 'Steps done', 'aria-valuemin': 0 }, h('i')), buttons = h('div.row'), charts = h('div.columns', { style: { '--column': '22rem' } });
  const log = h('pre.log', { tabindex: 0, 'aria-label': 'What the run says' });
  const terminal = h('details', h('summary', 'What it says in the terminal'), log);
  const recipe = h('pre.log', { tabindex: 0, 'aria-label': 'Its recipe' });
  const recipes = h('details', h('summary', 'Its recipe'), recipe);
  const lines = new Map(); // charts that are drawn, by their label
  const samples = h('div.stack');
  let run = null;
  let drawing = 0;
  let asking = false;
  let told = false;
  const tellOnce = (which) => { if (!told) known(which); told = true; };

  const act = (path, body) => async () => {
    fill(trouble);
    try { shown(await api.post(path, body)); } catch (error) { fill(trouble, errorBox(error)); }
  };
  const button = (text, call, primary) => h(primary ? 'button.primary' : 'button', { type: 'button', onclick: call }, text);

  const leads = () => {
    const training = run.phase === 'running';
    const place = run.adapter ?? run.checkpoint?.dir;
    fill(buttons,
      training && button('Pause', act('train/pause')), training && button('Stop', act('train/stop')),
      run.resumable && button('Go on', act('train/resume'), true),
      !['running', 'pausing', 'stopping'].includes(run.phase) && place && button('Open this adapter, to look inside', async () => {
        fill(trouble);
        try {
          await api.post('open', { model: run.about?.model ?? run.model ?? undefined, adapter: place });
          api.forget();
          location.hash = '#/lora';
        } catch (error) { fill(trouble, errorBox(error)); }
      }));
  };

  const draw = () => {
    drawing = 0;
    if (!run || signal.aborted) return;
    const { metrics, about } = run;
    const last = metrics[metrics.length - 1];
    const total = about?.total_steps ?? run.total_steps;
    const recent = metrics.slice(-20);
    const speed = recent.length ? recent.reduce((sum, m) => sum + m.tokens / m.tokens_per_second, 0) / recent.length : NaN;
    const entry = (name, value, note) => h('div', h('dt', name), h('dd', value, note && h('small', note)));
    const lastEval = [...metrics].reverse().find((m) => m.eval_loss !== undefined && m.eval_loss !== null);
    const lastCheck = [...metrics].reverse().find((m) => m.check);
    fill(numbers,
      entry('step', last ? whole(last.step) : '0', total ? `of ${whole(total)}` : ''),
      last && entry('loss', short(last.loss), `${percent(Math.exp(-last.loss))} a token`),
      lastEval && entry('held-out loss', short(lastEval.eval_loss), `at step ${lastEval.step}`),
      lastCheck && entry('answered right', `${whole(lastCheck.check.all.right)} of ${whole(lastCheck.check.all.of)}`, `at step ${lastCheck.step}`),
      last && entry('learning rate', last.learning_rate.toExponential(1)),
      last && entry('tokens a second', whole(last.tokens_per_second), Number.isFinite(speed) ? `${duration(speed)} a step` : ''),
      last && entry('memory', bytes(last.gpu_bytes), 'on the device'),
      total && last && run.phase === 'running' && entry('time left', duration((total - last.step) * speed), 'by the last 20 steps'),
      about?.parameters && entry('trained', whole(about.parameters), 'parameters'));
    bar.hidden = !total;
    bar.setAttribute('aria-valuemax', total ?? 0);
    bar.setAttribute('aria-valuenow', last?.step ?? 0);
    bar.firstChild.style.setProperty('--share', total && last ? last.step / total : 0);
    bar.classList.toggle('runs', run.phase === 'running');
    const line = (key) => metrics.filter((m) => m[key] !== undefined && m[key] !== null).map((m) => [m.step, m[key]]);
    const x = { label: 'step' };
    const held = line('eval_loss');
    const right = checks(metrics);
    // A chart that somebody reads gets another line at each step, and stays.
    const chart = (options) => {
      const known = lines.get(options.label);
      if (known) known.put(options.series);
      else lines.set(options.label, lineChart({ ...options, signal }));
      return lines.get(options.label);
    };
    const all = [
      chart({ label: 'Loss by step', series: [{ name: 'training', points: line('loss') }, ...(held.length ? [{ name: 'held-out', points: held, marks: held.length < 3 }] : [])], x, y: { label: 'loss', from: 0 }, empty: 'No step is done yet: loading, and choosing kernels.' }),
      right.length ? chart({ label: 'Questions answered right, by step', series: right.map((each) => ({ ...each, marks: each.points.length < 3 })), x, y: { label: 'share answered right', from: 0, to: 1 }, write: (p) => percent(p), caption: 'The questions of check_data, asked every check_steps.' }) : null,
      chart({ label: 'Length of the gradient by step', series: [{ points: line('grad_norm') }], x, y: { label: 'length of the gradient, before clipping' } }),
      chart({ label: 'Learning rate by step', series: [{ points: line('learning_rate') }], x, y: { label: 'learning rate', from: 0 }, height: 150 }),
      chart({ label: 'Tokens a second by step', series: [{ points: line('tokens_per_second') }], x, y: { label: 'tokens a second', from: 0 }, height: 150 }),
    ].filter(Boolean);
    if (all.some((each, at) => charts.children[at] !== each) || charts.children.length !== all.length) fill(charts, all);
  };
  const soon = () => { if (!drawing) drawing = requestAnimationFrame(() => setTimeout(draw, 150)); };

  function shown(next) {
    if (next.dir !== run?.dir) lines.clear();
    run = next;
    fill(trouble, run.error && errorBox(Object.assign(new api.ApiError(0, {}), { what: run.error.what ?? String(run.error), where: run.error.where, propose: run.error.propose })));
    fill(element,
      h('div.row', h('h2', run.dir), h('span.phase', { 'data-phase': phase(run), 'aria-live': 'polite' }, PHASES[phase(run)] ?? run.phase)),
      run.about && h('p.note', `${run.about.model} · ${run.about.data.join(', ')} · on ${run.about.device}`),
      trouble, buttons, numbers, bar, charts, samples,
      run.own || run.log?.length ? terminal : null, run.recipe && recipes);
    if (run.phase === 'failed') terminal.open = true;
    recipe.textContent = run.recipe ?? '';
    log.textContent = (run.log ?? []).join('\n');
    fill(samples, (run.samples ?? []).slice(-SAMPLES).map(sampled));
    leads();
    draw();
  }

  function none() {
    run = null;
    tellOnce(null);
    fill(element, h('h2', 'No run is shown'), h('p', 'Start one below, open one of the past, or begin one in a terminal with ', h('code', 'graftling train --studio'), '.'));
  }

  async function refresh() {
    asking = true;
    try {
      const now = await api.get('run', {}, signal);
      if (now) shown(now);
      else none();
      tellOnce(run);
    } catch (error) {
      if (error.name === 'AbortError') return;
      tellOnce(null);
      fill(element, errorBox(error, refresh));
    } finally {
      asking = false;
    }
  }

  live({
    step(data) {
      if (!run) return;
      // What the run says of itself is there once it has begun.
      if (!run.about && !asking) refresh();
      const at = run.metrics.findIndex((m) => m.step >= data.step);
      if (at >= 0) { if (run.metrics[at].step === data.step) run.metrics[at] = { ...run.metrics[at], ...data }; } else run.metrics.push(data);
      soon();
    },
    log({ line }) { if (run) { (run.log ??= []).push(line); log.textContent += `\n${line}`; log.scrollTop = log.scrollHeight; } },
    sample(data) {
      // A stream that begins anew tells what the run has told already.
      if (!run || run.samples?.some((known) => known.step === data.step && known.prompt === data.prompt)) return;
      (run.samples ??= []).push(data);
      samples.append(sampled(data));
    },
    run(data) { if (!run || data.dir !== run.dir || data.phase !== run.phase || data.total_steps !== run.about?.total_steps) refresh(); },
    done: () => { refresh(); ended(); },
    error: () => { refresh(); ended(); },
  }, signal);
  return { element, shown, refresh, none };
}
