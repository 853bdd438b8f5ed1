// The little Markdown that the ops' pages are written in: paragraphs, lists, tables, code, bold. Text becomes text nodes, never HTML.

import { h } from './dom.js';

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\](?:\([^)]+\))?)/).map((piece) => {
    if (piece.startsWith('`')) return h('code', piece.slice(1, -1));
    if (piece.startsWith('**')) return h('b', inline(piece.slice(2, -2)));
    const link = piece.match(/^\[([^\]]+)\](?:\([^)]+\))?$/);
    // Links of the documentation lead to code, of which the page has no copy: their names are enough.
    return link && /^`/.test(link[1]) ? inline(link[1]) : piece;
  });
}

const cells = (line) => line.trim().replace(/^\||\|$/g, '').split('|').map((cell) => cell.trim());

/** Elements for a Markdown text. */
export function markdown(text) {
  const out = [];
  const lines = text.split('\n');
  let at = 0;
  const take = (test) => {
    const from = at;
    while (at < lines.length && test(lines[at])) at++;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at++;
    else if (line.startsWith('```')) {
      at++;
      const code = take((l) => !l.startsWith('```'));
      at++;
      out.push(h('pre.code', { tabindex: 0 }, h('code', code.join('\n'))));
    } else if (line.trim().startsWith('|')) {
      const [head, , ...rows] = take((l) => l.trim().startsWith('|'));
      out.push(h('div.table-scroll', { tabindex: 0 }, h('table', h('thead', h('tr', cells(head).map((c) => (c ? h('th', { scope: 'col' }, inline(c)) : h('td'))))), h('tbody', rows.map((row) => h('tr', cells(row).map((c) => h('td', inline(c)))))))));
    } else if (/^\s*[*-] /.test(line)) {
      out.push(h('ul', take((l) => /^\s*[*-] /.test(l)).map((l) => h('li', inline(l.replace(/^\s*[*-] /, ''))))));
    } else if (/^#+ /.test(line)) {
      out.push(h('h3', inline(line.replace(/^#+ /, ''))));
      at++;
    } else out.push(h('p', inline(take((l) => l.trim() && !l.startsWith('```') && !l.trim().startsWith('|') && !/^\s*[*-] /.test(l)).join(' '))));
  }
  return out;
}
