//! How the changes of several adapters become one.
//!
//! With `w_i` the weights and `D_i` the changes of a matrix (`s B A` of LoRA):
//!
//! * *linear*, *cat*: `sum w_i D_i`. (As adapters, PEFT's `linear` adds up A and B by themselves, which gives products of one adapter's A with
//!   another's B besides; here both names mean the sum.)
//! * *svd*: the matrix of a given rank that is nearest to the sum;
//! * *magnitude-prune*: of each D_i only the given share of its largest values;
//! * *ties* (Yadav et al. 2023, arXiv 2306.01708): those, of which, value by value, only the ones of the sign that weighs more count, as their
//!   mean;
//! * *dare-linear*, *dare-ties* (Yu et al. 2023, arXiv 2311.03099): values are dropped by chance and the rest divided by the share that
//!   stays, then as *linear*, or as *ties*.
//!
//! One adapter of weight 1 with all its values is itself, whatever the method.

use std::ops::Range;

use clap::ValueEnum;
use nalgebra::{DMatrix, Dyn, QR};
use rayon::prelude::*;

use super::{LowRank, Update};
use crate::{Error, Result};

/// Methods by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The weighted sum
    #[default]
    Linear,
    /// The same sum, as one adapter of all ranks together
    Cat,
    /// The matrix of --rank nearest to the sum
    Svd,
    /// The largest values of each that agree in sign, averaged
    Ties,
    /// Values dropped by chance, the rest made larger, then the sum
    DareLinear,
    /// Values dropped by chance, the rest made larger, then as ties
    DareTies,
    /// The largest values of each, then the sum
    MagnitudePrune,
}

/// A method with its settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combination {
    pub method: Method,
    /// Share of the values of each change that stay, for the methods that drop some.
    pub density: f64,
    /// Decides which values are dropped by chance.
    pub seed: u64,
    /// Of [`Method::Svd`]; `None` for the largest of the adapters'.
    pub rank: Option<usize>,
}

impl Default for Combination {
    fn default() -> Self {
        Self { method: Method::Linear, density: 0.5, seed: 0, rank: None }
    }
}

impl Combination {
    /// That the settings are possible.
    ///
    /// # Errors
    /// Bad input naming the one that is not.
    pub fn check(&self) -> Result<()> {
        if !(self.density > 0.0 && self.density <= 1.0) {
            let problem = format!("is {}, but must be more than 0 and at most 1", self.density);
            return Err(Error::bad_input("--density", problem, "Give the share of values that stay, such as 0.5."));
        }
        match self.rank {
            Some(0) => Err(Error::bad_input("--rank", "is 0", "Give at least 1.")),
            _ => Ok(()),
        }
    }

    /// Whether values are dropped.
    fn drops(&self) -> bool {
        !matches!(self.method, Method::Linear | Method::Cat | Method::Svd)
    }
}

/// The one change of a tensor.
pub struct Combined<'a> {
    columns: usize,
    way: Way<'a>,
}

