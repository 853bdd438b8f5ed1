//! Which of the [`algorithms`](super::algorithms) multiplies, and the rule by which it is chosen.
//!
//! | algorithm | for | tile |
//! |---|---|---|
//! | subgroup8 | CPU drivers with subgroups of 8 (lavapipe) | 32 x 32 in registers, 16 x 32 and 8 x 32 where `m` is small, 32 x 16 and 32 x 8 where `n` is; of blocks 16 x 64, but in NT 32 x 32 of those with codes of 6 or 8 bits |
//! | register | other CPU drivers | 8 x 8 in registers |
//! | tiled | GPUs | 64 x 64 by way of workgroup memory; 16 x 64, 64 x 16 where `m` or `n` is small; 32 x 32, 64 x 64 by 128 invocations, 128 x 64, 128 x 128 if tuned |
//! | split | GPUs, few tiles and a very long `k`: the gradient of the loss | 64 x 64, `k` in parts that are added up at the end |
//! | narrow | GPUs, few columns or rows and a long `k` | 4 x 8, lanes along `k` |
//! | outer | GPUs, few columns or rows in TN: gradients of adapters | 32 x 8 or 8 x 32, 32 slices of `k` |
//! | matvec | one row of `a` (generation) | 8 columns, lanes along `k`; of block-quantised weights on CPU drivers a column a lane |
//! | general | sizes that are no multiples of 4 | 4 x 4 |
//! | f16, cooperative | `--matmul` says so | 64 x 64 and others; see [`super::arithmetic`] |
//!
//! An algorithm with its constants is a [`Form`]. The choice of one depends on static facts only, as [`Op::launch`](crate::graph::Op::launch)
//! demands: on the largest `m` where rows are counted anew for each run, and on the device's [`Tuning`](super::Tuning), where the product's
//! class stands in it. Where it does not, a rule decides that suits most devices of a kind.
//!
//! All forms in f32 but split, narrow, outer and matvec, which add up several sums at the end, add along k in order, one `fma` a step; general multiplies,
//! then adds.

use super::algorithms::*;
use super::arithmetic;
use super::launch::{GeneralParams, Params};
use crate::graph::DType;
use crate::kernel::algorithm::Algorithm;
use crate::kernel::{Arithmetic, Class, Facts, Kernel, Layout, Tuning};
use crate::ops::MOST_WORKGROUPS;

/// The text of this page and of [`super::arithmetic`]: the rule and the forms, for [`super::fingerprint`].
pub(super) const SOURCE: &str = concat!(include_str!("variants.rs"), include_str!("arithmetic.rs"));

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
    low_rank: Option<&'static Algorithm>,
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

static ANY_SIZE: Form = form("general", &GENERAL, &[], Grid::Blocks(4)).with_experts(&GENERAL_EXPERTS);
static SUBGROUP8_32X32: Form = tiles("subgroup8_32x32", &SUBGROUP8_TILE, &[("SPREAD_ROWS", 32.0)], 32, 32)
    .with_low_rank(&SUBGROUP8_TILE_LOW_RANK)
    .with_experts(&SUBGROUP8_TILE_EXPERTS);
static SUBGROUP8_16X32: Form = tiles("subgroup8_16x32", &SUBGROUP8_TILE, &[], 16, 32)
    .with_low_rank(&SUBGROUP8_TILE_LOW_RANK)
    .with_experts(&SUBGROUP8_TILE_EXPERTS);
static SUBGROUP8_8X32: Form = tiles("subgroup8_8x32", &SUBGROUP8_TILE, &[("SPREAD_ROWS", 8.0)], 8, 32)
    .with_low_rank(&SUBGROUP8_TILE_LOW_RANK)
    .with_experts(&SUBGROUP8_TILE_EXPERTS);
static SUBGROUP8_32X16: Form =
    tiles("subgroup8_32x16", &SUBGROUP8_TILE, &[("SWAPPED", 1.0)], 32, 16).with_experts(&SUBGROUP8_TILE_EXPERTS);
static SUBGROUP8_32X8: Form = tiles("subgroup8_32x8", &SUBGROUP8_TILE, &[("SWAPPED", 1.0), ("SPREAD_ROWS", 8.0)], 32, 8)
    .with_experts(&SUBGROUP8_TILE_EXPERTS);
