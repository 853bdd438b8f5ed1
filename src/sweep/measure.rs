//! What a model is measured by: the data sets of a sweep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::arms::SweepFile;
use super::result::{Measure, Measures};
use crate::adapter::end_of_turn::EndOfTurn;
use crate::adapter::{DeviceAdapter, Placement};
use crate::data::source::folder::{self, Side};
use crate::data::{self, Batch, Dataset, LoadOptions};
use crate::generate::answers::{CheckSet, Tally};
use crate::generate::{Ends, Generation, Generator};
use crate::graph::Graph;
use crate::model::weights::{DeviceWeights, WeightType};
use crate::session::evaluate::{Evaluator, TokenLosses};
use crate::session::{OpenModel, batch};
use crate::train::interrupt::Interrupt;
use crate::{Error, Result};

/// The data sets of a sweep, as one model reads them.
pub struct Yardsticks<'m> {
    model: &'m OpenModel,
    check: Option<Yardstick>,
    test: Option<Yardstick>,
    general: Option<Yardstick>,
}

struct Yardstick {
    data: Dataset,
    batches: Vec<Vec<usize>>,
    /// The records that say what their answer is to be.
    questions: Option<CheckSet>,
}

impl<'m> Yardsticks<'m> {
    /// Reads them.
    ///
    /// # Errors
    /// Bad input: a file or a record that cannot be used.
    pub fn load(file: &SweepFile, model: &'m OpenModel) -> Result<Self> {
        let load = |paths: &[PathBuf], asked: bool| -> Result<Option<Yardstick>> {
            if paths.is_empty() {
                return Ok(None);
            }
            let config = &model.files.config;
            let options = LoadOptions::new(config.context());
            let files = folder::files(paths, Side::HeldOut)?;
            let (data, _) = data::load_files(&files, &model.tokenizer, model.template.as_ref(), options)?;
            data.check_vocabulary(model.tokens)?;
            let batches = batch::in_order(&data);
            let questions = if asked { CheckSet::read(&files, model, file.max_new_tokens)? } else { None };
            Ok(Some(Yardstick { data, batches, questions }))
        };
        let [check, test] = [load(&file.check_data, true)?, load(&file.test_data, true)?];
        Ok(Self { model, check, test, general: load(&file.general_data, false)? })
    }

    /// The longest text that is generated; `None` where nothing is asked.
    fn generation(&self) -> Option<Generation> {
        let sets = self.all().into_iter().filter_map(|(_, stick)| stick.as_ref()?.questions.as_ref());
        sets.map(|set| set.generation().context).max().map(|context| Generation { context })
    }

    /// Where answers end; `learned`: of a model with an adapter, the ends of turns that it has learned.
    pub fn ends(&self, learned: Option<&[EndOfTurn]>) -> Ends {
        Ends::new(&self.model.tokenizer, self.model.template.as_ref(), learned)
    }

    /// What answering runs, for the choice of kernels.
    ///
    /// # Errors
    /// None for a model that can be trained.
    pub fn graphs(&self, placement: &Placement, weights: WeightType) -> Result<Vec<Graph>> {
        let Some(Generation { context }) = self.generation() else { return Ok(Vec::new()) };
        let (config, storage) = (&self.model.files.config, self.model.storage(weights));
        let models = Generator::models(config, &storage, Some(placement), context)?;
        Ok(models.into_iter().map(|model| model.graph).collect())
    }

    fn all(&self) -> [(&'static str, &Option<Yardstick>); 3] {
        [("check_data", &self.check), ("test_data", &self.test), ("general_data", &self.general)]
    }

    /// What they are, by name and content: a part of what a result depends on.
    pub fn fingerprint(&self) -> BTreeMap<String, String> {
        let there = self.all().into_iter().filter_map(|(name, stick)| Some((name, stick.as_ref()?)));
        let print = |stick: &Yardstick| {
            let asked = stick.questions.as_ref().map(|set| format!("; asked {}", set.fingerprint()));
            stick.data.fingerprint() + &asked.unwrap_or_default()
        };
        there.map(|(name, stick)| (format!("{name} (content)"), print(stick))).collect()
    }

    /// Measures the model, with an adapter or without. `ends`: where its answers end. `None`: someone asked to stop.
    ///
    /// # Errors
    /// The device has not the memory or is lost; a loss is not finite.
    pub fn measure(
        &self,
        weights: &Arc<DeviceWeights>,
        adapter: Option<&DeviceAdapter>,
        ends: &Ends,
        interrupt: &Interrupt,
    ) -> Result<Option<Measures>> {
        let most = self.all().into_iter().filter_map(|(_, stick)| stick.as_ref());
        let Some(most) = most.map(|stick| batch::most_tokens(&stick.data, &stick.batches)).max() else {
            return Ok(Some(Measures::default()));
        };
        let mut evaluator = Evaluator::new(weights.clone(), &self.model.files.config, adapter, most)?;
        let mut loss = |stick: &Option<Yardstick>| -> Result<Option<Option<Measure>>> {
            match stick {
                Some(stick) => Ok(stick.loss(&mut evaluator, interrupt)?.map(Some)),
                None => Ok(Some(None)),
            }
        };
        let [check, test, general] = [loss(&self.check)?, loss(&self.test)?, loss(&self.general)?];
        let (Some(mut check), Some(mut test), Some(general)) = (check, test, general) else { return Ok(None) };
        drop(evaluator);
        if let Some(Generation { context }) = self.generation() {
            let mut generator = Generator::new(weights, &self.model.files.config, adapter, context)?;
            for (stick, measure) in [(&self.check, &mut check), (&self.test, &mut test)] {
                let (Some(set), Some(measure)) = (stick.as_ref().and_then(|stick| stick.questions.as_ref()), measure) else {
                    continue;
                };
                match self.ask(set, &mut generator, ends, interrupt)? {
                    Some(tally) => measure.answers = Some(tally),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(Measures { check, test, general }))
    }

    /// How many answers are right. `None`: someone asked to stop.
    fn ask(&self, set: &CheckSet, generator: &mut Generator, ends: &Ends, interrupt: &Interrupt) -> Result<Option<Tally>> {
        let answers = set.ask(generator, &self.model.tokenizer, ends, |_| interrupt.flow())?;
        Ok(answers.map(|answers| Tally::of(&answers)))
    }
}

impl Yardstick {
    /// Mean over the supervised tokens.
    fn loss(&self, evaluator: &mut Evaluator, interrupt: &Interrupt) -> Result<Option<Measure>> {
        let mut losses = TokenLosses::default();
        for chosen in &self.batches {
            if interrupt.requested() {
                return Ok(None);
            }
            losses.add(&evaluator.token_nll(&Batch::assemble(&self.data.examples, chosen))?);
        }
        let loss = losses.mean();
        match loss.is_finite() {
            true => Ok(Some(Measure { loss, tokens: losses.tokens, answers: None })),
            false => Err(Error::Diverged {
                place: self.data.report.path.clone(),
                problem: "the loss on this data is not finite".to_string(),
                proposal: "try a lower learning rate, or --weights f32".to_string(),
            }),
        }
    }
}
