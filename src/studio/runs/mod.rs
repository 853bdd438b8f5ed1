//! The theatre: the run that a studio shows, started there or going on elsewhere.
//!
//! A run that is started here is a process of its own ([`child`]): the same program, the same checks and messages, and what it holds of the
//! device goes when it ends. What is known of any run comes from its folder: [`tail`] follows the metrics, the lock tells whether somebody
//! trains there, and [`past`] lists the runs that have been.

pub mod child;
pub mod past;
pub mod tail;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::api::Refusal;
use super::events::{Event, Events};
use super::samples::Sample;
use crate::formats::{atomic, peft};
use crate::train::checkpoint;
use crate::train::lock;
use crate::train::metrics::StepMetrics;
use crate::train::tell::about::About;
use crate::{Error, Result};
use child::Child;
use tail::{News, Tail};

/// The recipe of a run that was started here, in its folder.
pub const RECIPE_FILE: &str = ".graftling.recipe.toml";
/// Between two looks at a run.
const A_LOOK: Duration = Duration::from_millis(150);
/// Between two looks whether somebody trains into a folder.
const A_LOCK_LOOK: Duration = Duration::from_secs(1);

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// It has ended, or has not begun; who trained it is not known.
    Idle,
    Running,
    /// Asked to stop; it saves.
    Pausing,
    Stopping,
    Paused,
    Stopped,
    Done,
    Failed,
}

impl Phase {
    /// Whether the device is the run's.
    pub fn is_training(self) -> bool {
        matches!(self, Self::Running | Self::Pausing | Self::Stopping)
    }
}

struct Shown {
    folder: PathBuf,
    phase: Phase,
    child: Option<Child>,
    tail: Tail,
    /// The step whose answers were told last.
    sampled: u64,
    /// When the lock was last looked at.
    looked: Option<Instant>,
    /// Why it failed: what, where, and what to do.
    error: Option<Value>,
}

/// The run that is shown, and the program that trains.
pub struct Theatre {
    program: PathBuf,
    events: Events,
    shown: Arc<Mutex<Option<Shown>>>,
    /// Whether a run is about to begin, and the device is being given back for it.
    starting: Arc<AtomicBool>,
}

/// What is known of the run that is shown, without its metrics.
#[derive(Clone, Debug, Serialize)]
pub struct RunNow {
    pub dir: String,
    pub phase: Phase,
    /// Whether it was started from this studio.
    pub own: bool,
    pub error: Option<Value>,
    /// What its process said, if it was started from this studio.
    pub log: Vec<String>,
}

