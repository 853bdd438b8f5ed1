//! What merging does to each matrix, in numbers.
//!
//! * *size*: `|D| / |W|`, the change against the base, as Frobenius norms;
//! * *overlap*: how far the k strongest directions of the change's outputs are those of the base's: `|U_k(W)^T U_k(D)|^2 / k`, from 0 to 1,
//!   which by chance would be k / outputs (the measure of Hu et al. 2021, section 7.2);
//! * *rounding*: the error of the type in which the sum is stored, `|stored - (W + D)| / |D|`: at 1 it is as large as the change;
//! * *kept*: how much of the change is in what is stored, `<stored - W, D> / |D|^2`: 1 where rounding is mere noise beside it, 0 where every
//!   value is rounded back to what it was;
//! * of several adapters: the *cosine* of each two changes, and the share of values in which their *signs* differ.

use nalgebra::DMatrix;
use serde::Serialize;

use super::combine::singular;
use super::{LowRank, Update};
use crate::Result;
use crate::storage::TensorSource;

/// What is told of one matrix.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// `layers.3.self_attn.q_proj`
    pub module: String,
    pub size: f64,
    pub rounding: f64,
    pub kept: f64,
    /// What a type of blocks would make of it; `None` where none is looked at, or its blocks do not fit the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requantised: Option<Rounded>,
    /// `None` where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
    /// What the overlap would be by chance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap_by_chance: Option<f64>,
    /// Of each two adapters, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
}

/// What rounding does to a change.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rounded {
    pub rounding: f64,
    pub kept: f64,
}

/// Two adapters in one matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Places in the list of adapters, from 0.
    pub adapters: [usize; 2],
    pub cosine: f64,
    /// Share of values, among those that both change, in which the signs differ.
    pub sign_conflicts: f64,
}

/// Sums over the values of one tensor as it passes through.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    base: f64,
    change: f64,
    error: f64,
    /// Of the change with what is stored less what was before.
    product: f64,
}

impl Sums {
    /// Takes in some values: before, exactly after, and as they are stored.
    pub fn see(&mut self, before: &[f32], after: &[f64], stored: &[f32]) {
        for ((&before, &after), &stored) in before.iter().zip(after).zip(stored) {
            let (before, stored) = (f64::from(before), f64::from(stored));
            self.base += before * before;
            self.change += (after - before) * (after - before);
            self.error += (stored - after) * (stored - after);
            self.product += (stored - before) * (after - before);
        }
    }

    /// `|D| / |W|`.
    pub fn size(&self) -> f64 {
        ratio(self.change, self.base)
    }

    /// `|stored - (W + D)| / |D|`.
    pub fn rounding(&self) -> f64 {
        ratio(self.error, self.change)
    }

    /// `<stored - W, D> / |D|^2`; 1 of no change.
    pub fn kept(&self) -> f64 {
        if self.change > 0.0 { self.product / self.change } else { 1.0 }
    }

    /// What rounding did.
    pub fn rounded(&self) -> Rounded {
        Rounded { rounding: self.rounding(), kept: self.kept() }
    }
}

/// The root of a quotient; 0 of nothing.
fn ratio(over: f64, under: f64) -> f64 {
    if under > 0.0 { (over / under).sqrt() } else { 0.0 }
}

/// Warnings that follow from the numbers, the most serious modules named. `requantised_to`: the type of [`Row::requantised`].
pub fn warnings(rows: &[Row], stored_in: &str, requantised_to: Option<&str>) -> Vec<String> {
    let worst = |of: fn(&Row) -> f64, beyond: f64| {
        let mut found: Vec<&Row> = rows.iter().filter(|row| of(row) > beyond).collect();
        found.sort_by(|a, b| of(b).total_cmp(&of(a)));
        (found.len(), found.first().map(|row| (row.module.clone(), of(row))))
    };
    let mut warnings = Vec::new();
    if let (count, Some((module, size))) = worst(|row| row.size, OVERWRITES) {
        warnings.push(format!(
            "the change is more than {OVERWRITES} of the base's size in {count} of {} matrices (most in {module}: {size:.2}): it overwrites \
             the base there; train with a lower learning rate or alpha, or merge with a smaller --weights",
            rows.len()
        ));
    }
    let mut erases = |lost: fn(&Row) -> f64, stored_in: &str, would: &str| {
        if let (count, Some((module, lost))) = worst(lost, ERASES) {
            warnings.push(format!(
                "storing in {stored_in} {would} back more than half of the change in {count} of {} matrices (most in {module}, where {:.0} % \
                 of it is left): what was learned may be gone; use a finer type, or keep the adapter beside the base",
                rows.len(),
                100.0 * (1.0 - lost)
            ));
        }
    };
    erases(|row| 1.0 - row.kept, stored_in, "rounds");
    if let Some(coarse) = requantised_to {
        erases(|row| row.requantised.map_or(0.0, |rounded| 1.0 - rounded.kept), coarse, "would round");
    }
    warnings
}

