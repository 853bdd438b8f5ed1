//! The parameters with which a product, or each part of one, is dispatched.

use super::algorithms::SUM_PARTS;
use super::forms::{Grid, Parameters, Variant};
use super::variants::{Problem, parts_of_k};
use super::{At, Matmul, MatmulLowRank, MatmulTogether, arithmetic};
use crate::graph::{Bind, Call, Dispatch, Operand, Rows, TensorType};
use crate::kernel::{Kernel, Layout};
use crate::kernel_params;
use crate::ops::spread;

kernel_params!(pub(super) Params {
    m: u32,
    n: u32,
    k: u32,
    flags: u32,
    scale: f32,
    a_start: u32,
    a_row: u32,
    b_start: u32,
    out_start: u32,
    out_row: u32,
    rank: u32,
    low_rank_scale: f32,
    v_start: u32,
    first_expert: u32,
    end_expert: u32,
    first_tile: u32,
    k_part: u32,
});

kernel_params!(pub(super) SumParams { m: u32, n: u32, parts: u32, flags: u32, out_start: u32, out_row: u32 });

kernel_params!(pub(super) GeneralParams {
    m: u32,
    n: u32,
    k: u32,
    flags: u32,
    scale: f32,
    a_row: u32,
    a_k: u32,
    a_start: u32,
    b_column: u32,
    b_k: u32,
    b_start: u32,
    out_start: u32,
    out_row: u32,
    first_expert: u32,
    end_expert: u32,
    first_tile: u32,
});

pub(super) const HAS_ADDEND: u32 = 1;
pub(super) const ACCUMULATE: u32 = 2;
/// Of products by experts: k runs over the rows of each.
pub(super) const ALONG_ROWS: u32 = 4;

/// One product, or one part of it where `b` is split by rows: parts of an NT product make ranges of the output's columns,
/// parts of an NN product are ranges of k, of which the later ones add to the first. A product of more than
/// [`OPERATIONS_OF_A_DISPATCH`] is split in the same way, and on CPU drivers a long k: the columns of b that a tile reads then stay in
/// the cache for the next tile of rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub index: usize,
    pub m: usize,
    /// Of the m rows, whole tiles that another dispatch computes.
    pub rows_done: usize,
    pub n: usize,
    pub k: usize,
    /// First element of a, of this part of b, of out.
    pub a_start: usize,
    pub b_start: usize,
    pub out_start: usize,
    pub flags: u32,
    /// First expert and the one behind the last, and the first tile; see [`super::experts`].
    pub experts: [usize; 2],
    pub first_tile: usize,
    /// Steps of k that one of the parts has, where they are split over workgroups.
    pub k_part: usize,
}

fn parts(op: &Matmul, call: &Call, at: At) -> Vec<Part> {
    parts_of_at_most(OPERATIONS_OF_A_DISPATCH, op, call, at)
}

/// [`parts`] of at most so many operations, but for the last few rows of b that a part has at least.
fn parts_of_at_most(operations: usize, op: &Matmul, call: &Call, at: At) -> Vec<Part> {
    let (a, b) = (&call.inputs[0], &call.inputs[1]);
    let [m, n, k] = super::sizes(op.layout, [a.rows, a.columns()], [b.rows, b.columns()]);
    let addend = if call.inputs.len() == 3 { HAS_ADDEND } else { 0 } | if at.adds { ACCUMULATE } else { 0 };
    let (a_start, out_start) = (at.a_row * a.columns(), at.out_row * call.outputs[0].columns());
    // How many there are may not change with the rows of a run, so the most that there can be count. Whole blocks of the formats.
    let rows_of_b = operations / (2 * a.tensor.shape.rows.max() * b.columns()).max(1);
    let rows_of_b = (rows_of_b / ROWS_AT_LEAST * ROWS_AT_LEAST).max(ROWS_AT_LEAST);
    let longest = if call.device.cpu_driver { CACHED_STEPS.min(rows_of_b) } else { rows_of_b };
    b.parts()
        .flat_map(|(index, rows)| {
            let whole = Part { index, m, n, k, a_start, out_start, flags: addend, ..Part::default() };
            match op.layout {
                Layout::NT => (rows.clone().step_by(rows_of_b))
                    .map(|first| Part {
                        n: (rows.end - first).min(rows_of_b),
                        b_start: (first - rows.start) * k,
                        out_start: out_start + first,
                        ..whole
                    })
                    .collect(),
                Layout::NN => (rows.clone().step_by(longest))
                    .map(|first| Part {
                        k: (rows.end - first).min(longest),
                        a_start: a_start + first,
                        b_start: (first - rows.start) * n,
                        flags: if first == 0 { addend } else { ACCUMULATE },
                        ..whole
                    })
                    .collect(),
                // Columns of a that out has no row for are left out.
                Layout::TN => vec![Part { m: call.outputs[0].rows, b_start: at.b_row * n, ..whole }],
            }
        })
        .collect()
}

