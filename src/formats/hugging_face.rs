//! A model folder as Hugging Face's transformers saves it: `config.json`, `*.safetensors`, `tokenizer.json` and their kin.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    TextSource, TokenizerSource, experts_together, folder_weights::FolderWeights, open, quantised::Scheme, special_tokens,
    stored::Stored,
};
use crate::{
    Error, Result,
    architecture::{Architecture, EMBEDDING_TENSOR, OUTPUT_TENSOR, json::token_ids},
    storage::TensorSource,
};

/// The forms of weights, the better one first: all in one file, and the list of shards where they are in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Safetensors,
    PyTorch,
}

impl Form {
    pub(super) const ALL: [Self; 2] = [Self::Safetensors, Self::PyTorch];

    pub(super) const fn whole(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors",
            Self::PyTorch => "pytorch_model.bin",
        }
    }

    pub(super) const fn index(self) -> &'static str {
        match self {
            Self::Safetensors => "model.safetensors.index.json",
            Self::PyTorch => "pytorch_model.bin.index.json",
        }
    }

    const fn ending(self) -> &'static str {
        match self {
            Self::Safetensors => ".safetensors",
            Self::PyTorch => ".bin",
        }
    }
}

/// Config of the model in `folder`, with the end tokens of `generation_config.json` after those of `config.json`.
///
/// # Errors
/// [`Error::BadInput`] if there is no `config.json`, or one of the two cannot be used.
pub fn config(folder: &Path) -> Result<Architecture> {
    let path = folder.join("config.json");
    if !path.exists() {
        let names = file_names(folder)?;
        let (problem, proposal) = if names.contains("adapter_config.json") {
            ("is an adapter, not a model", "Give the base model as the model, and this folder with --adapter or --init-adapter.")
        } else if names.iter().any(|name| name.ends_with(".gguf")) {
            ("has no config.json", "Give the path of the .gguf file in it.")
        } else {
            (
                "has no config.json",
                "Give a folder with config.json, tokenizer.json and *.safetensors, a .gguf file, or a Hugging Face name.",
            )
        };
        return Err(Error::bad_input(folder.display(), problem, proposal));
    }
    let mut config = config_file(&path)?;
    scheme(folder)?;
    if let Some(generation) = optional_json(&folder.join("generation_config.json"))? {
        let ids = token_ids(generation.get("eos_token_id")).ok_or_else(|| {
            let place = folder.join("generation_config.json");
            Error::bad_input(
                format!("{}: key `eos_token_id`", place.display()),
                "is not a token id or a list of them",
                "Correct the file.",
            )
        })?;
        for id in ids {
            if !config.eos_token_ids.contains(&id) {
                config.eos_token_ids.push(id);
            }
        }
    }
    Ok(config)
}

/// The model that a `config.json` describes.
///
/// # Errors
/// As [`Architecture::from_json_str`], or if the file cannot be read.
pub fn config_file(path: &Path) -> Result<Architecture> {
    let text = open::read_text(path, "Give a model folder that has a readable config.json.")?;
    Architecture::from_json_at(&path.display().to_string(), &text)
}

/// How the weights in `folder` were quantised.
///
/// # Errors
/// [`Error::BadInput`] naming the library or the setting that is not read.
fn scheme(folder: &Path) -> Result<Option<Scheme>> {
    let path = folder.join("config.json");
    Scheme::of_config(&path.display().to_string(), &optional_json(&path)?.unwrap_or(Value::Null))
}

