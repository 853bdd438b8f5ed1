//! A model as a Hugging Face folder: `config.json`, `*.safetensors` in shards, tokenizer and template.
//!
//! What a folder's own files say is kept as it is but for the type of the numbers; of a GGUF file, config and tokenizer are made.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Source, check_target};
use crate::adapter::added_tokens;
use crate::architecture::{Architecture, Order, Parameter, parameters};
use crate::formats::safetensors::{self, Planned};
use crate::formats::{ModelPlace, atomic, experts_together};
use crate::merge::MergedWeights;
use crate::merge::report::Sums;
use crate::storage::DType;
use crate::{Error, Result};

/// Bytes of a file of weights at most, unless one tensor has more.
const SHARD: u64 = 5_000_000_000;

/// What a model's folder may say about text; copied.
const TEXT_FILES: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
];

/// What else an exported folder may hold.
const OTHER_FILES: [&str; 5] =
    ["config.json", "model.safetensors.index.json", "merge-report.json", "adapter_config.json", "adapters.safetensors"];

/// Writes the folder `out`, all or nothing, matrices in this type. `more` adds files of its own.
///
/// # Errors
/// Bad input: a type of blocks, a folder that may not be replaced, a config that cannot say what the model is. Failed: the disk is full.
pub fn write(source: &Source, dtype: DType, out: &Path, overwrite: bool, more: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if dtype.block() > 1 {
        let proposal = "Use f32, f16 or bf16; for other types, --to gguf.";
        return Err(Error::bad_input("--type", format!("a folder is not written in {dtype}"), proposal));
    }
    let config = config(source, dtype)?;
    written(out, overwrite, |folder| {
        let put = |name: &str, text: String| atomic::write_atomically(&folder.join(name), text.as_bytes());
        put("config.json", format!("{config:#}\n"))?;
        text_files(source, folder)?;
        weights(source, dtype, folder)?;
        more(folder)
    })
}

/// Lets `fill` fill a new folder, which then gets its name. What was there before goes, if that is asked for and it is nothing but an
/// exported folder.
///
/// # Errors
/// Bad input: something is there that may not be replaced. Failed: the folder cannot be made. And what `fill` gives.
pub fn written(out: &Path, overwrite: bool, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    check_target(out, overwrite)?;
    check_replaceable(out)?;
    let unwritable = |error: std::io::Error| {
        let proposal = "Check that the folder above it exists, that it may be written to, and that the disk is not full.";
        Error::failed(out.display(), format!("cannot be written: {error}"), proposal)
    };
    let Some(name) = out.file_name() else {
        return Err(Error::bad_input(out.display(), "is not the name of a folder", "Give the path of a folder to write."));
    };
    let parent = out.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(unwritable)?;
    let mut builder = atomic::temporary();
    #[cfg(unix)]
    builder.permissions(atomic::usual_permissions(0o777));
    // Removed with what is in it when it goes out of scope without having got its name.
    let folder = builder.tempdir_in(parent).map_err(unwritable)?;
    fill(folder.path())?;
    atomic::flush_folder(folder.path()).map_err(unwritable)?;
    let before = atomic::temporary().tempdir_in(parent).map_err(unwritable)?;
    if out.symlink_metadata().is_ok() {
        fs::rename(out, before.path().join(name)).map_err(unwritable)?;
    }
    if let Err(error) = fs::rename(folder.path(), out) {
        let _ = fs::rename(before.path().join(name), out);
        return Err(unwritable(error));
    }
    let _ = folder.keep();
    atomic::flush_folder(parent).map_err(unwritable)
}

/// That what stands at `out`, if anything, is a folder with nothing but what an export writes.
fn check_replaceable(out: &Path) -> Result<()> {
    let Ok(found) = out.symlink_metadata() else { return Ok(()) };
    let refused = |what: String| {
        let proposal = "give another --out: only what an export has written is replaced";
        Err(Error::bad_input(out.display(), what, proposal))
    };
    if !found.is_dir() {
        return refused("is not a folder".to_owned());
    }
    let entries = fs::read_dir(out)
        .map_err(|error| Error::bad_input(out.display(), format!("cannot be listed: {error}"), "Check its permissions."))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = TEXT_FILES.contains(&name.as_str()) || OTHER_FILES.contains(&name.as_str()) || is_shard(&name);
        if !known || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            return refused(format!("holds {name}, which no export has written"));
        }
    }
    Ok(())
}

fn is_shard(name: &str) -> bool {
    name.strip_prefix("model")
        .and_then(|rest| rest.strip_suffix(".safetensors"))
        .is_some_and(|rest| rest.is_empty() || rest.bytes().all(|byte| byte.is_ascii_digit() || b"-of".contains(&byte)))
}