/// A slow GPU of a laptop does so many in a third of a second; a system's watchdog ends what takes two seconds, and cannot be told how far
/// it is.
pub(super) const OPERATIONS_OF_A_DISPATCH: usize = 64_000_000_000;

/// Rows of b that a part has at least, and of which it has a multiple: as many as tiles of a workgroup have columns.
const ROWS_AT_LEAST: usize = 128;

/// Steps of k in which the columns of b that a tile reads fit the second-level cache of a core, with the rows of a.
const CACHED_STEPS: usize = 4096;

pub(super) fn launch(op: &Matmul, call: &Call, at: At) -> Vec<Dispatch> {
    let dispatches = |part: Part| {
        let problem = problem(op, call, &part);
        let variant = Variant::choose(&problem, call.device, call.tuning);
        match variant.parts {
            1 => with_rest(part, variant, &problem, call)
                .iter()
                .map(|(part, variant)| dispatch(op, call, part, variant, None))
                .collect(),
            _ => split(op, call, &part, &variant),
        }
    };
    parts(op, call, at).into_iter().flat_map(dispatches).collect()
}

/// A tile costs a CPU driver what it has rows, whether they are wanted or not. So what a run has beyond whole tiles goes to a form of fewer rows,
/// where that has enough of them: the same sums, added up in the same order.
fn with_rest(part: Part, variant: Variant, problem: &Problem, call: &Call) -> Vec<(Part, Variant)> {
    let Some(rest) = variant.for_rest(problem, call.device) else { return vec![(part, variant)] };
    let [[tile, _], [few, _]] = [&variant, &rest].map(|variant| variant.grid.block());
    let left = part.m % tile;
    let done = if left <= few { part.m - left } else { part.m };
    vec![(Part { m: done, ..part }, variant), (Part { rows_done: done, ..part }, rest)]
}

/// The sums of parts of k in scratch, and what adds them up.
fn split(op: &Matmul, call: &Call, part: &Part, variant: &Variant) -> Vec<Dispatch> {
    // Whole tiles, and whole blocks of the formats.
    let k_part = part.k.div_ceil(variant.parts).next_multiple_of(ROWS_AT_LEAST);
    let parts = part.k.div_ceil(k_part);
    let sums =
        Operand { tensor: TensorType::f32(Rows::Fixed(parts * part.m), part.n), rows: parts * part.m, part_starts: vec![0] };
    let to_scratch = Part { out_start: 0, flags: 0, k_part, ..*part };
    let inner = Call { outputs: &[sums], ..*call };
    let mut product = dispatch(op, &inner, &to_scratch, variant, None).rebind(|bind| match bind {
        Bind::Output(0) => Bind::Scratch(0),
        other => other,
    });
    product.workgroups[2] = parts as u32;
    let sum = SumParams {
        m: part.m as u32,
        n: part.n as u32,
        parts: parts as u32,
        flags: part.flags,
        out_start: part.out_start as u32,
        out_row: call.outputs[0].columns() as u32,
    };
    let bindings = vec![Bind::Scratch(0), product.bindings[2], Bind::Output(0)];
    let workgroups = spread((part.m * part.n / 4).div_ceil(64));
    vec![product, Dispatch { kernel: &SUM_PARTS, constants: vec![], params: sum.bytes(), bindings, workgroups, work: 0.0 }]
}

