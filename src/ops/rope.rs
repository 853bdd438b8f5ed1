//! `rope`: rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split form of Hugging Face's Llama.
//!
//! In the first `R` of every head's `D` columns the pair `(x[c], x[c + R/2])`, `c < R/2`, is rotated by the angle `position * f[c]`, and
//! multiplied by the attention factor `m` (1, but for YaRN and LongRoPE), which the table contains:
//!
//! `y[c] = m (x[c] cos - x[c + R/2] sin)`, `y[c + R/2] = m (x[c + R/2] cos + x[c] sin)`
//!
//! The other columns, of a partial rotation (`R < D`), stay as they are.
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, heads * D]` f32 | |
//! | position | `[rows, 1]` u32 | within the sequence |
//! | table | `[positions, R]` f32 | cosines in the first `R/2` columns, sines in the rest: [`rope_table`] |
//!
//! The table is made on the host in f64, since WGSL promises only 2^-11 absolute error for `sin` and `cos`.
//!
//! **Gradient.** The transpose of a rotation is that by the negative angle; the factor stays. So `d_x` is `d_y` through the same table
//! with negative sines.

use super::row_values::{FOURS, FOURS_WIDE, ONES, chosen};
use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::{Kernel, Needs};
use crate::kernel_params;
use std::ops::Range;

/// Rotates by the position's angle, or by its negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rope {
    /// `D`, columns of a head.
    pub head_dim: usize,
    /// `R`, the columns of a head that are rotated: even, at most `D`.
    pub rotary_dim: usize,
    /// Rotate by the negative angle.
    pub inverse: bool,
}

impl Rope {
    /// Forward, of all columns of a head.
    pub fn new(head_dim: usize) -> Self {
        Self { head_dim, rotary_dim: head_dim, inverse: false }
    }
}

/// The table of [`Rope`], `[positions, 2 * inverse_frequencies.len()]` row-major: row `p` holds `m cos(p f[c])`, then `m sin(p f[c])`,
/// with `m` the attention factor. Angles are in radians, computed in f64.
pub fn rope_table(inverse_frequencies: &[f64], attention_factor: f64, positions: usize) -> Vec<f32> {
    rope_table_of(inverse_frequencies, attention_factor, 0..positions)
}

/// [`rope_table`] whose first row is that of another position than 0.
pub fn rope_table_of(inverse_frequencies: &[f64], attention_factor: f64, positions: Range<usize>) -> Vec<f32> {
    let mut table = Vec::with_capacity(positions.len() * inverse_frequencies.len() * 2);
    for position in positions {
        let angles = inverse_frequencies.iter().map(|frequency| position as f64 * frequency);
        table.extend(angles.clone().map(|angle| (attention_factor * angle.cos()) as f32));
        table.extend(angles.map(|angle| (attention_factor * angle.sin()) as f32));
    }
    table
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("rope", inputs, 3)?;
        let [x, position, table] = [inputs[0], inputs[1], inputs[2]];
        if self.rotary_dim == 0 || !self.rotary_dim.is_multiple_of(2) || self.rotary_dim > self.head_dim {
            let expected = format!("even, at least 2, and at most head_dim {}", self.head_dim);
            return Err(ShapeError::new("rope", "rotary_dim", self.rotary_dim, expected));
        }
        expect::dtype("rope", "x", x, DType::F32)?;
        if !x.shape.columns.is_multiple_of(self.head_dim) {
            return Err(ShapeError::new("rope", "x", x, format!("a multiple of head_dim {} columns", self.head_dim)));
        }
        expect::same("rope", "position", position, TensorType::u32(x.shape.rows, 1))?;
        expect::same("rope", "table", table, TensorType::f32(table.shape.rows, self.rotary_dim))?;
        Ok(vec![x])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, position, table] = inputs else { unreachable!("checked by infer") };
        let half = self.rotary_dim / 2;
        let mut y = (*x).clone();
        for t in 0..x.rows {
            let angle = table.row(position.index(t, 0));
            for start in (0..x.columns).step_by(self.head_dim) {
                for c in 0..half {
                    let (cos, sin) = (angle[c], if self.inverse { -angle[c + half] } else { angle[c + half] });
                    let (first, second) = (x.row(t)[start + c], x.row(t)[start + c + half]);
                    y.row_mut(t)[start + c] = first * cos - second * sin;
                    y.row_mut(t)[start + c + half] = second * cos + first * sin;
                }
            }
        }
        vec![y]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let x = &call.inputs[0];
        let params = Params {
            rows: x.rows as u32,
            heads: (x.columns() / self.head_dim) as u32,
            positions: call.inputs[2].rows as u32,
            inverse: self.inverse as u32,
        };
        let in_fours = self.head_dim.is_multiple_of(4) && self.rotary_dim.is_multiple_of(8);
        vec![Dispatch {
            constants: vec![("HALF", (self.rotary_dim / 2) as f64), ("HEAD_DIM", self.head_dim as f64)],
            ..Dispatch::only(chosen(&KERNELS, call.device, in_fours, true), call, params.bytes(), spread(x.rows))
        }]
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        3 * (inputs[0][0] * inputs[0][1]) as u64
    }
}

impl Differentiate for Rope {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let inverse = Rope { inverse: !self.inverse, ..*self };
        let d_x = vjp.graph.apply_one(inverse, &[d_y, vjp.inputs[1], vjp.inputs[2]], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

kernel_params!(Params { rows: u32, heads: u32, positions: u32, inverse: u32 });

/// One workgroup a row: value by value, by fours, and by fours for CPU drivers.
static KERNELS: [Kernel; 3] = [
    kernel("rope", &[ONES]),
    kernel("rope_fours", &[FOURS]),
    Kernel { constants: &[("LANES", 8.0)], needs: Needs::WIDE_LOADS, ..kernel("rope_wide", &[FOURS_WIDE]) },
];

const fn kernel(name: &'static str, slots: &'static [(&'static str, &'static str)]) -> Kernel {
    Kernel { shader: "rope", slots, ..Kernel::plain(name, Params::FIELDS) }
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "rope",
        kernels: KERNELS.iter().collect(),
        examples: |random| {
            [(1, 1, 2, 2), (3, 1, 4, 4), (7, 3, 20, 20), (33, 9, 64, 64), (5, 2, 128, 96), (4, 3, 7, 2), (6, 4, 256, 256)]
                .map(|(rows, heads, head_dim, rotary_dim)| {
                    let rope = Rope { rotary_dim, inverse: rows % 2 == 0, ..Rope::new(head_dim) };
                    example(random, rows, heads, rope)
                })
                .into()
        },
        tolerance: |_| 1e-6,
    }
}

fn example(random: &mut Random, rows: usize, heads: usize, rope: Rope) -> Example {
    let Rope { head_dim, rotary_dim, .. } = rope;
    let positions = 50;
    let frequencies: Vec<f64> = (0..rotary_dim / 2).map(|c| 100f64.powf(-2.0 * c as f64 / rotary_dim as f64)).collect();
    let attention_factor = if rotary_dim < head_dim { 1.25 } else { 1.0 };
    let table = rope_table(&frequencies, attention_factor, positions).into_iter().map(f64::from).collect();
    let position = (0..rows).map(|_| random.below(positions) as f64).collect();
    let inputs = vec![
        (TensorType::f32(Rows::Fixed(rows), heads * head_dim), random.matrix([rows, heads * head_dim], 2.0)),
        (TensorType::u32(Rows::Fixed(rows), 1), Matrix::new([rows, 1], position)),
        (TensorType::f32(Rows::Fixed(positions), rotary_dim), Matrix::new([positions, rotary_dim], table)),
    ];
    Example::new(rope, inputs)
}
