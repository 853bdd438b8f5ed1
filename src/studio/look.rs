//! What the views look at: the model on its device, and what they keep there from one request to the next.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde::Serialize;

pub use super::kept::Kept;
use super::kept::{Ready, Shown, Stream, key_of};
use crate::adapter::{DeviceAdapter, Placement, UniformLora};
use crate::architecture::{Architecture, linear_modules};
use crate::generate::Generator;
use crate::model::hook::Vocabulary;
use crate::session::probe::{HEAD_ROWS, MOST_TOKENS};
use crate::session::{OpenModel, Session};
use crate::train::options::TrainOptions;
use crate::{Error, Result};

/// Largest strength of an adapter: the slider's end.
pub const MOST_STRENGTH: f64 = 2.0;

/// Rows in whose multiples graphs are built, so that texts of like lengths have the same kernels.
const ROWS: usize = 32;

/// A look into the model that is open.
pub struct Look<'a> {
    pub session: &'a Session,
    pub model: &'a OpenModel,
    /// The PEFT folder of the session's adapter, if it has one.
    pub folder: Option<&'a Path>,
    pub kept: &'a mut Kept,
    /// Told how far long work is: what, done, of; an error ends the work.
    pub pause: &'a dyn Fn(&str, u64, u64) -> Result<()>,
}

/// A token with its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Top {
    pub id: u32,
    pub text: String,
    /// Of all tokens, at temperature 1.
    pub p: f64,
}

