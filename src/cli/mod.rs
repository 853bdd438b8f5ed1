//! One file a subcommand.

mod inspect;

use clap::{Parser, Subcommand};

/// LoRA fine-tuning of Llama-style language models on any GPU
#[derive(Parser)]
#[command(name = "graftling", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::InspectArgs),
}

/// Runs the command line and returns the process's exit code: 0 done, 1 failed, 2 usage or bad input.
pub fn run() -> i32 {
    let done = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(args),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}
