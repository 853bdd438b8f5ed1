//! `matmul_experts`: a product for each expert, of the rows that were sent to it and a matrix of its own, all in one dispatch.
//!
//! The matrices of the E experts lie one below the other in `b` (and in the out of TN). The rows of a lie by expert: those of expert e are
//! `offsets[e] .. offsets[e + 1]`, as [`crate::ops::sort_by_expert`] has them.
//!
//! | layout | formula, for each e | a | b | offsets | out | used for |
//! |---|---|---|---|---|---|---|
//! | NT | `s a_e b_e^T + c` | `[S, k]` | `[E n, k]` | `[E + 1, 1]` u32 | `[S, n]` | forward |
//! | NN | `s a_e b_e + c` | `[S, k]` | `[E k, n]` | as above | `[S, n]` | gradient of the input |
//! | TN | `s a_e^T b_e + c` | `[S, m]` | `[S, n]` | as above | `[E m, n]` | gradient of adapters; k runs over the expert's rows |
//!
//! How many rows an expert has is known to the device alone, so the host starts as many workgroups as there can be tiles, S / (rows of a
//! tile) + E, and each finds its tile by the offsets; those beyond the last end at once. No row is dropped and none is padded. In TN an
//! expert without rows gets zeros (and c).
//!
//! **Gradient.** As that of [`Matmul`], by the same offsets.

use super::forms::Variant;
use super::launch::{self, ALONG_ROWS, OPERATIONS_OF_A_DISPATCH, Part};
use super::variants::Problem;
use super::{Matmul, algorithms};
use crate::graph::{
    Bind, Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType, Vjp,
};
use crate::kernel::{Arithmetic, Layout};
use crate::ops::{Example, MOST_WORKGROUPS, OpEntry, Random, expect};
use std::ops::Range;

const OP: &str = "matmul_experts";

/// Inputs `a, b, offsets` and optionally `c`.
#[derive(Clone, Copy, Debug)]
pub struct MatmulExperts {
    pub layout: Layout,
    pub scale: f64,
}

impl MatmulExperts {
    fn product(&self) -> Matmul {
        Matmul { layout: self.layout, scale: self.scale }
    }
}

/// How many experts these offsets are of.
fn experts(offsets: &TensorType) -> usize {
    offsets.shape.rows.max() - 1
}

