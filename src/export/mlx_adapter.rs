//! An adapter alone as MLX keeps it: `adapters.safetensors` and `adapter_config.json`.
//!
//! mlx-lm computes `scale (x A) B` with A `[in, r]` and B `[r, out]`, one rank and one scale for all layers, in the last `num_layers` layers;
//! what it finds no tensors for starts with B zero and so changes nothing. Where ranks differ, matrices are filled up with zeros; where
//! scales differ, they are multiplied into B and the scale is 1. Those of experts lie the other way round, A `[experts, r, in]` and B
//! `[experts, out, r]`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::{Source, folder, stacked};
use crate::architecture::{Architecture, Parameter, parameters};
use crate::formats::{atomic, safetensors};
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
    let (mut first_layer, mut rank) = (usize::MAX, 0);
    let mut scales: Vec<f64> = Vec::new();
    for site in source.update.sites() {
        first_layer = first_layer.min(site.layer);
        let pieces = source.update.low_rank(&format!("model.{}.weight", site.name()))?;
        rank = rank.max(stacked::rank_of(&pieces));
        scales.extend(pieces.iter().map(|(weight, piece)| weight * piece.scale));
    }
    let Some(&first) = scales.first() else {
        return Err(Error::bad_input("--adapter", "is missing, so there is nothing to write", "Give the adapter's folder."));
    };
    let scale = if scales.iter().all(|scale| *scale == first) { first } else { 1.0 };
    let mut keys = BTreeSet::new();
    let mut tensors: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for parameter in parameters(model).iter().filter(|parameter| source.update.changes(&parameter.name)) {
        let (layer, path) = place(parameter, model);
        let pieces = source.update.low_rank(&parameter.name)?;
        let columns = parameter.shape[1];
        let each = parameter.shape[0] / parameter.experts.unwrap_or(1).max(1);
        let a = stacked::a(parameter, &pieces, rank);
        let b = stacked::b(parameter, &pieces, rank, |own| own / scale);
        let [a, b] = match parameter.experts {
            Some(experts) => [(vec![experts, rank, columns], a), (vec![experts, each, rank], b)],
            None => [(vec![columns, rank], transposed(&a, rank)), (vec![rank, each], transposed(&b, each))],
        };
        for (matrix, (shape, values)) in [("lora_a", a), ("lora_b", b)] {
            tensors.push((format!("{layer}{path}.{matrix}"), shape, values));
        }
        keys.insert(path);
    }
    let config = json!({
        "fine_tune_type": "lora",
        "num_layers": model.num_hidden_layers - first_layer,
        "lora_parameters": { "rank": rank, "scale": scale, "dropout": 0.0, "keys": keys },
        "model": source.files.name,
    });
    let planned: Vec<safetensors::Planned> =
        tensors.iter().map(|(name, shape, _)| safetensors::Planned { name: name.clone(), shape: shape.clone(), dtype }).collect();
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

/// What mlx-lm calls a weight's module: its layer, and its place there. The experts of most families hang together in a `switch_mlp`.
fn place(parameter: &Parameter, model: &Architecture) -> (String, String) {
    let layer = parameter.layer.map_or_else(String::new, |layer| format!("model.layers.{layer}."));
    let path = parameter.name.strip_prefix(&layer).unwrap_or(&parameter.name).trim_end_matches(".weight");
    let path = match parameter.experts {
        Some(_) => {
            let parent = path.trim_end_matches(parameter.module);
            let parent =
                if model.has_experts_together() { parent.to_owned() } else { parent.replace(".experts.", ".switch_mlp.") };
            parent + parameter.usual_module()
        }
        None => path.to_owned(),
    };
    (format!("{}{layer}", model.text_path), path)
}

/// Rows become columns.
fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows.max(1);
    (0..values.len()).map(|at| values[at % rows * columns + at / rows]).collect()
}