fn locked(shown: &Mutex<Option<Shown>>) -> MutexGuard<'_, Option<Shown>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Theatre {
    /// # Errors
    /// Failed, when the system gives no thread.
    pub(super) fn new(program: PathBuf, events: Events) -> Result<Self> {
        let shown = Arc::new(Mutex::new(None));
        let (looked_at, told) = (Arc::downgrade(&shown), events.clone());
        let thread = std::thread::Builder::new().name("theatre".to_string()).spawn(move || watch(&looked_at, &told));
        thread.map_err(|error| Error::failed("studio", format!("cannot start a thread: {error}"), "close other programs"))?;
        Ok(Self { program, events, shown, starting: Arc::default() })
    }

    /// Shows the run in this folder.
    ///
    /// # Errors
    /// Bad input: there is no such folder. [`Refusal`] with 409: the run that is shown was started here and goes on.
    pub fn attach(&self, folder: &Path) -> std::result::Result<(), Refusal> {
        if !folder.is_dir() {
            let proposal = "give the output folder of a `graftling train`";
            return Err(Error::bad_input(folder.display(), "there is no such folder", proposal).into());
        }
        let mut shown = locked(&self.shown);
        if let Some(now) = shown.as_ref().filter(|now| now.phase.is_training()) {
            return if now.folder == folder { Ok(()) } else { Err(Refusal::training()) };
        }
        let phase = if lock::holder(folder).is_some() { Phase::Running } else { Phase::Idle };
        *shown = Some(Shown::of(folder, phase, None));
        drop(shown);
        self.tell_run();
        Ok(())
    }

    /// Starts a run on this recipe, TOML, in this folder; or lets one go on. `free` gives the device back; from before that on it is the
    /// run's.
    ///
    /// # Errors
    /// Failed: the folder cannot be written, the program cannot be started. [`Refusal`] with 409: a run goes on already.
    pub fn start(
        &self,
        recipe: Option<&str>,
        folder: &Path,
        resume: bool,
        free: impl FnOnce(),
    ) -> std::result::Result<(), Refusal> {
        if self.is_training() || self.starting.swap(true, Ordering::SeqCst) {
            return Err(Refusal::new(409, "studio", "a run is training already", "stop it, or wait until it has ended"));
        }
        free();
        let started = self.start_now(recipe, folder, resume);
        self.starting.store(false, Ordering::SeqCst);
        started
    }

    fn start_now(&self, recipe: Option<&str>, folder: &Path, resume: bool) -> std::result::Result<(), Refusal> {
        let mut shown = locked(&self.shown);
        if shown.as_ref().is_some_and(|now| now.phase.is_training()) || lock::holder(folder).is_some() {
            let what = "a run is training already";
            return Err(Refusal::new(409, &folder.display().to_string(), what, "stop it, or wait until it has ended"));
        }
        std::fs::create_dir_all(folder).map_err(|error| {
            let problem = format!("cannot make this folder: {error}");
            Error::bad_input(folder.display(), problem, "give a folder that you may write to")
        })?;
        let path = folder.join(RECIPE_FILE);
        match recipe {
            Some(recipe) => atomic::write_atomically(&path, recipe.as_bytes())?,
            None if path.is_file() => {}
            None => {
                let problem = "was not started from a studio, so its recipe is not known here";
                let proposal = "resume it where it was started: the same command with --resume";
                return Err(Error::bad_input(folder.display(), problem, proposal).into());
            }
        }
        let child = Child::start(&self.program, &path, folder, resume, &self.events)?;
        *shown = Some(Shown::of(folder, Phase::Running, Some(child)));
        drop(shown);
        self.tell_run();
        Ok(())
    }

    /// Asks the run to save a checkpoint and end, as Ctrl-C does. `as_pause`: it is meant to go on later, which makes no other difference.
    ///
    /// # Errors
    /// [`Refusal`] with 409: nothing is training. Failed: the process cannot be reached.
    pub fn stop(&self, as_pause: bool) -> std::result::Result<(), Refusal> {
        let mut shown = locked(&self.shown);
        let Some(now) = shown.as_mut().filter(|now| now.phase.is_training()) else {
            return Err(Refusal::new(
                409,
                "studio",
                "no run is training",
                "start one on this page, or show one that goes on: --run DIR",
            ));
        };
        if now.phase != Phase::Running {
            // A second Ctrl-C would end the process without saving.
            return Ok(());
        }
        let number = now.child.as_ref().map(Child::number).or_else(|| lock::holder(&now.folder)?);
        let Some(number) = number else {
            let problem = "the number of the process that trains here is not known";
            return Err(Error::failed(now.folder.display(), problem, "press Ctrl-C where it runs").into());
        };
        child::ask_to_stop(number)?;
        now.phase = if as_pause { Phase::Pausing } else { Phase::Stopping };
        drop(shown);
        self.tell_run();
        Ok(())
    }

    /// Lets the run that is shown go on from its last checkpoint.
    ///
    /// # Errors
    /// As [`Theatre::start`]; bad input: no run is shown.
    pub fn resume(&self, free: impl FnOnce()) -> std::result::Result<(), Refusal> {
        let folder = self.folder();
        let folder = folder.ok_or_else(|| Error::bad_input("studio", "no run is shown", "start one, or open one of the past"))?;
        self.start(None, &folder, true, free)
    }

    /// The folder of the run that is shown.
    pub fn folder(&self) -> Option<PathBuf> {
        locked(&self.shown).as_ref().map(|now| now.folder.clone())
    }

    /// What is known of the run that is shown.
    pub fn now(&self) -> Option<RunNow> {
        locked(&self.shown).as_ref().map(Shown::now)
    }

    /// Whether that run occupies the device now.
    pub fn is_training(&self) -> bool {
        self.asks_whether_training()()
    }

    /// [`Theatre::is_training`], for who has no theatre.
    pub(super) fn asks_whether_training(&self) -> impl Fn() -> bool + Send + use<> {
        let (shown, starting) = (self.shown.clone(), self.starting.clone());
        move || starting.load(Ordering::SeqCst) || locked(&shown).as_ref().is_some_and(|now| now.phase.is_training())
    }

    /// What the run has told after this step, with what it is and how it ended.
    pub(super) fn missed(&self, after: u64) -> Vec<Event> {
        let shown = locked(&self.shown);
        let Some(now) = shown.as_ref() else { return Vec::new() };
        let (run, folder, end) = (now.run_event(), now.folder.clone(), now.end_event());
        drop(shown);
        let mut steps = tail::all(&folder);
        steps.retain(|metrics| metrics.step > after);
        let steps = told(&steps, &Sample::all(&folder), after);
        std::iter::once(run).chain(steps).chain(end).collect()
    }

    /// Stops what was started here, and waits until it has saved.
    pub(super) fn end(&self) {
        let _ = self.stop(false);
        let child = locked(&self.shown).as_mut().and_then(|now| now.child.take());
        if let Some(mut child) = child {
            child.wait();
        }
    }

    fn tell_run(&self) {
        if let Some(now) = locked(&self.shown).as_ref() {
            let Event { name, step, data } = now.run_event();
            self.events.tell(name, step, data);
        }
    }
}

