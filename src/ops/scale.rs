//! `scale`: a matrix times a constant.
//!
//! `y = factor x`, `[rows, columns]` f32
//!
//! **Gradient.** `d_x = factor d_y`: the op itself.

use super::add::Add;
use super::{Example, OpEntry, expect, spread};
use crate::graph::{
    Call, DType, Derivative, Differentiate, Dispatch, Graph, Matrix, Op, Rows, ShapeError, TensorType, ValueId, Vjp,
};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct Scale {
    pub factor: f64,
}

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("scale", inputs, 1)?;
        expect::dtype("scale", "x", inputs[0], DType::F32)?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let x = inputs[0];
        vec![Matrix::new([x.rows, x.columns], x.data.iter().map(|x| self.factor * x).collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let elements = call.outputs[0].elements();
        vec![Dispatch::only(
            &KERNEL,
            call,
            Params { elements: elements as u32, factor: self.factor as f32 }.bytes(),
            spread(elements.div_ceil(1024)),
        )]
    }
}

/// A value that is as far as `strength` on the way from one to the other: `(1 - strength) from + strength to`.
///
/// # Errors
/// A [`ShapeError`] if the two are not of one shape.
pub fn between(graph: &mut Graph, [from, to]: [ValueId; 2], strength: f64, name: &str) -> Result<ValueId, ShapeError> {
    let from = graph.apply_one(Scale { factor: 1.0 - strength }, &[from], format!("{name}.from"))?;
    let to = graph.apply_one(Scale { factor: strength }, &[to], format!("{name}.to"))?;
    graph.apply_one(Add, &[from, to], name)
}

impl Differentiate for Scale {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(*self, &[d_y], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

kernel_params!(Params { elements: u32, factor: f32 });

/// One workgroup for 1,024 elements.
pub static KERNEL: Kernel = Kernel::checked("scale", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "scale",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |(rows, columns, factor)| {
                let matrix = TensorType::f32(Rows::Fixed(rows), columns);
                Example::new(Scale { factor }, vec![(matrix, random.matrix([rows, columns], 1.0))])
            };
            [(1, 1, 0.5), (7, 9, -3.0), (130, 65, 1e4), (5, 5, 0.0)].map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}
