// Takes a picture of every view of the studio, through Chromium's debugging port. Called by tools/screenshots.

import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const [, , chromium, address, folder] = process.argv;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

// name, address in the page, width, theme, what is done before the picture
const PICTURES = [
  ['journey', '/journey/attention', 1280, 'light'],
  ['journey-narrow', '/journey/layers', 390, 'dark'],
  ['anatomy', '/anatomy', 1280, 'light', "[...document.querySelectorAll('button')].find((b) => b.textContent === 'late').click()"],
  ['text', '/text', 1280, 'light'],
  ['attention', '/attention', 1280, 'dark'],
  ['mlp', '/mlp', 1280, 'light'],
  ['residual', '/residual', 1280, 'light'],
  ['lora', '/lora', 1280, 'light'],
  ['backward', '/backward', 1280, 'light'],
  ['theatre', '/theatre', 1280, 'light'],
  ['source', '/source?op=rms_norm', 1280, 'dark'],
  ['chat', '/chat', 1280, 'light', "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Send').click()"],
];

const profile = mkdtempSync(join(tmpdir(), 'studio-screenshots-'));
const port = 20000 + (process.pid % 20000);
const browser = spawn(chromium, ['--headless=new', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', `--remote-debugging-port=${port}`, `--user-data-dir=${profile}`, 'about:blank'], { stdio: 'ignore' });

async function connect() {
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

const socket = await connect();
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

mkdirSync(folder, { recursive: true });
for (const method of ['Page.enable', 'Runtime.enable', 'Network.enable']) await send(method);
for (const [name, path, width, theme, before] of PICTURES) {
  await send('Emulation.setDeviceMetricsOverride', { width, height: 860, deviceScaleFactor: 1, mobile: width < 600 });
  await send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: theme }] });
  await send('Page.navigate', { url: 'about:blank' });
  await send('Page.navigate', { url: `${address}#${path}` });
  await settled();
  if (before) {
    await evaluate(before);
    await settled();
  }
  const [wide, high, error] = await evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight, document.querySelector('.error')?.textContent]");
  if (wide > width) faults.push(`${name}: the page is ${wide} pixels wide, and the window ${width}`);
  if (error) faults.push(`${name}: ${error}`);
  const picture = await send('Page.captureScreenshot', { format: 'png', captureBeyondViewport: true, clip: { x: 0, y: 0, width, height: Math.min(high, 1800), scale: 1 } });
  const file = join(folder, `${name}.png`);
  writeFileSync(file, Buffer.from(picture.data, 'base64'));
  console.log(file);
}
await send('Browser.close');
await sleep(500);
browser.kill();
rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
for (const fault of faults) console.error(`fault: ${fault}`);
process.exit(faults.length ? 1 : 0);
