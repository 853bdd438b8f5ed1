//! What a training run is asked to do.
//!
//! [`Recipe`] is what the user wrote, on the command line or in a recipe file: every key is optional and has one name
//! (kebab case as an option, snake case in the file). [`Recipe::resolve`] fills in the defaults, checks the values and gives
//! [`TrainOptions`], which the rest of the program reads. The defaults and the reasons for them are in the help texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::budget::{ByteSize, RecomputeOption};
use super::prefix_cache::{PrefixCacheMode, PrefixCacheOptions, PrefixCacheType};
use super::schedule::ScheduleKind;
use crate::adapter::targets::edit_distance;
use crate::gpu::Arithmetic;
use crate::model::weights::WeightType;
use crate::{Error, Result};

/// The storage type of the frozen weights on the GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(non_camel_case_types, reason = "the field's own names: Q8_0 is what every tool calls it")]
pub enum WeightStorage {
    F32,
    Bf16,
    F16,
    /// Blocks of 8 bits: half of bf16
    #[value(name = "q8_0")]
    Q8_0,
    /// Blocks of 4 bits: a third of bf16, at a loss that shows
    #[value(name = "q4_1")]
    Q4_1,
}

impl WeightStorage {
    /// The storage for an option that may be left out: then the smallest type that loses nothing against the file.
    pub fn weight_type(storage: Option<Self>) -> WeightType {
        match storage {
            None => WeightType::Lossless,
            Some(Self::F32) => WeightType::F32,
            Some(Self::Bf16) => WeightType::Bf16,
            Some(Self::F16) => WeightType::F16,
            Some(Self::Q8_0) => WeightType::Q8_0,
            Some(Self::Q4_1) => WeightType::Q4_1,
        }
    }
}

