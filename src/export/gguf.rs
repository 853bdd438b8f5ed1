//! A model as one GGUF file.
//!
//! What the source says of itself is passed through if it is a GGUF file; of a Hugging Face folder it is made as llama.cpp's
//! `convert_hf_to_gguf.py` makes it. Before anything is written, the description is read back, and a model that would compute something
//! else is refused.

use std::path::Path;

use super::{Source, vocabulary};
use crate::architecture::gguf::{Said, Value};
use crate::architecture::{Architecture, Order, Parameter, is_a_router, parameters};
use crate::formats::ModelPlace;
use crate::formats::gguf::writer::{self, Pair, Planned};
use crate::formats::gguf::{Gguf, read_back};
use crate::storage::DType;
use crate::storage::mixture::{Mixture, Place};
use crate::{Error, Result};

/// A file that is decided on in all but the numbers.
pub struct Plan {
    pairs: Vec<Pair>,
    /// Tensors that describe, then those of the parameters.
    tensors: Vec<Planned>,
    vectors: Vec<(String, Vec<f32>)>,
    parameters: Vec<Parameter>,
    /// What the file cannot say, in a sentence for each, though it holds for texts of ordinary length.
    pub notes: Vec<String>,
}

impl Plan {
    /// Decides what the file holds.
    ///
    /// # Errors
    /// Bad input: a GGUF file cannot say what the model is, or has no name for its tokenizer's rules.
    pub fn of(source: &Source, kind: Mixture) -> Result<Self> {
        let model = &source.files.config;
        let original = match &source.files.place {
            ModelPlace::Gguf(path) => Some(Gguf::open(path)?),
            _ => None,
        };
        let said = model.to_gguf();
        // The description of a GGUF file is passed through as long as it is that of the model.
        let same = original.as_ref().is_some_and(|original| original.config() == model);
        let mut pairs = match &original {
            Some(original) => passed_through(original, (!same).then_some(&said), kind, extended(source, original)?),
            None => made(source, &said, kind)?,
        };
        if !pairs.iter().any(|pair| pair.key == QUANTIZATION_VERSION) {
            pairs.push(Pair::u32(QUANTIZATION_VERSION, 2));
        }
        let vectors = match &original {
            Some(original) if same => described(original)?,
            _ => said.vectors,
        };
        let parameters = parameters(model);
        let mut tensors: Vec<Planned> = Vec::with_capacity(vectors.len() + parameters.len());
        for (name, values) in &vectors {
            tensors.push(Planned { name: name.clone(), shape: vec![values.len()], dtype: DType::F32 });
        }
        for parameter in &parameters {
            let dtype = format_of(kind, parameter, model);
            // Blocks that nothing would make better stay as they are.
            let rests = source.files.tensors.find(&parameter.name).filter(|info| info.storage == DType::MXFP4);
            let stays = rests.is_some() && dtype.block() > 1 && !source.update.changes(&parameter.name);
            let dtype = if stays { DType::MXFP4 } else { dtype };
            if !dtype.can_quantise() && !stays {
                let problem = format!("would be written in {dtype}, which graftling only reads");
                return Err(Error::bad_input("--type", format!("tensor {} {problem}", parameter.name), "Choose another --type."));
            }
            tensors.push(Planned { name: parameter.ggml.clone(), shape: parameter.ggml_shape(), dtype });
        }
        let read = read_back(&pairs, &tensors, &vectors)?;
        if let Some((what, here, there)) = model.differs(&read) {
            let problem =
                format!("a GGUF file of a {} cannot say that {what} is {here}: it would be read as {there}", model.class);
            return Err(Error::bad_input(&source.files.name, problem, "Use --to safetensors."));
        }
        let mut notes = Vec::new();
        let (ours, theirs) = (model.windows(), read.windows());
        if model.windows_of_layers() != read.windows_of_layers() {
            let longest = ours.iter().chain(&theirs).min().copied().unwrap_or_default();
            notes.push(format!(
                "GGUF files of this family say nothing of the sliding windows that the model has: a text of more than {longest} tokens \
                 is read otherwise than graftling reads it"
            ));
        }
        Ok(Self { pairs, tensors, vectors, parameters, notes })
    }

    /// Values of all tensors.
    pub fn values(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.shape.iter().map(|&size| size as u64).product::<u64>()).sum()
    }

    /// How many tensors have which format, the most frequent first.
    pub fn formats(&self) -> Vec<(DType, usize)> {
        let mut counts: Vec<(DType, usize)> = Vec::new();
        for tensor in &self.tensors {
            match counts.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
                Some((_, count)) => *count += 1,
                None => counts.push((tensor.dtype, 1)),
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts
    }

    /// Writes the file, all or nothing.
    ///
    /// # Errors
    /// The file cannot be written, a tensor not be read, or a value is too large for its format.
    pub fn write(&self, source: &Source, path: &Path) -> Result<()> {
        let weights = source.weights();
        let (mut done, total) = (0, self.values());
        writer::write(path, &self.pairs, &self.tensors, |number, sink| {
            let full = |error| crate::formats::atomic::unwritable(path, &error);
            if let Some((_, values)) = self.vectors.get(number) {
                return sink.put(bytemuck::cast_slice(values)).map_err(full);
            }
            let (parameter, dtype) = (&self.parameters[number - self.vectors.len()], self.tensors[number].dtype);
            let sums = weights.stream(parameter, parameter.order, dtype, |bytes| {
                done += (bytes.len() / dtype.block_bytes() * dtype.block()) as u64;
                (source.progress)(done, total);
                sink.put(bytes).map_err(full)
            })?;
            sums.into_iter().for_each(|sums| (source.measured)(parameter, sums));
            Ok(())
        })
    }
}