enum Way<'a> {
    /// Each change by itself, added up.
    Sum(&'a Update, String),
    /// `B A`.
    Product { a: Vec<f32>, b: Vec<f32>, rank: usize },
    /// The values of each that stay; `elected`: only those of the heavier sign, as their mean.
    Dropped { changes: Vec<(f64, LowRank<'a>, Keep)>, elected: bool },
}

/// Which values stay.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Keep {
    /// Those of at least this magnitude.
    Above(f32),
    /// This share, by chance, divided by it.
    Share(f64, u64),
}

impl Keep {
    fn of(self, value: f64, at: u64) -> f64 {
        match self {
            Self::Above(least) if (value.abs() as f32) < least => 0.0,
            Self::Above(_) => value,
            Self::Share(share, seed) if uniform(seed.wrapping_add(at)) < share => value / share,
            Self::Share(..) => 0.0,
        }
    }
}

/// A number from 0 to 1 that belongs to this one: SplitMix64.
fn uniform(number: u64) -> f64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl<'a> Combined<'a> {
    /// What becomes of the changes of a tensor; `None` where nothing is changed.
    ///
    /// # Errors
    /// Bad input: a method that needs products of two matrices, and a change that is none.
    pub fn of(update: &'a Update, tensor: &str, combination: &Combination) -> Result<Option<Self>> {
        let Some(site) = update.site(tensor) else { return Ok(None) };
        let (rows, columns) = (site.matrices() * site.out_features, site.in_features);
        let way = match combination.method {
            Method::Linear | Method::Cat => Way::Sum(update, tensor.to_owned()),
            Method::Svd => {
                let changes = update.low_rank(tensor)?;
                let rank = combination.rank.unwrap_or(changes.iter().map(|(_, change)| change.rank).max().unwrap_or(1));
                let whole: usize = changes.iter().map(|(_, change)| change.rank).sum();
                match whole <= rank {
                    // Nothing is cut off.
                    true => Way::Sum(update, tensor.to_owned()),
                    false if site.experts.is_some() => {
                        let problem = "is that of many experts, of which each would have a product of its own to be cut";
                        return Err(Error::bad_input(tensor, problem, "use --method cat, or a --rank that holds all adapters"));
                    }
                    false => {
                        let (a, b) = nearest(&changes, rows, columns, rank);
                        // No more than the matrix has rows and columns, whatever was asked for.
                        Way::Product { rank: a.len() / columns.max(1), a, b }
                    }
                }
            }
            method => {
                let keep = |(at, (weight, change)): (usize, (f64, LowRank<'a>))| {
                    let keep = match method {
                        Method::DareLinear | Method::DareTies => {
                            Keep::Share(combination.density, seed_of(combination.seed, tensor, at))
                        }
                        _ => Keep::Above(threshold(&change, rows, columns, combination.density)),
                    };
                    (weight, change, keep)
                };
                let changes = update.low_rank(tensor)?.into_iter().enumerate().map(keep).collect();
                Way::Dropped { changes, elected: matches!(method, Method::Ties | Method::DareTies) }
            }
        };
        debug_assert!(combination.drops() == matches!(way, Way::Dropped { .. }));
        Ok(Some(Self { columns, way }))
    }

    /// Puts the change into some rows of the tensor: `values` `[rows.len(), in_features]` before, and after.
    pub fn put_into(&self, rows: Range<usize>, values: &mut [f64]) {
        let columns = self.columns;
        match &self.way {
            Way::Sum(update, tensor) => update.put_into(tensor, rows, values),
            Way::Product { a, b, rank } => {
                let change = LowRank { a, b, rank: *rank, scale: 1.0 };
                values.par_chunks_exact_mut(columns).zip(rows).for_each(|(row, number)| change.add_row(number, 1.0, row));
            }
            Way::Dropped { changes, elected } => {
                values.par_chunks_exact_mut(columns).zip(rows).for_each(|(row, number)| {
                    let kept: Vec<Vec<f64>> =
                        changes.iter().map(|(_, change, keep)| kept_row(change, *keep, number, columns)).collect();
                    for (column, value) in row.iter_mut().enumerate() {
                        *value += match elected {
                            false => changes.iter().zip(&kept).map(|((weight, ..), kept)| weight * kept[column]).sum::<f64>(),
                            true => elect(changes.iter().zip(&kept).map(|((weight, ..), kept)| (*weight, kept[column]))),
                        };
                    }
                });
            }
        }
    }
}

/// A row of a change with what is dropped as zeros.
fn kept_row(change: &LowRank, keep: Keep, number: usize, columns: usize) -> Vec<f64> {
    let mut row = vec![0.0; columns];
    change.add_row(number, 1.0, &mut row);
    let first = (number * columns) as u64;
    row.iter_mut().zip(first..).for_each(|(value, at)| *value = keep.of(*value, at));
    row
}

/// The mean, by weights, of the values whose sign is that of their sum.
fn elect(values: impl Iterator<Item = (f64, f64)> + Clone) -> f64 {
    let heavier = if values.clone().map(|(_, value)| value).sum::<f64>() >= 0.0 { 1.0 } else { -1.0 };
    let agreeing = values.filter(|(_, value)| *value != 0.0 && value.signum() == heavier);
    let (sum, count) = agreeing.fold((0.0, 0), |(sum, count), (weight, value)| (sum + weight * value, count + 1));
    sum / f64::from(count.max(1))
}

/// A number for the values of one adapter in one tensor.
fn seed_of(seed: u64, tensor: &str, adapter: usize) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ adapter as u64;
    // FNV-1a, spread far apart: the values of a tensor count on from here.
    tensor.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)) << 40
}

