//! What adapters change of a model's matrices, in f64.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::adapter::LoraSpec;
use crate::architecture::{Architecture, Site, sites};
use crate::formats::peft::{AdapterTensor, load_adapter};
use crate::{Error, Result};

/// An update of one matrix that is a product: `scale B A`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// A `[rank, in_features]`, row-major.
    pub a: Vec<f32>,
    /// B `[out_features, rank]`, row-major.
    pub b: Vec<f32>,
    pub rank: usize,
    pub scale: f64,
}

/// What one adapter does at one linear layer.
#[derive(Clone, Debug)]
struct Piece {
    /// By what its change is multiplied.
    weight: f64,
    low_rank: LowRank,
}

/// The changes of one or several adapters, each times a weight of its own.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// By the name of the changed tensor, `model.layers.3.self_attn.q_proj.weight`; pieces in the order of the adapters.
    pieces: BTreeMap<String, (Site, Vec<Piece>)>,
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
            let spec = LoraSpec::from_peft(&place, &config, model)?;
            update.add(&place, &spec, &tensors, *weight, model)?;
            update.places.push(folder.to_path_buf());
        }
        Ok(update)
    }

    fn add(&mut self, place: &str, spec: &LoraSpec, tensors: &[AdapterTensor], weight: f64, model: &Architecture) -> Result<()> {
        let mut used = 0;
        for site in sites(model).into_iter().filter(|site| spec.adapts(site)) {
            let matrix = |own: &str, shape: [usize; 2]| {
                let name = format!("{}.{own}", site.name());
                let proposal = "use an adapter that was trained on this model with these modules and layers";
                let Some(found) = tensors.iter().find(|tensor| tensor.name == name) else {
                    return Err(Error::bad_input(place, format!("`{name}` is missing"), proposal));
                };
                match found.shape == shape {
                    true => Ok(found.values.clone()),
                    false => {
                        let problem = format!("`{name}` has shape {:?}, the model needs {shape:?}", found.shape);
                        Err(Error::bad_input(place, problem, proposal))
                    }
                }
            };
            let low_rank = LowRank {
                a: matrix("lora_a", [spec.r, site.in_features])?,
                b: matrix("lora_b", [site.out_features, spec.r])?,
                rank: spec.r,
                scale: spec.scale,
            };
            used += 2;
            let name = format!("model.{}.weight", site.name());
            self.pieces.entry(name).or_insert_with(|| (site, Vec::new())).1.push(Piece { weight, low_rank });
        }
        if used != tensors.len() {
            let problem = format!("has {} tensors, of which {used} have a place in this model", tensors.len());
            return Err(Error::bad_input(place, problem, "check the adapter's base model"));
        }
        Ok(())
    }

    /// Whether this tensor is changed.
    pub fn changes(&self, tensor: &str) -> bool {
        self.pieces.contains_key(tensor)
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The changed layers, in the order of their tensors' names.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.pieces.values().map(|(site, _)| site)
    }

    /// The changes of a tensor, one an adapter, with its weight; empty where nothing is changed.
    pub fn low_rank(&self, tensor: &str) -> Vec<(f64, &LowRank)> {
        let pieces = self.pieces.get(tensor).map_or(&[][..], |(_, pieces)| pieces);
        pieces.iter().map(|piece| (piece.weight, &piece.low_rank)).collect()
    }

    /// Puts the changes into some rows of a tensor: `values` `[rows.len(), in_features]` before, and after.
    pub fn put_into(&self, tensor: &str, rows: Range<usize>, values: &mut [f64]) {
        let Some((site, pieces)) = self.pieces.get(tensor) else { return };
        let columns = site.in_features;
        values.par_chunks_exact_mut(columns).zip(rows).for_each(|(row, number)| {
            for Piece { weight, low_rank } in pieces {
                low_rank.add_row(number, *weight, row);
            }
        });
    }
}

impl LowRank {
    /// Adds `weight` times row `number` of the update.
    pub fn add_row(&self, number: usize, weight: f64, row: &mut [f64]) {
        let columns = row.len();
        for (k, &b) in self.b[number * self.rank..][..self.rank].iter().enumerate() {
            let factor = weight * self.scale * f64::from(b);
            if factor != 0.0 {
                row.iter_mut().zip(&self.a[k * columns..][..columns]).for_each(|(value, &a)| *value += factor * f64::from(a));
            }
        }
    }
}
