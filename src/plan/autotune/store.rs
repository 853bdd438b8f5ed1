//! Measured choices on disk: one file a device, in the cache folder, as JSON that a person can read.
//!
//! What is in it is kept: a class that was decided once stays decided, so that the same command gives the same numbers from run to run, to
//! the last bit. Delete the file to measure again. A file that is damaged, of another device, driver or version, or that cannot be written
//! costs a new measurement and nothing else. Two processes may measure at once: the one that writes first decides.

use crate::files;
use crate::gpu::Device;
use crate::kernel::Class;
use crate::ops::matmul::fingerprint;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// All that a measurement depends on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subject {
    pub adapter: String,
    /// PCI numbers, as the driver gives them.
    pub vendor: u32,
    pub device: u32,
    pub backend: String,
    pub driver: String,
    pub driver_info: String,
    /// Hash of matmul's kernels, their forms and the version of graftling.
    pub kernels: String,
}

impl Subject {
    pub fn of(device: &Device) -> Self {
        let info = &device.info;
        Self {
            adapter: info.name.clone(),
            vendor: info.vendor,
            device: info.device,
            backend: info.backend.to_string(),
            driver: info.driver.clone(),
            driver_info: info.driver_info.clone(),
            kernels: fingerprint(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { adapter, vendor, device, backend, driver, driver_info, kernels } = self;
        write!(f, "{adapter} ({vendor:x}:{device:x}), {backend}, {driver} {driver_info}, kernels {kernels}")
    }
}

/// The decision for one class.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub choice: String,
    /// Median of one product, by candidate; empty where there was no time to measure, so that the fixed rule stays.
    pub nanoseconds: BTreeMap<String, u64>,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Contents {
    about: String,
    subject: Subject,
    classes: BTreeMap<String, Entry>,
}

const ABOUT: &str =
    "The matmul kernels that graftling measured to be the fastest on this device. Delete this file to measure again.";

/// Larger files are none of ours.
const MOST_BYTES: u64 = 4 << 20;

/// The decisions for one device.
pub(super) struct Store {
    path: PathBuf,
    subject: Subject,
    classes: BTreeMap<String, Entry>,
}

impl Store {
    /// Opens the device's file in `folder`, which need not exist yet.
    pub(super) fn open(folder: &Path, subject: Subject) -> Self {
        let path = folder.join(file_name(&subject));
        let classes = read(&path, &subject);
        Self { path, subject, classes }
    }

    pub(super) fn get(&self, class: &Class) -> Option<&Entry> {
        self.classes.get(&class.to_string())
    }

    /// Adds decisions and writes the file. What another process wrote meanwhile is kept, and wins if `valid` holds for it.
    pub(super) fn add(&mut self, decided: Vec<(Class, Entry)>, valid: impl Fn(&Class, &Entry) -> bool) {
        let others = read(&self.path, &self.subject);
        self.classes.extend(others);
        for (class, entry) in decided {
            let name = class.to_string();
            if self.classes.get(&name).is_none_or(|known| !valid(&class, known)) {
                self.classes.insert(name, entry);
            }
        }
        if let Err(problem) = self.write() {
            let path = self.path.display();
            tracing::warn!("the choice of kernels cannot be kept in {path}, so every run measures anew: {problem}");
        }
    }

    fn write(&self) -> std::io::Result<()> {
        let contents = Contents { about: ABOUT.to_string(), subject: self.subject.clone(), classes: self.classes.clone() };
        let text = serde_json::to_string_pretty(&contents)? + "\n";
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        // A name of its own until it is whole: another process may write at the same time.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(&self.path)?;
        Ok(())
    }
}

/// `tuning-ADAPTER-HASH.json`, where the hash is of the whole subject.
fn file_name(subject: &Subject) -> String {
    use sha2::{Digest, Sha256};
    let plain: String = (subject.adapter.chars())
        .map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' })
        .take(40)
        .collect();
    let words: Vec<&str> = plain.split('-').filter(|word| !word.is_empty()).collect();
    let hash: String = Sha256::digest(subject.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("tuning-{}-{hash}.json", words.join("-"))
}

/// The decisions in a file; none if there is no file, or not one of this subject.
fn read(path: &Path, subject: &Subject) -> BTreeMap<String, Entry> {
    let Ok(file) = files::open(path) else { return BTreeMap::new() };
    let mut text = String::new();
    let problem = match file.take(MOST_BYTES).read_to_string(&mut text) {
        Err(error) => error.to_string(),
        Ok(_) => match serde_json::from_str::<Contents>(&text) {
            Err(error) => error.to_string(),
            Ok(contents) if contents.subject != *subject => "it is of another device, driver or version".to_string(),
            Ok(contents) => return contents.classes,
        },
    };
    tracing::warn!("{} is ignored and made anew: {problem}", path.display());
    BTreeMap::new()
}
