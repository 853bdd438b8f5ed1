//! What training a model needs on a GPU with each format of weights, from the plans of its steps: the tables of `doctor` and `inspect`.

use std::collections::HashMap;
use std::fmt::Write;

use super::ask::adapter::Asked;
use super::ask::options::TrainOptions;
use super::budget::within_budget;
use super::memory::{Memory, Planner, StepShape};
use super::step::Recompute;
use crate::Result;
use crate::adapter::targets::expand_target_modules;
use crate::adapter::{Placement, UniformLora};
use crate::architecture::{Architecture, known, parameters};
use crate::byte_size::ByteSize;
use crate::graph::Counts;
use crate::kernel::Facts;
use crate::model::weights::WeightType;
use crate::session::OpenModel;
use crate::session::prefix_cache::Lowest;
use crate::storage::{DType, TensorInfo};

/// The formats that tables show: from the usual one to the smallest that `--weights` makes.
pub const FORMATS: [DType; 4] = [DType::BF16, DType::Q8_0, DType::Q4_K, DType::NF4];

/// The GPUs that tables show, by their memory in GiB.
pub const GPUS: [usize; 3] = [8, 16, 24];

/// Tokens of the largest batch that is planned; it keeps bytes far from overflow.
const MOST_TOKENS: usize = 1 << 22;

/// Tenths of a GPU's memory that a run can have: the rest is the screen's, the driver's and other programs'.
const TENTHS: usize = 9;

/// Bytes on the device of a run with the default rows and lengths of batches.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// `--weights` of a model in BF16.
    pub weights: DType,
    pub bytes: usize,
    /// With `--recompute all`.
    pub recomputed: usize,
}

impl Need {
    /// How the run fits a GPU of so many GiB: `yes`, `recompute` if only with `--recompute all`, or `-`.
    pub fn fits(&self, gib: usize) -> &'static str {
        let room = (gib << 30) / 10 * TENTHS;
        match (self.bytes <= room, self.recomputed <= room) {
            (true, _) => "yes",
            (false, true) => "recompute",
            (false, false) => "-",
        }
    }
}

/// A run of full batches, planned from its options alone: no data is read.
pub struct Planned {
    pub placement: Placement,
    planner: Planner,
}

impl Planned {
    /// # Errors
    /// Bad input: a module, a layer, a rank or a start adapter that cannot be used; a memory budget that is too small.
    pub fn of(options: &TrainOptions, model: &OpenModel) -> Result<Self> {
        let placement = Asked::of(options, model)?.placement;
        let shape = StepShape {
            max_tokens: options.batch_size.saturating_mul(options.max_length).clamp(1, MOST_TOKENS),
            accumulate: options.gradient_accumulation_steps > 1,
            recompute: Recompute::None,
            held_out_tokens: 0,
        };
        let weights = WeightType::asked(options.weights, !options.no_double_quant);
        let (config, bytes) = (&model.files.config, model.weight_bytes(weights));
        let lowest = Lowest::default();
        let planner = Planner::new(config, &model.storage(weights), &placement, shape, bytes, &Facts::default(), lowest)?;
        let planner = within_budget(planner, options.recompute, options.memory_budget)?;
        Ok(Self { placement, planner })
    }

    /// Bytes on the device, by class.
    pub fn memory(&self) -> Memory {
        self.planner.memory()
    }

    /// Tokens of a full batch.
    pub fn tokens(&self) -> usize {
        self.planner.shape().max_tokens
    }

    /// Floating-point operations of a full batch, forward and backward, with all tokens learned.
    pub fn flops(&self) -> f64 {
        self.planner.flops_with_recompute(&Counts { tokens: self.tokens(), supervised: self.tokens() })
    }
}

/// The default adapter of a model.
///
/// # Errors
/// None for a model that can be trained.
pub fn default_adapter(config: &Architecture) -> Result<UniformLora> {
    Ok(UniformLora {
        r: TrainOptions::LORA_R,
        scale: 1.0,
        dropout: 0.0,
        target_modules: expand_target_modules(&[TrainOptions::TARGET_MODULES.to_string()], config)?,
        layers: (0..config.num_hidden_layers).collect(),
    })
}

/// What training such an adapter needs with each of [`FORMATS`], the model's file being in BF16.
///
/// # Errors
/// If the configuration contradicts itself.
pub fn needs(config: &Architecture, placement: &Placement) -> Result<Vec<Need>> {
    let info =
        |name: &str, shape: &[usize]| TensorInfo { name: name.to_owned(), shape: shape.to_vec(), storage: DType::BF16, bytes: 0 };
    let infos: Vec<TensorInfo> = parameters(config).iter().map(|parameter| info(&parameter.name, &parameter.shape)).collect();
    let by_name: HashMap<&str, &TensorInfo> = infos.iter().map(|info| (info.name.as_str(), info)).collect();
    let shape = StepShape {
        max_tokens: TrainOptions::BATCH_SIZE * TrainOptions::MAX_LENGTH,
        accumulate: false,
        recompute: Recompute::Layers(0), // as `train` does unasked
        held_out_tokens: 0,
    };
    let of = |weights: DType| -> Result<Need> {
        let weight_type = WeightType::asked(Some(weights), true);
        let storage = |name: &str| by_name.get(name).map_or(DType::F32, |info| weight_type.of(info));
        let bytes = infos.iter().map(|info| weight_type.bytes(info)).sum();
        let planner = Planner::new(config, &storage, placement, shape, bytes, &Facts::default(), Lowest::default())?;
        let bytes = planner.memory().total();
        let all = Recompute::Layers(planner.layers());
        Ok(Need { weights, bytes, recomputed: planner.with(all).memory().total() })
    };
    FORMATS.into_iter().map(of).collect()
}

/// One line a format, after the words `first`.
pub fn lines(first: &str, needs: &[Need]) -> String {
    let mut text = String::new();
    for need in needs {
        let [bytes, recomputed] = [need.bytes, need.recomputed].map(|bytes| ByteSize(bytes).to_string());
        let _ = write!(text, "   {first:<16}{:<10}{bytes:>12}{recomputed:>18}", need.weights.to_string());
        for gib in GPUS {
            let _ = write!(text, "{:>11}", need.fits(gib));
        }
        text.push('\n');
    }
    text
}

/// The heads of the columns of [`lines`].
pub fn head(first: &str) -> String {
    let mut text = format!("   {first:<16}{:<10}{:>12}{:>18}", "--weights", "memory", "--recompute all");
    for gib in GPUS {
        let _ = write!(text, "{:>11}", format!("{gib} GB GPU"));
    }
    text + "\n"
}

/// Well-known models with default options.
///
/// # Errors
/// None: their configurations are sound.
pub fn table() -> Result<String> {
    let mut text = format!(
        "GPU memory for training with default options ({} rows of {} tokens, rank {}, all linear layers), and which GPU has it:\n\n",
        TrainOptions::BATCH_SIZE,
        TrainOptions::MAX_LENGTH,
        TrainOptions::LORA_R
    );
    text += &head("model");
    for (name, config) in known::configs()? {
        text += &lines(name, &needs(&config, &default_adapter(&config)?.on(&config))?);
    }
    text += "\nrecompute: with --recompute all. A tenth of a GPU's memory is left to the screen and the driver. Activations shrink with\n--batch-size and --max-length.\n";
    Ok(text)
}
