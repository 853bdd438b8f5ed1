//! `global_norm`: the Euclidean norm of all adapter gradients together, for clipping and for the log.
//!
//! `norm = sqrt(sum_i g_i^2)`
//!
//! | input | shape |
//! |---|---|
//! | gradients, one or more | `[1, N]` f32 each: a large adapter lies in several bindings |
//!
//! The output is `[1, 1]`. Two passes without atomics, so that the order of the additions, and with it the result, is always the same.
//!
//! **Gradient.** None.

use super::{Example, OpEntry, expect};
use crate::graph::{Bind, Call, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct GlobalNorm;

/// Workgroups of the first pass, for `elements` gradients: enough for any GPU, and few enough that the second pass is short.
/// An invocation adds up at most 16,384 numbers of a 4 GiB buffer.
fn partials(elements: usize) -> usize {
    elements.div_ceil(64 * 64).clamp(1, 1024)
}

impl Op for GlobalNorm {
    fn name(&self) -> &'static str {
        "global_norm"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.is_empty() {
            expect::count("global_norm", inputs, 1)?;
        }
        for gradients in inputs {
            expect::same("global_norm", "gradients", *gradients, TensorType::f32(Rows::Fixed(1), gradients.shape.columns))?;
        }
        Ok(vec![TensorType::f32(Rows::Fixed(1), 1)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it measures gradients, after differentiation")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let norm = inputs.iter().flat_map(|gradients| &gradients.data).map(|g| g * g).sum::<f64>().sqrt();
        vec![Matrix::new([1, 1], vec![norm])]
    }

    fn scratch(&self, inputs: &[TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32(Rows::Fixed(1), inputs.iter().map(|gradients| partials(gradients.shape.columns)).sum())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let pass = |kernel, params: Params, bindings, workgroups: usize, work| Dispatch {
            kernel,
            constants: vec![],
            params: params.bytes(),
            bindings,
            workgroups: [workgroups as u32, 1, 1],
            work,
        };
        let all: usize = call.inputs.iter().map(|gradients| gradients.elements()).sum();
        let mut passes = Vec::new();
        let mut first = 0;
        for (index, gradients) in call.inputs.iter().enumerate() {
            let (elements, partials) = (gradients.elements(), partials(gradients.elements()));
            let params = Params { elements: elements as u32, partials: partials as u32, first: first as u32 };
            let bindings = vec![Bind::Input(index), Bind::Scratch(0)];
            passes.push(pass(&SUMS, params, bindings, partials, elements as f64 / all as f64));
            first += partials;
        }
        let params = Params { elements: all as u32, partials: first as u32, first: 0 };
        passes.push(pass(&FINISH, params, vec![Bind::Scratch(0), Bind::Output(0)], 1, 0.0));
        passes
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        inputs.iter().map(|gradients| 2 * gradients[1] as u64).sum()
    }
}

kernel_params!(Params { elements: u32, partials: u32, first: u32 });

/// Up to 1,024 workgroups.
pub static SUMS: Kernel = Kernel::checked("global_norm", Params::FIELDS);

/// One workgroup.
pub static FINISH: Kernel = Kernel::checked("global_norm_finish", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "global_norm",
        kernels: vec![&SUMS, &FINISH],
        examples: |random| {
            let sizes = [(1, 1.0), (63, 1.0), (64, 1e-3), (1025, 1.0), (100_003, 1.0), (977, 1e4)];
            let pieces = [64 * 64 * 3 + 5, 1, 700].map(|elements| {
                let scale = if elements == 700 { 30.0 } else { 1.0 };
                (TensorType::f32(Rows::Fixed(1), elements), random.matrix([1, elements], scale))
            });
            let example = |(elements, scale)| {
                let gradients = TensorType::f32(Rows::Fixed(1), elements);
                Example::new(GlobalNorm, vec![(gradients, random.matrix([1, elements], scale))])
            };
            let pieces = Example::new(GlobalNorm, pieces.into());
            sizes.map(example).into_iter().chain([pieces]).collect()
        },
        tolerance: |_| 1e-6,
    }
}
