//! `/api/lens`: the residual stream after every layer, and what the model's own final norm and output layer make of it: the logit lens
//! (nostalgebraist 2020, "interpreting GPT: the logit lens").
//!
//! The embedding is layer 0, the last layer's output the model's own answer. The head costs as much as a third of a small model, and it
//! is run here once a layer, so it shows a few tokens of the text at a time; norms are of all.

use serde::{Deserialize, Serialize};

use crate::adapter::DeviceAdapter;
use crate::studio::look::{Look, Top, has_own_head, most_probable, norm};
use crate::{Error, Result};

/// Tokens that are shown where a request names none: the last ones.
pub const SHOWN: usize = 4;
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
    /// Of the base model: the embedding, and after every layer. `None` if the text has tokens that the adapter adds.
    pub layers: Option<Vec<Layer>>,
    /// The same with the adapter; `None` without one, or at strength 0.
    pub adapted: Option<Vec<Layer>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// 0 for the embedding, n after n layers.
    pub layer: usize,
    /// All of the text.
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, Serialize)]
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
    look.check_ids(&asked.ids, asked.adapter)?;
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
    if look.check_ids(&asked.ids, Some(0.0)).is_err() {
        return Ok(Lens { adapted: Some(layers(look, asked.adapter, asked, &shown, None)?), layers: None, shown });
    }
    // The base model's does not change with the strength.
    let base = look.kept.lens.take().filter(|known| (&known.ids, known.k, &known.shown) == (&asked.ids, asked.k, &shown));
    let layers = match base {
        Some(known) => known.layers,
        None => layers(look, Some(0.0), asked, &shown, None)?,
    };
    let known = Known { ids: asked.ids.clone(), k: asked.k, shown: shown.clone(), layers: layers.clone() };
    look.kept.lens = Some(known);
    let base = |adapter: &DeviceAdapter| if has_own_head(adapter) { None } else { Some(&layers[..]) };
    let adapted = adapter.map(|adapter| self::layers(look, asked.adapter, asked, &shown, base(&adapter))).transpose()?;
    Ok(Lens { shown, layers: Some(layers), adapted })
}

/// The base model's lens of a text.
pub struct Known {
    ids: Vec<u32>,
    k: usize,
    shown: Vec<usize>,
    layers: Vec<Layer>,
}

/// The lens of one model. `base` is that of the base model by the same head: where the stream is the same, below the lowest adapted layer, the
/// lens is too.
fn layers(look: &mut Look, strength: Option<f64>, asked: &Asked, shown: &[usize], base: Option<&[Layer]>) -> Result<Vec<Layer>> {
    let stream = look.stream(&asked.ids, strength)?;
    let same = match base {
        None => 0,
        Some(_) => {
            let other = look.stream(&asked.ids, Some(0.0))?;
            stream.states.iter().zip(&other.states).take_while(|(a, b)| a == b).count()
        }
    };
    let hidden = &stream.states[same..];
    let width = look.session.config().hidden_size;
    let mut states = Vec::with_capacity(hidden.len() * shown.len() * width);
    for layer in hidden {
        shown.iter().for_each(|place| states.extend_from_slice(&layer[place * width..(place + 1) * width]));
    }
    let best = look.through_head(&states, strength, |logits| most_probable(logits, asked.k, 1.0))?;
    let mut best = best.into_iter();
    let mut layers = base.map_or_else(Vec::new, |base| base[..same].to_vec());
    for (layer, states) in hidden.iter().enumerate() {
        let mut tokens: Vec<Token> = states.chunks(width).map(|row| Token { norm: norm(row), top: Vec::new() }).collect();
        for &place in shown {
            tokens[place].top = look.top(&best.next().unwrap_or_default())?;
        }
        layers.push(Layer { layer: same + layer, tokens });
    }
    Ok(layers)
}
