//! graftling: LoRA fine-tuning of Llama-style language models on any GPU.

pub mod adapter;
pub mod autograd;
pub mod cache;
pub mod data;
pub mod demo;
pub mod error;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod model;
pub mod ops;
pub mod plan;
pub mod reference;
pub mod text;
pub mod train;

pub use error::{Error, Result};
