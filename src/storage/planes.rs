//! How codes lie on the device: 32 of them a block, in planes of 8, 4, 2 or 1 bits.
//!
//! Kernels take four elements that follow each other as the bytes of one word. So word `w` of a block's 4-bit codes holds elements
//! `8 w .. 8 w + 8`: the low halves of its bytes the first four, the high halves the others. Word `w` of 2-bit codes holds elements
//! `16 w .. 16 w + 16`, four in the lowest two bits of each byte, four in the next, and so on; the one word of a 1-bit plane holds all
//! 32, bit `f` of byte `b` being that of element `4 f + b`. A shift and a mask give the four. (ggml's low halves are elements 0 .. 16 of a
//! block, its scales stand before each block.)

use half::f16;

/// Elements of a block on the device.
pub(super) const BLOCK: usize = 32;

/// The f16 at this byte, as f32.
pub(super) fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Rounds to f16 and writes it.
pub(super) fn put_f16(value: f32, bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// ggml's order of 32 nibbles: the low halves of 16 bytes, then the high ones.
pub(super) fn ggml_nibbles(packed: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|at| if at < BLOCK / 2 { packed[at] & 15 } else { packed[at - BLOCK / 2] >> 4 })
}

/// The inverse of [`ggml_nibbles`].
pub(super) fn put_ggml_nibbles(codes: &[u8; BLOCK], packed: &mut [u8]) {
    for (at, byte) in packed.iter_mut().enumerate().take(BLOCK / 2) {
        *byte = (codes[at] & 15) | (codes[at + BLOCK / 2] & 15) << 4;
    }
}

/// 32 codes of 5 bits as ggml keeps them: nibbles, and a word of which bit j is the highest of element j.
pub(super) fn five_bits(nibbles: &[u8], high: &[u8]) -> [u8; BLOCK] {
    let (low, high) = (ggml_nibbles(nibbles), u32::from_le_bytes([high[0], high[1], high[2], high[3]]));
    std::array::from_fn(|at| low[at] | ((high >> at & 1) as u8) << 4)
}

/// The inverse of [`five_bits`].
pub(super) fn put_five_bits(codes: &[u8; BLOCK], nibbles: &mut [u8], high: &mut [u8]) {
    put_ggml_nibbles(codes, nibbles);
    let bits = codes.iter().enumerate().fold(0, |bits, (at, &code)| bits | u32::from(code >> 4) << at);
    high.copy_from_slice(&bits.to_le_bytes());
}

/// The low four bits of a block's codes, in 16 bytes.
pub(super) fn put_nibbles(codes: &[u8], plane: &mut [u8]) {
    for (at, byte) in plane.iter_mut().enumerate().take(BLOCK / 2) {
        let first = at / 4 * 8 + at % 4;
        *byte = (codes[first] & 15) | (codes[first + 4] & 15) << 4;
    }
}

/// Two bits of a block's codes from bit `shift` on, in 8 bytes.
pub(super) fn put_pairs(codes: &[u8], shift: u32, plane: &mut [u8]) {
    for (at, byte) in plane.iter_mut().enumerate().take(BLOCK / 4) {
        let first = at / 4 * 16 + at % 4;
        *byte = (0..4).fold(0, |byte, four| byte | (codes[first + 4 * four] >> shift & 3) << (2 * four));
    }
}

/// Bit `shift` of a block's codes, in 4 bytes.
pub(super) fn put_bits(codes: &[u8], shift: u32, plane: &mut [u8]) {
    for (at, byte) in plane.iter_mut().enumerate().take(BLOCK / 8) {
        *byte = (0..8).fold(0, |byte, four| byte | (codes[at + 4 * four] >> shift & 1) << four);
    }
}

/// Quantising to a grid that is even about zero, as ggml does it: the value of largest magnitude gets the lowest code, `-half`. Gives the
/// step and the codes, `0 .. 2 half`.
pub(super) fn signed_codes(values: &[f32], half: f32) -> (f32, [u8; BLOCK]) {
    let most = values.iter().fold(0.0_f32, |most, &value| if value.abs() > most.abs() { value } else { most });
    let d = most / -half;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (d, std::array::from_fn(|at| (values[at] * inverse + half + 0.5).trunc().clamp(0.0, 2.0 * half - 1.0) as u8))
}

/// Quantising to `d code + m` with codes `0 ..= most`, as ggml does it. Gives d, m and the codes.
pub(super) fn unsigned_codes(values: &[f32], most: f32) -> (f32, f32, [u8; BLOCK]) {
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    let d = (high - low) / most;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (d, low, std::array::from_fn(|at| ((values[at] - low) * inverse + 0.5).trunc().clamp(0.0, most) as u8))
}
