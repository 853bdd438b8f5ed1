//! Talking to the model: [`generator`] runs it token by token with a key/value cache, [`sampling`] chooses the next token,
//! [`ends`] says when to stop, [`answers`] asks questions and compares.

pub mod answers;
pub mod ends;
pub mod generator;
pub mod sampling;

pub use ends::{Ends, end_tokens};
pub use generator::{Generation, Generator};
pub use sampling::{Sampler, Sampling};