impl Op for MatmulExperts {
    fn name(&self) -> &'static str {
        "matmul_experts"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != 4 {
            expect::count(OP, inputs, 3)?;
        }
        let (a, b, offsets) = (inputs[0], inputs[1], inputs[2]);
        expect::dtype(OP, "a", a, DType::F32)?;
        let experts = match offsets.shape.rows {
            Rows::Fixed(n) if (2..=MOST_WORKGROUPS + 1).contains(&n) => n - 1,
            _ => return Err(ShapeError::new(OP, "offsets", offsets, format!("from 2 to {} rows", MOST_WORKGROUPS + 1))),
        };
        expect::same(OP, "offsets", offsets, TensorType::u32(Rows::Fixed(experts + 1), 1))?;
        let out = match self.layout {
            Layout::NT | Layout::NN => {
                expect::weight(OP, "b", b)?;
                let rows = match b.shape.rows {
                    Rows::Fixed(rows) if rows.is_multiple_of(experts) && rows > 0 => rows / experts,
                    _ => return Err(ShapeError::new(OP, "b", b, format!("as many rows for each of {experts} experts"))),
                };
                if rows.saturating_mul(b.shape.columns).saturating_mul(experts) > u32::MAX as usize {
                    return Err(ShapeError::new(OP, "b", b, "at most 4294967295 elements"));
                }
                let (steps, columns) = if self.layout == Layout::NT { (b.shape.columns, rows) } else { (rows, b.shape.columns) };
                expect::columns(OP, "a", a, steps)?;
                TensorType::f32(a.shape.rows, columns)
            }
            Layout::TN => {
                expect::dtype(OP, "b", b, DType::F32)?;
                expect::rows(OP, "b", b, a.shape.rows)?;
                let Some(rows) = a.shape.columns.checked_mul(experts) else {
                    return Err(ShapeError::new(OP, "a", a, "fewer columns"));
                };
                TensorType::f32(Rows::Fixed(rows), b.shape.columns)
            }
        };
        if let Some(&addend) = inputs.get(3) {
            expect::same(OP, "addend", addend, out)?;
        }
        Ok(vec![out])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let (a, b, offsets) = (inputs[0], inputs[1], inputs[2]);
        let mut out = inputs.get(3).map_or_else(|| Matrix::zeros(outputs[0]), |addend| (*addend).clone());
        let part = |matrix: &Matrix, rows: Range<usize>| {
            Matrix::new(
                [rows.len(), matrix.columns],
                matrix.data[rows.start * matrix.columns..rows.end * matrix.columns].to_vec(),
            )
        };
        let count = offsets.rows - 1;
        for expert in 0..count {
            let own = offsets.index(expert, 0)..offsets.index(expert + 1, 0);
            let of_each = |matrix: &Matrix| expert * (matrix.rows / count)..(expert + 1) * (matrix.rows / count);
            let along_rows = self.layout == Layout::TN;
            let b_rows = if along_rows { own.clone() } else { of_each(b) };
            let out_rows = if along_rows { of_each(&out) } else { own.clone() };
            let (a, b, before) = (part(a, own), part(b, b_rows), part(&out, out_rows.clone()));
            let shape = [before.rows, before.columns];
            let product = self.product().reference(&[&a, &b, &before], &[shape]);
            out.data[out_rows.start * out.columns..out_rows.end * out.columns].copy_from_slice(&product[0].data);
        }
        vec![out]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let count = experts(&call.inputs[2].tensor);
        let operands = [&call.inputs[..2], &call.inputs[3..]].concat();
        let inner = Call { inputs: &operands, ..*call };
        let dispatches = match self.layout {
            Layout::TN => vec![self.along_rows(&inner, count)],
            Layout::NT | Layout::NN => {
                let b = &call.inputs[1];
                let parts = b.parts().flat_map(|(index, rows)| pieces(index, rows, b.rows / count));
                parts.flat_map(|piece| self.of_piece(&inner, piece, count)).collect()
            }
        };
        let places = |bind: Bind| if bind == Bind::Input(2) { Bind::Input(3) } else { bind };
        let mut dispatches: Vec<Dispatch> = dispatches.into_iter().map(|dispatch| dispatch.rebind(places)).collect();
        dispatches.iter_mut().for_each(|dispatch| dispatch.bindings.push(Bind::Input(2)));
        dispatches
    }

    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        let other = if self.layout == Layout::TN { inputs[1][1] } else { outputs[0][1] };
        2 * (inputs[0][0] * inputs[0][1] * other) as u64
    }

    /// Of b, only the matrices of as many experts as there can be rows for.
    fn traffic(&self, inputs: &[Operand], outputs: &[Operand]) -> u64 {
        let all = inputs.iter().chain(outputs).map(Operand::bytes).sum::<u64>();
        let count = experts(&inputs[2].tensor);
        let idle = if self.layout == Layout::TN { 0 } else { count - count.min(inputs[0].rows) };
        all - inputs[1].bytes() / count as u64 * idle as u64
    }
}

/// Rows of b that lie in one binding, cut where an expert ends: whole experts, of which there may be any number, and what the binding has of
/// an expert that lies in two.
struct Piece {
    index: usize,
    experts: Range<usize>,
    /// Of the expert's own rows those that are here; all of them for whole experts.
    rows: Range<usize>,
    /// The row of the binding at which they begin.
    first: usize,
}

/// The pieces of a part that holds these rows of b, of which each expert has `each`.
fn pieces(index: usize, part: Range<usize>, each: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut row = part.start;
    while row < part.end {
        let expert = row / each;
        let whole = part.end / each;
        let (experts, rows) = if row.is_multiple_of(each) && whole > expert {
            (expert..whole, 0..each)
        } else {
            let end = ((expert + 1) * each).min(part.end);
            (expert..expert + 1, row - expert * each..end - expert * each)
        };
        let first = row - part.start;
        row = (experts.end - 1) * each + rows.end;
        pieces.push(Piece { index, experts, rows, first });
    }
    pieces
}

