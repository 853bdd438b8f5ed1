//! Files from strangers: whatever the bytes, the answer is what the file holds or one error; never a panic, never a wait without end,
//! and memory stays within a small multiple of the file's size.
//!
//! Each target reads one kind of file. Its inputs are sound files, damaged in ways that know their structure ([`mutate`]), and the
//! findings of earlier campaigns in `tests/fixtures/hostile/TARGET/`, which are read first.
//!
//! `GRAFTLING_FUZZ=100000` sets the number of inputs of each target (default 400), `GRAFTLING_FUZZ_FIRST` the number of the first:
//! the number of an input gives the input again.

mod allocator;
mod bombs;
mod gguf_fields;
#[path = "../files/gguf_file.rs"]
#[allow(dead_code)]
mod gguf_file;
mod mutate;
#[path = "../common/program.rs"]
mod program;
mod random;
mod seeds;
mod targets;
#[path = "../files/tiny.rs"]
#[allow(dead_code)]
mod tiny;
mod words;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use random::Random;
use targets::Target;

#[global_allocator]
static ALLOCATOR: allocator::Counting = allocator::Counting;

/// A case that takes longer ends the process. Sound files of this size take milliseconds; the machine may be busy.
const LONGEST: Duration = Duration::from_secs(60);

/// What is being read, since when.
static CURRENT: Mutex<Option<(String, Instant)>> = Mutex::new(None);

thread_local! {
    /// Message and place of the last panic of this thread.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Only one input is read at a time, so that its memory can be counted over all threads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(watch);
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANIC.with_borrow_mut(|text| *text = panic.to_string());
            if current().is_none() {
                report(panic);
            }
        }));
    });
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn current() -> MutexGuard<'static, Option<(String, Instant)>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if let Some((what, since)) = &*current()
            && since.elapsed() > LONGEST
        {
            eprintln!("{what}: not read within {LONGEST:?}");
            std::process::abort();
        }
    }
}

fn number_from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Where an input is put before it is read: it is still there when the process is killed.
fn kept(target: &Target, what: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
        fs::create_dir_all(&folder).unwrap();
        folder
    });
    folder.join(format!("{}-{what}", target.name))
}

/// Reads one input. How long it took, or what went wrong.
fn read(target: &Target, what: &str, scratch: &Path, input: &[u8]) -> Result<Duration, String> {
    let file = kept(target, "current");
    fs::write(&file, input).unwrap();
    *current() = Some((format!("{} {what} ({})", target.name, file.display()), Instant::now()));
    let (outcome, peak) = allocator::peak_bytes(|| catch_unwind(AssertUnwindSafe(|| (target.read)(scratch, input))));
    let took = current().take().map_or(Duration::ZERO, |(_, since)| since.elapsed());
    if outcome.is_err() {
        return Err(PANIC.with_borrow_mut(std::mem::take));
    }
    let most = target.base + target.multiple * input.len();
    if peak > most {
        return Err(format!("took {peak} bytes of memory for an input of {}, more than {most}", input.len()));
    }
    Ok(took)
}

/// Reads the findings of earlier campaigns, then so many new inputs.
fn campaign(name: &str) {
    let _alone = alone();
    let target = targets::ALL.iter().find(|target| target.name == name).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let seeds = (target.seeds)();
    let mut wrong: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let mut slowest = (Duration::ZERO, String::new());
    let mut note = |what: &str, input: &[u8], outcome: Result<Duration, String>| {
        let problem = match outcome {
            Ok(took) => return slowest = slowest.clone().max((took, what.to_string())),
            Err(problem) => problem,
        };
        // One example of each kind: the place of a panic, or the first words.
        let kind: String = problem.lines().next().unwrap_or_default().chars().filter(|c| !c.is_ascii_digit()).collect();
        let entry = wrong.entry(kind).or_insert_with(|| {
            let file = kept(target, what);
            fs::write(&file, input).unwrap();
            (0, format!("{problem}\n    {}", file.display()))
        });
        entry.0 += 1;
    };
    for (index, seed) in seeds.iter().enumerate() {
        note(&format!("seed-{index}"), seed, read(target, "sound", scratch.path(), seed));
    }
    let findings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hostile").join(name);
    let mut findings: Vec<PathBuf> = fs::read_dir(findings).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    findings.sort();
    for path in findings {
        let input = fs::read(&path).unwrap();
        let file_name = path.file_name().unwrap().to_string_lossy().into_owned();
        note(&format!("again-{file_name}"), &input, read(target, &file_name, scratch.path(), &input));
    }
    let first = number_from_environment("GRAFTLING_FUZZ_FIRST", 0);
    let count = number_from_environment("GRAFTLING_FUZZ", 400);
    let started = Instant::now();
    for number in first..first + count {
        allocator::NUMBER.store(number, Ordering::Relaxed);
        let mut random = Random(number);
        let input = mutate::mutated(&mut random, &seeds, target.structure, target.words);
        note(&number.to_string(), &input, read(target, &number.to_string(), scratch.path(), &input));
    }
    let (took, of) = slowest;
    eprintln!("{name}: {count} inputs from {first} in {:.0?}, the slowest ({of}) in {took:.1?}", started.elapsed());
    let report: Vec<String> = wrong.values().map(|(count, text)| format!("{count} times: {text}")).collect();
    assert!(report.is_empty(), "{name}:\n{}", report.join("\n"));
}

macro_rules! campaigns {
    ($($name:ident),* $(,)?) => {
        $(#[test] fn $name() { campaign(stringify!($name)); })*

        #[test]
        fn every_target_is_tested() {
            let tested = [$(stringify!($name)),*];
            assert!(targets::ALL.iter().map(|target| target.name).eq(tested));
        }
    };
}

campaigns!(
    safetensors,
    safetensors_index,
    pytorch,
    quantised,
    quantised_config,
    gguf,
    config,
    adapter_config,
    adapter_tensors,
    tokenizer,
    tokenizer_config,
    chat_template,
    data,
    recipe,
    run_state,
    optimizer_state,
    metrics,
);
