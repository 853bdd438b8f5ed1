//! The options of a training run: one table, in which an option is one row (see `row.rs`).
//!
//! [`Recipe`] is what the user wrote, on the command line or in a recipe file: every key is optional and has one name
//! (kebab case as an option, snake case in the file). [`Recipe::resolve`] fills in the defaults, checks the values and gives
//! [`TrainOptions`], which the rest of the program reads.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use super::bottleneck::AdapterMethod;
use super::row::{above_zero, any, at_least_one, option_rows, within};
use crate::adapter::start::Start;
use crate::architecture::RopeOverride;
use crate::architecture::experts::means_routers;
use crate::byte_size::ByteSize;
use crate::data::LongRecords;
use crate::formats::adapter_hub::Named;
use crate::kernel::Arithmetic;
use crate::session::prefix_cache::{PrefixCacheMode, PrefixCacheOptions, PrefixCacheType};
use crate::storage::DType;
use crate::train::budget::RecomputeOption;
use crate::train::schedule::ScheduleKind;
use crate::{Error, Result};

/// More steps than any run has; it keeps counts far from overflow.
pub const MOST_STEPS: u64 = 1_000_000_000;

option_rows! {
    /// The options of `graftling train` as the user wrote them; what is `None` takes its default in [`Recipe::resolve`].
    #[derive(Debug, Clone, Default, Args, Deserialize)]
    #[serde(deny_unknown_fields)]
    Recipe;
    /// A training run, complete and checked. The adapter's shape stays optional here: what is not given comes from `init_adapter` if
    /// there is one, and from the constants below if not.
    #[derive(Debug, Clone, PartialEq)]
    TrainOptions;

    "Input and output" {
        /// Model to adapt: a folder (config.json, tokenizer.json, *.safetensors), a .gguf file, or a Hugging Face name
        model: String, "M", required("give a model folder, a .gguf file or a Hugging Face name"), check any, resumed derived;
        /// Training data, a file or a folder with train.jsonl (its valid.jsonl becomes held-out data); give --data again for more files.
        /// JSONL, a JSON list, CSV or Parquet, plain or gzipped; a record has "messages", "conversations" (ShareGPT), "prompt" and
        /// "completion", "instruction" and "output" (Alpaca), "text", or "input_ids" and "labels"
        #[serde(default, deserialize_with = "super::recipe::one_or_many_paths")]
        data: Vec<PathBuf>, "FILE", required("give a file with the training records, such as data.jsonl"), check any, resumed derived;
        /// Folder for the adapter, checkpoints, metrics.jsonl and loss.svg
        out: PathBuf, "DIR", required("give the folder that shall receive the adapter"), check any, resumed free;
        /// Held-out data in the same format; its loss is reported every --eval-steps and at the end
        #[serde(default, deserialize_with = "super::recipe::one_or_many_paths")]
        eval_data: Vec<PathBuf>, "FILE", optional("none, or valid.jsonl of a folder given by --data"), check any, resumed free;
        /// Questions for the model while it is trained: records with "expect", as `graftling eval --generate` takes them; the share that is
        /// answered right is reported every --check-steps and at the end
        #[serde(default, deserialize_with = "super::recipe::one_or_many_paths")]
        check_data: Vec<PathBuf>, "FILE", optional("none"), check any, resumed derived;
        /// Share of the training records to hold out in place of --eval-data, such as 0.05. Each record is drawn by its own content: the
        /// same record is on the same side in every run
        eval_split: f64, "SHARE", optional("none"), check a_share, resumed derived;
        /// Go on from the newest complete checkpoint in --out (from the start, if there is none yet)
        resume: bool, "BOOL", switch, check any, resumed free;
        /// Replace the adapter, and put aside the run, that --out holds
        overwrite: bool, "BOOL", switch, check any, resumed free;
    }
    "Adapter" {
        /// What is trained: lora, or AdapterHub's bottleneck adapters, small networks after attention and MLP (houlsby), after the MLP
        /// (pfeiffer) or beside it (parallel). A bottleneck cannot be merged into the model, nor run by llama.cpp
        #[arg(value_enum)]
        adapter_method: AdapterMethod, "METHOD", optional("lora"), check any, resumed derived;
        /// Width of a bottleneck: the model's hidden size divided by this
        reduction_factor: f64, "FACTOR", optional("AdapterHub's: 16; 2 for parallel"),
            check |option, factor| within(option, factor, factor.is_finite() && *factor >= 1e-2, "of 0.01 or above"), resumed derived;
        /// Width of a bottleneck, in place of --reduction-factor
        bottleneck_size: usize, "WIDTH", optional("by --reduction-factor"), check at_least_one, resumed derived;
        /// What stands between the two matrices of a bottleneck: relu, swish, gelu, gelu_new, tanh, ..., by transformers' names
        non_linearity: Named, "NAME", optional("AdapterHub's: swish for houlsby, else relu"), check any, resumed derived;
        /// Rank of the adapters
        lora_r: usize, "R", optional("16: more capacity than small data sets use, still below 4 % of a small model's weights"),
            check at_least_one, resumed derived;
        /// Numerator of the adapter's scale alpha / r
        lora_alpha: f64, "ALPHA", optional("32, a scale of 2 at rank 16"),
            check |option, alpha| above_zero(option, alpha, "twice the rank"), resumed derived;
        /// Probability with which an adapter input is dropped while training
        lora_dropout: f64, "P", optional("0: short runs do not gain from it"),
            check |option, p| within(option, p, (0.0..1.0).contains(p), "of 0 or above and below 1"), resumed derived;
        /// Ranks of some modules, by the end of their name, such as q_proj=2,down_proj=6 or layers.3.mlp.up_proj=8; a name may be a
        /// regular expression, and the first one that fits counts
        rank_pattern: String, "NAME=R,...", optional("none"), check any, resumed derived;
        /// Alphas of some modules, written as --rank-pattern
        alpha_pattern: String, "NAME=ALPHA,...", optional("none"), check any, resumed derived;
        /// Scale by alpha / sqrt(r) instead of alpha / r, so that high ranks learn as fast as low ones
        use_rslora: bool, "BOOL", switch, check any, resumed derived;
        /// DoRA: train the length of each weight's rows apart from their direction; a step takes longer
        use_dora: bool, "BOOL", switch, check any, resumed derived;
        /// How A and B start: default (A random, B zero), gaussian, orthogonal, pissa (the largest singular vectors of each weight;
        /// pissa_niter_N for N iterations instead of 16), olora, loftq (what --weights nf4 takes from each weight), or eva (A from what
        /// enters each layer for the first batches of the data; ranks stay as they are, as with PEFT's rho 1). The adapter that is saved
        /// is one for the unchanged base, of twice the rank with pissa, olora and loftq
        init_lora_weights: Start, "START", optional("default"), check any, resumed derived;
        /// LoRA+: B learns this many times faster than A
        loraplus_lr_ratio: f64, "RATIO", optional("1"), check |option, ratio| above_zero(option, ratio, "16"), resumed derived;
        /// Modules to adapt, comma separated: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, or attention, mlp,
        /// all-linear; or one regular expression for whole names, such as '.*[.](3|7)[.]mlp[.].*' for model.layers.3.mlp.up_proj
        #[arg(value_delimiter = ',')]
        #[serde(default, deserialize_with = "super::recipe::one_or_many")]
        target_modules: Vec<String>, "NAMES", optional("all-linear: adapters on attention alone fall short even with as many parameters"),
            check |option, names| names_a_module(option, names), resumed derived;
        /// Modules to leave out of --target-modules, written in the same way
        #[arg(value_delimiter = ',')]
        #[serde(default, deserialize_with = "super::recipe::one_or_many")]
        exclude_modules: Vec<String>, "NAMES", optional("none"), check any, resumed derived;
        /// Tokens that get trained rows of their own in embedding and output matrix, such as '<|tool|>,<|note|>'. What the tokenizer lacks is
        /// added to it, as a token that is found as it is written and begins with the mean of all rows; of a token that it has, its row is
        /// trained. No other row changes. The tokenizer is kept beside the adapter, where eval, generate and merge read it
        #[arg(value_delimiter = ',')]
        #[serde(default, deserialize_with = "super::recipe::one_or_many")]
        train_tokens: Vec<String>, "TOKENS", optional("none"), check |option, tokens| has_characters(option, tokens), resumed derived;
        /// Train these modules as a whole, in f32: embed_tokens, lm_head, norms (norm means all whose name ends so, as in PEFT;
        /// input_layernorm, post_attention_layernorm, model.norm some), and the routers of experts (gate). It takes four times their size on
        /// the GPU, and their size on disk; where a model has one matrix for embedding and output, each of the two becomes one of its own,
        /// as in PEFT
        #[arg(value_delimiter = ',')]
        #[serde(default, deserialize_with = "super::recipe::one_or_many")]
        modules_to_save: Vec<String>, "NAMES", optional("none"), check |option, names| names_a_matrix(option, names), resumed derived;
        /// Stretch the model's context with another rotary scaling than its own: none, linear:FACTOR, dynamic:FACTOR, yarn:FACTOR or
        /// llama3:FACTOR. The adapter remembers it
        rope_scaling: RopeOverride, "SCALING", optional("the model's own"), check any, resumed derived;
        /// Layers to adapt: such as 8-15,20 (counted from 0), early, middle or late (a third each), or a share such as 30%-70%
        layers: String, "LAYERS", optional("all"), check any, resumed derived;
        /// Folder whose adapter, of PEFT or of AdapterHub, is the starting point; method, size, modules and layers are taken from it
        init_adapter: PathBuf, "DIR", optional("none"), check any, resumed derived;
    }
    "Optimizer" {
        /// Peak learning rate
        learning_rate: f64, "RATE", default(2e-4, "adapters want about ten times the rate of a full fine-tune"),
            check |option, rate| above_zero(option, rate, "2e-4"), resumed same;
        /// Course of the learning rate after warm-up; cosine and linear fall to 0 at the end of the run
        #[arg(value_enum)]
        lr_schedule: ScheduleKind, "SCHEDULE", default(ScheduleKind::Cosine, ""), check any, resumed same;
        /// Steps in which the learning rate rises linearly to its peak
        warmup_steps: u64, "STEPS", optional("3 % of all steps; 0 with a constant schedule"), check any, resumed derived;
        /// AdamW's decoupled weight decay on the adapters
        weight_decay: f64, "DECAY", default(0.0, "a low-rank update needs no further shrinking"),
            check |option, decay| within(option, decay, decay.is_finite() && *decay >= 0.0, "of 0 or above"), resumed same;
        /// Gradients are scaled down to this global norm; 0 turns clipping off
        max_grad_norm: f64, "NORM", default(1.0, ""),
            check |option, norm| within(option, norm, norm.is_finite() && *norm >= 0.0, "of 0 (no clipping) or above"), resumed same;
        /// By what the load balancing loss of experts' routers is multiplied before it is added to the loss, as transformers does it with
        /// output_router_logits: such as 0.001; 0 leaves it out. Each batch of a step adds its own
        router_aux_loss_coef: f64, "COEF", optional("the config's router_aux_loss_coef if it says output_router_logits, else 0"),
            check |option, coef| within(option, coef, coef.is_finite() && *coef >= 0.0, "of 0 (without it) or above"), resumed derived;
    }
    "Batches and steps" {
        /// Rows a batch: packed rows of --max-length tokens, or records with --no-packing
        batch_size: usize, "ROWS", default(TrainOptions::BATCH_SIZE, ""), check at_least_one, resumed same;
        /// Batches an optimizer step; the loss is averaged over the supervised tokens of all of them. Of several ranks (mpirun) each has
        /// so many
        gradient_accumulation_steps: usize, "BATCHES", default(1, ""), check at_least_one, resumed same;
        /// Longest row in tokens; records that are longer (or longer than the model's context) are cut and reported
        max_length: usize, "TOKENS", default(TrainOptions::MAX_LENGTH, "most instruction records fit, and so does the memory of a laptop"),
            check two_tokens, resumed same;
        /// What to do with records of more than --max-length tokens
        #[arg(value_enum)]
        long_records: LongRecords, "WHAT", default(LongRecords::Cut, ""), check any, resumed derived;
        /// Optimizer steps to do; takes the place of --epochs
        max_steps: u64, "STEPS", optional("as many as --epochs needs"), check |option, steps| within(option, steps, (1..=MOST_STEPS).contains(steps), "of 1 to 1000000000"),
            resumed derived;
        /// Passes over the data
        epochs: u64, "EPOCHS", default(3, ""), check at_least_one, resumed derived;
        /// Seed of the adapter's start, the order of the records and dropout
        seed: u64, "SEED", default(0, ""), check any, resumed same;
        /// Keep the records in the order of the file
        no_shuffle: bool, "BOOL", switch, check any, resumed same;
        /// One record a row, instead of filling rows with several (which never see each other either way)
        no_packing: bool, "BOOL", switch, check any, resumed same;
    }
    "Evaluation and checkpoints" {
        /// Steps between two evaluations on --eval-data
        eval_steps: u64, "STEPS", optional("a tenth of the run"), check at_least_one, resumed free;
        /// Steps between two rounds of the questions of --check-data
        check_steps: u64, "STEPS", optional("a fifth of the run: an answer takes longer than a loss"), check at_least_one, resumed free;
        /// Tokens of an answer to --check-data at most
        check_max_new_tokens: usize, "TOKENS", default(64, ""), check at_least_one, resumed derived;
        /// Steps between two checkpoints; the end of the run always makes one
        save_steps: u64, "STEPS", default(50, ""), check at_least_one, resumed free;
        /// Checkpoints to keep; older ones are removed
        save_total_limit: usize, "N", default(2, ""), check at_least_one, resumed free;
    }
    "Reports" {
        /// Write the metrics as event files of TensorBoard too, beside metrics.jsonl; other trackers import them
        tensorboard: bool, "BOOL", switch, check any, resumed free;
        /// Steps between two rounds of answers to --sample-prompts, which go to samples.jsonl
        sample_steps: u64, "STEPS", optional("no answers while it trains"), check at_least_one, resumed free;
        /// Message to answer; give the option again for more
        sample_prompts: Vec<String>, "TEXT", optional("none"), check any, resumed free;
    }
    "Device" {
        /// Format of the frozen weights on the GPU
        #[arg(value_enum)]
        weights: DType, "TYPE", optional("as in the file"), check any, resumed same;
        /// With --weights nf4: keep the scale of each block in f32, instead of rounding it to 8 bits as QLoRA does
        no_double_quant: bool, "BOOL", switch, check any, resumed same_if_set;
        /// Arithmetic of the large matrix products; sums are f32 in all. A resumed run must use the same
        #[arg(value_enum)]
        matmul: Arithmetic, "ARITHMETIC", default(Arithmetic::F32, ""), check any, resumed same_if_set;
        /// Layers whose activations are computed again in the backward pass instead of being kept: none, all, a number (from the lowest
        /// adapted one up), auto, the fewest that --memory-budget allows, or cheap: of every layer what costs next to nothing, norms and activation
        /// functions. The numbers of the run stay the same
        recompute: RecomputeOption, "LAYERS", optional("cheap; auto with --memory-budget"), check any, resumed free;
        /// What the run may occupy on the GPU, such as 2GiB or 600MB; if recompute cannot make it fit, it is refused at once
        memory_budget: ByteSize, "SIZE", optional("no limit"), check any, resumed free;
        /// Where to keep the hidden states that enter the lowest adapted layer, so that the layers below it (see --layers) run once a
        /// record and not in every epoch
        #[arg(value_enum)]
        prefix_cache: PrefixCacheMode, "WHERE", default(PrefixCacheMode::Auto, ""), check any, resumed free;
        /// Most that the prefix cache may take, such as 512MiB; for records that do not fit, all layers run in every epoch
        prefix_cache_size: ByteSize, "SIZE", optional("1GiB in memory, 8GiB on disk"), check any, resumed free;
        /// Type in which the prefix cache keeps values; bf16 and f16 take half of the room and round, with f32 losses are bitwise those
        /// without the cache
        #[arg(value_enum)]
        prefix_cache_type: PrefixCacheType, "TYPE", default(PrefixCacheType::F32, ""), check any, resumed derived;
        /// GPU to use: its number or a part of its name as `graftling doctor` lists it. For several ranks (mpirun) a list, such as 0,1,2,3,
        /// of which each takes its entry
        device: String, "GPU", optional("the fastest kind"), check any, resumed free;
        /// With several ranks (mpirun): add the gradients of all batches in their order, so that the bits are those of one process; every
        /// batch's gradients then go over the network, instead of one sum a step
        deterministic_sum: bool, "BOOL", switch, check any, resumed free;
        /// Choose the matrix kernels by fixed rules, instead of measuring once on this GPU which are the fastest
        no_autotune: bool, "BOOL", switch, check any, resumed free;
    }
}

