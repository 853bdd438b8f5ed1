//! `to_experts`, `from_experts`, `expert_dots`: rows of tokens on their way to the experts and back.
//!
//! [`super::sort_by_expert`] says which entry `t K + j` stands at row s of the experts' rows (`rows`), and at which row an entry stands
//! (`places`). With w the weight of each entry, or 1 where there are no weights:
//!
//! | op | formula | inputs |
//! |---|---|---|
//! | to_experts | `y[s] = w[rows[s]] x[rows[s] / K]` | x `[T, columns]`, rows `[T K, 1]` u32, places `[T, K]` u32, weights `[T, K]` or none |
//! | from_experts | `x[t] = sum_j w[t, j] y[places[t, j]]` | y `[T K, columns]`, rows, places, weights or none |
//! | expert_dots | `w[t, j] = x[t] . y[places[t, j]]` | x, y, rows, places |
//!
//! **Gradient.** Each is linear in x, in y and in w, and all three are derivatives of the one sum `sum_tj w[t, j] x[t] . y[places[t, j]]`, by y,
//! by x and by w. So of each, the gradient by an operand is the op that gives that operand, with d in the place of what was given:
//! to_experts: `d_x = from_experts(d, w)`, `d_w = expert_dots(x, d)`. from_experts: `d_y = to_experts(d, w)`, `d_w = expert_dots(d, y)`.
//! expert_dots: `d_x = from_experts(y, d)`, `d_y = to_experts(x, d)`.

use super::row_values::{FOURS, ONES, SUM, SUM_IN_SUBGROUP};
use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{
    Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, ValueId, Vjp,
};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;

/// Inputs `x, rows, places` and optionally `weights`; output `y`.
#[derive(Clone, Copy, Debug)]
pub struct ToExperts;

/// Inputs `y, rows, places` and optionally `weights`; output `x`.
#[derive(Clone, Copy, Debug)]
pub struct FromExperts;

/// Inputs `x, y, rows, places`; output `w`.
#[derive(Clone, Copy, Debug)]
pub struct ExpertDots;

/// Checks rows and places, and gives the kinds of rows of tokens and of entries.
fn order(op: &'static str, rows: TensorType, places: TensorType) -> Result<(Rows, Rows), ShapeError> {
    expect::dtype(op, "places", places, DType::U32)?;
    let (tokens, experts) = (places.shape.rows, places.shape.columns);
    match tokens.sent_to(experts) {
        Some(entries) if experts > 0 => {
            expect::same(op, "rows", rows, TensorType::u32(entries, 1))?;
            Ok((tokens, entries))
        }
        _ => Err(ShapeError::new(op, "places", places, "a fixed number of rows, or one for each token, and a column or more")),
    }
}

/// Types of the operands of to_experts and from_experts, checked: rows of tokens and of entries.
fn moved(op: &'static str, what: &str, inputs: &[TensorType]) -> Result<(Rows, Rows), ShapeError> {
    if inputs.len() != 4 {
        expect::count(op, inputs, 3)?;
    }
    expect::dtype(op, what, inputs[0], DType::F32)?;
    let places = inputs[2];
    let (tokens, entries) = order(op, inputs[1], places)?;
    if let Some(&weights) = inputs.get(3) {
        expect::same(op, "weights", weights, TensorType::f32(tokens, places.shape.columns))?;
    }
    Ok((tokens, entries))
}

/// The inputs of the op that undoes another: a value, where it is in which order, and weights if there are any.
fn operands(value: ValueId, vjp: &Vjp) -> Vec<ValueId> {
    [&[value], &vjp.inputs[1..]].concat()
}

impl Op for ToExperts {
    fn name(&self) -> &'static str {
        "to_experts"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        let (tokens, entries) = moved("to_experts", "x", inputs)?;
        expect::rows("to_experts", "x", inputs[0], tokens)?;
        Ok(vec![TensorType::f32(entries, inputs[0].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (x, rows, experts) = (inputs[0], inputs[1], inputs[2].columns);
        let mut y = Matrix::zeros(outputs[0]);
        for s in 0..y.rows {
            let entry = rows.index(s, 0);
            let weight = inputs.get(3).map_or(1.0, |weights| weights.data[entry]);
            y.row_mut(s).iter_mut().zip(x.row(entry / experts)).for_each(|(y, x)| *y = weight * x);
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let y = &call.outputs[0];
        vec![dispatch(&TO_EXPERTS, call, y.rows, [0, 1], (y.columns(), call.inputs[0].rows), spread(y.rows))]
    }

    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        if inputs.len() == 4 { (outputs[0][0] * outputs[0][1]) as u64 } else { 0 }
    }
}

impl Differentiate for ToExperts {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            let (name, inputs) = (vjp.d_name(0), operands(d, vjp));
            let d_x = vjp.graph.apply_one(FromExperts, &inputs, name)?;
            vjp.give(0, d_x);
        }
        if vjp.inputs.len() == 4 && vjp.wants(3) {
            let name = vjp.d_name(3);
            let d_w = vjp.graph.apply_one(ExpertDots, &[vjp.inputs[0], d, vjp.inputs[1], vjp.inputs[2]], name)?;
            vjp.give(3, d_w);
        }
        Ok(())
    }
}