impl Look<'_> {
    /// Checks the ids of a text that is looked at with the adapter at this strength.
    ///
    /// # Errors
    /// Bad input: there are none, too many, or one that the model does not have: the base model has none that the adapter adds. As
    /// [`Look::adapter`].
    pub fn check_ids(&self, ids: &[u32], strength: Option<f64>) -> Result<()> {
        let most = MOST_TOKENS.min(self.session.config().context());
        let vocabulary = self.session.tokens();
        let known = if self.adapter(strength)?.is_some() { vocabulary } else { self.session.config().vocab_size };
        if ids.is_empty() {
            return Err(Error::bad_input("ids", "there are none", "give the ids of a text, as /api/tokens has them"));
        }
        if ids.len() > most {
            let problem = format!("{} tokens, and a look is at {most} at the most", ids.len());
            return Err(Error::bad_input("ids", problem, "give a part of the text"));
        }
        match ids.iter().find(|&&id| id as usize >= known) {
            Some(&id) if (id as usize) < vocabulary => {
                let text = self.model.tokenizer.decode(&[id], false).unwrap_or_default();
                let problem = format!("{id} is a token that the adapter adds ({text}), and the base model has nothing for it");
                Err(Error::bad_input("ids", problem, "leave it out of the text, or look with the adapter"))
            }
            Some(id) => {
                let problem = format!("{id} is not one of the model's {vocabulary} tokens");
                Err(Error::bad_input("ids", problem, "give the ids of this model's tokenizer, as /api/tokens has them"))
            }
            None => Ok(()),
        }
    }

    /// Checks the number of a layer.
    ///
    /// # Errors
    /// Bad input: the model does not have it.
    pub fn check_layer(&self, layer: usize) -> Result<()> {
        let depth = self.session.config().num_hidden_layers;
        if layer < depth {
            return Ok(());
        }
        let problem = format!("{layer}: the model has {depth} layers");
        Err(Error::bad_input("layer", problem, format!("give one from 0 to {}", depth - 1)))
    }

    /// The adapter at a strength, in the memory where it is; `None` for the base model. Left out, the strength is 1. Where no adapter is
    /// open, the model is the base model at every strength.
    ///
    /// # Errors
    /// Bad input: a strength that is no number from 0 to [`MOST_STRENGTH`].
    pub fn adapter(&self, strength: Option<f64>) -> Result<Option<DeviceAdapter>> {
        let strength = strength.unwrap_or(1.0);
        if !(0.0..=MOST_STRENGTH).contains(&strength) {
            let problem = format!("a strength of {strength}");
            return Err(Error::bad_input("adapter", problem, format!("give a number from 0 to {MOST_STRENGTH}")));
        }
        match self.session.adapter() {
            // Without its nodes: no rounding of its kernels can differ from the base model's.
            Some(adapter) if strength > 0.0 => adapter.scaled(strength).map(Some),
            _ => Ok(None),
        }
    }

    /// The session's adapter, or a fresh one as training starts by default; nothing of it is dropped.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn trained(&mut self) -> Result<DeviceAdapter> {
        if let Some(adapter) = self.session.adapter() {
            return Ok(adapter.without_dropout());
        }
        if let Some(fresh) = &self.kept.fresh {
            return Ok(fresh.clone());
        }
        let device = self.session.weights().device().clone();
        Ok(self.kept.fresh.insert(DeviceAdapter::fresh(device, usual_placement(self.session.config()), 0)?).clone())
    }

    /// What a token stands for.
    ///
    /// # Errors
    /// As [`crate::text::Tokenizer::decode`].
    pub fn text(&mut self, id: u32) -> Result<String> {
        if let Some(text) = self.kept.texts.get(&id) {
            return Ok(text.clone());
        }
        let text = self.model.tokenizer.decode(&[id], false)?;
        self.kept.texts.insert(id, text.clone());
        Ok(text)
    }

    /// Logits to the most probable tokens, the best first.
    ///
    /// # Errors
    /// As [`Look::text`].
    pub fn top(&mut self, best: &[(u32, f64)]) -> Result<Vec<Top>> {
        best.iter().map(|&(id, p)| Ok(Top { id, text: self.text(id)?, p })).collect()
    }

    /// The residual stream of a text, as it is kept from one view to the next.
    ///
    /// # Errors
    /// As [`Look::adapter`]; if the device has not the memory.
    pub fn stream(&mut self, ids: &[u32], strength: Option<f64>) -> Result<Arc<Stream>> {
        let adapter = self.adapter(strength)?;
        let key = key_of(adapter.as_ref(), strength);
        if let Some(stream) = self.kept.stream(key, ids, self.is_causal()) {
            return Ok(stream);
        }
        let ready = self.kept.ready(self.session, Shown::Stream, adapter.as_ref(), key, rows_for(ids.len()))?;
        ready.probe.run(ids, &[])?;
        let states = ready.values.iter().map(|&place| ready.probe.read(place)).collect::<Result<_>>()?;
        Ok(self.kept.keep_stream(Stream { ids: ids.to_vec(), strength: key, states }))
    }

    /// What enters the lowest layer, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// As [`Look::stream`].
    pub fn embedded(&mut self, ids: &[u32], strength: Option<f64>) -> Result<Vec<f32>> {
        let adapter = self.adapter(strength)?;
        let key = key_of(adapter.as_ref(), strength);
        if let Some(stream) = self.kept.stream(key, ids, self.is_causal()) {
            return Ok(stream.states[0].clone());
        }
        let ready = self.kept.ready(self.session, Shown::Embedding, adapter.as_ref(), key, rows_for(ids.len()))?;
        ready.probe.run(ids, &[])?;
        ready.probe.read(ready.values[0])
    }

    /// Whether what a text's beginning is does not depend on what follows: where the rotation is another in longer texts, it does.
    fn is_causal(&self) -> bool {
        self.session.config().ropes.iter().all(|rope| rope.changes_beyond().is_none())
    }

    /// Hidden states `[rows, hidden_size]` through the model's final norm and output layer; `of` gets the logits `[vocabulary]` of each.
    ///
    /// # Errors
    /// As [`Look::stream`].
    pub fn through_head<T: Send>(
        &mut self,
        states: &[f32],
        strength: Option<f64>,
        of: impl Fn(&[f32]) -> T + Sync,
    ) -> Result<Vec<T>> {
        let config = self.session.config();
        let (width, pause) = (config.hidden_size, self.pause);
        let all = states.len() / width;
        if states.is_empty() {
            return Ok(Vec::new());
        }
        let adapter = self.adapter(strength)?.filter(has_own_head);
        let vocabulary = adapter.as_ref().map_or(config.vocab_size, |adapter| adapter.placement.tokens(config));
        let key = key_of(adapter.as_ref(), strength);
        // One row has kernels of its own, those of generation.
        let rows = if all == 1 { 1 } else { HEAD_ROWS.min(rows_for(all)) };
        let ready = self.kept.ready(self.session, Shown::Logits, adapter.as_ref(), key, rows)?;
        let mut results = Vec::with_capacity(all);
        for chunk in states.chunks(HEAD_ROWS * width) {
            let rows = chunk.len() / width;
            pause("hidden states through the output layer", results.len() as u64, all as u64)?;
            ready.probe.run_hidden(chunk, rows, &(0..rows as u32).collect::<Vec<_>>())?;
            results.extend(ready.probe.read(ready.values[0])?.par_chunks(vocabulary).map(&of).collect::<Vec<_>>());
        }
        Ok(results)
    }

    /// What the numbers of a layer are on a text: the look has been run.
    ///
    /// # Errors
    /// As [`Look::stream`].
    pub fn layer(&mut self, layer: usize, ids: &[u32], strength: Option<f64>) -> Result<&Ready> {
        let stream = self.stream(ids, strength)?;
        let adapter = self.adapter(strength)?;
        let key = key_of(adapter.as_ref(), strength);
        let ready = self.kept.ready(self.session, Shown::Layer(layer), adapter.as_ref(), key, rows_for(ids.len()))?;
        ready.probe.run_hidden(&stream.states[layer], ids.len(), &[])?;
        Ok(ready)
    }

    /// The logits `[tokens]` after a text: the end of its stream through the output layer.
    ///
    /// # Errors
    /// As [`Look::stream`].
    pub fn logits(&mut self, ids: &[u32], strength: Option<f64>) -> Result<Vec<f32>> {
        let stream = self.stream(ids, strength)?;
        Ok(self.through_head(stream.last(), strength, <[f32]>::to_vec)?.concat())
    }

    /// What generates, after it has read a text, and the logits that followed: nothing is read again where that is where it stands. There is
    /// room for so many tokens.
    ///
    /// # Errors
    /// As [`Look::generator`] and [`Generator::read`].
    pub fn read(&mut self, ids: &[u32], strength: Option<f64>, context: usize) -> Result<(&mut Generator, Arc<Vec<f32>>)> {
        let key = key_of(self.adapter(strength)?.as_ref(), strength);
        let known = self.kept.logits(key, ids);
        let generator = self.generator(strength, context)?;
        let logits = match known.filter(|_| generator.seen() == ids) {
            Some(logits) => logits,
            None => {
                generator.reset();
                let logits = generator.read(ids)?;
                self.kept.keep_logits(key, ids, logits)
            }
        };
        Ok((self.generator(strength, context)?, logits))
    }

    /// What generates with the adapter at this strength, for texts of at most so many tokens. That of the base model and that of the adapted
    /// one are kept.
    ///
    /// # Errors
    /// As [`Look::adapter`]; if the device has not the memory.
    pub fn generator(&mut self, strength: Option<f64>, context: usize) -> Result<&mut Generator> {
        let adapter = self.adapter(strength)?;
        let key = key_of(adapter.as_ref(), strength);
        self.kept.generator(self.session, adapter.as_ref(), key, context)
    }
}

