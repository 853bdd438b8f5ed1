//! Talking to the model: [`generator`] runs it token by token with a key/value cache, [`sampling`] chooses the next token.

pub mod generator;
pub mod sampling;

pub use generator::Generator;
pub use sampling::{Sampler, Sampling};
