//! Folders whose linear layers were quantised: matrices that several tensors hold together, codes in one, scales in another.
//!
//! `config.json` says by which library and how: `quantization_config` with its `quant_method` (MLX writes `quantization` without one).
//! [`METHODS`] has a row for each library that is read. A method finds its matrices among the stored tensors; each is handed out under the
//! name of the weight that it stands for, and is read as rows of blocks of a format of [`crate::storage`], in which it rests on the device.

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod fp8;
mod gptq;
mod grouped;
mod mlx;
mod packed;

use std::ops::Range;

use serde_json::Value;

use super::stored::{Entry, Stored};
use crate::storage::TensorInfo;
use crate::{Error, Result};

/// A matrix that several tensors hold together.
pub(super) struct Matrix {
    pub info: TensorInfo,
    /// The tensors that hold it, which are none by themselves any more.
    pub parts: Vec<String>,
    pub held: Box<dyn Held>,
}

/// How the rows of such a matrix are read.
pub(super) trait Held: Send + Sync {
    /// The tensor by which the matrix is found in files, for messages.
    fn part(&self) -> &str;

    /// The order in which columns rest in the blocks, if it is not the matrix's own.
    fn order(&self) -> Option<Vec<u32>> {
        None
    }

    /// Rows of the matrix, in blocks of the format that its `info.storage` names.
    ///
    /// # Errors
    /// If a file cannot be read.
    fn read(&self, stored: &Stored, rows: Range<usize>) -> Result<Vec<u8>>;
}

/// A library's way of quantising.
struct Method {
    /// As `quant_method` names it.
    name: &'static str,
    /// Refuses settings that are not read, by their names.
    check: fn(&Scheme) -> Result<()>,
    /// The matrices among the tensors of a folder, whose settings have been checked.
    find: fn(&Scheme, &Stored) -> Result<Vec<Matrix>>,
}

/// The libraries whose folders are read.
const METHODS: &[Method] = &[
    Method { name: "gptq", check: gptq::check, find: gptq::find },
    Method { name: "awq", check: awq::check, find: awq::find },
    Method { name: "bitsandbytes", check: bitsandbytes::check, find: bitsandbytes::find },
    Method { name: "mlx", check: mlx::check, find: mlx::find },
    Method { name: "compressed-tensors", check: compressed_tensors::check, find: compressed_tensors::find },
    Method { name: "fp8", check: fp8::check, find: fp8::find },
    Method { name: "fbgemm_fp8", check: fp8::check, find: fp8::find },
    // Of experts, whose blocks are found by the form in which their model has them.
    Method { name: "mxfp4", check: |_| Ok(()), find: |_, _| Ok(Vec::new()) },
];

/// What to do about parts that do not fit each other.
const DAMAGED: &str = "The folder is damaged, or config and weights belong to different models: download it again.";

/// What `config.json` says about how the weights were quantised.
#[derive(Clone, Debug)]
pub(super) struct Scheme {
    /// The config's path and the key, for messages.
    place: String,
    method: usize,
    settings: Value,
}

impl Scheme {
    /// The scheme of the config in this file, if it has one. `place`: the file's path.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the library or the setting that is not read.
    pub(super) fn of_config(place: &str, config: &Value) -> Result<Option<Self>> {
        let set = |key: &str| config.get(key).filter(|value| !value.is_null()).cloned();
        let (key, settings) = match (set("quantization_config"), set("quantization")) {
            (Some(settings), None) => ("quantization_config", settings),
            // MLX writes its own under both names.
            (_, Some(settings)) => ("quantization", settings),
            (None, None) => return Ok(None),
        };
        let own_name =
            settings.get("quant_method").and_then(Value::as_str).unwrap_or(if key == "quantization" { "mlx" } else { "" });
        let place = format!("{place}: key `{key}`");
        let Some(method) = METHODS.iter().position(|method| method.name == own_name) else {
            let name = if own_name.is_empty() { "a library that it does not name" } else { own_name };
            let known = METHODS.iter().map(|method| method.name).collect::<Vec<_>>().join(", ");
            return Err(Error::bad_input(
                place,
                format!("the weights were quantised by {name}, which graftling does not read (it reads {known})"),
                "Use the model's original weights, a .gguf file, or a folder of one of those kinds.",
            ));
        };
        let scheme = Self { place, method, settings };
        (METHODS[method].check)(&scheme)?;
        Ok(Some(scheme))
    }

    /// The library's name.
    pub(super) fn name(&self) -> &'static str {
        METHODS[self.method].name
    }

    /// The matrices among these tensors.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming the tensor that is missing or does not fit.
    pub(super) fn matrices(&self, stored: &Stored) -> Result<Vec<Matrix>> {
        (METHODS[self.method].find)(self, stored)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is not there.
    fn part<'a>(&self, stored: &'a Stored, name: &str) -> Result<&'a Entry> {
        stored.get(name).ok_or_else(|| self.bad_part(stored, name, "is missing, which quantised layers need".to_owned()))
    }

    /// The tensor of this name, if it holds words of 32 bits.
    ///
    /// # Errors
    /// [`Error::BadInput`] if it is not there, or does not.
    fn words<'a>(&self, stored: &'a Stored, name: &str) -> Result<&'a Entry> {
        let entry = self.part(stored, name)?;
        match matches!(entry.kind.as_str(), "I32" | "U32") && (1..=2).contains(&entry.shape.len()) {
            true => Ok(entry),
            false => {
                let problem = format!("is {} of shape {:?}, but codes are a matrix of I32 or U32", entry.kind, entry.shape);
                Err(self.bad_part(stored, name, problem))
            }
        }
    }

    /// Of each column its group, where `g_idx` says so; `parts` gets the tensor's name.
    ///
    /// # Errors
    /// As [`Scheme::words`], or if it cannot be read.
    fn groups_of_columns(&self, stored: &Stored, name: String, parts: &mut Vec<String>) -> Result<Option<Vec<u32>>> {
        if stored.get(&name).is_none() {
            return Ok(None);
        }
        let entry = self.words(stored, &name)?;
        let groups = stored.read_words(entry, 0..entry.shape[0], 0..entry.row_values())?;
        parts.push(name);
        Ok(Some(groups))
    }

    /// The text of a setting.
    fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).and_then(Value::as_str)
    }

    /// The number of a setting.
    fn number(&self, key: &str) -> Option<i64> {
        self.settings.get(key).and_then(Value::as_i64)
    }

    /// Refuses a setting that is there and is none of these texts.
    fn one_of(&self, key: &str, known: &[&str]) -> Result<()> {
        match self.settings.get(key).filter(|value| !value.is_null()) {
            None => Ok(()),
            Some(value) if value.as_str().is_some_and(|text| known.contains(&text)) => Ok(()),
            Some(value) => {
                let problem = format!("is {value}; of {}, graftling reads {}", self.name(), known.join(" and "));
                Err(self.bad(key, problem))
            }
        }
    }

    /// Refuses a setting that is on.
    fn off(&self, key: &str) -> Result<()> {
        match self.settings.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => Ok(()),
            Some(value) => Err(self.bad(key, format!("is {value}, which graftling does not support"))),
        }
    }

    /// An error about a tensor.
    fn bad_part(&self, stored: &Stored, name: &str, problem: String) -> Error {
        Error::bad_input(format!("{}: tensor {name}", stored.place(name)), problem, DAMAGED)
    }

    /// An error about a setting.
    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::bad_input(
            format!("{}, `{key}`", self.place),
            problem,
            "Use the model's original weights, a .gguf file, or a folder that was quantised in a usual way (docs/models.md lists them).",
        )
    }
}