static SUBGROUP8_VECTOR: Form = tiles("matvec_subgroup8", &SUBGROUP8_MATVEC, &[], 1, 8);
static BLOCKS_VECTOR: Form =
    tiles("matvec_blocks", &MATVEC_BLOCKS, &[], 1, 8).only(Layout::NT).with_low_rank(&MATVEC_BLOCKS_LOW_RANK);
static BLOCKS_16X32: Form = tiles("subgroup8_blocks_16x32", &SUBGROUP8_BLOCKS, &[], 16, 32)
    .only(Layout::NT)
    .with_low_rank(&SUBGROUP8_BLOCKS_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_EXPERTS);
static BLOCKS_8X32: Form = tiles("subgroup8_blocks_8x32", &SUBGROUP8_BLOCKS, &[("SPREAD_ROWS", 8.0)], 8, 32)
    .only(Layout::NT)
    .with_low_rank(&SUBGROUP8_BLOCKS_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_EXPERTS);
static BLOCKS_32X32: Form = tiles("subgroup8_blocks_32x32", &SUBGROUP8_BLOCKS, &[("SPREAD_ROWS", 32.0)], 32, 32)
    .only(Layout::NT)
    .with_low_rank(&SUBGROUP8_BLOCKS_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_EXPERTS);
static WHOLE_BLOCKS_8X64: Form = tiles("subgroup8_blocks_whole_8x64", &SUBGROUP8_BLOCKS_WHOLE, &[("SPREAD_ROWS", 8.0)], 8, 64)
    .only(Layout::NT)
    .with_low_rank(&SUBGROUP8_BLOCKS_WHOLE_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_WHOLE_EXPERTS);
static WHOLE_BLOCKS_16X64: Form = tiles("subgroup8_blocks_whole_16x64", &SUBGROUP8_BLOCKS_WHOLE, &[], 16, 64)
    .only(Layout::NT)
    .with_low_rank(&SUBGROUP8_BLOCKS_WHOLE_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_WHOLE_EXPERTS);
static BLOCKS_8X64: Form = tiles("subgroup8_blocks_8x64", &SUBGROUP8_BLOCKS_BY_K, &[("SPREAD_ROWS", 8.0)], 8, 64)
    .only(Layout::NN)
    .with_low_rank(&SUBGROUP8_BLOCKS_BY_K_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_BY_K_EXPERTS);
static BLOCKS_16X64: Form = tiles("subgroup8_blocks_16x64", &SUBGROUP8_BLOCKS_BY_K, &[], 16, 64)
    .only(Layout::NN)
    .with_low_rank(&SUBGROUP8_BLOCKS_BY_K_LOW_RANK)
    .with_experts(&SUBGROUP8_BLOCKS_BY_K_EXPERTS);
static REGISTER_8X8: Form = form("register_8x8", &REGISTER, &[], Grid::Blocks(8)).with_experts(&REGISTER_EXPERTS);
static TILED_64X64: Form = tiles("tiled_64x64", &TILED, &[], 64, 64).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
/// Four times the workgroups of 64 x 64: for products that would leave most of a GPU idle.
static TILED_32X32: Form =
    tiles("tiled_32x32", &TILED, &small_tile(8.0, 8.0), 32, 32).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
/// Half the traffic of 64 x 64, with 256 invocations: for products that fill a large GPU.
static TILED_128X128: Form = tiles("tiled_128x128", &TILED, &[("THREADS_X", 16.0), ("THREADS_Y", 16.0)], 128, 128)
    .with_low_rank(&TILED_LOW_RANK)
    .with_experts(&TILED_EXPERTS);
/// Between the two: what a weight's blocks cost to decode is paid once for 128 rows.
static TILED_128X64: Form =
    tiles("tiled_128x64", &TILED, &[("THREADS_Y", 16.0)], 128, 64).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
/// Half the sums an invocation, in half the registers: twice the subgroups at once, or on Intel's GPUs subgroups of 16 where 8 fit.
static TILED_64X64_OF_128: Form =
    tiles("tiled_64x64_of_128", &TILED, &HALF_SUMS, 64, 64).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