impl MatmulExperts {
    /// The dispatches of one piece of b, in NT and NN: as many as a watchdog and the dimensions of a dispatch ask for.
    fn of_piece(&self, call: &Call, piece: Piece, experts: usize) -> Vec<Dispatch> {
        let (a, b, out) = (&call.inputs[0], &call.inputs[1], &call.outputs[0]);
        let addend = if call.inputs.len() == 3 { launch::HAS_ADDEND } else { 0 };
        let whole = Part {
            index: piece.index,
            b_start: piece.first * b.columns(),
            experts: [piece.experts.start, piece.experts.end],
            m: a.rows,
            ..Part::default()
        };
        let part = match self.layout {
            Layout::NN => Part {
                n: out.columns(),
                k: piece.rows.len(),
                a_start: piece.rows.start,
                flags: if piece.rows.start == 0 { addend } else { launch::ACCUMULATE },
                ..whole
            },
            _ => Part { n: piece.rows.len(), k: a.columns(), out_start: piece.rows.start, flags: addend, ..whole },
        };
        let variant = Variant::for_experts(&self.problem(call, &part, experts), call.device);
        let [tile, _] = variant.grid.block();
        // As many tiles as rows can fill, and one more for each expert whose last is not full; not more than rows.
        let tiles = |rows: usize| rows.min(rows / tile + piece.experts.len());
        let at_once = (OPERATIONS_OF_A_DISPATCH / (2 * tile * part.n * part.k).max(1)).clamp(1, MOST_WORKGROUPS);
        let most = tiles(a.tensor.shape.rows.max()).max(1);
        let dispatch = |first_tile: usize| {
            let own = tiles(a.rows).saturating_sub(first_tile).min(at_once);
            // The kernel knows its rows by the offsets; these are for how many tiles there are workgroups.
            let part = Part { first_tile, m: own * tile, ..part };
            let mut dispatch = launch::dispatch(&self.product(), call, &part, &variant, None);
            dispatch.work *= piece.experts.len() as f64;
            dispatch
        };
        (0..most).step_by(at_once).map(dispatch).collect()
    }

    /// TN: each expert is a layer of the dispatch.
    fn along_rows(&self, call: &Call, experts: usize) -> Dispatch {
        let (a, b) = (&call.inputs[0], &call.inputs[1]);
        let addend = if call.inputs.len() == 3 { launch::HAS_ADDEND } else { 0 };
        let part = Part { m: a.columns(), n: b.columns(), k: a.rows, flags: addend | ALONG_ROWS, ..Part::default() };
        let variant = Variant::for_experts(&self.problem(call, &part, experts), call.device);
        let mut dispatch = launch::dispatch(&self.product(), call, &part, &variant, None);
        dispatch.workgroups[2] = experts as u32;
        dispatch
    }

    /// What the choice of a kernel depends on: an expert has its share of the rows.
    fn problem(&self, call: &Call, part: &Part, experts: usize) -> Problem {
        let problem = launch::problem(&self.product(), call, part);
        // Not one row alone: kernels for it would take it to be everywhere the same matrix.
        let share = (call.inputs[0].tensor.shape.rows.max() / experts).max(2);
        let [m, k] = if self.layout == Layout::TN { [problem.m, share] } else { [share, problem.k] };
        Problem { m, k, arithmetic: Arithmetic::F32, ..problem }
    }
}

impl Differentiate for MatmulExperts {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let Some(d) = vjp.d_outputs[0] else { return Ok(()) };
        let (a, b, offsets) = (vjp.inputs[0], vjp.inputs[1], vjp.inputs[2]);
        let gradients = self.product().gradients(d, [a, b]);
        for (input, (layout, operands)) in gradients.into_iter().enumerate() {
            if vjp.wants(input) {
                let operands: Vec<_> = operands.into_iter().chain([offsets]).chain(vjp.take_partial(input)).collect();
                let name = vjp.d_name(input);
                let gradient = vjp.graph.apply_one(Self { layout, ..*self }, &operands, name)?;
                vjp.give(input, gradient);
            }
        }
        if vjp.inputs.len() == 4 && vjp.wants(3) {
            vjp.give(3, d);
        }
        Ok(())
    }
}

