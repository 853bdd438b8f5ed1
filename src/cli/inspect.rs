//! `graftling inspect`: what a model consists of, and what an adapter on it would train; what an adapter is. No GPU, no weights of a model read.

mod adapter;
mod json;
mod tables;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::Args;
use graftling::storage::source::{ByFormat, FormatTotal, by_format, count};
use graftling::storage::{DType, TensorSource};
use graftling::train::ask::bottleneck::{self, AdapterMethod};
use graftling::train::needs::{self, Need, needs};
use graftling::train::options::{Recipe, TrainOptions};
use graftling::{
    Error, Result,
    adapter::{
        Placement, UniformLora,
        targets::{expand_target_modules, parse_layers},
    },
    architecture::{Architecture, Parameter, Part, Site, linear_modules, parameters},
    files,
    formats::{ModelPlace, TextSource, TokenizerSource, gguf::Gguf, hub::Hub, hugging_face, model_files::check_tensors},
};
use json::json_report;
use serde_json::Value;
use tables::{aligned, binary_size, grouped, row};

/// Largest rank that is believed.
const LARGEST_RANK: usize = 1 << 16;

/// Show what a model consists of, and what an adapter would train; or what an adapter is
///
/// Counts parameters per module and per layer, attention against MLP, and bytes per storage type; shows the tokenizer and the
/// chat template where their files are there. Reads no weights: a config.json alone is enough. Of the folder of an adapter it shows all
/// options, by module the layers, ranks and scales, which tokens have rows of their own, and how graftling trained it, if it did.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling inspect SmolLM2-135M-Instruct.Q4_1.gguf
  graftling inspect path/to/config.json --target-modules attention --lora-r 8
  graftling inspect path/to/model --layers 8-15,20 --json
  graftling inspect HuggingFaceTB/SmolLM2-135M-Instruct
  graftling inspect my-adapter")]
pub struct InspectArgs {
    /// A model folder, a .gguf file, a config.json, a Hugging Face name, or an adapter's folder
    #[arg(value_name = "MODEL")]
    pub model: String,

    /// Print one JSON document instead of tables
    #[arg(long)]
    pub json: bool,

    /// The method of the adapter
    #[arg(long, value_enum, value_name = "METHOD", default_value = "lora")]
    pub adapter_method: AdapterMethod,

    /// Width of a bottleneck: the hidden size divided by this [default: 16; 2 for parallel]
    #[arg(long, value_name = "FACTOR")]
    pub reduction_factor: Option<f64>,

    /// Width of a bottleneck, in place of --reduction-factor
    #[arg(long, value_name = "WIDTH")]
    pub bottleneck_size: Option<usize>,

    /// The modules a LoRA would train: names, or attention, mlp, all-linear
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "all-linear")]
    pub target_modules: Vec<String>,

    /// The rank of a LoRA
    #[arg(long, value_name = "R", default_value_t = 16)]
    pub lora_r: usize,

    /// The layers an adapter would train, such as 8-15,20 [default: all]
    #[arg(long, value_name = "LAYERS")]
    pub layers: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// Bad input if the model cannot be read, or modules, rank or layers do not exist in it.
pub fn run(args: InspectArgs) -> Result<()> {
    if adapter::is_adapter(&args.model) {
        let found = adapter::Found::read(&args.model)?;
        return match args.json {
            true => super::print_json(&found.json()),
            false => super::print(&found.text()),
        };
    }
    let model = Model::open(&args.model)?;
    let adapter = Adapter::choose(&model.config, &args)?;
    match args.json {
        true => super::print_json(&json_report(&model, &adapter)),
        false => super::print(&text_report(&model, &adapter)),
    }
}

/// What the files say, as far as there are files.
struct Model {
    name: String,
    config: Architecture,
    weights: Option<Weights>,
    text: Option<TextSource>,
}

/// What the weight files hold.
struct Weights {
    by_type: ByFormat,
    /// The library that quantised them, as the config calls it.
    quantised_by: Option<&'static str>,
    /// Why the weights cannot be used with the config, if so.
    problem: Option<String>,
}

