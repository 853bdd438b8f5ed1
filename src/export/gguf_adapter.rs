//! An adapter alone as a GGUF file, which llama.cpp adds to the base model as it runs (`--lora`, Ollama's `ADAPTER`).
//!
//! llama.cpp reads one `adapter.lora.alpha` for all pairs and scales each by alpha / rank. Where scales differ from that (rank-stabilised
//! LoRA, ranks and alphas of single modules, several adapters at once), the difference is multiplied into B. Rows of B stand in the order in
//! which the file of the base model has the rows of its weight. Those of experts lie one behind the other, `[experts, rank, in]` and
//! `[experts, out, rank]`, as `ggml_mul_mat_id` takes them.

use std::path::Path;

use super::{Source, stacked};
use crate::architecture::{Parameter, parameters};
use crate::formats::atomic;
use crate::formats::gguf::writer::{self, Pair, Planned};
use crate::merge::LowRank;
use crate::storage::DType;
use crate::storage::mixture::Mixture;
use crate::{Error, Result};

/// Writes the file, all or nothing, its matrices in F32, F16 or BF16.
///
/// # Errors
/// Bad input: nothing is adapted, or another type. Failed: the file cannot be written.
pub fn write(source: &Source, kind: Mixture, path: &Path) -> Result<()> {
    let dtype = kind.base();
    if dtype.block() > 1 {
        let proposal = "Use f32, f16 or bf16: an adapter is small, and its numbers are what was learned.";
        return Err(Error::bad_input("--type", format!("an adapter is not written in {}", kind.name()), proposal));
    }
    if source.update.is_empty() {
        return Err(Error::bad_input("--adapter", "is missing, so there is nothing to write", "Give the adapter's folder."));
    }
    let proposal = "Use --to gguf: one file, with the adapter merged and the tokens in its vocabulary.";
    source.update.replaced.refuse_in("a GGUF adapter", proposal)?;
    let model = &source.files.config;
    let mut pairs: Vec<(Parameter, Vec<(f64, LowRank)>)> = Vec::new();
    for parameter in parameters(model) {
        let pieces = source.update.low_rank(&parameter.name)?;
        if !pieces.is_empty() {
            pairs.push((parameter, pieces));
        }
    }
    // The first pair's own alpha, so that an adapter of one rank and scale keeps its B bit for bit.
    let alpha = match pairs.first().map(|(_, pieces)| pieces.as_slice()) {
        Some([(weight, first)]) if weight * first.scale != 0.0 => weight * first.scale * first.rank as f64,
        _ => 1.0,
    };
    let mut tensors = Vec::new();
    for (parameter, pieces) in &pairs {
        let (rank, columns) = (stacked::rank_of(pieces), parameter.shape[1]);
        let rows = parameter.shape[0] / parameter.experts.unwrap_or(1).max(1);
        for (matrix, shape) in [("lora_a", [rank, columns]), ("lora_b", [rows, rank])] {
            let shape = parameter.experts.into_iter().chain(shape).collect();
            tensors.push(Planned { name: format!("{}.{matrix}", parameter.ggml), shape, dtype });
        }
    }
    let metadata = [
        Pair::string("general.architecture", model.to_gguf().ggml),
        Pair::string("general.type", "adapter"),
        Pair::string("general.name", &format!("{} adapter", source.files.name)),
        Pair::u32("general.file_type", kind.file_type()),
        Pair::string("adapter.type", "lora"),
        Pair::f32("adapter.lora.alpha", alpha as f32),
        Pair::u32("general.quantization_version", 2),
    ];
    let (mut done, total) = (0, tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum());
    writer::write(path, &metadata, &tensors, |number, sink| {
        let (parameter, pieces) = &pairs[number / 2];
        let values = match number % 2 {
            0 => stacked::a(parameter, pieces, stacked::rank_of(pieces)),
            _ => stored_b(parameter, pieces, alpha as f32),
        };
        if dtype == DType::F16 && values.iter().any(|value| value.abs() > f32::from(half::f16::MAX)) {
            let problem = format!("tensor {} has a value that f16 does not hold", tensors[number].name);
            return Err(Error::bad_input(path.display(), problem, "Choose --type f32 or bf16."));
        }
        done += values.len() as u64;
        (source.progress)(done, total);
        sink.put(&dtype.quantise(&values)).map_err(|error| atomic::unwritable(path, &error))
    })
}

/// B with what is left of the scale beside alpha / rank, its rows as the base model's file has them.
fn stored_b(parameter: &Parameter, pieces: &[(f64, LowRank)], alpha: f32) -> Vec<f32> {
    let rank = stacked::rank_of(pieces);
    let b = stacked::b(parameter, pieces, rank, |scale| {
        // Exactly 1 where there is nothing left, although alpha is kept in f32.
        let rest = scale * rank as f64 / f64::from(alpha);
        if (rest - 1.0).abs() < 1e-7 { 1.0 } else { rest }
    });
    bytemuck::pod_collect_to_vec(&parameter.order.stored(bytemuck::cast_slice(&b).to_vec(), 4 * rank))
}
