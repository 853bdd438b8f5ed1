//! Sinks: of each query head a score that every row's softmax has in its denominator, and no value for it.
//!
//! The kernels of [`super::Attention`] know nothing of them. With `lse` and `out` of the keys alone, those with a sink `z` are
//! `lse' = log(exp(lse) + exp(z))` and `out' = out exp(lse - lse') = out sigmoid(lse - z)`: a pass over `out`, after which the backward pass has
//! all that it needs.

use super::{Heads, spread};
use crate::graph::{Bind, Call, Dispatch};
use crate::kernel::Kernel;
use crate::kernel_params;

/// What puts the sinks, the last input, into both outputs.
pub(super) fn dispatch(heads: &Heads, call: &Call) -> Dispatch {
    let vectors = call.inputs[0].rows * heads.heads;
    Dispatch {
        kernel: &KERNEL,
        constants: vec![heads.size_constant()],
        params: Params { vectors: vectors as u32, heads: heads.heads as u32 }.bytes(),
        bindings: vec![Bind::Input(5), Bind::Output(0), Bind::Output(1)],
        workgroups: spread(vectors.div_ceil(64)),
        work: 0.0,
    }
}

kernel_params!(Params { vectors: u32, heads: u32 });

/// One invocation a (row, query head).
pub(super) static KERNEL: Kernel = Kernel::checked("attention_sinks", Params::FIELDS);
