//! Records to tokens and labels, and these to batches.
//!
//! * [`source`]: files of all forms, cut into records;
//! * [`record`]: what one record says, read strictly, with errors that name file, line and column; `turns`: its messages;
//!   `tool_calls`: calls in the form that the template reads;
//! * [`conversation`]: which characters of a rendered conversation the assistant wrote; `repeated`: long ones;
//! * `marked`: what in a message looks like a special token, kept apart from the template's own;
//! * [`dataset`]: [`load_files`] makes [`Example`]s with a loss mask, and a [`DataReport`] of what could not be used; `held_out`: which
//!   records are not trained on; [`long`]: what becomes of those that are longer than a row;
//! * [`sampler`]: [`Sampler`] decides which examples go into which step, from a seed alone, and can continue anywhere;
//! * [`batch`]: [`Batch`], examples packed end to end as the engine takes them;
//! * [`expect`]: what a record says its answer is to be, and whether one is that; `json_schema`: of JSON answers;
//! * [`mod@preview`]: the first records as the model will see them, for `train --dry-run`.

pub mod batch;
pub mod conversation;
pub mod dataset;
pub mod expect;
mod held_out;
mod json_schema;
pub mod long;
mod marked;
pub mod preview;
pub mod record;
mod repeated;
pub mod report;
pub mod sampler;
pub mod source;
mod tool_calls;
mod turns;

pub use batch::Batch;
pub use dataset::{Dataset, Example, LoadOptions, LoneRecord, encode_record, load, load_files};
pub use long::LongRecords;
pub use preview::preview;
pub use report::DataReport;
pub use sampler::{Position, Sampler, SamplerOptions};