/// The options of `graftling train` as the user wrote them; what is `None` takes its default in [`Recipe::resolve`].
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Model to adapt: a folder (config.json, tokenizer.json, *.safetensors), a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M", help_heading = "Input and output")]
    pub model: Option<String>,
    /// Training data, JSONL: one record a line with "messages", "prompt" and "completion", "text", or "input_ids" and "labels"
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub data: Option<PathBuf>,
    /// Folder for the adapter, checkpoints, metrics.jsonl and loss.svg
    #[arg(long, value_name = "DIR", help_heading = "Input and output")]
    pub out: Option<PathBuf>,
    /// Held-out data in the same format; its loss is reported every --eval-steps and at the end
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    pub eval_data: Option<PathBuf>,
    /// Go on from the newest complete checkpoint in --out (from the start, if there is none yet)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL", help_heading = "Input and output")]
    pub resume: Option<bool>,

    /// Rank of the adapters [default: 16: more capacity than small data sets use, still below 4 % of a small model's weights]
    #[arg(long, value_name = "R", help_heading = "Adapter")]
    pub lora_r: Option<usize>,
    /// Numerator of the adapter's scale alpha / r [default: 32, a scale of 2 at rank 16]
    #[arg(long, value_name = "ALPHA", help_heading = "Adapter")]
    pub lora_alpha: Option<f64>,
    /// Probability with which an adapter input is dropped while training [default: 0: short runs do not gain from it]
    #[arg(long, value_name = "P", help_heading = "Adapter")]
    pub lora_dropout: Option<f64>,
    /// Modules to adapt, comma separated: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or attention, mlp,
    /// all-linear [default: all-linear: adapters on attention alone fall short even with as many parameters]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Adapter")]
    #[serde(default, deserialize_with = "one_or_many")]
    pub target_modules: Option<Vec<String>>,
    /// Layers to adapt, such as 8-15,20 (counted from 0) [default: all]
    #[arg(long, value_name = "LAYERS", help_heading = "Adapter")]
    pub layers: Option<String>,
    /// PEFT folder whose adapter is the starting point; rank, alpha, modules and layers are taken from it
    #[arg(long, value_name = "DIR", help_heading = "Adapter")]
    pub init_adapter: Option<PathBuf>,

    /// Peak learning rate [default: 2e-4: adapters want about ten times the rate of a full fine-tune]
    #[arg(long, value_name = "RATE", help_heading = "Optimizer")]
    pub learning_rate: Option<f64>,
    /// Course of the learning rate after warm-up [default: cosine, falling to 0 at the end of the run]
    #[arg(long, value_enum, value_name = "SCHEDULE", help_heading = "Optimizer")]
    pub lr_schedule: Option<ScheduleKind>,
    /// Steps in which the learning rate rises linearly to its peak [default: 3 % of all steps; 0 with a constant schedule]
    #[arg(long, value_name = "STEPS", help_heading = "Optimizer")]
    pub warmup_steps: Option<u64>,
    /// AdamW's decoupled weight decay on the adapters [default: 0: a low-rank update needs no further shrinking]
    #[arg(long, value_name = "DECAY", help_heading = "Optimizer")]
    pub weight_decay: Option<f64>,
    /// Gradients are scaled down to this global norm; 0 turns clipping off [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Optimizer")]
    pub max_grad_norm: Option<f64>,

    /// Rows a batch: packed rows of --max-length tokens, or records with --no-packing [default: 4]
    #[arg(long, value_name = "ROWS", help_heading = "Batches and steps")]
    pub batch_size: Option<usize>,
    /// Batches an optimizer step; the loss is averaged over the supervised tokens of all of them [default: 1]
    #[arg(long, value_name = "BATCHES", help_heading = "Batches and steps")]
    pub gradient_accumulation_steps: Option<usize>,
    /// Longest row in tokens; records that are longer (or longer than the model's context) are cut and reported [default: 512: most instruction records fit, and so does the
    /// memory of a laptop]
    #[arg(long, value_name = "TOKENS", help_heading = "Batches and steps")]
    pub max_length: Option<usize>,
    /// Optimizer steps to do; takes the place of --epochs [default: as many as --epochs needs]
    #[arg(long, value_name = "STEPS", help_heading = "Batches and steps")]
    pub max_steps: Option<u64>,
    /// Passes over the data [default: 3]
    #[arg(long, value_name = "EPOCHS", help_heading = "Batches and steps")]
    pub epochs: Option<u64>,
    /// Seed of the adapter's start, the order of the records and dropout [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Batches and steps")]
    pub seed: Option<u64>,
    /// Keep the records in the order of the file
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL", help_heading = "Batches and steps")]
    pub no_shuffle: Option<bool>,
    /// One record a row, instead of filling rows with several (which never see each other either way)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL", help_heading = "Batches and steps")]
    pub no_packing: Option<bool>,

    /// Steps between two evaluations on --eval-data [default: a tenth of the run]
    #[arg(long, value_name = "STEPS", help_heading = "Evaluation and checkpoints")]
    pub eval_steps: Option<u64>,
    /// Steps between two checkpoints [default: 50; the end of the run always makes one]
    #[arg(long, value_name = "STEPS", help_heading = "Evaluation and checkpoints")]
    pub save_steps: Option<u64>,
    /// Checkpoints to keep; older ones are removed [default: 2]
    #[arg(long, value_name = "N", help_heading = "Evaluation and checkpoints")]
    pub save_total_limit: Option<usize>,

    /// Storage of the frozen weights on the GPU [default: the smallest type that loses nothing against the file]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Device")]
    pub weights: Option<WeightStorage>,
    /// Arithmetic of the large matrix products; sums are f32 in all. A resumed run must use the same [default: f32]
    #[arg(long, value_enum, value_name = "ARITHMETIC", help_heading = "Device")]
    pub matmul: Option<Arithmetic>,
    /// Layers whose activations are computed again in the backward pass instead of being kept: none, all, a number (from the lowest
    /// adapted one up), or auto, the fewest that --memory-budget allows. The numbers of the run stay the same
    /// [default: none; auto with --memory-budget]
    #[arg(long, value_name = "LAYERS", help_heading = "Device")]
    pub recompute: Option<RecomputeOption>,
    /// What the run may occupy on the GPU, such as 2GiB or 600MB; if recompute cannot make it fit, it is refused at once
    /// [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Device")]
    pub memory_budget: Option<ByteSize>,
    /// Where to keep the hidden states that enter the lowest adapted layer, so that the layers below it (see --layers) run once a record
    /// and not in every epoch [default: auto]
    #[arg(long, value_enum, value_name = "WHERE", help_heading = "Device")]
    pub prefix_cache: Option<PrefixCacheMode>,
    /// Most that the prefix cache may take, such as 512MiB; for records that do not fit, all layers run in every epoch
    /// [default: 1GiB in memory, 8GiB on disk]
    #[arg(long, value_name = "SIZE", help_heading = "Device")]
    pub prefix_cache_size: Option<ByteSize>,
    /// Type in which the prefix cache keeps values; bf16 and f16 take half of the room and round [default: f32: losses are bitwise
    /// those without the cache]
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Device")]
    pub prefix_cache_type: Option<PrefixCacheType>,
    /// GPU to use: its number or a part of its name as `graftling doctor` lists it [default: the fastest kind]
    #[arg(long, value_name = "GPU", help_heading = "Device")]
    pub device: Option<String>,
    /// Choose the matrix kernels by fixed rules, instead of measuring once on this GPU which are the fastest
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, value_name = "BOOL", help_heading = "Device")]
    pub no_autotune: Option<bool>,
}

