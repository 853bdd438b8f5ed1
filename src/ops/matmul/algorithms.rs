//! The algorithms that multiply, each for weights in any [format](crate::kernel::algorithm). Which of them is for what, and how one is
//! chosen, is in [`super::variants`].

use super::arithmetic;
use super::launch::{GeneralParams, Params, SumParams};
use crate::kernel::algorithm::{Algorithm, Loads};
use crate::kernel::{Kernel, Needs};
use crate::storage::DType;

/// CPU drivers with subgroups of exactly 8, and loads of 8 bytes.
pub(super) const SUBGROUP8: Needs = Needs::SUBGROUP8;

/// An algorithm that takes [`Params`]: its name, the file of `main`, what fills the slots besides the weights.
pub(super) const fn algorithm(
    name: &'static str,
    shader: &'static str,
    slots: &'static [(&'static str, &'static str)],
    loads: Loads,
    needs: Needs,
) -> Algorithm {
    let kernel = Kernel { name, shader, slots, constants: &[], params: Params::FIELDS, needs, unchecked: true };
    Algorithm { kernel, loads }
}

/// The only one that takes [`GeneralParams`].
const fn general(name: &'static str, slots: &'static [(&'static str, &'static str)]) -> Algorithm {
    let (constants, params, needs) = (&[], GeneralParams::FIELDS, Needs::NONE);
    let kernel = Kernel { name, shader: "matmul_general", slots, constants, params, needs, unchecked: false };
    Algorithm { kernel, loads: Loads::Elements }
}

pub(super) static GENERAL: Algorithm = general("matmul_general", &[WHOLE]);

/// Adds up the parts of a product whose k is split.
pub(super) static SUM_PARTS: Kernel = Kernel::plain("matmul_sum_parts", SumParams::FIELDS);

const PLAIN: (&str, &str) = ("activations", "activations_f32");
const WIDE: (&str, &str) = ("activations", "activations_f32_wide");
const WIDEST: (&str, &str) = ("activations", "activations_f32_widest");
const PRODUCT: (&str, &str) = ("low_rank", "no_low_rank");
/// One product of all rows, or one for each expert.
pub(super) const WHOLE: (&str, &str) = ("product", "whole_product");
const OF_EXPERTS: (&str, &str) = ("product", "expert_product");
const LOW_RANK: (&str, &str) = ("low_rank", "low_rank");

pub(super) static REGISTER: Algorithm =
    algorithm("matmul_register", "matmul_register", &[PLAIN, WHOLE], Loads::Elements, Needs::NONE);
pub(super) static TILED: Algorithm = algorithm(
    "matmul_tiled",
    "matmul_tiled",
    &[PLAIN, WHOLE, ("tile", "tile_f32"), ("tile_operands", "tile_operands")],
    Loads::Elements,
    Needs::NONE,
);
pub(super) static TILED_LOW_RANK: Algorithm = algorithm(
    "matmul_tiled_low_rank",
    "matmul_tiled",
    &[PLAIN, WHOLE, ("tile", "tile_f32"), ("tile_operands", "tile_operands_low_rank")],
    Loads::Elements,
    Needs::NONE,
);
/// Of parts of k, which [`SUM_PARTS`] adds up.
pub(super) static TILED_SPLIT: Algorithm = algorithm(
    "matmul_tiled_split",
    "matmul_tiled",
    &[PLAIN, ("product", "split_product"), ("tile", "tile_f32"), ("tile_operands", "tile_operands")],
    Loads::Elements,
    Needs::NONE,
);
pub(super) static NARROW: Algorithm = algorithm("matmul_narrow", "matmul_narrow", &[PLAIN, WHOLE], Loads::Elements, Needs::NONE);
/// Of two f32 operands that both lie by k.
pub(super) static OUTER: Algorithm = algorithm("matmul_outer", "matmul_outer", &[PLAIN, WHOLE], Loads::Elements, Needs::NONE);
/// [`NARROW`] and [`OUTER`] for up to three products at once, of which each has a b of its own, or an a.
pub(super) static NARROW_OF_THREE: Kernel =
    of_three("matmul_narrow_of_three", "matmul_narrow", &[PLAIN, OWN_WEIGHTS, OF_THREE, OUTS]);
