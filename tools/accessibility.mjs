// What axe-core has against any view of the studio, in light and dark, wide and narrow; and whether the keyboard alone gets everywhere.
//
//   npm pack axe-core && tar xf axe-core-*.tgz
//   node --experimental-websocket tools/accessibility.mjs chromium ADDRESS package/axe.min.js
//
// ADDRESS is what `graftling studio --adapter ...` prints. Needs Chromium and Node 20 or newer. Ends with 1 where something is found.

import { readFileSync } from 'node:fs';
import { browser } from './browser.mjs';

const [, , chromium, address, axe] = process.argv;
const STOPS = ['tokenizer', 'embedding', 'attention', 'mlp', 'layers', 'output', 'formats', 'loss', 'gradients', 'adapter'];
const VIEWS = ['anatomy', 'text', 'attention', 'mlp', 'residual', 'lora', 'backward', 'source', 'source?op=rope', 'source?file=src/ops/rope.rs', 'theatre', 'chat', ...STOPS.map((stop) => `journey/${stop}`)];
const WINDOWS = [[1280, 'light'], [390, 'dark']];

// Every element that can be focused: reached by Tab or, in a group, by arrows; named; and seen to be focused.
const FOCUS = `(() => {
  const faults = [];
  const visible = (e) => e.getClientRects().length > 0;
  const name = (e) => (e.getAttribute('aria-label') || e.textContent || e.labels?.[0]?.textContent || e.title || '').trim();
  for (const e of document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')) {
    if (!visible(e) || e.disabled || e.id === 'content') continue;
    // A group in which the arrows move has one element that Tab gets to.
    let group = e.parentElement;
    while (group && e.tabIndex < 0 && group.id !== 'content' && !group.querySelector('[tabindex="0"]')) group = group.parentElement;
    if (e.tabIndex < 0 && (!group || group.id === 'content') && e.tagName !== 'SECTION') faults.push('no key gets to ' + e.outerHTML.slice(0, 120));
    if (!name(e) && e.tagName !== 'INPUT') faults.push('no name: ' + e.outerHTML.slice(0, 120));
  }
  return faults;
})()`;

const { evaluate, open, close, faults } = await browser(chromium);
const script = readFileSync(axe, 'utf8');
let found = 0;
for (const [width, theme] of WINDOWS) {
  for (const view of VIEWS) {
    await open(`${address}#/${view}`, width, theme);
    await evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))");
    await evaluate(script);
    const violations = JSON.parse(await evaluate(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => JSON.stringify(violations.map(({ id, impact, help, nodes }) => ({ id, impact, help, nodes: nodes.map(({ target, html, failureSummary }) => ({ target: target.join(' '), html: html.slice(0, 140), why: failureSummary.split('\\n').slice(1, 3).join(' ') })) }))))`));
    for (const { id, impact, help, nodes } of violations) {
      found++;
      console.log(`${view} ${width} ${theme}: ${id} (${impact}): ${help}: ${nodes.length} times, first ${nodes[0].html} ${nodes[0].why}`);
    }
    for (const fault of await evaluate(FOCUS)) {
      found++;
      console.log(`${view} ${width}: ${fault}`);
    }
    const error = await evaluate("document.querySelector('.error')?.textContent");
    if (error) faults.push(`${view}: ${error}`);
  }
}
await close();
for (const fault of faults) console.error(`fault: ${fault}`);
console.log(`${found} findings in ${VIEWS.length} views`);
process.exit(found + faults.length ? 1 : 0);
