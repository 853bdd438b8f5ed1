//! `/api/lora`: what an adapter is at each site; `/api/lora/site`: its matrices as pictures.
//!
//! The update `s B A` of a site is never formed: with `B = Q_B R_B` and `A^T = Q_A R_A` its singular values are those of `s R_B R_A^T`, which
//! is rank x rank. The effective rank is `exp(H)` with `H = -sum p_i ln p_i` and `p_i = sigma_i / sum sigma` (Roy and Vetterli 2007, "The
//! effective rank"): the rank itself where all singular values are equal, 1 where there is one. The relative size is `|s B A| / |W|` in
//! Frobenius norms, with W as the model's file has it. DoRA sets the lengths of rows besides: `m / |W[o, :]|` says by how much.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::adapter::dora::MAGNITUDE;
use crate::adapter::{Method, Piece};
use crate::formats::peft::AdapterTensor;
use crate::merge::{LowRank, singular_values};
use crate::studio::look::{Look, norm as norm_of};
use crate::{Error, Result};

/// Rows and columns of the largest picture.
pub const PICTURE: usize = 128;

/// Values of a weight that are in memory at one time, about.
const CHUNK_VALUES: usize = 1 << 20;

/// An adapter, site by site.
#[derive(Debug, Serialize)]
pub struct Lora {
    /// From the first layer to the last.
    pub sites: Vec<Site>,
    /// Adapted matrices of experts, which are not among them.
    pub left_out: usize,
}

#[derive(Debug, Serialize)]
pub struct Site {
    /// `layers.3.self_attn.q_proj`
    pub site: String,
    pub layer: usize,
    pub module: &'static str,
    /// `lora` or `dora`.
    pub method: &'static str,
    pub rank: usize,
    /// `scale * rank`: what PEFT calls `lora_alpha`, where the scale is `alpha / rank`.
    pub alpha: f64,
    pub scale: f64,
    /// Frobenius norm of `scale B A`.
    pub norm: f64,
    /// That norm as a share of W's.
    pub relative: f64,
    /// Of `scale B A`, falling.
    pub singular: Vec<f64>,
    /// From 1 to the rank; 0 where the update is zero.
    pub effective_rank: f64,
    /// Of DoRA: how long it makes rows, as multiples of W's.
    pub lengths: Option<Lengths>,
}

/// Numbers of all rows of a weight.
#[derive(Debug, PartialEq, Serialize)]
pub struct Lengths {
    pub least: f64,
    pub mean: f64,
    pub greatest: f64,
}

/// The numbers of all sites.
///
/// # Errors
/// Bad input: no adapter is open, or a weight cannot be read. Failed: the device is lost.
pub fn lora(look: &mut Look) -> Result<Lora> {
    let adapter = look.session.adapter().ok_or_else(no_adapter)?;
    let tensors = adapter.tensors()?;
    let pieces = &adapter.placement.pieces;
    norms(look, pieces)?;
    let kept = &look.kept.norms;
    let site = |piece: &Piece| {
        let lora = piece.method.lora().ok_or_else(no_product)?;
        let [a, b] = matrices(&tensors, piece)?;
        let change = LowRank { a: &a.values, b: &b.values, rank: lora.r, scale: lora.scale };
        let singular = singular_values(&[(1.0, change)], piece.site.out_features, piece.site.in_features);
        let norm = singular.iter().map(|sigma| sigma * sigma).sum::<f64>().sqrt();
        let name = piece.site.name();
        let rows = kept.get(&name).map_or(&[][..], Vec::as_slice);
        let size = rows.iter().map(|length| length * length).sum::<f64>().sqrt();
        let lengths = match piece.method {
            Method::Lora(_) | Method::Bottleneck(_) => None,
            Method::Dora(_) => Some(Lengths::of(&matrix(&tensors, piece, MAGNITUDE)?.values, rows)),
        };
        Ok(Site {
            layer: piece.site.layer,
            module: piece.site.module,
            method: if lengths.is_some() { "dora" } else { "lora" },
            rank: lora.r,
            alpha: lora.scale * lora.r as f64,
            scale: lora.scale,
            norm,
            relative: norm / size.max(f64::MIN_POSITIVE),
            effective_rank: effective_rank(&singular),
            singular,
            lengths,
            site: name,
        })
    };
    // A pair for each expert has no singular values of one product.
    let of_one_matrix = pieces.par_iter().filter(|piece| piece.site.experts.is_none());
    let left_out = pieces.iter().filter_map(|piece| piece.site.experts).sum();
    Ok(Lora { sites: of_one_matrix.map(site).collect::<Result<_>>()?, left_out })
}

