//! The search for scales with which rounded codes lose least, for formats whose scales are rounded too (K-quants).
//!
//! The even grid from the least value to the largest is not the best one: a value at the edge costs less when it is cut off than the others
//! gain by finer steps. So some grids are tried; for the codes of each, weighted least squares give the scale (and offset) that suit them
//! best, and the pair with the least error is kept. Grids and weights are those of ggml's quantisers, and so errors are about as large. Scale
//! and offset are rounded next, each by itself, and no longer suit each other: their neighbours are tried too, which ggml does not do.

/// Values that are summed side by side, so that a compiler can do them at once: their order is then the same on every processor.
const LANES: usize = 8;

/// Nearest whole number of one that is far below 2^22 in magnitude, halves to even: two additions, where `round` is a call on many
/// processors.
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    value + SHIFT - SHIFT
}

/// The code of a value that is so many steps from code 0.
pub(super) fn code(steps: f32, least: f32, most: f32) -> f32 {
    // What is not a number gets the least code, what is far away an end of the range.
    nearest(steps.max(least).min(most))
}

/// The sum over all elements of what `terms` makes of an element's index, `N` sums at a time.
fn sums<const N: usize>(count: usize, terms: impl Fn(usize) -> [f32; N]) -> [f32; N] {
    let mut lanes = [[0.0_f32; LANES]; N];
    for first in (0..count).step_by(LANES) {
        for lane in 0..LANES {
            let terms = terms(first + lane);
            (0..N).for_each(|sum| lanes[sum][lane] += terms[sum]);
        }
    }
    lanes.map(|lanes| lanes.iter().sum())
}

/// Scale and offset, neither below 0, for which `scale code - offset` with codes `0 ..= most` is nearest to `values`; magnitudes weigh more.
/// Grids are `most + wider` steps wide, for each of `wider`.
pub(super) fn scale_and_offset<const N: usize>(values: &[f32; N], most: f32, wider: &[f32]) -> [f32; 2] {
    let (low, high) = values.iter().fold((0.0_f32, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    if high <= low {
        // All are alike, and not above 0.
        return [0.0, -low];
    }
    let weights = weights(values);
    let [sum_w, sum_x] = sums(N, |at| [weights[at], weights[at] * values[at]]);
    let codes_of = |width: f32| -> [f32; N] {
        let inverse = width / (high - low);
        std::array::from_fn(|at| code((values[at] - low) * inverse, 0.0, most))
    };
    let error_of = |codes: &[f32; N], scale: f32, low: f32| {
        let [error] = sums(N, |at| {
            let off = scale * codes[at] + low - values[at];
            [weights[at] * off * off]
        });
        error
    };
    let (mut scale, mut lowest) = ((high - low) / most, low);
    let mut least_error = error_of(&codes_of(most), scale, lowest);
    for wider in wider {
        let codes = codes_of(most + wider);
        let [sum_c, sum_cc, sum_xc] = sums(N, |at| {
            let weighted = weights[at] * codes[at];
            [weighted, weighted * codes[at], weighted * values[at]]
        });
        let determinant = sum_w * sum_cc - sum_c * sum_c;
        if determinant <= 0.0 {
            continue;
        }
        let mut fitted = [sum_w * sum_xc - sum_x * sum_c, sum_cc * sum_x - sum_c * sum_xc].map(|sum| sum / determinant);
        if fitted[1] > 0.0 {
            fitted = [sum_xc / sum_cc, 0.0];
        }
        let error = error_of(&codes, fitted[0], fitted[1]);
        if error < least_error {
            (least_error, scale, lowest) = (error, fitted[0], fitted[1]);
        }
    }
    [scale, -lowest]
}

/// Of scales and offsets that are whole numbers of `steps`, up to 63, at most one from `near`: those for which values lose least, with
/// their codes `0 ..= most`. Magnitudes weigh as in [`scale_and_offset`].
pub(super) fn best_neighbour<const N: usize>(
    values: &[f32; N],
    near: [f32; 2],
    steps: [f32; 2],
    most: f32,
) -> ([u8; 2], [u8; N]) {
    let weights = weights(values);
    let codes_of = |[s, n]: [f32; 2]| -> [f32; N] {
        let (scale, offset) = (steps[0] * s, steps[1] * n);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        std::array::from_fn(|at| code((values[at] + offset) * inverse, 0.0, most))
    };
    let (mut best, mut least_error) = (near, f32::INFINITY);
    // `near` first, so that it stays where nothing is better.
    for [more_s, more_n] in
        [[0.0, 0.0], [0.0, -1.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [1.0, -1.0]]
    {
        let [s, n] = [near[0] + more_s, near[1] + more_n];
        if !(0.0..=63.0).contains(&s) || !(0.0..=63.0).contains(&n) {
            continue;
        }
        let codes = codes_of([s, n]);
        let [error] = sums(N, |at| {
            let off = steps[0] * s * codes[at] - steps[1] * n - values[at];
            [weights[at] * off * off]
        });
        if error < least_error {
            (best, least_error) = ([s, n], error);
        }
    }
    (best.map(|number| number as u8), codes_of(best).map(|code| code as u8))
}

/// Weights of errors: a value's own magnitude and the usual one.
fn weights<const N: usize>(values: &[f32; N]) -> [f32; N] {
    let [squares] = sums(N, |at| [values[at] * values[at]]);
    let usual = (squares / N as f32).sqrt();
    std::array::from_fn(|at| usual + values[at].abs())
}

/// The scale for which `scale code` with codes `-half .. half` is nearest to `values`; squares of values weigh. It is negative where the
/// largest magnitude is a positive value's, which gets code `-half`.
pub(super) fn scale<const N: usize>(values: &[f32; N], half: f32) -> f32 {
    let largest = largest_magnitude(values);
    if largest.abs() < NOTHING {
        return 0.0;
    }
    let (mut best, mut gain) = (0.0, 0.0);
    // The even grid first: of grids that are equally good the first stays.
    for wider in std::iter::once(0).chain((-9..=9).filter(|&wider| wider != 0)) {
        let inverse = -(half + 0.1 * wider as f32) / largest;
        let [sum_xc, sum_cc] = sums(N, |at| {
            let code = code(values[at] * inverse, -half, half - 1.0);
            let weighted = values[at] * values[at] * code;
            [weighted * values[at], weighted * code]
        });
        // The least error is what the best scale for these codes, sum_xc / sum_cc, takes off the squares.
        if sum_cc > 0.0 && sum_xc * sum_xc > gain * sum_cc {
            best = sum_xc / sum_cc;
            gain = best * sum_xc;
        }
    }
    best
}

/// The value of the largest magnitude, with its sign.
pub(super) fn largest_magnitude(values: &[f32]) -> f32 {
    values.iter().fold(0.0_f32, |most, &value| if value.abs() > most.abs() { value } else { most })
}

/// A magnitude below which values count as zero.
pub(super) const NOTHING: f32 = 1e-15;