static TILED_16X64: Form =
    tiles("tiled_16x64", &TILED, &small_tile(16.0, 4.0), 16, 64).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
static TILED_64X16: Form =
    tiles("tiled_64x16", &TILED, &small_tile(4.0, 16.0), 64, 16).with_low_rank(&TILED_LOW_RANK).with_experts(&TILED_EXPERTS);
/// As many workgroups as a GPU needs where out has few tiles.
static SPLIT_64X64: Form = Form { splits: true, ..tiles("split_64x64", &TILED_SPLIT, &[], 64, 64) };
static NARROW_4X8: Form = tiles("narrow_4x8", &NARROW, &[], 4, 8).with_together(&NARROW_OF_THREE);
static OUTER_32X8: Form = tiles("outer_32x8", &OUTER, &[], 32, 8).only(Layout::TN).with_together(&OUTER_OF_THREE);
static OUTER_8X32: Form = tiles("outer_8x32", &OUTER, &[("SWAPPED", 1.0)], 8, 32).only(Layout::TN).with_together(&OUTER_OF_THREE);
static VECTOR: Form = tiles("matvec", &MATVEC, &[], 1, 8);

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
    fn for_experts(&self, problem: &Problem, facts: &Facts) -> Option<Variant> {
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
    fn suits(&self, problem: &Problem) -> bool {
        self.variant(problem, &Facts::default()).is_some()
    }

    /// Tiles lie along two dimensions of the dispatch, each of which is bounded.
    fn reaches(&self, problem: &Problem) -> bool {
        let Grid::Tiles([rows, columns]) = self.grid else { return true };
        problem.m.div_ceil(rows).max(problem.n.div_ceil(columns)) <= MOST_WORKGROUPS
    }

    fn is_on_matrices(&self) -> bool {
        self.algorithm.kernel.needs.cooperative.is_some()
    }

    /// Computes at most twice the outputs that are wanted.
    fn wastes_little(&self, problem: &Problem) -> bool {
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

impl Variant {
    /// The tuned form, if it is possible for the problem on this device, else that of the rule.
    pub(super) fn choose(problem: &Problem, facts: &Facts, tuning: &Tuning) -> Self {
        let tuned =
            tuning.choice(|| Class::of(problem)).and_then(|id| problem.possible(facts).into_iter().find(|form| form.id == id));
        let form = tuned.unwrap_or_else(|| problem.rule(facts));
        let variant = form.variant(problem, facts).or_else(|| ANY_SIZE.variant(problem, facts));
        variant
            .unwrap_or_else(|| unreachable!("{problem:?}: the general form takes every weight, and `infer` admits nothing else"))
    }
}

impl Variant {
    /// On CPU drivers: what multiplies the rows that are left after whole tiles of this one, if there is a tile of half its rows.
    pub(super) fn for_rest(&self, problem: &Problem, facts: &Facts) -> Option<Self> {
        let Grid::Tiles([rows, _]) = self.grid else { return None };
        let few = Problem { m: rows / 2, ..*problem };
        let pays = facts.cpu_driver && few.m >= ROWS_OF_A_DISPATCH && problem.m > few.m;
        let rest = pays.then(|| few.rule(facts).variant(&few, facts)).flatten()?;
        (rest.grid.block()[0] <= few.m).then_some(rest)
    }

    /// What multiplies with a product for each expert. The rule's form where there is one for experts; a tile of about its shape where not.
    pub(super) fn for_experts(problem: &Problem, facts: &Facts) -> Self {
        let tile = match (problem.m, problem.n) {
            (..=16, _) => &TILED_16X64,
            (_, ..=32) => &TILED_64X16,
            (..=32, _) => &TILED_16X64,
            _ => &TILED_64X64,
        };
        let mut forms = [problem.rule(facts), tile, &ANY_SIZE].into_iter();
        let variant = forms.find_map(|form| form.for_experts(problem, facts));
        variant
            .unwrap_or_else(|| unreachable!("{problem:?}: the general form takes every weight, and `infer` admits nothing else"))
    }
}

/// What the choice of a form depends on.
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
    /// What it is computed in.
    pub arithmetic: Arithmetic,
    /// Starts and lengths of all rows are multiples of 4 elements.
    pub aligned: bool,
    /// Into how many parts k may be split, for whose sums there is scratch: [`parts_of_k`], or 1.
    pub parts: usize,
}

/// Rows of a tile that are worth a dispatch of their own.
const ROWS_OF_A_DISPATCH: usize = 16;
/// Workgroups that a GPU of any size is busy with.
const ENOUGH_WORKGROUPS: usize = 256;
/// Steps of k that are worth a workgroup of their own.
const STEPS_OF_A_PART: usize = 1024;

/// Into how many parts k is split where tiles of 64 x 64 would be too few workgroups; 1 elsewhere. The sums of all parts take 4 MiB at the most.
pub(super) fn parts_of_k(layout: Layout, [m, n, k]: [usize; 3]) -> usize {
    let tiles = m.div_ceil(64) * n.div_ceil(64);
    let aligned = n.is_multiple_of(4) && k.is_multiple_of(4);
    match layout {
        Layout::NT | Layout::NN if aligned && tiles > 0 => (ENOUGH_WORKGROUPS / tiles).min(k / STEPS_OF_A_PART).max(1),
        _ => 1,
    }
}

impl Problem {
    /// The forms worth timing: the rule's first, then those that are possible and waste little. Where the rule's takes a low-rank term, so
    /// must the others: what is timed is the plain product, and an adapter that ran by itself again would cost more than is won, but for what
    /// matrix units win.
    pub(super) fn candidates(&self, facts: &Facts) -> Vec<&'static Form> {
        let rule = self.rule(facts);
        let fuses = rule.low_rank.is_some() && self.layout != Layout::TN;
        let is_worth = |form: &&Form| {
            form.id != rule.id && form.wastes_little(self) && (!fuses || form.low_rank.is_some() || form.is_on_matrices())
        };
        std::iter::once(rule).chain(self.possible(facts).into_iter().filter(is_worth)).collect()
    }

    /// Every form that is right for the problem and not hopeless on such a device. On a CPU driver workgroup memory is, and so is all else
    /// where there are subgroups of 8; which of their tiles wins depends on how many registers the CPU has. The register form is for GPUs
    /// too, since some (Mali, VideoCore) have no memory of their own for workgroups; not of blocks, whose decoding wants more registers than some have.
    fn possible(&self, facts: &Facts) -> Vec<&'static Form> {
        if !self.aligned {
            return vec![&ANY_SIZE];
        }
        if !self.is_in_f32_by_rule() {
            return arithmetic::forms(self, facts).into_iter().filter(|form| form.suits(self)).collect();
        }
        let subgroup8 = SUBGROUP8.met_by(facts);
        let mut forms = Vec::new();
        if subgroup8 && self.is_vector() {
            forms.extend([&SUBGROUP8_VECTOR, &BLOCKS_VECTOR]);
        }
        if subgroup8 {
            forms.push(&SUBGROUP8_16X32);
            match self.dtype.block() {
                1 => forms.extend([&SUBGROUP8_32X32, &SUBGROUP8_8X32, &SUBGROUP8_32X16]),
                _ => {
                    forms.extend([&BLOCKS_16X32, &BLOCKS_8X32, &BLOCKS_32X32, &WHOLE_BLOCKS_8X64, &WHOLE_BLOCKS_16X64]);
                    forms.extend([&BLOCKS_8X64, &BLOCKS_16X64]);
                }
            }
        }
        if subgroup8 && self.n <= 16 {
            forms.push(&SUBGROUP8_32X8);
        }
        if !subgroup8 {
            forms.extend((facts.cpu_driver || self.dtype.block() == 1).then_some(&REGISTER_8X8));
            forms.extend(self.is_vector().then_some(&VECTOR));
        }
        if !facts.cpu_driver {
            forms.extend([&TILED_64X64, &TILED_32X32, &TILED_64X64_OF_128, &TILED_128X128, &TILED_128X64, &NARROW_4X8]);
            forms.extend([&TILED_16X64, &TILED_64X16, &SPLIT_64X64, &OUTER_32X8, &OUTER_8X32]);
        }
        forms.extend(arithmetic::forms(self, facts));
        forms.retain(|form| form.suits(self));
        forms
    }

    fn rule(&self, facts: &Facts) -> &'static Form {
        let fast = if self.aligned { self.rule_for_aligned(facts) } else { &ANY_SIZE };
        if fast.suits(self) { fast } else { &ANY_SIZE }
    }

    /// Does only a measurement make it leave f32?
    fn is_in_f32_by_rule(&self) -> bool {
        matches!(self.arithmetic, Arithmetic::F32 | Arithmetic::Auto)
    }

    fn is_vector(&self) -> bool {
        self.layout == Layout::NT && self.m == 1
    }

    fn rule_for_aligned(&self, facts: &Facts) -> &'static Form {
        let Problem { layout, m, n, k, dtype, .. } = *self;
        if let Some(form) = arithmetic::forms(self, facts).first().filter(|_| !self.is_in_f32_by_rule()) {
            return form;
        }
        if SUBGROUP8.met_by(facts) {
            return match (m, n) {
                _ if self.is_vector() && dtype.block() > 1 => &BLOCKS_VECTOR,
                _ if self.is_vector() => &SUBGROUP8_VECTOR,
                _ if dtype.block() > 1 => self.rule_for_blocks(),
                (9.., ..=8) => &SUBGROUP8_32X8,
                (9.., ..=16) => &SUBGROUP8_32X16,
                (..=8, _) => &SUBGROUP8_8X32,
                (..=16, _) => &SUBGROUP8_16X32,
                _ => &SUBGROUP8_32X32,
            };
        }
        if facts.cpu_driver {
            return &REGISTER_8X8;
        }
        let lanes_fill = k >= 128;
        match layout {
            _ if self.is_vector() => &VECTOR,
            Layout::NT if m <= 4 && lanes_fill => &NARROW_4X8,
            Layout::NT | Layout::NN if n <= 16 && lanes_fill => &NARROW_4X8,
            // Gradients of adapters of a usual rank: a tile would leave most of a GPU idle.
            Layout::TN if n <= 32 => &OUTER_32X8,
            Layout::TN if m <= 32 => &OUTER_8X32,
            // Longer than any layer's, whose adapter would have to run by itself.
            _ if k >= 32_768 && self.parts > 1 => &SPLIT_64X64,
            _ if m <= 16 => &TILED_16X64,
            _ if n <= 16 => &TILED_64X16,
            _ => &TILED_64X64,
        }
    }

    /// Of weights in blocks, which lie along k in NT and along n in NN, in subgroups of 8.
    fn rule_for_blocks(&self) -> &'static Form {
        let [few, some, many] = match self.layout {
            Layout::NN => [&BLOCKS_8X64, &BLOCKS_16X64, &BLOCKS_16X64],
            _ if WHOLE_BLOCKS_16X64.suits(self) => [&WHOLE_BLOCKS_8X64, &WHOLE_BLOCKS_16X64, &WHOLE_BLOCKS_16X64],
            _ => [&BLOCKS_8X32, &BLOCKS_16X32, &BLOCKS_32X32],
        };
        match self.m {
            ..=8 => few,
            9..=16 => some,
            _ => many,
        }
    }
}