impl Lengths {
    /// Of rows of the lengths `m`, where W's have the lengths `before`. Rows of zeros have none.
    fn of(m: &[f32], before: &[f64]) -> Self {
        let ratios: Vec<f64> =
            m.iter().zip(before).filter(|(_, before)| **before > 0.0).map(|(&m, before)| f64::from(m) / before).collect();
        Self {
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            mean: ratios.iter().sum::<f64>() / ratios.len().max(1) as f64,
            greatest: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// Makes sure that the lengths of the rows of these sites' weights are known. They are computed in f64, by all cores, once.
fn norms(look: &mut Look, pieces: &[Piece]) -> Result<()> {
    // Of experts nothing is shown.
    let of_one_matrix = pieces.iter().filter(|piece| piece.site.experts.is_none());
    let names: Vec<String> =
        of_one_matrix.map(|piece| piece.site.name()).filter(|name| !look.kept.norms.contains_key(name)).collect();
    let tensors = &*look.model.files.tensors;
    let norm = |name: &String| -> Result<(String, Vec<f64>)> {
        let tensor = format!("model.{name}.weight");
        let info = tensors.find(&tensor).ok_or_else(|| {
            let proposal = "download or convert the model again";
            Error::bad_input(tensors.place(&tensor), format!("tensor `{tensor}` is missing"), proposal)
        })?;
        let (rows, columns) = (info.rows(), info.row_values());
        let step = (CHUNK_VALUES / columns.max(1)).max(1).next_multiple_of(8);
        let mut lengths = Vec::with_capacity(rows);
        for first in (0..rows).step_by(step) {
            let last = (first + step).min(rows);
            let mut values = vec![0.0; (last - first) * columns];
            tensors.read_rows_f32(&tensor, first..last, &mut values)?;
            lengths.extend(values.chunks(columns.max(1)).map(norm_of));
        }
        Ok((name.clone(), lengths))
    };
    for (done, chunk) in names.chunks(32).enumerate() {
        (look.pause)("sizes of the weights", (32 * done) as u64, names.len() as u64)?;
        look.kept.norms.extend(chunk.par_iter().map(norm).collect::<Result<Vec<_>>>()?);
    }
    Ok(())
}

/// A `[rank, in]` and B `[out, rank]` of a piece.
fn matrices<'a>(tensors: &'a [AdapterTensor], piece: &Piece) -> Result<[&'a AdapterTensor; 2]> {
    Ok([matrix(tensors, piece, "lora_a")?, matrix(tensors, piece, "lora_b")?])
}

/// The matrix of a piece that is called so.
fn matrix<'a>(tensors: &'a [AdapterTensor], piece: &Piece, own: &str) -> Result<&'a AdapterTensor> {
    let name = piece.matrix_name(own);
    let missing = || Error::failed("adapter", format!("it has no {name}"), "open it again");
    tensors.iter().find(|tensor| tensor.name == name).ok_or_else(missing)
}

