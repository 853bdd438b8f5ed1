// Colour scales that colour-blind readers tell apart too: blue to orange around zero, and one hue from paper to deep blue.
// The ends come from the style sheet, so that light and dark each have their own.

function variable(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  return [r, g, b];
}

const mix = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
/** A colour as style sheets write it. */
export const css = (c) => `rgb(${c[0]} ${c[1]} ${c[2]})`;
// Relative luminance, as WCAG 2 has it: black and white have the same contrast, 4.6, against 0.18.
const luminance = (rgb) => rgb.map((x) => (x <= 10 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4)).reduce((sum, x, i) => sum + [0.2126, 0.7152, 0.0722][i] * x, 0);
/** Ink that can be read on a colour. */
export const inkOn = (rgb) => (luminance(rgb) > 0.179 ? '#000000' : '#ffffff');

/** The scales of the present theme, as [red, green, blue]; made anew at each drawing. */
export function scales() {
  const [zero, low, high, middle, deep, none] = ['--scale-zero', '--scale-negative', '--scale-positive', '--scale-mid', '--scale-deep', '--scale-none'].map(variable);
  const ramp = (t) => {
    const x = Math.max(0, Math.min(1, t));
    return x < 0.5 ? mix(zero, middle, 2 * x) : mix(middle, deep, 2 * x - 1);
  };
  return {
    /** -1 .. 0 .. 1: blue, paper, orange. The square root lets small values be seen. */
    diverging(t) {
      const size = Math.sqrt(Math.min(1, Math.abs(t)));
      return mix(zero, t < 0 ? low : high, size);
    },
    /** 0 .. 1: paper to deep blue, by the square root, too. */
    sequential: (t) => ramp(Math.sqrt(Math.max(0, t))),
    /** 0 .. 1 without the root: where differences between large values matter. */
    linear: (t) => ramp(t),
    none,
  };
}

/** Series colours of line charts, in fixed order; each has its dash too, so that colour is not the only sign. */
export const SERIES = [
  { colour: 'var(--series-1)', dash: '' },
  { colour: 'var(--series-2)', dash: '6 3' },
  { colour: 'var(--series-3)', dash: '2 3' },
  { colour: 'var(--series-4)', dash: '10 3 2 3' },
  { colour: 'var(--series-5)', dash: '4 2' },
  { colour: 'var(--series-6)', dash: '1 2' },
];

/** Calls `draw` when the theme changes. */
export function onTheme(signal, draw) {
  const call = () => draw();
  document.addEventListener('themechange', call);
  signal?.addEventListener('abort', () => document.removeEventListener('themechange', call));
}
