//! The output folder of a run, and where the run in it stands.

use super::Prepared;
use crate::plan::autotune::Record;
use crate::train::keep::beginning::{self, Purpose};
use crate::train::keep::checkpoint::{self, Checkpoint, RunState};
use crate::train::keep::folder;
use crate::train::keep::lock::FolderLock;
use crate::train::metrics;
use crate::train::options::TrainOptions;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The output folder, held by this process, and where the run in it stands.
pub struct Output {
    /// `None`: another rank has it, and writes there.
    pub(super) lock: Option<FolderLock>,
    pub(in crate::train) state: RunState,
    pub(super) checkpoint: Option<Checkpoint>,
    /// The folder of that checkpoint.
    pub(super) saved: Option<PathBuf>,
    /// Whether this is the first start of the run in this process, and there is no checkpoint of it.
    pub(super) begins: bool,
    /// Adapters that nobody can tell the origin of any more; they get other names.
    pub(super) aside: Vec<PathBuf>,
}

impl Output {
    /// The kernels with which the run computes, where it is not [`Prepared::load`] that chooses them; those of a run that goes on stay.
    pub fn computes_with(&mut self, kernels: &Record) {
        self.state.kernels.get_or_insert_with(|| kernels.clone());
    }

    /// Steps that are done already.
    pub fn steps_done(&self) -> u64 {
        self.state.step
    }
}

impl Prepared<'_> {
    /// Makes and locks the output folder, and finds what to go on from.
    ///
    /// # Errors
    /// Bad input: the folder cannot be written; it holds what a new run would replace and neither `--resume` nor `--overwrite` is given;
    /// nothing in it can be gone on from, or only a run with other options. Failed: another process holds the folder.
    pub fn open_output(&self) -> Result<Output> {
        let ranks = &self.ranks;
        let fingerprint = ranks.agree(self.fingerprint())?;
        let opened = if ranks.is_first() { self.open_folder(&fingerprint).map(Some) } else { Ok(None) };
        let opened = ranks.agree(opened)?;
        if !ranks.is_alone() {
            self.check_alike(fingerprint)?;
        }
        match (opened, ranks.is_first()) {
            (Some(output), true) => ranks.told(Some(output.state.clone())).map(|_| output),
            _ => {
                let state = ranks.told(None)?.unwrap_or_else(|| RunState::start(BTreeMap::new()));
                Ok(Output { lock: None, state, checkpoint: None, saved: None, begins: false, aside: Vec::new() })
            }
        }
    }

    /// That what this rank has is what the first one has.
    pub(super) fn check_alike(&self, own: BTreeMap<String, String>) -> Result<()> {
        let first = self.ranks.told(own.clone())?;
        let differences =
            checkpoint::differences(&first, &own, |name, first, own| format!("{name} is {own} here and {first} on rank 0"));
        self.ranks.agree(match differences.is_empty() {
            true => Ok(()),
            false => {
                let proposal = "start all ranks with the same options, and give them the same files on all machines";
                Err(Error::bad_input("ranks", differences.join("; "), proposal))
            }
        })
    }

    fn open_folder(&self, fingerprint: &BTreeMap<String, String>) -> Result<Output> {
        let out = &self.options.out;
        beginning::check_is_no_model(out, &self.options.model)?;
        std::fs::create_dir_all(out).map_err(|error| {
            let problem = format!("cannot make this folder: {error}");
            Error::bad_input(out.display(), problem, "give --out a folder that you may write to")
        })?;
        let lock = FolderLock::acquire(out)?;
        folder::remove_leftovers(out).map_err(|error| checkpoint::cannot_list(out, &error))?;
        self.purpose(self.options.resume).check_new()?;
        let mut output = self.stand(Some(lock), fingerprint.clone(), self.options.resume)?;
        if output.checkpoint.is_some() {
            metrics::check(out)?;
        } else {
            output.state.template_time = self.model.template_time;
        }
        let purpose = self.purpose(self.options.resume);
        purpose.check_notes(&self.notes())?;
        (output.state.may_replace, output.aside) = purpose.may_replace(&output.state.may_replace, self.adapter.weights_file())?;
        output.begins = output.checkpoint.is_none();
        Ok(output)
    }

    fn purpose(&self, resume: bool) -> Purpose<'_> {
        let TrainOptions { out, overwrite, .. } = &self.options;
        Purpose { out, resume, overwrite: *overwrite, total_steps: self.total_steps }
    }

    /// Where the run of this fingerprint stands in its folder; at its start, unless it may `resume`.
    pub(in crate::train) fn stand(
        &self,
        lock: Option<FolderLock>,
        fingerprint: BTreeMap<String, String>,
        resume: bool,
    ) -> Result<Output> {
        let (saved, checkpoint) = self.purpose(resume).newest(&fingerprint, &self.layout)?.unzip();
        let begins = || RunState { ranks: self.began_with, ..RunState::start(fingerprint) };
        let state = checkpoint.as_ref().map_or_else(begins, |checkpoint| checkpoint.state.clone());
        Ok(Output { lock, state, checkpoint, saved, begins: false, aside: Vec::new() })
    }
}
