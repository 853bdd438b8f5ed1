//! What adapters change of a model's matrices, in f64.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::Result;
use crate::adapter::{AdapterLayout, Method, Piece, Placement};
use crate::architecture::{Architecture, Site};
use crate::formats::peft::{AdapterTensor, load_adapter};
use crate::graph::Matrix;

/// A change of one matrix that is a product: `scale B A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank<'a> {
    /// A `[rank, in_features]`, row-major.
    pub a: &'a [f32],
    /// B `[out_features, rank]`, row-major.
    pub b: &'a [f32],
    pub rank: usize,
    pub scale: f64,
}

/// Rows that are changed together.
const ROWS: usize = 64;

/// What one adapter does at one linear layer.
#[derive(Clone, Debug)]
struct Change {
    /// By what it is multiplied.
    weight: f64,
    method: Method,
    /// As [`Adapting::matrices`](crate::adapter::Adapting::matrices) lists them.
    matrices: Vec<AdapterTensor>,
}

/// The changes of one or several adapters, each times a weight of its own.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// By the name of the changed tensor, `model.layers.3.self_attn.q_proj.weight`; changes in the order of the adapters.
    changes: BTreeMap<String, (Site, Vec<Change>)>,
    /// Adapter folders, for messages.
    pub places: Vec<PathBuf>,
}

impl Update {
    /// Reads adapters for this model, each with its weight.
    ///
    /// # Errors
    /// Bad input: no adapter, one that graftling cannot use, or one for another model.
    pub fn load(adapters: &[(&Path, f64)], model: &Architecture) -> Result<Self> {
        let mut update = Self::default();
        for (folder, weight) in adapters {
            let (config, tensors) = load_adapter(folder)?;
            let place = folder.display().to_string();
            let placement = Placement::from_peft(&place, &config, model)?;
            // Names, shapes and completeness are checked where adapters are laid out in memory.
            let layout = AdapterLayout::new(&placement);
            let mut matrices = layout.unpack(&layout.pack(&place, &tensors)?).into_iter();
            for Piece { site, method } in placement.pieces {
                let count = method.matrices(&site).len();
                let change = Change { weight: *weight, method, matrices: matrices.by_ref().take(count).collect() };
                let name = format!("model.{}.weight", site.name());
                update.changes.entry(name).or_insert_with(|| (site, Vec::new())).1.push(change);
            }
            update.places.push(folder.to_path_buf());
        }
        Ok(update)
    }

    /// Whether this tensor is changed.
    pub fn changes(&self, tensor: &str) -> bool {
        self.changes.contains_key(tensor)
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changed layers, in the order of their tensors' names.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.changes.values().map(|(site, _)| site)
    }

    /// The changes of a tensor as products, one an adapter, with its weight; empty where nothing is changed.
    pub fn low_rank(&self, tensor: &str) -> Vec<(f64, LowRank<'_>)> {
        let changes = self.changes.get(tensor).map_or(&[][..], |(_, changes)| changes);
        changes.iter().map(|change| (change.weight, change.low_rank())).collect()
    }

    /// Puts the changes into some rows of a tensor: `values` `[rows.len(), in_features]` before, and after. Several changes are each what
    /// its adapter alone would do, times its weight, and added up.
    pub fn put_into(&self, tensor: &str, rows: Range<usize>, values: &mut [f64]) {
        let Some((site, changes)) = self.changes.get(tensor) else { return };
        let columns = site.in_features;
        let first = rows.start;
        values.par_chunks_mut(columns * ROWS).enumerate().for_each(|(at, values)| {
            let rows = first + at * ROWS..first + at * ROWS + values.len() / columns;
            let before = Matrix::new([rows.len(), columns], values.to_vec());
            for change in changes {
                let merged = change.method.merged(&before, &change.of_rows(site, &rows));
                let parts = values.iter_mut().zip(merged.data.iter().zip(&before.data));
                match (change.weight, changes.len()) {
                    (1.0, 1) => parts.for_each(|(value, (merged, _))| *value = *merged),
                    (weight, _) => parts.for_each(|(value, (merged, before))| *value += weight * (merged - before)),
                }
            }
        });
    }
}

impl Change {
    fn low_rank(&self) -> LowRank<'_> {
        let Method::Lora(lora) = &self.method;
        LowRank { a: &self.matrices[0].values, b: &self.matrices[1].values, rank: lora.r, scale: lora.scale }
    }

    /// The matrices with only what concerns these outputs of the layer: a method changes a row of the weight by that row alone.
    fn of_rows(&self, site: &Site, rows: &Range<usize>) -> Vec<Matrix> {
        let matrix = |tensor: &AdapterTensor| {
            let [count, columns] = tensor.shape;
            let by_outputs = count == site.out_features && !tensor.name.ends_with(".lora_a");
            let used = if by_outputs { rows.clone() } else { 0..count };
            let values = &tensor.values[used.start * columns..used.end * columns];
            Matrix::new([used.len(), columns], values.iter().map(|&value| f64::from(value)).collect())
        };
        self.matrices.iter().map(matrix).collect()
    }
}
