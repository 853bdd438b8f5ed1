//! The adapter that the options of a run ask for: its configuration as a file will have it, and its [`Placement`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::bottleneck::{self, AdapterMethod};
use super::options::TrainOptions;
use crate::adapter::start::Start;
use crate::adapter::targets::{chosen_sites, parse_layers, parse_patterns};
use crate::adapter::{AdapterLayout, Placement};
use crate::architecture::{Architecture, Site};
use crate::formats::adapter_file::AdapterFile;
use crate::formats::peft::{AdapterConfig, paths_of_site, router_name};
use crate::session::opened::OpenModel;
use crate::{Error, Result};

/// Largest rank, or width of a bottleneck, that is believed; it keeps sizes far from overflow.
pub(super) const LARGEST_RANK: usize = 1 << 16;

/// What a run trains.
pub struct Asked {
    pub config: AdapterFile,
    pub placement: Placement,
    pub layout: AdapterLayout,
    /// The start where `--init-adapter` gives one, laid out as `layout`.
    pub start: Option<Vec<f32>>,
}

impl Asked {
    /// What the adapter is and, with `--init-adapter`, how it starts.
    ///
    /// # Errors
    /// Bad input: a module, a layer, a rank or a combination that cannot be, or a start adapter that cannot be used or is another than
    /// the options say.
    pub fn of(options: &TrainOptions, model: &OpenModel) -> Result<Self> {
        let architecture = &model.files.config;
        let (config, tensors) = match &options.init_adapter {
            None => (fresh_of_method(options, model)?, None),
            Some(folder) => {
                let (config, tensors) = AdapterFile::load_for(folder, architecture)?;
                (further(folder, config, options, model)?, Some(tensors))
            }
        };
        let place = options.init_adapter.as_deref().unwrap_or(Path::new("adapter")).display().to_string();
        let start = options.init_lora_weights.unwrap_or_default();
        let ratio = options.loraplus_lr_ratio.unwrap_or(1.0);
        let mut placement = Placement::of_file(&place, &config, architecture)?.learning(start, ratio);
        if let Some(norm) = placement.vectors.iter().find(|vector| vector.is_of_heads()) {
            let problem = format!("means {} too, a norm of each head, which is not trained", norm.name);
            return Err(Error::bad_input("--modules-to-save", problem, "name the others, such as layernorm,model.norm"));
        }
        placement.rows.iter_mut().for_each(|rows| rows.known = model.known_tokens());
        check_start(options, start, &placement)?;
        let layout = AdapterLayout::new(&placement);
        let start = tensors.map(|tensors| layout.pack(&place, &placement.without_copies(tensors))).transpose()?;
        Ok(Self { config, placement, layout, start })
    }
}

/// The adapter that the options describe.
fn fresh_of_method(options: &TrainOptions, model: &OpenModel) -> Result<AdapterFile> {
    let method = options.adapter_method.unwrap_or(AdapterMethod::Lora);
    bottleneck::check_options(options, method)?;
    if method == AdapterMethod::Lora {
        return fresh(options, model).map(AdapterFile::Peft);
    }
    let model = &model.files.config;
    let config = bottleneck::fresh(options, method, model)?;
    Ok(AdapterFile::AdapterHub(bottleneck::for_model(config, options, model)))
}

/// That of `--init-adapter`, with what may be chosen anew.
fn further(folder: &Path, config: AdapterFile, options: &TrainOptions, model: &OpenModel) -> Result<AdapterFile> {
    match config {
        AdapterFile::Peft(config) => {
            let method = options.adapter_method.unwrap_or(AdapterMethod::Lora);
            if method != AdapterMethod::Lora {
                let problem = format!("the adapter of --init-adapter {} is a LoRA of PEFT", folder.display());
                return Err(Error::bad_input(
                    "--adapter-method",
                    problem,
                    "leave this option out, or start from another adapter",
                ));
            }
            bottleneck::check_options(options, method)?;
            built_on(folder, config, options, model).map(AdapterFile::Peft)
        }
        AdapterFile::AdapterHub(config) => {
            bottleneck::check_options(options, AdapterMethod::of(&config).unwrap_or(AdapterMethod::Houlsby))?;
            let model = &model.files.config;
            let config = bottleneck::built_on(folder, config, options, model)?;
            Ok(AdapterFile::AdapterHub(bottleneck::for_model(config, options, model)))
        }
    }
}

