//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! `OUT/checkpoint-STEP/` holds
//!
//! | file | content |
//! |---|---|
//! | `adapter_config.json`, `adapter_model.safetensors` or `adapter.safetensors` | the adapter, a folder of PEFT or AdapterHub as any other |
//! | `optimizer.safetensors` | AdamW's moments: `exp_avg.NAME` and `exp_avg_sq.NAME`, f32, named and shaped as the adapter's matrices |
//! | `state.json` | [`RunState`] |
//! | `SHA256SUMS` | the digests of the others, which `sha256sum -c SHA256SUMS` checks too |
//!
//! A checkpoint is written under a temporary name, each file and the folder forced to disk, and renamed last. So a folder called
//! `checkpoint-STEP` is complete, whenever the process was killed or the power went. Removal renames first, for the same reason; what may
//! be removed, [`super::folder`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::folder::{self, Kind, OPTIMIZER, PREFIX, STATE};
use super::{plain, sums};
use crate::adapter::AdapterLayout;
use crate::data::Position;
use crate::formats::adapter_file::AdapterFile;
use crate::formats::atomic;
use crate::formats::peft::AdapterTensor;
use crate::plan::autotune::Record;
use crate::{Error, Result};

/// Version 1 had no digests.
pub const FORMAT_VERSION: u32 = 2;

/// Where a run stands. All its randomness is counter-based, so seed and counters are the whole state of its generators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub format_version: u32,
    /// The program and its version.
    pub written_by: String,
    /// Optimizer steps done.
    pub step: u64,
    /// The next batch.
    pub position: Position,
    /// Batches done, the counter of the dropout generator.
    pub batches: u32,
    /// What the numbers of the run depend on, by option; a run with other values is another run.
    pub options: BTreeMap<String, String>,
    /// Digest of the base model's weights; `None` before they are on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_weights: Option<String>,
    /// The moment that dates in the chat template are taken from, in seconds since 1970: records are rendered the same tomorrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_time: Option<i64>,
    /// SHA-256 of the adapter's files that stood in the output folder when the run began or went on, and that it may replace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub may_replace: BTreeMap<String, String>,
    /// With how many ranks the run began: a step has so many times `--gradient-accumulation-steps` batches, whatever number of ranks
    /// goes on with it.
    #[serde(default = "alone", skip_serializing_if = "is_alone")]
    pub ranks: usize,
    /// The kernels that the run computes with; `None` before they are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Record>,
}

impl RunState {
    /// A run that has done nothing yet.
    pub fn start(options: BTreeMap<String, String>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            written_by: concat!("graftling ", env!("CARGO_PKG_VERSION")).to_string(),
            step: 0,
            position: Position::default(),
            batches: 0,
            options,
            base_weights: None,
            template_time: None,
            may_replace: BTreeMap::new(),
            ranks: 1,
            kernels: None,
        }
    }

    /// That a run with these options would go on with the same numbers.
    ///
    /// # Errors
    /// Bad input, naming every option that differs with both values.
    pub fn check_same_run(&self, folder: &Path, options: &BTreeMap<String, String>) -> Result<()> {
        let differences = differences(&self.options, options, |name, then, now| format!("{name} was {then} and is {now}"));
        if differences.is_empty() { Ok(()) } else { Err(another_run(folder, &differences.join("; "))) }
    }

    /// That the weights on the device are those of the run; notes them where it has none yet.
    ///
    /// # Errors
    /// Bad input: they are others.
    pub fn check_base_weights(&mut self, out: &Path, digest: &str) -> Result<()> {
        match &self.base_weights {
            Some(then) if then != digest => {
                Err(another_run(out, &format!("the base model's weights (content) were {then} and are {digest}")))
            }
            _ => {
                self.base_weights = Some(digest.to_string());
                Ok(())
            }
        }
    }
}

/// What two maps of options have otherwise, told by `tell` from the name and both values.
pub(in crate::train) fn differences(
    first: &BTreeMap<String, String>,
    second: &BTreeMap<String, String>,
    tell: impl Fn(&str, &str, &str) -> String,
) -> Vec<String> {
    let value = |of: &BTreeMap<String, String>, name| of.get(name).map_or("nothing".to_string(), String::clone);
    let names: BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let values = names.into_iter().map(|name| (name, value(first, name), value(second, name)));
    values.filter(|(_, one, other)| one != other).map(|(name, one, other)| tell(name, &one, &other)).collect()
}

/// How many ranks a run has that says nothing of them.
fn alone() -> usize {
    1
}

fn is_alone(ranks: &usize) -> bool {
    *ranks == alone()
}

fn another_run(folder: &Path, differences: &str) -> Error {
    let problem = format!("this run has other options than the one in the checkpoint: {differences}");
    let proposal =
        "resume with the options of the checkpoint, or start a new run in another --out (with --init-adapter to build on it)";
    Error::bad_input(folder.display(), problem, proposal)
}