/// `target_modules` in a recipe: `"all-linear"`, `"q_proj,v_proj"` or `["q_proj", "v_proj"]`.
fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(names) => names.split(',').map(|name| name.trim().to_string()).collect(),
        OneOrMany::Many(names) => names,
    }))
}

/// Gives [`Recipe`] a clap command of its own, from which the names of all keys are read.
#[derive(Parser)]
struct RecipeKeys {
    #[command(flatten)]
    _recipe: Recipe,
}

impl Recipe {
    /// Reads a recipe file (TOML). Paths in it are relative to the current folder, as on the command line.
    ///
    /// # Errors
    /// Bad input, with the line: a file that cannot be read, broken TOML, an unknown key (with the nearest known one), a
    /// value of the wrong type.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Error::bad_input(path.display(), format!("cannot read the recipe: {error}"), "give --config the path of a TOML file")
        })?;
        Self::from_toml(&text, path)
    }

    /// Reads a recipe from TOML text; `path` only names it in errors.
    ///
    /// # Errors
    /// As [`Recipe::from_file`].
    pub fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let place = |span: Option<std::ops::Range<usize>>| match span {
            Some(span) => format!("{}:{}", path.display(), line_of(text, span.start)),
            None => path.display().to_string(),
        };
        let table = toml::de::DeTable::parse(text).map_err(|error| {
            Error::bad_input(place(error.span()), error.message().trim(), "write the recipe as TOML: key = value, one a line")
        })?;
        let known = Self::keys();
        for key in table.get_ref().keys() {
            let name: &str = key.get_ref();
            if !known.iter().any(|known| known == name) {
                let proposal = match nearest(name, &known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys: {}", known.join(", ")),
                };
                return Err(Error::bad_input(place(Some(key.span())), format!("unknown key `{name}`"), proposal));
            }
        }
        toml::from_str(text).map_err(|error| {
            let proposal = "see `graftling train --help` for the values of each option";
            Error::bad_input(place(error.span()), error.message().trim(), proposal)
        })
    }

    /// All keys of a recipe file, in the order of the help text.
    pub fn keys() -> Vec<String> {
        RecipeKeys::command().get_arguments().map(|argument| argument.get_id().to_string()).filter(|id| id != "help").collect()
    }

    /// `self`, with what it leaves open taken from `fallback`: the command line over the recipe file.
    pub fn or(self, fallback: Self) -> Self {
        macro_rules! first {
            ($($key:ident),* $(,)?) => { Self { $($key: self.$key.or(fallback.$key)),* } };
        }
        first! {
            model, data, out, eval_data, resume, lora_r, lora_alpha, lora_dropout, target_modules, layers, init_adapter,
            learning_rate, lr_schedule, warmup_steps, weight_decay, max_grad_norm, batch_size, gradient_accumulation_steps,
            max_length, max_steps, epochs, seed, no_shuffle, no_packing, eval_steps, save_steps, save_total_limit, weights,
            matmul, recompute, memory_budget, prefix_cache, prefix_cache_size, prefix_cache_type, device, no_autotune,
        }
    }

    /// Fills in the defaults and checks every value that can be checked without the model.
    ///
    /// # Errors
    /// Bad input, naming the option: a required one is missing, or a value is out of its range.
    pub fn resolve(self) -> Result<TrainOptions> {
        let missing = |option: &str, proposal: &str| Error::bad_input(option, "this option is required", proposal);
        let options = TrainOptions {
            model: self.model.ok_or_else(|| missing("--model", "give a model folder, a .gguf file or a Hugging Face name"))?,
            data: self.data.ok_or_else(|| missing("--data", "give a JSONL file with the training records"))?,
            out: self.out.ok_or_else(|| missing("--out", "give the folder that shall receive the adapter"))?,
            eval_data: self.eval_data,
            resume: self.resume.unwrap_or(false),
            lora_r: self.lora_r,
            lora_alpha: self.lora_alpha,
            lora_dropout: self.lora_dropout,
            target_modules: self.target_modules,
            layers: self.layers,
            init_adapter: self.init_adapter,
            learning_rate: self.learning_rate.unwrap_or(TrainOptions::LEARNING_RATE),
            lr_schedule: self.lr_schedule.unwrap_or(ScheduleKind::Cosine),
            warmup_steps: self.warmup_steps,
            weight_decay: self.weight_decay.unwrap_or(0.0),
            max_grad_norm: self.max_grad_norm.unwrap_or(TrainOptions::MAX_GRAD_NORM),
            batch_size: self.batch_size.unwrap_or(TrainOptions::BATCH_SIZE),
            gradient_accumulation_steps: self.gradient_accumulation_steps.unwrap_or(1),
            max_length: self.max_length.unwrap_or(TrainOptions::MAX_LENGTH),
            max_steps: self.max_steps,
            epochs: self.epochs.unwrap_or(TrainOptions::EPOCHS),
            seed: self.seed.unwrap_or(0),
            shuffle: !self.no_shuffle.unwrap_or(false),
            packing: !self.no_packing.unwrap_or(false),
            eval_steps: self.eval_steps,
            save_steps: self.save_steps.unwrap_or(TrainOptions::SAVE_STEPS),
            save_total_limit: self.save_total_limit.unwrap_or(TrainOptions::SAVE_TOTAL_LIMIT),
            weights: self.weights,
            matmul: self.matmul.unwrap_or_default(),
            recompute: self.recompute,
            memory_budget: self.memory_budget,
            prefix_cache: PrefixCacheOptions {
                mode: self.prefix_cache.unwrap_or_default(),
                size: self.prefix_cache_size,
                dtype: self.prefix_cache_type.unwrap_or_default(),
            },
            device: self.device,
            autotune: !self.no_autotune.unwrap_or(false),
        };
        options.check()?;
        Ok(options)
    }
}

