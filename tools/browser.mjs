// Chromium without a screen, led over its debugging port, for the studio's developer tools. Needs Node 20 or newer, and nothing from npm.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** A tab: `send(method, parameters)`, `evaluate(expression)`, `settled()`, `close()`; `faults` has what went wrong in the page. */
export async function browser(chromium) {
  const profile = mkdtempSync(join(tmpdir(), 'studio-browser-'));
  const port = 20000 + (process.pid % 20000);
  const running = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', `--remote-debugging-port=${port}`, `--user-data-dir=${profile}`, 'about:blank'], { stdio: 'ignore' });
  const socket = await connect(port, chromium);
  await new Promise((done) => (socket.onopen = done));
  const waiting = new Map();
  const faults = [];
  socket.onmessage = ({ data }) => {
    const { id, result, method, params } = JSON.parse(data);
    if (id) waiting.get(id)?.(result);
    else if (method === 'Runtime.exceptionThrown') faults.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    else if (method === 'Network.requestWillBeSent' && !/^(http:\/\/127\.0\.0\.1:|about:|data:)/.test(params.request.url)) faults.push(`outside request: ${params.request.url}`);
  };
  let last = 0;
  const send = (method, params = {}) => new Promise((done) => { waiting.set(++last, done); socket.send(JSON.stringify({ id: last, method, params })); });
  const evaluate = async (expression) => (await send('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })).result?.value;

  // Nothing is being worked on any more, for a while.
  async function settled() {
    let calm = 0;
    for (let looks = 0; looks < 600 && calm < 8; looks++) {
      await sleep(150);
      const busy = await evaluate("document.readyState !== 'complete' || !document.querySelector('main').firstChild || [...document.querySelectorAll('.pane')].some((p) => p.classList.contains('busy'))");
      calm = busy ? 0 : calm + 1;
    }
  }

  /** The page at this address, in a window of this width, in a light or dark system. */
  async function open(url, width, theme) {
    await send('Emulation.setDeviceMetricsOverride', { width, height: 860, deviceScaleFactor: 1, mobile: width < 600 });
    await send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: theme }] });
    await send('Page.navigate', { url: 'about:blank' });
    await send('Page.navigate', { url });
    await settled();
  }

  async function close() {
    await send('Browser.close');
    await sleep(500);
    running.kill();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }

  for (const method of ['Page.enable', 'Runtime.enable', 'Network.enable']) await send(method);
  return { send, evaluate, settled, open, close, faults };
}

async function connect(port, chromium) {
  for (let tries = 0; tries < 200; tries++) {
    try {
      const pages = await (await fetch(`http://127.0.0.1:${port}/json`)).json();
      const page = pages.find((each) => each.type === 'page');
      if (page) return new WebSocket(page.webSocketDebuggerUrl);
    } catch {
      // It is still starting.
    }
    await sleep(150);
  }
  throw new Error(`${chromium} does not open its debugging port`);
}
