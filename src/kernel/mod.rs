//! What a kernel is, and which facts of a device decide between kernels. There is no device here.
//!
//! * this page: [`Kernel`], WGSL in real files, with the parameter struct it expects and the features it needs; [`Facts`];
//! * [`shader`]: files composed; [`algorithm`]: kernels composed with the loader of a weight's format;
//! * [`reflect`]: what a kernel's WGSL says of itself.

pub mod algorithm;
mod arithmetic;
pub mod reflect;
pub mod shader;
mod tuning;

pub use arithmetic::{Arithmetic, Matrices};
pub use tuning::{Class, Layout, Tuning};

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
}

impl Facts {
    /// Subgroups may have fewer than 32 invocations, as on GPUs of Intel: there a subgroup has a fixed number of registers, so that how many an
    /// invocation wants decides how wide its subgroup is, and of many sums in an invocation some are kept in memory.
    pub fn has_narrow_subgroups(&self) -> bool {
        self.subgroup.is_some_and(|(smallest, _)| smallest < 32)
    }
}

/// A compute kernel. Its WGSL is a file of `shaders/` with all parts that this names ([`shader`]), its entry point `main`, its
/// parameters a uniform struct at binding 0 and its matrices storage buffers at bindings 1, 2, ...
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Unique; the stem of its main .wgsl file, with a suffix where variants share one.
    pub name: &'static str,
    /// Stem of the file with `main`: `shaders/<shader>.wgsl`.
    pub shader: &'static str,
    /// What fills the slots of the file and its parts, by their stems: `("weights", "weights_q4_1")`.
    pub slots: &'static [(&'static str, &'static str)],
    /// Values of `override` constants.
    pub constants: &'static [(&'static str, f64)],
    /// Fields of the parameter struct, compared with the shader's by reflection.
    pub params: &'static [ParamField],
    pub needs: Needs,
    /// Compile without the run-time bounds checks that wgpu adds: only for kernels whose every index is in range by construction,
    /// which the guard-word tests show.
    pub unchecked: bool,
}

impl Kernel {
    /// The kernel in `shaders/<name>.wgsl`, which runs on every device and whose every index is in range by construction.
    pub const fn plain(name: &'static str, params: &'static [ParamField]) -> Self {
        Self { name, shader: name, slots: &[], constants: &[], params, needs: Needs::NONE, unchecked: true }
    }

    /// [`Kernel::plain`] with an index that comes from a buffer, or is not shown to be in range: each is checked.
    pub const fn checked(name: &'static str, params: &'static [ParamField]) -> Self {
        Self { unchecked: false, ..Self::plain(name, params) }
    }
}

/// What a kernel asks of the device beyond WebGPU's defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// A driver that runs on the CPU: on a GPU the kernel would be right, and slow.
    pub cpu_driver: bool,
    /// Subgroup operations, with exactly this subgroup size.
    pub subgroup_size: Option<u32>,
    /// 64-bit integers in shaders.
    pub int64: bool,
    /// f16 arithmetic in shaders.
    pub f16: bool,
    /// Cooperative matrices of this kind, and subgroups of any size.
    pub cooperative: Option<Matrices>,
}

impl Needs {
    /// For every device.
    pub const NONE: Self = Self { cpu_driver: false, subgroup_size: None, int64: false, f16: false, cooperative: None };

    /// A CPU driver, where loads of 8 bytes pay.
    pub const WIDE_LOADS: Self = Self { cpu_driver: true, int64: true, ..Self::NONE };

    /// The same with subgroups of 8, such as lavapipe.
    pub const SUBGROUP8: Self = Self { subgroup_size: Some(8), ..Self::WIDE_LOADS };

    /// Is the kernel one for such a device?
    pub fn met_by(&self, facts: &Facts) -> bool {
        (!self.cpu_driver || facts.cpu_driver)
            && self.subgroup_size.is_none_or(|size| facts.subgroup == Some((size, size)))
            && (!self.int64 || facts.int64)
            && (!self.f16 || facts.f16)
            && (self.cooperative.is_none() || (facts.cooperative == self.cooperative && facts.subgroup.is_some()))
    }
}

/// One field of a parameter struct.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParamField {
    pub name: &'static str,
    /// "u32" or "f32".
    pub scalar: &'static str,
    /// Bytes from the struct's start.
    pub offset: usize,
}

/// Declares a parameter struct of `u32` and `f32` fields, and its field table for the comparison with the shader.
#[macro_export]
macro_rules! kernel_params {
    ($(#[$meta:meta])* $vis:vis $name:ident { $($field:ident: $scalar:ident),+ $(,)? }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name { $($vis $field: $scalar),+ }
        impl $name {
            $vis const FIELDS: &'static [$crate::kernel::ParamField] = &[$($crate::kernel::ParamField {
                name: stringify!($field),
                scalar: stringify!($scalar),
                offset: std::mem::offset_of!($name, $field),
            }),+];
            $vis fn bytes(&self) -> Vec<u8> { bytemuck::bytes_of(self).to_vec() }
        }
    };
}