/// That an option says what the adapter of --init-adapter has, if it is given (`same`).
///
/// # Errors
/// Bad input.
pub(super) fn agrees(folder: &Path, option: &str, same: bool, of_adapter: String) -> Result<()> {
    match same {
        true => Ok(()),
        false => {
            let problem = format!("the adapter of --init-adapter {} has {of_adapter}", folder.display());
            Err(Error::bad_input(option, problem, "leave this option out, or start from another adapter"))
        }
    }
}

fn check_start(options: &TrainOptions, start: Start, placement: &Placement) -> Result<()> {
    let bad = |problem: String, proposal: &str| Err(Error::bad_input("--init-lora-weights", problem, proposal));
    if options.use_dora && start.changes_the_base() {
        let problem = format!("{start} starts from another base, whose row lengths DoRA would have to keep");
        return bad(problem, "leave out --use-dora, or choose default, gaussian, orthogonal or eva");
    }
    if let Some(piece) = placement.pieces.iter().find(|piece| piece.site.experts.is_some())
        && (start.changes_the_base() || matches!(start, Start::Orthogonal | Start::Eva))
    {
        let problem = format!("{start} is made for one matrix, and {} is those of many experts", piece.site.name());
        return bad(problem, "choose default or gaussian, or adapt other modules");
    }
    let odd = placement.pieces.iter().find(|piece| piece.method.lora().is_some_and(|lora| lora.r % 2 == 1));
    match odd.filter(|_| start == Start::Orthogonal) {
        Some(piece) => {
            bad(format!("orthogonal needs even ranks, and {} has an odd one", piece.site.name()), "choose an even --lora-r")
        }
        None => Ok(()),
    }
}

fn fresh(options: &TrainOptions, opened: &OpenModel) -> Result<AdapterConfig> {
    let model = &opened.files.config;
    let r = options.lora_r.unwrap_or(TrainOptions::LORA_R);
    let possible = |r: &usize| (1..=LARGEST_RANK).contains(r);
    if !possible(&r) {
        let problem = format!("{r} is no rank: no model has a dimension above {LARGEST_RANK}");
        return Err(Error::bad_input("--lora-r", problem, "give a small rank, such as 16"));
    }
    let sites = sites_of(options, model)?;
    let layers: Vec<Vec<String>> = sites.iter().map(|site| paths_of_site(site, model.text_path)).collect();
    let (target_modules, layers_to_transform, only) = as_product(&sites, model);
    let positive = |alpha: &f64| alpha.is_finite() && *alpha > 0.0;
    let lora_alpha = options.lora_alpha.unwrap_or(TrainOptions::LORA_ALPHA);
    let pattern = |text: &Option<String>| text.clone().unwrap_or_default();
    let Vocabulary { modules_to_save, whole_rows, token_indices } = Vocabulary::of(options, opened)?;
    without_dropout_of_parameters(AdapterConfig {
        modules_to_save,
        whole_rows,
        token_indices,
        r,
        lora_alpha,
        lora_dropout: options.lora_dropout.unwrap_or(0.0),
        target_modules,
        layers_to_transform,
        only,
        rank_pattern: parse_patterns("--rank-pattern", &pattern(&options.rank_pattern), possible, r, &layers)?,
        alpha_pattern: parse_patterns("--alpha-pattern", &pattern(&options.alpha_pattern), positive, lora_alpha, &layers)?,
        use_rslora: options.use_rslora,
        use_dora: options.use_dora,
        base_model: Some(options.model.clone()),
        text_path: model.text_path,
        experts: sites.iter().map(Site::expert_modules).max().unwrap_or(0),
        parameters: sites.iter().filter(|site| site.parameter).map(|site| site.module.to_owned()).collect(),
        ..AdapterConfig::default()
    })
}

