//! How LoRA's matrices start: at random, or from the base model's weights.
//!
//! | start | A | B | |
//! |---|---|---|---|
//! | default | uniform in +-1/sqrt(in) | 0 | |
//! | gaussian | normal, deviation 1/r | 0 | |
//! | orthogonal | random, in a space that B's rows are orthogonal to | random | `B A = 0` |
//! | pissa | `sqrt(S_r / s) V_r^T` | `U_r sqrt(S_r / s)` | `W = U S V^T` (Meng et al. 2024, arXiv 2404.02948) |
//! | olora | `R_r` | `Q_r` | `W = Q R` (Büyükakyüz 2024, arXiv 2406.01775) |
//! | loftq | as pissa, of `W - quantised W` | | (Li et al. 2023, arXiv 2310.08659, one iteration) |
//! | eva | the principal directions of what enters the layer | 0 | (Paischer et al. 2024, arXiv 2410.07170) |
//!
//! With pissa and olora the product `s B A` is taken out of the base, so that training begins at the base model. The base itself stays
//! as it is: the graph subtracts the product `s B0 A0` of the start as a second, frozen low-rank term, which works on any storage type.
//! Loftq adds to the quantised base what quantising took from it. Eva's A is zero until the base model has run on the data, which is
//! training's work; see [`super::principal`].
//!
//! **In a file** pissa, olora and loftq are a plain LoRA of rank 2r for the base as it is, `A' = [A; A0]`, `B' = [B, -B0]`, with twice the alpha, as
//! PEFT converts them: `s (B A - B0 A0)` is what was learned.
//!
//! The leading singular vectors come from subspace iteration (Halko et al. 2011, algorithm 4.4) with [`OVERSAMPLING`] further vectors
//! and a number of iterations that may be given (`pissa_niter_4`); the error of a singular value shrinks as
//! `(s_(r + OVERSAMPLING) / s_r)^(4 iterations)`.

use super::lora::{Lora, normal, stream};
use super::{AdapterMatrix, Piece, Placement};
use crate::architecture::Site;
use crate::formats::peft::AdapterTensor;
use crate::model::weights::WeightType;
use crate::storage::{TensorSource, rounded};
use crate::{Error, Result};
use nalgebra::DMatrix;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Start {
    #[default]
    Uniform,
    Gaussian,
    Orthogonal,
    Pissa {
        iterations: u32,
    },
    Olora,
    Loftq,
    Eva,
}

/// Iterations of `pissa` without a number: PEFT's documentation recommends so many.
const ITERATIONS: u32 = 16;

/// Vectors that subspace iteration carries besides those that are wanted.
pub const OVERSAMPLING: usize = 10;

impl Start {
    /// Is the product of the start taken out of the base?
    pub fn is_taken_out(self) -> bool {
        matches!(self, Self::Pissa { .. } | Self::Olora)
    }

    /// Does training start from other weights than the base's own?
    pub fn changes_the_base(self) -> bool {
        self.is_taken_out() || self == Self::Loftq
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("default"),
            Self::Gaussian => f.write_str("gaussian"),
            Self::Orthogonal => f.write_str("orthogonal"),
            Self::Pissa { iterations: ITERATIONS } => f.write_str("pissa"),
            Self::Pissa { iterations } => write!(f, "pissa_niter_{iterations}"),
            Self::Olora => f.write_str("olora"),
            Self::Loftq => f.write_str("loftq"),
            Self::Eva => f.write_str("eva"),
        }
    }
}

impl From<Start> for String {
    fn from(start: Start) -> Self {
        start.to_string()
    }
}

impl TryFrom<String> for Start {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<Self, String> {
        name.parse()
    }
}

impl FromStr for Start {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        Ok(match name {
            "default" | "true" => Self::Uniform,
            "gaussian" => Self::Gaussian,
            "orthogonal" => Self::Orthogonal,
            "pissa" => Self::Pissa { iterations: ITERATIONS },
            "olora" => Self::Olora,
            "loftq" => Self::Loftq,
            "eva" => Self::Eva,
            other => match other.strip_prefix("pissa_niter_").and_then(|count| count.parse().ok()) {
                Some(iterations @ 1..=1000) => Self::Pissa { iterations },
                _ => {
                    return Err(format!(
                        "`{other}` is none of default, gaussian, orthogonal, pissa, pissa_niter_N, olora, loftq, eva"
                    ));
                }
            },
        })
    }
}

