//! Talking to the model: how the next token is chosen.

pub mod sampling;