/// Whether an adapter has something of its own in the final norm or the output layer; without, they are the base model's.
pub fn has_own_head(adapter: &DeviceAdapter) -> bool {
    let Placement { vectors, .. } = &adapter.placement;
    let of_output =
        adapter.placement.whole_of(Vocabulary::Output).is_some() || adapter.placement.rows_of(Vocabulary::Output).is_some();
    of_output || vectors.iter().any(|vector| vector.layer.is_none())
}

/// What training adapts by default, of which nothing is dropped.
pub(super) fn usual_placement(config: &Architecture) -> Placement {
    UniformLora {
        r: TrainOptions::LORA_R,
        scale: TrainOptions::LORA_ALPHA / TrainOptions::LORA_R as f64,
        dropout: 0.0,
        target_modules: linear_modules(config).iter().map(|site| site.module.to_owned()).collect(),
        layers: (0..config.num_hidden_layers).collect(),
    }
    .on(config)
}

/// Euclidean length. Eight sums side by side are several times as fast as one.
pub fn norm(values: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    let mut eights = values.chunks_exact(8);
    for eight in &mut eights {
        sums.iter_mut().zip(eight).for_each(|(sum, &value)| *sum += f64::from(value) * f64::from(value));
    }
    let rest: f64 = eights.remainder().iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    (sums.iter().sum::<f64>() + rest).sqrt()
}

/// Rows for which the graph of a text of so many tokens is built.
pub fn rows_for(tokens: usize) -> usize {
    tokens.next_multiple_of(ROWS)
}

/// The `k` highest of these logits `[vocabulary]` with their probabilities at a temperature above 0, the highest first; of equal ones the lower id.
pub fn most_probable(logits: &[f32], k: usize, temperature: f64) -> Vec<(u32, f64)> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let share = |logit: f32| ((f64::from(logit) - f64::from(highest)) / temperature).exp();
    // A term below 2^-60 of the largest adds nothing that f64 would hold.
    let least = highest - (42.0 * temperature) as f32;
    let total: f64 = logits.iter().filter(|logit| **logit > least).map(|&logit| share(logit)).sum();
    let falling = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    // The best so far, in order; few of many enter.
    let mut best: Vec<u32> = Vec::with_capacity(k + 1);
    for id in 0..logits.len() as u32 {
        if best.len() < k || best.last().is_some_and(|last| logits[id as usize] > logits[*last as usize]) {
            let place = best.partition_point(|known| falling(known, &id).is_lt());
            best.insert(place, id);
            best.truncate(k);
        }
    }
    best.into_iter().map(|id| (id, share(logits[id as usize]) / total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_probable_come_first_with_the_probabilities_of_the_softmax() {
        let logits = [0.0f32, 2.0, 1.0, 2.0];
        let best = most_probable(&logits, 3, 1.0);
        assert_eq!(best.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3, 2]);
        let total = 1.0 + 2.0 * 2f64.exp() + 1f64.exp();
        assert!((best[0].1 - 2f64.exp() / total).abs() < 1e-12 && (best[2].1 - 1f64.exp() / total).abs() < 1e-12);
        assert_eq!((most_probable(&logits, 9, 1.0).len(), most_probable(&logits, 0, 1.0).len()), (4, 0));
        let cold = most_probable(&logits, 1, 0.5)[0].1;
        assert!((cold - 4f64.exp() / (1.0 + 2.0 * 4f64.exp() + 2f64.exp())).abs() < 1e-12);
    }

    #[test]
    fn graphs_are_built_for_multiples_of_rows() {
        assert_eq!([1, 32, 33].map(rows_for), [32, 32, 64]);
    }
}