/// The base model's weights, in the file and as they rest on the device.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    pub tensors: &'a dyn TensorSource,
    pub weight_type: WeightType,
}

impl Base<'_> {
    /// Values in the file `[out, in]`, and on the device.
    fn weight(&self, site: &Site) -> Result<[Vec<f32>; 2]> {
        let name = format!("model.{}.weight", site.name());
        let in_file = self.tensors.read_f32(&name)?;
        let on_device = match (self.tensors.find(&name), self.weight_type) {
            // As `upload` converts: what is in that format already stays as it is.
            (Some(info), WeightType::In(_)) if self.weight_type.of(info) != info.storage => {
                rounded(&in_file, self.weight_type.of(info))
            }
            _ => in_file.clone(),
        };
        Ok([in_file, on_device])
    }
}

/// An adapter as it starts.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// All trained matrices.
    pub trained: Vec<AdapterTensor>,
    /// `lora_a0` and `lora_b0` of those layers whose start changes the base.
    pub taken_out: Vec<AdapterTensor>,
}

/// How an adapter starts on this base.
///
/// # Errors
/// Bad input: a weight cannot be read, or a start cannot be made.
pub fn start(placement: &Placement, base: &Base, seed: u64) -> Result<Started> {
    let of_pieces: Vec<Started> = placement.pieces.par_iter().map(|piece| start_of(piece, base, seed)).collect::<Result<_>>()?;
    let mut all = Started::default();
    for Started { trained, taken_out } in of_pieces {
        all.trained.extend(trained);
        all.taken_out.extend(taken_out);
    }
    all.trained.extend(placement.start_beside(base.tensors)?);
    Ok(all)
}

fn start_of(piece: &Piece, base: &Base, seed: u64) -> Result<Started> {
    let site = &piece.site;
    let tensor = |matrix: AdapterMatrix, values| AdapterTensor { name: matrix.name, shape: matrix.shape, values };
    let matrices: Vec<AdapterMatrix> = piece.method.matrices(site).into_iter().filter(|matrix| matrix.trained).collect();
    let from_base = piece.method.lora().filter(|lora| {
        let lengths = matrices.iter().any(|matrix| matrix.vector);
        lengths || lora.start.changes_the_base()
    });
    let Some(lora) = from_base else {
        let initial = |matrix: AdapterMatrix| {
            let values = piece.method.initial(&matrix, seed);
            tensor(matrix, values)
        };
        return Ok(Started { trained: matrices.into_iter().map(initial).collect(), taken_out: Vec::new() });
    };
    let [in_file, on_device] = base.weight(site)?;
    let product = lora.start.changes_the_base().then(|| from_weight(lora, site, &in_file, &on_device, seed)).transpose()?;
    let mut started = Started::default();
    for matrix in matrices {
        let values = match &product {
            // As PEFT: the lengths of W, of which the product is a part.
            _ if matrix.vector => row_lengths(&on_device, site.in_features),
            Some([a, _]) if matrix.name.ends_with("lora_a") => a.clone(),
            Some([_, b]) => b.clone(),
            None => piece.method.initial(&matrix, seed),
        };
        if product.is_some() && !matrix.vector {
            let of_start = AdapterMatrix { name: format!("{}0", matrix.name), ..matrix.clone() };
            started.taken_out.push(tensor(of_start, values.clone()));
        }
        started.trained.push(tensor(matrix, values));
    }
    Ok(started)
}

fn row_lengths(weight: &[f32], columns: usize) -> Vec<f32> {
    let length = |row: &[f32]| row.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt() as f32;
    weight.chunks(columns).map(length).collect()
}

