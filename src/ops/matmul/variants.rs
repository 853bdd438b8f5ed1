//! The kernels that multiply, and the rule by which one is chosen.
//!
//! | family | for | tile |
//! |---|---|---|
//! | subgroup8 | CPU drivers with subgroups of 8 (lavapipe) | 16 x 32 or 8 x 32 in registers; 32 x 16, 32 x 8 where `n` is small |
//! | register | other CPU drivers | 8 x 8 in registers |
//! | tiled | GPUs | 64 x 64 by way of workgroup memory; 16 x 64, 64 x 16 where `m` or `n` is small |
//! | narrow | GPUs, few columns or rows and a long `k` | 4 x 8, lanes along `k` |
//! | matvec | one row of `a` (generation) | 8 columns, lanes along `k` |
//! | general | sizes that are no multiples of 4 | 4 x 4 |
//!
//! The choice depends on static facts only, as [`Op::launch`](crate::ops::Op::launch) demands: on the largest `m` where rows are counted anew
//! for each run.

use super::Layout;
use super::launch::{GeneralParams, Params};
use crate::gpu::Facts;
use crate::gpu::kernel::{Kernel, Needs};
use crate::graph::DType;

/// The kernels of a family, by the storage of the weights, in the order of [`DType::WEIGHTS`].
type Family = [Kernel; 5];

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
                include_str!(concat!("../../../shaders/common/weights_", $dtype, $loads, ".wgsl")),
                $(include_str!(concat!("../../../shaders/", $file, ".wgsl"))),+
            ],
            constants: $constants,
            params: <$params>::FIELDS,
            needs: $needs,
            unchecked: $unchecked,
        }
    };
}

/// Subgroups of exactly 8, and loads of 8 bytes.
const SUBGROUP8: Needs = Needs { subgroup_size: Some(8), int64: true, f16: false };

static GENERAL: Family = family!("matmul_general", "", GeneralParams, Needs::NONE, false, &[], ["matmul_general"]);

static SUBGROUP8_TILE: Family = family!(
    "matmul_subgroup8",
    "_wide",
    Params,
    SUBGROUP8,
    true,
    &[],
    [
        "common/activations_f32_wide",
        "common/matmul_io",
        "common/matmul_operands",
        "common/eight_rows",
        "common/no_low_rank",
        "matmul_subgroup8"
    ]
);

static SUBGROUP8_TILE_LOW_RANK: Family = family!(
    "matmul_subgroup8_low_rank",
    "_wide",
    Params,
    SUBGROUP8,
    true,
    &[],
    [
        "common/activations_f32_wide",
        "common/matmul_io",
        "common/matmul_operands",
        "common/eight_rows",
        "common/low_rank",
        "matmul_subgroup8"
    ]
);

/// The kernels of a family that is for block-quantised weights only: for q8_0, q4_1.
type BlockFamily = [Kernel; 2];

macro_rules! block_family {
    ($name:literal, [$($file:literal),+]) => {
        [
            family!(@one $name, "q8_0", "", Params, SUBGROUP8, true, &[], [
                "common/activations_f32_wide", "common/matmul_io", "common/matmul_operands", "common/eight_rows", $($file),+
            ]),
            family!(@one $name, "q4_1", "", Params, SUBGROUP8, true, &[], [
                "common/activations_f32_wide", "common/matmul_io", "common/matmul_operands", "common/eight_rows", $($file),+
            ]),
        ]
    };
}

static SUBGROUP8_BLOCKS: BlockFamily =
    block_family!("matmul_subgroup8_blocks", ["common/no_low_rank", "matmul_subgroup8_blocks"]);

static SUBGROUP8_BLOCKS_LOW_RANK: BlockFamily =
    block_family!("matmul_subgroup8_blocks_low_rank", ["common/low_rank", "matmul_subgroup8_blocks"]);

static SUBGROUP8_BLOCKS_BY_K: BlockFamily =
    block_family!("matmul_subgroup8_blocks_by_k", ["common/no_low_rank", "matmul_subgroup8_blocks_by_k"]);

static SUBGROUP8_BLOCKS_BY_K_LOW_RANK: BlockFamily =
    block_family!("matmul_subgroup8_blocks_by_k_low_rank", ["common/low_rank", "matmul_subgroup8_blocks_by_k"]);