/// The magnitude of the last value that stays if the `density` share of the largest stay. In two passes over the values, which are computed
/// anew in each: by the upper half of their bits, then by the lower.
fn threshold(change: &LowRank, rows: usize, columns: usize, density: f64) -> f32 {
    let stay = ((rows * columns) as f64 * density).ceil() as u64;
    let histogram = |bin: &(dyn Fn(u32) -> Option<u16> + Sync)| -> Vec<u64> {
        let count = |mut bins: Vec<u64>, number: usize| {
            let mut row = vec![0.0; columns];
            change.add_row(number, 1.0, &mut row);
            for bin in row.iter().filter_map(|value| bin((*value as f32).abs().to_bits())) {
                bins[usize::from(bin)] += 1;
            }
            bins
        };
        let add = |mut a: Vec<u64>, b: Vec<u64>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        };
        (0..rows).into_par_iter().fold(|| vec![0; 1 << 16], count).reduce(|| vec![0; 1 << 16], add)
    };
    // Of positive numbers the larger has the larger bits.
    let last = |bins: &[u64], mut left: u64| {
        for (bin, &count) in bins.iter().enumerate().rev() {
            if count >= left {
                return (bin as u32, left);
            }
            left -= count;
        }
        (0, left)
    };
    let (upper, left) = last(&histogram(&|bits| Some((bits >> 16) as u16)), stay);
    let (lower, _) = last(&histogram(&|bits| (bits >> 16 == upper).then_some(bits as u16)), left);
    f32::from_bits(upper << 16 | lower)
}

/// The weighted sum of products as one, `B A`: B's factors `Q_b R_b`, A^T's `Q_a R_a`, and `R_b R_a^T`, which is as small as the ranks and has
/// the sum's singular values.
fn factors(changes: &[(f64, LowRank)], rows: usize, columns: usize) -> ([QR<f64, Dyn, Dyn>; 2], DMatrix<f64>) {
    let rank: usize = changes.iter().map(|(_, change)| change.rank).sum();
    let (mut b, mut a) = (DMatrix::zeros(rows, rank), DMatrix::zeros(columns, rank));
    let mut first = 0;
    for (weight, change) in changes {
        for k in 0..change.rank {
            let factor = weight * change.scale;
            (0..rows).for_each(|row| b[(row, first + k)] = factor * f64::from(change.b[row * change.rank + k]));
            (0..columns).for_each(|column| a[(column, first + k)] = f64::from(change.a[k * columns + column]));
        }
        first += change.rank;
    }
    let (b, a) = (b.qr(), a.qr());
    let middle = b.r() * a.r().transpose();
    ([b, a], middle)
}

/// The singular values of the weighted sum of products, falling, as many as their ranks together; not numbers where the products are not.
pub fn singular_values(changes: &[(f64, LowRank)], rows: usize, columns: usize) -> Vec<f64> {
    let (_, middle) = factors(changes, rows, columns);
    let mut values = match middle.iter().all(|value| value.is_finite()) {
        true => middle.singular_values().iter().copied().collect(),
        false => vec![f64::NAN; middle.nrows().min(middle.ncols())],
    };
    // Directions that there are no rows or columns for.
    values.resize(changes.iter().map(|(_, change)| change.rank).sum(), 0.0);
    values
}

/// The singular value decomposition of the weighted sum of products: `U [rows, n]`, the values, `V^T [n, columns]`, the largest value first.
pub(super) fn singular(changes: &[(f64, LowRank)], rows: usize, columns: usize) -> (DMatrix<f64>, Vec<f64>, DMatrix<f64>) {
    let ([b, a], middle) = factors(changes, rows, columns);
    let middle = middle.svd(true, true);
    let (Some(u), Some(v)) = (middle.u, middle.v_t) else {
        return (DMatrix::zeros(rows, 0), Vec::new(), DMatrix::zeros(0, columns));
    };
    (b.q() * u, middle.singular_values.iter().copied().collect(), v * a.q().transpose())
}

/// A and B of the product of this rank that is nearest to the sum (Eckart and Young), the singular values shared out evenly.
fn nearest(changes: &[(f64, LowRank)], rows: usize, columns: usize, rank: usize) -> (Vec<f32>, Vec<f32>) {
    let (u, values, v) = singular(changes, rows, columns);
    let roots: Vec<f64> = values.iter().take(rank).map(|value| value.sqrt()).collect();
    let a = (0..roots.len()).flat_map(|k| (0..columns).map(move |column| (k, column)));
    let b = (0..rows).flat_map(|row| (0..roots.len()).map(move |k| (row, k)));
    (
        a.map(|(k, column)| (roots[k] * v[(k, column)]) as f32).collect(),
        b.map(|(row, k)| (roots[k] * u[(row, k)]) as f32).collect(),
    )
}
