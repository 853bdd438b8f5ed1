//! `graftling train`: from options to an adapter, and what is said on the way.

use std::path::PathBuf;

use clap::Args;
use graftling::ranks::Ranks;
use graftling::session::OpenModel;
use graftling::session::prefix_cache::RowsUsed;
use graftling::studio::samples::Samples;
use graftling::terminal::{self, say};
use graftling::train::Outcome;
use graftling::train::interrupt::Interrupt;
use graftling::train::keep::beginning::Before;
use graftling::train::options::{Recipe, TrainOptions};
use graftling::train::prepare::Prepared;
use graftling::train::progress::Progress;
use graftling::{Error, Result};

use super::quoted;

/// Records that `--dry-run` shows.
const PREVIEWED_RECORDS: usize = 3;

/// Train a LoRA adapter on your own data
///
/// Writes the adapter to --out as a PEFT folder, with checkpoints, metrics.jsonl and a loss curve (loss.svg) beside it. Ctrl-C saves
/// a checkpoint; --resume goes on from the newest one, with exactly the numbers of a run that was never stopped.
#[derive(Args)]
#[command(after_help = "Examples:
  graftling train --model SmolLM2-135M-Instruct.Q4_1.gguf --data chats.jsonl --out my-adapter --dry-run
  graftling train --model SmolLM2-135M-Instruct.Q4_1.gguf --data chats.jsonl --out my-adapter
  graftling train --model path/to/model --data train.jsonl --eval-data held-out.jsonl --out run-1 \\
      --lora-r 8 --lora-alpha 16 --target-modules attention --epochs 5
  graftling train --config recipe.toml --out run-2 --learning-rate 1e-4
  graftling train --config recipe.toml --out run-2 --learning-rate 1e-4 --resume

