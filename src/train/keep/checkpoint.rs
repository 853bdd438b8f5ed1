//! Checkpoints: everything that a run needs to go on as if it had never stopped.
//!
//! `OUT/checkpoint-STEP/` holds
//!
//! | file | content |
//! |---|---|
//! | `adapter_config.json`, `adapter_model.safetensors` | the adapter, a PEFT folder as any other |
//! | `optimizer.safetensors` | AdamW's moments: `exp_avg.NAME` and `exp_avg_sq.NAME`, f32, named and shaped as the adapter's matrices |
//! | `state.json` | [`RunState`] |
//!
//! A checkpoint is written under a temporary name, each file and the folder forced to disk, and renamed last. So a folder called
//! `checkpoint-STEP` is complete, whenever the process was killed or the power went. Removal renames first, for the same reason.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::adapter::AdapterLayout;
use crate::data::Position;
use crate::files;
use crate::formats::atomic;
use crate::formats::peft::{self, AdapterConfig, AdapterTensor};
use crate::plan::autotune::Record;
use crate::{Error, Result};

const FORMAT_VERSION: u32 = 1;
const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";
const PREFIX: &str = "checkpoint-";
/// Names that begin so are what a killed process left half-written or half-removed.
const TEMPORARY_PREFIX: &str = ".graftling-tmp-";

/// Where a run stands. All its randomness is counter-based, so seed and counters are the whole state of its generators.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    pub format_version: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// The next batch.
    pub position: Position,
    /// Batches done, the counter of the dropout generator.
    pub batches: u32,
    /// What the numbers of the run depend on, by option; a run with other values is another run.
    pub options: BTreeMap<String, String>,
    /// The kernels that the run computes with; `None` in runs from before kernels were tuned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Record>,
}

impl RunState {
    /// A run that has done nothing yet.
    pub fn start(options: BTreeMap<String, String>) -> Self {
        Self { format_version: FORMAT_VERSION, step: 0, position: Position::default(), batches: 0, options, kernels: None }
    }

