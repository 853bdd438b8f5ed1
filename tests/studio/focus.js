// Follows the focus through the page: which elements the keys have got to, and what was wrong with how each looked when it had the focus.
(() => {
  const reached = new Set();
  const faults = new Set();
  const CONTROLS = 'a[href], button, input, select, textarea, summary, [tabindex]';
  const called = (e) => `${e.tagName.toLowerCase()}.${(e.getAttribute('class') ?? '').replaceAll(' ', '.')} "${(e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? e.textContent).trim().slice(0, 60)}"`;
  const seen = (e) => e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length > 0;
  const frame = () => new Promise((done) => requestAnimationFrame(done));

  // How far the sign of the focus goes beyond the element: an outline of the one colour that nothing else has, or in a picture a thick edge of it.
  function sign(e) {
    const colour = getComputedStyle(document.documentElement).getPropertyValue('--focus').trim();
    const is = (found) => found === `rgb(${[1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)).join(', ')})`;
    const style = getComputedStyle(e);
    if (style.outlineStyle === 'solid' && parseFloat(style.outlineWidth) >= 2 && is(style.outlineColor)) return Math.max(0, parseFloat(style.outlineWidth) + parseFloat(style.outlineOffset));
    const edge = e.namespaceURI.endsWith('svg') && getComputedStyle(e.firstElementChild);
    return edge && parseFloat(edge.strokeWidth) >= 2 && is(edge.stroke) ? 0 : null;
  }

  // What is wrong with how `e`, which has the focus, is seen.
  function wrong(e) {
    const beyond = sign(e);
    if (beyond === null) return 'no sign of the focus';
    const box = e.getBoundingClientRect();
    // The sign is not cut off by a box that scrolls, unless the element is larger than that box.
    for (let around = e.parentElement; around && around !== document.body; around = around.parentElement) {
      const style = getComputedStyle(around);
      if (style.overflowX === 'visible' && style.overflowY === 'visible') continue;
      const clip = around.getBoundingClientRect();
      const cut = (from, to, low, high) => to - from <= high - low && (from - beyond < low - 1 || to + beyond > high + 1);
      if (cut(box.left, box.right, clip.left, clip.right) || cut(box.top, box.bottom, clip.top, clip.bottom)) return `its sign is cut off by ${called(around)}`;
    }
    // Nothing that sticks lies over it, and it is in the window.
    const shares = [0.1, 0.5, 0.9];
    const spots = [...e.getClientRects()].flatMap((b) => shares.flatMap((x) => shares.map((y) => [b.left + x * b.width, b.top + y * b.height])));
    const free = spots.filter(([x, y]) => { const top = document.elementFromPoint(x, y); return top && (e.contains(top) || top.contains(e)); }).length;
    const whole = box.height < 0.6 * innerHeight && box.width < innerWidth && e.namespaceURI.endsWith('xhtml');
    return free < (whole ? 0.6 * spots.length : 1) && Math.min(box.width, box.height) >= 2 ? `it is covered or out of sight at ${[box.left, box.top, box.right, box.bottom].map(Math.round)}` : null;
  }

  document.addEventListener('focusin', ({ target }) => reached.add(target));

  window.walk = {
    /** Forgets where it has been. */
    begin() { reached.clear(); faults.clear(); },
    /** What has the focus, once it is scrolled to: whether it is in the content, can be opened, or is one of a group in which arrows move. */
    async at() {
      const e = document.activeElement;
      const content = document.getElementById('content');
      const inside = content.contains(e) && e !== content;
      if (inside) {
        let fault = wrong(e);
        for (let frames = 0; fault && frames < 20; frames++) { await frame(); fault = wrong(e); }
        if (fault) faults.add(`${fault}: ${called(e)}`);
      }
      const grouped = (group) => group !== content && [...group.querySelectorAll('[tabindex="0"]')].every((other) => other === e)
        && ([...group.querySelectorAll('[tabindex="-1"]:not(section)')].some(seen) || grouped(group.parentElement));
      return { inside, closed: inside && e.tagName === 'SUMMARY' && !e.parentElement.open, grouped: inside && e.getAttribute('tabindex') === '0' && grouped(e.parentElement), name: called(e), reached: reached.size };
    },
    /** Controls of the view that no key has got to, and what was wrong with those that had the focus. Sections get it by what is done in them. */
    found() {
      const missed = [...document.querySelectorAll(`#content :is(${CONTROLS}):not(section)`)].filter((e) => seen(e) && !e.disabled && !reached.has(e));
      return [...missed.map((e) => `no key gets to ${called(e)}`), ...faults];
    },
  };
})();
