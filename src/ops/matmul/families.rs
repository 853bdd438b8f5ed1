//! The kernels that multiply: families of one algorithm, a kernel for each storage type of the weights. Which of them is for what, and how
//! one is chosen, is in [`super::variants`].

use super::arithmetic;
use super::launch::{GeneralParams, Params};
use crate::gpu::kernel::{Kernel, Needs};

/// The kernels of a family, by the storage of the weights, in the order of [`DType::WEIGHTS`](crate::graph::DType::WEIGHTS).
pub(super) type Family = [Kernel; 5];

/// A [`Family`]: its name, the suffix of the files that load f32, bf16 and f16, its parameters and needs, the files it consists of.
macro_rules! family {
    ($name:literal, $loads:literal, $params:ty, $needs:expr, $unchecked:literal, $constants:expr, [$($file:literal),+]) => {
        [
            family!(@one $name, "f32", $loads, $params, $needs, $unchecked, $constants, [$($file),+]),
            family!(@one $name, "bf16", $loads, $params, $needs, $unchecked, $constants, [$($file),+]),
            family!(@one $name, "f16", $loads, $params, $needs, $unchecked, $constants, [$($file),+]),
            family!(@one $name, "q8_0", "", $params, $needs, $unchecked, $constants, [$($file),+]),
            family!(@one $name, "q4_1", "", $params, $needs, $unchecked, $constants, [$($file),+]),
        ]
    };
    (@one $name:literal, $dtype:literal, $loads:literal, $params:ty, $needs:expr, $unchecked:literal, $constants:expr, [$($file:literal),+]) => {
        Kernel {
            name: concat!($name, "_", $dtype),
            sources: &[
                $(include_str!(concat!("../../../shaders/", $file, ".wgsl")),)+
                include_str!(concat!("../../../shaders/common/weights_", $dtype, $loads, ".wgsl"))
            ],
            constants: $constants,
            params: <$params>::FIELDS,
            needs: $needs,
            unchecked: $unchecked,
        }
    };
}

pub(super) use family;

/// Subgroups of exactly 8, and loads of 8 bytes.
pub(super) const SUBGROUP8: Needs = Needs { subgroup_size: Some(8), int64: true, ..Needs::NONE };

/// A family for subgroups of 8.
macro_rules! subgroup8_family {
    ($name:literal, $constants:expr, [$($file:literal),+]) => {
        family!($name, "_wide", Params, SUBGROUP8, true, $constants, [
            "common/wide_loads", "common/activations_f32_wide", "common/matmul_io", "common/matmul_operands", $($file),+
        ])
    };
}

/// A family that asks for nothing.
macro_rules! plain_family {
    ($name:literal, [$($file:literal),+]) => {
        family!($name, "", Params, Needs::NONE, true, &[], [
            "common/activations_f32", "common/matmul_io", "common/matmul_operands", $($file),+
        ])
    };
}

pub(super) static GENERAL: Family = family!("matmul_general", "", GeneralParams, Needs::NONE, false, &[], ["matmul_general"]);
pub(super) static REGISTER: Family = plain_family!("matmul_register", ["common/eight_rows", "matmul_register"]);
pub(super) static TILED: Family = plain_family!("matmul_tiled", ["common/tile_operands", "common/tile_f32", "matmul_tiled"]);
pub(super) static TILED_LOW_RANK: Family =
    plain_family!("matmul_tiled_low_rank", ["common/tile_operands_low_rank", "common/tile_f32", "matmul_tiled"]);
pub(super) static NARROW: Family = plain_family!("matmul_narrow", ["matmul_narrow"]);
pub(super) static MATVEC: Family = plain_family!("matmul_matvec", ["common/lane_sum_workgroup", "matmul_matvec"]);