A recipe holds the same options in snake case; the command line wins over it:
  model = \"path/to/model\"
  data = \"train.jsonl\"
  lora_r = 8
  target_modules = [\"q_proj\", \"v_proj\"]
  no_shuffle = true")]
pub struct TrainArgs {
    /// Recipe file (TOML) with any of the options below, in snake case; options given here win over it
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    config: Option<PathBuf>,
    /// Show the first records as the model will see them, with what is learned marked, and what the run would need; train nothing
    #[arg(long, help_heading = "Input and output")]
    dry_run: bool,
    /// Time every kernel of the second step: prints a table and writes FILE for ui.perfetto.dev or chrome://tracing. Changes no number
    #[arg(long, value_name = "FILE", help_heading = "Device")]
    profile: Option<PathBuf>,
    /// Show the run in the studio while it goes on: prints an address on this machine, for a browser
    #[arg(long, help_heading = "Reports")]
    studio: bool,
    #[command(flatten)]
    recipe: Recipe,
}

/// Runs the command and returns the exit code: 0 done, 1 interrupted.
///
/// # Errors
/// Bad input in options, model or data; a run that failed.
pub fn run(args: TrainArgs) -> Result<i32> {
    let ranks = Ranks::join()?;
    let done = train(args, &ranks);
    ranks.end_all(done)
}

/// What each of the ranks does: all of it, but that the first one alone writes and speaks.
fn train(args: TrainArgs, ranks: &Ranks) -> Result<i32> {
    let tell = |text: &str| {
        if ranks.is_first() {
            say(text)
        }
    };
    let (dry_run, profile, studio) = (args.dry_run, args.profile.clone(), args.studio);
    let options = ranks.agree(asked(args))?;
    let before = Before::told(&options, ranks)?;
    let (scaling, adapter, tokens) = (options.rope_scaling, options.init_adapter.as_deref(), options.tokens());
    let (time, balance) = (before.template_time, options.router_aux_loss_coef);
    let model = ranks.agree(OpenModel::for_run(&options.model, time, scaling, balance, adapter, &tokens))?;
    let prepared = ranks.agree(Prepared::among(ranks.clone(), before.began_with, options, &model))?;
    if dry_run {
        if ranks.is_first() {
            let colour = terminal::has_colour(&std::io::stdout());
            super::printed(terminal::print_coloured(&prepared.preview(PREVIEWED_RECORDS, colour)))?;
        }
        model.tokenizer.stopped()?;
        return Ok(0);
    }
    let samples = ranks.agree(Samples::of(&prepared, &model))?.filter(|_| ranks.is_first());
    tell(&format!("{}\n{}", prepared.data_reports(), prepared.summary().trim_end()));
    // The device comes before the output: where there is none, nothing is written.
    let device = ranks.agree(prepared.open_device())?;
    let mut output = prepared.open_output()?;
    if output.steps_done() > 0 {
        tell(&format!("going on after step {} of {}", output.steps_done(), prepared.total_steps));
    }
    let interrupt = if ranks.is_alone() { Interrupt::install()? } else { Interrupt::install_among_ranks()? };
    let weights = match ranks.is_first() {
        true => super::with_bars(|bars| prepared.load(device, &mut output, Vec::new(), bars))?,
        false => prepared.load(device, &mut output, Vec::new(), &())?,
    };
    tell(&format!("training on {}", places(ranks, &weights.device().info.name)));
    let progress = match ranks.is_first() {
        true => Progress::on_stderr(prepared.total_steps, output.steps_done()),
        false => Progress::hidden(),
    };
    let options = prepared.options.clone();
    let mut run = prepared.start(weights, output, interrupt, progress)?;
    if let Some(path) = profile.filter(|_| ranks.is_first()) {
        run.profile(path);
    }
    if let Some(samples) = samples {
        run.watched_by(Box::new(samples));
    }
    if studio && ranks.is_first() {
        super::studio::beside(&options);
    }
    let (outcome, run) = run.train_to_the_end()?;
    let ask = if model.template.is_some() { "--chat" } else { "--prompt" };
    if let Some(RowsUsed { stored, computed }) = run.trainer().prefix().map(|prefix| prefix.rows_used()) {
        tell(&format!("prefix cache: {stored} of {} token rows came from it", stored + computed));
    }
    Ok(if ranks.is_first() { told(&outcome, run.steps().1, &options, ask, ranks.count()) } else { code(&outcome) })
}

/// The options of the command line and of the recipe.
fn asked(args: TrainArgs) -> Result<TrainOptions> {
    let from_file = args.config.as_deref().map(Recipe::from_file).transpose()?.unwrap_or_default();
    let mut recipe = args.recipe.or(from_file);
    if let Some(path) =
        args.profile.as_ref().filter(|path| std::fs::symlink_metadata(path).is_ok() && recipe.overwrite != Some(true))
    {
        return Err(Error::bad_input(
            path.display(),
            "is there already",
            "give --profile another file, or --overwrite to replace it",
        ));
    }
    if args.dry_run {
        // Nothing is written, so no place for it is needed.
        recipe.out.get_or_insert_with(PathBuf::new);
    }
    recipe.resolve()
}

/// Where the run goes on: this device, or those of all ranks.
fn places(ranks: &Ranks, device: &str) -> String {
    if ranks.is_alone() {
        return device.to_string();
    }
    let all = ranks.all(&format!("{}: {device}", ranks.name()));
    format!("{} devices\n  {}", all.len(), all.join("\n  "))
}

/// Says how it ended and what to do next. `ask`: the option of `generate` that suits the model.
fn told(outcome: &Outcome, total_steps: u64, options: &TrainOptions, ask: &str, ranks: usize) -> i32 {
    let out = options.out.display();
    match outcome {
        Outcome::Finished { steps, last_loss, eval_loss } => {
            let number = |name: &str, loss: &Option<f64>| loss.map_or(String::new(), |loss| format!(", {name} {loss:.4}"));
            say(&format!(
                "done: {steps} steps{}{}\nadapter in {out}, loss curve in {out}/loss.svg\ntry it: graftling generate --model {} --adapter {} {ask} \"...\"",
                number("last loss", last_loss),
                number("held-out loss", eval_loss),
                quoted(&options.model),
                quoted(&out.to_string()),
            ));
        }
        Outcome::Interrupted { steps, checkpoint } => {
            let kept = match checkpoint {
                Some(folder) => {
                    format!("stopped after step {steps} of {total_steps}; everything is saved in {}", folder.display())
                }
                None => "stopped before the first step was done; there was nothing to save".to_string(),
            };
            say(&format!("{kept}\ngo on with: {}", resuming_command(ranks)));
        }
    }
    code(outcome)
}

/// 0 done, 1 interrupted.
fn code(outcome: &Outcome) -> i32 {
    match outcome {
        Outcome::Finished { .. } => 0,
        Outcome::Interrupted { .. } => 1,
    }
}

/// The command line of this process, with `--resume`, and what starts so many of it.
fn resuming_command(ranks: usize) -> String {
    let mut words: Vec<String> = if ranks > 1 { vec![format!("mpirun -n {ranks}")] } else { Vec::new() };
    words.extend(std::env::args_os().map(|word| quoted(&word.to_string_lossy())));
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    words.join(" ")
}
