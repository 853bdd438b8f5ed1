//! The ops: one file each, holding formula, shape rule, gradient rule, f64 reference and kernel launch, in this order, as the trait
//! [`Op`](crate::graph::Op) has them.
//!
//! An op is known by one name everywhere: `src/ops/<op>.rs`, `shaders/<op>.wgsl`, and its line in [`registry`].
//! To add one: write its file, its shader (whose first line names the parts that it uses: [`crate::kernel::shader`]), and one line in
//! [`registry`]; the property suite then tests it.

pub mod accumulate;
pub mod activate;
pub mod adamw;
pub mod add;
pub mod add_bias;
pub mod add_expert_bias;
pub mod attention;
pub mod cache_rows;
pub mod column_sums;
pub mod copy;
pub mod dora_norm;
pub mod dropout;
pub mod embedding;
pub mod expert_rows;
pub mod expert_shares;
pub mod gate_rows;
pub mod gather_rows;
pub mod global_norm;
pub mod glu;
pub mod linear_cross_entropy;
pub mod load_balancing_loss;
pub mod matmul;
pub mod multiply_add;
pub mod permute_columns;
mod registry;
pub mod replace_columns;
pub mod rms_norm;
pub mod rope;
pub mod route;
mod row_values;
pub mod scale;
pub mod scale_columns;
pub mod softcap;
pub mod sort_by_expert;
pub mod token_rows;

pub use registry::{Example, OpEntry, Random, registry};

use crate::graph::{Call, Dispatch, ShapeError, TensorType};
use crate::kernel::Kernel;
use crate::kernel_params;
use crate::storage::DType;

/// Workgroups that a dispatch may have along each of its dimensions, on every device.
pub(crate) const MOST_WORKGROUPS: usize = 65_535;

/// Splits `total` workgroups over dispatch dimensions, none of which may exceed 65,535; the kernel finds its number as
/// `workgroup_id.y * num_workgroups.x + workgroup_id.x` and ignores numbers past the end.
pub fn spread(total: usize) -> [u32; 3] {
    let [most, needed] = [MOST_WORKGROUPS, total.div_ceil(MOST_WORKGROUPS)].map(|count| count as u32);
    if total <= MOST_WORKGROUPS { [total as u32, 1, 1] } else { [most, needed, 1] }
}

kernel_params!(
    /// What kernels with `shaders/common/elements.wgsl` are told: the elements of each input and output, all of one shape.
    pub(crate) Elements { elements: u32 }
);

impl Elements {
    /// Elements that a workgroup is for: starting one costs a CPU driver about as much as a hundred elements.
    const OF_A_WORKGROUP: usize = 1024;

    fn dispatch(kernel: &'static Kernel, call: &Call) -> Dispatch {
        let elements = call.outputs[0].elements();
        let params = Self { elements: elements as u32 }.bytes();
        Dispatch::only(kernel, call, params, spread(elements.div_ceil(Self::OF_A_WORKGROUP)))
    }
}

/// Shape checks that several ops share.
pub(crate) mod expect {
    use super::*;
    use crate::graph::Rows;

    pub fn count(op: &'static str, inputs: &[TensorType], expected: usize) -> Result<(), ShapeError> {
        if inputs.len() == expected {
            return Ok(());
        }
        Err(ShapeError::new(op, "number of inputs", inputs.len(), expected))
    }

    pub fn dtype(op: &'static str, what: &str, found: TensorType, expected: DType) -> Result<(), ShapeError> {
        if found.dtype == expected { Ok(()) } else { Err(ShapeError::new(op, what, found, expected)) }
    }

    /// A frozen matrix in any storage type that has one.
    pub fn weight(op: &'static str, what: &str, found: TensorType) -> Result<(), ShapeError> {
        if found.dtype.is_weight() && found.shape.columns.is_multiple_of(found.dtype.block()) {
            return Ok(());
        }
        Err(ShapeError::new(op, what, found, "a format of weights, in rows of whole blocks"))
    }

    pub fn columns(op: &'static str, what: &str, found: TensorType, expected: usize) -> Result<(), ShapeError> {
        if found.shape.columns == expected {
            return Ok(());
        }
        Err(ShapeError::new(op, what, found, format!("{expected} columns")))
    }

    pub fn rows(op: &'static str, what: &str, found: TensorType, expected: Rows) -> Result<(), ShapeError> {
        if found.shape.rows == expected {
            return Ok(());
        }
        Err(ShapeError::new(op, what, found, format!("{expected} rows")))
    }

    pub fn same(op: &'static str, what: &str, found: TensorType, expected: TensorType) -> Result<(), ShapeError> {
        if found == expected { Ok(()) } else { Err(ShapeError::new(op, what, found, expected)) }
    }
}