/// The low-rank term goes with the part that starts the sums; where the kernels cannot take it, it follows as a product that adds to out.
pub(super) fn low_rank(op: &MatmulLowRank, call: &Call) -> Vec<Dispatch> {
    let [product, term] = op.products();
    let addend = |bind: Bind| if bind == Bind::Input(2) { Bind::Input(4) } else { bind };
    let inputs = [&call.inputs[..2], &call.inputs[4..]].concat();
    let inner = Call { inputs: &inputs, ..*call };
    let rank = call.inputs[2].columns();
    // There is no scratch for parts of k.
    let chosen = |op: &Matmul, call: &Call, part: Part| {
        let problem = Problem { parts: 1, ..problem(op, call, &part) };
        with_rest(part, Variant::choose(&problem, call.device, call.tuning), &problem, call)
    };
    let plan: Vec<(Part, Variant)> =
        (parts(&product, &inner, At::default()).into_iter()).flat_map(|part| chosen(&product, &inner, part)).collect();
    let fused = rank.is_multiple_of(4) && plan.iter().all(|(_, variant)| variant.low_rank.is_some());
    let mut dispatches: Vec<Dispatch> = (plan.iter())
        .map(|(part, variant)| {
            let starts = part.flags & ACCUMULATE == 0;
            let v_start = if op.layout == Layout::NT { part.out_start * rank } else { 0 };
            let kernel = variant.low_rank.filter(|_| fused && starts);
            let term = kernel.map(|_| LowRank { rank, scale: op.scale, v_start });
            let mut dispatch = dispatch(&product, &inner, part, variant, term).rebind(addend);
            if let Some(kernel) = kernel {
                dispatch.kernel = kernel;
                dispatch.bindings.extend([Bind::Input(2), Bind::Input(3)]);
            }
            dispatch
        })
        .collect();
    if !fused {
        let inner = Call { inputs: &call.inputs[2..4], ..*call };
        let of_term = |bind: Bind| match bind {
            Bind::Input(index) => Bind::Input(index + 2),
            Bind::InputPart(index, part) => Bind::InputPart(index + 2, part),
            other => other,
        };
        let terms = parts(&term, &inner, At::default()).into_iter();
        let terms = terms.flat_map(|part| chosen(&term, &inner, Part { flags: ACCUMULATE, ..part }));
        dispatches.extend(terms.map(|(part, variant)| dispatch(&term, &inner, &part, &variant, None).rebind(of_term)));
    }
    dispatches
}

/// All products at once where the kernel that is chosen for one of them can do that, one after the other where not.
pub(super) fn together(op: &MatmulTogether, call: &Call) -> Vec<Dispatch> {
    let (product, count) = (op.product(), call.outputs.len());
    let of = |index: usize| {
        let inputs = op.operands(index).map(|input| call.inputs[input].clone());
        let outer = move |bind: Bind| match bind {
            Bind::Input(input) => Bind::Input(op.operands(index)[input]),
            Bind::InputPart(input, part) => Bind::InputPart(op.operands(index)[input], part),
            Bind::Output(_) => Bind::Output(index),
            scratch @ Bind::Scratch(_) => scratch,
        };
        let inner = Call { inputs: &inputs, outputs: std::slice::from_ref(&call.outputs[index]), ..*call };
        let parts = parts(&product, &inner, At::default());
        let chosen: Vec<(Dispatch, Option<&Kernel>)> = (parts.iter())
            .map(|part| {
                // There is no scratch for parts of k.
                let problem = Problem { parts: 1, ..problem(&product, &inner, part) };
                let variant = Variant::choose(&problem, call.device, call.tuning);
                (dispatch(&product, &inner, part, &variant, None).rebind(outer), variant.together)
            })
            .collect();
        chosen
    };
    let mut each: Vec<_> = (0..count).map(of).collect();
    let Some(kernel) = (each[0].len() == 1).then(|| each[0][0].1).flatten() else {
        return each.into_iter().flatten().map(|(dispatch, _)| dispatch).collect();
    };
    // Each has a binding of its own: its w, and its out. Where there are two products, the third's are of no use.
    let own = |index: usize| match index < count {
        true => [Bind::Input(index + 1), Bind::Output(index)],
        false => [Bind::Input(1), Bind::Scratch(0)],
    };
    let mut all = each.swap_remove(0).swap_remove(0).0;
    all.kernel = kernel;
    all.bindings.extend((1..MatmulTogether::MOST).flat_map(own));
    all.workgroups[2] = count as u32;
    all.work *= count as f64;
    vec![all]
}

/// What a kernel is told of a low-rank term.
pub(super) struct LowRank {
    rank: usize,
    scale: f64,
    v_start: usize,
}

