//! `graftling export`: a model, with an adapter in it or beside it, as files of other programs.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use graftling::adapter::{added_tokens, rope_scaling};
use graftling::architecture::{Parameter, RopeOverride};
use graftling::export::modelfile::Modelfile;
use graftling::export::{self, Source};
use graftling::formats::{AddedTokenSource, ModelFiles, ModelPlace, TokenizerSource, atomic};
use graftling::generate::end_tokens;
use graftling::merge::Update;
use graftling::merge::report::{Row, Sums, warnings};
use graftling::storage::DType;
use graftling::storage::mixture::Mixture;
use graftling::terminal;
use graftling::text::{ChatTemplate, Tokenizer};
use graftling::{Error, Result};
use serde_json::json;

use super::counter::Counter;

/// Write a model, with an adapter merged into it or as an adapter alone, for other programs
///
/// llama.cpp, Ollama and their kin read `gguf`, the base model with the adapter merged into its weights, or `gguf-adapter`, which goes
/// beside a GGUF file of the base; vLLM, transformers and most others read the folder that `safetensors` writes; mlx-lm reads `mlx-adapter`.
/// Weights pass through layer by layer: a model of any size needs some hundred megabytes of memory. What stands at --out appears complete
/// or not at all.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling export --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter --to gguf --type q8_0 --out mine/mine.gguf
      and then, for Ollama:  ollama create mine -f mine/Modelfile
  graftling export --model path/to/model --adapter my-adapter --to gguf-adapter --out my-adapter.gguf
      and then, for llama.cpp:  llama-cli -m base.gguf --lora my-adapter.gguf
  graftling export --model path/to/model --adapter my-adapter --to safetensors --type bf16 --out merged
  graftling export --model path/to/model --adapter my-adapter --to mlx-adapter --out mlx-adapter")]
pub struct ExportArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
    /// PEFT folder of an adapter for this model; give --adapter again for more, whose changes are added up
    #[arg(long, value_name = "A")]
    adapter: Vec<PathBuf>,
    /// By what each adapter's change is multiplied, separated by commas [default: 1 for each]
    #[arg(long, value_name = "W,...", value_delimiter = ',', allow_negative_numbers = true, requires = "adapter")]
    weights: Vec<f64>,
    /// What to write
    #[arg(long, value_enum, value_name = "KIND")]
    to: Target,
    /// Type of the matrices [default: the model's own if it is f32, f16 or bf16, else f16; f32 for adapters]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Mixture>,
    /// File (gguf, gguf-adapter) or folder (safetensors, mlx-adapter) to write
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Another rotary scaling than the model's: none, linear:FACTOR, dynamic:FACTOR, yarn:FACTOR or llama3:FACTOR [default: what the adapter was trained with]
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeOverride>,
    /// Replace what an earlier export wrote at --out
    #[arg(long)]
    overwrite: bool,
    /// Print one JSON document: what was written
    #[arg(long)]
    json: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// One file with the whole model
    Gguf,
    /// The adapter alone, to go beside a GGUF file of its base
    GgufAdapter,
    /// A Hugging Face folder with the whole model
    Safetensors,
    /// The adapter alone, for mlx-lm
    MlxAdapter,
}

/// A model without a device: what export and merge work on.
pub(super) struct Opened {
    pub files: ModelFiles,
    pub tokenizer: Option<Tokenizer>,
    /// The tokens that the adapters add to it.
    pub added: Vec<(u32, AddedTokenSource)>,
    pub template: Option<ChatTemplate>,
}