fn effective_rank(singular: &[f64]) -> f64 {
    let total: f64 = singular.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    let shares = singular.iter().map(|sigma| sigma / total).filter(|share| *share > 0.0);
    (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteAsked {
    /// `layers.3.self_attn.q_proj`
    pub name: String,
}

/// The matrices of a site.
#[derive(Debug, Serialize)]
pub struct Pictures {
    pub a: Picture,
    pub b: Picture,
    /// `scale B A`.
    pub ba: Picture,
}

/// A matrix, or the means of its blocks where it is larger than [`PICTURE`].
#[derive(Debug, PartialEq, Serialize)]
pub struct Picture {
    pub rows: usize,
    pub columns: usize,
    /// Row-major.
    pub values: Vec<f32>,
    /// The shape of the matrix itself.
    pub of: [usize; 2],
    /// Whether values are means of blocks.
    pub averaged: bool,
}

/// The matrices of a site as pictures.
///
/// # Errors
/// Bad input: no adapter is open, or it adapts no site of this name.
pub fn site(look: &mut Look, asked: &SiteAsked) -> Result<Pictures> {
    let adapter = look.session.adapter().ok_or_else(no_adapter)?;
    let piece =
        adapter.placement.pieces.iter().find(|piece| piece.site.name() == asked.name).ok_or_else(|| no_site(&asked.name))?;
    let tensors = adapter.tensors()?;
    let [a, b] = matrices(&tensors, piece)?;
    let dense = |tensor: &AdapterTensor| {
        let values: Vec<f64> = tensor.values.iter().map(|&value| f64::from(value)).collect();
        (tensor.shape, values)
    };
    let ((a_shape, a), (b_shape, b)) = (dense(a), dense(b));
    // The mean of a block of B A is the mean of B's rows times the mean of A's columns.
    let (b_rows, a_columns) = (averaged(b_shape, &b, [PICTURE, usize::MAX]), averaged(a_shape, &a, [usize::MAX, PICTURE]));
    let (rows, columns, rank) = (b_rows.0[0], a_columns.0[1], a_shape[0]);
    let scale = piece.method.lora().ok_or_else(no_product)?.scale;
    let product = |at: usize| {
        let (i, j) = (at / columns, at % columns);
        (0..rank).map(|k| b_rows.1[i * rank + k] * a_columns.1[k * columns + j]).sum::<f64>() * scale
    };
    let product: Vec<f64> = (0..rows * columns).map(product).collect();
    let picture = |of: [usize; 2], ([rows, columns], values): ([usize; 2], Vec<f64>)| Picture {
        rows,
        columns,
        values: values.into_iter().map(|value| value as f32).collect(),
        of,
        averaged: of != [rows, columns],
    };
    Ok(Pictures {
        a: picture(a_shape, averaged(a_shape, &a, [PICTURE; 2])),
        b: picture(b_shape, averaged(b_shape, &b, [PICTURE; 2])),
        ba: picture([b_shape[0], a_shape[1]], ([rows, columns], product)),
    })
}

/// A matrix of at most `most` rows and columns, whose elements are the means of blocks of the given one.
fn averaged([rows, columns]: [usize; 2], values: &[f64], most: [usize; 2]) -> ([usize; 2], Vec<f64>) {
    let (new_rows, new_columns) = (rows.min(most[0]), columns.min(most[1]));
    let span = |at: usize, of: usize, from: usize| at * from / of..(at + 1) * from / of;
    let mut means = Vec::with_capacity(new_rows * new_columns);
    for i in 0..new_rows {
        for j in 0..new_columns {
            let (block_rows, block_columns) = (span(i, new_rows, rows), span(j, new_columns, columns));
            let count = (block_rows.len() * block_columns.len()) as f64;
            let sum: f64 =
                block_rows.map(|row| block_columns.clone().map(|column| values[row * columns + column]).sum::<f64>()).sum();
            means.push(sum / count);
        }
    }
    ([new_rows, new_columns], means)
}

fn no_product() -> Error {
    let problem = "is a bottleneck adapter, and what it adds follows from the text: it is no matrix to look at";
    Error::bad_input("adapter", problem, "open a LoRA adapter for this view; all others show this one too")
}

pub(super) fn no_adapter() -> Error {
    Error::bad_input("adapter", "no adapter is open", "open one: graftling studio --adapter DIR")
}

pub(super) fn no_site(name: &str) -> Error {
    Error::bad_input("site", format!("the adapter has no site `{name}`"), "give one of those that /api/lora lists")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_multiples_of_what_they_were_and_rows_of_zeros_have_none() {
        let lengths = Lengths::of(&[1.0, 3.0, 5.0], &[2.0, 3.0, 0.0]);
        assert_eq!(lengths, Lengths { least: 0.5, mean: 0.75, greatest: 1.0 });
    }

    #[test]
    fn the_effective_rank_counts_equal_singular_values() {
        assert!((effective_rank(&[2.0; 5]) - 5.0).abs() < 1e-12);
        assert_eq!((effective_rank(&[3.0, 0.0, 0.0]), effective_rank(&[0.0; 4])), (1.0, 0.0));
    }

    #[test]
    fn blocks_are_averaged_and_small_matrices_stay() {
        let values: Vec<f64> = (0..8).map(f64::from).collect();
        assert_eq!(averaged([2, 4], &values, [128, 128]), ([2, 4], values.clone()));
        assert_eq!(averaged([2, 4], &values, [1, 2]), ([1, 2], vec![2.5, 4.5]));
    }
}