impl Model {
    fn open(spec: &str) -> Result<Self> {
        match ModelPlace::of(spec)? {
            ModelPlace::Config(path) => Ok(Self::of_config(spec, hugging_face::config_file(&path)?)),
            ModelPlace::Folder(folder) => Self::of_folder(spec, &folder),
            ModelPlace::Hub(name) => Self::of_folder(spec, &Hub::from_environment()?.fetch_descriptions(&name)?),
            ModelPlace::Gguf(path) => Self::of_gguf(spec, &path),
        }
    }

    fn of_config(spec: &str, config: Architecture) -> Self {
        Self { name: spec.to_owned(), config, weights: None, text: None }
    }

    fn of_folder(spec: &str, folder: &Path) -> Result<Self> {
        let mut config = hugging_face::config(folder)?;
        let weights = if hugging_face::has_weights(folder) && spec_is_local(spec) {
            let source = hugging_face::weights(folder, &mut config)?;
            let mut by_type = by_format(source.tensors());
            for (_, kind) in source.unreadable() {
                count(&mut by_type, kind, 0, 0);
            }
            Some(Weights { by_type, quantised_by: source.quantised_by(), problem: problem_of(&config, &source) })
        } else {
            None
        };
        let text = hugging_face::text(folder, &config)?;
        Ok(Self { name: spec.to_owned(), config, weights, text: Some(text) })
    }

    fn of_gguf(spec: &str, path: &Path) -> Result<Self> {
        let gguf = Gguf::open(path)?;
        let mut by_type = ByFormat::new();
        for tensor in &gguf.container().tensors {
            let values = tensor.shape.iter().map(|&size| size as u64).product();
            let name = tensor.kind.map_or_else(|id| format!("type {id}"), |kind| kind.name().to_owned());
            count(&mut by_type, &name, values, tensor.bytes.len() as u64);
        }
        let weights = Weights { by_type, quantised_by: None, problem: problem_of(gguf.config(), &gguf) };
        let text = gguf.text()?;
        Ok(Self { name: spec.to_owned(), config: gguf.config().clone(), weights: Some(weights), text: Some(text) })
    }
}

/// A name on the hub gives only the files that describe the model, whatever the cache holds.
fn spec_is_local(spec: &str) -> bool {
    PathBuf::from(spec).exists()
}

fn problem_of(config: &Architecture, source: &dyn TensorSource) -> Option<String> {
    check_tensors(config, source).err().map(|error| error.to_string())
}

/// The adapter that the options describe.
struct Adapter {
    modules: Vec<Site>,
    layers: Vec<usize>,
    /// Rank, or width of the bottlenecks.
    size: usize,
    method: AdapterMethod,
    placement: Placement,
}

impl Adapter {
    fn choose(config: &Architecture, args: &InspectArgs) -> Result<Self> {
        let recipe = Recipe {
            adapter_method: Some(args.adapter_method),
            reduction_factor: args.reduction_factor,
            bottleneck_size: args.bottleneck_size,
            layers: args.layers.clone(),
            // A run has these, and nothing here depends on them.
            model: Some(args.model.clone()),
            data: Some(vec![PathBuf::new()]),
            out: Some(PathBuf::new()),
            ..Recipe::default()
        };
        let options = recipe.resolve()?;
        bottleneck::check_options(&options, args.adapter_method)?;
        if args.adapter_method != AdapterMethod::Lora {
            return Self::bottlenecks(config, &options, args.adapter_method);
        }
        if args.lora_r == 0 || args.lora_r > LARGEST_RANK {
            let problem = format!("{} is no possible rank", args.lora_r);
            return Err(Error::bad_input(
                "--lora-r",
                problem,
                format!("Give a number from 1 to {LARGEST_RANK}; 8 to 64 are usual."),
            ));
        }
        let linear = linear_modules(config);
        let names = expand_target_modules(&args.target_modules, config)?;
        let layers = match &args.layers {
            Some(text) => parse_layers(text, config.num_hidden_layers)?,
            None => (0..config.num_hidden_layers).collect(),
        };
        let modules: Vec<Site> = linear.into_iter().filter(|module| names.iter().any(|name| name == module.module)).collect();
        let lora = UniformLora { r: args.lora_r, scale: 1.0, dropout: 0.0, target_modules: names, layers: layers.clone() };
        Ok(Self { modules, layers, size: args.lora_r, method: AdapterMethod::Lora, placement: lora.on(config) })
    }

