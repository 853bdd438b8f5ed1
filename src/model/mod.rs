//! Models on the way to the device: the graph of an architecture, and the frozen weights.
//!
//! * [`graph`]: the model as a graph; `block` builds a block of any family;
//! * [`hook`]: where adapters join it, from above;
//! * [`weights`]: the frozen weights on the device.

mod block;
mod experts;
pub mod graph;
pub mod hook;
mod inspection;
pub mod weights;
