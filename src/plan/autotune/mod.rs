//! The choice of matmul kernels by measurement on the device.
//!
//! Which tile is fastest depends on the GPU, and no rule knows them all. So before a model's graphs are put on a device, each class of
//! products in them ([`Class`]) is timed once, with every kernel that suits it, and the choice is kept in the cache folder. Classes with less
//! than [`LEAST_SHARE`] of the estimated time are left to the fixed rule, and so are those for which the [`BUDGET`] does not last.
//!
//! * `collect`: the products of the graphs;
//! * `race`: candidates timed against each other;
//! * `store`: choices on disk.
//!
//! **Same numbers in every run.** Kernels may add in another order, and then differ in the last bits. So a decision, once on disk, is kept,
//! and a training run records its own ([`Record`]) in its checkpoints: resumed, it takes these and no others. Which classes are tuned
//! depends on the graphs alone, never on a clock. Of the forms, all but `narrow` and `matvec` (their lanes lie along k) and `general` give the
//! same bits as each other wherever the driver computes `fma` as written; `tests/kernel_variants.rs` shows it for the driver at hand.
//!
//! **Memory.** Tune before weights are uploaded: the operands of one product, which is all that is ever held, are a part of what the
//! graphs need anyway.

mod collect;
mod race;
mod store;

pub use store::{Entry, Subject};

use crate::gpu::{Device, lock};
use crate::graph::Graph;
use crate::kernel::{Arithmetic, Class, Kernel, Tuning};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use store::Store;

/// Time for all measurements of a process: no further one is begun after it, so that the whole stays below 15 s.
pub const BUDGET: Duration = Duration::from_secs(10);
/// A kernel that takes longer to compile keeps its other forms out of the race.
const SLOW_TO_COMPILE: Duration = Duration::from_secs(3);
/// Classes with a smaller share of the time, as [`Class::work`] estimates it, are not worth a measurement.
pub const LEAST_SHARE: f64 = 0.005;

/// The choices with which a run computes, so that it can be continued with the same.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The device, driver and kernels for which they were made.
    pub subject: String,
    /// Id of the form, by class.
    pub choices: BTreeMap<String, String>,
}

impl Record {
    /// Of the kinds of products that [`Arithmetic::Auto`] left to measurement, how many matrix units compute, and how many there are.
    pub fn on_matrix_units(&self) -> [usize; 2] {
        let left = format!(" ({})", Arithmetic::Auto.name());
        let kinds = self.choices.iter().filter(|(class, _)| class.ends_with(&left));
        let on_matrices = kinds.clone().filter(|(_, id)| id.starts_with(Arithmetic::Cooperative.name()));
        [on_matrices.count(), kinds.count()]
    }
}

/// Where choices come from.
pub struct Sources<'a> {
    /// False: neither measurement nor cache, the fixed rule.
    pub measure: bool,
    /// Folder of the cache; `None` where there is none.
    pub folder: Option<PathBuf>,
    /// What the run that is continued computed with.
    pub recorded: Option<&'a Record>,
    /// Time for all measurements, compilation of kernels included; half of it may go into compilation. [`BUDGET`] is enough for most.
    pub budget: Duration,
    /// Told how much is done and how much there is to do.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// How the form of a class was decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decided {
    /// Measured now.
    Now,
    /// Found in the cache.
    Before,
    /// There was no time: the fixed rule.
    OutOfTime,
}

/// The form of a class.
#[derive(Clone, PartialEq, Debug)]
pub struct Choice {
    pub class: Class,
    /// Of the estimated time of all products.
    pub share: f64,
    /// What the device would take without tuning.
    pub rule: &'static str,
    pub decided: Decided,
    pub entry: Entry,
}

/// What was decided for a device and the graphs that it is to compute.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What the graphs' executables are to be made with.
    pub tuning: Tuning,
    /// What was chosen by measurement, now or before.
    pub choices: Vec<Choice>,
    /// What a run has to record.
    pub record: Record,
}