    fn bottlenecks(config: &Architecture, options: &TrainOptions, method: AdapterMethod) -> Result<Self> {
        let placement = Placement::from_adapter_hub("adapter", &bottleneck::fresh(options, method, config)?, config)?;
        let first = placement.pieces.first().map_or(0, |piece| piece.site.layer);
        let of_first = placement.pieces.iter().filter(|piece| piece.site.layer == first);
        let modules = of_first.map(|piece| piece.site.clone()).collect();
        let size = placement.pieces.first().map_or(0, |piece| piece.method.width());
        let mut layers: Vec<usize> = placement.pieces.iter().map(|piece| piece.site.layer).collect();
        layers.dedup();
        Ok(Self { modules, layers, size, method, placement })
    }

    /// What training it needs, by format of the weights; nothing for a model that cannot be trained, or of a size that nobody plans for.
    fn needs(&self, config: &Architecture, parameters: u64) -> Vec<Need> {
        let is_usual = config.num_hidden_layers <= 256 && parameters < 1 << 40;
        if config.supported().is_err() || !is_usual {
            return Vec::new();
        }
        needs(config, &self.placement).unwrap_or_default()
    }

    fn parameters(&self) -> u64 {
        self.placement.parameters() as u64
    }
}

/// Counts that both reports need.
struct Counts {
    total: u64,
    /// Those that are used for a token: of experts, as many as it is sent to.
    active: u64,
    by_part: BTreeMap<Part, u64>,
    /// Per layer: attention, MLP, norms.
    layers: Vec<[u64; 3]>,
}

impl Counts {
    fn of(config: &Architecture) -> Self {
        let mut counts = Self { total: 0, active: 0, by_part: BTreeMap::new(), layers: vec![[0; 3]; config.num_hidden_layers] };
        for parameter in parameters(config) {
            counts.total += parameter.count();
            *counts.by_part.entry(parameter.part).or_default() += parameter.count();
            let column = match parameter.part {
                Part::Attention => 0,
                Part::Mlp => 1,
                _ => 2,
            };
            if let Some(layer) = parameter.layer {
                counts.layers[layer][column] += parameter.count();
            }
        }
        counts.active =
            counts.total - config.experts.as_ref().map_or(0, |experts| experts.idle(config.hidden_size, config.mlp_bias));
        counts
    }
}

/// Bytes of the model with all matrices in `storage` and all vectors (norms, biases) in f32; `None` where rows are no whole
/// number of blocks.
fn bytes_in(config: &Architecture, storage: DType) -> Option<u64> {
    let bytes = |parameter: Parameter| match parameter.shape.as_slice() {
        [rows, columns] => Some(*rows as u64 * storage.file_bytes(*columns as u64)?),
        _ => DType::F32.file_bytes(parameter.count()),
    };
    parameters(config).into_iter().map(bytes).sum()
}

/// One line of the table of modules.
struct ModuleRow {
    module: &'static str,
    part: Part,
    shape: Vec<usize>,
    bias: bool,
    /// How many of them the model has.
    count: usize,
    /// Parameters of one, with its bias.
    each: u64,
}

fn module_rows(config: &Architecture) -> Vec<ModuleRow> {
    let mut rows: Vec<ModuleRow> = Vec::new();
    for parameter in parameters(config) {
        let bias = parameter.name.ends_with(".bias");
        // Experts, and the one for every token, have modules of one name.
        let is_alike = |row: &&mut ModuleRow| row.module == parameter.module && (bias || row.shape == parameter.shape);
        match rows.iter_mut().find(is_alike) {
            // Every layer is alike: the first one's counts stand for all.
            Some(row) if bias && row.count == 1 => {
                row.bias = true;
                row.each += parameter.count();
            }
            Some(row) => row.count += usize::from(!bias),
            None => rows.push(ModuleRow {
                module: parameter.module,
                part: parameter.part,
                each: parameter.count(),
                shape: parameter.shape,
                bias,
                count: 1,
            }),
        }
    }
    rows
}