/// What the options choose of embedding and output matrix.
struct Vocabulary {
    modules_to_save: Vec<String>,
    whole_rows: BTreeMap<String, usize>,
    token_indices: BTreeMap<String, Vec<u32>>,
}

impl Vocabulary {
    /// Rows of their own where the matrix is not trained as a whole: in the embedding, and in the output matrix if that is another one.
    fn of(options: &TrainOptions, model: &OpenModel) -> Result<Self> {
        let experts = &model.files.config.family().experts;
        let named = |name: &String| experts.as_ref().map_or(name.trim().to_owned(), |names| router_name(name.trim(), names));
        let names: BTreeSet<String> = options.modules_to_save.iter().flatten().map(named).collect();
        let mut tokens = Vec::new();
        for token in options.tokens() {
            let id = model.tokenizer.token_id(&token).ok_or_else(|| {
                let problem = format!("the model was opened without the token {token}");
                Error::bad_input("--train-tokens", problem, "this is a mistake in the calling program")
            })?;
            tokens.push(id);
        }
        tokens.sort_unstable();
        let mut token_indices = BTreeMap::new();
        let embedding_is_whole = names.contains("embed_tokens");
        for (module, is_apart) in
            [("embed_tokens", true), ("lm_head", !model.files.config.tie_word_embeddings || embedding_is_whole)]
        {
            if is_apart && !names.contains(module) && !tokens.is_empty() {
                token_indices.insert(module.to_owned(), tokens.clone());
            }
        }
        let of_vocabulary = names.iter().filter(|name| ["embed_tokens", "lm_head"].contains(&name.as_str()));
        let whole_rows = of_vocabulary.map(|name| (name.clone(), model.tokens)).collect();
        Ok(Self { modules_to_save: names.into_iter().collect(), whole_rows, token_indices })
    }
}

/// The linear layers that the options choose.
fn sites_of(options: &TrainOptions, model: &Architecture) -> Result<Vec<Site>> {
    let layers = options.layers.as_ref().map(|text| parse_layers(text, model.num_hidden_layers)).transpose()?;
    let targets = options.target_modules.clone().unwrap_or_else(|| vec![TrainOptions::TARGET_MODULES.to_string()]);
    chosen_sites(&targets, options.exclude_modules.as_deref().unwrap_or_default(), layers.as_deref(), model)
}

/// Layers as PEFT's keys say them: modules, layers unless they are all, and, where that would be more, each by its name.
fn as_product(sites: &[Site], model: &Architecture) -> (Vec<String>, Option<Vec<usize>>, Option<BTreeSet<String>>) {
    let mut modules: Vec<String> = Vec::new();
    for site in sites {
        if modules.iter().all(|known| known != site.module) {
            modules.push(site.module.to_owned());
        }
    }
    let layers: BTreeSet<usize> = sites.iter().map(|site| site.layer).collect();
    let is_named = |site: &&Site| layers.contains(&site.layer) && modules.iter().any(|module| module == site.module);
    let (linear, of_experts) = (crate::architecture::sites(model), crate::architecture::routers(model));
    let named = linear.iter().chain(&of_experts).filter(is_named).count();
    let only = (named != sites.len()).then(|| sites.iter().map(Site::name).collect());
    let all = layers.len() == model.num_hidden_layers;
    (modules, (!all).then(|| layers.into_iter().collect()), only)
}

