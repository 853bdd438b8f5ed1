//! Adapters into weights: what adapters change of a model's matrices, and matrices with the change in them.
//!
//! * [`update`]: what adapters change of linear layers, [`replaced`]: what stands in the place of the model's rows; [`combine`]: how the changes of several become one;
//! * [`weights`]: a model's tensors with that in them, in any format, a few rows at a time;
//! * [`report`]: what that does to each matrix.

pub mod combine;
pub mod replaced;
pub mod report;
pub mod update;
pub mod weights;

pub use combine::{Combination, Combined, singular_values};
pub use replaced::Replaced;
pub use update::{LowRank, Update};
pub use weights::MergedWeights;