impl Shown {
    fn of(folder: &Path, phase: Phase, child: Option<Child>) -> Self {
        Self { folder: folder.to_path_buf(), phase, child, tail: Tail::of(folder), sampled: 0, looked: None, error: None }
    }

    fn now(&self) -> RunNow {
        RunNow {
            dir: self.folder.display().to_string(),
            phase: self.phase,
            own: self.child.is_some(),
            error: self.error.clone(),
            log: self.child.as_ref().map_or_else(Vec::new, Child::said),
        }
    }

    fn run_event(&self) -> Event {
        let total_steps = About::read(&self.folder).map(|about| about.total_steps);
        let dir = self.folder.display().to_string();
        Event { name: "run", step: None, data: json!({ "dir": dir, "phase": self.phase, "total_steps": total_steps }) }
    }

    /// How it ended, if it has.
    fn end_event(&self) -> Option<Event> {
        let data = json!({ "dir": self.folder.display().to_string(), "phase": self.phase });
        match self.phase {
            Phase::Failed => Some(Event { name: "error", step: None, data: json!({ "error": self.error }) }),
            Phase::Done | Phase::Paused | Phase::Stopped => Some(Event { name: "done", step: None, data }),
            _ => None,
        }
    }

    /// Looks at the run once; gives what is to be told.
    fn look(&mut self) -> Vec<Event> {
        // The end is seen before the last lines are read, so that none is written after that.
        let ended = self.ended();
        let News { again, steps } = self.tail.news();
        let mut events = Vec::new();
        if again {
            events.push(self.run_event());
            self.sampled = 0;
        }
        // Answers to a step are written before its numbers.
        if let Some(last) = steps.last() {
            let samples = Sample::all(&self.folder);
            events.extend(told(&steps, &samples, self.sampled));
            self.sampled = last.step;
        }
        if let Some(phase) = ended {
            let before = std::mem::replace(&mut self.phase, phase);
            if phase == Phase::Failed {
                self.error = self.child.as_ref().map(failure);
            }
            if before != phase {
                events.push(self.run_event());
                events.extend(self.end_event());
            }
        }
        events
    }

