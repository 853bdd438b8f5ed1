//! The bottleneck adapter that the options of a run ask for.

use std::collections::BTreeSet;
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::adapter::{LARGEST_RANK, agrees};
use super::options::TrainOptions;
use crate::adapter::bottleneck::reads_sums;
use crate::adapter::targets::parse_layers;
use crate::architecture::{Architecture, FAMILIES};
use crate::formats::adapter_hub::{BottleneckConfig, Input, ReductionFactor};
use crate::{Error, Result};

/// What `--adapter-method` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterMethod {
    /// Products of low rank beside linear layers: LoRA, and DoRA with --use-dora
    Lora,
    /// Bottlenecks after attention and after the MLP
    Houlsby,
    /// Bottlenecks after the MLP and its residual
    Pfeiffer,
    /// Bottlenecks beside the MLP
    Parallel,
}

impl AdapterMethod {
    /// The word for messages, as the option takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Houlsby => "houlsby",
            Self::Pfeiffer => "pfeiffer",
            Self::Parallel => "parallel",
        }
    }

    /// The method of a file; `None` for bottlenecks at other places than the three methods have them.
    pub fn of(config: &BottleneckConfig) -> Option<Self> {
        match (config.after_attention, config.after_mlp, config.input) {
            (true, true, Input::Output) => Some(Self::Houlsby),
            // Where a norm stands between, see `method_on`.
            (false, true, Input::Sum | Input::Output) => Some(Self::Pfeiffer),
            (false, true, Input::Residual) => Some(Self::Parallel),
            _ => None,
        }
    }
}

/// That no option is given that only the other kind of adapter has.
///
/// # Errors
/// Bad input, naming the option.
pub fn check_options(options: &TrainOptions, method: AdapterMethod) -> Result<()> {
    let of_lora = [
        ("--lora-r", options.lora_r.is_some()),
        ("--lora-alpha", options.lora_alpha.is_some()),
        ("--lora-dropout", options.lora_dropout.is_some()),
        ("--rank-pattern", options.rank_pattern.is_some()),
        ("--alpha-pattern", options.alpha_pattern.is_some()),
        ("--use-rslora", options.use_rslora),
        ("--use-dora", options.use_dora),
        ("--init-lora-weights", options.init_lora_weights.is_some()),
        ("--loraplus-lr-ratio", options.loraplus_lr_ratio.is_some()),
        ("--target-modules", options.target_modules.is_some()),
        ("--exclude-modules", options.exclude_modules.is_some()),
        ("--train-tokens", options.train_tokens.is_some()),
        ("--modules-to-save", options.modules_to_save.is_some()),
    ];
    let of_bottlenecks = [
        ("--reduction-factor", options.reduction_factor.is_some()),
        ("--bottleneck-size", options.bottleneck_size.is_some()),
        ("--non-linearity", options.non_linearity.is_some()),
    ];
    let is_lora = method == AdapterMethod::Lora;
    let given = if is_lora { of_bottlenecks.iter().find(|(_, given)| *given) } else { of_lora.iter().find(|(_, given)| *given) };
    let Some((option, _)) = given else { return Ok(()) };
    let (problem, proposal) = match is_lora {
        true => ("is for bottleneck adapters", "give --adapter-method houlsby, pfeiffer or parallel as well, or leave it out"),
        false => (
            "is for LoRA",
            "leave it out; bottlenecks have --reduction-factor or --bottleneck-size, --non-linearity and --layers",
        ),
    };
    Err(Error::bad_input(*option, format!("{problem}, and the method is {}", method.name()), proposal))
}

/// A fresh adapter of this method.
///
/// # Errors
/// Bad input: a layer or a size that cannot be.
pub fn fresh(options: &TrainOptions, method: AdapterMethod, model: &Architecture) -> Result<BottleneckConfig> {
    let mut config = method_on(method, model);
    if let Some(factor) = factor(options, model)? {
        config.reduction_factor = ReductionFactor::uniform(factor);
    }
    if let Some(non_linearity) = &options.non_linearity {
        config.non_linearity = non_linearity.clone();
    }
    if let Some(text) = &options.layers {
        let layers = parse_layers(text, model.num_hidden_layers)?;
        config.leave_out = (0..model.num_hidden_layers).filter(|layer| !layers.contains(layer)).collect();
    }
    Ok(config)
}