/// Size from which a change overwrites.
const OVERWRITES: f64 = 0.5;
/// Share of a change that is rounded back, from which it is erased.
const ERASES: f64 = 0.5;

/// Cosine and sign conflicts of each two changes of a tensor.
///
/// # Errors
/// Bad input: a change that is no product.
pub fn pairs(update: &Update, tensor: &str) -> Result<Vec<Pair>> {
    let Some(site) = update.site(tensor) else { return Ok(Vec::new()) };
    let changes = update.low_rank(tensor)?;
    let of = update.adapters(tensor);
    let mut pairs = Vec::new();
    for second in 1..changes.len() {
        for first in 0..second {
            let (mut dot, mut lengths, mut both, mut conflicts) = (0.0, [0.0_f64; 2], 0_u64, 0_u64);
            for number in 0..site.matrices() * site.out_features {
                let row = |change: &LowRank| {
                    let mut row = vec![0.0; site.in_features];
                    change.add_row(number, 1.0, &mut row);
                    row
                };
                for (a, b) in row(&changes[first].1).into_iter().zip(row(&changes[second].1)) {
                    dot += a * b;
                    lengths[0] += a * a;
                    lengths[1] += b * b;
                    both += u64::from(a * b != 0.0);
                    conflicts += u64::from(a * b < 0.0);
                }
            }
            let length = (lengths[0] * lengths[1]).sqrt();
            pairs.push(Pair {
                adapters: [of[first], of[second]],
                cosine: if length > 0.0 { dot / length } else { 0.0 },
                sign_conflicts: conflicts as f64 / both.max(1) as f64,
            });
        }
    }
    Ok(pairs)
}

/// Passes over the base matrix that its strongest directions take.
const PASSES: usize = 4;
/// Rows that are read together.
const ROWS: usize = 256;

/// The overlap of the k strongest output directions of a tensor and of its change, and what it would be by chance. `k` is at most the
/// change's rank.
///
/// # Errors
/// The tensor cannot be read; a change that is no product.
pub fn overlap(source: &dyn TensorSource, update: &Update, tensor: &str, k: usize) -> Result<Option<(f64, f64)>> {
    // The directions of many experts' matrices are no question of one.
    let Some(site) = update.site(tensor).filter(|site| site.experts.is_none()) else { return Ok(None) };
    let (rows, columns) = (site.out_features, site.in_features);
    let changes = update.low_rank(tensor)?;
    let (of_change, values, _) = singular(&changes, rows, columns);
    let strongest = values.first().copied().unwrap_or(0.0);
    let k = k.min(values.iter().filter(|value| **value > 1e-12 * strongest && **value > 0.0).count()).min(columns);
    if k == 0 {
        return Ok(None);
    }
    let of_change = of_change.columns(0, k).into_owned();
    // Subspace iteration (Halko et al. 2011): Q <- orthonormal basis of W^T W Q, some more columns than are wanted.
    let wide = (k + 8).min(columns).min(rows);
    let mut q =
        DMatrix::from_fn(columns, wide, |row, column| ((row * 7919 + column * 104_729) % 1009) as f64 / 504.5 - 1.0).qr().q();
    let mut outputs = DMatrix::zeros(rows, wide);
    let mut values = vec![0.0_f32; ROWS * columns];
    for _ in 0..PASSES {
        let mut next = DMatrix::zeros(columns, wide);
        for first in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - first);
            let chunk = &mut values[..count * columns];
            source.read_rows_f32(tensor, first..first + count, chunk)?;
            let chunk = DMatrix::from_row_iterator(count, columns, chunk.iter().map(|&value| f64::from(value)));
            let product = &chunk * &q;
            next += chunk.transpose() * &product;
            outputs.rows_mut(first, count).copy_from(&product);
        }
        q = next.qr().q();
    }
    // The strongest of what W made of the last basis.
    let Some(of_base) = outputs.svd(true, false).u else { return Ok(None) };
    let of_base = of_base.columns(0, k.min(of_base.ncols()));
    let overlap = (of_base.transpose() * of_change).norm_squared() / k as f64;
    Ok(Some((overlap, k as f64 / rows as f64)))
}
