//! `--matmul`: the arithmetic of the large matrix products.
//!
//! | arithmetic | operands | products | sums | computes |
//! |---|---|---|---|---|
//! | f32 | f32 | f32 | f32 | all |
//! | f16 | f16, with a scale for each block | 8 summed in f16 | f32 | forward, and the gradients of inputs |
//! | cooperative | f16 (f32 where matrices take no f16), with a scale for each row of a gradient | exact | f32 | forward, and the gradients of inputs |
//! | auto | as f32 or as cooperative, whichever is faster | | | forward, and the gradients of inputs |
//!
//! Gradients are small: those of the logits of 1,000 supervised tokens and 49,152 words are 4e-8 in the mean, and f16 has nothing below 6e-8.
//! So f16 scales its blocks, and cooperative the rows of gradients. In both, products that are too small to gain anything stay in f32, and so do
//! the gradients of adapters; see [`crate::ops::matmul`].

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The arithmetic of the large matrix products.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Exact to about 1e-6; runs everywhere
    #[default]
    F32,
    /// f16 operands with a scale for each block, forward and gradients of inputs: products are off by about 0.06 %. Half the workgroup memory
    /// traffic, and more multiply-adds an instruction on GPUs with packed f16; slow on drivers that run on the CPU, not yet timed on a
    /// GPU. Needs f16 in shaders
    F16,
    /// The GPU's matrix units (tensor cores), forward and gradients of inputs: products are off by about 0.03 %, and activations above
    /// 65504 count as 65504. Slow on drivers that run on the CPU, not yet timed on a GPU. Needs a driver with cooperative matrices, an
    /// experimental feature of wgpu
    Cooperative,
    /// As f32 or as cooperative, for each kind of product whichever is faster as measured on this GPU; f32 for all where it has no matrix
    /// units that graftling knows
    Auto,
}

impl Arithmetic {
    /// What `--matmul` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Cooperative => "cooperative",
            Self::Auto => "auto",
        }
    }

    /// May products go to cooperative matrices?
    pub const fn wants_matrices(self) -> bool {
        matches!(self, Self::Cooperative | Self::Auto)
    }
}

/// A kind of cooperative matrices: squares that a subgroup multiplies together, summed in f32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Matrices {
    /// 16 x 16, operands in f16.
    F16x16,
    /// 8 x 8, operands in f16.
    F16x8,
    /// 8 x 8, operands in f32.
    F32x8,
}

impl Matrices {
    /// All kinds that there are kernels for, the preferred first.
    pub const ALL: [Self; 3] = [Self::F16x16, Self::F16x8, Self::F32x8];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16x16 => "16x16 f16",
            Self::F16x8 => "8x8 f16",
            Self::F32x8 => "8x8 f32",
        }
    }

    /// Are the operands f16?
    pub const fn takes_f16(self) -> bool {
        !matches!(self, Self::F32x8)
    }
}