/// The method with AdapterHub's defaults. Where a norm stands between the MLP and the residual, there is no sum for Pfeiffer's to read: it
/// reads what the MLP gives.
fn method_on(method: AdapterMethod, model: &Architecture) -> BottleneckConfig {
    match method {
        AdapterMethod::Parallel => BottleneckConfig::parallel(),
        AdapterMethod::Pfeiffer if reads_sums(model) => BottleneckConfig::pfeiffer(),
        AdapterMethod::Pfeiffer => BottleneckConfig { input: Input::Output, ..BottleneckConfig::pfeiffer() },
        AdapterMethod::Houlsby | AdapterMethod::Lora => BottleneckConfig::houlsby(),
    }
}

/// What the options divide the hidden size by, if they say so.
fn factor(options: &TrainOptions, model: &Architecture) -> Result<Option<f64>> {
    let hidden = model.hidden_size;
    let bad = |option: &str, problem: String| Err(Error::bad_input(option, problem, "give a small width, such as 64"));
    match (options.reduction_factor, options.bottleneck_size) {
        (Some(_), Some(_)) => {
            let problem = "both this and --reduction-factor say how wide a bottleneck is";
            Err(Error::bad_input("--bottleneck-size", problem, "give one of the two"))
        }
        (_, Some(size)) if size > LARGEST_RANK => bad("--bottleneck-size", format!("{size} is wider than any model")),
        // The library rounds the quotient down: half a unit keeps it from the edge.
        (_, Some(size)) if hidden.is_multiple_of(size) => Ok(Some((hidden / size) as f64)),
        (_, Some(size)) => Ok(Some(hidden as f64 / (size as f64 + 0.5))),
        (Some(factor), None) if hidden as f64 / factor > LARGEST_RANK as f64 => {
            bad("--reduction-factor", format!("{factor} makes bottlenecks that are wider than any model"))
        }
        (factor, None) => Ok(factor),
    }
}

/// The configuration of an adapter that is trained further.
///
/// # Errors
/// Bad input: an option that says otherwise than the adapter.
pub fn built_on(
    folder: &Path,
    config: BottleneckConfig,
    options: &TrainOptions,
    model: &Architecture,
) -> Result<BottleneckConfig> {
    let agree = |option: &str, same: bool, of_adapter: String| agrees(folder, option, same, of_adapter);
    let method = AdapterMethod::of(&config);
    let places = method.map_or("other places".to_string(), |method| format!("the method {}", method.name()));
    agree("--adapter-method", options.adapter_method.is_none_or(|given| Some(given) == method), places)?;
    let sizes = |of: &ReductionFactor| -> Vec<Option<usize>> {
        (0..model.num_hidden_layers).map(|layer| of.size(layer, model.hidden_size)).collect()
    };
    let (given, own) = (factor(options, model)?, sizes(&config.reduction_factor));
    let option = if options.bottleneck_size.is_some() { "--bottleneck-size" } else { "--reduction-factor" };
    let widths: BTreeSet<usize> = own.iter().flatten().copied().collect();
    let same = given.is_none_or(|factor| sizes(&ReductionFactor::uniform(factor)) == own);
    agree(option, same, format!("bottlenecks of {widths:?}"))?;
    let function = |given: &crate::formats::adapter_hub::Named| given.non_linearity == config.non_linearity.non_linearity;
    agree("--non-linearity", options.non_linearity.as_ref().is_none_or(function), config.non_linearity.to_string())?;
    if let Some(text) = &options.layers {
        let layers = parse_layers(text, model.num_hidden_layers)?;
        let own: Vec<usize> = (0..model.num_hidden_layers).filter(|layer| !config.leave_out.contains(layer)).collect();
        agree("--layers", layers == own, format!("the layers {own:?}"))?;
    }
    Ok(config)
}

/// The same configuration, as a file of this model has it.
pub fn for_model(config: BottleneckConfig, options: &TrainOptions, model: &Architecture) -> BottleneckConfig {
    let family = FAMILIES.iter().find(|family| family.class == model.class);
    BottleneckConfig {
        base_model: Some(options.model.clone()),
        model_class: Some(model.class.to_owned()),
        model_type: family.map(|family| family.model_type.to_owned()),
        hidden_size: Some(model.hidden_size),
        text_path: model.text_path,
        ..config
    }
}
