//! The *where* of a computation: adapter, limits, buffers, compiled kernels.

pub mod blocks;
mod buffer;
mod created;
mod device;
pub mod kernel;
mod pipeline;
mod readback;
pub mod reflect;

pub use buffer::{ALIGNMENT, Allocated, Slice, encode, padded, rounded};
pub use created::Created;
pub use device::{Device, Spent, WANTED_FEATURES, adapters};
pub use pipeline::{Pipeline, compile_all};
pub use readback::Readback;

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
}
