//! What views keep on the device and beside it from one request to the next, so that none computes what another has computed, and a move of
//! the adapter's slider builds nothing: the same kernels run on the same buffers with other parameters.
//!
//! Kept are: looks that have been prepared, as many as `MOST_BYTES` of the device hold; the residual stream of the last text, of the base
//! model and of the adapted one; a generator of each, with the logits after what it has read; and what is known of the model's tokens and weights.

use std::collections::HashMap;
use std::sync::Arc;

use super::api::backward::Differentiated;
use super::api::lens;
use crate::adapter::DeviceAdapter;
use crate::generate::Generator;
use crate::graph::ValueId;
use crate::model::graph::{Model, Part};
use crate::session::Session;
use crate::session::probe::{LayerValues, Probe, Subject, embedding_value, logits_value};
use crate::{Error, Result};

/// Bytes on the device of the looks that are kept, beside the last one.
const MOST_BYTES: usize = 64 << 20;

/// Tokens in whose multiples generators have room.
const ROOM: usize = 256;

/// By what the models are told apart of which something is kept: the bits of the strength of an adapter; `None` for the base model.
pub type Key = Option<u64>;

/// The key of a model.
pub fn key_of(adapter: Option<&DeviceAdapter>, strength: Option<f64>) -> Key {
    adapter.map(|_| strength.unwrap_or(1.0).to_bits())
}

/// See the [module](self).
#[derive(Default)]
pub struct Kept {
    pub(super) texts: HashMap<u32, String>,
    /// Of the base model and of the adapted one.
    generators: Vec<(Key, usize, Generator)>,
    /// The one used last is the last.
    looks: Vec<Ready>,
    streams: Vec<Arc<Stream>>,
    logits: Vec<(Key, Vec<u32>, Arc<Vec<f32>>)>,
    /// The base model's.
    pub(super) lens: Option<lens::Known>,
    /// What a model without adapter would be trained with.
    pub(super) fresh: Option<DeviceAdapter>,
    /// The record that was differentiated last.
    pub(super) differentiated: Option<Differentiated>,
    /// Euclidean lengths of the rows of weights, by the name of their site.
    pub(super) norms: HashMap<String, Vec<f64>>,
}

/// The residual stream of a text.
pub struct Stream {
    pub(super) ids: Vec<u32>,
    pub(super) strength: Key,
    /// `[tokens, hidden_size]` each: what enters the lowest layer, and what leaves each layer.
    pub states: Vec<Vec<f32>>,
}

impl Stream {
    /// That of the text's first tokens.
    fn beginning(&self, tokens: usize) -> Self {
        let part = |state: &Vec<f32>| state[..state.len() / self.ids.len() * tokens].to_vec();
        Self { ids: self.ids[..tokens].to_vec(), strength: self.strength, states: self.states.iter().map(part).collect() }
    }

    /// What leaves the last layer at the last token, `[hidden_size]`.
    pub fn last(&self) -> &[f32] {
        let states = self.states.last().map_or(&[][..], Vec::as_slice);
        &states[states.len() - states.len() / self.ids.len()..]
    }

    /// Whether one of the two texts begins with the other.
    fn goes_with(&self, other: &Self) -> bool {
        self.ids.starts_with(&other.ids) || other.ids.starts_with(&self.ids)
    }
}

/// What a look shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// What enters the lowest layer.
    Embedding,
    /// The residual stream before and after every layer.
    Stream,
    /// The numbers of a layer; what enters it is given.
    Layer(usize),
    /// Logits of hidden states that have left the last layer.
    Logits,
}

/// What can be read of a look, and where the numbers of a layer are.
type Readable = (Vec<ValueId>, Option<LayerValues>);

impl Shown {
    fn part(self, depth: usize) -> Part {
        match self {
            Self::Embedding => Part::Below(0),
            Self::Stream => Part::Below(depth),
            Self::Layer(layer) => Part::Layer(layer),
            Self::Logits => Part::From(depth),
        }
    }

    fn values(self, model: &Model, depth: usize) -> Result<Readable> {
        match self {
            Self::Embedding => Ok((vec![embedding_value(model)], None)),
            Self::Stream => {
                let after = (0..depth).map(|layer| Ok(LayerValues::of(model, layer)?.output));
                Ok((std::iter::once(Ok(embedding_value(model))).chain(after).collect::<Result<_>>()?, None))
            }
            Self::Layer(layer) => {
                let values = LayerValues::of(model, layer)?;
                let LayerValues { query, key, lse, gate, up, inner, .. } = values;
                Ok((vec![query, key, lse, gate, up, inner], Some(values)))
            }
            Self::Logits => Ok((vec![logits_value(model)?], None)),
        }
    }

    /// What is looked into, and what of it can be read.
    fn of<'a>(
        self,
        session: &Session,
        adapter: Option<&'a DeviceAdapter>,
        rows: usize,
    ) -> (Subject<'a>, impl Fn(&Model) -> Result<(Vec<ValueId>, Readable)> + Copy + use<>) {
        let depth = session.config().num_hidden_layers;
        let subject = Subject { part: self.part(depth), ..Subject::whole(adapter, rows) };
        let choose = move |model: &Model| {
            let (values, layer) = self.values(model, depth)?;
            Ok((values.clone(), (values, layer)))
        };
        (subject, choose)
    }

    /// Has the driver compile what such a look at texts of at most `rows` tokens runs.
    ///
    /// # Errors
    /// If a kernel does not compile, or the device is lost.
    pub(super) fn compile(self, session: &Session, adapter: Option<&DeviceAdapter>, rows: usize) -> Result<()> {
        let (subject, choose) = self.of(session, adapter, rows);
        Probe::compile(session, subject, choose)
    }
}