/// Constants of a tile of 64 x 64 in which each of 128 invocations computes 4 x 8.
pub(super) const HALF_SUMS: [(&str, f64); 3] = [("THREADS_Y", 16.0), ("DOWN", 1.0), ("K_TILE", 32.0)];

/// Constants of a tile in which an invocation computes 4 x 4.
pub(super) const fn small_tile(threads_x: f64, threads_y: f64) -> [(&'static str, f64); 5] {
    [("THREADS_X", threads_x), ("THREADS_Y", threads_y), ("ACROSS", 1.0), ("DOWN", 1.0), ("K_TILE", 32.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Needs, ParamField};
    use std::collections::HashMap;

    fn problem(layout: Layout, size: [usize; 3], dtype: DType, aligned: bool) -> Problem {
        let [m, n, k] = size;
        Problem { layout, m, n, k, dtype, arithmetic: Arithmetic::F32, aligned, parts: parts_of_k(layout, size) }
    }

    const KINDS: [Facts; 3] = {
        const PLAIN: Facts =
            Facts { cpu_driver: false, subgroup: None, int64: true, f16: false, cooperative: None, arithmetic: Arithmetic::F32 };
        [PLAIN, Facts { cpu_driver: true, ..PLAIN }, Facts { cpu_driver: true, subgroup: Some((8, 8)), ..PLAIN }]
    };

    /// A form that is not made for a problem gives no variant for it: planted are the wrong layout, format, alignment, size and parameters.
    #[test]
    fn a_form_that_does_not_suit_a_problem_cannot_be_had() {
        let facts = &KINDS[2];
        let nt = problem(Layout::NT, [64, 64, 64], DType::Q4_1, true);
        assert!(WHOLE_BLOCKS_16X64.variant(&nt, facts).is_some());
        assert!(WHOLE_BLOCKS_16X64.variant(&Problem { layout: Layout::NN, ..nt }, facts).is_none());
        assert!(WHOLE_BLOCKS_16X64.variant(&Problem { dtype: DType::BF16, ..nt }, facts).is_none());
        assert!(WHOLE_BLOCKS_16X64.variant(&Problem { dtype: DType::Q6_K, ..nt }, facts).is_none());
        assert!(WHOLE_BLOCKS_16X64.variant(&Problem { aligned: false, ..nt }, facts).is_none());
        assert!(BLOCKS_32X32.variant(&nt, facts).is_none());
        assert!(BLOCKS_32X32.variant(&Problem { dtype: DType::Q8_0, ..nt }, facts).is_some());
        assert!(TILED_64X64.variant(&Problem { n: 65_536 * 64, ..nt }, facts).is_none());
        static OTHERS: Algorithm = Algorithm {
            kernel: Kernel {
                name: "planted",
                shader: "add",
                slots: &[],
                constants: &[],
                params: &[ParamField { name: "count", scalar: "u32", offset: 0 }],
                needs: Needs::NONE,
                unchecked: false,
            },
            loads: crate::kernel::algorithm::Loads::Elements,
        };
        assert!(tiles("planted", &OTHERS, &[], 8, 8).variant(&nt, facts).is_none(), "parameters of another op");
    }

    /// Whatever a tuning table asks for, what is chosen takes the parameters that it will be given, in the weight's own format.
    #[test]
    fn what_is_chosen_suits_the_problem_whatever_a_table_says() {
        let forms = [
            &ANY_SIZE,
            &SUBGROUP8_16X32,
            &SUBGROUP8_VECTOR,
            &BLOCKS_VECTOR,
            &BLOCKS_32X32,
            &WHOLE_BLOCKS_16X64,
            &BLOCKS_16X64,
            &REGISTER_8X8,
        ];
        for id in forms.into_iter().chain([&TILED_64X64, &NARROW_4X8, &VECTOR]).map(|form| form.id).chain(["no form at all"]) {
            for (layout, dtype) in [Layout::NT, Layout::NN, Layout::TN].into_iter().flat_map(|l| DType::WEIGHTS.map(|d| (l, d))) {
                for (size, aligned) in [([64, 64, 64], true), ([1, 64, 64], true), ([3, 5, 7], false), ([64, 1 << 23, 64], true)]
                {
                    let problem = problem(layout, size, dtype, aligned);
                    for facts in &KINDS {
                        let table = Class::of(&problem).map(|class| (class, id.to_owned()));
                        let tuning = Tuning::new(table.into_iter().collect::<HashMap<_, _>>());
                        let variant = Variant::choose(&problem, facts, &tuning);
                        let expected = match variant.parameters {
                            Parameters::General => GeneralParams::FIELDS,
                            Parameters::Aligned => Params::FIELDS,
                        };
                        assert_eq!(variant.kernel.params, expected, "{problem:?} {id}");
                        assert!(variant.kernel.name.ends_with(&format!("_{dtype}")), "{problem:?}: {}", variant.kernel.name);
                        assert!(aligned || variant.parameters == Parameters::General, "{problem:?}: {}", variant.kernel.name);
                    }
                }
            }
        }
    }
}
