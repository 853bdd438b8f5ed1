//! What can be chosen for a product: each of the [`algorithms`](super::algorithms) with the constants of a tile. Which one is, is in
//! [`super::variants`].

use super::algorithms::*;
use super::arithmetic;
use super::launch::{GeneralParams, Params};
use super::variants::Problem;
use crate::kernel::algorithm::Algorithm;
use crate::kernel::{Facts, Kernel, Layout};
use crate::ops::MOST_WORKGROUPS;

/// Which output a workgroup computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Grid {
    /// `[rows, columns]` a workgroup; tiles of rows along x, of columns along y.
    Tiles([usize; 2]),
    /// Blocks of this many rows and columns, one an invocation, 64 a workgroup.
    Blocks(usize),
}

impl Grid {
    /// Rows and columns that are computed together.
    pub fn block(self) -> [usize; 2] {
        match self {
            Self::Tiles(tile) => tile,
            Self::Blocks(size) => [size, size],
        }
    }
}

/// What can be chosen: an algorithm, specialised.
#[derive(Debug)]
pub(super) struct Form {
    /// What a tuning table calls it.
    pub id: &'static str,
    algorithm: &'static Algorithm,
    constants: &'static [(&'static str, f64)],
    grid: Grid,
    /// The only layout for which it is made.
    layout: Option<Layout>,
    /// The same algorithm with a low-rank term.
    pub low_rank: Option<&'static Algorithm>,
    /// The same algorithm with a product for each expert.
    experts: Option<&'static Algorithm>,
    /// The same for up to three products of f32 matrices at once.
    together: Option<&'static Kernel>,
    /// k is split over workgroups.
    splits: bool,
}

const fn form(id: &'static str, algorithm: &'static Algorithm, constants: &'static [(&'static str, f64)], grid: Grid) -> Form {
    Form { id, algorithm, constants, grid, layout: None, low_rank: None, experts: None, together: None, splits: false }
}

pub(super) const fn tiles(
    id: &'static str,
    algorithm: &'static Algorithm,
    constants: &'static [(&'static str, f64)],
    rows: usize,
    columns: usize,
) -> Form {
    form(id, algorithm, constants, Grid::Tiles([rows, columns]))
}

/// An algorithm for tiles of several sizes, and the same with a low-rank term and with a product for each expert.
struct Family {
    plain: &'static Algorithm,
    low_rank: &'static Algorithm,
    experts: &'static Algorithm,
    layout: Option<Layout>,
}

impl Family {
    const SUBGROUP8: Self =
        Self { plain: &SUBGROUP8_TILE, low_rank: &SUBGROUP8_TILE_LOW_RANK, experts: &SUBGROUP8_TILE_EXPERTS, layout: None };
    const BLOCKS: Self = Self {
        plain: &SUBGROUP8_BLOCKS,
        low_rank: &SUBGROUP8_BLOCKS_LOW_RANK,
        experts: &SUBGROUP8_BLOCKS_EXPERTS,
        layout: Some(Layout::NT),
    };
    const WHOLE_BLOCKS: Self = Self {
        plain: &SUBGROUP8_BLOCKS_WHOLE,
        low_rank: &SUBGROUP8_BLOCKS_WHOLE_LOW_RANK,
        experts: &SUBGROUP8_BLOCKS_WHOLE_EXPERTS,
        layout: Some(Layout::NT),
    };
    const BLOCKS_BY_K: Self = Self {
        plain: &SUBGROUP8_BLOCKS_BY_K,
        low_rank: &SUBGROUP8_BLOCKS_BY_K_LOW_RANK,
        experts: &SUBGROUP8_BLOCKS_BY_K_EXPERTS,
        layout: Some(Layout::NN),
    };
    const TILED: Self = Self { plain: &TILED, low_rank: &TILED_LOW_RANK, experts: &TILED_EXPERTS, layout: None };

