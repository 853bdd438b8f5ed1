//! Questions that the model answers between the steps of a run, with the adapter as it is then.

use super::interrupt::Interrupt;
use super::options::TrainOptions;
use crate::Result;
use crate::adapter::end_of_turn::EndOfTurn;
use crate::adapter::{DeviceAdapter, Placement};
use crate::data::source::folder::{self, Side};
use crate::generate::answers::{CheckSet, Tally};
use crate::generate::{Ends, Generation, Generator};
use crate::graph::Graph;
use crate::kernel::Facts;
use crate::model::graph::StorageOf;
use crate::model::weights::DeviceWeights;
use crate::session::OpenModel;
use crate::session::memory::Needs;
use crate::text::Tokenizer;

/// The questions of a run, before there is a device.
pub(super) struct Checks {
    pub(super) set: CheckSet,
    /// What answering runs.
    pub(super) graphs: Vec<Graph>,
    /// What it occupies on the device.
    pub(super) bytes: usize,
}

impl Checks {
    /// Those of `--check-data`, if it is given.
    ///
    /// # Errors
    /// As [`CheckSet::required`].
    pub(super) fn of(
        options: &TrainOptions,
        model: &OpenModel,
        storage: StorageOf,
        placement: &Placement,
    ) -> Result<Option<Self>> {
        let Some(paths) = &options.check_data else { return Ok(None) };
        let set = CheckSet::required(&folder::files(paths, Side::HeldOut)?, model, options.check_max_new_tokens)?;
        let Generation { context } = set.generation();
        let models = Generator::models(&model.files.config, storage, Some(placement), context)?;
        let bytes = Needs::of(&models, &Facts::default()).total();
        Ok(Some(Self { set, graphs: models.into_iter().map(|model| model.graph).collect(), bytes }))
    }

    /// What answers them on the device. `learned`: the ends of turns in the data that is trained on.
    ///
    /// # Errors
    /// The device has not the memory.
    pub(super) fn answering(
        &self,
        model: &OpenModel,
        weights: &DeviceWeights,
        adapter: &DeviceAdapter,
        learned: &[EndOfTurn],
    ) -> Result<Answering> {
        let generator = Generator::new(weights, &model.files.config, Some(adapter), self.set.generation().context)?;
        Ok(Answering { generator, ends: Ends::new(&model.tokenizer, model.template.as_ref(), Some(learned)) })
    }
}

/// The model with the adapter that is trained, as it answers.
pub(super) struct Answering {
    generator: Generator,
    ends: Ends,
}

impl Answering {
    /// How many of the questions are answered right now. `None`: someone asked to stop.
    ///
    /// # Errors
    /// As [`CheckSet::ask`].
    pub(super) fn ask(&mut self, checks: &Checks, tokenizer: &Tokenizer, interrupt: &Interrupt) -> Result<Option<Tally>> {
        let answers = checks.set.ask(&mut self.generator, tokenizer, &self.ends, |_| interrupt.flow())?;
        Ok(answers.map(|answers| Tally::of(&answers)))
    }
}