impl Opened {
    /// Opens a model; one without a tokenizer will do.
    pub fn open(model: &str, mut scaling: Option<RopeOverride>, adapters: &[PathBuf]) -> Result<Self> {
        let mut files = ModelFiles::open(model)?;
        for adapter in adapters {
            scaling = rope_scaling::chosen(scaling, Some(adapter))?;
        }
        if let Some(scaling) = scaling {
            files.config.override_rope(scaling);
        }
        let has_tokenizer = match &files.text.tokenizer {
            TokenizerSource::Json(path) => path.is_file(),
            TokenizerSource::Gguf(vocabulary) => !vocabulary.tokens.is_empty(),
        };
        let mut tokenizer = if has_tokenizer { Some(Tokenizer::from_source(&files.text)?) } else { None };
        let mut added = Vec::new();
        if let Some(known) = &tokenizer
            && let Some(extended) = added_tokens::extended_by_all(adapters.iter().map(PathBuf::as_path), &files.text, known)?
        {
            let (text, extended, tokens) = extended;
            (files.text, tokenizer, added) = (text, Some(extended), tokens);
        }
        if tokenizer.is_none() {
            terminal::say(&format!("{model} has no tokenizer, and so will not have what is written"));
        }
        let template = ChatTemplate::from_source(&files.text)?;
        Ok(Self { files, tokenizer, added, template })
    }

    /// The type in which most of the numbers in matrices are stored.
    pub fn resting(&self) -> Option<DType> {
        let mut values: Vec<(DType, u64)> = Vec::new();
        for info in self.files.tensors.tensors().iter().filter(|info| info.shape.len() > 1) {
            match values.iter_mut().find(|(dtype, _)| *dtype == info.storage) {
                Some((_, count)) => *count += info.values(),
                None => values.push((info.storage, info.values())),
            }
        }
        values.into_iter().max_by_key(|(_, count)| *count).map(|(dtype, _)| dtype)
    }

    /// The type of the weights if it is one of single numbers, else F16.
    pub fn own_type(&self) -> Mixture {
        match self.resting() {
            Some(DType::F32) => Mixture::F32,
            Some(DType::BF16) => Mixture::BF16,
            _ => Mixture::F16,
        }
    }
}

/// That nothing is written over what is read.
pub(super) fn check_apart(out: &Path, model: &str, adapters: &[PathBuf]) -> Result<()> {
    let read: Vec<&Path> = adapters.iter().map(PathBuf::as_path).chain([Path::new(model)]).collect();
    export::check_apart(out, &read)
}

/// Adapters with their weights, 1 where none are given.
pub(super) fn weighted<'a>(adapters: &'a [PathBuf], weights: &[f64]) -> Result<Vec<(&'a Path, f64)>> {
    if !weights.is_empty() && weights.len() != adapters.len() {
        let problem = format!("gives {} weights for {} adapters", weights.len(), adapters.len());
        return Err(Error::bad_input("--weights", problem, "Give one for each --adapter, in their order."));
    }
    if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
        return Err(Error::bad_input("--weights", format!("has {weight}"), "Give finite numbers."));
    }
    let weight = |at: usize| weights.get(at).copied().unwrap_or(1.0);
    Ok(adapters.iter().enumerate().map(|(at, folder)| (folder.as_path(), weight(at))).collect())
}

