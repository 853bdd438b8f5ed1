// Source code with line numbers, comments and words told apart.

import { h } from './dom.js';

const WORDS = {
  wgsl: /\b(fn|let|var|const|override|struct|if|else|for|while|loop|return|break|continue|switch|case|default|true|false|u32|i32|f32|f16|bool|vec[234]|mat\dx\d|array|ptr|storage|workgroup|uniform|function|private|read|read_write|alias|enable)\b/,
  js: /\b(import|export|from|default|const|let|function|return|if|else|for|of|in|while|break|continue|new|class|extends|async|await|try|catch|finally|throw|typeof|null|undefined|true|false)\b/,
  rust: /\b(fn|let|mut|const|struct|impl|if|else|for|while|loop|return|break|continue|match|true|false|pub|use|as|in|ref|where|self|Self|usize|u32|f32|f64|bool|Vec|Option|Result|move)\b/,
};

function words(text, language) {
  return text.split(new RegExp(`${WORDS[language].source}|(//.*$)|(@\\w+)`)).filter((x) => x !== undefined && x !== '').map((piece) => {
    if (piece.startsWith('//')) return h('i', piece);
    if (piece.startsWith('@')) return h('u', piece);
    return new RegExp(`^${WORDS[language].source}$`).test(piece) ? h('b', piece) : piece;
  });
}

/** A block of code that scrolls in its own box. */
export function code(text, language, label) {
  return h('pre.code', { tabindex: 0, 'aria-label': label }, h('code', text.replace(/\n$/, '').split('\n').map((line) => h('span.line', words(line, language), '\n'))));
}