pub(super) static OUTER_OF_THREE: Kernel =
    of_three("matmul_outer_of_three", "matmul_outer", &[OWN_ACTIVATIONS, ("weights", "weights_f32"), OF_THREE, OUTS]);

const OWN_ACTIVATIONS: (&str, &str) = ("activations", "activations_f32_of_three");
const OWN_WEIGHTS: (&str, &str) = ("weights", "weights_f32_of_three");
const OF_THREE: (&str, &str) = ("product", "product_of_three");
const OUTS: (&str, &str) = ("out", "three_outs");

const fn of_three(name: &'static str, shader: &'static str, slots: &'static [(&'static str, &'static str)]) -> Kernel {
    algorithm(name, shader, slots, Loads::Elements, Needs::NONE).kernel
}

pub(super) static MATVEC: Algorithm = algorithm(
    "matmul_matvec",
    "matmul_matvec",
    &[PLAIN, WHOLE, ("lane_sum", "lane_sum_workgroup")],
    Loads::Elements,
    Needs::NONE,
);

pub(super) static SUBGROUP8_TILE: Algorithm =
    algorithm("matmul_subgroup8", "matmul_subgroup8", &[WIDE, WHOLE, PRODUCT], Loads::WideElements, SUBGROUP8);
pub(super) static SUBGROUP8_TILE_LOW_RANK: Algorithm =
    algorithm("matmul_subgroup8_low_rank", "matmul_subgroup8", &[WIDE, WHOLE, LOW_RANK], Loads::WideElements, SUBGROUP8);
pub(super) static SUBGROUP8_MATVEC: Algorithm = Algorithm {
    kernel: Kernel {
        constants: &[("LANES", 8.0)],
        ..algorithm(
            "matmul_matvec_subgroup8",
            "matmul_matvec",
            &[WIDE, WHOLE, ("lane_sum", "lane_sum_subgroup")],
            Loads::WideElements,
            SUBGROUP8,
        )
        .kernel
    },
    loads: Loads::WideElements,
};

