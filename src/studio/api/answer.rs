//! `/api/answer`: the model's answer, token by token, with what it might have said: the generator and sampler of `graftling generate`.

use serde::{Deserialize, Serialize};

use crate::data::conversation::encode_prompt;
use crate::generate::{Sampler, Sampling, end_tokens};
use crate::studio::look::{Look, Top, most_probable};
use crate::text::{Message, marks};
use crate::{Error, Result};

/// Tokens of the longest answer.
pub const MOST: usize = 1024;
/// Tokens that are named beside the chosen one.
const NAMED: usize = 5;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// A conversation, of which the model speaks the next turn. This or `prompt`.
    pub messages: Option<Vec<Turn>>,
    /// A text to go on with.
    pub prompt: Option<String>,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
    #[serde(default)]
    pub seed: u64,
    /// Left out: 0, greedy; 1 if top_k or top_p is given.
    pub temperature: Option<f64>,
    pub top_k: Option<usize>,
    pub top_p: Option<f64>,
    /// Left out: 128.
    pub max_tokens: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    pub role: String,
    pub content: String,
}

/// An answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub text: String,
    pub tokens: Vec<Token>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ends: `end` (the model ended it), `length`.
    pub stopped: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    pub id: u32,
    pub text: String,
    /// Of all tokens, at temperature 1.
    pub p: f64,
    /// The most probable ones.
    pub top: Vec<Top>,
}

/// Lets the model answer.
///
/// # Errors
/// Bad input: no prompt or two, a prompt that is too long, no chat template, strength or sampling out of range. Failed: the device has not
/// the memory.
pub fn answer(look: &mut Look, asked: &Asked) -> Result<Answer> {
    let by_chance = asked.top_k.is_some() || asked.top_p.is_some();
    let temperature = asked.temperature.unwrap_or(if by_chance { 1.0 } else { 0.0 });
    let sampling = Sampling { temperature, top_k: asked.top_k, top_p: asked.top_p, seed: asked.seed };
    let mut sampler = Sampler::new(sampling)?;
    let most = asked.max_tokens.unwrap_or(128);
    if !(1..=MOST).contains(&most) {
        return Err(Error::bad_input("max_tokens", format!("{most} tokens"), format!("give 1 to {MOST}")));
    }
    let prompt = prompt(look, asked)?;
    let room = look.session.config().context();
    if prompt.is_empty() || prompt.len() >= room {
        let problem = format!("it has {} tokens, the model reads 1 to {}", prompt.len(), room.saturating_sub(1));
        return Err(Error::bad_input("prompt", problem, "give another one"));
    }
    let context = (prompt.len() + most).min(room);
    let model = look.model;
    let folder = look.folder.filter(|_| asked.adapter != Some(0.0));
    let ends = end_tokens(&model.tokenizer, model.template.as_ref(), folder, asked.messages.is_some())?;

    let mut stream = model.tokenizer.decode_stream();
    let (mut text, mut tokens, mut stopped) = (String::new(), Vec::new(), "length");
    let pause = look.pause;
    let (generator, first) = look.read(&prompt, asked.adapter, context)?;
    let mut logits = first.to_vec();
    let mut chosen = Vec::new();
    loop {
        let id = sampler.sample(&logits)?;
        let best = most_probable(&logits, NAMED, 1.0);
        chosen.push((id, probability(&logits, id, &best), best));
        if ends.contains(&id) {
            stopped = "end";
            break;
        }
        text.push_str(&stream.push(id).unwrap_or_default());
        model.tokenizer.stopped()?;
        if chosen.len() == most || prompt.len() + chosen.len() >= context {
            break;
        }
        pause("tokens of the answer", chosen.len() as u64, most as u64)?;
        logits = generator.read(&[id])?;
    }
    text.push_str(&stream.finish().unwrap_or_default());
    for (id, p, best) in chosen {
        tokens.push(Token { id, text: look.text(id)?, p, top: look.top(&best)? });
    }
    Ok(Answer { text, tokens, prompt_tokens: prompt.len(), stopped })
}

/// The probability of a token, when those of the best ones are known.
fn probability(logits: &[f32], id: u32, best: &[(u32, f64)]) -> f64 {
    let known = best.iter().find(|(known, _)| *known == id).map(|(_, p)| *p);
    let (first, p) = best[0];
    known.unwrap_or_else(|| p * (f64::from(logits[id as usize]) - f64::from(logits[first as usize])).exp())
}

fn prompt(look: &Look, asked: &Asked) -> Result<Vec<u32>> {
    let model = look.model;
    match (&asked.messages, &asked.prompt) {
        (None, Some(prompt)) => model.tokenizer.encode(prompt, true),
        (Some(messages), None) => {
            let Some(template) = &model.template else {
                let proposal = "give a prompt, or open an instruction-tuned model";
                return Err(Error::bad_input("messages", "the model has no chat template", proposal));
            };
            if let Some(mark) = marks::split_in_template(&model.tokenizer, template) {
                return Err(marks::refusal(&model.tokenizer, &mark));
            }
            if messages.is_empty() {
                return Err(Error::bad_input("messages", "there are none", "give at least one of the user's"));
            }
            let messages: Vec<Message> = messages.iter().map(|turn| Message::new(&turn.role, &turn.content)).collect();
            encode_prompt(&model.tokenizer, template, &messages)
        }
        _ => Err(Error::bad_input("request", "has neither or both of messages and prompt", "give one of the two")),
    }
}