    const fn tile(self, id: &'static str, constants: &'static [(&'static str, f64)], rows: usize, columns: usize) -> Form {
        let (low_rank, experts) = (Some(self.low_rank), Some(self.experts));
        Form { layout: self.layout, low_rank, experts, ..tiles(id, self.plain, constants, rows, columns) }
    }
}

pub(super) static ANY_SIZE: Form = form("general", &GENERAL, &[], Grid::Blocks(4)).with_experts(&GENERAL_EXPERTS);
pub(super) static SUBGROUP8_32X32: Form = Family::SUBGROUP8.tile("subgroup8_32x32", &[("SPREAD_ROWS", 32.0)], 32, 32);
pub(super) static SUBGROUP8_16X32: Form = Family::SUBGROUP8.tile("subgroup8_16x32", &[], 16, 32);
pub(super) static SUBGROUP8_8X32: Form = Family::SUBGROUP8.tile("subgroup8_8x32", &[("SPREAD_ROWS", 8.0)], 8, 32);
pub(super) static SUBGROUP8_32X16: Form =
    tiles("subgroup8_32x16", &SUBGROUP8_TILE, &[("SWAPPED", 1.0)], 32, 16).with_experts(&SUBGROUP8_TILE_EXPERTS);
pub(super) static SUBGROUP8_32X8: Form =
    tiles("subgroup8_32x8", &SUBGROUP8_TILE, &[("SWAPPED", 1.0), ("SPREAD_ROWS", 8.0)], 32, 8)
        .with_experts(&SUBGROUP8_TILE_EXPERTS);
pub(super) static SUBGROUP8_VECTOR: Form = tiles("matvec_subgroup8", &SUBGROUP8_MATVEC, &[], 1, 8);
pub(super) static BLOCKS_VECTOR: Form =
    tiles("matvec_blocks", &MATVEC_BLOCKS, &[], 1, 8).only(Layout::NT).with_low_rank(&MATVEC_BLOCKS_LOW_RANK);
pub(super) static BLOCKS_16X32: Form = Family::BLOCKS.tile("subgroup8_blocks_16x32", &[], 16, 32);
pub(super) static BLOCKS_8X32: Form = Family::BLOCKS.tile("subgroup8_blocks_8x32", &[("SPREAD_ROWS", 8.0)], 8, 32);
pub(super) static BLOCKS_32X32: Form = Family::BLOCKS.tile("subgroup8_blocks_32x32", &[("SPREAD_ROWS", 32.0)], 32, 32);
pub(super) static WHOLE_BLOCKS_8X64: Form =
    Family::WHOLE_BLOCKS.tile("subgroup8_blocks_whole_8x64", &[("SPREAD_ROWS", 8.0)], 8, 64);
pub(super) static WHOLE_BLOCKS_16X64: Form = Family::WHOLE_BLOCKS.tile("subgroup8_blocks_whole_16x64", &[], 16, 64);
pub(super) static BLOCKS_8X64: Form = Family::BLOCKS_BY_K.tile("subgroup8_blocks_8x64", &[("SPREAD_ROWS", 8.0)], 8, 64);
pub(super) static BLOCKS_16X64: Form = Family::BLOCKS_BY_K.tile("subgroup8_blocks_16x64", &[], 16, 64);
pub(super) static REGISTER_8X8: Form = form("register_8x8", &REGISTER, &[], Grid::Blocks(8)).with_experts(&REGISTER_EXPERTS);
pub(super) static TILED_64X64: Form = Family::TILED.tile("tiled_64x64", &[], 64, 64);
/// Four times the workgroups of 64 x 64: for products that would leave most of a GPU idle.
pub(super) static TILED_32X32: Form = Family::TILED.tile("tiled_32x32", &small_tile(8.0, 8.0), 32, 32);
/// Half the traffic of 64 x 64, with 256 invocations: for products that fill a large GPU.
pub(super) static TILED_128X128: Form =
    Family::TILED.tile("tiled_128x128", &[("THREADS_X", 16.0), ("THREADS_Y", 16.0)], 128, 128);
/// Between the two: what a weight's blocks cost to decode is paid once for 128 rows.
pub(super) static TILED_128X64: Form = Family::TILED.tile("tiled_128x64", &[("THREADS_Y", 16.0)], 128, 64);
/// Half the sums an invocation, in half the registers: twice the subgroups at once, or on Intel's GPUs subgroups of 16 where 8 fit.
pub(super) static TILED_64X64_OF_128: Form = Family::TILED.tile("tiled_64x64_of_128", &HALF_SUMS, 64, 64);
pub(super) static TILED_16X64: Form = Family::TILED.tile("tiled_16x64", &small_tile(16.0, 4.0), 16, 64);
pub(super) static TILED_64X16: Form = Family::TILED.tile("tiled_64x16", &small_tile(4.0, 16.0), 64, 16);
/// As many workgroups as a GPU needs where out has few tiles.
pub(super) static SPLIT_64X64: Form = Form { splits: true, ..tiles("split_64x64", &TILED_SPLIT, &[], 64, 64) };
pub(super) static NARROW_4X8: Form = tiles("narrow_4x8", &NARROW, &[], 4, 8).with_together(&NARROW_OF_THREE);
pub(super) static OUTER_32X8: Form = tiles("outer_32x8", &OUTER, &[], 32, 8).only(Layout::TN).with_together(&OUTER_OF_THREE);
pub(super) static OUTER_8X32: Form =
    tiles("outer_8x32", &OUTER, &[("SWAPPED", 1.0)], 8, 32).only(Layout::TN).with_together(&OUTER_OF_THREE);
pub(super) static VECTOR: Form = tiles("matvec", &MATVEC, &[], 1, 8);

impl Form {
    /// Made for this layout only.
    pub(super) const fn only(self, layout: Layout) -> Self {
        Self { layout: Some(layout), ..self }
    }

    /// With an algorithm that adds a low-rank term.
    const fn with_low_rank(self, algorithm: &'static Algorithm) -> Self {
        Self { low_rank: Some(algorithm), ..self }
    }

    /// With an algorithm that has a product for each expert.
    const fn with_experts(self, algorithm: &'static Algorithm) -> Self {
        Self { experts: Some(algorithm), ..self }
    }

    /// With a kernel for several products.
    const fn with_together(self, kernel: &'static Kernel) -> Self {
        Self { together: Some(kernel), ..self }
    }

    /// [`Form::variant`] with a product for each expert; `None` also where there is no such algorithm.
    pub(super) fn for_experts(&self, problem: &Problem, facts: &Facts) -> Option<Variant> {
        let variant = self.variant(problem, facts)?;
        let kernel = self.experts?.with(problem.dtype)?;
        Some(Variant { kernel, low_rank: None, ..variant })
    }

    /// The form as a problem takes it; `None` where it is not made for the problem's sizes, layout or storage. There is no other way to a
    /// [`Variant`], so a kernel that does not suit a problem cannot be dispatched for it.
    pub(super) fn variant(&self, problem: &Problem, facts: &Facts) -> Option<Variant> {
        let takes = Parameters::of(self.algorithm)?;
        let is_made_for =
            self.layout.is_none_or(|layout| layout == problem.layout) && (problem.aligned || takes == Parameters::General);
        let is_split = self.splits && problem.parts > 1;
        let kernel =
            self.algorithm.with(problem.dtype).filter(|_| is_made_for && self.reaches(problem) && is_split == self.splits)?;
        let layout: &[_] = match (takes, problem.layout) {
            // The general kernel reads any layout by its parameters.
            (Parameters::General, _) | (Parameters::Aligned, Layout::NT) => &[],
            (Parameters::Aligned, Layout::NN) => &[("B_BY_K", 1.0)],
            (Parameters::Aligned, Layout::TN) => &[("A_BY_K", 1.0), ("B_BY_K", 1.0)],
        };
        Some(Variant {
            kernel,
            constants: [self.constants, layout, arithmetic::device_constants(self.algorithm, facts).as_slice()].concat(),
            grid: self.grid,
            parameters: takes,
            low_rank: self.low_rank.and_then(|algorithm| algorithm.with(problem.dtype)),
            together: self.together,
            parts: if self.splits { problem.parts } else { 1 },
        })
    }

    /// It is right for the problem.
    pub(super) fn suits(&self, problem: &Problem) -> bool {
        self.variant(problem, &Facts::default()).is_some()
    }

    /// Tiles lie along two dimensions of the dispatch, each of which is bounded.
    fn reaches(&self, problem: &Problem) -> bool {
        let Grid::Tiles([rows, columns]) = self.grid else { return true };
        problem.m.div_ceil(rows).max(problem.n.div_ceil(columns)) <= MOST_WORKGROUPS
    }

    pub(super) fn is_on_matrices(&self) -> bool {
        self.algorithm.kernel.needs.cooperative.is_some()
    }

    /// Computes at most twice the outputs that are wanted.
    pub(super) fn wastes_little(&self, problem: &Problem) -> bool {
        let [rows, columns] = self.grid.block();
        problem.m.next_multiple_of(rows) * problem.n.next_multiple_of(columns) <= 2 * problem.m * problem.n
    }
}

/// Which parameter struct a kernel takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parameters {
    /// [`GeneralParams`]: any sizes, layouts by strides.
    General,
    /// [`Params`]: multiples of 4.
    Aligned,
}

impl Parameters {
    /// `None` for an algorithm that does not multiply.
    fn of(algorithm: &Algorithm) -> Option<Self> {
        match algorithm.kernel.params {
            fields if fields == GeneralParams::FIELDS => Some(Self::General),
            fields if fields == Params::FIELDS => Some(Self::Aligned),
            _ => None,
        }
    }
}

/// A kernel, specialised for a problem; made by [`Form::variant`] alone.
pub(super) struct Variant {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
    pub grid: Grid,
    pub parameters: Parameters,
    /// The same kernel with a low-rank term, if there is one.
    pub low_rank: Option<&'static Kernel>,
    /// The same kernel for up to three products at once, if there is one.
    pub together: Option<&'static Kernel>,
    /// Parts of k that workgroups sum side by side.
    pub parts: usize,
}

/// Constants of a tile of 64 x 64 in which each of 128 invocations computes 4 x 8.
pub(super) const HALF_SUMS: [(&str, f64); 3] = [("THREADS_Y", 16.0), ("DOWN", 1.0), ("K_TILE", 32.0)];

/// Constants of a tile in which an invocation computes 4 x 4.
pub(super) const fn small_tile(threads_x: f64, threads_y: f64) -> [(&'static str, f64); 5] {
    [("THREADS_X", threads_x), ("THREADS_Y", threads_y), ("ACROSS", 1.0), ("DOWN", 1.0), ("K_TILE", 32.0)]
}
