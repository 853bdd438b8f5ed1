//! The adapter of a run on the device, as it is before the first step.

use super::Prepared;
use crate::Result;
use crate::adapter::DeviceAdapter;
use crate::adapter::start::{self, Base, Start, Started};
use crate::data::Batch;
use crate::formats::peft::AdapterTensor;
use crate::model::weights::DeviceWeights;
use crate::train::eva::Eva;
use crate::train::interrupt::Interrupt;
use crate::train::progress::Progress;

/// Who sees how far a start is that looks at the data, and who may end it.
pub(in crate::train) type Looking<'a> = (&'a mut Progress, &'a Interrupt);

impl Prepared<'_> {
    /// The adapter on the device, and what its start took out of the base.
    pub(super) fn started(
        &self,
        weights: &DeviceWeights,
        goes_on: bool,
        looking: Option<Looking>,
    ) -> Result<(DeviceAdapter, Vec<AdapterTensor>)> {
        let device = weights.device().clone();
        let place = |contents: &[f32]| DeviceAdapter::new(device, self.placement.clone(), self.layout.clone(), contents);
        if let Some(contents) = &self.start {
            return Ok((place(contents)?, Vec::new()));
        }
        if goes_on {
            return Ok((place(&vec![0.0; self.layout.elements()])?, Vec::new()));
        }
        let base = Base { tensors: &*self.model.files.tensors, weight_type: self.weight_type() };
        let Started { trained, taken_out } = start::start(&self.placement, &base, self.options.seed)?;
        let adapter = place(&self.layout.pack("adapter", &trained)?)?;
        if !taken_out.is_empty() {
            adapter.set_frozen(&self.placement.frozen_of(&taken_out))?;
        }
        // The other ranks are given what the first one has.
        let looks = self.options.init_lora_weights == Some(Start::Eva) && self.ranks.is_first();
        if let (true, Some((progress, interrupt))) = (looks, looking) {
            let batches = self.sampler.plan_of(0);
            let batches = batches.iter().map(|chosen| Batch::assemble(&self.data.examples, chosen));
            let eva = Eva::new(weights, &self.model.files.config, &adapter, self.planner.shape().max_tokens)?;
            let tell = |looked| {
                progress.looking(&looked);
                interrupt.flow()
            };
            // Whoever asked to stop gets no step of this run.
            if let Some((trained, looked)) = eva.start(batches, trained, tell)? {
                progress.note(&looked.to_string());
                adapter.set(&self.layout.pack("adapter", &trained)?);
            }
        }
        Ok((adapter, taken_out))
    }
}
