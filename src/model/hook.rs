//! Where what is trained joins a model: a hook that is told of every linear layer while the graph is built.

use super::graph::Purpose;
use crate::architecture::Site;
use crate::graph::{Graph, ShapeError, ValueId};

/// A linear layer of the frozen model, just built.
pub struct Linear<'a> {
    pub site: &'a Site,
    /// What enters it, `[tokens, in_features]`.
    pub x: ValueId,
    /// By what its output is multiplied before it is added to the residual; 1 for layers that are not added to it.
    pub factor: f64,
    /// What it gives, one a part of [`Site::outputs`]: `[tokens, rows of the part]`, the residual added where the layer ends a half.
    pub outputs: Vec<ValueId>,
}

/// Adds to a model from above.
pub trait Hook {
    /// The graph has the model's inputs and nothing else; those of the hook follow.
    fn begin(&mut self, _graph: &mut Graph, _purpose: Purpose) {}

    /// What stands for the outputs of a linear layer.
    ///
    /// # Errors
    /// A [`ShapeError`] if what is added does not fit.
    fn after(&mut self, graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError>;
}

/// Adds nothing.
pub struct Bare;

impl Hook for Bare {
    fn after(&mut self, _graph: &mut Graph, linear: Linear) -> Result<Vec<ValueId>, ShapeError> {
        Ok(linear.outputs)
    }
}