impl Recipe {
    /// Fills in the defaults and checks every value that can be checked without the model.
    ///
    /// # Errors
    /// Bad input, naming the option: a required one is missing, or a value is out of its range.
    pub fn resolve(self) -> Result<TrainOptions> {
        let options = self.complete()?;
        if options.eval_split.is_some() && options.eval_data.is_some() {
            let problem = "both this and --eval-data say what is held out";
            return Err(Error::bad_input("--eval-split", problem, "give one of the two"));
        }
        // A folder may bring held-out data with it, which is known when it is read.
        let folder = options.data.iter().any(|data| data.is_dir());
        if options.eval_steps.is_some() && options.eval_data.is_none() && options.eval_split.is_none() && !folder {
            let proposal = "give --eval-data FILE or --eval-split SHARE as well, or leave --eval-steps out";
            return Err(Error::bad_input("--eval-steps", "there is nothing to evaluate on", proposal));
        }
        if options.check_steps.is_some() && options.check_data.is_none() {
            return Err(Error::bad_input(
                "--check-steps",
                "there is nothing to ask",
                "give --check-data FILE as well, or leave it out",
            ));
        }
        Ok(options)
    }

    /// As [`TrainOptions::tokens`].
    pub fn tokens(&self) -> Vec<String> {
        tokens(self.train_tokens.iter().flatten())
    }
}

