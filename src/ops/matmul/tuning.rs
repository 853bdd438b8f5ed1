//! What a [`Class`] of products is measured by (`plan::autotune` does): its forms, its operands, and what each form dispatches.

use super::Matmul;
use super::algorithms::{kernels, low_rank_kernels};
use super::variants::{Problem, SOURCE, parts_of_k};
use crate::graph::{Call, DType, Dispatch, Op, Operand, Rows, TensorType};
use crate::kernel::{Class, Facts, Layout, Tuning, shader};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

impl Class {
    /// `None` for sizes that are no multiples of 4: there is one kernel for them.
    pub(super) fn of(problem: &Problem) -> Option<Self> {
        let Problem { layout, m, n, k, dtype, arithmetic, aligned, .. } = *problem;
        let size = match layout {
            Layout::NT | Layout::NN => [m.next_power_of_two(), n, k],
            Layout::TN => [m, n, k.next_power_of_two()],
        };
        aligned.then_some(Self { layout, size, dtype, arithmetic })
    }

    fn problem(&self) -> Problem {
        let [m, n, k] = self.size;
        let Self { layout, size, dtype, arithmetic } = *self;
        Problem { layout, m, n, k, dtype, arithmetic, aligned: true, parts: parts_of_k(layout, size) }
    }

    /// The forms that such a device may take, by their ids; the first is what it takes without a table.
    pub fn candidates(&self, facts: &Facts) -> Vec<&'static str> {
        self.problem().candidates(facts).into_iter().map(|form| form.id).collect()
    }

    /// A product of this class.
    pub fn product(&self) -> Matmul {
        Matmul { layout: self.layout, scale: 1.0 }
    }

    /// Types of a, b and out.
    pub fn operands(&self) -> [TensorType; 3] {
        let [m, n, k] = self.size;
        let (a, b) = match self.layout {
            Layout::NT => ([m, k], [n, k]),
            Layout::NN => ([m, k], [k, n]),
            Layout::TN => ([k, m], [k, n]),
        };
        let of = |[rows, columns]: [usize; 2], dtype| TensorType::new(Rows::Fixed(rows), columns, dtype);
        [of(a, DType::F32), of(b, self.dtype), of([m, n], DType::F32)]
    }

    /// Types of the scratch that a product of this class may need.
    pub fn scratch(&self) -> Vec<TensorType> {
        self.product().scratch(&self.operands()[..2])
    }

    /// The first of [`Class::dispatches`], which does the work.
    pub fn dispatch(&self, id: &str, facts: &Facts) -> Dispatch {
        self.dispatches(id, facts).swap_remove(0)
    }

    /// What a product of this class dispatches in the form with this id, or in the rule's form where that one is not possible.
    pub fn dispatches(&self, id: &str, facts: &Facts) -> Vec<Dispatch> {
        let tuning = &Tuning::new(HashMap::from([(*self, id.to_string())]));
        let [a, b, out] = self.operands().map(|tensor| Operand { tensor, rows: tensor.shape.rows.max(), part_starts: vec![0] });
        self.product().launch(&Call { inputs: &[a, b], outputs: &[out], device: facts, tuning })
    }

    /// Floating-point operations of one product.
    pub fn flops(&self) -> f64 {
        self.size.iter().map(|&length| length as f64).product::<f64>() * 2.0
    }

    /// How long one product takes, roughly and on any device, in floating-point operations: a byte moved takes as long as 32 (10 to 40 on
    /// GPUs, 20 on a CPU driver), a dispatch as long as 10 million (some microseconds of a GPU of a laptop).
    pub fn work(&self) -> f64 {
        1e7 + self.flops() + 32.0 * self.operands().iter().map(|tensor| tensor.max_bytes() as f64).sum::<f64>()
    }

    /// A smaller product of the same kind, with the longest side halved; `None` if there is none that would still be like it.
    pub fn halved(&self) -> Option<Self> {
        const SHORTEST: usize = 256;
        let mut smaller = *self;
        let longest = smaller.size.iter_mut().max()?;
        // 32: whole blocks of quantised weights.
        *longest = (*longest / 2).next_multiple_of(32);
        (*longest >= SHORTEST).then_some(smaller)
    }
}

/// A short name for everything that a measurement of forms depends on besides the device: kernels, constants, the list of forms.
pub fn fingerprint() -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(SOURCE);
    for kernel in kernels().into_iter().chain(low_rank_kernels()) {
        hash.update(format!("{kernel:?}"));
        hash.update(shader::source(kernel).unwrap_or_default());
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Arithmetic;

    fn problem(layout: Layout, [m, n, k]: [usize; 3]) -> Problem {
        Problem { layout, m, n, k, dtype: DType::BF16, arithmetic: Arithmetic::F32, aligned: true, parts: 1 }
    }

    #[test]
    fn rows_of_about_one_number_share_a_class_and_weights_of_different_shapes_do_not() {
        let class = |layout, size| Class::of(&problem(layout, size)).unwrap();
        assert_eq!(class(Layout::NT, [300, 96, 64]), class(Layout::NT, [512, 96, 64]));
        assert_ne!(class(Layout::NT, [300, 96, 64]), class(Layout::NT, [513, 96, 64]));
        assert_ne!(class(Layout::NT, [300, 96, 64]), class(Layout::NN, [300, 96, 64]));
        assert_ne!(class(Layout::NT, [300, 96, 64]), class(Layout::NT, [300, 100, 64]));
        assert_eq!(class(Layout::TN, [96, 8, 300]), class(Layout::TN, [96, 8, 400]));
        assert_eq!(class(Layout::NN, [300, 96, 64]).to_string(), "NN 512x96x64 bf16");
        assert_eq!(Class::of(&Problem { aligned: false, ..problem(Layout::NT, [4, 4, 4]) }), None);
    }

    #[test]
    fn a_halved_product_keeps_whole_blocks_and_ends() {
        let mut class = Class { layout: Layout::NT, size: [128, 49_152, 576], dtype: DType::F32, arithmetic: Arithmetic::F32 };
        while let Some(smaller) = class.halved() {
            assert!(smaller.flops() < class.flops() && smaller.size.iter().all(|length| length.is_multiple_of(32)));
            class = smaller;
        }
        assert!(class.size.iter().all(|&length| (128..512).contains(&length)), "{class}");
    }
}
