//! A model, with what adapters change of it, as files for other programs.
//!
//! * [`gguf`]: one GGUF file, with metadata and tokenizer ([`vocabulary`]); [`folder`]: a Hugging Face folder;
//! * [`gguf_adapter`], [`mlx_adapter`]: the adapter alone, for llama.cpp and for MLX;
//! * [`modelfile`]: what tells Ollama about a GGUF file.
//!
//! Everything is written tensor by tensor and all or nothing. What a format cannot say is refused by its name.

pub mod folder;
pub mod gguf;
pub mod gguf_adapter;
pub mod mlx_adapter;
pub mod modelfile;
mod stacked;
pub mod vocabulary;

use std::io::Read;
use std::path::Path;

use crate::architecture::Parameter;
use crate::formats::{AddedTokenSource, ModelFiles};
use crate::merge::report::Sums;
use crate::merge::{Combination, MergedWeights, Update};
use crate::text::Tokenizer;
use crate::{Error, Result};

/// What is exported.
pub struct Source<'a> {
    pub files: &'a ModelFiles,
    /// `None` for a model without one.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The tokens that adapters add, with their ids; they are in the tokenizer and in what the files say of text.
    pub added: &'a [(u32, AddedTokenSource)],
    /// What adapters change; may be empty.
    pub update: &'a Update,
    /// How the changes of several adapters become one.
    pub combination: Combination,
    /// Is told the values written, and those in all.
    pub progress: &'a dyn Fn(u64, u64),
    /// Is told what each changed matrix went through.
    pub measured: &'a dyn Fn(&Parameter, Sums),
}

impl<'a> Source<'a> {
    /// A model with what adapters change of it, added up; nobody is told how far it is.
    pub fn new(files: &'a ModelFiles, tokenizer: Option<&'a Tokenizer>, update: &'a Update) -> Self {
        Self {
            files,
            tokenizer,
            added: &[],
            update,
            combination: Combination::default(),
            progress: &|_, _| {},
            measured: &|_, _| {},
        }
    }

    /// The model's tensors with the changes in them.
    pub fn weights(&self) -> MergedWeights<'a> {
        MergedWeights { source: &*self.files.tensors, update: self.update, combination: self.combination }
    }
}

/// Refuses to write over what is read: the model or an adapter, of whatever name.
///
/// # Errors
/// Bad input: `out` is one of `read`.
pub fn check_apart(out: &Path, read: &[&Path]) -> Result<()> {
    let is_read = |real: &Path| read.iter().any(|path| path.canonicalize().is_ok_and(|path| path == real));
    match out.canonicalize() {
        Ok(real) if is_read(&real) => {
            Err(Error::bad_input(out.display(), "is what is read here, and would be gone afterwards", "give another --out"))
        }
        _ => Ok(()),
    }
}

/// [`check_target`] of a GGUF file, in the place of which only another may come.
///
/// # Errors
/// Bad input: something is there, or something else.
pub fn check_gguf_target(path: &Path, overwrite: bool) -> Result<()> {
    check_target(path, overwrite)?;
    let begins_as_one = || {
        std::fs::File::open(path).is_ok_and(|mut file| {
            let mut magic = [0; 4];
            file.read_exact(&mut magic).is_ok() && magic == *b"GGUF"
        })
    };
    match path.symlink_metadata() {
        Ok(found) if !(found.is_file() && begins_as_one()) => {
            let proposal = "give another --out: only what an export has written is replaced";
            Err(Error::bad_input(path.display(), "is no GGUF file", proposal))
        }
        _ => Ok(()),
    }
}

/// Refuses to replace what is at `path`, unless that is asked for. An empty folder is nothing.
///
/// # Errors
/// Bad input: something is there.
pub fn check_target(path: &Path, overwrite: bool) -> Result<()> {
    let is_empty = || std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !overwrite && path.symlink_metadata().is_ok() && !is_empty() {
        return Err(Error::bad_input(path.display(), "is there already", "give another --out, or replace it with --overwrite"));
    }
    Ok(())
}
