//! What adapters change of a model's matrices, in f64.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::adapter::{Method, Piece, Placement};
use crate::architecture::{Architecture, Held, Site, experts};
use crate::formats::adapter_file::AdapterFile;
use crate::formats::peft::AdapterTensor;
use crate::graph::Matrix;
use crate::merge::Replaced;
use crate::{Error, Result};

/// A change of one matrix that is a product: `scale B A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank<'a> {
    /// A `[rank, in_features]`, row-major; of experts one below the other.
    pub a: &'a [f32],
    /// B `[out_features, rank]`, row-major; of experts one below the other.
    pub b: &'a [f32],
    pub rank: usize,
    pub scale: f64,
}

/// Rows that are changed together.
const ROWS: usize = 64;

/// What one adapter does at one linear layer.
#[derive(Clone, Debug)]
struct Change {
    /// Place in the list of adapters.
    adapter: usize,
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
    /// What one of the adapters has in the place of the model's rows.
    pub replaced: Replaced,
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
        for (adapter, (folder, weight)) in adapters.iter().enumerate() {
            let (config, tensors) = AdapterFile::load_for(folder, model)?;
            let place = folder.display().to_string();
            let placement = Placement::of_file(&place, &config, model)?;
            let tensors = placement.without_copies(tensors);
            let mut given: HashMap<String, AdapterTensor> =
                tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
            let whole = "use the adapter beside the base, with --adapter: it is no change of the layers' matrices alone";
            let replaced = Replaced::of(&place, &placement, model, &mut given)?;
            if !replaced.is_empty() {
                if *weight != 1.0 || !update.replaced.is_empty() {
                    let problem = "has rows, norms, biases or routers in the place of the model's: they have no weight, and add up \
                                   with no other's";
                    return Err(Error::bad_input(&place, problem, "merge it without a weight, and no other one with such rows"));
                }
                update.replaced = replaced;
            }
            for Piece { site, method, .. } in placement.pieces {
                if let Some(problem) = method.cannot_merge() {
                    return Err(Error::bad_input(&place, problem, whole));
                }
                if matches!(method, Method::Dora(_)) && (*weight != 1.0 || adapters.len() > 1) {
                    let problem =
                        "is a DoRA adapter, which sets the lengths of whole rows: it has no weight, and adds up with no other";
                    return Err(Error::bad_input(&place, problem, "merge it alone, without a weight"));
                }
                let matrices = method.matrices(&site).into_iter().map(|matrix| {
                    let proposal = "use an adapter that was trained on this model with these modules and layers";
                    let Some(found) = given.remove(&matrix.name) else {
                        return Err(Error::bad_input(&place, format!("`{}` is missing", matrix.name), proposal));
                    };
                    if found.shape != matrix.shape {
                        let problem =
                            format!("`{}` has shape {:?}, the model needs {:?}", matrix.name, found.shape, matrix.shape);
                        return Err(Error::bad_input(&place, problem, proposal));
                    }
                    Ok(found)
                });
                let matrices = matrices.collect::<Result<Vec<_>>>()?;
                for (site, matrices) in by_tensor(&site, &method, matrices) {
                    let name = format!("model.{}.weight", site.name());
                    let change = Change { adapter, weight: *weight, method: method.clone(), matrices };
                    update.changes.entry(name).or_insert_with(|| (site, Vec::new())).1.push(change);
                }
            }
            if let Some(other) = given.keys().min() {
                return Err(Error::bad_input(
                    &place,
                    format!("`{other}` has no place in this model"),
                    "check the adapter's base model",
                ));
            }
            update.places.push(folder.to_path_buf());
        }
        Ok(update)
    }

    /// The same with every change [times](Method::multiply) `strength`: of one adapter, what it is at that strength.
    #[must_use]
    pub fn at_strength(mut self, strength: f64) -> Self {
        self.changes.values_mut().flat_map(|(_, changes)| changes).for_each(|change| change.method.multiply(strength));
        self
    }

    /// Whether this tensor is changed.
    pub fn changes(&self, tensor: &str) -> bool {
        self.changes.contains_key(tensor)
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.replaced.is_empty()
    }

    /// The layer whose weight this tensor is, if it is changed.
    pub fn site(&self, tensor: &str) -> Option<&Site> {
        self.changes.get(tensor).map(|(site, _)| site)
    }

    /// Which adapters change this tensor, as places in the list of them.
    pub fn adapters(&self, tensor: &str) -> Vec<usize> {
        self.changes.get(tensor).map_or_else(Vec::new, |(_, changes)| changes.iter().map(|change| change.adapter).collect())
    }

    /// The changed layers, in the order of their tensors' names.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.changes.values().map(|(site, _)| site)
    }

    /// The changes of a tensor as products, one an adapter, with its weight; empty where nothing is changed.
    ///
    /// # Errors
    /// Bad input: a method whose change is no such product.
    pub fn low_rank(&self, tensor: &str) -> Result<Vec<(f64, LowRank<'_>)>> {
        let changes = self.changes.get(tensor).map_or(&[][..], |(_, changes)| changes);
        let mut products = Vec::with_capacity(changes.len());
        for change in changes {
            let product = change.low_rank().ok_or_else(|| {
                let problem = "an adapter's change of this tensor is no product of two matrices (DoRA, say)";
                Error::bad_input(tensor, problem, "Merge it into the weights: --to gguf or --to safetensors.")
            })?;
            products.push((change.weight, product));
        }
        Ok(products)
    }

    /// Puts the changes into some rows of a tensor: `values` `[rows.len(), in_features]` before, and after. Several changes are each what
    /// its adapter alone would do, times its weight, and added up.
    pub fn put_into(&self, tensor: &str, rows: Range<usize>, values: &mut [f64]) {
        let Some((site, changes)) = self.changes.get(tensor) else { return };
        let columns = site.in_features;
        let first = rows.start;
        values.par_chunks_mut(columns * ROWS).enumerate().for_each(|(at, values)| {
            let rows = first + at * ROWS..first + at * ROWS + values.len() / columns;
            for own in by_expert(site, &rows) {
                let values = &mut values[(own.start - rows.start) * columns..(own.end - rows.start) * columns];
                let before = Matrix::new([own.len(), columns], values.to_vec());
                for change in changes {
                    let merged = change.method.merged(&before, &change.of_rows(site, &own));
                    let merged = merged.unwrap_or_else(|| unreachable!("such a method is refused when it is read"));
                    let parts = values.iter_mut().zip(merged.data.iter().zip(&before.data));
                    match (change.weight, changes.len()) {
                        (1.0, 1) => parts.for_each(|(value, (merged, _))| *value = *merged),
                        (weight, _) => parts.for_each(|(value, (merged, before))| *value += weight * (merged - before)),
                    }
                }
            }
        });
    }
}