/// The weights in `folder`: `model.safetensors`, or what `model.safetensors.index.json` lists, or the only safetensors file; else the same of
/// `pytorch_model.bin`. The order is that of transformers: an index that an earlier, larger save left behind does not count beside a whole
/// file.
///
/// Names are those of a model that has text alone, and `config` learns what only the weights say: as in transformers 5, an output matrix
/// of its own counts, whatever `tie_word_embeddings` says.
///
/// # Errors
/// [`Error::BadInput`] if there are none, or if a file is missing or not sound.
pub fn weights(folder: &Path, config: &mut Architecture) -> Result<FolderWeights> {
    let mut stored = Stored::open(&weight_files(folder)?)?;
    if !config.text_path.is_empty() {
        stored = stored.renamed(text_name)?;
    }
    let has_embedding = stored.entries().any(|(name, _)| name.starts_with("model.embed_tokens."));
    if config.tie_word_embeddings && !has_embedding {
        // As in transformers 5: the one matrix that is there is both.
        stored = stored.renamed(|name| name.replace("lm_head.", "model.embed_tokens."))?;
    }
    let of_experts = if config.has_experts_together() { experts_together::matrices(config, &stored)? } else { Vec::new() };
    let weights = FolderWeights::of(stored, scheme(folder)?.as_ref(), of_experts)?;
    if !config.text_path.is_empty() {
        let others = weights.tensors().iter().filter(|info| !info.name.starts_with("model.") && info.name != OUTPUT_TENSOR);
        let others: Vec<&str> = others.map(|info| info.name.as_str()).collect();
        if let Some(first) = others.first() {
            let place = folder.display();
            tracing::info!(
                "{place}: the text part is used; {} tensors of other parts are passed over, such as {first}",
                others.len()
            );
        }
    }
    if config.tie_word_embeddings && has_own_output(&weights)? {
        let place = folder.display();
        tracing::warn!(
            "{place}: lm_head.weight differs from the embedding, so it is used, although the config says that they are tied"
        );
        config.tie_word_embeddings = false;
    }
    Ok(weights)
}

/// The name of a tensor of the text part as a model of text alone has it; those of other parts keep theirs, below a name of their own.
/// transformers 5 writes `model.language_model.layers...`, transformers 4 wrote `language_model.model.layers...`.
fn text_name(name: &str) -> String {
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return format!("model.{rest}");
    }
    match name.strip_prefix("language_model.") {
        Some(rest) => rest.to_owned(),
        None if name == OUTPUT_TENSOR => name.to_owned(),
        None => format!("other.{name}"),
    }
}

