//! Model files and adapter files, read and written.
//!
//! * [`model_files`]: `ModelFiles::open` takes what a user calls a model and finds config, weights and text in it;
//! * [`gguf`], [`hugging_face`], [`hub`]: where models come from;
//! * [`folder_weights`]: the weights of a folder, of safetensors or PyTorch files (`safetensors`, `pytorch`, `pickle`, `stored`), quantised or
//!   not (`quantised`);
//! * `experts`: tensors of single experts as one of all; `experts_together`: those that have gate and up of all in one;
//! * [`peft`], [`adapter_hub`]: adapters, both ways; [`adapter_file`]: either of them, `adapter_folder`: what both share;
//! * [`text_source`]: what the readers hand to the rest of the program, besides the [`TensorSource`](crate::storage::TensorSource);
//! * `open`: the one place where files are opened; [`atomic`]: files written all or nothing.
//!
//! Nothing here trusts a file: every length and offset is checked before it is used, and what cannot be used is an
//! [`Error`](crate::Error) that names file, tensor or key.

pub mod adapter_file;
mod adapter_folder;
pub mod adapter_hub;
pub mod atomic;
mod experts;
pub(crate) mod experts_together;
pub mod folder_weights;
pub mod gguf;
pub mod hub;
pub mod hugging_face;
pub mod model_files;
pub(crate) mod open;
pub mod peft;
mod pickle;
mod pytorch;
mod quantised;
pub mod safetensors;
mod special_tokens;
mod stored;
pub mod text_source;
mod weight_file;

pub use model_files::{ModelFiles, ModelPlace};
pub use text_source::{AddedTokenSource, GgufTokenizer, TextSource, TokenizerSource, token_types};
