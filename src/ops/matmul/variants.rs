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
use super::forms::*;
use crate::graph::DType;
use crate::kernel::{Arithmetic, Class, Facts, Layout, Tuning};

/// The text of this page, of [`super::forms`] and of [`super::arithmetic`]: the rule and the forms, for [`super::fingerprint`].
pub(super) const SOURCE: &str = concat!(include_str!("forms.rs"), include_str!("variants.rs"), include_str!("arithmetic.rs"));

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

#[cfg(test)]
mod tests {
    use super::super::launch::{GeneralParams, Params};
    use super::*;
    use crate::kernel::algorithm::Algorithm;
    use crate::kernel::{Kernel, Needs, ParamField};
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