impl TrainOptions {
    pub const LORA_R: usize = 16;
    pub const LORA_ALPHA: f64 = 32.0;
    pub const TARGET_MODULES: &str = "all-linear";
    pub const BATCH_SIZE: usize = 4;
    pub const MAX_LENGTH: usize = 512;

    /// The tokens of `--train-tokens`, each once.
    pub fn tokens(&self) -> Vec<String> {
        tokens(self.train_tokens.iter().flatten())
    }

    /// What the user asks of the prefix cache.
    pub fn prefix_cache(&self) -> PrefixCacheOptions {
        PrefixCacheOptions { mode: self.prefix_cache, size: self.prefix_cache_size, dtype: self.prefix_cache_type }
    }

    /// The options that change the numbers of a run, by name, as a checkpoint records them. The model, the data and the
    /// adapter are added by content where they are known; see [`prepare`](crate::train::prepare).
    ///
    /// `total_steps` counts only where the schedule depends on it, so a run at a constant rate may be made longer.
    pub fn fingerprint(&self, warmup_steps: u64, total_steps: u64) -> BTreeMap<String, String> {
        let mut print = self.unchanging();
        print.insert("warmup_steps".to_string(), warmup_steps.to_string());
        if self.lr_schedule != ScheduleKind::Constant {
            print.insert("max_steps".to_string(), total_steps.to_string());
        }
        print
    }
}