pub(super) fn dispatch(op: &Matmul, call: &Call, part: &Part, variant: &Variant, low_rank: Option<LowRank>) -> Dispatch {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let rows = part.m - part.rows_done;
    let rows_of = |each: usize| rows.div_ceil(each);
    let workgroups = match variant.grid {
        Grid::Tiles([rows, columns]) => [rows_of(rows) as u32, part.n.div_ceil(columns) as u32, 1],
        Grid::Blocks(size) => spread((rows_of(size) * part.n.div_ceil(size)).div_ceil(64)),
    };
    let (a_columns, b_columns) = (a.columns() as u32, b.columns() as u32);
    let (m, n, k) = (part.m as u32, part.n as u32, part.k as u32);
    let (a_start, out_start, out_row) = (part.a_start as u32, part.out_start as u32, out.columns() as u32);
    let (b_start, flags, scale) = (part.b_start as u32, part.flags, op.scale as f32);
    let [first_expert, end_expert] = part.experts.map(|expert| expert as u32);
    let first_tile = (part.first_tile + part.rows_done / variant.grid.block()[0]) as u32;
    let params = if variant.parameters == Parameters::General {
        let (a_row, a_k, b_column, b_k) = match op.layout {
            Layout::NT => (a_columns, 1, b_columns, 1),
            Layout::NN => (a_columns, 1, 1, b_columns),
            Layout::TN => (1, a_columns, 1, b_columns),
        };
        GeneralParams {
            m,
            n,
            k,
            flags,
            scale,
            a_row,
            a_k,
            a_start,
            b_column,
            b_k,
            b_start,
            out_start,
            out_row,
            first_expert,
            end_expert,
            first_tile,
        }
        .bytes()
    } else {
        let (rank, low_rank_scale, v_start) =
            low_rank.as_ref().map_or((0, 0.0, 0), |term| (term.rank as u32, term.scale as f32, term.v_start as u32));
        let a_row = a_columns;
        Params {
            m,
            n,
            k,
            flags,
            scale,
            a_start,
            a_row,
            b_start,
            out_start,
            out_row,
            rank,
            low_rank_scale,
            v_start,
            first_expert,
            end_expert,
            first_tile,
            k_part: part.k_part as u32,
        }
        .bytes()
    };
    // Without an addend its binding is any other input: the kernel does not read it.
    let addend = Bind::Input(if call.inputs.len() == 3 { 2 } else { 0 });
    let bindings = vec![Bind::Input(0), Bind::InputPart(1, part.index), addend, Bind::Output(0)];
    let work = 2.0 * rows as f64 * part.n as f64 * part.k as f64;
    Dispatch { kernel: variant.kernel, constants: variant.constants.clone(), params, bindings, workgroups, work }
}

