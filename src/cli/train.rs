//! `graftling train`: from options to an adapter, and what is said on the way.

use std::path::PathBuf;

use clap::Args;
use graftling::adapter::rope_scaling;
use graftling::session::OpenModel;
use graftling::session::prefix_cache::RowsUsed;
use graftling::studio::samples::Samples;
use graftling::terminal::{self, say};
use graftling::train::Outcome;
use graftling::train::interrupt::Interrupt;
use graftling::train::keep::beginning;
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
    let mut options = recipe.resolve()?;
    let model = OpenModel::open_at(&options.model, beginning::template_time(&options))?;
    options.rope_scaling = rope_scaling::chosen(options.rope_scaling, options.init_adapter.as_deref())?;
    let model = super::rotated(model, options.rope_scaling);
    let model = model.with_tokens_of(options.init_adapter.as_deref())?.with_tokens(&options.tokens())?;
    let prepared = Prepared::new(options, &model)?;
    if args.dry_run {
        let colour = terminal::has_colour(&std::io::stdout());
        super::printed(terminal::print_coloured(&prepared.preview(PREVIEWED_RECORDS, colour)))?;
        model.tokenizer.stopped()?;
        return Ok(0);
    }
    let samples = Samples::of(&prepared, &model)?;
    say(&format!("{}\n{}", prepared.data_reports(), prepared.summary().trim_end()));
    // The device comes before the output: where there is none, nothing is written.
    let device = prepared.open_device()?;
    let mut output = prepared.open_output()?;
    if output.steps_done() > 0 {
        say(&format!("going on after step {} of {}", output.steps_done(), prepared.total_steps));
    }
    let interrupt = Interrupt::install()?;
    let weights = super::with_bars(|bars| prepared.load(device, &mut output, Vec::new(), bars))?;
    say(&format!("training on {}", weights.device().info.name));
    let progress = Progress::on_stderr(prepared.total_steps, output.steps_done());
    let options = prepared.options.clone();
    let mut run = prepared.start(weights, output, interrupt, progress)?;
    if let Some(path) = args.profile {
        run.profile(path);
    }
    if let Some(samples) = samples {
        run.watched_by(Box::new(samples));
    }
    if args.studio {
        super::studio::beside(&options);
    }
    let (outcome, run) = run.train_to_the_end()?;
    let ask = if model.template.is_some() { "--chat" } else { "--prompt" };
    if let Some(RowsUsed { stored, computed }) = run.trainer().prefix().map(|prefix| prefix.rows_used()) {
        say(&format!("prefix cache: {stored} of {} token rows came from it", stored + computed));
    }
    Ok(tell(&outcome, run.steps().1, &options, ask))
}

/// Says how it ended and what to do next. `ask`: the option of `generate` that suits the model.
fn tell(outcome: &Outcome, total_steps: u64, options: &TrainOptions, ask: &str) -> i32 {
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
            0
        }
        Outcome::Interrupted { steps, checkpoint } => {
            let kept = match checkpoint {
                Some(folder) => {
                    format!("stopped after step {steps} of {total_steps}; everything is saved in {}", folder.display())
                }
                None => "stopped before the first step was done; there was nothing to save".to_string(),
            };
            say(&format!("{kept}\ngo on with: {}", resuming_command()));
            1
        }
    }
}

/// The command line of this process, with `--resume`.
fn resuming_command() -> String {
    let mut words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_string());
    }
    words.join(" ")
}