/// A `[r, in]` and B `[out, r]`, row-major, for a start from the weight.
fn from_weight(lora: &Lora, site: &Site, in_file: &[f32], on_device: &[f32], seed: u64) -> Result<[Vec<f32>; 2]> {
    let [out, input] = [site.out_features, site.in_features];
    let matrix = |values: &[f32]| DMatrix::from_row_slice(out, input, values);
    let refused = |problem: String, proposal: &str| Error::bad_input("--init-lora-weights", problem, proposal);
    if lora.r > out.min(input) {
        let problem = format!("{} has only {} directions, fewer than rank {}", site.name(), out.min(input), lora.r);
        return Err(refused(problem, "choose a smaller --lora-r"));
    }
    let singular = |weight: DMatrix<f32>, iterations| {
        let mut random = stream(&site.name(), seed);
        let carried = (lora.r + OVERSAMPLING).min(out).min(input);
        let from = DMatrix::from_fn(input, carried, |_, _| normal(&mut random) as f32);
        let [u, s, v_t] = leading(&weight, lora.r, iterations, from);
        let root = s.map(|s| (s / lora.scale as f32).sqrt());
        let a = DMatrix::from_fn(lora.r, input, |k, i| root[k] * v_t[(k, i)]);
        let b = DMatrix::from_fn(out, lora.r, |o, k| root[k] * u[(o, k)]);
        [row_major(&a), row_major(&b)]
    };
    match lora.start {
        Start::Pissa { iterations } => Ok(singular(matrix(on_device), iterations)),
        Start::Loftq => {
            let lost: Vec<f32> = in_file.iter().zip(on_device).map(|(file, device)| file - device).collect();
            if lost.iter().all(|&lost| lost == 0.0) {
                let problem = format!("loftq makes up for what quantising takes, and {} rests as it is in the file", site.name());
                return Err(refused(problem, "give --weights nf4 as well, or choose another start"));
            }
            Ok(singular(matrix(&lost), ITERATIONS))
        }
        _ => {
            let weight = matrix(on_device);
            // The first columns of Q depend on the first columns of W alone.
            let q = weight.columns(0, lora.r).into_owned().qr().q();
            // PEFT's A is R, and takes s Q R out of the base; what is taken out here is the same.
            let a = q.transpose() * &weight;
            Ok([row_major(&a), row_major(&q)])
        }
    }
}

fn row_major(matrix: &DMatrix<f32>) -> Vec<f32> {
    matrix.transpose().as_slice().to_vec()
}

/// The `r` largest singular values `[r, 1]` of `w` with their vectors: `u [out, r]`, `s`, `v_t [r, in]`; by subspace iteration from
/// `v [in, carried]`, where `carried` is r or more.
pub(super) fn leading(w: &DMatrix<f32>, r: usize, iterations: u32, mut v: DMatrix<f32>) -> [DMatrix<f32>; 3] {
    let carried = v.ncols();
    let mut q = product(w, &v).qr().q();
    for _ in 0..iterations {
        v = transposed_product(w, &q).qr().q();
        q = product(w, &v).qr().q();
    }
    // w = q (q^T w) in the subspace; the rest is small.
    let inner = transposed_product(w, &q).svd(true, true);
    let (Some(v), Some(u_t)) = (inner.u, inner.v_t) else { unreachable!("both were asked for") };
    let mut order: Vec<usize> = (0..carried).collect();
    order.sort_by(|&a, &b| inner.singular_values[b].total_cmp(&inner.singular_values[a]));
    let u = q * u_t.transpose();
    [
        DMatrix::from_fn(w.nrows(), r, |o, k| u[(o, order[k])]),
        DMatrix::from_fn(r, 1, |k, _| inner.singular_values[order[k]]),
        DMatrix::from_fn(r, w.ncols(), |k, i| v[(i, order[k])]),
    ]
}

/// Columns of a large matrix that one thread takes: as many on every machine, so that sums have the same bits.
const BLOCK: usize = 512;

/// `w v`
fn product(w: &DMatrix<f32>, v: &DMatrix<f32>) -> DMatrix<f32> {
    let parts: Vec<DMatrix<f32>> = blocks(w).map(|(first, count)| w.columns(first, count) * v.rows(first, count)).collect();
    parts.into_iter().fold(DMatrix::zeros(w.nrows(), v.ncols()), |sum, part| sum + part)
}

/// `w^T q`
fn transposed_product(w: &DMatrix<f32>, q: &DMatrix<f32>) -> DMatrix<f32> {
    let parts: Vec<DMatrix<f32>> = blocks(w).map(|(first, count)| w.columns(first, count).tr_mul(q)).collect();
    let mut all = DMatrix::zeros(w.ncols(), q.ncols());
    parts.iter().enumerate().for_each(|(block, part)| all.rows_mut(block * BLOCK, part.nrows()).copy_from(part));
    all
}

