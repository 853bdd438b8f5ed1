//! The *where* of a computation: an adapter, opened, with three parts that it owns: its memory (`buffer`, `readback`), the kernels compiled
//! for it (`pipeline`, `ahead`), and what it reports, up to its loss (`loss`).

mod ahead;
mod buffer;
mod created;
mod device;
mod instance;
mod loss;
mod offers;
mod pipeline;
mod readback;
mod room;

pub use ahead::Wanted;
pub use buffer::{ALIGNMENT, Allocated, Slice, padded, split_rows};
pub use created::Created;
pub(crate) use device::lock;
pub use device::{Device, Spent, WANTED_FEATURES, adapters, kind, number_for};
pub use loss::Identity;
pub use pipeline::{Pipeline, compile_all};
pub use readback::Readback;
pub use room::Room;
