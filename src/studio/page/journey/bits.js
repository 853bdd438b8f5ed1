// Bits of a number in a few formats, for looking at: [[bits, kind]...] and the value that they stand for. The formats that the engine
// computes with are in src/storage.

const view = new DataView(new ArrayBuffer(4));

function bits32(x) {
  view.setFloat32(0, x);
  return view.getUint32(0);
}

function value32(bits) {
  view.setUint32(0, bits >>> 0);
  return view.getFloat32(0);
}

const binary = (n, width) => n.toString(2).padStart(width, '0');
const parts = (text, exponent) => [[text.slice(0, 1), 'sign'], [text.slice(1, 1 + exponent), 'exponent'], [text.slice(1 + exponent), 'fraction']];

export const f32Bits = (x) => parts(binary(bits32(x), 32), 8);

/** Round to nearest, ties to even. */
export function bf16(x) {
  const all = bits32(x);
  const kept = (all + 0x7fff + ((all >>> 16) & 1)) >>> 16;
  return [parts(binary(kept & 0xffff, 16), 8), value32(kept << 16)];
}

/** Round to nearest, ties to even; numbers below 2^-14 are kept in steps of 2^-24. */
export function f16(x) {
  const sign = x < 0 || Object.is(x, -0) ? 1 : 0;
  const size = Math.min(Math.abs(x), 65504);
  const exponent = size === 0 ? -14 : Math.max(-14, Math.floor(Math.log2(size)));
  const step = 2 ** (exponent - 10);
  const even = (v) => { const low = Math.floor(v), rest = v - low; return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low; };
  const steps = even(size / step);
  const value = (sign ? -1 : 1) * steps * step;
  const code = steps < 1024 ? steps : steps === 2048 ? (exponent + 16) << 10 : ((exponent + 15) << 10) | (steps - 1024);
  return [parts(sign + binary(code, 15), 5), value];
}

/** GGUF's Q8_0: an f16 scale and 32 signed bytes. */
export function q8_0(block, at) {
  const most = Math.max(...block.map(Math.abs));
  const scale = most / 127;
  const code = scale ? Math.round(block[at] / scale) : 0;
  return [[[binary(code & 0xff, 8), 'code']], code * f16(scale)[1]];
}

/** GGUF's Q4_0: an f16 scale and 32 codes of four bits around 8. */
export function q4_0(block, at) {
  const extreme = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a), 0);
  const scale = extreme / -8;
  const code = scale ? Math.min(15, Math.floor(block[at] / scale + 8.5)) : 8;
  return [[[binary(code, 4), 'code']], (code - 8) * f16(scale)[1]];
}