/// First column of each block, and columns in it.
fn blocks(w: &DMatrix<f32>) -> impl IndexedParallelIterator<Item = (usize, usize)> {
    let columns = w.ncols();
    (0..columns.div_ceil(BLOCK)).into_par_iter().map(move |block| (block * BLOCK, BLOCK.min(columns - block * BLOCK)))
}

/// A or B of the orthogonal start: both are made of rows of one random rotation, A of the even ones and B of the odd ones.
pub(super) fn orthogonal(r: usize, matrix: &AdapterMatrix, seed: u64) -> Vec<f32> {
    let (site, own_name) = matrix.name.rsplit_once('.').unwrap_or((&matrix.name, ""));
    let mut random = stream(site, seed);
    let rotation = DMatrix::from_fn(r, r, |_, _| normal(&mut random)).qr().q();
    let mut random = stream(&matrix.name, seed);
    let is_a = own_name == "lora_a";
    let [wide, first] = if is_a { [matrix.shape[1], 0] } else { [matrix.shape[0], 1] };
    let coordinates = DMatrix::from_fn(wide, r / 2, |_, _| normal(&mut random) / 10.0);
    let rows = DMatrix::from_fn(r / 2, r, |j, k| rotation[(2 * j + first, k)]);
    let b = (coordinates * rows).map(|x| x as f32);
    if is_a { b.as_slice().to_vec() } else { row_major(&b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Random;

    /// The leading part of a matrix whose singular values are known.
    #[test]
    fn the_leading_singular_vectors_are_found() {
        let mut random = Random(5);
        let mut rotation = |n: usize| DMatrix::from_fn(n, n, |_, _| normal(&mut random) as f32).qr().q();
        let (u, v) = (rotation(40), rotation(30));
        let values = |k: usize| 3.0 / (1.0 + k as f32);
        let of_rank = |r: usize| {
            let s = DMatrix::from_fn(40, 30, |i, j| if i == j && i < r { values(i) } else { 0.0 });
            &u * s * v.transpose()
        };
        let mut random = Random(1);
        let from = DMatrix::from_fn(30, 4 + OVERSAMPLING, |_, _| normal(&mut random) as f32);
        let [found_u, s, v_t] = leading(&of_rank(30), 4, 4, from);
        for k in 0..4 {
            assert!((s[k] - values(k)).abs() < 1e-5, "{}", s[k]);
        }
        let product = DMatrix::from_fn(40, 30, |i, j| (0..4).map(|k| found_u[(i, k)] * s[k] * v_t[(k, j)]).sum::<f32>());
        assert!((product - of_rank(4)).amax() < 1e-5);
    }

    /// Products in blocks are those of the whole matrices, to the rounding of f32.
    #[test]
    fn products_of_wide_matrices_are_whole() {
        let mut random = Random(2);
        let mut matrix = |rows, columns| DMatrix::from_fn(rows, columns, |_, _| normal(&mut random) as f32);
        let wide = 2 * BLOCK + 7;
        let (w, v, q) = (matrix(5, wide), matrix(wide, 3), matrix(5, 3));
        assert!((product(&w, &v) - &w * &v).amax() < 1e-3);
        assert!((transposed_product(&w, &q) - w.transpose() * &q).amax() < 1e-5);
    }

    #[test]
    fn an_orthogonal_start_has_no_product() {
        let matrix =
            |name: &str, shape: [usize; 2]| AdapterMatrix::named(format!("layers.0.self_attn.q_proj.{name}"), shape, true);
        let (a, b) = (orthogonal(6, &matrix("lora_a", [6, 20]), 3), orthogonal(6, &matrix("lora_b", [14, 6]), 3));
        let product = DMatrix::from_row_slice(14, 6, &b) * DMatrix::from_row_slice(6, 20, &a);
        assert!(product.amax() < 1e-6, "{}", product.amax());
        assert!(a.iter().chain(&b).map(|x| x.abs()).fold(0.0, f32::max) > 0.05);
    }

    #[test]
    fn names_are_pefts() {
        for name in ["default", "gaussian", "orthogonal", "pissa", "pissa_niter_4", "olora", "loftq", "eva"] {
            assert_eq!(name.parse::<Start>().unwrap().to_string(), name);
        }
        assert!("pissa_niter_0".parse::<Start>().is_err() && "corda".parse::<Start>().is_err());
    }
}