static SUBGROUP8_MATVEC: Family = family!(
    "matmul_matvec_subgroup8",
    "_wide",
    Params,
    SUBGROUP8,
    true,
    &[("LANES", 8.0)],
    ["common/activations_f32_wide", "common/matmul_io", "common/matmul_operands", "common/lane_sum_subgroup", "matmul_matvec"]
);

static REGISTER: Family = family!(
    "matmul_register",
    "",
    Params,
    Needs::NONE,
    true,
    &[],
    ["common/activations_f32", "common/matmul_io", "common/matmul_operands", "common/eight_rows", "matmul_register"]
);

static TILED: Family = family!(
    "matmul_tiled",
    "",
    Params,
    Needs::NONE,
    true,
    &[],
    ["common/activations_f32", "common/matmul_io", "common/matmul_operands", "matmul_tiled"]
);

static NARROW: Family = family!(
    "matmul_narrow",
    "",
    Params,
    Needs::NONE,
    true,
    &[],
    ["common/activations_f32", "common/matmul_io", "common/matmul_operands", "matmul_narrow"]
);

static MATVEC: Family = family!(
    "matmul_matvec",
    "",
    Params,
    Needs::NONE,
    true,
    &[],
    ["common/activations_f32", "common/matmul_io", "common/matmul_operands", "common/lane_sum_workgroup", "matmul_matvec"]
);

/// Every kernel that may be chosen.
pub fn kernels() -> Vec<&'static Kernel> {
    let families = [&GENERAL, &SUBGROUP8_TILE, &SUBGROUP8_MATVEC, &REGISTER, &TILED, &NARROW, &MATVEC];
    families.into_iter().flatten().chain(&SUBGROUP8_BLOCKS).chain(&SUBGROUP8_BLOCKS_BY_K).collect()
}

/// Those of them that add a low-rank term as well.
pub(super) fn low_rank_kernels() -> Vec<&'static Kernel> {
    let blocks = [&SUBGROUP8_BLOCKS_LOW_RANK, &SUBGROUP8_BLOCKS_BY_K_LOW_RANK];
    SUBGROUP8_TILE_LOW_RANK.iter().chain(blocks.into_iter().flatten()).collect()
}

/// Which output a workgroup computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grid {
    /// `[rows, columns]` a workgroup; tiles of rows along x, of columns along y.
    Tiles([usize; 2]),
    /// Blocks of this many rows and columns, one an invocation, 64 a workgroup.
    Blocks(usize),
}

/// A kernel, specialised.
pub(super) struct Variant {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    pub grid: Grid,
    /// The kernel takes [`GeneralParams`].
    pub general: bool,
    /// The same kernel with a low-rank term, if there is one.
    pub low_rank: Option<&'static Kernel>,
}

/// What the choice of a variant depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub layout: Layout,
    /// The most rows that out can have.
    pub m: usize,
    pub n: usize,
    /// The longest that a sum can be.
    pub k: usize,
    /// Storage of b.
    pub dtype: DType,
    /// Starts and lengths of all rows are multiples of 4 elements.
    pub aligned: bool,
}

/// Workgroups that a dimension of a dispatch may have.
const MOST_WORKGROUPS: usize = 65_535;

impl Variant {
    pub(super) fn choose(problem: &Problem, facts: &Facts) -> Self {
        let fast = if problem.aligned { Self::choose_aligned(problem, facts) } else { Self::general(problem) };
        match fast.grid {
            Grid::Tiles([rows, columns]) if problem.m.div_ceil(rows).max(problem.n.div_ceil(columns)) > MOST_WORKGROUPS => {
                Self::general(problem)
            }
            _ => fast,
        }
    }

    fn general(problem: &Problem) -> Self {
        Self {
            kernel: &GENERAL[of_dtype(problem.dtype)],
            constants: vec![],
            grid: Grid::Blocks(4),
            general: true,
            low_rank: None,
        }
    }

