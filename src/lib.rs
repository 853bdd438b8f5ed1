//! graftling: LoRA fine-tuning of Llama-style language models on any GPU that Vulkan, Metal or DX12 drives.
//!
//! A from-scratch tensor engine. A [`graph`] says *what* is computed, a [`plan`] *how* (which memory, in which order), a [`gpu`] device
//! *where*. The base model is frozen and only low-rank adapters are trained, so [`autograd`] makes gradients for the adapters alone.
//!
//! The map, from the bottom up; each module uses those before it, and `tests/house.rs` has the layers and holds them:
//!
//! * [`storage`]: how numbers rest in files and on the device, one file a format.
//! * [`kernel`]: what a kernel is, and the facts of a device that decide between kernels; no device.
//! * [`graph`]: nodes, values, shapes, the errors that wrong shapes give, and what an op is. Pure data.
//! * [`ops`]: one file an op, with its formula, gradient rule, f64 reference and kernel launch; the kernels are in `shaders/`.
//! * [`autograd`]: appends gradient nodes to a graph. [`mod@reference`] runs a graph in f64 on the CPU.
//! * [`gpu`]: adapters, limits, buffers, compiled kernels. [`plan`]: liveness, the arena, replay, pacing, profiles.
//! * [`architecture`]: what a model is: one file a family, and the one table of its linear layers.
//! * [`formats`]: safetensors, GGUF, Hugging Face folders and names, PEFT adapters. [`text`]: tokenizers and chat templates.
//! * [`data`]: records to tokens, loss masks and packed batches.
//! * [`model`]: an architecture as a graph, and its weights on the device. [`adapter`]: what to adapt, and LoRA.
//! * [`generate`]: the key/value cache and sampling. [`session`]: a model that is on a device, ready for use: its memory, evaluation, the
//!   cache of the layers below the adapters. [`byte_size`]: how memory is told.
//! * [`merge`]: adapters into weights, and with one another. [`export`]: models and adapters as other programs' files.
//! * [`train`]: the loop, the optimizer, checkpoints, metrics.
//! * [`mod@bench`]: what the device can do, how near the kernels come to it, what a step and a token cost.
//! * [`sweep`]: many runs that differ in what is adapted, compared. [`advise`]: what to adapt, from the data, the model and the memory.
//! * [`studio`]: all of it to look at, on a page that is served to this machine.
//! * [`picture`]: axes and points as SVG files.
//! * [`terminal`]: what is said, to standard error and standard output.
//! * [`ranks`]: several processes that work on one run, over MPI.
//! * [`error`]: the one error type that reaches the user. [`files`]: regular files, and no others. [`allocator`]: the bound on what a template or tokenizer may take.
//!
//! The command line is in `src/cli/`, one file a subcommand.

#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic where nobody reads; `terminal` does not

pub mod adapter;
pub mod advise;
pub mod allocator;
pub mod architecture;
pub mod autograd;
pub mod bench;
pub mod byte_size;
pub mod cache;
mod caught;
mod confined;
pub mod data;
pub mod demo;
pub mod error;
pub mod export;
pub mod files;
pub mod formats;
pub mod generate;
pub mod gpu;
pub mod graph;
pub mod kernel;
pub mod merge;
pub mod model;
mod nearest;
pub mod ops;
pub mod picture;
pub mod plan;
pub mod ranks;
pub mod reference;
pub mod session;
pub mod storage;
pub mod studio;
pub mod sweep;
pub mod terminal;
pub mod text;
pub mod train;

pub use error::{Error, Result};