impl Op for FromExperts {
    fn name(&self) -> &'static str {
        "from_experts"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        let (tokens, entries) = moved("from_experts", "y", inputs)?;
        expect::rows("from_experts", "y", inputs[0], entries)?;
        Ok(vec![TensorType::f32(tokens, inputs[0].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (y, places) = (inputs[0], inputs[2]);
        let mut x = Matrix::zeros(outputs[0]);
        for (t, j) in (0..x.rows).flat_map(|t| (0..places.columns).map(move |j| (t, j))) {
            let weight = inputs.get(3).map_or(1.0, |weights| weights.row(t)[j]);
            x.row_mut(t).iter_mut().zip(y.row(places.index(t, j))).for_each(|(x, y)| *x += weight * y);
        }
        vec![x]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let x = &call.outputs[0];
        vec![dispatch(&FROM_EXPERTS, call, x.rows, [0, 2], (x.columns(), call.inputs[0].rows), spread(x.rows))]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        (inputs[0][0] * inputs[0][1]) as u64 * if inputs.len() == 4 { 2 } else { 1 }
    }
}

impl Differentiate for FromExperts {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d) = vjp.d_outputs[0] else { return Ok(()) };
        if vjp.wants(0) {
            let (name, inputs) = (vjp.d_name(0), operands(d, vjp));
            let d_y = vjp.graph.apply_one(ToExperts, &inputs, name)?;
            vjp.give(0, d_y);
        }
        if vjp.inputs.len() == 4 && vjp.wants(3) {
            let name = vjp.d_name(3);
            let d_w = vjp.graph.apply_one(ExpertDots, &[d, vjp.inputs[0], vjp.inputs[1], vjp.inputs[2]], name)?;
            vjp.give(3, d_w);
        }
        Ok(())
    }
}

impl Op for ExpertDots {
    fn name(&self) -> &'static str {
        "expert_dots"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "expert_dots";
        expect::count(OP, inputs, 4)?;
        let (tokens, entries) = order(OP, inputs[2], inputs[3])?;
        expect::same(OP, "x", inputs[0], TensorType::f32(tokens, inputs[0].shape.columns))?;
        expect::same(OP, "y", inputs[1], TensorType::f32(entries, inputs[0].shape.columns))?;
        Ok(vec![TensorType::f32(tokens, inputs[3].shape.columns)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (x, y, places) = (inputs[0], inputs[1], inputs[3]);
        let mut w = Matrix::zeros(outputs[0]);
        for (t, j) in (0..w.rows).flat_map(|t| (0..places.columns).map(move |j| (t, j))) {
            w.row_mut(t)[j] = x.row(t).iter().zip(y.row(places.index(t, j))).map(|(x, y)| x * y).sum();
        }
        vec![w]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (w, y) = (&call.outputs[0], &call.inputs[1]);
        let [ones, fours, subgroup8] = &DOTS;
        let (kernel, columns) = match by_fours(y.columns()) {
            Some(columns) if subgroup8.needs.met_by(call.device) => (subgroup8, columns),
            Some(columns) => (fours, columns),
            None => (ones, y.columns()),
        };
        let params = params(w.rows, columns, w.columns(), y.rows);
        let bindings = vec![Bind::Input(0), Bind::Input(1), Bind::Input(3), Bind::Output(0)];
        vec![Dispatch { bindings, ..Dispatch::only(kernel, call, params, spread(w.elements())) }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        2 * (inputs[1][0] * inputs[1][1]) as u64
    }
}

impl Differentiate for ExpertDots {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d) = vjp.d_outputs[0] else { return Ok(()) };
        let [x, y, rows, places] = [0, 1, 2, 3].map(|input| vjp.inputs[input]);
        if vjp.wants(0) {
            let name = vjp.d_name(0);
            let d_x = vjp.graph.apply_one(FromExperts, &[y, rows, places, d], name)?;
            vjp.give(0, d_x);
        }
        if vjp.wants(1) {
            let name = vjp.d_name(1);
            let d_y = vjp.graph.apply_one(ToExperts, &[x, rows, places, d], name)?;
            vjp.give(1, d_y);
        }
        Ok(())
    }
}

kernel_params!(
    /// What all three kernels are told; `columns` are counted in the values that it reads together, and `other_rows` are those of the operand that is
    /// read at chosen rows.
    Params { rows: u32, columns: u32, experts: u32, other_rows: u32 }
);

fn params(rows: usize, columns: usize, experts: usize, other_rows: usize) -> Vec<u8> {
    let [rows, columns, experts, other_rows] = [rows, columns, experts, other_rows].map(|number| number as u32);
    Params { rows, columns, experts, other_rows }.bytes()
}

