//! `graftling sweep`: many runs that differ in what is adapted, compared.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use graftling::session::Watch;
use graftling::sweep::report;
use graftling::sweep::result::Results;
use graftling::sweep::run::{Listed, Tell, of_folder};
use graftling::sweep::schedule::Scheduler;
use graftling::sweep::{Ended, Sweep, SweepFile};
use graftling::terminal::say;
use graftling::train::interrupt::Interrupt;
use graftling::train::progress::Progress;
use graftling::{Error, Result};
use serde_json::{Value, json};

use super::{Bars, quoted};

/// Train many adapters that differ in what is adapted, and compare them
///
/// A sweep file names what all runs have in common and what varies: placements, ranks, layers, rates, anything that a recipe of `train` may
/// have; or a budget of parameters, of which each placement makes the rank that it can. Each run is one of `graftling train`, in a folder of
/// its own under --out, with the same checkpoints: stopped or killed at any moment, the same command goes on. The best arm is chosen by the
/// check data, never by the test data.
#[derive(Args)]
#[command(after_help = "Example of a sweep file; docs/sweep.md has all keys:
  seeds = [1, 2, 3]
  budget = 1_000_000
  check_data = \"check.jsonl\"
  [base]
  model = \"SmolLM2-135M-Instruct.Q4_1.gguf\"
  data = \"train.jsonl\"
  max_steps = 60
  [axes]
  target_modules = [\"attention\", \"mlp\", \"all-linear\"]

Examples:
  graftling sweep --config sweep.toml --out sweep-1 --dry-run
  graftling sweep --config sweep.toml --out sweep-1
  graftling sweep --out sweep-1 --report
  graftling sweep --config sweep.toml --out sweep-1 --hq")]
pub struct SweepArgs {
    /// Sweep file (TOML) [default: the one in --out, if a sweep was begun there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for all runs, results.json, results.txt and the pictures
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Train this arm only, by its number (from 1) or name: a scheduler runs them side by side
    #[arg(long, value_name = "ARM")]
    arm: Option<String>,
    /// List the arms with their parameters, memory and time; train nothing
    #[arg(long)]
    dry_run: bool,
    /// Put together what is finished; train nothing
    #[arg(long, conflicts_with_all = ["dry_run", "arm"])]
    report: bool,
    /// Write the array job for Slurm instead of training
    #[arg(long, conflicts_with_all = ["dry_run", "arm", "report"])]
    slurm: bool,
    /// Write the array job for HyperQueue instead of training
    #[arg(long, conflicts_with_all = ["dry_run", "arm", "report", "slurm"])]
    hq: bool,
    /// Print one JSON document: the results, or with --dry-run the arms
    #[arg(long)]
    json: bool,
}

/// Runs the command and returns the exit code: 0 done, 1 interrupted.
///
/// # Errors
/// Bad input in the sweep file, a model or data; a run that failed.
pub fn run(args: SweepArgs) -> Result<i32> {
    let sweep = match &args.config {
        Some(config) => Sweep { file: SweepFile::read(config)?, out: args.out.clone() },
        None => of_folder(&args.out)?,
    };
    let only = args.arm.as_deref().map(|arm| sweep.file.arm(arm)).transpose()?;
    let shown = Shown::default();
    if args.dry_run {
        let arms = sweep.list()?;
        let rate = sweep.rate(&shown)?;
        shown.clear();
        let seeds = sweep.file.seeds.len();
        match args.json {
            true => super::print_json(&listed(&arms, seeds, rate))?,
            false => super::print(&report::list(&arms, seeds, rate))?,
        }
        return Ok(0);
    }
    if let Some(scheduler) = (args.slurm.then_some(Scheduler::Slurm)).or(args.hq.then_some(Scheduler::HyperQueue)) {
        // What is wrong with an arm is better known now than on a node.
        sweep.list()?;
        let (path, command) = sweep.write_job(scheduler)?;
        say(&format!("{}: one task for each of {} arms\nsubmit it with: {command}", path.display(), sweep.file.arms.len()));
        return Ok(0);
    }
    if args.report {
        if !sweep.out.is_dir() {
            return Err(Error::bad_input(sweep.out.display(), "there is no sweep", "give the --out of a sweep"));
        }
        return tell(&sweep.gather()?, args.json).map(|()| 0);
    }
    let interrupt = Interrupt::install()?;
    let ended = sweep.train(only, &interrupt, &shown);
    shown.clear();
    match ended? {
        Ended::Finished(results) => tell(&results, args.json).map(|()| 0),
        Ended::Interrupted { finished, of } => {
            let command: Vec<String> = std::env::args().map(|word| quoted(&word)).collect();
            say(&format!(
                "stopped with {finished} of {of} runs finished; everything is saved\ngo on with: {}",
                command.join(" ")
            ));
            Ok(1)
        }
    }
}

/// Prints the results.
fn tell(results: &Results, as_json: bool) -> Result<()> {
    match as_json {
        true => super::print_json(&json!(results)),
        false => super::print(&report::table(results)),
    }
}

fn listed(arms: &[Listed], seeds: usize, rate: Option<f64>) -> Value {
    let arm = |arm: &Listed| match &arm.plan {
        Ok(plan) => json!({
            "name": arm.name, "parameters": plan.parameters, "rank": plan.rank, "steps": plan.steps, "planned_bytes": plan.planned_bytes,
            "seconds": rate.map(|rate| plan.flops / rate),
        }),
        Err(why) => json!({ "name": arm.name, "impossible": why }),
    };
    json!({ "arms": arms.iter().map(arm).collect::<Vec<_>>(), "seeds": seeds, "flops_per_second": rate })
}

/// What a person sees of a sweep.
#[derive(Default)]
struct Shown {
    /// While a model is opened.
    bars: Mutex<Option<Bars>>,
}

impl Shown {
    fn with_bars(&self, show: impl FnOnce(&Bars)) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        show(bars.get_or_insert_with(Bars::new));
    }

    /// Takes the bars away.
    fn clear(&self) {
        if let Some(bars) = self.bars.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bars.finish();
        }
    }
}

impl Watch for Shown {
    fn tuning(&self, done: usize, total: usize) {
        self.with_bars(|bars| bars.tuning(done, total));
    }

    fn loading(&self, done: u64, total: u64) {
        self.with_bars(|bars| bars.loading(done, total));
    }

    fn note(&self, text: &str) {
        self.with_bars(|bars| bars.note(text));
    }
}

impl Tell for Shown {
    fn say(&self, text: &str) {
        self.clear();
        say(text);
    }

    fn progress(&self, total_steps: u64, done: u64) -> Progress {
        self.clear();
        Progress::on_stderr(total_steps, done)
    }
}