    fn choose_aligned(problem: &Problem, facts: &Facts) -> Self {
        let Problem { layout, m, n, k, dtype, .. } = *problem;
        let matvec = layout == Layout::NT && m == 1;
        if SUBGROUP8.met_by(facts) {
            return match (m, n) {
                _ if matvec => Self::of(&SUBGROUP8_MATVEC, problem, &[], Grid::Tiles([1, 8])),
                _ if dtype.block() > 1 => Self::blocks(problem),
                (9.., ..=8) => Self::tile(problem, &[("SWAPPED", 1.0), ("SPREAD_ROWS", 8.0)], [32, 8]),
                (9.., ..=16) => Self::tile(problem, &[("SWAPPED", 1.0)], [32, 16]),
                (..=8, _) => Self::tile(problem, &[("SPREAD_ROWS", 8.0)], [8, 32]),
                _ => Self::tile(problem, &[], [16, 32]),
            };
        }
        if facts.cpu_driver {
            return Self::of(&REGISTER, problem, &[], Grid::Blocks(8));
        }
        let lanes_fill = k >= 128;
        match layout {
            _ if matvec => Self::of(&MATVEC, problem, &[], Grid::Tiles([1, 8])),
            Layout::NT if m <= 4 && lanes_fill => Self::of(&NARROW, problem, &[], Grid::Tiles([4, 8])),
            Layout::NT | Layout::NN if n <= 16 && lanes_fill => Self::of(&NARROW, problem, &[], Grid::Tiles([4, 8])),
            _ if m <= 16 => Self::of(&TILED, problem, &small_tile(16.0, 4.0), Grid::Tiles([16, 64])),
            _ if n <= 16 => Self::of(&TILED, problem, &small_tile(4.0, 16.0), Grid::Tiles([64, 16])),
            _ => Self::of(&TILED, problem, &[], Grid::Tiles([64, 64])),
        }
    }

    fn tile(problem: &Problem, constants: &[(&'static str, f64)], tile: [usize; 2]) -> Self {
        let swapped = constants.iter().any(|(name, _)| *name == "SWAPPED");
        let low_rank = (!swapped).then_some(&SUBGROUP8_TILE_LOW_RANK[of_dtype(problem.dtype)]);
        Self { low_rank, ..Self::of(&SUBGROUP8_TILE, problem, constants, Grid::Tiles(tile)) }
    }

    /// b in blocks, which lie along k in NT and along n in NN.
    fn blocks(problem: &Problem) -> Self {
        let at =
            DType::WEIGHTS.iter().filter(|dtype| dtype.block() > 1).position(|dtype| *dtype == problem.dtype).unwrap_or_default();
        let by_layout = |normal: &'static BlockFamily, low_rank: &'static BlockFamily| (&normal[at], Some(&low_rank[at]));
        let (kernel, low_rank) = match problem.layout {
            Layout::NN => by_layout(&SUBGROUP8_BLOCKS_BY_K, &SUBGROUP8_BLOCKS_BY_K_LOW_RANK),
            _ => by_layout(&SUBGROUP8_BLOCKS, &SUBGROUP8_BLOCKS_LOW_RANK),
        };
        let (constants, tile) = match problem.layout {
            Layout::NN => (vec![("B_BY_K", 1.0)], [8, 64]),
            _ if problem.m <= 8 => (vec![("SPREAD_ROWS", 8.0)], [8, 32]),
            _ => (vec![], [16, 32]),
        };
        Self { kernel, constants, grid: Grid::Tiles(tile), general: false, low_rank }
    }

    fn of(family: &'static Family, problem: &Problem, constants: &[(&'static str, f64)], grid: Grid) -> Self {
        let layout: &[_] = match problem.layout {
            Layout::NT => &[],
            Layout::NN => &[("B_BY_K", 1.0)],
            Layout::TN => &[("A_BY_K", 1.0), ("B_BY_K", 1.0)],
        };
        let constants = [constants, layout].concat();
        Self { kernel: &family[of_dtype(problem.dtype)], constants, grid, general: false, low_rank: None }
    }
}

/// Place of a storage type in a [`Family`].
fn of_dtype(dtype: DType) -> usize {
    DType::WEIGHTS.iter().position(|known| *known == dtype).unwrap_or_default()
}

/// Constants of a tile in which an invocation computes 4 x 4.
fn small_tile(threads_x: f64, threads_y: f64) -> [(&'static str, f64); 5] {
    [("THREADS_X", threads_x), ("THREADS_Y", threads_y), ("ACROSS", 1.0), ("DOWN", 1.0), ("K_TILE", 32.0)]
}
