//! What the views look at: the model on its device, and what they keep there from one request to the next.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::api::prove::Proving;
use crate::adapter::{DeviceAdapter, UniformLora};
use crate::architecture::linear_modules;
use crate::generate::Generator;
use crate::graph::ValueId;
use crate::model::graph::Part;
use crate::session::probe::{LayerValues, MOST_TOKENS, Probe, Subject, embedding_value};
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

/// What views keep from one request to the next.
#[derive(Default)]
pub struct Kept {
    texts: HashMap<u32, String>,
    /// The last one used, with the bits of its strength and its context.
    generator: Option<(Option<u64>, usize, Generator)>,
    /// Of the last texts: base and adapted.
    streams: Vec<Arc<Stream>>,
    /// The last logits by that generator, with the bits of its strength and the text.
    logits: Option<(Option<u64>, Vec<u32>, Vec<f32>)>,
    /// What a model without adapter would be trained with.
    fresh: Option<DeviceAdapter>,
    /// The record that was differentiated last.
    pub(super) proving: Option<Proving>,
    /// Frobenius norms of weights, by the name of their site.
    pub(super) norms: HashMap<String, f64>,
}

/// The residual stream of a text.
pub struct Stream {
    ids: Vec<u32>,
    /// Bits of the adapter's strength.
    strength: Option<u64>,
    /// `[tokens, hidden_size]` each: what enters the lowest layer, and what leaves each layer.
    pub states: Vec<Vec<f32>>,
}

/// Bytes of the residual stream that is kept: so much of it is computed once for all views.
const LARGEST_STREAM: usize = 64 << 20;

/// A token with its probability.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Top {
    pub id: u32,
    pub text: String,
    /// Of all tokens, at temperature 1.
    pub p: f64,
}

impl Look<'_> {
    /// Checks the ids of a text.
    ///
    /// # Errors
    /// Bad input: there are none, too many, or one that the model does not have.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let most = MOST_TOKENS.min(self.session.config().max_position_embeddings);
        let vocabulary = self.session.tokens();
        if ids.is_empty() {
            return Err(Error::bad_input("ids", "there are none", "give the ids of a text, as /api/tokens has them"));
        }
        if ids.len() > most {
            let problem = format!("{} tokens, and a look is at {most} at the most", ids.len());
            return Err(Error::bad_input("ids", problem, "give a part of the text"));
        }
        match ids.iter().find(|&&id| id as usize >= vocabulary) {
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
    /// Bad input: a strength that is no number from 0 to [`MOST_STRENGTH`], or another one than 0 and 1 for what is only there or not.
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
        let config = self.session.config();
        let lora = UniformLora {
            r: TrainOptions::LORA_R,
            scale: TrainOptions::LORA_ALPHA / TrainOptions::LORA_R as f64,
            dropout: 0.0,
            target_modules: linear_modules(config).iter().map(|site| site.module.to_owned()).collect(),
            layers: (0..config.num_hidden_layers).collect(),
        };
        let device = self.session.weights().device().clone();
        Ok(self.kept.fresh.insert(DeviceAdapter::fresh(device, lora.on(config), 0)?).clone())
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
        let known = |stream: &&Arc<Stream>| stream.strength == key && stream.ids == ids;
        if let Some(stream) = self.kept.streams.iter().find(known) {
            return Ok(stream.clone());
        }
        let depth = self.session.config().num_hidden_layers;
        let states = self.states(ids, adapter.as_ref(), &(0..=depth).collect::<Vec<_>>())?;
        let stream = Arc::new(Stream { ids: ids.to_vec(), strength: key, states });
        // Of each model the last text's.
        self.kept.streams.retain(|known| known.ids == ids && (known.strength.is_some() != key.is_some()));
        self.kept.streams.push(stream.clone());
        Ok(stream)
    }

    /// The hidden states `[tokens, hidden_size]` that enter a layer: those that are kept, where they are not too many to keep.
    ///
    /// # Errors
    /// As [`Look::stream`].
    pub fn entering(&mut self, layer: usize, ids: &[u32], strength: Option<f64>) -> Result<Vec<f32>> {
        let config = self.session.config();
        let all = (config.num_hidden_layers + 1) * ids.len() * config.hidden_size * size_of::<f32>();
        if all <= LARGEST_STREAM {
            return Ok(self.stream(ids, strength)?.states[layer].clone());
        }
        let adapter = self.adapter(strength)?;
        Ok(self.states(ids, adapter.as_ref(), &[layer])?.remove(0))
    }

    /// The hidden states `[tokens, hidden_size]` after so many layers each; after 0 those that enter the lowest.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn states(&self, ids: &[u32], adapter: Option<&DeviceAdapter>, after: &[usize]) -> Result<Vec<Vec<f32>>> {
        let top = after.iter().copied().max().unwrap_or(0);
        let subject = Subject { part: Part::Below(top), ..Subject::whole(adapter, rows_for(ids.len())) };
        let (mut probe, places) = Probe::forward(self.session, subject, |model| {
            let place = |&layers: &usize| match layers {
                0 => Ok(embedding_value(model)),
                layers => LayerValues::of(model, layers - 1).map(|layer| layer.output),
            };
            let places: Vec<ValueId> = after.iter().map(place).collect::<Result<_>>()?;
            Ok((places.clone(), places))
        })?;
        probe.run(ids, &[])?;
        places.into_iter().map(|place| probe.read(place)).collect()
    }

    /// The logits `[vocab_size]` after a text, by what generates.
    ///
    /// # Errors
    /// As [`Look::generator`] and [`Generator::read`].
    pub fn logits(&mut self, ids: &[u32], strength: Option<f64>) -> Result<Vec<f32>> {
        let key = key_of(self.adapter(strength)?.as_ref(), strength);
        if let Some((known, text, logits)) = &self.kept.logits
            && (*known, text.as_slice()) == (key, ids)
        {
            return Ok(logits.clone());
        }
        let generator = self.generator(strength, ids.len())?;
        generator.reset();
        let logits = generator.read(ids)?;
        self.kept.logits = Some((key, ids.to_vec(), logits.clone()));
        Ok(logits)
    }

    /// What generates with the adapter at this strength, for texts of at most so many tokens. The last one is kept.
    ///
    /// # Errors
    /// As [`Look::adapter`]; if the device has not the memory.
    pub fn generator(&mut self, strength: Option<f64>, context: usize) -> Result<&mut Generator> {
        let adapter = self.adapter(strength)?;
        let key = key_of(adapter.as_ref(), strength);
        let context = context.next_multiple_of(256);
        let fits = |(known, room, _): &(Option<u64>, usize, Generator)| *known == key && *room >= context;
        if !self.kept.generator.as_ref().is_some_and(fits) {
            // First the old one goes.
            self.kept.generator = None;
            let generator = Generator::new(self.session.weights(), self.session.config(), adapter.as_ref(), context)?;
            self.kept.generator = Some((key, context, generator));
        }
        let (_, _, generator) =
            self.kept.generator.as_mut().ok_or_else(|| Error::failed("answer", "there is no generator", "ask again"))?;
        Ok(generator)
    }
}

/// By what is kept is told apart: the bits of the strength of an adapter; `None` for the base model.
fn key_of(adapter: Option<&DeviceAdapter>, strength: Option<f64>) -> Option<u64> {
    adapter.map(|_| strength.unwrap_or(1.0).to_bits())
}

/// Euclidean length.
pub fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
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