/// A training run, complete and checked. The adapter's shape stays optional here: what is not given comes from
/// `init_adapter` if there is one, and from the constants below if not.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub model: String,
    pub data: PathBuf,
    pub out: PathBuf,
    pub eval_data: Option<PathBuf>,
    pub resume: bool,
    pub lora_r: Option<usize>,
    pub lora_alpha: Option<f64>,
    pub lora_dropout: Option<f64>,
    pub target_modules: Option<Vec<String>>,
    /// As the user wrote them, such as `8-15,20`.
    pub layers: Option<String>,
    pub init_adapter: Option<PathBuf>,
    pub learning_rate: f64,
    pub lr_schedule: ScheduleKind,
    pub warmup_steps: Option<u64>,
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 = no clipping.
    pub max_grad_norm: f64,
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub max_length: usize,
    pub max_steps: Option<u64>,
    pub epochs: u64,
    pub seed: u64,
    pub shuffle: bool,
    pub packing: bool,
    pub eval_steps: Option<u64>,
    pub save_steps: u64,
    pub save_total_limit: usize,
    pub weights: Option<WeightStorage>,
    pub matmul: Arithmetic,
    pub recompute: Option<RecomputeOption>,
    pub memory_budget: Option<ByteSize>,
    pub prefix_cache: PrefixCacheOptions,
    pub device: Option<String>,
    /// Measure which kernels are the fastest. Not a part of the fingerprint: a run records its kernels themselves.
    pub autotune: bool,
}

