//! `sort_by_expert`: which rows each expert has to do.
//!
//! A token that is sent to K experts makes K entries, `t K + j`. They are sorted by expert, and where that is equal by their number: `rows[s]` is
//! the entry that stands at row s, `places[t, j]` the row at which entry `t K + j` stands, and the rows of expert e are
//! `offsets[e] .. offsets[e + 1]`. There are as many rows as entries: none is dropped, and no row is without one.
//!
//! | value | shape | |
//! |---|---|---|
//! | numbers | `[T, K]` u32 | each below E |
//! | rows | `[T K, 1]` u32 | |
//! | places | `[T, K]` u32 | the inverse of rows |
//! | offsets | `[E + 1, 1]` u32 | ascending, from 0 to T K |
//!
//! **Gradient.** None: these are numbers of rows.

use super::{Example, MOST_WORKGROUPS, OpEntry, expect};
use crate::graph::{Call, DType, Derivative, Dispatch, Matrix, Op, Rows, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;

const OP: &str = "sort_by_expert";

/// Input `numbers`; outputs `rows, places, offsets`.
#[derive(Clone, Copy, Debug)]
pub struct SortByExpert {
    /// E.
    pub experts: usize,
}

impl Op for SortByExpert {
    fn name(&self) -> &'static str {
        "sort_by_expert"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count(OP, inputs, 1)?;
        let numbers = inputs[0];
        expect::dtype(OP, "numbers", numbers, DType::U32)?;
        if !(1..=MOST_WORKGROUPS).contains(&self.experts) {
            return Err(ShapeError::new(OP, "experts", self.experts, format!("from 1 to {MOST_WORKGROUPS}")));
        }
        let Some(rows) = numbers.shape.rows.sent_to(numbers.shape.columns) else {
            return Err(ShapeError::new(OP, "numbers", numbers, "a fixed number of rows, or one for each token"));
        };
        Ok(vec![TensorType::u32(rows, 1), numbers, TensorType::u32(Rows::Fixed(self.experts + 1), 1)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it gives numbers of rows, which have none")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let numbers = inputs[0];
        let mut entries: Vec<usize> = (0..numbers.data.len()).collect();
        entries.sort_by_key(|&entry| numbers.data[entry] as usize);
        let [mut rows, mut places, mut offsets] = [0, 1, 2].map(|output| Matrix::zeros(outputs[output]));
        for (row, &entry) in entries.iter().enumerate() {
            rows.data[row] = entry as f64;
            places.data[entry] = row as f64;
        }
        for expert in 0..=self.experts {
            offsets.data[expert] = numbers.data.iter().filter(|&&number| (number as usize) < expert).count() as f64;
        }
        vec![rows, places, offsets]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let params = Params { entries: call.inputs[0].elements() as u32, experts: self.experts as u32 }.bytes();
        vec![Dispatch::only(&KERNEL, call, params, [self.experts as u32, 1, 1])]
    }

    fn flops(&self, _: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        0
    }
}

kernel_params!(Params { entries: u32, experts: u32 });

/// One workgroup an expert.
static KERNEL: Kernel = Kernel::checked(OP, Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: OP,
        kernels: vec![&KERNEL],
        examples: |random| {
            let mut examples = Vec::new();
            for [rows, chosen, experts] in [[1, 1, 1], [1, 2, 8], [70, 2, 4], [129, 3, 60], [33, 8, 128]] {
                // Once any experts, once all rows to the last.
                for spread in [experts, 1] {
                    let data = (0..rows * chosen).map(|_| (experts - 1 - random.below(spread)) as f64).collect();
                    let numbers = (TensorType::u32(Rows::Fixed(rows), chosen), Matrix::new([rows, chosen], data));
                    examples.push(Example::new(SortByExpert { experts }, vec![numbers]));
                }
            }
            examples
        },
        tolerance: |_| 0.0,
    }
}
