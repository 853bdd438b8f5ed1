//! Adapters into weights: what adapters change of a model's matrices, and matrices with the change in them.
//!
//! * [`update`]: what adapters change; [`weights`]: a model's tensors with that in them, in any format, a few rows at a time.

pub mod update;
pub mod weights;

pub use update::{LowRank, Update};
pub use weights::MergedWeights;
