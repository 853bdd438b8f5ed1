//! Which kernel multiplies, and with which parameters.

use super::{Layout, Matmul};
use crate::gpu::kernel::{Kernel, Needs};
use crate::graph::DType;
use crate::kernel_params;
use crate::ops::{Bind, Call, Dispatch, spread};

kernel_params!(GeneralParams {
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
    out_start: u32,
    out_row: u32,
});

const HAS_ADDEND: u32 = 1;
const ACCUMULATE: u32 = 2;

macro_rules! general {
    ($name:ident, $label:literal, $weights:literal) => {
        static $name: Kernel = Kernel {
            name: $label,
            sources: &[include_str!($weights), include_str!("../../../shaders/matmul_general.wgsl")],
            constants: &[],
            params: GeneralParams::FIELDS,
            needs: Needs::NONE,
            unchecked: false,
        };
    };
}
general!(GENERAL_F32, "matmul_general_f32", "../../../shaders/common/weights_f32.wgsl");
general!(GENERAL_BF16, "matmul_general_bf16", "../../../shaders/common/weights_bf16.wgsl");
general!(GENERAL_F16, "matmul_general_f16", "../../../shaders/common/weights_f16.wgsl");

/// Every kernel that [`launch`] may choose.
pub fn kernels() -> Vec<&'static Kernel> {
    vec![&GENERAL_F32, &GENERAL_BF16, &GENERAL_F16]
}

/// One product, or one part of it where `b` is split by rows: parts of an NT product make ranges of the output's columns,
/// parts of an NN product are ranges of k, of which the later ones add to the first.
struct Part {
    index: usize,
    m: usize,
    n: usize,
    k: usize,
    /// First element of a, of out.
    a_start: usize,
    out_start: usize,
    flags: u32,
}

/// `a_first` and `out_first` are the rows of a and out at which the product begins.
fn parts(op: &Matmul, call: &Call, a_first: usize, out_first: usize) -> Vec<Part> {
    let (a, b) = (&call.inputs[0], &call.inputs[1]);
    let [m, n, k] = super::sizes(op.layout, [a.rows, a.columns()], [b.rows, b.columns()]);
    let addend = if call.inputs.len() == 3 { HAS_ADDEND } else { 0 };
    let (a_start, out_start) = (a_first * a.columns(), out_first * call.outputs[0].columns());
    b.parts()
        .map(|(index, rows)| match op.layout {
            Layout::NT => Part { index, m, n: rows.len(), k, a_start, out_start: out_start + rows.start, flags: addend },
            Layout::NN => {
                let flags = if index == 0 { addend } else { ACCUMULATE };
                Part { index, m, n, k: rows.len(), a_start: a_start + rows.start, out_start, flags }
            }
            Layout::TN => Part { index, m, n, k, a_start, out_start, flags: addend },
        })
        .collect()
}

pub(super) fn launch(op: &Matmul, call: &Call, a_first: usize, out_first: usize) -> Vec<Dispatch> {
    parts(op, call, a_first, out_first).into_iter().map(|part| general(op, call, &part)).collect()
}

fn general(op: &Matmul, call: &Call, part: &Part) -> Dispatch {
    let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
    let (a_columns, b_columns) = (a.columns() as u32, b.columns() as u32);
    let (a_row, a_k, b_column, b_k) = match op.layout {
        Layout::NT => (a_columns, 1, b_columns, 1),
        Layout::NN => (a_columns, 1, 1, b_columns),
        Layout::TN => (1, a_columns, 1, b_columns),
    };
    let params = GeneralParams {
        m: part.m as u32,
        n: part.n as u32,
        k: part.k as u32,
        flags: part.flags,
        scale: op.scale as f32,
        a_row,
        a_k,
        a_start: part.a_start as u32,
        b_column,
        b_k,
        out_start: part.out_start as u32,
        out_row: out.columns() as u32,
    };
    let kernel = match b.tensor.dtype {
        DType::BF16 => &GENERAL_BF16,
        DType::F16 => &GENERAL_F16,
        DType::F32 | DType::U32 => &GENERAL_F32,
    };
    // Without an addend its binding is any other input: the kernel does not read it.
    let addend = Bind::Input(if call.inputs.len() == 3 { 2 } else { 0 });
    Dispatch {
        kernel,
        constants: vec![],
        params: params.bytes(),
        bindings: vec![Bind::Input(0), Bind::InputPart(1, part.index), addend, Bind::Output(0)],
        workgroups: spread((part.m.div_ceil(4) * part.n.div_ceil(4)).div_ceil(64)),
    }
}