pub(super) static SUBGROUP8_TILE: Family = subgroup8_family!(
    "matmul_subgroup8",
    &[],
    ["common/eight_rows", "common/spread_rows", "common/no_low_rank", "matmul_subgroup8"]
);
pub(super) static SUBGROUP8_TILE_LOW_RANK: Family = subgroup8_family!(
    "matmul_subgroup8_low_rank",
    &[],
    ["common/eight_rows", "common/spread_rows", "common/low_rank", "matmul_subgroup8"]
);
pub(super) static SUBGROUP8_MATVEC: Family =
    subgroup8_family!("matmul_matvec_subgroup8", &[("LANES", 8.0)], ["common/lane_sum_subgroup", "matmul_matvec"]);

/// The kernels of a family that is for block-quantised weights only: for q8_0, q4_1.
pub(super) type BlockFamily = [Kernel; 2];

macro_rules! block_family {
    ($name:literal, $loads:literal, [$($file:literal),+]) => {
        [
            family!(@one $name, "q8_0", $loads, Params, SUBGROUP8, true, &[], [
                "common/wide_loads", "common/matmul_io", "common/matmul_operands", "common/eight_rows",
                "common/spread_rows", $($file),+
            ]),
            family!(@one $name, "q4_1", $loads, Params, SUBGROUP8, true, &[], [
                "common/wide_loads", "common/matmul_io", "common/matmul_operands", "common/eight_rows",
                "common/spread_rows", $($file),+
            ]),
        ]
    };
}

pub(super) static SUBGROUP8_BLOCKS: BlockFamily = block_family!(
    "matmul_subgroup8_blocks",
    "",
    ["common/activations_f32_widest", "common/no_low_rank", "matmul_subgroup8_blocks"]
);

pub(super) static SUBGROUP8_BLOCKS_LOW_RANK: BlockFamily = block_family!(
    "matmul_subgroup8_blocks_low_rank",
    "",
    ["common/activations_f32_widest", "common/low_rank", "matmul_subgroup8_blocks"]
);

pub(super) static SUBGROUP8_BLOCKS_BY_K: BlockFamily = block_family!(
    "matmul_subgroup8_blocks_by_k",
    "",
    ["common/activations_f32_wide", "common/no_low_rank", "matmul_subgroup8_blocks_by_k"]
);

pub(super) static SUBGROUP8_BLOCKS_BY_K_LOW_RANK: BlockFamily = block_family!(
    "matmul_subgroup8_blocks_by_k_low_rank",
    "",
    ["common/activations_f32_wide", "common/low_rank", "matmul_subgroup8_blocks_by_k"]
);

pub(super) static MATVEC_BLOCKS: BlockFamily = block_family!(
    "matmul_matvec_blocks",
    "_wide",
    ["common/activations_f32_wide", "common/spread_lanes", "common/no_low_rank", "matmul_matvec_blocks"]
);

pub(super) static MATVEC_BLOCKS_LOW_RANK: BlockFamily = block_family!(
    "matmul_matvec_blocks_low_rank",
    "_wide",
    ["common/activations_f32_wide", "common/spread_lanes", "common/low_rank", "matmul_matvec_blocks"]
);

/// Every kernel that may be chosen.
pub fn kernels() -> Vec<&'static Kernel> {
    let families = [&GENERAL, &SUBGROUP8_TILE, &SUBGROUP8_MATVEC, &REGISTER, &TILED, &NARROW, &MATVEC];
    let of_blocks = [&SUBGROUP8_BLOCKS, &SUBGROUP8_BLOCKS_BY_K, &MATVEC_BLOCKS].into_iter().flatten();
    families.into_iter().flatten().chain(of_blocks).chain(arithmetic::kernels()).collect()
}

/// Those of them that add a low-rank term as well.
pub(super) fn low_rank_kernels() -> Vec<&'static Kernel> {
    let blocks = [&SUBGROUP8_BLOCKS_LOW_RANK, &SUBGROUP8_BLOCKS_BY_K_LOW_RANK, &MATVEC_BLOCKS_LOW_RANK];
    [&SUBGROUP8_TILE_LOW_RANK, &TILED_LOW_RANK].into_iter().flatten().chain(blocks.into_iter().flatten()).collect()
}