/// A tensor of the folder: a parameter, the rows of one expert in that of all, or the parameters of all experts that alternate in it.
struct Piece<'p> {
    parameter: &'p Parameter,
    name: String,
    rows: Range<usize>,
    shape: Vec<usize>,
    /// Of all experts together, what alternates in its columns; `parameter` is the first of them.
    alternating: Vec<&'p Parameter>,
}

impl<'p> Piece<'p> {
    /// From the parameter's first row to its last.
    fn of(parameter: &'p Parameter) -> Vec<Self> {
        let Some(experts) = parameter.experts else {
            let (name, shape) = (parameter.name.clone(), parameter.shape.clone());
            return vec![Self { rows: 0..shape[0], parameter, name, shape, alternating: Vec::new() }];
        };
        let each = parameter.shape[0] / experts;
        let piece = |expert: usize| Self {
            parameter,
            name: parameter.of_expert(expert),
            rows: expert * each..(expert + 1) * each,
            shape: vec![each, parameter.shape[1]],
            alternating: Vec::new(),
        };
        (0..experts).map(piece).collect()
    }

    /// All of a model. Where experts are together, each of their tensors takes the place of the first parameter in it.
    fn all(parameters: &'p [Parameter], together: bool) -> Vec<Self> {
        let mut pieces: Vec<Self> = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let (Some((name, _)), Some(experts)) =
                (experts_together::tensor_of(parameter).filter(|_| together), parameter.experts)
            else {
                pieces.extend(Self::of(parameter));
                continue;
            };
            let each = parameter.shape[0] / experts;
            match pieces.iter_mut().rev().find(|piece| piece.name == name) {
                Some(piece) => {
                    piece.alternating.push(parameter);
                    piece.shape.last_mut().into_iter().for_each(|columns| *columns += each);
                }
                None => {
                    let shape = [experts].into_iter().chain(parameter.shape.get(1).copied()).chain([each]).collect();
                    let rows = 0..parameter.shape[0];
                    pieces.push(Self { parameter, name, rows, shape, alternating: vec![parameter] });
                }
            }
        }
        pieces
    }

    /// Its bytes, an expert's at a time, each number of them where the folder has it.
    fn write_alternating(
        &self,
        weights: &MergedWeights,
        dtype: DType,
        measured: &dyn Fn(&Parameter, Sums),
        mut sink: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (experts, step, size) = (self.shape[0].max(1), self.alternating.len(), dtype.block_bytes());
        let each = self.rows.len() / experts;
        let inputs = if self.shape.len() == 3 { self.shape[1] } else { 1 };
        let mut parts = self.alternating.iter().map(|parameter| weights.begin(parameter)).collect::<Result<Vec<_>>>()?;
        for expert in 0..experts {
            let mut bytes = vec![0; inputs * each * step * size];
            for (first, merging) in parts.iter_mut().enumerate() {
                let mut row = 0;
                merging.rows(expert * each..(expert + 1) * each, Order::Plain, dtype, |chunk| {
                    for values in chunk.chunks_exact(inputs * size) {
                        for (input, value) in values.chunks_exact(size).enumerate() {
                            let at = ((input * each + row) * step + first) * size;
                            bytes[at..at + size].copy_from_slice(value);
                        }
                        row += 1;
                    }
                    Ok(())
                })?;
            }
            sink(&bytes)?;
        }
        let sums = self.alternating.iter().zip(&parts).filter_map(|(parameter, merging)| Some((parameter, merging.sums()?)));
        sums.for_each(|(parameter, sums)| measured(parameter, sums));
        Ok(())
    }

    fn count(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product()
    }
}

