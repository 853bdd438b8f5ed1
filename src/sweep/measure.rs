//! What a model is measured by: the data sets of a sweep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::arms::SweepFile;
use super::result::{Measure, Measures};
use crate::adapter::DeviceAdapter;
use crate::data::source::folder::{self, Side};
use crate::data::{self, Batch, Dataset, LoadOptions};
use crate::model::weights::DeviceWeights;
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
}

impl<'m> Yardsticks<'m> {
    /// Reads them.
    ///
    /// # Errors
    /// Bad input: a file or a record that cannot be used.
    pub fn load(file: &SweepFile, model: &'m OpenModel) -> Result<Self> {
        let load = |paths: &[PathBuf]| -> Result<Option<Yardstick>> {
            if paths.is_empty() {
                return Ok(None);
            }
            let config = &model.files.config;
            let options = LoadOptions::new(config.max_position_embeddings);
            let files = folder::files(paths, Side::HeldOut)?;
            let (data, _) = data::load_files(&files, &model.tokenizer, model.template.as_ref(), options)?;
            data.check_vocabulary(config.vocab_size)?;
            let batches = batch::in_order(&data);
            Ok(Some(Yardstick { data, batches }))
        };
        Ok(Self { model, check: load(&file.check_data)?, test: load(&file.test_data)?, general: load(&file.general_data)? })
    }

    fn all(&self) -> [(&'static str, &Option<Yardstick>); 3] {
        [("check_data", &self.check), ("test_data", &self.test), ("general_data", &self.general)]
    }

    /// What they are, by name and content: a part of what a result depends on.
    pub fn fingerprint(&self) -> BTreeMap<String, String> {
        let there = self.all().into_iter().filter_map(|(name, stick)| Some((name, stick.as_ref()?)));
        there.map(|(name, stick)| (format!("{name} (content)"), stick.data.fingerprint())).collect()
    }

    /// Measures the model, with an adapter or without. `None`: someone asked to stop.
    ///
    /// # Errors
    /// The device has not the memory or is lost; a loss is not finite.
    pub fn measure(
        &self,
        weights: &Arc<DeviceWeights>,
        adapter: Option<&DeviceAdapter>,
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
        let (Some(check), Some(test), Some(general)) = (check, test, general) else { return Ok(None) };
        Ok(Some(Measures { check, test, general }))
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
            true => Ok(Some(Measure { loss, tokens: losses.tokens, checks: BTreeMap::new() })),
            false => Err(Error::Diverged {
                place: self.data.report.path.clone(),
                problem: "the loss on this data is not finite".to_string(),
                proposal: "try a lower learning rate, or --weights f32".to_string(),
            }),
        }
    }
}