/// Whether there is an output matrix that is not the embedding.
fn has_own_output(weights: &FolderWeights) -> Result<bool> {
    const ROWS: usize = 1024;
    let (Some(of_embedding), Some(of_output)) = (weights.find(EMBEDDING_TENSOR), weights.find(OUTPUT_TENSOR)) else {
        return Ok(false);
    };
    if of_embedding.shape != of_output.shape {
        return Ok(true);
    }
    let (rows, columns) = (of_output.rows(), of_output.row_values());
    let (mut left, mut right) = (vec![0.0; ROWS * columns], vec![0.0; ROWS * columns]);
    for first in (0..rows).step_by(ROWS) {
        let chunk = first..(first + ROWS).min(rows);
        let values = chunk.len() * columns;
        weights.read_rows_f32(EMBEDDING_TENSOR, chunk.clone(), &mut left[..values])?;
        weights.read_rows_f32(OUTPUT_TENSOR, chunk, &mut right[..values])?;
        if left[..values] != right[..values] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is anything in `folder` that [`weights`] would try to read.
pub fn has_weights(folder: &Path) -> bool {
    file_names(folder).is_ok_and(|names| {
        names.iter().any(|name| {
            let known = |form: Form| name == form.whole() || name == form.index();
            Form::ALL.into_iter().any(known) || (name.ends_with(".safetensors") && !name.starts_with("adapter_"))
        })
    })
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = file_names(folder)?;
    for form in Form::ALL {
        let (whole, index) = (form.whole(), form.index());
        if names.contains(whole) {
            if names.contains(index) {
                tracing::warn!("{}: there is {whole} beside {index}; the index and its shards are not used", folder.display());
            }
            return Ok(vec![folder.join(whole)]);
        }
        if let Some(shards) = shards(folder, form)? {
            return Ok(shards.into_iter().map(|name| folder.join(name)).collect());
        }
        // Other files in PyTorch's form are optimisers, arguments and the like.
        let of_weights =
            |name: &&String| form == Form::Safetensors && name.ends_with(form.ending()) && !name.starts_with("adapter_");
        let others: Vec<&String> = names.iter().filter(of_weights).collect();
        match others.as_slice() {
            [only] => return Ok(vec![folder.join(only)]),
            [] => {}
            several => {
                let problem = format!("has {} .safetensors files but no {index}", several.len());
                return Err(Error::bad_input(
                    folder.display(),
                    problem,
                    format!("Download {index} too; it says which files belong together."),
                ));
            }
        }
    }
    Err(Error::bad_input(
        folder.display(),
        "has no weights (*.safetensors, or pytorch_model.bin)",
        "Download the model's weights into it, under the names that transformers gives them; config.json alone is enough only for \
         `graftling inspect`.",
    ))
}

/// The shard names of the index, if there is one.
pub(super) fn shards(folder: &Path, form: Form) -> Result<Option<BTreeSet<String>>> {
    let path = folder.join(form.index());
    let Some(index) = optional_json(&path)? else { return Ok(None) };
    let bad = |problem: String| Error::bad_input(path.display(), problem, "Download the model again.");
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| bad("has no `weight_map`".to_owned()))?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let name = name.as_str().ok_or_else(|| bad(format!("gives no file name for tensor {tensor}")))?;
        // A plain name: the index must not lead out of the folder.
        if Path::new(name).file_name() != Some(name.as_ref()) || !name.ends_with(form.ending()) {
            let ending = form.ending();
            return Err(bad(format!("names `{name}` for tensor {tensor}, which is no {ending} file in the same folder")));
        }
        names.insert(name.to_owned());
    }
    Ok(Some(names))
}

/// Tokenizer, special tokens and chat template of the model in `folder`.
///
/// The template is `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`; of several named ones, `default`.
///
/// # Errors
/// [`Error::BadInput`] if one of these files is there but cannot be read.
pub fn text(folder: &Path, config: &Architecture) -> Result<TextSource> {
    let tokenizer_config = optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let template_file = folder.join("chat_template.jinja");
    let chat_template = if template_file.exists() {
        Some(read(&template_file)?)
    } else {
        match tokenizer_config.get("chat_template") {
            Some(Value::String(template)) => Some(template.clone()),
            Some(Value::Array(named)) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .and_then(|entry| entry.get("template")?.as_str().map(str::to_owned)),
            _ => None,
        }
    };
    let tokens = special_tokens::read(folder, &tokenizer_config)?;
    // What goes first and last is written in tokenizer.json; transformers 5 passes over `add_bos_token` and `add_eos_token` where there is
    // that file, whatever the class of the tokenizer.
    Ok(TextSource {
        chat_template,
        bos_token: tokens.role("bos_token"),
        eos_token: tokens.role("eos_token"),
        bos_token_id: config.bos_token_id,
        eos_token_ids: config.eos_token_ids.clone(),
        named_tokens: tokens.named,
        added_tokens: tokens.added,
        ..TextSource::of(TokenizerSource::Json(folder.join("tokenizer.json")))
    })
}

fn file_names(folder: &Path) -> Result<BTreeSet<String>> {
    let unreadable =
        |error| Error::bad_input(folder.display(), format!("cannot be read: {error}"), "Check the path and its permissions.");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        names.extend(entry.map_err(unreadable)?.file_name().into_string());
    }
    Ok(names)
}

fn read(path: &Path) -> Result<String> {
    open::read_text(path, "Download the file again.")
}

/// The JSON in a file that need not be there.
pub(crate) fn optional_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_str(&read(path)?);
    value
        .map(Some)
        .map_err(|error| Error::bad_input(path.display(), format!("is not valid JSON: {error}"), "Download the file again."))
}
