//! The principal directions of rows that come in batches, for the start `eva`: incremental PCA (Ross et al. 2008, "Incremental learning for
//! robust visual tracking"), as PEFT's `IncrementalPCA` has it.
//!
//! Of all rows so far are kept their number n, their mean, and `S V^T [r, width]`, the r largest singular values of the centred rows with
//! their right singular vectors. Further rows, m of mean b, are taken in by the singular values of
//!
//! ```text
//! |            S V^T               |
//! |          rows - b              |
//! | sqrt(n m / (n + m)) (mean - b) |
//! ```
//!
//! whose Gram matrix is that of all n + m rows about their common mean, but for what the r directions had left out.

use super::lora::{normal, stream};
use super::start::{OVERSAMPLING, leading};
use nalgebra::DMatrix;

/// A direction has settled when the cosine between what it was and what it is after further rows is no less: PEFT's `tau`.
pub const SETTLED: f64 = 0.99;

/// Rounds of subspace iteration after each batch, as in PEFT. They begin with the directions so far.
const ROUNDS: u32 = 4;

/// A singular value below this share of the length of all rows together is noise of f32: they do not differ in its direction.
const NOISE: f64 = 1e-5;

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Principal {
    r: usize,
    width: usize,
    /// Whose directions they are, for the random vectors of subspace iteration.
    name: String,
    /// Rows taken in.
    rows: usize,
    mean: Vec<f64>,
    /// The sum of their squares.
    squares: f64,
    /// Singular values, the largest first; none before the first rows.
    lengths: Vec<f32>,
    /// `V^T [r, width]`, each row's largest entry positive.
    directions: DMatrix<f32>,
    /// By direction the cosine with what it was before the last rows.
    cosines: Vec<f64>,
    /// Rows that came and are too few to be taken in.
    waiting: Vec<f32>,
}

