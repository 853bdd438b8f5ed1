//! The *where* of a computation: adapter, limits, buffers, compiled kernels.

pub mod algorithm;
mod arithmetic;
mod buffer;
mod created;
mod device;
mod instance;
pub mod kernel;
mod loss;
mod pipeline;
mod readback;
pub mod reflect;
mod room;
pub mod shader;

pub use arithmetic::{Arithmetic, Matrices};
pub use buffer::{ALIGNMENT, Allocated, Slice, padded, split_rows};
pub use created::Created;
pub(crate) use device::lock;
pub use device::{Device, Spent, WANTED_FEATURES, adapters};
pub use loss::Identity;
pub use pipeline::{Pipeline, compile_all};
pub use readback::Readback;
pub use room::Room;

use crate::ops::matmul::Tuning;

/// What the choice of kernels may depend on; by default what every WebGPU device offers, and no more.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// A driver that runs on the CPU (lavapipe, SwiftShader, WARP): barriers are dear, caches are large.
    pub cpu_driver: bool,
    /// Smallest and largest subgroup size, where subgroup operations are offered.
    pub subgroup: Option<(u32, u32)>,
    /// 64-bit integers in shaders.
    pub int64: bool,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Cooperative matrices, of the kind that is preferred of those that are offered; only where the device was opened for them.
    pub cooperative: Option<Matrices>,
    /// What the large products are to be computed in.
    pub arithmetic: Arithmetic,
    /// Forms of matmul that were measured to be fast on this very device; see [`crate::plan::autotune`].
    pub tuning: Tuning,
}