    /// That a run with these options would go on with the same numbers.
    ///
    /// # Errors
    /// Bad input, naming every option that differs with both values.
    pub fn check_same_run(&self, folder: &Path, options: &BTreeMap<String, String>) -> Result<()> {
        let none = "nothing".to_string();
        let names: std::collections::BTreeSet<&String> = self.options.keys().chain(options.keys()).collect();
        let differences: Vec<String> = (names.into_iter())
            .filter_map(|name| {
                let (then, now) = (self.options.get(name).unwrap_or(&none), options.get(name).unwrap_or(&none));
                (then != now).then(|| format!("{name} was {then} and is {now}"))
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!("this run has other options than the one in the checkpoint: {}", differences.join("; "));
        let proposal =
            "resume with the options of the checkpoint, or start a new run in another --out (with --init-adapter to build on it)";
        Err(Error::bad_input(folder.display(), problem, proposal))
    }
}

/// A checkpoint in memory. `adapter` and both moments are laid out as [`AdapterLayout`] says.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    pub state: RunState,
    pub adapter: Vec<f32>,
    /// First and second.
    pub moments: [Vec<f32>; 2],
}

impl Checkpoint {
    /// Writes `out/checkpoint-STEP` and removes all but the newest `keep` checkpoints.
    ///
    /// # Errors
    /// Failed: the disk is full, or the folder cannot be written. Earlier checkpoints are then untouched.
    pub fn save(&self, out: &Path, config: &AdapterConfig, layout: &AdapterLayout, keep: usize) -> Result<PathBuf> {
        let name = format!("{PREFIX}{}", self.state.step);
        let folder = out.join(&name);
        if read_state(&folder).is_ok_and(|state| state == self.state) {
            return Ok(folder);
        }
        let temporary = out.join(format!("{TEMPORARY_PREFIX}{name}"));
        let written = self.write_into(&temporary, config, layout).and_then(|()| {
            let replaced = replace_folder(out, &temporary, &folder);
            replaced.map_err(|error| {
                Error::failed(folder.display(), format!("cannot save: {error}"), "check the folder's permissions")
            })
        });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&temporary); // the error that matters is the one above
            return Err(with_last_good(out, error));
        }
        if let Err(error) = remove_old(out, keep) {
            tracing::warn!("cannot remove old checkpoints: {error}");
        }
        Ok(folder)
    }

    fn write_into(&self, folder: &Path, config: &AdapterConfig, layout: &AdapterLayout) -> Result<()> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::failed(folder.display(), format!("cannot save the checkpoint: {error}"), "check disk space and permissions")
        };
        if folder.exists() {
            fs::remove_dir_all(folder).map_err(|error| failed(&error))?;
        }
        fs::create_dir(folder).map_err(|error| failed(&error))?;
        peft::save_adapter(folder, config, &layout.unpack(&self.adapter))?;
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
        atomic::write_atomically(&folder.join(STATE), format!("{state}\n").as_bytes())
    }

    /// Reads a checkpoint folder.
    ///
    /// # Errors
    /// Bad input, naming the file: one is missing or damaged, or belongs to another adapter than `layout`.
    pub fn load(folder: &Path, layout: &AdapterLayout) -> Result<Self> {
        let state = read_state(folder)?;
        let (_, tensors) = peft::load_adapter(folder)?;
        let place = folder.display().to_string();
        let path = folder.join(OPTIMIZER);
        let damaged = |error: &dyn std::fmt::Display| {
            let proposal = "remove this checkpoint's folder and resume from the one before";
            Error::bad_input(path.display(), format!("cannot read the optimizer's state: {error}"), proposal)
        };
        let bytes = files::read(&path, files::ANY).map_err(|error| damaged(&error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&error))?;
        let moment = |name: &str| -> Result<Vec<f32>> {
            let mut tensors = Vec::new();
            for tensor in &layout.tensors {
                let view = file.tensor(&format!("{name}.{}", tensor.name)).map_err(|error| damaged(&error))?;
                if view.dtype() != Dtype::F32 || view.shape() != tensor.shape {
                    return Err(damaged(&format!("{name}.{} has another type or shape than the adapter", tensor.name)));
                }
                let values = bytemuck::pod_collect_to_vec(view.data());
                tensors.push(AdapterTensor { name: tensor.name.clone(), shape: tensor.shape, values });
            }
            layout.pack(&place, &tensors)
        };
        let moments = [moment(MOMENT_NAMES[0])?, moment(MOMENT_NAMES[1])?];
        Ok(Self { state, adapter: layout.pack(&place, &tensors)?, moments })
    }
}

/// PyTorch's names of AdamW's moments.
const MOMENT_NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The newest checkpoint of a run and where it stands; `None` if there is none yet. Folders that no checkpoint can be read from
/// (a copy that was cut short, say) are passed over with a warning.
///
/// # Errors
/// Failed: `out` cannot be listed.
pub fn latest(out: &Path) -> Result<Option<(PathBuf, RunState)>> {
    for (step, folder) in all(out).map_err(|error| cannot_list(out, &error))? {
        match read_state(&folder) {
            Ok(state) if state.step == step => return Ok(Some((folder, state))),
            Ok(state) => tracing::warn!("{} is passed over: its state.json is of step {}", folder.display(), state.step),
            Err(error) => tracing::warn!("{} is passed over: {error}", folder.display()),
        }
    }
    Ok(None)
}

/// Removes what a killed process left half-written in `out`.
///
/// # Errors
/// Failed: `out` cannot be listed or written.
pub fn remove_leftovers(out: &Path) -> Result<()> {
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(out)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    };
    remove().map_err(|error| cannot_list(out, &error))
}

fn cannot_list(out: &Path, error: &io::Error) -> Error {
    Error::failed(out.display(), format!("cannot look for checkpoints: {error}"), "check the folder's permissions")
}

