//! The two graphs of a training step, loss with adapter gradients and the optimizer, and how a batch gets to the device.

use crate::adapter::LoraSpec;
use crate::autograd::{Root, backward};
use crate::data::Batch;
use crate::graph::{Counts, Graph, Origin, Rows, ShapeError, TensorType, ValueId};
use crate::model::config::ModelConfig;
use crate::model::llama::{Head, Inputs, Llama, Purpose, StorageOf};
use crate::ops::adamw::AdamW;
use crate::ops::global_norm::GlobalNorm;
use crate::plan::{Executable, fuse_adapters};

/// Loss and adapter gradients of a batch of at most `max_tokens` tokens.
#[derive(Clone, Debug)]
pub struct LossGraph {
    pub model: Llama,
    pub loss: ValueId,
    pub nll: ValueId,
    /// Gradients in the order of the model's adapters.
    pub gradients: Vec<ValueId>,
}

impl LossGraph {
    /// Builds forward and backward.
    ///
    /// # Errors
    /// A [`ShapeError`] if the configuration contradicts itself.
    pub fn build(config: &ModelConfig, storage: StorageOf, lora: &LoraSpec, max_tokens: usize) -> Result<Self, ShapeError> {
        let mut model = Llama::build(config, storage, Some(lora), Purpose::Train, max_tokens)?;
        let Head::Loss { loss, nll } = model.head else {
            return Err(ShapeError::new("llama", "the head", "logits", "a loss"));
        };
        let gradients = backward(&mut model.graph, Root::Loss(loss), &model.adapters)?
            .into_iter()
            .zip(&model.adapters)
            .map(|(gradient, adapter)| {
                let name = &model.graph[*adapter].name;
                gradient.ok_or_else(|| {
                    ShapeError::new("llama", format!("the gradient of {name}"), "missing", "a path from it to the loss")
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        model.graph = fuse_adapters(&model.graph, &[&gradients[..], &[loss, nll]].concat());
        Ok(Self { model, loss, nll, gradients })
    }
}

/// Sends a batch to the device, where each token's loss counts `loss_weight`. Returns its row counts.
pub(super) fn write_batch(executable: &Executable, inputs: &Inputs, batch: &Batch, loss_weight: f64) -> Counts {
    executable.write(inputs.input_ids, &batch.input_ids);
    executable.write(inputs.position, &batch.position);
    executable.write(inputs.segment_start, &batch.segment_start);
    executable.write(inputs.rows, &batch.supervised_rows);
    if let (Some(targets), Some(weight)) = (inputs.targets, inputs.loss_weight) {
        executable.write(targets, &batch.targets);
        executable.write(weight, &[loss_weight as f32]);
    }
    Counts { tokens: batch.rows(), supervised: batch.supervised_rows.len() }
}

/// The optimizer: global norm, clipping and AdamW over the whole adapter at once.
#[derive(Clone, Debug)]
pub struct OptimizerGraph {
    pub graph: Graph,
    pub parameters: ValueId,
    pub gradients: ValueId,
    pub first_moment: ValueId,
    pub second_moment: ValueId,
    /// `[1, 8]`: see [`crate::ops::adamw::Hyper`].
    pub hyper: ValueId,
    /// `[1, 1]`, before clipping.
    pub norm: ValueId,
}

impl OptimizerGraph {
    /// Builds the update of `elements` parameters.
    ///
    /// # Errors
    /// None for a positive number of elements.
    pub fn build(elements: usize) -> Result<Self, ShapeError> {
        let mut graph = Graph::new();
        let tensor = TensorType::f32(Rows::Fixed(1), elements);
        let parameters = graph.leaf("parameters", tensor, Origin::State);
        let gradients = graph.leaf("gradients", tensor, Origin::State);
        let first_moment = graph.leaf("first_moment", tensor, Origin::State);
        let second_moment = graph.leaf("second_moment", tensor, Origin::State);
        let hyper = graph.leaf("hyper", TensorType::f32(Rows::Fixed(1), 8), Origin::Input);
        let norm = graph.apply_one(GlobalNorm, &[gradients], "gradient_norm")?;
        graph.apply(AdamW, &[parameters, gradients, first_moment, second_moment, norm, hyper], "adamw")?;
        Ok(Self { graph, parameters, gradients, first_moment, second_moment, hyper, norm })
    }
}