/// The configuration of an adapter that is trained further, with what may be chosen anew.
fn built_on(folder: &Path, mut config: AdapterConfig, options: &TrainOptions, opened: &OpenModel) -> Result<AdapterConfig> {
    let model = &opened.files.config;
    let agree = |option: &str, same: bool, of_adapter: String| agrees(folder, option, same, of_adapter);
    if config.lora_bias {
        let problem = "has lora_bias, which graftling evaluates and does not train";
        return Err(Error::bad_input(folder.display(), problem, "start from an adapter without it"));
    }
    let is_trained = |module: &String| config.modules_to_save.contains(module) || config.ensure_weight_tying;
    if let Some(module) = config.whole_rows.keys().find(|module| !is_trained(module)) {
        let problem = format!("has the whole {module} of a model whose vocabulary was extended, which it does not train");
        let proposal = "put it into the model by `graftling merge`, and train on that";
        return Err(Error::bad_input(folder.display(), problem, proposal));
    }
    let given = Vocabulary::of(options, opened)?;
    let tokens = |of: &BTreeMap<String, Vec<u32>>| of.values().flatten().copied().collect::<BTreeSet<u32>>();
    let same = options.train_tokens.is_none() || tokens(&given.token_indices) == tokens(&config.token_indices);
    agree("--train-tokens", same, format!("rows of {} tokens", tokens(&config.token_indices).len()))?;
    let same = options.modules_to_save.is_none() || given.modules_to_save == config.modules_to_save;
    agree("--modules-to-save", same, format!("the whole modules [{}]", config.modules_to_save.join(", ")))?;
    agree("--lora-r", options.lora_r.is_none_or(|r| r == config.r), format!("rank {}", config.r))?;
    let alpha = config.lora_alpha;
    agree("--lora-alpha", options.lora_alpha.is_none_or(|given| given == alpha), format!("alpha {alpha}"))?;
    agree("--rank-pattern", options.rank_pattern.is_none(), "ranks of its own".to_string())?;
    agree("--alpha-pattern", options.alpha_pattern.is_none(), "alphas of its own".to_string())?;
    agree("--init-lora-weights", options.init_lora_weights.is_none(), "its values already".to_string())?;
    agree("--use-rslora", !options.use_rslora || config.use_rslora, "a scale of alpha / r".to_string())?;
    agree("--use-dora", !options.use_dora || config.use_dora, "no lengths of rows".to_string())?;
    let of_adapter: BTreeSet<String> =
        Placement::from_peft("adapter", &config, model)?.pieces.iter().map(|piece| piece.site.name()).collect();
    let chosen: BTreeSet<String> = sites_of(options, model)?.iter().map(Site::name).collect();
    // What is left open is as the adapter has it.
    let modules = |names: &BTreeSet<String>| names.iter().filter_map(|name| name.rsplit('.').next()).map(str::to_owned).collect();
    let layers = |names: &BTreeSet<String>| names.iter().filter_map(|name| name.split('.').nth(1)).map(str::to_owned).collect();
    let (own, given): (BTreeSet<String>, BTreeSet<String>) = (modules(&of_adapter), modules(&chosen));
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    agree("--target-modules", options.target_modules.is_none() || own == given, format!("the modules {}", list(&own)))?;
    let (own, given): (BTreeSet<String>, BTreeSet<String>) = (layers(&of_adapter), layers(&chosen));
    agree("--layers", options.layers.is_none() || own == given, format!("the layers {}", list(&own)))?;
    let all_given = options.target_modules.is_some() && options.layers.is_some();
    agree(
        "--exclude-modules",
        options.exclude_modules.is_none() || !all_given || of_adapter == chosen,
        "other modules".to_string(),
    )?;
    config.lora_dropout = options.lora_dropout.unwrap_or(config.lora_dropout);
    config.base_model = Some(options.model.clone());
    config.text_path = model.text_path;
    without_dropout_of_parameters(config)
}

/// PEFT adds the product of a pair to a parameter, and loads no adapter of one that says dropout.
fn without_dropout_of_parameters(config: AdapterConfig) -> Result<AdapterConfig> {
    match config.parameters.first().filter(|_| config.lora_dropout > 0.0) {
        None => Ok(config),
        Some(name) => {
            let problem =
                format!("is {}, and {name} is adapted as a parameter, of which no input is dropped", config.lora_dropout);
            Err(Error::bad_input("--lora-dropout", problem, "leave it out, or adapt other modules: --target-modules attention"))
        }
    }
}
