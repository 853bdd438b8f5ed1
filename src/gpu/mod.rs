//! The *where* of a computation: adapter, limits, buffers, compiled kernels.

mod buffer;
mod created;
mod device;
mod instance;
mod loss;
mod offers;
mod pipeline;
mod readback;
mod room;

pub use buffer::{ALIGNMENT, Allocated, Slice, padded, split_rows};
pub use created::Created;
pub(crate) use device::lock;
pub use device::{Device, Spent, WANTED_FEATURES, adapters};
pub use loss::Identity;
pub use pipeline::{Pipeline, compile_all};
pub use readback::Readback;
pub use room::Room;
