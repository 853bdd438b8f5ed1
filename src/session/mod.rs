//! A model that is on one device: opened, tuned, uploaded, with an adapter or without, ready for what it will be used for.
//!
//! * this page: [`Session::open`], the way there, and its parts, [`tuned`], [`send`] and [`load`], that others share; what a session is
//!   opened for is a [`Use`];
//! * [`opened`]: the model's files, before there is a device;
//! * [`memory`]: what graphs occupy on a device, and the refusal of what does not fit, before a weight is sent;
//! * [`evaluate`]: losses of batches; [`prefix_cache`]: what of a batch need not be done again in every epoch; [`batch`]: how a batch gets
//!   to the device;
//! * [`probe`]: any numbers of a run, read back; [`entering`]: what enters the linear layers.

pub mod batch;
pub mod entering;
pub mod evaluate;
pub mod memory;
pub mod opened;
pub mod prefix_cache;
pub mod probe;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Result;
use crate::adapter::{DeviceAdapter, LoadedAdapter, Placement};
use crate::architecture::Architecture;
use crate::gpu::Device;
use crate::graph::Graph;
use crate::kernel::Arithmetic;
use crate::model::graph::{Model, StorageOf};
use crate::model::weights::{DeviceWeights, WeightType};
use crate::plan::Tuned;
use crate::plan::autotune::{BUDGET, Choice, Decision, Record, Sources, tune};
use evaluate::Evaluator;
use memory::Needs;
pub use opened::OpenModel;

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
pub trait Use {
    /// The models that it runs.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    fn models(&self, config: &Architecture, storage: StorageOf, placement: Option<&Placement>) -> Result<Vec<Model>>;

    /// Which options make it need less.
    fn smaller(&self) -> &'static str;
}

/// Who is told how far the long parts of opening are.
pub trait Watch: Sync {
    /// Kernels timed, and kernels to time.
    fn tuning(&self, done: usize, total: usize);
    /// Bytes of weights sent, and bytes to send.
    fn loading(&self, done: u64, total: u64);
    /// What was decided that changes numbers.
    fn note(&self, text: &str);
}

/// For whoever does not want to be told.
impl Watch for () {
    fn tuning(&self, _done: usize, _total: usize) {}

    fn loading(&self, _done: u64, _total: u64) {}

    fn note(&self, _text: &str) {}
}

/// Decides with which kernels `device` computes these graphs, by measurement or as `recorded`. Gives what was chosen by measurement, and
/// what a run has to record.
pub fn tuned(
    device: Device,
    options: &SessionOptions,
    graphs: &[Graph],
    recorded: Option<&Record>,
    watch: &dyn Watch,
) -> (Tuned, Vec<Choice>, Record) {
    let progress = |done, total| watch.tuning(done, total);
    let sources =
        Sources { measure: options.autotune, folder: options.cache.clone(), recorded, budget: BUDGET, progress: &progress };
    let Decision { tuning, choices, record } = tune(&device, graphs, &sources);
    if options.matmul == Arithmetic::Auto {
        watch.note(&match (device.facts.cooperative, record.on_matrix_units()) {
            (None, _) => "matmul auto: all in f32, since this GPU and driver offer no matrix units that graftling knows".into(),
            (Some(_), [_, 0]) => "matmul auto: all in f32, since nothing was measured".into(),
            (Some(matrices), [on_matrices, kinds]) => format!(
                "matmul auto: {on_matrices} of {kinds} kinds of products on matrix units ({}){}; --matmul f32 keeps all in f32",
                matrices.name(),
                if matrices.takes_f16() { ", each product off by about 0.03 %" } else { "" },
            ),
        });
    }
    (Tuned { device: Arc::new(device), tuning }, choices, record)
}

/// Sends the model's weights to a device.
///
/// # Errors
/// As [`DeviceWeights::upload`].
pub fn send(
    model: &OpenModel,
    place: impl Into<Tuned>,
    weight_type: WeightType,
    watch: &dyn Watch,
) -> Result<Arc<DeviceWeights>> {
    let progress = |done, total| watch.loading(done, total);
    DeviceWeights::upload(place, &model.files.config, &*model.files.tensors, weight_type, progress).map(Arc::new)
}

/// [`tuned`], then [`send`]. Also gives what a run has to record.
///
/// # Errors
/// If the device has not the memory, or a weight is broken.
pub fn load(
    model: &OpenModel,
    options: &SessionOptions,
    device: Device,
    graphs: &[Graph],
    recorded: Option<&Record>,
    watch: &dyn Watch,
) -> Result<(Arc<DeviceWeights>, Record)> {
    let (place, _, record) = tuned(device, options, graphs, recorded, watch);
    Ok((send(model, place, options.weights, watch)?, record))
}

/// A model on a device. A clone is the same model in the same memory, which is given back with the last of them.
#[derive(Clone)]
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
        uses: &[&dyn Use],
        watch: &dyn Watch,
    ) -> Result<Self> {
        let adapter = adapter.map(|folder| LoadedAdapter::load(folder, &model.files.config)).transpose()?;
        Self::open_with(model, adapter, options, uses, watch)
    }

    /// [`Session::open`] with an adapter that has been read already.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn open_with(
        model: &OpenModel,
        adapter: Option<LoadedAdapter>,
        options: &SessionOptions,
        uses: &[&dyn Use],
        watch: &dyn Watch,
    ) -> Result<Self> {
        let config = &model.files.config;
        let placement = adapter.as_ref().map(|adapter| &adapter.placement);
        let storage = model.storage(options.weights);
        let mut models = Vec::new();
        for used in uses {
            models.extend(used.models(config, &storage, placement)?);
        }
        let device = Device::open_for(options.device.as_deref(), options.matmul)?;
        let needs = Needs {
            weights: model.weight_bytes(options.weights),
            adapter: adapter.as_ref().map_or(0, LoadedAdapter::bytes),
            ..Needs::of(&models, &device.facts)
        };
        let smaller: Vec<&str> = uses.iter().map(|used| used.smaller()).collect();
        needs.check_room(&format!("GPU `{}`", device.info.name), &device.room(), &smaller)?;

        let graphs: Vec<Graph> = models.into_iter().map(|model| model.graph).collect();
        let place = device.info.name.clone();
        let loaded = load(model, options, device, &graphs, None, watch).and_then(|(weights, _)| {
            let adapter = adapter.map(|adapter| adapter.upload(weights.device().clone())).transpose()?;
            Ok((weights, adapter))
        });
        let (weights, adapter) = loaded.map_err(|error| needs.explained(error, &place, &smaller))?;
        Ok(Self { config: config.clone(), weights, adapter })
    }

    /// What the model is.
    pub fn config(&self) -> &Architecture {
        &self.config
    }

    /// Tokens that there are, with those that the adapter adds.
    pub fn tokens(&self) -> usize {
        self.adapter.as_ref().map_or(self.config.vocab_size, |adapter| adapter.placement.tokens(&self.config))
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
}