const FILE_TYPE: &str = "general.file_type";
const QUANTIZATION_VERSION: &str = "general.quantization_version";

/// Vectors stay exact; matrices are what the kind of file has them be.
fn format_of(kind: Mixture, parameter: &Parameter, model: &Architecture) -> DType {
    if parameter.shape.len() < 2 || parameter.order == Order::PlusOne || is_a_router(&parameter.name) {
        return DType::F32;
    }
    kind.format(&Place {
        module: parameter.usual_module(),
        layer: parameter.layer,
        layers: model.num_hidden_layers,
        tied: model.tie_word_embeddings,
        grouped: model.num_key_value_heads < model.num_attention_heads,
        experts: model.experts.as_ref().map_or(0, |experts| experts.count),
        row: parameter.shape[1],
    })
}

/// What the source says, but for what is about the file and its numbers; `said` replaces what it says of the model, `tokenizer` what of text.
fn passed_through(original: &Gguf, said: Option<&Said>, kind: Mixture, tokenizer: Option<Vec<Pair>>) -> Vec<Pair> {
    let own =
        |key: &str| ["split.", "quantize.", "general.alignment", QUANTIZATION_VERSION].iter().any(|start| key.starts_with(start));
    let mut pairs: Vec<Pair> = original.pairs().into_iter().filter(|pair| !own(&pair.key)).collect();
    if let Some(said) = said {
        let prefix = format!("{}.", said.ggml);
        let at = pairs.iter().position(|pair| pair.key.starts_with(&prefix)).unwrap_or(pairs.len());
        let replaced = said_pairs(said);
        // A key of the model that graftling does not know stays: it has not changed.
        let rope = format!("{prefix}rope.");
        pairs.retain(|pair| !pair.key.starts_with(&rope) && replaced.iter().all(|new| new.key != pair.key));
        let at = at.min(pairs.len());
        pairs.splice(at..at, replaced);
    }
    if let Some(tokenizer) = tokenizer {
        pairs.retain(|pair| !pair.key.starts_with("tokenizer."));
        pairs.extend(tokenizer);
    }
    let file_type = Pair::u32(FILE_TYPE, kind.file_type());
    match pairs.iter_mut().find(|pair| pair.key == FILE_TYPE) {
        Some(pair) => *pair = file_type,
        None => pairs.push(file_type),
    }
    pairs
}

/// What is said of the tokenizer where an adapter has added tokens to it, or rows to the vocabulary.
fn extended(source: &Source, original: &Gguf) -> Result<Option<Vec<Pair>>> {
    let model = &source.files.config;
    let is_extended = !source.added.is_empty() || model.vocab_size != original.config().vocab_size;
    let tokenizer = source.tokenizer.filter(|_| is_extended);
    tokenizer.map(|tokenizer| vocabulary::pairs(&source.files.text, tokenizer, model)).transpose()
}

/// What a folder's files say, in the order of `convert_hf_to_gguf.py`.
fn made(source: &Source, said: &Said, kind: Mixture) -> Result<Vec<Pair>> {
    let mut pairs = vec![
        Pair::string("general.architecture", said.ggml),
        Pair::string("general.type", "model"),
        Pair::string("general.name", &source.files.name),
        Pair::string("general.size_label", &size_label(parameters(&source.files.config).iter().map(Parameter::count).sum())),
    ];
    pairs.extend(said_pairs(said));
    pairs.push(Pair::u32(FILE_TYPE, kind.file_type()));
    if let Some(tokenizer) = source.tokenizer {
        pairs.extend(vocabulary::pairs(&source.files.text, tokenizer, &source.files.config)?);
    }
    Ok(pairs)
}

/// `135M`, `1.7B`: as the converter writes it.
fn size_label(parameters: u64) -> String {
    let (number, unit) = match parameters as f64 {
        count if count >= 1e9 => (count / 1e9, "B"),
        count if count >= 1e6 => (count / 1e6, "M"),
        count => (count / 1e3, "K"),
    };
    let digits = if number < 10.0 && number.fract() >= 0.05 { 1 } else { 0 };
    format!("{number:.digits$}{unit}")
}

fn said_pairs(said: &Said) -> Vec<Pair> {
    let pair = |(key, value): &(String, Value)| match value {
        Value::Size(size) => Pair::u32(key, u32::try_from(*size).unwrap_or(u32::MAX)),
        Value::Number(number) => Pair::f32(key, *number as f32),
        Value::Text(text) => Pair::string(key, text),
        Value::Flags(flags) => Pair::flags(key, flags),
    };
    said.keys.iter().map(pair).collect()
}

/// The tensors of a source that describe and are no parameters, as they are.
fn described(original: &Gguf) -> Result<Vec<(String, Vec<f32>)>> {
    use crate::storage::TensorSource;
    let names = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
    let there = names.into_iter().filter(|name| original.find(name).is_some());
    there.map(|name| Ok((name.to_owned(), original.read_f32(name)?))).collect()
}
