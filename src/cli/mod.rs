//! The command line: one file a subcommand, and what they share.
//!
//! Exit codes: 0 done, 1 failed (or interrupted), 2 usage or bad input. What a program may read goes to standard output, all else
//! to standard error.

mod advise;
mod bench;
mod counter;
mod demo;
mod doctor;
mod eval;
mod export;
mod generate;
mod inspect;
mod merge;
mod studio;
mod sweep;
mod train;
mod tuning;

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use counter::Counter;
use graftling::adapter::{LoadedAdapter, rope_scaling};
use graftling::architecture::RopeOverride;
use graftling::cache::cache_folder;
use graftling::gpu::Device;
use graftling::graph::Graph;
use graftling::kernel::Arithmetic;
use graftling::model::weights::WeightType;
use graftling::plan::Tuned;
use graftling::plan::autotune::Choice;
use graftling::session::{self, OpenModel, Session, SessionOptions, Use, Watch};
use graftling::storage::DType;
use graftling::terminal::quoted;
use graftling::{Error, Result, terminal};
use serde_json::Value;

/// LoRA fine-tuning of Llama-style language models on any GPU that Vulkan, Metal or DX12 drives
#[derive(Parser)]
#[command(name = "graftling", version, max_term_width = 110)]
#[command(after_help = "Set GRAFTLING_LOG (to info, debug, or graftling::train=debug) to see what happens inside.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Train(Box<train::TrainArgs>),
    Eval(eval::EvalArgs),
    Generate(generate::GenerateArgs),
    Export(export::ExportArgs),
    Merge(merge::MergeArgs),
    Inspect(inspect::InspectArgs),
    Advise(advise::AdviseArgs),
    Sweep(Box<sweep::SweepArgs>),
    Studio(studio::StudioArgs),
    Doctor(doctor::DoctorArgs),
    Bench(bench::BenchArgs),
}

/// Runs the command line and returns the process's exit code.
pub fn run() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(stop) => return told(&stop),
    };
    let done = start_logging().and_then(|()| match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Train(args) => train::run(*args),
        Command::Eval(args) => eval::run(args).map(|()| 0),
        Command::Generate(args) => generate::run(args).map(|()| 0),
        Command::Export(args) => export::run(args).map(|()| 0),
        Command::Merge(args) => merge::run(args).map(|()| 0),
        Command::Inspect(args) => inspect::run(args).map(|()| 0),
        Command::Advise(args) => advise::run(args).map(|()| 0),
        Command::Sweep(args) => sweep::run(*args),
        Command::Studio(args) => studio::run(args).map(|()| 0),
        Command::Doctor(args) => doctor::run(args).map(|()| 0),
        Command::Bench(args) => bench::run(args).map(|()| 0),
    });
    done.unwrap_or_else(refused)
}

/// Tells the error; gives the exit code that goes with it.
fn refused(error: Error) -> i32 {
    terminal::say(&format!("error: {error}"));
    error.exit_code()
}

/// What clap answers instead of giving options: help and version on standard output, wrong use on standard error.
fn told(answer: &clap::Error) -> i32 {
    if answer.use_stderr() {
        terminal::say(answer.render().to_string().trim_end());
        return answer.exit_code();
    }
    let text = match terminal::has_colour(&std::io::stdout()) {
        true => answer.render().ansi().to_string(),
        false => answer.render().to_string(),
    };
    printed(terminal::print_coloured(&text)).map_or_else(refused, |()| answer.exit_code())
}

/// Sends what the library reports to standard error: warnings, or what GRAFTLING_LOG asks for.
fn start_logging() -> Result<()> {
    const VARIABLE: &str = "GRAFTLING_LOG";
    let wanted = std::env::var(VARIABLE).unwrap_or_else(|_| "graftling=warn".to_string());
    let filter = tracing_subscriber::EnvFilter::try_new(&wanted).map_err(|error| {
        Error::bad_input(
            VARIABLE,
            format!("`{wanted}` is no log filter: {error}"),
            "set it to info, debug or graftling::train=debug",
        )
    })?;
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| terminal::Stderr);
    format.with_ansi(false).without_time().init();
    Ok(())
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no error: the command then ends as if done.
///
/// # Errors
/// Failed: standard output cannot be written, a full disk for example.
fn print(text: &str) -> Result<()> {
    printed(terminal::print(text))
}

/// [`print`] for one JSON document.
fn print_json(document: &Value) -> Result<()> {
    printed(terminal::print_json(document))
}

/// What comes of writing the product to standard output, as [`print`] says.
fn printed(written: std::io::Result<()>) -> Result<()> {
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::failed("standard output", format!("cannot be written: {error}"), "check where the output goes")),
    }
}

/// The options of every command that puts a model on a GPU.
#[derive(Args, Debug)]
struct DeviceArgs {
    /// Format of the weights on the GPU [default: as in the file]
    #[arg(long, value_enum, value_name = "TYPE")]
    weights: Option<DType>,
    /// With --weights nf4: keep the scale of each block in f32, instead of rounding it to 8 bits as QLoRA does
    #[arg(long)]
    no_double_quant: bool,
    /// Arithmetic of the large matrix products; sums are f32 in all
    #[arg(long, value_enum, value_name = "ARITHMETIC", default_value_t)]
    matmul: Arithmetic,
    /// GPU to use: its number or a part of its name as `graftling doctor` lists it [default: the fastest kind]
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Choose the matrix kernels by fixed rules, instead of measuring once on this GPU which are the fastest
    #[arg(long)]
    no_autotune: bool,
}

