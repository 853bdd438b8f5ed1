//! Adapters into weights: what adapters change of a model's matrices, and matrices with the change in them.
//!
//! * [`update`]: what adapters change of linear layers, [`vocabulary`]: what of embedding and output matrix; [`combine`]: how the changes of several become one;
//! * [`weights`]: a model's tensors with that in them, in any format, a few rows at a time;
//! * [`report`]: what that does to each matrix.

pub mod combine;
pub mod report;
pub mod update;
pub mod vocabulary;
pub mod weights;

pub use combine::{Combination, Combined};
pub use update::{LowRank, Update};
pub use vocabulary::MergedVocabulary;
pub use weights::MergedWeights;