/// Decides which kernels `device` should use for these graphs.
pub fn tune(device: &Device, graphs: &[Graph], sources: &Sources) -> Decision {
    let subject = Subject::of(device);
    let mut classes = collect::classes(graphs, device);
    if let Some(record) = sources.recorded {
        if record.subject != subject.to_string() {
            let before = &record.subject;
            tracing::warn!("the run so far was made on {before}; this is {subject}: results may differ in the last bits");
        } else if sources.measure {
            let tuning = recorded(device, &classes, record);
            return Decision { tuning, choices: Vec::new(), record: record.clone() };
        } else if !record.choices.is_empty() {
            tracing::warn!("the run so far used tuned kernels; without them results may differ in the last bits");
        }
    }
    if !sources.measure {
        let record = Record { subject: subject.to_string(), choices: BTreeMap::new() };
        return Decision { tuning: Tuning::NONE, choices: Vec::new(), record };
    }
    classes.retain(|(class, share)| *share >= LEAST_SHARE && class.candidates(&device.facts).len() > 1);
    let mut store = sources.folder.as_ref().map(|folder| Store::open(folder, subject.clone()));
    let valid = |class: &Class, entry: &Entry| class.candidates(&device.facts).contains(&entry.choice.as_str());
    let kept = |store: &Option<Store>, class: &Class| {
        store.as_ref().and_then(|store| store.get(class)).filter(|entry| valid(class, entry)).cloned()
    };
    let unknown: Vec<Class> = classes.iter().map(|(class, _)| *class).filter(|class| kept(&store, class).is_none()).collect();
    let measured = if unknown.is_empty() { HashMap::new() } else { measure(device, &unknown, sources) };
    if let Some(store) = store.as_mut().filter(|_| !measured.is_empty()) {
        let decided = measured.iter().map(|(class, entry)| (*class, entry.clone())).collect();
        store.add(decided, valid);
    }
    let choices: Vec<Choice> = classes
        .iter()
        .filter_map(|&(class, share)| {
            let entry = kept(&store, &class).or_else(|| measured.get(&class).cloned())?;
            let decided = match measured.get(&class) {
                None => Decided::Before,
                Some(_) if entry.nanoseconds.is_empty() => Decided::OutOfTime,
                Some(_) => Decided::Now,
            };
            Some(Choice { class, share, rule: class.candidates(&device.facts)[0], decided, entry })
        })
        .collect();
    choices.iter().for_each(|choice| say(&choice.class, choice.rule, &choice.entry.choice, "measured"));
    let by_class = choices.iter().map(|choice| (choice.class, choice.entry.choice.clone()));
    let tuning = Tuning::new(by_class.clone().collect());
    if !measured.is_empty() {
        device.keep_pipelines(&collect::kernels(graphs, device, &tuning));
    }
    let choices_by_name = by_class.map(|(class, id)| (class.to_string(), id)).collect();
    Decision { tuning, choices, record: Record { subject: subject.to_string(), choices: choices_by_name } }
}

/// The table of a record. A class that is not in it was left to the rule.
fn recorded(device: &Device, classes: &[(Class, f64)], record: &Record) -> Tuning {
    let mut choices = HashMap::new();
    for (class, _) in classes {
        let Some(id) = record.choices.get(&class.to_string()) else { continue };
        if class.candidates(&device.facts).contains(&id.as_str()) {
            say(class, class.candidates(&device.facts)[0], id, "as the run so far");
            choices.insert(*class, id.clone());
        } else {
            tracing::warn!("the run so far used `{id}` for {class}, which is not there: results may differ in the last bits");
        }
    }
    Tuning::new(choices)
}

fn say(class: &Class, rule: &str, id: &str, why: &str) {
    if id != rule {
        tracing::info!("{class}: {id} instead of {rule}, {why}");
    }
}

