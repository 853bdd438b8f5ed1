//! `graftling studio`: a page to look into a model, its adapter and its training.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use graftling::cache::cache_folder;
use graftling::model::weights::WeightType;
use graftling::session::SessionOptions;
use graftling::studio::{Address, Setup, Studio};
use graftling::terminal::say;
use graftling::train::interrupt;
use graftling::train::options::TrainOptions;
use graftling::{Error, Result};
use tokio::sync::Notify;

/// Look into a model on a page of its own: forward, backward, its adapter, its training
///
/// Serves a page on this machine alone (127.0.0.1), prints its address and opens the browser where there is one. The page needs no internet. The
/// address holds a token: without it nothing is shown to anyone. Ctrl-C ends it; a run that was started there then saves a checkpoint first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling studio --model SmolLM2-135M-Instruct.Q4_1.gguf
  graftling studio --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter
  graftling studio --run my-adapter      (a run that goes on in another terminal, or one that has ended)")]
pub struct StudioArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name [default: that of the adapter or the run]
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// PEFT folder of an adapter for this model
    #[arg(long, value_name = "A")]
    adapter: Option<PathBuf>,
    /// Output folder of a run of `graftling train` to show
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Port of the address [default: any that is free]
    #[arg(long, value_name = "P")]
    port: Option<u16>,
    /// Print the address, and open no browser
    #[arg(long)]
    no_browser: bool,
    #[command(flatten)]
    device: super::DeviceArgs,
}

/// Runs the command, until Ctrl-C.
///
/// # Errors
/// Bad input in model or adapter; the port is taken.
pub fn run(args: StudioArgs) -> Result<()> {
    let session = args.device.options();
    let StudioArgs { model, adapter, run, port, no_browser, device: _ } = args;
    let studio = Studio::open(Setup { model, adapter, run, port, session, program: this_program()? })?;
    let stop = Arc::new(Notify::new());
    let asked = stop.clone();
    let mut asked_before = false;
    interrupt::listen(move || {
        if std::mem::replace(&mut asked_before, true) {
            std::process::exit(1);
        }
        asked.notify_one();
    })?;
    studio.serve(&stop, |address| welcome(address, no_browser))
}

/// Shows the run of this process, on a thread of its own, for as long as the process lives. A run does not end because nobody can look at it.
pub fn beside(options: &TrainOptions) {
    let open = |options: TrainOptions| -> Result<()> {
        let setup = Setup {
            model: Some(options.model),
            adapter: None,
            run: Some(options.out),
            port: None,
            session: SessionOptions {
                device: options.device,
                matmul: options.matmul,
                weights: WeightType::asked(options.weights, !options.no_double_quant),
                autotune: !options.no_autotune,
                cache: cache_folder(),
            },
            program: this_program()?,
        };
        Studio::open(setup)?.serve(&Arc::default(), |address| welcome(address, false))
    };
    let options = options.clone();
    let show = move || open(options).unwrap_or_else(|error| say(&format!("no studio: {error}")));
    if let Err(error) = std::thread::Builder::new().name("studio".to_string()).spawn(show) {
        say(&format!("no studio: {error}"));
    }
}

/// This program, which trains when the page asks for it.
pub fn this_program() -> Result<PathBuf> {
    std::env::current_exe()
        .map_err(|error| Error::failed("studio", format!("cannot find this program: {error}"), "start it by its path"))
}

/// Tells where the page is.
pub fn welcome(address: &Address, no_browser: bool) {
    let url = address.url();
    say(&format!("the studio is at {url}\n(on this machine only; Ctrl-C ends it)"));
    // In a browser that lives in the terminal there is nothing to see.
    let has_screen =
        !cfg!(target_os = "linux") || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if !no_browser && has_screen && std::io::stderr().is_terminal() && webbrowser::open(&url).is_err() {
        say("open it in a browser; none could be started from here");
    }
}
