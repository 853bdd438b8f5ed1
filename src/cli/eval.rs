//! `graftling eval`: the loss of a model, with or without an adapter, on data.

use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use graftling::adapter::end_of_turn;
use graftling::architecture::RopeOverride;
use graftling::data::source::folder::{self, Side};
use graftling::data::{self, Batch, Dataset, Example, LoadOptions, LongRecords};
use graftling::generate::answers::{CheckSet, Share, Tally};
use graftling::generate::{Ends, Generator};
use graftling::session::Session;
use graftling::session::evaluate::Evaluation;
use graftling::session::{OpenModel, batch};
use graftling::terminal;
use graftling::text::Tokenizer;
use graftling::{Error, Result};
use serde_json::{Value, json};

use super::counter::Counter;

/// Measure the loss of a model on data
///
/// The loss is the mean of -log p (natural logarithm) over the supervised tokens, as in training; perplexity is its exponential.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling eval --model SmolLM2-135M-Instruct.Q4_1.gguf --data held-out.jsonl
  graftling eval --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter --data held-out.jsonl --json --per-token
  graftling eval --model SmolLM2-135M-Instruct.Q4_1.gguf --adapter my-adapter --data questions.jsonl --generate
      where a record is {\"messages\": [...], \"expect\": {\"contains\": TEXT, \"exact\": TEXT, \"regex\": R, \"json_schema\": S,
      \"group\": NAME}}, one of them or more")]
pub struct EvalArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
    #[command(flatten)]
    adapters: super::AdapterArgs,
    /// Another rotary scaling than the model's: none, linear:FACTOR, dynamic:FACTOR, yarn:FACTOR or llama3:FACTOR [default: what the adapter was trained with]
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeOverride>,
    /// Data as for training, a file or a folder with valid.jsonl; give --data again for more files
    #[arg(long, value_name = "FILE", required = true)]
    data: Vec<PathBuf>,
    /// Longest record in tokens; longer ones are cut and reported [default: as long as the model allows]
    #[arg(long, value_name = "TOKENS")]
    max_length: Option<usize>,
    /// What to do with records that are longer
    #[arg(long, value_enum, value_name = "WHAT", default_value = "cut")]
    long_records: LongRecords,
    /// Let the model answer the records that have `expect`, in place of measuring losses, and tell which share of the answers meets it
    #[arg(long, conflicts_with_all = ["per_token", "max_length", "long_records"])]
    generate: bool,
    /// Tokens of an answer at most, with --generate
    #[arg(long, value_name = "TOKENS", default_value_t = 256, requires = "generate")]
    max_new_tokens: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Give each token's loss as well
    #[arg(long)]
    per_token: bool,
    #[command(flatten)]
    device: super::DeviceArgs,
}

/// Runs the command.
///
/// # Errors
/// Bad input in model, adapter or data; the GPU failed; a loss is not finite.
pub fn run(args: EvalArgs) -> Result<()> {
    let model = args.adapters.open(&args.model, args.rope_scaling)?;
    if args.generate {
        return answers(&args, &model);
    }
    let config = &model.files.config;
    let max_length = args.max_length.unwrap_or(config.context()).min(config.context());
    let files = folder::files(&args.data, Side::HeldOut)?;
    let options = LoadOptions { max_length, long_records: args.long_records, eval_split: None };
    let (data, _) = data::load_files(&files, &model.tokenizer, model.template.as_ref(), options)?;
    let adapter = args.adapters.load(&model)?;
    data.check_vocabulary(adapter.as_ref().map_or(config.vocab_size, |adapter| adapter.placement.tokens(config)))?;
    if !args.json || data.report.lost.tokens + data.report.dropped_tokens.tokens > 0 {
        terminal::say(&data.report.to_string());
    }
    let batches = batch::in_order(&data);
    let most = batch::most_tokens(&data, &batches);
    let session = args.device.session_with(&model, adapter, &[&Evaluation { max_tokens: most }])?;
    let results = losses(&session, &data, &batches)?;
    match args.json {
        true => super::print_json(&as_json(&data, &results, args.per_token)),
        false => super::print(&as_text(&data, &results, args.per_token.then_some(&model.tokenizer))),
    }
}