/// Times these classes, the first ones first. One that cannot be timed has the rule's form and no figures.
fn measure(device: &Device, classes: &[Class], sources: &Sources) -> HashMap<Class, Entry> {
    let started = Instant::now();
    let candidates: Vec<Vec<&'static str>> = classes.iter().map(|class| class.candidates(&device.facts)).collect();
    let jobs = jobs(device, classes, &candidates);
    let total = jobs.len() + classes.len();
    let done = AtomicUsize::new(0);
    let step = || (sources.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
    let ready = compile(device, &jobs, started + sources.budget / 2, &step);
    let clock = race::Clock::new(device).inspect_err(|error| tracing::warn!("no kernels are timed: {error}")).ok();
    let timed = classes.iter().zip(&candidates).map(|(class, candidates)| {
        let runners: Vec<&'static str> =
            candidates.iter().copied().filter(|&id| ready.contains(&Job::new(device, class, id, false).key())).collect();
        let outcome = match &clock {
            Some(clock) if runners.first() == candidates.first() => race::race(clock, class, &runners, started + sources.budget)
                .inspect_err(|error| tracing::warn!("{class} is not timed: {error}"))
                .unwrap_or_default(),
            _ => None,
        };
        step();
        let entry = match outcome {
            None => Entry { choice: candidates[0].to_string(), nanoseconds: BTreeMap::new() },
            Some(race::Outcome { winner, seconds }) => Entry {
                choice: winner.to_string(),
                nanoseconds: seconds.into_iter().map(|(id, seconds)| (id.to_string(), (seconds * 1e9) as u64)).collect(),
            },
        };
        (*class, entry)
    });
    timed.collect()
}

/// A kernel to compile.
struct Job {
    kernel: &'static Kernel,
    constants: Vec<(&'static str, f64)>,
    /// The rule's: it is compiled in any case, since it runs in any case if no other wins.
    rule: bool,
}

type Key = (&'static str, String);

impl Job {
    fn new(device: &Device, class: &Class, id: &str, rule: bool) -> Self {
        let dispatch = class.dispatch(id, &device.facts);
        Self { kernel: dispatch.kernel, constants: dispatch.constants, rule }
    }

    fn key(&self) -> Key {
        (self.kernel.name, format!("{:?}", self.constants))
    }
}

/// What the candidates of the classes need, each kernel once: first those of the rule, then challengers, the important classes first.
fn jobs(device: &Device, classes: &[Class], candidates: &[Vec<&'static str>]) -> Vec<Job> {
    let of = |rule: bool| {
        classes.iter().zip(candidates).flat_map(move |(class, candidates)| {
            let (first, others) = candidates.split_at(1);
            let ids = if rule { first } else { others };
            ids.iter().map(move |id| Job::new(device, class, id, rule))
        })
    };
    let mut seen = HashSet::new();
    of(true).chain(of(false)).filter(|job| seen.insert(job.key())).collect()
}

/// Compiles on all cores, as far as the time lasts; gives what is ready.
fn compile(device: &Device, jobs: &[Job], deadline: Instant, step: &(dyn Fn() + Sync)) -> HashSet<Key> {
    let next = AtomicUsize::new(0);
    let ready = Mutex::new(HashSet::new());
    let slow = Mutex::new(HashSet::new());
    let work = || {
        while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let wanted = job.rule || (started < deadline && !lock(&slow).contains(job.kernel.name));
            if wanted {
                match device.pipeline(job.kernel, &job.constants) {
                    Ok(_) => drop(lock(&ready).insert(job.key())),
                    Err(error) => tracing::warn!("{} takes no part: {error}", job.kernel.name),
                }
            }
            if started.elapsed() > SLOW_TO_COMPILE {
                lock(&slow).insert(job.kernel.name);
            }
            step();
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..cores.min(jobs.len())).for_each(|_| drop(scope.spawn(work))));
    lock(&ready).clone()
}