pub(super) static SUBGROUP8_BLOCKS: Algorithm = algorithm(
    "matmul_subgroup8_blocks",
    "matmul_subgroup8_blocks",
    &[WIDEST, WHOLE, PRODUCT],
    Loads::BlocksOfManyBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_LOW_RANK: Algorithm = algorithm(
    "matmul_subgroup8_blocks_low_rank",
    "matmul_subgroup8_blocks",
    &[WIDEST, WHOLE, LOW_RANK],
    Loads::BlocksOfManyBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_WHOLE: Algorithm = algorithm(
    "matmul_subgroup8_blocks_whole",
    "matmul_subgroup8_blocks_whole",
    &[WIDE, WHOLE, PRODUCT],
    Loads::BlocksOfFewBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_WHOLE_LOW_RANK: Algorithm = algorithm(
    "matmul_subgroup8_blocks_whole_low_rank",
    "matmul_subgroup8_blocks_whole",
    &[WIDE, WHOLE, LOW_RANK],
    Loads::BlocksOfFewBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_BY_K: Algorithm =
    algorithm("matmul_subgroup8_blocks_by_k", "matmul_subgroup8_blocks_by_k", &[WIDE, WHOLE, PRODUCT], Loads::Blocks, SUBGROUP8);
pub(super) static SUBGROUP8_BLOCKS_BY_K_LOW_RANK: Algorithm = algorithm(
    "matmul_subgroup8_blocks_by_k_low_rank",
    "matmul_subgroup8_blocks_by_k",
    &[WIDE, WHOLE, LOW_RANK],
    Loads::Blocks,
    SUBGROUP8,
);
pub(super) static MATVEC_BLOCKS: Algorithm =
    algorithm("matmul_matvec_blocks", "matmul_matvec_blocks", &[WIDE, WHOLE, PRODUCT], Loads::Blocks, SUBGROUP8);
pub(super) static MATVEC_BLOCKS_LOW_RANK: Algorithm =
    algorithm("matmul_matvec_blocks_low_rank", "matmul_matvec_blocks", &[WIDE, WHOLE, LOW_RANK], Loads::Blocks, SUBGROUP8);

/// The same algorithms with a product for each expert; see [`super::experts`].
pub(super) static GENERAL_EXPERTS: Algorithm = general("matmul_general_experts", &[OF_EXPERTS]);
pub(super) static REGISTER_EXPERTS: Algorithm =
    algorithm("matmul_register_experts", "matmul_register", &[PLAIN, OF_EXPERTS], Loads::Elements, Needs::NONE);
pub(super) static TILED_EXPERTS: Algorithm = algorithm(
    "matmul_tiled_experts",
    "matmul_tiled",
    &[PLAIN, OF_EXPERTS, ("tile", "tile_f32"), ("tile_operands", "tile_operands")],
    Loads::Elements,
    Needs::NONE,
);
pub(super) static SUBGROUP8_TILE_EXPERTS: Algorithm =
    algorithm("matmul_subgroup8_experts", "matmul_subgroup8", &[WIDE, OF_EXPERTS, PRODUCT], Loads::WideElements, SUBGROUP8);
pub(super) static SUBGROUP8_BLOCKS_EXPERTS: Algorithm = algorithm(
    "matmul_subgroup8_blocks_experts",
    "matmul_subgroup8_blocks",
    &[WIDEST, OF_EXPERTS, PRODUCT],
    Loads::BlocksOfManyBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_WHOLE_EXPERTS: Algorithm = algorithm(
    "matmul_subgroup8_blocks_whole_experts",
    "matmul_subgroup8_blocks_whole",
    &[WIDE, OF_EXPERTS, PRODUCT],
    Loads::BlocksOfFewBits,
    SUBGROUP8,
);
pub(super) static SUBGROUP8_BLOCKS_BY_K_EXPERTS: Algorithm = algorithm(
    "matmul_subgroup8_blocks_by_k_experts",
    "matmul_subgroup8_blocks_by_k",
    &[WIDE, OF_EXPERTS, PRODUCT],
    Loads::Blocks,
    SUBGROUP8,
);

/// Every kernel that may be chosen.
pub fn kernels() -> Vec<&'static Kernel> {
    let of_elements = [&GENERAL, &SUBGROUP8_TILE, &SUBGROUP8_MATVEC, &REGISTER, &TILED, &TILED_SPLIT, &NARROW, &MATVEC];
    let of_blocks = [&SUBGROUP8_BLOCKS, &SUBGROUP8_BLOCKS_WHOLE, &SUBGROUP8_BLOCKS_BY_K, &MATVEC_BLOCKS];
    let of_all = of_elements.into_iter().chain(of_blocks).chain(arithmetic::algorithms());
    of_all.flat_map(|algorithm| algorithm.kernels()).chain(OUTER.with(DType::F32)).chain([&SUM_PARTS]).collect()
}

/// Those of them that add a low-rank term as well.
pub(super) fn low_rank_kernels() -> Vec<&'static Kernel> {
    let algorithms = [
        &SUBGROUP8_TILE_LOW_RANK,
        &TILED_LOW_RANK,
        &SUBGROUP8_BLOCKS_LOW_RANK,
        &SUBGROUP8_BLOCKS_WHOLE_LOW_RANK,
        &SUBGROUP8_BLOCKS_BY_K_LOW_RANK,
        &MATVEC_BLOCKS_LOW_RANK,
    ];
    algorithms.into_iter().flat_map(|algorithm| algorithm.kernels()).collect()
}

/// Those for up to three products at once.
pub(super) fn together_kernels() -> Vec<&'static Kernel> {
    vec![&NARROW_OF_THREE, &OUTER_OF_THREE]
}

/// Those with a product for each expert.
pub(super) fn expert_kernels() -> Vec<&'static Kernel> {
    let algorithms = [
        &GENERAL_EXPERTS,
        &REGISTER_EXPERTS,
        &TILED_EXPERTS,
        &SUBGROUP8_BLOCKS_EXPERTS,
        &SUBGROUP8_BLOCKS_WHOLE_EXPERTS,
        &SUBGROUP8_BLOCKS_BY_K_EXPERTS,
    ];
    // Blocks have kernels of their own, and no measurement chooses for experts.
    let of_elements = DType::WEIGHTS.into_iter().filter(|dtype| dtype.block() == 1);
    let tiles = of_elements.filter_map(|dtype| SUBGROUP8_TILE_EXPERTS.with(dtype));
    algorithms.into_iter().flat_map(|algorithm| algorithm.kernels()).chain(tiles).collect()
}
