//! What is trained: a placement of methods on linear layers, how they start, where they lie in memory, and how they enter the graph.
//!
//! * [`placement`]: the list from which everything else follows; [`targets`]: how users write it;
//! * `method`: what a method is; one file each: `lora`, [`dora`], [`bottleneck`]; [`start`], [`principal`]: how LoRA and DoRA start;
//! * [`vocabulary`]: what of the embedding and the output matrix is trained, [`vectors`]: which norms and biases, [`routers`]: which
//!   routers of experts;
//! * `adapted`: the graph of a model with its adapters; `device`: their numbers in memory; `folder`: from a file to there;
//! * [`added_tokens`], [`end_of_turn`], [`rope_scaling`]: what an adapter remembers besides its numbers; [`beside`]: where that is.

mod adapted;
pub mod added_tokens;
pub mod beside;
pub mod bottleneck;
mod device;
pub mod dora;
pub mod end_of_turn;
mod folder;
mod lora;
mod method;
pub mod placement;
pub mod principal;
pub mod rope_scaling;
pub mod routers;
pub mod start;
pub mod targets;
pub mod vectors;
pub mod vocabulary;

pub use adapted::{Adapted, AdapterLeaves, Preparation};
pub use bottleneck::Bottleneck;
pub use device::{AdapterBuffers, AdapterLayout, DeviceAdapter};
pub use dora::Dora;
pub use folder::LoadedAdapter;
pub use lora::{Lora, LoraValues};
pub use method::{AdapterMatrix, Adapting, Leaves, Method, Prepared};
pub use placement::{Piece, Placement, UniformLora};
pub use routers::Router;
pub use vectors::Vector;
pub use vocabulary::{OwnRows, Whole};