impl TrainOptions {
    pub const LORA_R: usize = 16;
    pub const LORA_ALPHA: f64 = 32.0;
    pub const TARGET_MODULES: &str = "all-linear";
    pub const LEARNING_RATE: f64 = 2e-4;
    pub const MAX_GRAD_NORM: f64 = 1.0;
    pub const BATCH_SIZE: usize = 4;
    pub const MAX_LENGTH: usize = 512;
    pub const EPOCHS: u64 = 3;
    pub const SAVE_STEPS: u64 = 50;
    pub const SAVE_TOTAL_LIMIT: usize = 2;

    fn check(&self) -> Result<()> {
        let positive = |option: &str, is: bool| match is {
            true => Ok(()),
            false => Err(Error::bad_input(option, "the value must be at least 1", "leave the option out to get its default")),
        };
        positive("--lora-r", self.lora_r != Some(0))?;
        positive("--batch-size", self.batch_size > 0)?;
        positive("--gradient-accumulation-steps", self.gradient_accumulation_steps > 0)?;
        positive("--max-steps", self.max_steps != Some(0))?;
        positive("--epochs", self.epochs > 0)?;
        positive("--eval-steps", self.eval_steps != Some(0))?;
        positive("--save-steps", self.save_steps > 0)?;
        positive("--save-total-limit", self.save_total_limit > 0)?;
        if self.max_length < 2 {
            let problem = "a row needs at least 2 tokens, one to read and one to predict";
            return Err(Error::bad_input("--max-length", problem, "give 2 or more; 512 is usual"));
        }
        let within = |option: &str, value: f64, is: bool, range: &str| match is {
            true => Ok(()),
            false => Err(Error::bad_input(option, format!("{value} is out of range"), format!("give a value {range}"))),
        };
        let (rate, decay, norm) = (self.learning_rate, self.weight_decay, self.max_grad_norm);
        within("--learning-rate", rate, rate.is_finite() && rate > 0.0, "above 0, such as 2e-4")?;
        within("--weight-decay", decay, decay.is_finite() && decay >= 0.0, "of 0 or above")?;
        within("--max-grad-norm", norm, norm.is_finite() && norm >= 0.0, "of 0 (no clipping) or above")?;
        if let Some(alpha) = self.lora_alpha {
            within("--lora-alpha", alpha, alpha.is_finite() && alpha > 0.0, "above 0, such as twice the rank")?;
        }
        if let Some(dropout) = self.lora_dropout {
            within("--lora-dropout", dropout, (0.0..1.0).contains(&dropout), "of 0 or above and below 1")?;
        }
        if self.target_modules.as_ref().is_some_and(|names| names.iter().all(|name| name.trim().is_empty())) {
            let proposal = "name modules such as q_proj,v_proj, or attention, mlp, all-linear";
            return Err(Error::bad_input("--target-modules", "no module is named", proposal));
        }
        if self.eval_steps.is_some() && self.eval_data.is_none() {
            let proposal = "give --eval-data FILE as well, or leave --eval-steps out";
            return Err(Error::bad_input("--eval-steps", "there is nothing to evaluate on", proposal));
        }
        Ok(())
    }