    /// The phase after this one, if the run has ended, or somebody trains here again.
    fn ended(&mut self) -> Option<Phase> {
        if let Some(child) = &mut self.child {
            if !self.phase.is_training() {
                return None;
            }
            let status = child.ended()?;
            return Some(match (status.success(), self.phase) {
                (true, _) => Phase::Done,
                (false, Phase::Pausing) => Phase::Paused,
                (false, Phase::Stopping) => Phase::Stopped,
                (false, _) => Phase::Failed,
            });
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < A_LOCK_LOOK) {
            return None;
        }
        self.looked = Some(Instant::now());
        match (lock::holder(&self.folder).is_some(), self.phase.is_training()) {
            (true, false) => Some(Phase::Running),
            (false, true) => Some(self.came_to()),
            _ => None,
        }
    }

    /// What became of a run that somebody else has trained.
    fn came_to(&self) -> Phase {
        let last = tail::all(&self.folder).last().map(|metrics| metrics.step);
        match (About::read(&self.folder), self.phase) {
            (Some(about), _) if last == Some(about.total_steps) => Phase::Done,
            (_, Phase::Pausing) => Phase::Paused,
            _ => Phase::Stopped,
        }
    }
}

/// What the page is told of steps, and of answers after the step `sampled`. Of what belongs to a step the step itself comes last, since it is by
/// its number that a page says what it has.
fn told(steps: &[StepMetrics], samples: &[Sample], mut sampled: u64) -> Vec<Event> {
    let mut events = Vec::new();
    for metrics in steps {
        let mut tell = |name, data| events.push(Event { name, step: Some(metrics.step), data });
        if let Some(loss) = metrics.eval_loss {
            tell("eval", json!({ "step": metrics.step, "eval_loss": loss }));
        }
        if let Some(check) = &metrics.check {
            tell("check", json!({ "step": metrics.step, "check": check }));
        }
        for sample in samples.iter().filter(|sample| (sampled + 1..=metrics.step).contains(&sample.step)) {
            tell("sample", serde_json::to_value(sample).unwrap_or_default());
        }
        tell("step", serde_json::to_value(metrics).unwrap_or_default());
        sampled = metrics.step;
    }
    events
}

fn failure(child: &Child) -> Value {
    let said = child.said();
    let [what, propose] = child::error_of(&said).unwrap_or_else(|| {
        let last = said.last().cloned().unwrap_or_default();
        [format!("the run ended without a word of why; the last it said: {last}"), "see what it said".to_string()]
    });
    json!({ "what": what, "where": "train", "propose": propose })
}

/// Looks at the run that is shown for as long as there is a theatre.
fn watch(shown: &Weak<Mutex<Option<Shown>>>, events: &Events) {
    while let Some(shown) = shown.upgrade() {
        let news = locked(&shown).as_mut().map_or_else(Vec::new, Shown::look);
        drop(shown);
        for Event { name, step, data } in news {
            events.tell(name, step, data);
        }
        std::thread::sleep(A_LOOK);
    }
}

/// The model that the run or the adapter in a folder is for.
pub fn base_model(folder: &Path) -> Option<String> {
    let of_adapter = || {
        let config = peft::raw_config(folder).ok()?;
        // As PEFT and as AdapterHub call it.
        let named = |key: &str| config.get(key).and_then(Value::as_str).map(str::to_string);
        named("base_model_name_or_path").or_else(|| named("model_name"))
    };
    About::read(folder).map(|about| about.model).or_else(of_adapter)
}

/// The newest whole checkpoint of a run: its step and folder.
pub fn newest_checkpoint(folder: &Path) -> Option<(u64, PathBuf)> {
    checkpoint::latest(folder).ok().flatten().map(|(path, state)| (state.step, path))
}