impl Principal {
    /// The `r` directions of rows of `width` numbers, of which no rows are known yet.
    pub fn new(name: &str, r: usize, width: usize) -> Self {
        Self {
            r,
            width,
            name: name.to_owned(),
            rows: 0,
            mean: vec![0.0; width],
            squares: 0.0,
            lengths: Vec::new(),
            directions: DMatrix::zeros(0, width),
            cosines: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// Rows `[rows, width]`; they are taken in as soon as there are more than r of them.
    pub fn add(&mut self, rows: &[f32]) {
        self.waiting.extend_from_slice(rows);
        if self.waiting.len() > self.r * self.width {
            self.take_in();
        }
    }

    /// No further rows come: takes in those that wait.
    pub fn end(&mut self) {
        if !self.waiting.is_empty() && self.has_begun() {
            self.take_in();
        }
    }

    /// Are there directions?
    pub fn has_begun(&self) -> bool {
        self.rows > 0
    }

    /// Has every direction settled?
    pub fn has_settled(&self) -> bool {
        self.cosines.len() == self.r && self.cosines.iter().all(|&cosine| cosine >= SETTLED)
    }

    /// Rows taken in.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Directions in which the rows differ at all, of the r that are wanted.
    pub fn known(&self) -> usize {
        let noise = NOISE * self.squares.sqrt();
        self.lengths.iter().take_while(|&&length| f64::from(length) > noise).count()
    }

    /// The first `r` directions `[r, width]`, row-major.
    pub fn leading(&self, r: usize) -> Vec<f32> {
        self.directions.rows(0, r).transpose().as_slice().to_vec()
    }

    fn take_in(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let (before, further) = (self.directions.nrows(), waiting.len() / self.width);
        let (n, m) = (self.rows as f64, further as f64);
        let mut mean = vec![0.0; self.width];
        for row in waiting.chunks(self.width) {
            mean.iter_mut().zip(row).for_each(|(mean, &x)| *mean += f64::from(x) / m);
        }
        let between = (n * m / (n + m)).sqrt();
        let stacked = DMatrix::from_fn(before + further + 1, self.width, |row, column| match row {
            row if row < before => self.lengths[row] * self.directions[(row, column)],
            row if row < before + further => (f64::from(waiting[(row - before) * self.width + column]) - mean[column]) as f32,
            _ => (between * (self.mean[column] - mean[column])) as f32,
        });
        let mut random = stream(&self.name, self.rows as u64);
        let carried = (self.r + OVERSAMPLING).min(stacked.nrows()).min(self.width);
        let from = DMatrix::from_fn(self.width, carried, |column, k| match k < before {
            true => self.directions[(k, column)],
            false => normal(&mut random) as f32,
        });
        let [_, lengths, mut directions] = leading(&stacked, self.r, ROUNDS, from);
        for mut direction in directions.row_iter_mut() {
            if direction[direction.iamax_full().1] < 0.0 {
                direction.neg_mut();
            }
        }
        // As in PEFT, one that has turned round has not settled.
        let cosine = |k: usize| f64::from(directions.row(k).dot(&self.directions.row(k)));
        self.cosines = (0..before).map(cosine).collect();
        self.mean.iter_mut().zip(&mean).for_each(|(all, of_these)| *all = (n * *all + m * of_these) / (n + m));
        self.squares += waiting.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        self.rows += further;
        (self.lengths, self.directions) = (lengths.as_slice().to_vec(), directions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Random;

    const WIDTH: usize = 24;

    /// Rows about a mean far from 0, whose directions are random and whose deviations fall by `fall` each.
    fn rows(count: usize, fall: f64) -> Vec<f32> {
        let mut random = Random(3);
        let rotation = DMatrix::from_fn(WIDTH, WIDTH, |_, _| normal(&mut random)).qr().q();
        let spread = DMatrix::from_fn(count, WIDTH, |_, k| normal(&mut random) * 5.0 * fall.powi(k as i32));
        let rows = (spread * rotation).add_scalar(2.0).transpose();
        rows.as_slice().iter().map(|&x| x as f32).collect()
    }

    /// Singular values and right singular vectors `[width, width]` of all centred rows at once, in f64.
    fn direct(rows: &[f32]) -> (Vec<f64>, DMatrix<f64>) {
        let all = DMatrix::from_row_slice(rows.len() / WIDTH, WIDTH, rows).map(f64::from);
        let mean = all.row_mean();
        let centred = DMatrix::from_fn(all.nrows(), WIDTH, |row, column| all[(row, column)] - mean[column]);
        let svd = centred.svd(false, true);
        (svd.singular_values.as_slice().to_vec(), svd.v_t.unwrap())
    }

    fn in_batches(rows: &[f32], r: usize, batch: usize) -> Principal {
        let mut principal = Principal::new("rows", r, WIDTH);
        rows.chunks(batch * WIDTH).for_each(|rows| principal.add(rows));
        principal.end();
        principal
    }

    /// Where nothing is left out, batches give what all rows together give: to the rounding of f32.
    #[test]
    fn batches_give_what_all_rows_give() {
        let rows = rows(200, 0.8);
        let (lengths, vectors) = direct(&rows);
        for batch in [200, 70, 31] {
            let found = in_batches(&rows, WIDTH, batch);
            assert_eq!((found.rows(), found.known()), (200, WIDTH));
            for k in 0..WIDTH {
                assert!((f64::from(found.lengths[k]) / lengths[k] - 1.0).abs() < 1e-4, "{batch}: {k}");
                let cosine = vectors.row(k).dot(&found.directions.row(k).map(f64::from)).abs();
                assert!(cosine > 1.0 - 1e-5, "{batch}: {k}: {cosine}");
            }
        }
    }

    /// Of few directions the leading ones are those of all rows, up to what is left out: 0.5^6 of the largest deviation.
    #[test]
    fn few_directions_are_the_leading_ones() {
        let rows = rows(400, 0.5);
        let (_, vectors) = direct(&rows);
        let found = in_batches(&rows, 6, 50);
        assert!(found.has_settled(), "{:?}", found.cosines);
        for k in 0..4 {
            let cosine = vectors.row(k).dot(&found.directions.row(k).map(f64::from)).abs();
            assert!(cosine > 0.999, "{k}: {cosine}");
        }
        assert_eq!(found.leading(2), found.leading(6)[..2 * WIDTH]);
        let largest = |row: &[f32]| row.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        assert!(found.leading(6).chunks(WIDTH).all(|row| largest(row) > 0.0));
    }

    /// Rows that come one by one are taken in together, so that the first have directions and the others move them.
    #[test]
    fn too_few_rows_wait() {
        let rows = rows(20, 0.7);
        let mut principal = Principal::new("rows", 6, WIDTH);
        for (at, row) in rows.chunks(WIDTH).enumerate() {
            assert_eq!((principal.rows(), principal.has_begun()), (at / 7 * 7, at >= 7));
            principal.add(row);
        }
        principal.end();
        assert_eq!(principal.rows(), 20);
        let mut few = Principal::new("rows", 6, WIDTH);
        few.add(&rows[..6 * WIDTH]);
        few.end();
        assert!(!few.has_begun());
    }

    #[test]
    fn directions_in_which_nothing_goes_are_not_known() {
        let three = rows(3, 0.9);
        let again: Vec<f32> = (0..20).flat_map(|_| three.clone()).collect();
        assert_eq!(in_batches(&again, 5, 30).known(), 2, "three points lie in a plane");
    }
}
