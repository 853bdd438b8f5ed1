//! `/api/logits`: what may come next, by the very sampler of `graftling generate`.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::generate::{Sampler, Sampling};
use crate::studio::look::{Look, most_probable};

/// Tokens that are given.
pub const SHOWN: usize = 40;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
    /// Left out: 1; 0 is greedy.
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
}

/// The next token.
#[derive(Debug, Serialize)]
pub struct Logits {
    /// The most probable ones, the first first.
    pub top: Vec<Token>,
    /// From how many tokens the sampler draws.
    pub kept: usize,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Token {
    pub id: u32,
    pub text: String,
    pub logit: f32,
    /// Of all tokens at the temperature, before top-k and top-p; at temperature 0 as at 1.
    pub p: f64,
    /// Whether the sampler can draw it.
    pub kept: bool,
}

/// What may follow a text.
///
/// # Errors
/// Bad input: ids, strength or sampling out of range. Failed: the device has not the memory.
pub fn logits(look: &mut Look, asked: &Asked) -> Result<Logits> {
    look.check_ids(&asked.ids, asked.adapter)?;
    let temperature = asked.temperature.unwrap_or(1.0);
    let sampling = Sampling { temperature, top_k: asked.top_k, top_p: asked.top_p, seed: 0 };
    let mut sampler = Sampler::new(sampling)?;
    let logits = look.logits(&asked.ids, asked.adapter)?;
    let kept = sampler.choices(&logits)?;
    let divided = if temperature > 0.0 { temperature } else { 1.0 };
    let mut top = Vec::new();
    for (place, (id, p)) in most_probable(&logits, SHOWN, divided).into_iter().enumerate() {
        top.push(Token { id, text: look.text(id)?, logit: logits[id as usize], p, kept: place < kept });
    }
    Ok(Logits { top, kept })
}
