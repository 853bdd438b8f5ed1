//! `cache_rows`: writes the keys or values of new tokens into the cache that attention reads in generation.
//!
//! `cache[position[t]] = x[t]`, in place; all other rows of the cache stay.
//!
//! | input | shape | |
//! |---|---|---|
//! | cache | `[positions, columns]` f32 | state |
//! | x | `[rows, columns]` f32 | |
//! | position | `[rows, 1]` u32 | each below `positions`, no two alike |
//!
//! Generation is not differentiated, so there is no gradient rule.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Bind, Call, Counts, DType, Derivative, Dispatch, Matrix, Op, Operand, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;
use std::sync::Arc;

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct CacheRows;

impl Op for CacheRows {
    fn name(&self) -> &'static str {
        "cache_rows"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("cache_rows", inputs, 3)?;
        let [cache, x, position] = [inputs[0], inputs[1], inputs[2]];
        expect::dtype("cache_rows", "cache", cache, DType::F32)?;
        expect::same("cache_rows", "x", x, TensorType::f32(x.shape.rows, cache.shape.columns))?;
        expect::same("cache_rows", "position", position, TensorType::u32(x.shape.rows, 1))?;
        Ok(vec![cache])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("generation is not differentiated")
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [cache, x, position] = inputs else { unreachable!("checked by infer") };
        let mut cache = (*cache).clone();
        for t in 0..x.rows {
            cache.row_mut(position.index(t, 0)).copy_from_slice(x.row(t));
        }
        vec![cache]
    }

    fn in_place(&self) -> &'static [(usize, usize)] {
        &[(0, 0)]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let (cache, x) = (&call.inputs[0], &call.inputs[1]);
        let params = Params { rows: x.rows as u32, columns: x.columns() as u32, positions: cache.rows as u32 };
        vec![Dispatch {
            bindings: vec![Bind::Input(1), Bind::Input(2), Bind::Output(0)],
            ..Dispatch::only(&CACHE_ROWS, call, params.bytes(), spread(x.elements().div_ceil(64)))
        }]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }

    /// Of the cache, only the rows that are written.
    fn traffic(&self, inputs: &[Operand], _: &[Operand]) -> u64 {
        2 * inputs[1].bytes() + inputs[2].bytes()
    }
}

kernel_params!(Params { rows: u32, columns: u32, positions: u32 });

static CACHE_ROWS: Kernel = Kernel::checked("cache_rows", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "cache_rows",
        kernels: vec![&CACHE_ROWS],
        examples: |random| {
            [(1, 1, 4, 0), (9, 3, 20, 5), (130, 127, 6, 2)]
                .map(|(positions, rows, columns, first)| {
                    let tokens = TensorType::f32(Rows::Tokens(rows + 2), columns);
                    let inputs = vec![
                        (TensorType::f32(Rows::Fixed(positions), columns), random.matrix([positions, columns], 1.0)),
                        (tokens, random.matrix([rows, columns], 1.0)),
                        (
                            TensorType::u32(Rows::Tokens(rows + 2), 1),
                            Matrix::new([rows, 1], (first..first + rows).map(|position| position as f64).collect()),
                        ),
                    ];
                    Example { op: Arc::new(CacheRows), inputs, counts: Counts { tokens: rows, supervised: 0 } }
                })
                .into()
        },
        tolerance: |_| 0.0,
    }
}