/// Rows, m or n, k, and how the rows fall to the experts.
type Size = ([usize; 3], &'static [usize]);

const SIZES: [Size; 10] = [
    // One expert has all rows, the first and the last none.
    ([20, 64, 32], &[0, 20, 0]),
    ([33, 8, 64], &[1, 0, 15, 17]),
    ([17, 96, 8], &[16, 1]),
    ([7, 5, 3], &[2, 0, 5]),
    ([70, 36, 100], &[65, 5]),
    ([150, 68, 64], &[129, 0, 20, 1]),
    ([5, 64, 128], &[5]),
    ([2, 96, 64], &[0, 1, 0, 0, 1, 0, 0, 0]),
    ([45, 256, 256], &[33, 0, 12]),
    // An odd number of rows in a matrix, of whole blocks.
    ([9, 35, 64], &[2, 7]),
];

/// Whole blocks of every format, for the formats that have the same kernels as others but for the loader: few rows an expert, some, many, and
/// matrices of an odd number of rows.
const SIZES_OF_BLOCKS: [Size; 4] =
    [([7, 256, 256], &[2, 0, 5]), ([45, 256, 512], &[33, 0, 12]), ([70, 288, 256], &[65, 5]), ([9, 35, 256], &[2, 7])];

/// Formats that are multiplied in all [`SIZES`].
const IN_ALL_SIZES: [DType; 4] = [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_1];

fn example(
    random: &mut Random,
    layout: Layout,
    (size, counts): ([usize; 3], &[usize]),
    dtype: DType,
    addend: bool,
) -> Option<Example> {
    let ([rows, n, k], experts) = (size, counts.len());
    let (a, b, out) = match layout {
        Layout::NT => ([rows, k], [experts * n, k], [rows, n]),
        Layout::NN => ([rows, k], [experts * k, n], [rows, n]),
        Layout::TN => ([rows, n], [rows, k], [experts * n, k]),
    };
    b[1].is_multiple_of(dtype.block()).then_some(())?;
    let mut input = |[rows, columns]: [usize; 2], dtype| {
        (TensorType::new(Rows::Fixed(rows), columns, dtype), random.stored([rows, columns], 1.0, dtype))
    };
    let ends = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end as f64)
    });
    let offsets = Matrix::new([experts + 1, 1], std::iter::once(0.0).chain(ends).collect());
    let mut inputs = vec![input(a, DType::F32), input(b, dtype), (TensorType::u32(Rows::Fixed(experts + 1), 1), offsets)];
    if addend {
        inputs.push(input(out, DType::F32));
    }
    Some(Example::new(MatmulExperts { layout, scale: if addend { 0.5 } else { 1.0 } }, inputs))
}

pub(in crate::ops) fn entry() -> OpEntry {
    OpEntry {
        name: OP,
        kernels: algorithms::expert_kernels(),
        examples: |random| {
            let mut examples = Vec::new();
            let mut of = |random: &mut Random, size, dtype, addend| {
                for layout in [Layout::NT, Layout::NN] {
                    examples.extend(example(random, layout, size, dtype, addend));
                }
            };
            for (index, size) in SIZES.into_iter().enumerate() {
                IN_ALL_SIZES.into_iter().for_each(|dtype| of(random, size, dtype, index % 2 == 1));
            }
            for (index, size) in SIZES_OF_BLOCKS.into_iter().enumerate() {
                let others = DType::WEIGHTS.into_iter().filter(|dtype| !IN_ALL_SIZES.contains(dtype));
                others.for_each(|dtype| of(random, size, dtype, index % 2 == 1));
            }
            for (index, size) in SIZES.into_iter().enumerate() {
                examples.extend(example(random, Layout::TN, size, DType::F32, index % 2 == 1));
            }
            examples
        },
        // 1e-6 * sqrt(k): rounding grows with the length of the sums.
        tolerance: |example| 1e-6 * (example.inputs[0].1.rows.max(example.inputs[0].1.columns) as f64).sqrt(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever bindings end, every row of every expert is in one piece, in order.
    #[test]
    fn pieces_hold_every_row_of_every_expert_once() {
        let cases: [(usize, &[usize]); 5] =
            [(3, &[0]), (3, &[0, 3, 9]), (4, &[0, 2, 5, 6]), (10, &[0, 4, 8, 12, 29]), (1, &[0, 5])];
        for (each, starts) in cases {
            let rows = (3 * each).max(starts[starts.len() - 1] + 1).next_multiple_of(each);
            let mut seen = Vec::new();
            for (index, &start) in starts.iter().enumerate() {
                let end = starts.get(index + 1).copied().unwrap_or(rows);
                let mut at = 0;
                for piece in pieces(index, start..end, each) {
                    assert_eq!((piece.index, piece.first), (index, at));
                    assert!(piece.experts.len() == 1 || piece.rows == (0..each));
                    for expert in piece.experts {
                        seen.extend(piece.rows.clone().map(|row| expert * each + row));
                        at += piece.rows.len();
                    }
                }
            }
            assert_eq!(seen, (0..rows).collect::<Vec<_>>(), "{each} {starts:?}");
        }
    }
}
