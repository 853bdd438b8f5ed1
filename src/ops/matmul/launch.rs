//! The parameters with which a product, or each part of one, is dispatched.

use super::variants::{Grid, Parameters, Problem, Variant};
use super::{At, Matmul, MatmulLowRank, arithmetic};
use crate::graph::{Bind, Call, Dispatch};
use crate::kernel::Layout;
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
});

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
});

const HAS_ADDEND: u32 = 1;
const ACCUMULATE: u32 = 2;

/// One product, or one part of it where `b` is split by rows: parts of an NT product make ranges of the output's columns,
/// parts of an NN product are ranges of k, of which the later ones add to the first. On CPU drivers a long k is split as well: the
/// columns of b that a tile reads then stay in the cache for the next tile of rows.
#[derive(Clone, Copy)]
struct Part {
    index: usize,
    m: usize,
    n: usize,
    k: usize,
    /// First element of a, of this part of b, of out.
    a_start: usize,
    b_start: usize,
    out_start: usize,
    flags: u32,
}

fn parts(op: &Matmul, call: &Call, at: At) -> Vec<Part> {
    let (a, b) = (&call.inputs[0], &call.inputs[1]);
    let [m, n, k] = super::sizes(op.layout, [a.rows, a.columns()], [b.rows, b.columns()]);
    let addend = if call.inputs.len() == 3 { HAS_ADDEND } else { 0 } | if at.adds { ACCUMULATE } else { 0 };
    let (a_start, out_start) = (at.a_row * a.columns(), at.out_row * call.outputs[0].columns());
    let longest = if call.device.cpu_driver { CACHED_STEPS } else { usize::MAX };
    b.parts()
        .flat_map(|(index, rows)| {
            let whole = Part { index, m, n, k, a_start, b_start: 0, out_start, flags: addend };
            match op.layout {
                Layout::NT => vec![Part { n: rows.len(), out_start: out_start + rows.start, ..whole }],
                Layout::NN => (rows.clone().step_by(longest))
                    .map(|first| Part {
                        k: (rows.end - first).min(longest),
                        a_start: a_start + first,
                        b_start: (first - rows.start) * n,
                        flags: if first == 0 { addend } else { ACCUMULATE },
                        ..whole
                    })
                    .collect(),
                Layout::TN => vec![Part { b_start: at.b_row * n, ..whole }],
            }
        })
        .collect()
}

/// Steps of k in which the columns of b that a tile reads fit the second-level cache of a core, with the rows of a.
const CACHED_STEPS: usize = 4096;

pub(super) fn launch(op: &Matmul, call: &Call, at: At) -> Vec<Dispatch> {
    let dispatch =
        |part: Part| dispatch(op, call, &part, &Variant::choose(&problem(op, call, &part), call.device, call.tuning), None);
    parts(op, call, at).into_iter().map(dispatch).collect()
}

/// The low-rank term goes with the part that starts the sums; where the kernels cannot take it, it follows as a product that adds to out.
pub(super) fn low_rank(op: &MatmulLowRank, call: &Call) -> Vec<Dispatch> {
    let [product, term] = op.products();
    let addend = |bind: Bind| if bind == Bind::Input(2) { Bind::Input(4) } else { bind };
    let inputs = [&call.inputs[..2], &call.inputs[4..]].concat();
    let inner = Call { inputs: &inputs, ..*call };
    let rank = call.inputs[2].columns();
    let plan: Vec<(Part, Variant)> = (parts(&product, &inner, At::default()).into_iter())
        .map(|part| (part, Variant::choose(&problem(&product, &inner, &part), call.device, call.tuning)))
        .collect();
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
        dispatches.extend(parts(&term, &inner, At::default()).into_iter().map(|part| {
            let part = Part { flags: ACCUMULATE, ..part };
            dispatch(&term, &inner, &part, &Variant::choose(&problem(&term, &inner, &part), call.device, call.tuning), None)
                .rebind(of_term)
        }));
    }
    dispatches
}

/// What a kernel is told of a low-rank term.
struct LowRank {
    rank: usize,
    scale: f64,
    v_start: usize,
}

fn dispatch(op: &Matmul, call: &Call, part: &Part, variant: &Variant, low_rank: Option<LowRank>) -> Dispatch {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let rows_of = |each: usize| part.m.div_ceil(each);
    let workgroups = match variant.grid {
        Grid::Tiles([rows, columns]) => [rows_of(rows) as u32, part.n.div_ceil(columns) as u32, 1],
        Grid::Blocks(size) => spread((rows_of(size) * part.n.div_ceil(size)).div_ceil(64)),
    };
    let (a_columns, b_columns) = (a.columns() as u32, b.columns() as u32);
    let (m, n, k) = (part.m as u32, part.n as u32, part.k as u32);
    let (a_start, out_start, out_row) = (part.a_start as u32, part.out_start as u32, out.columns() as u32);
    let (b_start, flags, scale) = (part.b_start as u32, part.flags, op.scale as f32);
    let params = if variant.parameters == Parameters::General {
        let (a_row, a_k, b_column, b_k) = match op.layout {
            Layout::NT => (a_columns, 1, b_columns, 1),
            Layout::NN => (a_columns, 1, 1, b_columns),
            Layout::TN => (1, a_columns, 1, b_columns),
        };
        GeneralParams { m, n, k, flags, scale, a_row, a_k, a_start, b_column, b_k, b_start, out_start, out_row }.bytes()
    } else {
        let (rank, low_rank_scale, v_start) =
            low_rank.as_ref().map_or((0, 0.0, 0), |term| (term.rank as u32, term.scale as f32, term.v_start as u32));
        let a_row = a_columns;
        Params { m, n, k, flags, scale, a_start, a_row, b_start, out_start, out_row, rank, low_rank_scale, v_start }.bytes()
    };
    // Without an addend its binding is any other input: the kernel does not read it.
    let addend = Bind::Input(if call.inputs.len() == 3 { 2 } else { 0 });
    let bindings = vec![Bind::Input(0), Bind::InputPart(1, part.index), addend, Bind::Output(0)];
    let work = 2.0 * part.m as f64 * part.n as f64 * part.k as f64;
    Dispatch { kernel: variant.kernel, constants: variant.constants.clone(), params, bindings, workgroups, work }
}

/// The part as it is in every run: row counts that change are replaced by their maximum.
fn problem(op: &Matmul, call: &Call, part: &Part) -> Problem {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let most_a_rows = a.tensor.shape.rows.max();
    let (m, k) = match op.layout {
        Layout::NT | Layout::NN => (most_a_rows, part.k),
        Layout::TN => (part.m, most_a_rows),
    };
    let lengths = [a.columns(), b.columns(), out.columns(), part.n, part.a_start, part.out_start];
    // Parts of b along k begin where a's columns do.
    let aligned = lengths.iter().all(|length| length.is_multiple_of(4)) && (op.layout == Layout::TN || part.k.is_multiple_of(4));
    let arithmetic = arithmetic::of(op.layout, [m, part.n, k], aligned, call.device);
    Problem { layout: op.layout, m, n: part.n, k, dtype: b.tensor.dtype, arithmetic, aligned }
}