fn weights(source: &Source, dtype: DType, folder: &Path) -> Result<()> {
    let weights = source.weights();
    let parameters = parameters(&source.files.config);
    let pieces = Piece::all(&parameters, source.files.config.has_experts_together());
    let planned = |piece: &Piece| Planned { name: piece.name.clone(), shape: piece.shape.clone(), dtype };
    let bytes = |piece: &Piece| piece.count() * dtype.block_bytes() as u64;
    let mut shards: Vec<Vec<&Piece>> = Vec::new();
    let mut room = 0;
    for piece in &pieces {
        match shards.last_mut().filter(|_| bytes(piece) <= room) {
            Some(shard) => shard.push(piece),
            None => {
                shards.push(vec![piece]);
                room = SHARD;
            }
        }
        room = room.saturating_sub(bytes(piece));
    }
    let (mut done, total) = (0, pieces.iter().map(Piece::count).sum());
    let mut map = Map::new();
    let count = shards.len();
    // The parameter whose pieces are being written; they may go on in the next file.
    let mut begun = None;
    for (at, shard) in shards.iter().enumerate() {
        let name =
            if count == 1 { "model.safetensors".to_owned() } else { format!("model-{:05}-of-{count:05}.safetensors", at + 1) };
        let tensors: Vec<Planned> = shard.iter().map(|piece| planned(piece)).collect();
        map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), Value::String(name.clone()))));
        safetensors::write(&folder.join(&name), &tensors, |number, sink| {
            let Piece { parameter, rows, alternating, .. } = shard[number];
            let mut put = |bytes: &[u8]| {
                done += (bytes.len() / dtype.block_bytes()) as u64;
                (source.progress)(done, total);
                sink(bytes)
            };
            if !alternating.is_empty() {
                return shard[number].write_alternating(&weights, dtype, &source.measured, put);
            }
            let merging = match &mut begun {
                Some(merging) if rows.start > 0 => merging,
                begun => begun.insert(weights.begin(parameter)?),
            };
            merging.rows(rows.clone(), Order::Plain, dtype, &mut put)?;
            if rows.end == parameter.shape[0] {
                merging.sums().into_iter().for_each(|sums| (source.measured)(parameter, sums));
            }
            Ok(())
        })?;
    }
    if count > 1 {
        let size: u64 = pieces.iter().map(bytes).sum();
        let index = json!({ "metadata": { "total_size": size }, "weight_map": map });
        atomic::write_atomically(&folder.join("model.safetensors.index.json"), format!("{index:#}\n").as_bytes())?;
    }
    Ok(())
}

/// `config.json` of the folder.
fn config(source: &Source, dtype: DType) -> Result<Value> {
    let model = &source.files.config;
    let name = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let with_type = |mut config: Value| {
        config.as_object_mut().into_iter().for_each(|map| {
            map.retain(|key, _| key != "dtype" && key != "torch_dtype" && key != "quantization_config" && key != "quantization");
            map.insert("torch_dtype".to_owned(), json!(name));
            map.insert("tie_word_embeddings".to_owned(), json!(model.tie_word_embeddings));
            map.insert("vocab_size".to_owned(), json!(model.vocab_size));
        });
        config
    };
    let says_it = |config: &Value| -> Result<Option<(&'static str, String, String)>> {
        let read = Architecture::from_json_str(&config.to_string())?;
        Ok(model.differs(&read).or_else(|| {
            let windows = |model: &Architecture| format!("{:?}", model.windows());
            (model.windows_of_layers() != read.windows_of_layers()).then(|| ("sliding_window", windows(model), windows(&read)))
        }))
    };
    if let ModelPlace::Folder(folder) = &source.files.place
        && model.text_path.is_empty()
        && let Some(config) = crate::formats::hugging_face::optional_json(&folder.join("config.json"))?
    {
        let config = with_type(config);
        if says_it(&config)?.is_none() {
            return Ok(config);
        }
    }
    let config = with_type(model.to_json());
    match says_it(&config)? {
        None => Ok(config),
        Some((what, here, there)) => {
            let problem =
                format!("a config.json of a {} cannot say that {what} is {here}: it would be read as {there}", model.class);
            Err(Error::bad_input(&source.files.name, problem, "Use --to gguf."))
        }
    }
}

fn text_files(source: &Source, out: &Path) -> Result<()> {
    let put = |name: &str, bytes: &[u8]| atomic::write_atomically(&out.join(name), bytes);
    if let ModelPlace::Folder(folder) = &source.files.place {
        for name in TEXT_FILES {
            let path = folder.join(name);
            if path.is_file() {
                let bytes = crate::files::read(&path, crate::files::TOKENIZER).map_err(|error| {
                    Error::bad_input(path.display(), format!("cannot be read: {error}"), "Check its permissions.")
                })?;
                put(name, &bytes)?;
            }
        }
        if let (Some(tokenizer), false) = (source.tokenizer, source.added.is_empty()) {
            let texts = added_tokens::texts(source.files, tokenizer, source.added)?;
            for (name, text) in added_tokens::FILES.into_iter().zip(texts) {
                put(name, text.as_bytes())?;
            }
        }
        return Ok(());
    }
    let text = &source.files.text;
    let model = &source.files.config;
    let ends = &model.eos_token_ids;
    put(
        "generation_config.json",
        format!("{:#}\n", json!({ "bos_token_id": model.bos_token_id, "eos_token_id": ends })).as_bytes(),
    )?;
    let Some(tokenizer) = source.tokenizer else { return Ok(()) };
    put("tokenizer.json", format!("{:#}\n", added_tokens::made_json(tokenizer)?).as_bytes())?;
    if let Some(template) = &text.chat_template {
        put("chat_template.jinja", template.as_bytes())?;
    }
    let settings = added_tokens::made_config(source.files);
    put("tokenizer_config.json", format!("{settings:#}\n").as_bytes())
}
