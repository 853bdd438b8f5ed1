//! The start `eva` (Paischer et al. 2024, arXiv 2410.07170): each A is the principal directions of what enters its layer in the base model,
//! for the tokens that are learned, as PEFT's `get_eva_state_dict` finds them with `rho` 1 and its other defaults.
//!
//! The batches are those of the first epoch, in their order. Each goes through the model a layer at a time, and what enters the adapted
//! linear layers there is [taken in](Principal), once where the same enters several. The end is where all directions have settled, after
//! [`MOST_BATCHES`], or with the epoch. It comes before the run has gradients, moments and activations on the device, and takes less.
//!
//! Ranks stay as they are asked for: memory is settled by them before there is a device. PEFT hands them out anew unless `rho` is 1.

use std::collections::HashMap;
use std::fmt;
use std::ops::ControlFlow;

use rayon::prelude::*;

use crate::adapter::principal::Principal;
use crate::adapter::{DeviceAdapter, Piece, Placement};
use crate::architecture::{Architecture, Site};
use crate::data::{Batch, Dataset, Example};
use crate::formats::peft::AdapterTensor;
use crate::model::weights::DeviceWeights;
use crate::session::entering::{Entering, Stage, entering};
use crate::{Error, Result};

/// Batches that are looked at, at the most; more only where there have been fewer tokens than the largest rank.
pub const MOST_BATCHES: usize = 64;

/// How far the look at the data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looked {
    pub batches: usize,
    /// Tokens that went through the model, and those of them that are learned.
    pub tokens: usize,
    pub learned: usize,
    /// Inputs of layers whose directions have settled, and inputs in all.
    pub settled: usize,
    pub inputs: usize,
}

impl fmt::Display for Looked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batches, tokens, learned, settled, inputs } = self;
        write!(
            f,
            "eva: the directions of {settled} of {inputs} inputs have settled after {batches} batches: {learned} learned of {tokens} tokens"
        )
    }
}

/// That every rank has as many directions to choose from: of what enters the layer, and of tokens that are learned.
///
/// # Errors
/// Bad input, with both numbers.
pub fn check(placement: &Placement, data: &Dataset) -> Result<()> {
    let learned: usize = data.examples.iter().map(Example::supervised_tokens).sum();
    for piece in &placement.pieces {
        let (r, site) = (rank(piece), &piece.site);
        if r > site.in_features {
            let problem = format!("what enters {} has {} directions, fewer than rank {r}", site.name(), site.in_features);
            return Err(refused(problem, "choose a smaller --lora-r"));
        }
        // Rows about their mean have a direction fewer than there are rows.
        if r >= learned {
            let problem =
                format!("eva takes {r} directions for {} from tokens that are learned, and there are {learned}", site.name());
            return Err(refused(problem, "choose a smaller --lora-r, give more data, or choose another start"));
        }
    }
    Ok(())
}

fn refused(problem: String, proposal: &str) -> Error {
    Error::bad_input("--init-lora-weights", problem, proposal)
}

fn rank(piece: &Piece) -> usize {
    piece.method.lora().map_or(0, |lora| lora.r)
}

/// What enters some adapted linear layers, and its directions: as many as the largest of their ranks.
struct Input<'a> {
    layer: usize,
    /// The linear layers, and their ranks.
    sites: Vec<(&'a Site, usize)>,
    principal: Principal,
}

impl Input<'_> {
    fn has(&self, site: &Site) -> bool {
        self.sites.iter().any(|(own, _)| own.number == site.number)
    }
}

/// The base model on the device, and the adapter that is to start there.
pub struct Eva<'a> {
    weights: &'a DeviceWeights,
    config: &'a Architecture,
    adapter: &'a DeviceAdapter,
    max_tokens: usize,
    inputs: Vec<Input<'a>>,
    looked: Looked,
}

