//! An adapter alone as MLX keeps it: `adapters.safetensors` and `adapter_config.json`.
//!
//! mlx-lm computes `scale (x A) B` with A `[in, r]` and B `[r, out]`, one rank and one scale for all layers, in the last `num_layers` layers;
//! what it finds no tensors for starts with B zero and so changes nothing. Where ranks differ, matrices are filled up with zeros; where
//! scales differ, they are multiplied into B and the scale is 1.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::{Source, folder};
use crate::architecture::parameters;
use crate::formats::{atomic, safetensors};
use crate::merge::LowRank;
use crate::storage::DType;
use crate::{Error, Result};

/// Writes the folder `out`, all or nothing.
///
/// # Errors
/// Bad input: nothing is adapted, or another type than F32, F16 and BF16. Failed: the folder cannot be written.
pub fn write(source: &Source, dtype: DType, out: &Path, overwrite: bool) -> Result<()> {
    if dtype.block() > 1 {
        return Err(Error::bad_input("--type", format!("an adapter is not written in {dtype}"), "Use f32, f16 or bf16."));
    }
    let proposal = "Use --to safetensors, a folder with the adapter merged, which mlx-lm reads.";
    source.update.replaced.refuse_in("an MLX adapter", proposal)?;
    let model = &source.files.config;
    super::refuse_experts(source, proposal)?;
    let mut keys = BTreeSet::new();
    let (mut first_layer, mut rank) = (usize::MAX, 0);
    let mut scales: Vec<f64> = Vec::new();
    for site in source.update.sites() {
        keys.insert(site.path());
        first_layer = first_layer.min(site.layer);
        let pieces = source.update.low_rank(&format!("model.{}.weight", site.name()))?;
        rank = rank.max(pieces.iter().map(|(_, piece)| piece.rank).sum());
        scales.extend(pieces.iter().map(|(weight, piece)| weight * piece.scale));
    }
    let Some(&first) = scales.first() else {
        return Err(Error::bad_input("--adapter", "is missing, so there is nothing to write", "Give the adapter's folder."));
    };
    let scale = if scales.iter().all(|scale| *scale == first) { first } else { 1.0 };
    let mut tensors = Vec::new();
    for parameter in parameters(model).iter().filter(|parameter| source.update.changes(&parameter.name)) {
        let module = parameter.name.trim_end_matches(".weight");
        let module = format!("{}{module}", model.text_path);
        let pieces = source.update.low_rank(&parameter.name)?;
        let (rows, columns) = (parameter.shape[0], parameter.shape[1]);
        tensors.push((format!("{module}.lora_a"), [columns, rank], transposed_a(&pieces, columns, rank)));
        tensors.push((format!("{module}.lora_b"), [rank, rows], transposed_b(&pieces, rows, rank, scale)));
    }
    let config = json!({
        "fine_tune_type": "lora",
        "num_layers": model.num_hidden_layers - first_layer,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": 0.0, "keys": keys },
        "model": source.files.name,
    });
    let planned: Vec<safetensors::Planned> = tensors
        .iter()
        .map(|(name, shape, _)| safetensors::Planned { name: name.clone(), shape: shape.to_vec(), dtype })
        .collect();
    let (mut done, total) = (0, tensors.iter().map(|(_, _, values)| values.len() as u64).sum());
    folder::written(out, overwrite, |folder| {
        let path = folder.join("adapters.safetensors");
        safetensors::write(&path, &planned, |number, sink| {
            let values = &tensors[number].2;
            done += values.len() as u64;
            (source.progress)(done, total);
            sink(&dtype.quantise(values))
        })?;
        atomic::write_atomically(&folder.join("adapter_config.json"), format!("{config:#}\n").as_bytes())
    })
}

/// `[in, rank]`, the ranks of several adapters side by side, then zeros.
fn transposed_a(pieces: &[(f64, LowRank)], columns: usize, rank: usize) -> Vec<f32> {
    let mut out = vec![0.0; columns * rank];
    let mut first = 0;
    for (_, piece) in pieces {
        for k in 0..piece.rank {
            (0..columns).for_each(|column| out[column * rank + first + k] = piece.a[k * columns + column]);
        }
        first += piece.rank;
    }
    out
}

/// `[rank, out]`, with what is left of the scale.
fn transposed_b(pieces: &[(f64, LowRank)], rows: usize, rank: usize, scale: f64) -> Vec<f32> {
    let mut out = vec![0.0; rows * rank];
    let mut first = 0;
    for (weight, piece) in pieces {
        let rest = weight * piece.scale / scale;
        for k in 0..piece.rank {
            (0..rows).for_each(|row| out[(first + k) * rows + row] = (f64::from(piece.b[row * piece.rank + k]) * rest) as f32);
        }
        first += piece.rank;
    }
    out
}
