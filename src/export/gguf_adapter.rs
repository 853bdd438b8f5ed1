//! An adapter alone as a GGUF file, which llama.cpp adds to the base model as it runs (`--lora`, Ollama's `ADAPTER`).
//!
//! llama.cpp reads one `adapter.lora.alpha` for all pairs and scales each by alpha / rank. Where scales differ from that (rank-stabilised
//! LoRA, ranks and alphas of single modules, several adapters at once), the difference is multiplied into B. Rows of B stand in the order in
//! which the file of the base model has the rows of its weight.

use std::path::Path;

use super::Source;
use crate::architecture::{Order, parameters};
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
    super::refuse_experts(source, proposal)?;
    let mut pairs: Vec<Pair3> = Vec::new();
    for parameter in parameters(model) {
        let pieces = source.update.low_rank(&parameter.name)?;
        if !pieces.is_empty() {
            pairs.push((parameter.ggml, parameter.order, parameter.shape[0], pieces));
        }
    }
    // The first pair's own alpha, so that an adapter of one rank and scale keeps its B bit for bit.
    let alpha = match pairs.first().map(|(_, _, _, pieces)| pieces.as_slice()) {
        Some([(weight, first)]) if weight * first.scale != 0.0 => weight * first.scale * first.rank as f64,
        _ => 1.0,
    };
    let mut tensors = Vec::new();
    for (name, _, rows, pieces) in &pairs {
        let rank = rank_of(pieces);
        let columns = pieces[0].1.a.len() / pieces[0].1.rank;
        tensors.push(Planned { name: format!("{name}.lora_a"), shape: vec![rank, columns], dtype });
        tensors.push(Planned { name: format!("{name}.lora_b"), shape: vec![*rows, rank], dtype });
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
    let (mut done, total) = (0, tensors.iter().map(|tensor| (tensor.shape[0] * tensor.shape[1]) as u64).sum());
    writer::write(path, &metadata, &tensors, |number, sink| {
        let (_, order, rows, pieces) = &pairs[number / 2];
        let values = if number % 2 == 0 { stacked_a(pieces) } else { stored_b(pieces, *rows, *order, alpha as f32) };
        if dtype == DType::F16 && values.iter().any(|value| value.abs() > f32::from(half::f16::MAX)) {
            let problem = format!("tensor {} has a value that f16 does not hold", tensors[number].name);
            return Err(Error::bad_input(path.display(), problem, "Choose --type f32 or bf16."));
        }
        done += values.len() as u64;
        (source.progress)(done, total);
        sink.put(&dtype.quantise(&values)).map_err(|error| atomic::unwritable(path, &error))
    })
}

/// ggml's name of the weight, the order and number of its rows, and what is added to it.
type Pair3<'a> = (String, Order, usize, Vec<(f64, LowRank<'a>)>);

/// Several adapters of one weight are one of all their ranks together.
fn rank_of(pieces: &[(f64, LowRank)]) -> usize {
    pieces.iter().map(|(_, piece)| piece.rank).sum()
}

fn stacked_a(pieces: &[(f64, LowRank)]) -> Vec<f32> {
    pieces.iter().flat_map(|(_, piece)| piece.a.iter().copied()).collect()
}

/// B `[rows, rank]` with what is left of the scale beside alpha / rank, its rows as the base model's file has them.
fn stored_b(pieces: &[(f64, LowRank)], rows: usize, order: Order, alpha: f32) -> Vec<f32> {
    let rank = rank_of(pieces);
    let mut b = Vec::with_capacity(rows * rank);
    for row in 0..rows {
        for (weight, piece) in pieces {
            // Exactly 1 where there is nothing left, although alpha is kept in f32.
            let rest = weight * piece.scale * rank as f64 / f64::from(alpha);
            let rest = if (rest - 1.0).abs() < 1e-7 { 1.0 } else { rest };
            b.extend(piece.b[row * piece.rank..][..piece.rank].iter().map(|&value| (f64::from(value) * rest) as f32));
        }
    }
    bytemuck::pod_collect_to_vec(&order.stored(bytemuck::cast_slice(&b).to_vec(), 4 * rank))
}