/// A layer as several, one for each of its tensors, with what a method has of each: of a matrix by outputs those of the tensor.
fn by_tensor(site: &Site, method: &Method, matrices: Vec<AdapterTensor>) -> Vec<(Site, Vec<AdapterTensor>)> {
    if site.apart.is_empty() {
        return vec![(site.clone(), matrices)];
    }
    let parts: Vec<Vec<usize>> = method.matrices(site).into_iter().map(|matrix| matrix.parts).collect();
    let of_tensor = |(at, held): (usize, Held)| {
        let own = |(tensor, parts): (&AdapterTensor, &Vec<usize>)| {
            let Some(rows) = parts.get(at).filter(|_| parts.len() > 1) else { return tensor.clone() };
            let (first, columns) = (parts[..at].iter().sum::<usize>(), tensor.shape[1]);
            let values = tensor.values[first * columns..(first + rows) * columns].to_vec();
            AdapterTensor { name: tensor.name.clone(), shape: [*rows, columns], values }
        };
        let own: Vec<AdapterTensor> = matrices.iter().zip(&parts).map(own).collect();
        let out_features = held.out_features();
        let site = Site { module: held.module, ggml: held.ggml, outputs: held.outputs, out_features, apart: &[], ..site.clone() };
        (site, own)
    };
    site.tensors().into_iter().enumerate().map(of_tensor).collect()
}

/// Rows of a layer's matrix, cut where an expert ends.
fn by_expert(site: &Site, rows: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let each = if site.experts.is_some() { site.out_features.max(1) } else { usize::MAX };
    experts::by_expert(rows.clone(), each).map(move |(expert, own)| expert * each + own.start..expert * each + own.end)
}

impl Change {
    fn low_rank(&self) -> Option<LowRank<'_>> {
        match (&self.method, self.matrices.as_slice()) {
            (Method::Lora(lora), [a, b]) => Some(LowRank { a: &a.values, b: &b.values, rank: lora.r, scale: lora.scale }),
            _ => None,
        }
    }

    /// The matrices with only what concerns these outputs of the layer, of one expert: a method changes a row of the weight by that row alone.
    fn of_rows(&self, site: &Site, rows: &Range<usize>) -> Vec<Matrix> {
        let matrix = |tensor: &AdapterTensor| {
            let [count, columns] = tensor.shape;
            let (experts, outputs) = (site.matrices(), site.matrices() * site.out_features);
            let by_outputs = count == outputs && !tensor.name.ends_with(".lora_a");
            let expert = if site.experts.is_some() { rows.start / site.out_features.max(1) } else { 0 };
            let used = if by_outputs { rows.clone() } else { expert * (count / experts)..(expert + 1) * (count / experts) };
            let values = &tensor.values[used.start * columns..used.end * columns];
            Matrix::new([used.len(), columns], values.iter().map(|&value| f64::from(value)).collect())
        };
        self.matrices.iter().map(matrix).collect()
    }
}

impl LowRank<'_> {
    /// Adds `weight` times row `number` of the change.
    pub fn add_row(&self, number: usize, weight: f64, row: &mut [f64]) {
        let columns = row.len();
        let of_each = self.rank * columns;
        // Of a layer that is none of experts there is one pair.
        let experts = (self.a.len() / of_each.max(1)).max(1);
        let rows_of_each = (self.b.len() / self.rank.max(1) / experts).max(1);
        let a = &self.a[number / rows_of_each * of_each..];
        for (k, &b) in self.b[number * self.rank..][..self.rank].iter().enumerate() {
            let factor = weight * self.scale * f64::from(b);
            row.iter_mut().zip(&a[k * columns..][..columns]).for_each(|(value, &a)| *value += factor * f64::from(a));
        }
    }
}