    /// The options that change the numbers of a run, by name, as a checkpoint records them. The model, the data and the
    /// adapter are added by content where they are known; see [`super::prepare`]. The values are text, as JSON writes them: what is
    /// read back compares equal, which a number that went through decimals need not.
    ///
    /// `total_steps` counts only where the schedule depends on it, so a run at a constant rate may be made longer.
    pub fn fingerprint(&self, warmup_steps: u64, total_steps: u64) -> BTreeMap<String, String> {
        let mut print = BTreeMap::from(
            [
                ("learning_rate", json!(self.learning_rate)),
                ("lr_schedule", json!(self.lr_schedule)),
                ("warmup_steps", json!(warmup_steps)),
                ("weight_decay", json!(self.weight_decay)),
                ("max_grad_norm", json!(self.max_grad_norm)),
                ("batch_size", json!(self.batch_size)),
                ("gradient_accumulation_steps", json!(self.gradient_accumulation_steps)),
                ("max_length", json!(self.max_length)),
                ("seed", json!(self.seed)),
                ("no_shuffle", json!(!self.shuffle)),
                ("no_packing", json!(!self.packing)),
                ("weights", json!(self.weights)),
            ]
            .map(|(name, value)| (name.to_string(), value.to_string())),
        );
        // Runs from before there was a choice computed in f32.
        if self.matmul != Arithmetic::F32 {
            print.insert("matmul".to_string(), json!(self.matmul).to_string());
        }
        if self.lr_schedule != ScheduleKind::Constant {
            print.insert("max_steps".to_string(), total_steps.to_string());
        }
        print
    }
}

/// The line, counted from 1, in which byte `offset` of `text` stands.
fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|&&byte| byte == b'\n').count() + 1
}

