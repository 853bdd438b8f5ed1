//! Kernels that go along rows: value by value, by fours, and by fours with the wide loads of CPU drivers. One shader is all three, by the part
//! in its slot `values`.

use crate::kernel::{Facts, Kernel};

pub(super) const ONES: (&str, &str) = ("values", "row_ones");
pub(super) const FOURS: (&str, &str) = ("values", "row_fours");
/// For CPU drivers with 64-bit integers.
pub(super) const FOURS_WIDE: (&str, &str) = ("values", "row_fours_wide");

/// The sum of a row's values over its invocations: with barriers, or in one subgroup.
pub(super) const SUM: (&str, &str) = ("row_sum", "row_sum");
pub(super) const SUM_IN_SUBGROUP: (&str, &str) = ("row_sum", "row_sum_subgroup");

/// Of three kernels, with these in their order, the one for rows that are `in_fours`; a GPU's lanes have enough to do with fours if it `pays`.
pub(super) fn chosen(kernels: &'static [Kernel; 3], facts: &Facts, in_fours: bool, pays: bool) -> &'static Kernel {
    let [ones, fours, wide] = kernels;
    match in_fours {
        true if wide.needs.met_by(facts) => wide,
        true if pays => fours,
        _ => ones,
    }
}
