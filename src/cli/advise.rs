//! `graftling advise`: what to adapt, what it costs, why.

use std::path::PathBuf;

use clap::Args;
use graftling::Result;
use graftling::advise::{Advice, Question, report};
use graftling::byte_size::ByteSize;
use graftling::formats::atomic;
use graftling::terminal::say;
use serde_json::json;

/// Say what to adapt for this data on this model, what it costs, and why
///
/// Measures the data (new facts, one form, code, taken from the prompt), asks the model about some records, times a training step on this
/// GPU, and prints a `train` command with the evidence for each choice. Where the evidence is thin, it says so, and gives the sweep that would
/// decide.
#[derive(Args)]
#[command(after_help = "Examples:
  graftling advise --model SmolLM2-135M-Instruct.Q4_1.gguf --data chats.jsonl
  graftling advise --model path/to/model --data chats.jsonl --memory-budget 6GiB --sweep sweep.toml")]
pub struct AdviseArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
    /// Data as for training; give --data again for more files
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// What the run may occupy on the GPU, such as 6GiB [default: nine tenths of what the device has, as far as that is known]
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<ByteSize>,
    /// GPU to use: its number or a part of its name as `graftling doctor` lists it [default: the fastest kind]
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Choose the matrix kernels by fixed rules, instead of measuring once on this GPU which are the fastest
    #[arg(long)]
    no_autotune: bool,
    /// Write the sweep here, if there is one to propose
    #[arg(long, value_name = "FILE")]
    sweep: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad input in model or data; nothing fits the memory; the GPU failed.
pub fn run(args: AdviseArgs) -> Result<()> {
    let AdviseArgs { model, data, memory_budget, device, no_autotune, sweep, json } = args;
    let question = Question { model, data, memory_budget, device, no_autotune };
    let advice = super::with_bars(|bars| Advice::give(&question, bars))?;
    if let Some(path) = sweep {
        match &advice.sweep {
            Some(text) => atomic::write_new(&path, text.as_bytes())?,
            None => say("no sweep is written: the evidence leaves nothing open"),
        }
    }
    match json {
        true => super::print_json(&json!(advice)),
        false => super::print(&report::text(&advice)),
    }
}