/// `(kind, tokens)` of a tokenizer, if it can be read.
fn tokenizer_facts(tokenizer: &TokenizerSource) -> Option<(String, usize)> {
    match tokenizer {
        TokenizerSource::Gguf(gguf) if gguf.tokens.is_empty() => None,
        TokenizerSource::Gguf(gguf) => {
            let pre = gguf.pre.as_deref().map(|pre| format!(", pre-tokenizer {pre}")).unwrap_or_default();
            Some((format!("GGUF {}{pre}", gguf.model), gguf.tokens.len()))
        }
        TokenizerSource::Json(path) => {
            let value: Value = serde_json::from_str(&files::read_to_string(path, files::TOKENIZER).ok()?).ok()?;
            let model = value.get("model")?;
            let size = |value: Option<&Value>| match value {
                Some(Value::Object(map)) => map.len(),
                Some(Value::Array(list)) => list.len(),
                _ => 0,
            };
            // Added tokens may be in the vocabulary as well; the ids tell them apart.
            let known = size(model.get("vocab"));
            let beyond = |token: &&Value| token.get("id").and_then(Value::as_u64).is_some_and(|id| id >= known as u64);
            let added =
                value.get("added_tokens").and_then(Value::as_array).map_or(0, |tokens| tokens.iter().filter(beyond).count());
            let kind = model.get("type").and_then(Value::as_str).unwrap_or("of unnamed type");
            Some((format!("tokenizer.json {kind}"), known + added))
        }
    }
}