/// A checkpoint in memory. `adapter` and both moments are laid out as [`AdapterLayout`] says.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub state: RunState,
    pub adapter: Vec<f32>,
    /// First and second.
    pub moments: [Vec<f32>; 2],
    /// What the run's start has taken out of the base, see [`AdapterConfig::taken_out`](crate::formats::peft::AdapterConfig::taken_out).
    pub taken_out: Vec<AdapterTensor>,
}

impl Checkpoint {
    /// Writes `out/checkpoint-STEP` and removes all but the newest `keep` checkpoints. Something that has that name already is set
    /// aside, if it is or was a checkpoint.
    ///
    /// # Errors
    /// Failed: the disk is full, the folder cannot be written, or something that is no checkpoint has its name. Earlier checkpoints are
    /// then untouched.
    pub fn save(&self, out: &Path, config: &AdapterFile, layout: &AdapterLayout, keep: usize) -> Result<PathBuf> {
        let folder = out.join(format!("{PREFIX}{}", self.state.step));
        self.write(out, &folder, config, layout).map_err(|error| with_last_good(out, error))?;
        if let Err(error) = folder::remove_old(out, self.state.step, keep) {
            tracing::warn!("cannot remove old checkpoints: {error}");
        }
        Ok(folder)
    }

    fn write(&self, out: &Path, folder: &Path, config: &AdapterFile, layout: &AdapterLayout) -> Result<()> {
        let failed = |error: io::Error| {
            Error::failed(folder.display(), format!("cannot save the checkpoint: {error}"), "check disk space and permissions")
        };
        #[cfg_attr(not(unix), expect(unused_mut))]
        let mut builder = atomic::temporary();
        #[cfg(unix)]
        builder.permissions(atomic::usual_permissions(0o777));
        // Removed when it goes out of scope without having got its name.
        let temporary = builder.tempdir_in(out).map_err(failed)?;
        self.write_files(temporary.path(), config, layout)?;
        let take_name = || -> io::Result<()> {
            atomic::flush_folder(temporary.path())?;
            for found in folder::checkpoints(out)?.iter().filter(|found| found.step == self.state.step) {
                let kept = folder::set_aside(found)?;
                tracing::warn!("{} is now called {}", found.path.display(), kept.display());
            }
            fs::rename(temporary.path(), folder)?;
            atomic::flush_folder(out)
        };
        take_name().map_err(failed)
    }

    fn write_files(&self, folder: &Path, config: &AdapterFile, layout: &AdapterLayout) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::failed(folder.display(), format!("cannot save the checkpoint: {error}"), "check disk space and permissions")
        };
        config.save(folder, &layout.unpack(&self.adapter))?;
        let moments = self.moments.each_ref().map(|moment| layout.unpack(moment));
        let mut views = Vec::new();
        for (name, tensors) in MOMENT_NAMES.iter().zip(&moments) {
            for tensor in tensors {
                let bytes = bytemuck::cast_slice(&tensor.values);
                let view = TensorView::new(Dtype::F32, tensor.shape.to_vec(), bytes).map_err(|error| failed(&error))?;
                views.push((format!("{name}.{}", tensor.name), view));
            }
        }
        let bytes = safetensors::serialize(views, None).map_err(|error| failed(&error))?;
        atomic::write_atomically(&folder.join(OPTIMIZER), &bytes)?;
        let state = serde_json::to_string_pretty(&self.state).map_err(|error| failed(&error))?;
        atomic::write_atomically(&folder.join(STATE), format!("{state}\n").as_bytes())?;
        sums::write(folder, &folder::files(folder))
    }

    /// Reads the checkpoint folder in which `state` was found.
    ///
    /// # Errors
    /// Bad input, naming the file: one is missing or damaged, holds a number that no optimizer makes, or belongs to another adapter than
    /// `layout`.
    pub fn load(folder: &Path, state: RunState, layout: &AdapterLayout) -> Result<Self> {
        let damaged = |name: &str, error: &dyn std::fmt::Display| {
            let proposal = "resume from an earlier checkpoint: move this one away";
            Error::bad_input(folder.join(name).display(), format!("cannot be gone on from: {error}"), proposal)
        };
        sums::verify(folder, &folder::files(folder)).map_err(|problem| damaged("", &problem))?;
        let (_, tensors) = AdapterFile::load(folder)?;
        let place = folder.display().to_string();
        let bytes = plain::read(&folder.join(OPTIMIZER), u64::MAX).map_err(|error| damaged(OPTIMIZER, &error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(OPTIMIZER, &error))?;
        let moment = |name: &str, possible: fn(f32) -> bool| -> Result<Vec<f32>> {
            let mut tensors = Vec::new();
            for tensor in &layout.tensors {
                let of = format!("{name}.{}", tensor.name);
                let view = file.tensor(&of).map_err(|error| damaged(OPTIMIZER, &error))?;
                if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
                    return Err(damaged(OPTIMIZER, &format!("{of} has another type or shape than the adapter")));
                }
                let values: Vec<f32> = bytemuck::pod_collect_to_vec(view.data());
                if let Some(value) = values.iter().find(|value| !possible(**value)) {
                    return Err(damaged(OPTIMIZER, &format!("{of} holds {value}")));
                }
                tensors.push(AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values });
            }
            layout.pack(&place, &tensors)
        };
        // The second is a mean of squares.
        let moments = [moment(MOMENT_NAMES[0], f32::is_finite)?, moment(MOMENT_NAMES[1], |v| v.is_finite() && v >= 0.0)?];
        // A run into whose adapter no gradient ever came has nothing to go on with either.
        if moments[1].iter().all(|value| *value == 0.0) {
            return Err(damaged(OPTIMIZER, &"its moments are all zero"));
        }
        Ok(Self { state, adapter: layout.pack(&place, &tensors)?, moments, taken_out: layout.starts(&tensors) })
    }
}

