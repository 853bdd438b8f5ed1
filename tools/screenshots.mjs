// Takes a picture of every view of the studio. Called by tools/screenshots.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { browser } from './browser.mjs';

const [, , chromium, address, folder] = process.argv;
const press = (text) => `[...document.querySelectorAll('button')].find((b) => b.textContent === '${text}').click()`;

// name, address in the page, width, theme, what is done before the picture
const PICTURES = [
  ['journey', '/journey/attention', 1280, 'light'],
  ['journey-narrow', '/journey/layers', 390, 'dark'],
  ['anatomy', '/anatomy', 1280, 'light', press('late')],
  ['text', '/text', 1280, 'light'],
  ['attention', '/attention', 1280, 'dark'],
  ['mlp', '/mlp', 1280, 'light'],
  ['residual', '/residual', 1280, 'light'],
  ['lora', '/lora', 1280, 'light'],
  ['backward', '/backward', 1280, 'light'],
  ['theatre', '/theatre', 1280, 'light'],
  ['source', '/source?op=rms_norm', 1280, 'dark'],
  ['chat', '/chat', 1280, 'light', press('Send')],
];

const { send, evaluate, settled, open, close, faults } = await browser(chromium);
mkdirSync(folder, { recursive: true });
for (const [name, path, width, theme, before] of PICTURES) {
  await open(`${address}#${path}`, width, theme);
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
await close();
for (const fault of faults) console.error(`fault: ${fault}`);
process.exit(faults.length ? 1 : 0);