/// The part as it is in every run: row counts that change are replaced by their maximum.
pub(super) fn problem(op: &Matmul, call: &Call, part: &Part) -> Problem {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let most_a_rows = a.tensor.shape.rows.max();
    let (m, k) = match op.layout {
        Layout::NT | Layout::NN => (most_a_rows, part.k),
        Layout::TN => (part.m, most_a_rows),
    };
    let lengths = [a.columns(), b.columns(), out.columns(), part.n, part.a_start, part.out_start];
    // Parts of b along k begin where a's columns do.
    let along_a = if op.layout == Layout::TN { part.m } else { part.k };
    let aligned = lengths.into_iter().chain([along_a]).all(|length| length.is_multiple_of(4));
    let arithmetic = arithmetic::of(op.layout, [m, part.n, k], aligned, call.device);
    // Scratch is for as many parts as the whole may have.
    let [_, whole_n, whole_k] = super::sizes(op.layout, [a.rows, a.columns()], [b.rows, b.columns()]);
    let parts = parts_of_k(op.layout, [m, whole_n, whole_k]).min(parts_of_k(op.layout, [m, part.n, k]));
    Problem { layout: op.layout, m, n: part.n, k, dtype: b.tensor.dtype, arithmetic, aligned, parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DType;
    use crate::kernel::{Facts, Tuning};

    fn operand([rows, columns]: [usize; 2], splits: &[usize]) -> Operand {
        Operand { tensor: TensorType::f32(Rows::Fixed(rows), columns), rows, part_starts: splits.to_vec() }
    }

    /// Every kernel takes a part by its numbers, so the numbers are multiplied here as they say.
    fn product(parts: &[Part], layout: Layout, operands: [&[f64]; 2], splits: &[usize], [m, n, k]: [usize; 3]) -> Vec<f64> {
        let mut out = vec![f64::NAN; m * n];
        for part in parts {
            let of_part = &operands[1][splits[part.index] * if layout == Layout::NT { k } else { n }..];
            for (i, j) in (0..part.m).flat_map(|i| (0..part.n).map(move |j| (i, j))) {
                let b = |step: usize| match layout {
                    Layout::NT => of_part[part.b_start + j * part.k + step],
                    _ => of_part[part.b_start + step * n + j],
                };
                let sum: f64 = (0..part.k).map(|step| operands[0][part.a_start + i * k + step] * b(step)).sum();
                let to = &mut out[part.out_start + i * n + j];
                *to = sum + if part.flags & ACCUMULATE != 0 { *to } else { 0.0 };
            }
        }
        out
    }

    /// However small the parts are, and wherever b is split over bindings, they make the whole product.
    #[test]
    fn parts_make_the_whole_product() {
        let [m, n, k] = [3, 640, 512];
        for (layout, cpu_driver) in [(Layout::NT, false), (Layout::NN, false), (Layout::NN, true)] {
            let (b_rows, b_columns) = if layout == Layout::NT { (n, k) } else { (k, n) };
            for splits in [&[0][..], &[0, 300], &[0, 256, 384]] {
                let numbers =
                    |count: usize, step: usize| -> Vec<f64> { (0..count).map(|at| ((at * step) % 17) as f64).collect() };
                let (a, b) = (numbers(m * k, 5), numbers(n * k, 7));
                let inputs = [operand([m, k], &[0]), operand([b_rows, b_columns], splits)];
                let (outputs, facts) = ([operand([m, n], &[0])], Facts { cpu_driver, ..Facts::default() });
                let tuning = Tuning::default();
                let call = Call { inputs: &inputs, outputs: &outputs, device: &facts, tuning: &tuning };
                let op = Matmul { layout, scale: 1.0 };
                let whole = product(&parts(&op, &call, At::default()), layout, [&a, &b], splits, [m, n, k]);
                assert!(whole.iter().all(|value| value.is_finite()));
                for rows in [1, 130, 300] {
                    let parts = parts_of_at_most(2 * m * b_columns * rows, &op, &call, At::default());
                    assert!(parts.len() >= splits.len());
                    assert!(
                        parts.iter().all(|part| if layout == Layout::NT { part.n } else { part.k } <= rows.max(ROWS_AT_LEAST))
                    );
                    assert_eq!(product(&parts, layout, [&a, &b], splits, [m, n, k]), whole, "{layout:?} {splits:?} {rows}");
                }
            }
        }
    }

    /// On a CPU driver the rows after tiles of 32 have a tile of 16, if that is enough: each row is computed once.
    #[test]
    fn rows_that_are_left_have_a_smaller_tile() {
        let facts = Facts { cpu_driver: true, subgroup: Some((8, 8)), int64: true, ..Facts::default() };
        let mut inputs = [operand([64, 64], &[0]), operand([96, 64], &[0])];
        let (mut outputs, tuning) = ([operand([64, 96], &[0])], Tuning::default());
        for dtype in [DType::F32, DType::Q8_0] {
            inputs[1].tensor = TensorType::new(Rows::Fixed(96), 64, dtype);
            for (rows, tiles) in
                [(5, [0, 1]), (16, [0, 1]), (17, [1, 0]), (32, [1, 0]), (35, [1, 1]), (48, [1, 1]), (49, [2, 0]), (64, [2, 0])]
            {
                (inputs[0].rows, outputs[0].rows) = (rows, rows);
                let call = Call { inputs: &inputs, outputs: &outputs, device: &facts, tuning: &tuning };
                let dispatches = launch(&Matmul { layout: Layout::NT, scale: 1.0 }, &call, At::default());
                let found: Vec<u32> = dispatches.iter().map(|dispatch| dispatch.workgroups[0]).collect();
                assert_eq!(found, tiles, "{rows} rows, {dtype}");
                let all: f64 = dispatches.iter().map(|dispatch| dispatch.work).sum();
                assert_eq!(all, 2.0 * (rows * 96 * 64) as f64);
            }
        }
    }

    /// A layer of a 70B model with 2,048 tokens, and the output layer of a large vocabulary.
    #[test]
    fn no_dispatch_does_more_than_a_watchdog_waits_for() {
        for ([m, n, k], layout) in [
            ([2048, 28_672, 8192], Layout::NT),
            ([2048, 8192, 28_672], Layout::NN),
            ([128, 256_000, 8192], Layout::NT),
            ([4, 64, 64], Layout::NT),
        ] {
            let b = if layout == Layout::NT { [n, k] } else { [k, n] };
            let mut inputs = [operand([m, k], &[0]), operand(b, &[0])];
            inputs[1].tensor = TensorType::new(Rows::Fixed(b[0]), b[1], DType::Q4_K);
            let (outputs, facts, tuning) = ([operand([m, n], &[0])], Facts::default(), Tuning::default());
            let call = Call { inputs: &inputs, outputs: &outputs, device: &facts, tuning: &tuning };
            let dispatches = launch(&Matmul { layout, scale: 1.0 }, &call, At::default());
            let most = OPERATIONS_OF_A_DISPATCH as f64;
            assert!(dispatches.iter().all(|dispatch| dispatch.work <= most));
            let all: f64 = dispatches.iter().map(|dispatch| dispatch.work).sum();
            assert_eq!(all, 2.0 * (m * n * k) as f64);
            assert_eq!(dispatches.len(), (all / most).ceil() as usize, "{m} x {n} x {k}");
        }
    }
}
