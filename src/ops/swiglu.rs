//! `swiglu`: the gated activation of Llama's MLP (Shazeer 2020, arXiv 2002.05202).
//!
//! `y = silu(gate) * up`, element by element, with `silu(g) = g s` and `s = 1 / (1 + e^-g)`
//!
//! | input | shape |
//! |---|---|
//! | gate | `[rows, columns]` f32 |
//! | up | `[rows, columns]` f32 |
//!
//! **Gradient.** `s' = s (1 - s)`, so `silu'(g) = s + g s (1 - s)`; hence `d_gate = d_y up silu'(gate)` and `d_up = d_y silu(gate)`.

use super::{Bind, Call, Dispatch, Example, Matrix, Op, OpEntry, Random, Vjp, expect, spread};
use crate::gpu::kernel::{Kernel, Needs};
use crate::graph::{DType, Rows, ShapeError, TensorType};
use crate::kernel_params;

/// Forward.
#[derive(Clone, Copy, Debug)]
pub struct Swiglu;

/// Inputs `gate, up, d_y`; outputs `d_gate, d_up`.
#[derive(Clone, Copy, Debug)]
pub struct SwigluBackward;

impl Op for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("swiglu", inputs, 2)?;
        expect::dtype("swiglu", "gate", inputs[0], DType::F32)?;
        expect::same("swiglu", "up", inputs[1], inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d_y) = vjp.d_outputs[0] else { return Ok(()) };
        if !vjp.wants(0) && !vjp.wants(1) {
            return Ok(());
        }
        let name = vjp.d_name(0);
        let gradients = vjp.graph.apply(SwigluBackward, &[vjp.inputs[0], vjp.inputs[1], d_y], name)?;
        for (input, gradient) in gradients.into_iter().enumerate() {
            if vjp.wants(input) {
                vjp.give(input, gradient);
            }
        }
        Ok(())
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [gate, up] = inputs else { unreachable!("checked by infer") };
        let y = gate.data.iter().zip(&up.data).map(|(g, u)| g * sigmoid(*g) * u).collect();
        vec![Matrix::new([gate.rows, gate.columns], y)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&FORWARD, call, vec![Bind::Input(0), Bind::Input(1), Bind::Output(0)])
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        5 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

impl Op for SwigluBackward {
    fn name(&self) -> &'static str {
        "swiglu_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("swiglu_backward", inputs, 3)?;
        expect::dtype("swiglu_backward", "gate", inputs[0], DType::F32)?;
        expect::same("swiglu_backward", "up", inputs[1], inputs[0])?;
        expect::same("swiglu_backward", "d_y", inputs[2], inputs[0])?;
        Ok(vec![inputs[0], inputs[0]])
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [gate, up, d_y] = inputs else { unreachable!("checked by infer") };
        let shape = [gate.rows, gate.columns];
        let (mut d_gate, mut d_up) = (Matrix::zeros(shape), Matrix::zeros(shape));
        for i in 0..gate.data.len() {
            let (g, s) = (gate.data[i], sigmoid(gate.data[i]));
            d_gate.data[i] = d_y.data[i] * up.data[i] * (s + g * s * (1.0 - s));
            d_up.data[i] = d_y.data[i] * g * s;
        }
        vec![d_gate, d_up]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        launch(&BACKWARD, call, vec![Bind::Input(0), Bind::Input(1), Bind::Input(2), Bind::Output(0), Bind::Output(1)])
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        10 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn launch(kernel: &'static Kernel, call: &Call, bindings: Vec<Bind>) -> Vec<Dispatch> {
    let elements = call.outputs[0].elements();
    let params = Params { elements: elements as u32 };
    vec![Dispatch {
        kernel,
        constants: vec![],
        params: params.bytes(),
        bindings,
        workgroups: spread(elements.div_ceil(1024)),
        work: 1.0,
    }]
}

kernel_params!(Params { elements: u32 });

/// One workgroup for 1,024 elements.
pub static FORWARD: Kernel = Kernel {
    name: "swiglu",
    shader: "swiglu",
    slots: &[],
    constants: &[],
    params: Params::FIELDS,
    needs: Needs::NONE,
    unchecked: true,
};

/// One workgroup for 1,024 elements.
pub static BACKWARD: Kernel = Kernel {
    name: "swiglu_backward",
    shader: "swiglu_backward",
    slots: &[],
    constants: &[],
    params: Params::FIELDS,
    needs: Needs::NONE,
    unchecked: true,
};

/// Examples with `matrices` inputs of one shape; the last holds large magnitudes, at which exp(-gate) overflows f32.
fn examples_of(random: &mut Random, op: impl Op + Copy + 'static, matrices: usize) -> Vec<Example> {
    let sizes = [(1, 1, 2.0), (3, 7, 4.0), (17, 65, 8.0), (9, 1536, 2.0), (5, 13, 1e4)];
    let example = |(rows, columns, scale)| {
        let x = TensorType::f32(Rows::Fixed(rows), columns);
        Example::new(op, (0..matrices).map(|_| (x, random.matrix([rows, columns], scale))).collect())
    };
    sizes.map(example).into()
}

pub(super) fn entry() -> OpEntry {
    OpEntry { name: "swiglu", kernels: vec![&FORWARD], examples: |random| examples_of(random, Swiglu, 2), tolerance: |_| 1e-6 }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "swiglu_backward",
        kernels: vec![&BACKWARD],
        examples: |random| examples_of(random, SwigluBackward, 3),
        tolerance: |_| 1e-5,
    }
}