/// `--generate`: answers, and the shares that are right.
fn answers(args: &EvalArgs, model: &OpenModel) -> Result<()> {
    let files = folder::files(&args.data, Side::HeldOut)?;
    let set = CheckSet::required(&files, model, args.max_new_tokens)?;
    let session = args.device.session(model, &args.adapters, &[&set.generation()])?;
    let mut generator = Generator::of(&session, set.generation())?;
    let learned = args.adapters.folders.first().map(|folder| end_of_turn::read(folder)).transpose()?;
    let ends = Ends::new(&model.tokenizer, model.template.as_ref(), learned.as_deref());
    let bar = Counter::of("answering");
    let each = |done| {
        bar.at(done as u64, set.questions.len() as u64);
        ControlFlow::Continue(())
    };
    // Nothing stops it but the end of the process.
    let answers = set.ask(&mut generator, &model.tokenizer, &ends, each)?.unwrap_or_default();
    bar.finish();
    let tally = Tally::of(&answers);
    if args.json {
        let mut document = json!(tally);
        document["answers"] = answers.iter().map(|answer| json!({ "text": answer.text, "met": answer.is_right() })).collect();
        return super::print_json(&document);
    }
    let mut text = String::new();
    // Writing to a String cannot fail; the results are dropped for that reason.
    for (question, answer) in set.questions.iter().zip(&answers).filter(|(_, answer)| !answer.is_right()) {
        let missed: Vec<&str> = answer.met.iter().filter(|(_, met)| !met).map(|(kind, _)| *kind).collect();
        let _ = writeln!(text, "{}: not {}: {:?}", question.place, missed.join(", "), answer.text);
    }
    for (name, Share { right, of }) in tally.checks.iter().chain(&tally.groups) {
        let _ = writeln!(text, "{name}: {right} of {of}, {:.1} %", 100.0 * *right as f64 / *of as f64);
    }
    super::print(&text)
}

/// The losses of all examples, in the order of the file.
pub(super) fn losses(session: &Session, data: &Dataset, batches: &[Vec<usize>]) -> Result<Vec<ExampleLoss>> {
    let mut evaluator = session.evaluator(batch::most_tokens(data, batches))?;
    let mut results = Vec::new();
    for chosen in batches {
        let nll = evaluator.token_nll(&Batch::assemble(&data.examples, chosen))?;
        let mut nll = nll.into_iter();
        for example in chosen.iter().map(|&at| &data.examples[at]) {
            let result = ExampleLoss { nll: nll.by_ref().take(example.supervised_tokens()).map(f64::from).collect() };
            if !result.loss().is_finite() {
                let place = data.report.place(example.line);
                let proposal = "try --weights f32; if that does not help, the model file or the adapter is damaged";
                return Err(Error::failed(place, "the loss of this record is not finite", proposal));
            }
            results.push(result);
        }
    }
    Ok(results)
}

/// -log p of the supervised tokens of one example, in order.
pub(super) struct ExampleLoss {
    nll: Vec<f64>,
}

impl ExampleLoss {
    fn loss(&self) -> f64 {
        self.nll.iter().sum::<f64>() / self.nll.len() as f64
    }

    /// One entry for each token but the first: entry i is -log p(id i+1 | ids 0..=i), `None` where that token is not supervised.
    fn by_position(&self, example: &Example) -> Vec<Option<f64>> {
        let mut nll = self.nll.iter();
        example.labels.iter().skip(1).map(|label| label.and_then(|_| nll.next().copied())).collect()
    }
}

/// Mean loss and number of all supervised tokens.
pub(super) fn total(results: &[ExampleLoss]) -> (f64, usize) {
    let tokens = results.iter().map(|result| result.nll.len()).sum();
    let sum: f64 = results.iter().flat_map(|result| &result.nll).sum();
    (sum / tokens as f64, tokens)
}

fn as_json(data: &Dataset, results: &[ExampleLoss], per_token: bool) -> Value {
    let examples: Vec<Value> = (data.examples.iter().zip(results))
        .map(|(example, result)| {
            let mut entry = json!({ "loss": result.loss(), "tokens": result.nll.len() });
            if per_token {
                entry["token_nll"] = json!(result.by_position(example));
            }
            entry
        })
        .collect();
    let (loss, tokens) = total(results);
    json!({ "loss": loss, "perplexity": loss.exp(), "tokens": tokens, "examples": examples })
}

/// `tokenizer`: also list each token.
fn as_text(data: &Dataset, results: &[ExampleLoss], tokenizer: Option<&Tokenizer>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail; the results are dropped for that reason.
    if let Some(tokenizer) = tokenizer {
        for (example, result) in data.examples.iter().zip(results) {
            let _ =
                writeln!(text, "{}: loss {:.4}, {} tokens", data.report.named(&[example.line]), result.loss(), result.nll.len());
            for (&id, nll) in example.input_ids[1..].iter().zip(result.by_position(example)) {
                let token = tokenizer.decode(&[id], false).unwrap_or_default();
                let nll = nll.map_or("      -".to_string(), |nll| format!("{nll:7.3}"));
                let _ = writeln!(text, "  {nll}  {token:?}");
            }
        }
    }
    let (loss, tokens) = total(results);
    let _ = writeln!(text, "loss {loss:.4}, perplexity {:.3}, {tokens} tokens in {} records", loss.exp(), results.len());
    text
}
