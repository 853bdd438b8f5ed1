//! What an adapter must offer for an arithmetic of the large products, and which cooperative matrices it offers.

use crate::kernel::{Arithmetic, Matrices};
use crate::{Error, Result};

impl Arithmetic {
    /// Features that a device is opened with for this and not otherwise.
    pub(super) fn features(self) -> wgpu::Features {
        if self.wants_matrices() { wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX } else { wgpu::Features::empty() }
    }

    /// What is left of it on this adapter: where there are no matrices to choose, there is nothing to choose.
    pub(super) fn on(self, adapter: &wgpu::Adapter) -> Self {
        if self == Self::Auto && Matrices::offered(adapter).is_empty() { Self::F32 } else { self }
    }

    /// That the adapter has what this needs.
    ///
    /// # Errors
    /// Bad input, saying what is missing.
    pub(super) fn check(self, adapter: &wgpu::Adapter) -> Result<()> {
        let missing = match self {
            Self::F32 | Self::Auto => return Ok(()),
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

impl Matrices {
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