fn text_report(model: &Model, adapter: &Adapter) -> String {
    let config = &model.config;
    let counts = Counts::of(config);
    let share = |count: u64| format!("{:.2} %", 100.0 * count as f64 / counts.total as f64);
    let tied = if config.tie_word_embeddings { "tied" } else { "untied" };
    let mut out = format!(
        "{}\n  {}: {} layers, hidden size {}, MLP {}, {} heads of {} ({} for keys and values)\n  vocabulary {} ({tied} output), \
         context {}, RoPE theta {}, scaling {}\n",
        model.name,
        config.class,
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.head_dim,
        config.num_key_value_heads,
        grouped(config.vocab_size as u64),
        grouped(config.context() as u64),
        config.ropes[0].theta,
        config.ropes[0].scaling,
    );
    for window in config.windows() {
        let count = config.layers.iter().filter(|layer| layer.window == Some(window)).count();
        let layers = config.num_hidden_layers;
        out += &format!("  sliding window of {} tokens in {count} of {layers} layers\n", grouped(window as u64));
    }
    let from_gguf = matches!(&model.text, Some(TextSource { tokenizer: TokenizerSource::Gguf(_), .. }));
    if from_gguf && config.gguf_may_lack_windows() {
        out += "  no sliding window in the file, which has no key for one: a model that has one, as Mistral 7B 0.1, is exact up to its length\n";
    }
    if let Some(experts) = &config.experts {
        let with = experts.layers.iter().filter(|has| **has).count();
        let shared =
            experts.shared_intermediate_size.map_or(String::new(), |size| format!(", and one of {size} for every token"));
        out += &format!(
            "  experts in {with} of {} layers: {} of {}, {} of them for a token{shared}\n",
            config.num_hidden_layers, experts.count, experts.intermediate_size, experts.per_token
        );
    }
    if let Err(error) = config.supported() {
        out += &format!("  Cannot be trained here: {error}\n");
    }

    let mut table = vec![row(["Parameters", "count", "share"])];
    for part in Part::ALL {
        let count = counts.by_part.get(&part).copied().unwrap_or(0);
        table.push(row([part.name(), &grouped(count), &share(count)]));
    }
    table.push(row(["total", &grouped(counts.total), &share(counts.total)]));
    if config.experts.is_some() {
        table.push(row(["used for a token", &grouped(counts.active), &share(counts.active)]));
    }
    out += &aligned(&table);

    let mut table = vec![row(["Module", "shape", "of them", "each", "together", "share"])];
    for module in module_rows(config) {
        let shape = format!("{:?}{}", module.shape, if module.bias { " + bias" } else { "" });
        let together = module.each * module.count as u64;
        table.push(row([
            module.module,
            &shape,
            &module.count.to_string(),
            &grouped(module.each),
            &grouped(together),
            &share(together),
        ]));
    }
    out += &aligned(&table);

    // Where all layers are alike, one line tells what thirty would.
    let are_alike = counts.layers.windows(2).all(|pair| pair[0] == pair[1]);
    if let Some([attention, mlp, norm]) = counts.layers.first().filter(|_| are_alike) {
        out += &format!(
            "\nEach of the {} layers: {} parameters: attention {}, MLP {}, norms {}\n",
            counts.layers.len(),
            grouped(attention + mlp + norm),
            grouped(*attention),
            grouped(*mlp),
            grouped(*norm)
        );
    }

    let mut table = vec![row(["Size, matrices stored as", "bytes", ""])];
    for storage in DType::WEIGHTS {
        let (bytes, size) = bytes_in(config, storage).map_or(("-".to_owned(), String::new()), |b| (grouped(b), binary_size(b)));
        table.push(row([&storage.name().to_lowercase(), &bytes, &size]));
    }
    out += &aligned(&table);

    if let Some(weights) = &model.weights {
        let mut table = vec![row(["In the files", "tensors", "parameters", "bytes"])];
        for (name, FormatTotal { tensors, values, bytes }) in &weights.by_type {
            table.push(row([name, &tensors.to_string(), &grouped(*values), &grouped(*bytes)]));
        }
        out += &aligned(&table);
        if let Some(library) = weights.quantised_by {
            out += &format!("  The matrices were quantised by {library}.\n");
        }
        if let Some(problem) = &weights.problem {
            out += &format!("  These weights cannot be used: {problem}\n");
        }
    }
    if let Some(text) = &model.text {
        out += &text_lines(text);
    }

    let trained = adapter.parameters();
    let layers = if adapter.layers.len() == config.num_hidden_layers {
        "all layers".to_owned()
    } else {
        format!("layers {:?}", adapter.layers)
    };
    let modules: Vec<&str> = adapter.modules.iter().map(|module| module.module).collect();
    let training = adapter.needs(&model.config, counts.total);
    let method = match adapter.method {
        AdapterMethod::Lora => format!("LoRA r {} on {}", adapter.size, modules.join(", ")),
        method => format!("Bottlenecks of width {} as {} has them, at {}", adapter.size, method.name(), modules.join(", ")),
    };
    out += &format!(
        "\n{method} of {layers} would train {} parameters, {} of the model ({} in f32)\n",
        grouped(trained),
        share(trained),
        binary_size(trained * 4),
    );
    if !training.is_empty() {
        out += &format!(
            "\nGPU memory for training it, {} rows of {} tokens a step, and which GPU has it\n{}{}",
            TrainOptions::BATCH_SIZE,
            TrainOptions::MAX_LENGTH,
            needs::head(""),
            needs::lines("", &training)
        );
    }
    out
}

fn text_lines(text: &TextSource) -> String {
    let tokenizer = match tokenizer_facts(&text.tokenizer) {
        Some((kind, tokens)) => format!("{kind}, {} tokens", grouped(tokens as u64)),
        None => "none".to_owned(),
    };
    let token = |token: &Option<String>| token.as_ref().map_or("none".to_owned(), |token| format!("{token:?}"));
    let template = match &text.chat_template {
        Some(template) => format!("{} characters", grouped(template.chars().count() as u64)),
        None => "none".to_owned(),
    };
    format!(
        "\nTokenizer: {tokenizer}\n  BOS {}, EOS {}, generation ends at ids {:?}\nChat template: {template}\n",
        token(&text.bos_token),
        token(&text.eos_token),
        text.eos_token_ids
    )
}
