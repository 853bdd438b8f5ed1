// How numbers are written, everywhere the same.

const group = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** 4884480 -> 4,884,480 */
export const whole = (n) => group.format(n);

/** 134515008 -> 134.5 M */
export function count(n) {
  for (const [unit, size] of [['B', 1e9], ['M', 1e6], ['k', 1e3]]) if (Math.abs(n) >= size) return `${trim(n / size)} ${unit}`;
  return String(Math.round(n));
}

const trim = (n) => (n >= 100 ? n.toFixed(0) : n.toFixed(n >= 10 ? 1 : 2));

/** Bytes with binary units, as the command line prints them. */
export function bytes(n) {
  for (const [unit, size] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]]) if (n >= size) return `${trim(n / size)} ${unit}`;
  return `${n} B`;
}

/** A share of 1 as per cent. */
export function percent(p, digits = 1) {
  if (!Number.isFinite(p)) return '–';
  if (p > 0 && p < 0.001) return '< 0.1 %';
  return `${(100 * p).toFixed(digits)} %`;
}

/** Any number in about four characters of precision. */
export function short(x) {
  if (x === null || x === undefined || !Number.isFinite(x)) return '–';
  const size = Math.abs(x);
  if (size === 0) return '0';
  if (size >= 1e5 || size < 1e-3) return x.toExponential(2).replace('e-', 'e−').replace('e+', 'e').replace(/^-/, '−');
  return x.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4).replace(/^-/, '−');
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

/** A token's text with its white space made visible. */
export const visible = (text) => text.replaceAll(' ', '␣').replaceAll('\n', '⏎').replaceAll('\t', '⇥') || '∅';