/// PyTorch's names of AdamW's moments.
const MOMENT_NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The newest checkpoint of a run whose files are as they were written, and where it stands; `None` if there is none.
///
/// # Errors
/// Failed: `out` cannot be listed.
pub fn latest(out: &Path) -> Result<Option<(PathBuf, RunState)>> {
    for found in folder::checkpoints(out).map_err(|error| cannot_list(out, &error))? {
        if let Kind::Checkpoint(state) = found.kind
            && sums::verify(&found.path, &folder::files(&found.path)).is_ok()
        {
            return Ok(Some((found.path, *state)));
        }
    }
    Ok(None)
}

pub(in crate::train) fn cannot_list(out: &Path, error: &io::Error) -> Error {
    Error::failed(out.display(), format!("cannot look for checkpoints: {error}"), "check the folder's permissions")
}

/// Adds to an error what the user can go on from.
pub(in crate::train) fn with_last_good(out: &Path, error: Error) -> Error {
    match (error, latest(out)) {
        (Error::Failed { place, problem, proposal }, Ok(Some((folder, _)))) => {
            let proposal = format!("{proposal} The last good checkpoint is {}; go on from it with --resume.", folder.display());
            Error::Failed { place, problem, proposal }
        }
        (error, _) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::Placement;
    use crate::architecture::Architecture;
    use crate::formats::adapter_hub::BottleneckConfig;
    use crate::formats::peft::AdapterConfig;
    use crate::train::keep::folder::FILES;

    fn layout() -> (AdapterFile, AdapterLayout) {
        let adapter = AdapterConfig { r: 3, target_modules: vec!["q_proj".into(), "v_proj".into()], ..AdapterConfig::default() };
        layout_of(AdapterFile::Peft(adapter))
    }

    fn layout_of(adapter: AdapterFile) -> (AdapterFile, AdapterLayout) {
        let config = Architecture::from_json_str(
            r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":8,"hidden_size":4,"intermediate_size":8,
                "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"rms_norm_eps":1e-5,
                "max_position_embeddings":16,"tie_word_embeddings":true}"#,
        )
        .unwrap();
        let layout = AdapterLayout::new(&Placement::of_file("test", &adapter, &config).unwrap());
        (adapter, layout)
    }

    fn checkpoint(step: u64, layout: &AdapterLayout) -> Checkpoint {
        let of = |salt: u64| {
            let mut tensors = layout.unpack(&vec![0.0; layout.elements()]);
            let mut at = step * 1000 + salt;
            tensors.iter_mut().flat_map(|tensor| &mut tensor.values).for_each(|value| {
                at += 1;
                *value = 1.0 / at as f32;
            });
            layout.pack("test", &tensors).unwrap()
        };
        let mut state = RunState::start(BTreeMap::from([("seed".to_string(), "0".to_string())]));
        state.step = step;
        state.position = Position { epoch: 1, index: step as usize };
        Checkpoint { state, adapter: of(1), moments: [of(2), of(3)], taken_out: Vec::new() }
    }

    #[test]
    fn what_is_saved_comes_back_bit_by_bit_and_old_ones_go() {
        saved_and_removed(layout());
        saved_and_removed(layout_of(AdapterFile::AdapterHub(BottleneckConfig::houlsby())));
    }

    fn saved_and_removed((config, layout): (AdapterFile, AdapterLayout)) {
        let out = tempfile::tempdir().unwrap();
        for step in [5, 10, 15] {
            checkpoint(step, &layout).save(out.path(), &config, &layout, 2).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["checkpoint-10", "checkpoint-15"]);
        let (folder, state) = latest(out.path()).unwrap().unwrap();
        assert_eq!(state.step, 15);
        assert_eq!(Checkpoint::load(&folder, state, &layout).unwrap(), checkpoint(15, &layout));
    }

    #[test]
    fn incomplete_folders_are_passed_over_and_leftovers_removed() {
        let out = tempfile::tempdir().unwrap();
        let (config, layout) = layout();
        assert_eq!(latest(out.path()).unwrap(), None);
        for step in [1, 2, 3] {
            checkpoint(step, &layout).save(out.path(), &config, &layout, 9).unwrap();
        }
        fs::remove_file(out.path().join("checkpoint-3").join(OPTIMIZER)).unwrap();
        fs::write(out.path().join("checkpoint-2").join(STATE), "{\"format_version\":1,").unwrap();
        fs::create_dir(out.path().join("checkpoint-7")).unwrap();
        let half = ".graftling-tmp-0123456789ab";
        fs::create_dir(out.path().join(half)).unwrap();
        fs::write(out.path().join(half).join(STATE), "half").unwrap();
        fs::create_dir(out.path().join(".graftling-tmp-notes")).unwrap();
        fs::create_dir(out.path().join(".graftling-tmp-aaaaaaaaaaaa")).unwrap();
        fs::write(out.path().join(".graftling-tmp-aaaaaaaaaaaa/mine"), "the user's").unwrap();
        folder::remove_leftovers(out.path()).unwrap();
        assert!(!out.path().join(half).exists() && out.path().join(".graftling-tmp-notes").exists());
        assert!(out.path().join(".graftling-tmp-aaaaaaaaaaaa/mine").exists(), "what is not ours stays");
        assert_eq!(latest(out.path()).unwrap().unwrap().1.step, 1);
        // A damaged one of the same step is set aside.
        checkpoint(3, &layout).save(out.path(), &config, &layout, 9).unwrap();
        assert_eq!(latest(out.path()).unwrap().unwrap().1.step, 3);
        assert!(out.path().join("damaged-checkpoint-3").join(STATE).exists());
    }

    /// Each file in turn, zeroed from its middle on, cut to nothing, and with one bit changed in its middle.
    #[test]
    fn damage_of_any_file_is_seen() {
        let out = tempfile::tempdir().unwrap();
        let (config, layout) = layout();
        let folder = checkpoint(4, &layout).save(out.path(), &config, &layout, 9).unwrap();
        let state = latest(out.path()).unwrap().unwrap().1;
        for name in FILES {
            let path = folder.join(name);
            let whole = fs::read(&path).unwrap();
            let half = whole.len() / 2;
            let mut zeroed = whole.clone();
            zeroed[half..].fill(0);
            let mut flipped = whole.clone();
            flipped[half] ^= 1;
            for damaged in [zeroed, Vec::new(), flipped] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(latest(out.path()).unwrap(), None, "{name}");
                assert!(Checkpoint::load(&folder, state.clone(), &layout).is_err(), "{name}");
            }
            fs::write(&path, whole).unwrap();
        }
        assert_eq!(latest(out.path()).unwrap().unwrap().1, state);
    }

    #[test]
    fn moments_that_no_optimizer_makes_are_refused_even_with_right_digests() {
        let out = tempfile::tempdir().unwrap();
        let (config, layout) = layout();
        for (which, value) in [(0, f32::NAN), (0, f32::INFINITY), (1, f32::NEG_INFINITY), (1, -1.0)] {
            let mut bad = checkpoint(4, &layout);
            bad.moments[which][0] = value;
            let folder = bad.save(out.path(), &config, &layout, 9).unwrap();
            let error = Checkpoint::load(&folder, bad.state, &layout).unwrap_err().to_string();
            assert!(error.contains(OPTIMIZER) && error.contains(&value.to_string()), "{error}");
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn other_base_weights_are_refused_by_name() {
        let mut state = RunState::start(BTreeMap::new());
        state.check_base_weights(Path::new("out"), "a").unwrap();
        state.check_base_weights(Path::new("out"), "a").unwrap();
        let error = state.check_base_weights(Path::new("out"), "b").unwrap_err();
        assert!(error.to_string().contains("the base model's weights (content) were a and are b"), "{error}");
    }

    #[test]
    fn another_run_is_refused_by_the_names_of_its_options() {
        let (_, layout) = layout();
        let state = checkpoint(1, &layout).state;
        let other = BTreeMap::from([("seed".to_string(), "1".to_string()), ("max_steps".to_string(), "9".to_string())]);
        let error = state.check_same_run(Path::new("out"), &other).unwrap_err();
        assert!(error.to_string().contains("max_steps was nothing and is 9; seed was 0 and is 1"), "{error}");
        assert_eq!(error.exit_code(), 2);
        state.check_same_run(Path::new("out"), &state.options.clone()).unwrap();
    }
}