/// to_experts or from_experts, of which the kernel reads these inputs beside the weights.
fn dispatch(
    [ones, fours]: &'static [Kernel; 2],
    call: &Call,
    rows: usize,
    inputs: [usize; 2],
    (columns, other_rows): (usize, usize),
    workgroups: [u32; 3],
) -> Dispatch {
    let (kernel, columns) = by_fours(columns).map_or((ones, columns), |columns| (fours, columns));
    let params = params(rows, columns, call.inputs[2].columns(), other_rows);
    let weighted = call.inputs.len() == 4;
    // Without weights their binding is any other input: the kernel does not read it.
    let weights = Bind::Input(if weighted { 3 } else { 0 });
    let bindings = inputs.map(Bind::Input).into_iter().chain([weights, Bind::Output(0)]).collect();
    let constants = if weighted { vec![("WEIGHTED", 1.0)] } else { Vec::new() };
    Dispatch { bindings, constants, ..Dispatch::only(kernel, call, params, workgroups) }
}

/// How many fours there are in a row, where they are all of it.
fn by_fours(columns: usize) -> Option<usize> {
    columns.is_multiple_of(4).then_some(columns / 4)
}

/// A kernel whose numbers of rows, which come from buffers, are bounded by it.
const fn kernel(name: &'static str, shader: &'static str, slots: &'static [(&'static str, &'static str)]) -> Kernel {
    Kernel { shader, slots, ..Kernel::plain(name, Params::FIELDS) }
}

/// One workgroup a row, value by value or by fours.
static TO_EXPERTS: [Kernel; 2] =
    [kernel("to_experts", "to_experts", &[ONES]), kernel("to_experts_fours", "to_experts", &[FOURS])];
static FROM_EXPERTS: [Kernel; 2] =
    [kernel("from_experts", "from_experts", &[ONES]), kernel("from_experts_fours", "from_experts", &[FOURS])];

/// One workgroup an entry: value by value, by fours, and for CPU drivers with subgroups of 8 without barriers.
static DOTS: [Kernel; 3] = [
    kernel("expert_dots", "expert_dots", &[ONES, SUM]),
    kernel("expert_dots_fours", "expert_dots", &[FOURS, SUM]),
    Kernel {
        constants: &[("LANES", 8.0)],
        needs: Needs { cpu_driver: true, subgroup_size: Some(8), ..Needs::NONE },
        ..kernel("expert_dots_subgroup8", "expert_dots", &[FOURS, SUM_IN_SUBGROUP])
    },
];

/// T, K, columns.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [1, 2, 64], [9, 3, 7], [70, 2, 65], [33, 8, 128]];

/// Any order of the entries, and its inverse.
fn any_order(random: &mut Random, [tokens, experts, _]: [usize; 3]) -> [(TensorType, Matrix); 2] {
    let entries = tokens * experts;
    let mut rows: Vec<usize> = (0..entries).collect();
    (1..entries).rev().for_each(|at| rows.swap(at, random.below(at + 1)));
    let mut places = Matrix::zeros([tokens, experts]);
    rows.iter().enumerate().for_each(|(row, &entry)| places.data[entry] = row as f64);
    let rows = Matrix::new([entries, 1], rows.into_iter().map(|entry| entry as f64).collect());
    [(TensorType::u32(Rows::Fixed(entries), 1), rows), (TensorType::u32(Rows::Fixed(tokens), experts), places)]
}

fn values(random: &mut Random, size: [usize; 2]) -> (TensorType, Matrix) {
    (TensorType::f32(Rows::Fixed(size[0]), size[1]), random.matrix(size, 2.0))
}

fn examples(random: &mut Random, op: impl Op + Copy + 'static, rows: impl Fn([usize; 3]) -> usize) -> Vec<Example> {
    let mut examples = Vec::new();
    for (size, weighted) in SIZES.into_iter().flat_map(|size| [(size, false), (size, true)]) {
        let mut inputs = vec![values(random, [rows(size), size[2]])];
        inputs.extend(any_order(random, size));
        inputs.extend(weighted.then(|| values(random, [size[0], size[1]])));
        examples.push(Example::new(op, inputs));
    }
    examples
}

pub(super) fn to_entry() -> OpEntry {
    OpEntry {
        name: "to_experts",
        kernels: TO_EXPERTS.iter().collect(),
        examples: |random| examples(random, ToExperts, |[tokens, ..]| tokens),
        tolerance: |_| 1e-6,
    }
}

pub(super) fn from_entry() -> OpEntry {
    OpEntry {
        name: "from_experts",
        kernels: FROM_EXPERTS.iter().collect(),
        examples: |random| examples(random, FromExperts, |[tokens, experts, _]| tokens * experts),
        tolerance: |_| 1e-6,
    }
}

pub(super) fn dots_entry() -> OpEntry {
    OpEntry {
        name: "expert_dots",
        kernels: DOTS.iter().collect(),
        examples: |random| {
            let example = |size: [usize; 3]| {
                let mut inputs = [size[0], size[0] * size[1]].map(|rows| values(random, [rows, size[2]])).to_vec();
                inputs.extend(any_order(random, size));
                Example::new(ExpertDots, inputs)
            };
            SIZES.map(example).into()
        },
        // 1e-6 * sqrt(columns), as of a product.
        tolerance: |example| 1e-6 * (example.inputs[0].0.shape.columns as f64).sqrt(),
    }
}
