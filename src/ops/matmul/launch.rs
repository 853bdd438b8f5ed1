//! The parameters with which a product, or each part of one, is dispatched.

use super::variants::{Grid, Problem, Variant};
use super::{Layout, Matmul};
use crate::kernel_params;
use crate::ops::{Bind, Call, Dispatch, spread};

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

/// `a_first` and `out_first` are the rows of a and out at which the product begins.
fn parts(op: &Matmul, call: &Call, a_first: usize, out_first: usize) -> Vec<Part> {
    let (a, b) = (&call.inputs[0], &call.inputs[1]);
    let [m, n, k] = super::sizes(op.layout, [a.rows, a.columns()], [b.rows, b.columns()]);
    let addend = if call.inputs.len() == 3 { HAS_ADDEND } else { 0 };
    let (a_start, out_start) = (a_first * a.columns(), out_first * call.outputs[0].columns());
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
                Layout::TN => vec![whole],
            }
        })
        .collect()
}

/// Steps of k in which the columns of b that a tile reads fit the second-level cache of a core, with the rows of a.
const CACHED_STEPS: usize = 4096;

pub(super) fn launch(op: &Matmul, call: &Call, a_first: usize, out_first: usize) -> Vec<Dispatch> {
    parts(op, call, a_first, out_first).into_iter().map(|part| dispatch(op, call, &part)).collect()
}

fn dispatch(op: &Matmul, call: &Call, part: &Part) -> Dispatch {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let variant = Variant::choose(&problem(op, call, part), call.device);
    let rows_of = |each: usize| part.m.div_ceil(each);
    let workgroups = match variant.grid {
        Grid::Tiles([rows, columns]) => [rows_of(rows) as u32, part.n.div_ceil(columns) as u32, 1],
        Grid::Blocks(size) => spread((rows_of(size) * part.n.div_ceil(size)).div_ceil(64)),
    };
    let (a_columns, b_columns) = (a.columns() as u32, b.columns() as u32);
    let (m, n, k) = (part.m as u32, part.n as u32, part.k as u32);
    let (a_start, out_start, out_row) = (part.a_start as u32, part.out_start as u32, out.columns() as u32);
    let (b_start, flags, scale) = (part.b_start as u32, part.flags, op.scale as f32);
    let params = if variant.general {
        let (a_row, a_k, b_column, b_k) = match op.layout {
            Layout::NT => (a_columns, 1, b_columns, 1),
            Layout::NN => (a_columns, 1, 1, b_columns),
            Layout::TN => (1, a_columns, 1, b_columns),
        };
        GeneralParams { m, n, k, flags, scale, a_row, a_k, a_start, b_column, b_k, b_start, out_start, out_row }.bytes()
    } else {
        Params { m, n, k, flags, scale, a_start, a_row: a_columns, b_start, out_start, out_row }.bytes()
    };
    // Without an addend its binding is any other input: the kernel does not read it.
    let addend = Bind::Input(if call.inputs.len() == 3 { 2 } else { 0 });
    Dispatch {
        kernel: variant.kernel,
        constants: variant.constants,
        params,
        bindings: vec![Bind::Input(0), Bind::InputPart(1, part.index), addend, Bind::Output(0)],
        workgroups,
    }
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
    Problem { layout: op.layout, m, n: part.n, k, dtype: b.tensor.dtype, aligned }
}