/// All checkpoint folders with their steps, the newest first.
fn all(out: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        let step = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u64>().ok());
        found.extend(step.map(|step| (step, entry.path())));
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Reads `state.json` and sees that the other files are there.
fn read_state(folder: &Path) -> Result<RunState> {
    let incomplete =
        |problem: String| Error::bad_input(folder.display(), problem, "remove this folder; an earlier checkpoint will do");
    let path = folder.join(STATE);
    let text = files::read_to_string(&path, files::DESCRIPTION)
        .map_err(|error| incomplete(format!("{STATE} cannot be read: {error}")))?;
    let state: RunState = serde_json::from_str(&text).map_err(|error| incomplete(format!("{STATE} is damaged: {error}")))?;
    if state.format_version != FORMAT_VERSION {
        let problem =
            format!("the checkpoint has format version {}, this graftling reads {FORMAT_VERSION}", state.format_version);
        return Err(Error::bad_input(folder.display(), problem, "resume with the graftling that wrote it"));
    }
    for name in [OPTIMIZER, "adapter_config.json", "adapter_model.safetensors"] {
        if !folder.join(name).is_file() {
            return Err(incomplete(format!("{name} is missing")));
        }
    }
    Ok(state)
}

/// Puts `temporary` in the place of `folder`, which may exist.
fn replace_folder(out: &Path, temporary: &Path, folder: &Path) -> io::Result<()> {
    sync_folder(temporary)?;
    if folder.exists() {
        remove_folder(out, folder)?;
    }
    fs::rename(temporary, folder)?;
    sync_folder(out)
}

/// Removes a checkpoint: first its name, then its files.
fn remove_folder(out: &Path, folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let removed = out.join(format!("{TEMPORARY_PREFIX}old-{name}"));
    if removed.exists() {
        fs::remove_dir_all(&removed)?;
    }
    fs::rename(folder, &removed)?;
    fs::remove_dir_all(&removed)
}

fn remove_old(out: &Path, keep: usize) -> io::Result<()> {
    all(out)?.into_iter().skip(keep).try_for_each(|(_, folder)| remove_folder(out, &folder))
}

/// Forces the names in `folder` to disk, so that a rename outlasts a power cut. (Windows has no such call; NTFS journals it.)
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
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
    use crate::adapter::LoraSpec;
    use crate::architecture::Architecture;

    fn layout() -> (AdapterConfig, AdapterLayout) {
        let config = Architecture::from_json_str(
            r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":8,"hidden_size":4,"intermediate_size":8,
                "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"rms_norm_eps":1e-5,
                "max_position_embeddings":16,"tie_word_embeddings":true}"#,
        )
        .unwrap();
        let adapter = AdapterConfig { r: 3, target_modules: vec!["q_proj".into(), "v_proj".into()], ..AdapterConfig::default() };
        let spec = LoraSpec::from_peft("test", &adapter, &config).unwrap();
        let layout = AdapterLayout::new(&spec, &config);
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
        Checkpoint { state, adapter: of(1), moments: [of(2), of(3)] }
    }

    #[test]
    fn what_is_saved_comes_back_bit_by_bit_and_old_ones_go() {
        let out = tempfile::tempdir().unwrap();
        let (config, layout) = layout();
        for step in [5, 10, 15] {
            checkpoint(step, &layout).save(out.path(), &config, &layout, 2).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["checkpoint-10", "checkpoint-15"]);
        let (folder, state) = latest(out.path()).unwrap().unwrap();
        assert_eq!(state.step, 15);
        assert_eq!(Checkpoint::load(&folder, &layout).unwrap(), checkpoint(15, &layout));
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
        fs::create_dir(out.path().join(".graftling-tmp-checkpoint-9")).unwrap();
        fs::write(out.path().join(".graftling-tmp-checkpoint-9").join(STATE), "half").unwrap();
        remove_leftovers(out.path()).unwrap();
        assert!(!out.path().join(".graftling-tmp-checkpoint-9").exists());
        assert_eq!(latest(out.path()).unwrap().unwrap().1.step, 1);
        // A damaged one of the same step is replaced.
        checkpoint(3, &layout).save(out.path(), &config, &layout, 9).unwrap();
        assert_eq!(latest(out.path()).unwrap().unwrap().1.step, 3);
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
