//! Several adapters of one weight as one of all their ranks together, for formats with one A and one B for each weight; of experts the pairs lie
//! one behind the other.

use crate::architecture::Parameter;
use crate::merge::LowRank;

/// All ranks together.
pub(super) fn rank_of(pieces: &[(f64, LowRank)]) -> usize {
    pieces.iter().map(|(_, piece)| piece.rank).sum()
}

/// A `[rank, in]`: the adapters' one below the other, and zeros up to `rank`.
pub(super) fn a(parameter: &Parameter, pieces: &[(f64, LowRank)], rank: usize) -> Vec<f32> {
    let columns = parameter.shape[1];
    let mut out = vec![0.0; parameter.experts.unwrap_or(1) * rank * columns];
    for (expert, out) in out.chunks_mut((rank * columns).max(1)).enumerate() {
        let own = pieces.iter().flat_map(|(_, piece)| &piece.a[expert * piece.rank * columns..][..piece.rank * columns]);
        out.iter_mut().zip(own).for_each(|(out, value)| *out = *value);
    }
    out
}

/// B `[out, rank]`: the adapters' side by side, each times what `rest` leaves of its weight times its scale, and zeros up to `rank`.
pub(super) fn b(parameter: &Parameter, pieces: &[(f64, LowRank)], rank: usize, rest: impl Fn(f64) -> f64) -> Vec<f32> {
    let mut out = vec![0.0; parameter.shape[0] * rank];
    for (row, out) in out.chunks_mut(rank.max(1)).enumerate() {
        let own = pieces.iter().flat_map(|(weight, piece)| {
            let rest = rest(weight * piece.scale);
            piece.b[row * piece.rank..][..piece.rank].iter().map(move |&value| (f64::from(value) * rest) as f32)
        });
        out.iter_mut().zip(own).for_each(|(out, value)| *out = value);
    }
    out
}
