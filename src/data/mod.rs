//! Records to tokens and labels, and these to batches.
//!
//! * [`record`]: one line of JSONL, read strictly, with errors that name file, line and column;
//! * [`conversation`]: which characters of a rendered conversation the assistant wrote;
//! * `marked`: what in a message looks like a special token, kept apart from the template's own;
//! * [`dataset`]: [`load`] makes [`Example`]s with a loss mask, and a [`DataReport`] of what could not be used;
//! * [`sampler`]: [`Sampler`] decides which examples go into which step, from a seed alone, and can continue anywhere;
//! * [`batch`]: [`Batch`], examples packed end to end as the engine takes them;
//! * [`mod@preview`]: the first records as the model will see them, for `train --dry-run`.

pub mod batch;
pub mod conversation;
pub mod dataset;
mod marked;
pub mod preview;
pub mod record;
pub mod sampler;

pub use batch::Batch;
pub use dataset::{DataReport, Dataset, Example, load};
pub use preview::preview;
pub use sampler::{Position, Sampler, SamplerOptions};
