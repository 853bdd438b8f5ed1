// Making elements in one line: h('p.lead', {title: 'x', onclick: f}, 'text', child). Styles go through the object model, since the
// page's content security policy forbids style attributes.

const SVG = 'http://www.w3.org/2000/svg';

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name === 'value' || name === 'checked' || name === 'selected' || name === 'disabled' || name === 'open') element[name] = value;
    else if (name === 'dataset') Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  add(element, children);
  return element;
}

/** Appends children: nodes, texts, nested lists; null and false are left out. */
export function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function split(tag) {
  const [name, ...classes] = tag.split('.');
  return [name || 'div', classes.join(' ')];
}

const isAttributes = (x) => x !== null && typeof x === 'object' && !(x instanceof Node) && !Array.isArray(x);

/** An HTML element: h('div.class', {attributes}, ...children); the attributes may be left out. */
export function h(tag, ...rest) {
  const [name, classes] = split(tag);
  const attributes = isAttributes(rest[0]) ? rest.shift() : {};
  const element = document.createElement(name);
  if (classes) element.className = classes;
  return build(element, attributes, rest);
}

/** The same for SVG. */
export function s(tag, ...rest) {
  const [name, classes] = split(tag);
  const attributes = isAttributes(rest[0]) ? rest.shift() : {};
  const element = document.createElementNS(SVG, name);
  if (classes) element.setAttribute('class', classes);
  return build(element, attributes, rest);
}

/** Replaces what is in `element`, and keeps the focus. */
export function fill(element, ...children) {
  return keepFocus(element, () => {
    element.replaceChildren();
    return add(element, children);
  });
}

const called = (element) => element.getAttribute('aria-label') ?? element.textContent;

/**
 * Does `work`, which replaces what is in `element`. If the focus was on something there, it is afterwards on what has the same name, or else
 * stands in the same place, or else on what is around: whoever works by keys goes on from there, not from the page's beginning.
 */
export function keepFocus(element, work) {
  const had = document.activeElement;
  if (had === element || !element.contains(had)) return work();
  const alike = () => [...element.querySelectorAll(had.tagName)].filter((each) => !each.disabled);
  const place = alike().indexOf(had), name = called(had);
  const done = work();
  const now = alike();
  const next = had.isConnected ? had : now.find((each) => called(each) === name) ?? now[place] ?? element.closest('[tabindex]');
  next?.focus({ preventScroll: true });
  return done;
}

/** Calls `draw(width)` now and whenever the element's width changes, until `signal` aborts. */
export function onWidth(element, signal, draw) {
  let last = 0;
  const observer = new ResizeObserver((entries) => {
    const width = Math.floor(entries[0].contentRect.width);
    if (width > 0 && width !== last) draw((last = width));
  });
  observer.observe(element);
  signal?.addEventListener('abort', () => observer.disconnect());
}

/** Waits until calls have stopped for `ms`. */
export function debounce(ms, call) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...values), ms);
  };
}

let next = 0;
/** An id that no other element of the page has. */
export const uid = (prefix) => `${prefix}-${++next}`;
