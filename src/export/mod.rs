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
pub mod vocabulary;

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

    fn weights(&self) -> MergedWeights<'a> {
        MergedWeights { source: &*self.files.tensors, update: self.update, combination: self.combination }
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