/// The adapters that a model is used with.
#[derive(clap::Args, Debug)]
struct AdapterArgs {
    /// PEFT folder of an adapter for this model; give --adapter again for several, whose updates are added up
    #[arg(long = "adapter", value_name = "A")]
    folders: Vec<PathBuf>,
    /// Weights of the adapters in their order, such as 1,0.5 [default: 1 each]
    #[arg(
        long = "adapter-weight",
        value_name = "W,...",
        value_delimiter = ',',
        allow_negative_numbers = true,
        requires = "folders"
    )]
    weights: Vec<f64>,
}

impl AdapterArgs {
    /// Reads the adapters; several become one.
    fn load(&self, model: &OpenModel) -> Result<Option<LoadedAdapter>> {
        let count = self.folders.len();
        if !self.weights.is_empty() && self.weights.len() != count {
            let problem = format!("has {} weights for {count} adapters", self.weights.len());
            return Err(Error::bad_input("--adapter-weight", problem, "give one for each --adapter, in their order"));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !weight.is_finite()) {
            return Err(Error::bad_input("--adapter-weight", format!("{weight} is no weight"), "give numbers such as 1,0.5"));
        }
        let weights = self.weights.iter().copied().chain(std::iter::repeat(1.0));
        let read = |(folder, weight): (&PathBuf, f64)| Ok((LoadedAdapter::load(folder, &model.files.config)?, weight));
        let loaded = self.folders.iter().zip(weights).map(read).collect::<Result<Vec<_>>>()?;
        (count > 0).then(|| LoadedAdapter::together(loaded)).transpose()
    }

    /// Opens the model with the rotation of the adapters and the tokens that they add.
    fn open(&self, model: &str, rope_scaling: Option<RopeOverride>) -> Result<OpenModel> {
        let scaling = self.rope_scaling(rope_scaling)?;
        OpenModel::open(model)?.rotated(scaling).with_tokens_of(self.folders.iter().map(PathBuf::as_path))
    }

    /// The rotation that the adapters were trained with, which must be one for all.
    fn rope_scaling(&self, given: Option<RopeOverride>) -> Result<Option<RopeOverride>> {
        let Some((first, others)) = self.folders.split_first() else { return rope_scaling::chosen(given, None) };
        let of_first = rope_scaling::chosen(given, Some(first))?;
        for other in others {
            if rope_scaling::chosen(given, Some(other))? != of_first {
                let problem = format!("was trained with another rope scaling than {}", first.display());
                return Err(Error::bad_input(other.display(), problem, "use adapters that were trained with one"));
            }
        }
        Ok(of_first)
    }
}

impl DeviceArgs {
    fn weight_type(&self) -> WeightType {
        WeightType::asked(self.weights, !self.no_double_quant)
    }

    fn options(&self) -> SessionOptions {
        SessionOptions {
            device: self.device.clone(),
            matmul: self.matmul,
            weights: self.weight_type(),
            autotune: !self.no_autotune,
            cache: cache_folder(),
        }
    }

    /// Puts a model on the GPU, with these adapters, for these uses.
    fn session(&self, model: &OpenModel, adapters: &AdapterArgs, uses: &[&dyn Use]) -> Result<Session> {
        self.session_with(model, adapters.load(model)?, uses)
    }

    /// [`DeviceArgs::session`] with an adapter that has been read already.
    fn session_with(&self, model: &OpenModel, adapter: Option<LoadedAdapter>, uses: &[&dyn Use]) -> Result<Session> {
        with_bars(|bars| Session::open_with(model, adapter, &self.options(), uses, bars))
    }

    /// Opens the GPU and decides with which kernels it computes these graphs.
    fn open(&self, graphs: &[Graph]) -> Result<(Tuned, Vec<Choice>)> {
        let device = Device::open_for(self.device.as_deref(), self.matmul)?;
        let (place, choices, _) = with_bars(|bars| session::tuned(device, &self.options(), graphs, None, bars));
        Ok((place, choices))
    }
}

/// Calls `open` with what shows how far opening a session is.
fn with_bars<T>(open: impl FnOnce(&Bars) -> T) -> T {
    let bars = Bars::new();
    let opened = open(&bars);
    bars.finish();
    opened
}

/// How far opening a session is.
struct Bars {
    tuning: Counter,
    loading: Counter,
}

impl Bars {
    /// Silent where there is nothing to measure.
    fn new() -> Self {
        Self { tuning: Counter::of("choosing kernels for this GPU, once"), loading: Counter::of_bytes("loading") }
    }

    /// Takes them away.
    fn finish(&self) {
        self.tuning.finish();
        self.loading.finish();
    }
}

impl Watch for Bars {
    fn tuning(&self, done: usize, total: usize) {
        self.tuning.at(done as u64, total as u64);
    }

    fn loading(&self, done: u64, total: u64) {
        self.loading.at(done, total);
    }

    fn note(&self, text: &str) {
        self.tuning.finish();
        terminal::say(text);
    }
}
