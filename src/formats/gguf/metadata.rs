//! What the metadata say about the model and its text, as the types that the rest of the program uses.

use super::GgmlType;
use super::container::{Container, DAMAGED, MetaValue, RawTensor};
use crate::architecture::{self, gguf::Metadata as _};
use crate::formats::{GgufTokenizer, TextSource, TokenizerSource};
use crate::storage::DType;
use crate::{Error, Result};

/// The metadata of one file, read with errors that name the key.
pub(super) struct Metadata<'a> {
    pub place: &'a str,
    pub container: &'a Container,
    /// The whole file, which holds the arrays.
    pub file: &'a [u8],
}

impl architecture::gguf::Metadata for Metadata<'_> {
    fn place(&self) -> &str {
        self.place
    }

    fn bad(&self, key: &str, problem: &str) -> Error {
        Error::bad_input(format!("{}: metadata key {key}", self.place), problem, DAMAGED)
    }

    fn string(&self, key: &str) -> Result<Option<String>> {
        Ok(self.read(key, "a string", MetaValue::as_str)?.map(str::to_owned))
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let narrow = |value: u64| usize::try_from(value).map_err(|_| self.bad(key, "is too large"));
        self.whole(key)?.map(narrow).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, "a number", MetaValue::as_f64)
    }

    fn numbers(&self, key: &str) -> Result<Vec<f64>> {
        let single = |value: &MetaValue| value.as_f64().or(value.as_bool().map(|on| f64::from(u8::from(on))));
        let read = |value: &MetaValue| match value {
            MetaValue::Array { .. } => value.numbers(self.file),
            value => single(value).map(|number| vec![number]),
        };
        Ok(self.read(key, "an array of numbers", read)?.unwrap_or_default())
    }

    fn shape(&self, tensor: &str) -> Option<&[usize]> {
        self.tensor(tensor).map(|tensor| tensor.shape.as_slice())
    }

    fn vector(&self, name: &str) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.tensor(name) else { return Ok(None) };
        let storage = tensor.kind.ok().and_then(GgmlType::dtype);
        if tensor.shape.len() != 1 || storage != Some(DType::F32) {
            let problem = format!("has shape {:?} and is not a vector in F32", tensor.shape);
            return Err(Error::bad_input(format!("{}: tensor {name}", self.place), problem, DAMAGED));
        }
        let mut values = vec![0.0; tensor.shape[0]];
        DType::F32.dequantise(&self.file[tensor.bytes.clone()], &mut values);
        Ok(Some(values))
    }

    fn tokens(&self) -> Option<usize> {
        match self.get("tokenizer.ggml.tokens") {
            Some(MetaValue::Array { count, .. }) => Some(*count),
            _ => None,
        }
    }

    fn bos_token_id(&self) -> Result<Option<u32>> {
        self.token_id("bos_token_id")
    }

    fn end_tokens(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token_id(key)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }
}

impl Metadata<'_> {
    /// Tokenizer and chat template. A file without a tokenizer gives one without tokens.
    pub fn text(&self) -> Result<TextSource> {
        let tokenizer = GgufTokenizer {
            model: self.string("tokenizer.ggml.model")?.unwrap_or_default(),
            pre: self.string("tokenizer.ggml.pre")?,
            tokens: self.strings("tokenizer.ggml.tokens")?,
            scores: self.numbers("tokenizer.ggml.scores")?.into_iter().map(|score| score as f32).collect(),
            // A type outside u32 becomes 0 or the largest value, neither of which is a type.
            token_types: self.numbers("tokenizer.ggml.token_type")?.into_iter().map(|kind| kind as u32).collect(),
            merges: self.strings("tokenizer.ggml.merges")?,
            bos_token_id: self.token_id("bos_token_id")?,
            eos_token_id: self.token_id("eos_token_id")?,
            unknown_token_id: self.token_id("unknown_token_id")?,
            add_bos_token: self.flag("tokenizer.ggml.add_bos_token")?,
            add_eos_token: self.flag("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: self.flag("tokenizer.ggml.add_space_prefix")?,
        };
        let text_of = |id: Option<u32>| id.and_then(|id| tokenizer.tokens.get(id as usize).cloned());
        let mut named_tokens = Vec::new();
        for (role, key) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")] {
            named_tokens.extend(text_of(self.token_id(&format!("{key}_token_id"))?).map(|token| (role.to_owned(), token)));
        }
        Ok(TextSource {
            chat_template: self.string("tokenizer.chat_template")?,
            bos_token: text_of(tokenizer.bos_token_id),
            eos_token: text_of(tokenizer.eos_token_id),
            bos_token_id: tokenizer.bos_token_id,
            eos_token_ids: self.end_tokens()?,
            add_bos: tokenizer.add_bos_token,
            named_tokens,
            ..TextSource::of(TokenizerSource::Gguf(tokenizer))
        })
    }

    fn tensor(&self, name: &str) -> Option<&RawTensor> {
        self.container.tensors.iter().find(|tensor| tensor.name == name)
    }

    fn get(&self, key: &str) -> Option<&MetaValue> {
        self.container.metadata.get(key)
    }

    /// The value of a key as `read` takes it; an error if the value is of another kind.
    fn read<'s, T>(&'s self, key: &str, kind: &str, read: impl Fn(&'s MetaValue) -> Option<T>) -> Result<Option<T>> {
        self.get(key).map(|value| read(value).ok_or_else(|| self.bad(key, &format!("is not {kind}")))).transpose()
    }

    fn whole(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "a whole number", |value| match value {
            // Newer converters write one value a layer for some keys; equal values are one value.
            MetaValue::Array { .. } => {
                let values = value.numbers(self.file)?;
                let first = *values.first()?;
                (values.iter().all(|&v| v == first) && first >= 0.0 && first.fract() == 0.0).then_some(first as u64)
            }
            value => value.as_u64(),
        })
    }

    fn token_id(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        self.read(&key, "a token id", |value| value.as_u64().and_then(|id| u32::try_from(id).ok()))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "true or false", MetaValue::as_bool)
    }

    fn strings(&self, key: &str) -> Result<Vec<String>> {
        Ok(self.read(key, "an array of UTF-8 strings", |value| value.strings(self.file))?.unwrap_or_default())
    }
}
