//! `--matmul`: the arithmetic of the large matrix products, and what a device must offer for it.
//!
//! | arithmetic | operands | products | sums | computes |
//! |---|---|---|---|---|
//! | f32 | f32 | f32 | f32 | all |
//! | f16 | f16, with a scale for each block | 8 summed in f16 | f32 | forward, and the gradients of inputs |
//! | cooperative | f16 (f32 where matrices take no f16) | exact | f32 | forward |
//!
//! Gradients are small: those of the logits of 1,000 supervised tokens and 49,152 words are 4e-8 in the mean, and f16 has nothing below 6e-8.
//! So f16 scales its blocks, and cooperative leaves gradients to f32. In both, products that are too small to gain anything stay in f32, and so do
//! the gradients of adapters; see [`crate::ops::matmul`].

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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
    /// The GPU's matrix units (tensor cores), forward pass alone, gradients stay f32: products are off by about 0.03 %, and activations above
    /// 65504 count as 65504. Slow on drivers that run on the CPU, not yet timed on a GPU. Needs a driver with cooperative matrices, an
    /// experimental feature of wgpu
    Cooperative,
}

impl Arithmetic {
    /// What `--matmul` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Cooperative => "cooperative",
        }
    }

    /// Features that a device is opened with for this and not otherwise.
    pub(super) fn features(self) -> wgpu::Features {
        match self {
            Self::F32 | Self::F16 => wgpu::Features::empty(),
            Self::Cooperative => wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX,
        }
    }

    /// That the adapter has what this needs.
    ///
    /// # Errors
    /// Bad input, saying what is missing.
    pub(super) fn check(self, adapter: &wgpu::Adapter) -> Result<()> {
        let missing = match self {
            Self::F32 => return Ok(()),
            Self::F16 if adapter.features().contains(wgpu::Features::SHADER_F16) => return Ok(()),
            Self::F16 => "f16 arithmetic in shaders".to_string(),
            Self::Cooperative if !Matrices::offered(adapter).is_empty() => return Ok(()),
            Self::Cooperative => {
                let known: Vec<&str> = Matrices::ALL.iter().map(|matrices| matrices.name()).collect();
                format!("cooperative matrices of a kind that graftling knows ({})", known.join("; "))
            }
        };
        let problem = format!("GPU `{}` does not offer {missing}", adapter.get_info().name);
        let proposal = "use --matmul f32, or another GPU or driver (`graftling doctor` lists what each offers)";
        Err(Error::bad_input(format!("--matmul {}", self.name()), problem, proposal))
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

    /// Those that the adapter offers, with all else that their kernels need, the preferred first.
    pub fn offered(adapter: &wgpu::Adapter) -> Vec<Self> {
        let (features, info) = (adapter.features(), adapter.get_info());
        let needed = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX | wgpu::Features::SUBGROUP;
        if !features.contains(needed) || info.subgroup_max_size > LARGEST_SUBGROUP {
            return Vec::new();
        }
        let kinds = adapter.cooperative_matrix_properties();
        let offers = |matrices: &Self| {
            (!matrices.takes_f16() || features.contains(wgpu::Features::SHADER_F16)) && kinds.iter().any(|kind| matrices.is(kind))
        };
        Self::ALL.into_iter().filter(offers).collect()
    }

    fn is(self, kind: &wgpu::CooperativeMatrixProperties) -> bool {
        use wgpu::CooperativeScalarType::{F16, F32};
        let (size, operands) = match self {
            Self::F16x16 => (16, F16),
            Self::F16x8 => (8, F16),
            Self::F32x8 => (8, F32),
        };
        [kind.m_size, kind.n_size, kind.k_size] == [size; 3] && (kind.ab_type, kind.cr_type) == (operands, F32)
    }
}

/// Four subgroups of this size make the largest workgroup that WebGPU promises.
const LARGEST_SUBGROUP: u32 = 64;
