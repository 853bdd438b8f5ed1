//! What is trained: which matrices get a low-rank adapter, how it starts, and how it enters the graph.

mod adapted;
mod device;
pub mod end_of_turn;
mod folder;
mod lora;
pub mod rope_scaling;
pub mod targets;

pub use adapted::Adapted;
pub use device::{AdapterBuffers, AdapterLayout, DeviceAdapter};
pub use folder::LoadedAdapter;
pub use lora::{LoraSpec, LoraTensor, LoraValues};