fn tokens<'t>(given: impl Iterator<Item = &'t String>) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    for token in given.map(|token| token.trim()) {
        if tokens.iter().all(|known| known != token) {
            tokens.push(token.to_string());
        }
    }
    tokens
}

fn a_share(option: &str, share: &f64) -> Result<()> {
    within(option, share, *share > 0.0 && *share < 1.0, "above 0 and below 1, such as 0.05")
}

fn two_tokens(option: &str, length: &usize) -> Result<()> {
    match *length >= 2 {
        true => Ok(()),
        false => {
            let problem = "a row needs at least 2 tokens, one to read and one to predict";
            Err(Error::bad_input(option, problem, "give 2 or more; 512 is usual"))
        }
    }
}

fn names_a_module(option: &str, names: &[String]) -> Result<()> {
    match names.iter().any(|name| !name.trim().is_empty()) {
        true => Ok(()),
        false => {
            let proposal = "name modules such as q_proj,v_proj, or attention, mlp, all-linear";
            Err(Error::bad_input(option, "no module is named", proposal))
        }
    }
}

fn has_characters(option: &str, tokens: &[String]) -> Result<()> {
    match tokens.is_empty() || tokens.iter().any(|token| token.trim().is_empty()) {
        true => {
            let proposal = "separate tokens by commas, such as '<|tool|>,<|note|>'";
            Err(Error::bad_input(option, "there is a token without a character", proposal))
        }
        false => Ok(()),
    }
}

fn names_a_matrix(option: &str, names: &[String]) -> Result<()> {
    let is_known = |name: &&str| ["embed_tokens", "lm_head"].contains(name) || name.ends_with("norm") || means_routers(name);
    let other = names.iter().map(|name| name.trim()).find(|name| !is_known(name));
    match other {
        Some(other) => {
            let problem = format!("`{other}` is no module that is trained as a whole");
            Err(Error::bad_input(
                option,
                problem,
                "name embed_tokens, lm_head, norms such as norm, or gate, the routers of experts; --target-modules adapts linear layers",
            ))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Recipe {
        let path = || PathBuf::from("x");
        Recipe { model: Some("m".to_string()), data: Some(vec![path()]), out: Some(path()), ..Recipe::default() }
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
        assert!(refused(Recipe { check_steps: Some(5), ..minimal() }).starts_with("--check-steps:"));
        assert!(refused(Recipe { eval_split: Some(1.0), ..minimal() }).starts_with("--eval-split: 1 is out of range"));
        let both = Recipe { eval_split: Some(0.1), eval_data: Some(vec![PathBuf::from("x")]), ..minimal() };
        assert!(refused(both).starts_with("--eval-split: both this and --eval-data"));
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