/// Runs the command.
///
/// # Errors
/// Bad input in model, adapter or options; something that a format cannot say; the disk is full.
pub fn run(args: ExportArgs) -> Result<()> {
    let adapters = weighted(&args.adapter, &args.weights)?;
    check_apart(&args.out, &args.model, &args.adapter)?;
    match args.to {
        Target::Gguf | Target::GgufAdapter => export::check_gguf_target(&args.out, args.overwrite)?,
        Target::Safetensors | Target::MlxAdapter => export::check_target(&args.out, args.overwrite)?,
    }
    let mut opened = Opened::open(&args.model, args.rope_scaling, &args.adapter)?;
    let update = Update::load(&adapters, &opened.files.config)?;
    update.replaced.put_into(&mut opened.files.config);
    let bar = Counter::of("writing, in values");
    let progress = |done, total| bar.at(done, total);
    let rows: RefCell<Vec<Row>> = RefCell::default();
    let measured = |parameter: &Parameter, sums: Sums| {
        let module = update.site(&parameter.name).map(|site| site.name()).unwrap_or_default();
        rows.borrow_mut().push(Row { module, size: sums.size(), rounding: sums.rounding(), kept: sums.kept(), ..Row::default() });
    };
    let source = Source {
        progress: &progress,
        measured: &measured,
        added: &opened.added,
        ..Source::new(&opened.files, opened.tokenizer.as_ref(), &update)
    };
    let of_adapter = matches!(args.to, Target::GgufAdapter | Target::MlxAdapter);
    let kind = args.kind.unwrap_or_else(|| if of_adapter { Mixture::F32 } else { opened.own_type() });
    let mut report = json!({ "out": args.out, "type": kind.name() });
    let written = match args.to {
        Target::Gguf => {
            make_folder_of(&args.out)?;
            let plan = export::gguf::Plan::of(&source, kind)?;
            plan.notes.iter().for_each(|note| terminal::say(&format!("note: {note}")));
            let formats = plan.formats();
            report["formats"] = formats.iter().map(|(dtype, count)| (dtype.name().to_owned(), json!(count))).collect();
            plan.write(&source, &args.out)
        }
        Target::GgufAdapter => {
            make_folder_of(&args.out)?;
            export::gguf_adapter::write(&source, kind, &args.out)
        }
        Target::Safetensors => export::folder::write(&source, kind.base(), &args.out, args.overwrite, |_| Ok(())),
        Target::MlxAdapter => export::mlx_adapter::write(&source, kind.base(), &args.out, args.overwrite),
    };
    bar.finish();
    written?;
    let warnings = warnings(&rows.borrow(), kind.name(), None);
    for warning in &warnings {
        terminal::say(&format!("warning: {warning}"));
    }
    report["warnings"] = json!(warnings);
    if matches!(args.to, Target::Gguf | Target::GgufAdapter) {
        report["modelfile"] = json!(write_modelfile(&args, &opened)?);
    }
    match args.json {
        true => super::print_json(&report),
        false => {
            terminal::say(&format!("{} is written ({})", args.out.display(), kind.name()));
            if let Some(path) = report["modelfile"].as_str() {
                terminal::say(&format!("for Ollama: ollama create NAME -f {path}"));
            }
            Ok(())
        }
    }
}

fn make_folder_of(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|folder| *folder != Path::new("")) else { return Ok(()) };
    std::fs::create_dir_all(folder).map_err(|error| {
        Error::failed(folder.display(), format!("cannot be made: {error}"), "Choose a folder that you may write to.")
    })
}

/// Writes `Modelfile` beside the file; under the file's own name where there is one already.
fn write_modelfile(args: &ExportArgs, opened: &Opened) -> Result<PathBuf> {
    let name = args.out.file_name().map_or(Path::new(""), Path::new);
    let mut path = args.out.with_file_name("Modelfile");
    if path.symlink_metadata().is_ok() && !args.overwrite {
        path = args.out.with_extension("Modelfile");
    }
    let base = match &opened.files.place {
        ModelPlace::Gguf(path) | ModelPlace::Folder(path) | ModelPlace::Config(path) => {
            std::path::absolute(path).unwrap_or_else(|_| path.clone())
        }
        ModelPlace::Hub(name) => PathBuf::from(name),
    };
    let of_adapter = args.to == Target::GgufAdapter;
    let stops = match &opened.tokenizer {
        None => Vec::new(),
        Some(tokenizer) => {
            let adapter = args.adapter.first().map(PathBuf::as_path);
            let ends = end_tokens(tokenizer, opened.template.as_ref(), adapter, opened.template.is_some())?;
            ends.into_iter().filter_map(|id| tokenizer.token(id)).collect()
        }
    };
    let modelfile = Modelfile {
        from: if of_adapter { &base } else { name },
        adapter: of_adapter.then_some(name),
        template: opened.template.as_ref(),
        stops: &stops,
    };
    atomic::write_atomically(&path, modelfile.text().as_bytes())?;
    Ok(path)
}