/// The known name nearest to `name`, if it is near enough to be a slip of the hand.
fn nearest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let written = name.to_lowercase().replace('-', "_");
    let (distance, near) = known.iter().map(|known| (edit_distance(&written, known), known.as_str())).min()?;
    (distance <= 1 + near.len() / 4).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Result<Recipe> {
        Recipe::from_toml(text, Path::new("recipe.toml"))
    }

    fn minimal() -> Recipe {
        recipe("model = \"m\"\ndata = \"d.jsonl\"\nout = \"o\"").unwrap()
    }

    #[test]
    fn recipe_and_command_line_have_the_same_keys_and_the_command_line_wins() {
        let memory = recipe("recompute = 5\nmemory_budget = \"2GiB\"").unwrap();
        assert_eq!((memory.recompute, memory.memory_budget), (Some(RecomputeOption::Layers(5)), Some(ByteSize(2 << 30))));
        assert_eq!(recipe("recompute = \"all\"").unwrap().recompute, Some(RecomputeOption::All));
        let cache = recipe("prefix_cache = \"disk\"\nprefix_cache_size = \"2GiB\"\nprefix_cache_type = \"bf16\"").unwrap();
        assert_eq!((cache.prefix_cache, cache.prefix_cache_size), (Some(PrefixCacheMode::Disk), Some(ByteSize(2 << 30))));
        assert_eq!(cache.prefix_cache_type, Some(PrefixCacheType::Bf16));
        let file = recipe("lora_r = 4\nlearning_rate = 1e-3\ntarget_modules = [\"q_proj\", \"v_proj\"]\nno_shuffle = true\nlr_schedule = \"linear\"").unwrap();
        let line =
            RecipeKeys::try_parse_from(["train", "--lora-r", "8", "--no-shuffle=false", "--weights", "bf16"]).unwrap()._recipe;
        let both = line.or(file);
        assert_eq!(both.lora_r, Some(8));
        assert_eq!(both.learning_rate, Some(1e-3));
        assert_eq!(both.no_shuffle, Some(false));
        assert_eq!(both.weights, Some(WeightStorage::Bf16));
        assert_eq!(both.lr_schedule, Some(ScheduleKind::Linear));
        assert_eq!(both.target_modules, Some(vec!["q_proj".to_string(), "v_proj".to_string()]));
        for key in Recipe::keys() {
            let one = recipe(&format!("{key} = {{}}")).map(|_| ()).unwrap_err().to_string();
            assert!(!one.contains("unknown"), "{key} is an option and no key: {one}");
        }
    }

    #[test]
    fn unknown_key_names_its_line_and_the_nearest_key() {
        let error = recipe("lora_r = 4\n\nlearning-rate = 1e-3\n").unwrap_err();
        assert_eq!(error.to_string(), "recipe.toml:3: unknown key `learning-rate`\n  did you mean `learning_rate`?");
        assert_eq!(error.exit_code(), 2);
        assert!(recipe("completely_different = 1").unwrap_err().to_string().contains("known keys: model, data"));
        assert!(recipe("a = 1\nb = \n").unwrap_err().to_string().starts_with("recipe.toml:2:"));
        assert!(recipe("model = \"m\"\nlora_r = \"many\"").unwrap_err().to_string().starts_with("recipe.toml:2:"));
    }

    #[test]
    fn help_states_the_defaults_that_the_code_has() {
        let help = RecipeKeys::command().render_long_help().to_string();
        let stated = |option: &str, value: String| {
            let text: String = help
                .split(&format!("--{option} <"))
                .nth(1)
                .unwrap_or_default()
                .split("\n\n")
                .next()
                .unwrap_or_default()
                .replace(['\n', ' '], "");
            assert!(text.contains(&format!("[default:{value}")), "--{option} does not state its default {value}: {text}");
        };
        stated("lora-r", TrainOptions::LORA_R.to_string());
        stated("lora-alpha", TrainOptions::LORA_ALPHA.to_string());
        stated("target-modules", TrainOptions::TARGET_MODULES.to_string());
        stated("learning-rate", "2e-4".to_string());
        assert_eq!(TrainOptions::LEARNING_RATE, 2e-4);
        stated("max-grad-norm", TrainOptions::MAX_GRAD_NORM.to_string());
        stated("batch-size", TrainOptions::BATCH_SIZE.to_string());
        stated("max-length", TrainOptions::MAX_LENGTH.to_string());
        stated("epochs", TrainOptions::EPOCHS.to_string());
        stated("save-steps", TrainOptions::SAVE_STEPS.to_string());
        stated("save-total-limit", TrainOptions::SAVE_TOTAL_LIMIT.to_string());
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        assert_eq!(minimal().resolve().unwrap().lr_schedule, ScheduleKind::Cosine);
        let refused = |recipe: Recipe| recipe.resolve().unwrap_err().to_string();
        assert!(refused(Recipe::default()).starts_with("--model: this option is required"));
        assert!(refused(Recipe { batch_size: Some(0), ..minimal() }).starts_with("--batch-size:"));
        assert!(refused(Recipe { learning_rate: Some(f64::NAN), ..minimal() }).starts_with("--learning-rate: NaN"));
        assert!(refused(Recipe { lora_dropout: Some(1.0), ..minimal() }).starts_with("--lora-dropout:"));
        assert!(refused(Recipe { max_grad_norm: Some(-1.0), ..minimal() }).starts_with("--max-grad-norm:"));
        assert!(refused(Recipe { eval_steps: Some(5), ..minimal() }).starts_with("--eval-steps:"));
    }

    #[test]
    fn the_fingerprint_holds_the_length_only_where_the_schedule_depends_on_it() {
        let cosine = minimal().resolve().unwrap();
        assert_ne!(cosine.fingerprint(3, 100), cosine.fingerprint(3, 200));
        let recomputed = TrainOptions { recompute: Some(RecomputeOption::All), ..cosine.clone() };
        assert_eq!(cosine.fingerprint(3, 100), recomputed.fingerprint(3, 100), "recompute changes no number");
        let in_f16 = TrainOptions { matmul: Arithmetic::F16, ..cosine.clone() };
        assert_ne!(cosine.fingerprint(3, 100), in_f16.fingerprint(3, 100), "other arithmetic, other numbers");
        let constant = TrainOptions { lr_schedule: ScheduleKind::Constant, ..cosine };
        assert_eq!(constant.fingerprint(0, 100), constant.fingerprint(0, 200));
        assert_ne!(constant.fingerprint(0, 100), TrainOptions { seed: 1, ..constant.clone() }.fingerprint(0, 100));
    }
}
