//! `/api/lens`: the residual stream after every layer, and what the model's own final norm and output layer make of it: the logit lens
//! (nostalgebraist 2020, "interpreting GPT: the logit lens").
//!
//! The embedding is layer 0, the last layer's output the model's own answer. The head costs as much as a third of a small model, and it
//! is run here once a layer, so it shows a few tokens of the text at a time; norms are of all.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::adapter::DeviceAdapter;
use crate::model::graph::Part;
use crate::session::probe::{HEAD_ROWS, Probe, Subject, logits_value};
use crate::studio::look::{Look, Top, most_probable, norm, rows_for};
use crate::{Error, Result};

/// Tokens that are shown where a request names none: the last ones.
pub const SHOWN: usize = 8;
/// Tokens of the vocabulary that are named at the most.
const MOST_NAMED: usize = 50;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
    /// Tokens of the vocabulary that are named.
    #[serde(default = "five")]
    pub k: usize,
    /// Places in the text whose lens is wanted, ascending; left out: the last [`SHOWN`].
    pub tokens: Option<Vec<usize>>,
}

fn five() -> usize {
    5
}

/// The residual stream of a text.
#[derive(Debug, Serialize)]
pub struct Lens {
    /// The places that have a `top`.
    pub shown: Vec<usize>,
    /// Of the base model: the embedding, and after every layer.
    pub layers: Vec<Layer>,
    /// The same with the adapter; `None` without one, or at strength 0.
    pub adapted: Option<Vec<Layer>>,
}

#[derive(Debug, Serialize)]
pub struct Layer {
    /// 0 for the embedding, n after n layers.
    pub layer: usize,
    /// All of the text.
    pub tokens: Vec<Token>,
}

#[derive(Debug, Serialize)]
pub struct Token {
    /// Euclidean length of the hidden state.
    pub norm: f64,
    /// Empty for tokens that are not shown.
    pub top: Vec<Top>,
}

/// The lens of a text, with and without the adapter.
///
/// # Errors
/// Bad input: ids, strength, k or tokens out of range. Failed: the device has not the memory.
pub fn lens(look: &mut Look, asked: &Asked) -> Result<Lens> {
    look.check_ids(&asked.ids)?;
    let adapter = look.adapter(asked.adapter)?;
    if !(1..=MOST_NAMED).contains(&asked.k) {
        return Err(Error::bad_input("k", format!("{} tokens", asked.k), format!("give 1 to {MOST_NAMED}")));
    }
    let length = asked.ids.len();
    let shown = asked.tokens.clone().unwrap_or_else(|| (length.saturating_sub(SHOWN)..length).collect());
    if shown.iter().any(|&place| place >= length) || shown.windows(2).any(|pair| pair[0] >= pair[1]) {
        let problem = format!("{shown:?} are no ascending places of a text of {length} tokens");
        return Err(Error::bad_input("tokens", problem, "count from 0"));
    }
    let layers = layers(look, None, asked, &shown)?;
    let adapted = adapter.map(|adapter| self::layers(look, Some(&adapter), asked, &shown)).transpose()?;
    Ok(Lens { shown, layers, adapted })
}

fn layers(look: &mut Look, adapter: Option<&DeviceAdapter>, asked: &Asked, shown: &[usize]) -> Result<Vec<Layer>> {
    let strength = if adapter.is_some() { asked.adapter } else { Some(0.0) };
    let stream = look.stream(&asked.ids, strength)?;
    let hidden = &stream.states;
    let width = look.session.config().hidden_size;
    let mut states = Vec::with_capacity(hidden.len() * shown.len() * width);
    for layer in hidden {
        shown.iter().for_each(|place| states.extend_from_slice(&layer[place * width..(place + 1) * width]));
    }
    let best = through_head(look, adapter, &states, |logits| most_probable(logits, asked.k, 1.0))?;
    let mut best = best.into_iter();
    let mut layers = Vec::with_capacity(hidden.len());
    for (layer, states) in hidden.iter().enumerate() {
        let mut tokens: Vec<Token> = states.chunks(width).map(|row| Token { norm: norm(row), top: Vec::new() }).collect();
        for &place in shown {
            tokens[place].top = look.top(&best.next().unwrap_or_default())?;
        }
        layers.push(Layer { layer, tokens });
    }
    Ok(layers)
}

/// Hidden states `[rows, hidden_size]` through the model's final norm and output layer; `of` gets the logits `[vocabulary]` of each.
///
/// # Errors
/// Failed: the device has not the memory.
pub fn through_head<T: Send>(
    look: &Look,
    adapter: Option<&DeviceAdapter>,
    states: &[f32],
    of: impl Fn(&[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    let config = look.session.config();
    let vocabulary = adapter.map_or(config.vocab_size, |adapter| adapter.placement.tokens(config));
    let width = config.hidden_size;
    let rows = states.len() / width;
    let subject =
        Subject { part: Part::From(config.num_hidden_layers), ..Subject::whole(adapter, HEAD_ROWS.min(rows_for(rows))) };
    let (mut head, logits) = Probe::forward(look.session, subject, |model| {
        let logits = logits_value(model)?;
        Ok((vec![logits], logits))
    })?;
    let mut results = Vec::with_capacity(rows);
    for chunk in states.chunks(HEAD_ROWS * width) {
        let rows = chunk.len() / width;
        (look.pause)("hidden states through the output layer", results.len() as u64, (states.len() / width) as u64)?;
        head.run_hidden(chunk, rows, &(0..rows as u32).collect::<Vec<_>>())?;
        results.extend(head.read(logits)?.par_chunks(vocabulary).map(&of).collect::<Vec<_>>());
    }
    Ok(results)
}