/// A look that has been prepared.
pub struct Ready {
    shown: Shown,
    rows: usize,
    strength: Key,
    pub probe: Probe,
    /// What can be read.
    pub values: Vec<ValueId>,
    /// The same by name, of [`Shown::Layer`].
    layer: Option<LayerValues>,
}

impl Ready {
    /// Where the numbers of the layer are.
    ///
    /// # Errors
    /// If it is no look at a layer, which is a defect.
    pub fn layer(&self) -> Result<LayerValues> {
        self.layer.ok_or_else(|| Error::failed("look", "it is at no layer", "this is a defect of graftling: please report it"))
    }
}

impl Kept {
    /// A look at texts of at most `rows` tokens.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn ready(
        &mut self,
        session: &Session,
        shown: Shown,
        adapter: Option<&DeviceAdapter>,
        strength: Key,
        rows: usize,
    ) -> Result<&mut Ready> {
        let (subject, choose) = shown.of(session, adapter, rows);
        let is_it = |ready: &Ready| (ready.shown, ready.rows, ready.strength.is_some()) == (shown, rows, strength.is_some());
        let known = self.looks.iter().position(is_it).map(|at| self.looks.remove(at));
        let rescaled = match known {
            Some(ready) if ready.strength == strength => Some(ready),
            Some(mut ready) => match ready.probe.rescale(session, subject, choose)? {
                true => Some(Ready { strength, ..ready }),
                false => None,
            },
            None => None,
        };
        let ready = match rescaled {
            Some(ready) => ready,
            None => {
                // The oldest go first.
                while self.looks.iter().map(|ready| ready.probe.bytes()).sum::<usize>() > MOST_BYTES {
                    self.looks.remove(0);
                }
                let (probe, (values, layer)) = Probe::forward(session, subject, choose)?;
                Ready { shown, rows, strength, probe, values, layer }
            }
        };
        self.looks.push(ready);
        self.looks.last_mut().ok_or_else(not_kept)
    }

    /// The residual stream of a text, if it is kept; of a `causal` model also the beginning of a longer one's.
    pub(super) fn stream(&self, strength: Key, ids: &[u32], causal: bool) -> Option<Arc<Stream>> {
        let mut own = self.streams.iter().filter(|stream| stream.strength == strength);
        let longer = |stream: &&Arc<Stream>| causal && stream.ids.starts_with(ids);
        let exact = own.clone().find(|stream| stream.ids == ids).cloned();
        exact.or_else(|| own.find(longer).map(|stream| Arc::new(stream.beginning(ids.len()))))
    }

    /// Keeps a stream, of each model that of the last text.
    pub(super) fn keep_stream(&mut self, stream: Stream) -> Arc<Stream> {
        self.streams.retain(|known| known.goes_with(&stream) && known.strength.is_some() != stream.strength.is_some());
        let stream = Arc::new(stream);
        self.streams.push(stream.clone());
        stream
    }

    /// The logits after a text, if they are kept.
    pub(super) fn logits(&self, strength: Key, ids: &[u32]) -> Option<Arc<Vec<f32>>> {
        let known = self.logits.iter().find(|(known, text, _)| *known == strength && text == ids);
        known.map(|(.., logits)| logits.clone())
    }

    /// Keeps logits, of each model the last ones.
    pub(super) fn keep_logits(&mut self, strength: Key, ids: &[u32], logits: Vec<f32>) -> Arc<Vec<f32>> {
        self.logits.retain(|(known, ..)| known.is_some() != strength.is_some());
        let logits = Arc::new(logits);
        self.logits.push((strength, ids.to_vec(), logits.clone()));
        logits
    }

    /// What generates, for texts of at most so many tokens.
    ///
    /// # Errors
    /// If the device has not the memory, with nothing else kept that generates.
    pub(super) fn generator(
        &mut self,
        session: &Session,
        adapter: Option<&DeviceAdapter>,
        strength: Key,
        context: usize,
    ) -> Result<&mut Generator> {
        let context = context.next_multiple_of(ROOM);
        let known = self.generators.iter().position(|(known, ..)| known.is_some() == strength.is_some());
        let known = known.map(|at| self.generators.swap_remove(at)).filter(|(_, room, _)| *room >= context);
        let rescaled = match (known, adapter) {
            (Some((known, room, generator)), _) if known == strength => Some((strength, room, generator)),
            (Some((_, room, mut generator)), Some(adapter)) => {
                generator.rescale(session.weights(), session.config(), adapter)?.then_some((strength, room, generator))
            }
            _ => None,
        };
        let made = match rescaled {
            Some(made) => made,
            None => {
                let make = || Generator::new(session.weights(), session.config(), adapter, context);
                let generator = match make() {
                    // Without the other model's there may be room.
                    Err(Error::OutOfMemory { .. }) if !self.generators.is_empty() => {
                        self.generators.clear();
                        make()?
                    }
                    made => made?,
                };
                (strength, context, generator)
            }
        };
        self.generators.push(made);
        self.generators.last_mut().map(|(.., generator)| generator).ok_or_else(not_kept)
    }
}

fn not_kept() -> Error {
    Error::failed("studio", "what was just made is not there", "ask again")
}