impl<'a> Eva<'a> {
    /// Prepares batches of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    pub fn new(
        weights: &'a DeviceWeights,
        config: &'a Architecture,
        adapter: &'a DeviceAdapter,
        max_tokens: usize,
    ) -> Result<Self> {
        let pieces: HashMap<usize, &Piece> = adapter.placement.pieces.iter().map(|piece| (piece.site.number, piece)).collect();
        let mut inputs = Vec::new();
        for layer in 0..config.num_hidden_layers {
            for Entering { sites, .. } in entering(config, &|name| weights.dtype(name), layer)? {
                let adapted = sites.iter().filter_map(|number| pieces.get(number));
                let sites: Vec<(&Site, usize)> = adapted.map(|piece| (&piece.site, rank(piece))).collect();
                if let (Some(&(first, _)), Some(r)) = (sites.first(), sites.iter().map(|(_, r)| *r).max()) {
                    inputs.push(Input { layer, principal: Principal::new(&first.name(), r, first.in_features), sites });
                }
            }
        }
        // A and B that are both zero would never learn.
        if let Some(piece) = pieces.values().find(|piece| inputs.iter().all(|input| !input.has(&piece.site))) {
            let problem = format!("what enters {} was not found", piece.site.name());
            return Err(Error::failed("eva", problem, "choose another --init-lora-weights, and please report it"));
        }
        let looked = Looked { batches: 0, tokens: 0, learned: 0, settled: 0, inputs: inputs.len() };
        Ok(Self { weights, config, adapter, max_tokens, inputs, looked })
    }

    /// Looks at these batches, and tells before each how far it is. Gives the start with its A; `None` where it was told to stop.
    ///
    /// # Errors
    /// Bad input: what enters a layer has fewer directions than its rank. If the device has not the memory, or is lost.
    pub fn start(
        mut self,
        batches: impl Iterator<Item = Batch>,
        mut start: Vec<AdapterTensor>,
        mut tell: impl FnMut(Looked) -> ControlFlow<()>,
    ) -> Result<Option<(Vec<AdapterTensor>, Looked)>> {
        let mut embedding = Stage::embedding(self.weights, self.config, self.adapter, self.max_tokens)?;
        for batch in batches {
            let all_have_begun = self.inputs.iter().all(|input| input.principal.has_begun());
            let is_enough = self.looked.batches >= MOST_BATCHES && all_have_begun;
            if is_enough || self.looked.settled == self.looked.inputs {
                break;
            }
            if tell(self.looked).is_break() {
                return Ok(None);
            }
            let hidden = embedding.run(&batch, &[])?;
            self.look(&batch, hidden)?;
        }
        self.inputs.par_iter_mut().for_each(|input| input.principal.end());
        self.looked.settled = self.settled();
        for (site, directions) in self.directions()? {
            let name = format!("{site}.lora_a");
            let a = start.iter_mut().find(|tensor| tensor.name == name);
            a.into_iter().for_each(|tensor| tensor.values.copy_from_slice(&directions));
        }
        Ok(Some((start, self.looked)))
    }

    /// A batch, of which these hidden states enter the first layer.
    fn look(&mut self, batch: &Batch, mut hidden: Vec<f32>) -> Result<()> {
        let open = |input: &&mut Input| !input.principal.has_settled();
        let learned: Vec<usize> = batch.supervised_rows.iter().map(|&row| row as usize + 1).collect();
        // Nothing above has anything to learn from this batch.
        let top = self.inputs.iter_mut().filter(open).map(|input| input.layer).max();
        for layer in top.into_iter().flat_map(|top| 0..=top) {
            let mut inputs: Vec<&mut Input> = self.inputs.iter_mut().filter(open).filter(|input| input.layer == layer).collect();
            let wanted: Vec<usize> = inputs.iter().map(|input| input.sites[0].0.number).collect();
            let (mut stage, entering) = Stage::layer(self.weights, self.config, layer, self.max_tokens, &wanted)?;
            hidden = stage.run(batch, &hidden)?;
            // Both in the order of the graph.
            let read: Vec<Vec<f32>> =
                entering.iter().map(|entering| stage.read(entering, batch, &learned)).collect::<Result<_>>()?;
            inputs.par_iter_mut().zip(read).for_each(|(input, rows)| input.principal.add(&rows));
        }
        self.looked.batches += 1;
        self.looked.tokens += batch.rows();
        self.looked.learned += learned.len();
        self.looked.settled = self.settled();
        Ok(())
    }

    fn settled(&self) -> usize {
        self.inputs.iter().filter(|input| input.principal.has_settled()).count()
    }

    /// A by the name of its linear layer.
    fn directions(&self) -> Result<Vec<(String, Vec<f32>)>> {
        let mut found = Vec::new();
        for Input { sites, principal, .. } in &self.inputs {
            for &(site, r) in sites {
                if principal.known() < r {
                    let (name, known, rows) = (site.name(), principal.known(), principal.rows());
                    let problem = format!("what enters {name} has {known} directions in {rows} tokens, fewer than rank {r}");
                    return Err(refused(problem, "choose a smaller --lora-r, give more varied data, or choose another start"));
                }
                found.push((site.name(), principal.leading(r)));
            }
        }
        Ok(found)
    }
}
