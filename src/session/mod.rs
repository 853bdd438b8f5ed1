//! A model that is on one device: opened, tuned, uploaded, with an adapter or without, ready for what it will be used for.
//!
//! * this page: [`Session::open`], the way there;
//! * [`memory`]: what graphs occupy on a device, and the refusal of what does not fit, before a weight is sent.

pub mod memory;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;
use crate::adapter::{DeviceAdapter, LoadedAdapter, LoraSpec};
use crate::architecture::Architecture;
use crate::generate::Generator;
use crate::gpu::Device;
use crate::graph::Graph;
use crate::kernel::Arithmetic;
use crate::model::graph::{Model, StorageOf};
use crate::model::opened::OpenModel;
use crate::model::weights::{DeviceWeights, WeightType};
use crate::plan::autotune::{BUDGET, Sources, tune};
use crate::train::evaluate::Evaluator;
use memory::Needs;

/// Which device, and how it computes.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Its number or a part of its name; `None` for the fastest kind.
    pub device: Option<String>,
    /// Arithmetic of the large products.
    pub matmul: Arithmetic,
    /// How the frozen weights rest on the device.
    pub weights: WeightType,
    /// Measure which matrix kernels are the fastest.
    pub autotune: bool,
    /// Where such choices are kept; `None` for nowhere.
    pub cache: Option<PathBuf>,
}

/// What a session is for; it is tuned for it, and must have the memory for all of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Losses of batches of at most this many tokens.
    Evaluate { max_tokens: usize },
    /// Texts of at most this many tokens, prompt and answer together.
    Generate { context: usize },
}

impl Use {
    /// The models that it runs.
    fn models(self, config: &Architecture, storage: StorageOf, lora: Option<&LoraSpec>) -> Result<Vec<Model>> {
        match self {
            Self::Evaluate { max_tokens } => Ok(vec![Evaluator::model(config, storage, lora, max_tokens)?]),
            Self::Generate { context } => Generator::models(config, storage, lora, context),
        }
    }

    /// Which options make it need less.
    fn smaller(self) -> &'static str {
        match self {
            Self::Evaluate { .. } => "a smaller --max-length, if records are long",
            Self::Generate { .. } => "fewer --max-new-tokens, or a shorter prompt",
        }
    }
}

/// Who is told how far the long parts of opening are.
pub trait Watch: Sync {
    /// Kernels timed, and kernels to time.
    fn tuning(&self, done: usize, total: usize);
    /// Bytes of weights sent, and bytes to send.
    fn loading(&self, done: u64, total: u64);
}

/// A model on a device.
pub struct Session {
    config: Architecture,
    weights: Arc<DeviceWeights>,
    adapter: Option<DeviceAdapter>,
}

impl Session {
    /// Puts `model` on a device, with the adapter in the PEFT folder `adapter` if there is one, for these uses.
    ///
    /// # Errors
    /// Bad input: an adapter that cannot be used, no such device. [`Error::OutOfMemory`](crate::Error::OutOfMemory), before anything is
    /// sent, if the device has not the memory.
    pub fn open(
        model: &OpenModel,
        adapter: Option<&Path>,
        options: &SessionOptions,
        uses: &[Use],
        watch: &dyn Watch,
    ) -> Result<Self> {
        let config = &model.files.config;
        let adapter = adapter.map(|folder| LoadedAdapter::load(folder, config)).transpose()?;
        let spec = adapter.as_ref().map(|adapter| &adapter.spec);
        let storage = model.storage(options.weights);
        let mut models = Vec::new();
        for used in uses {
            models.extend(used.models(config, &storage, spec)?);
        }
        let mut device = Device::open_for(options.device.as_deref(), options.matmul)?;
        let needs = Needs {
            weights: model.weight_bytes(options.weights),
            adapter: adapter.as_ref().map_or(0, LoadedAdapter::bytes),
            ..Needs::of(&models, &device.facts)
        };
        let smaller: Vec<&str> = uses.iter().map(|used| used.smaller()).collect();
        needs.check_room(&format!("GPU `{}`", device.info.name), &device.room(), &smaller)?;

        let graphs: Vec<Graph> = models.into_iter().map(|model| model.graph).collect();
        let progress = |done, total| watch.tuning(done, total);
        let sources = Sources {
            measure: options.autotune,
            folder: options.cache.clone(),
            recorded: None,
            budget: BUDGET,
            progress: &progress,
        };
        tune(&mut device, &graphs, &sources);
        let device = Arc::new(device);
        let weights = model.upload(device.clone(), options.weights, |done, total| watch.loading(done, total));
        let place = device.info.name.clone();
        let loaded = weights.and_then(|weights| Ok((weights, adapter.map(|adapter| adapter.upload(device)).transpose()?)));
        let (weights, adapter) = loaded.map_err(|error| needs.explained(error, &place, &smaller))?;
        Ok(Self { config: config.clone(), weights, adapter })
    }

    /// The frozen weights.
    pub fn weights(&self) -> &Arc<DeviceWeights> {
        &self.weights
    }

    /// The adapter, if the session has one.
    pub fn adapter(&self) -> Option<&DeviceAdapter> {
        self.adapter.as_ref()
    }

    /// Losses of batches of at most `max_tokens` tokens.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn evaluator(&self, max_tokens: usize) -> Result<Evaluator> {
        Evaluator::new(self.weights.clone(), &self.config, self.adapter.as_ref(), max_tokens)
    }

    /// Texts of at most `context` tokens.
    ///
    /// # Errors
    /// If the device has not the memory.
    pub fn generator(&self, context: usize) -> Result<Generator> {
        Generator::new(&self.weights, &self.config, self.adapter.as_ref(), context)
    }
}
