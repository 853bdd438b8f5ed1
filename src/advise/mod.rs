//! What to adapt for these data on this model, and what it costs: a recommendation with its reasons.
//!
//! * [`looks`]: what the data looks like, by measures of a line each; [`choices`]: what follows from it, with the evidence; [`evidence`]: what our own sweeps say;
//! * this page: [`Advice`], with what fits the memory, how long it takes on this device, and the command; [`report`] shows it.

pub mod choices;
pub mod evidence;
pub mod looks;
pub mod report;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::byte_size::ByteSize;
use crate::gpu::Device;
use crate::session::evaluate::Evaluator;
use crate::session::{self, OpenModel, Watch};
use crate::storage::DType;
use crate::terminal::option;
use crate::train::memory::Memory;
use crate::train::options::Recipe;
use crate::train::prepare::Prepared;
use crate::train::shared::Shared;
use crate::train::step::Recompute;
use crate::{Error, Result};
use choices::{Choice, Value};
use looks::{Kind, Looks};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub model: String,
    pub data: Vec<PathBuf>,
    /// What the run may occupy on the GPU; `None`: what the device has, as far as that is known.
    pub memory_budget: Option<ByteSize>,
    pub device: Option<String>,
    pub no_autotune: bool,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// The device that was measured.
    pub device: String,
    pub looks: Looks,
    pub kinds: Vec<Kind>,
    pub choices: Vec<Choice>,
    /// Numbers that are trained.
    pub parameters: usize,
    pub steps: u64,
    /// Bytes on the device, by class, as planned.
    pub memory: Memory,
    /// Bytes that the run was to stay within.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<usize>,
    /// Floating-point operations a second of forward and backward, measured.
    pub flops_per_second: f64,
    /// Of the whole run, at that rate.
    pub seconds: f64,
    /// What to paste.
    pub command: String,
    /// A sweep that would decide what the evidence does not; `None` where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<String>,
}

/// Rows a batch, and storage types, that are tried one after the other until the run fits: what costs nothing comes first. (What is
/// computed again is chosen by the plan, for each of them.)
const BATCHES: [usize; 3] = [4, 2, 1];
const TYPES: [Option<DType>; 3] = [None, Some(DType::Q8_0), Some(DType::NF4)];
/// Longest rows that are proposed.
const LONGEST: usize = 2048;
/// Of the memory that a device has, what is left to others.
const LEFT: f64 = 0.1;

impl Advice {
    /// Looks at the data, asks the model about some of it, and times a step on the device.
    ///
    /// # Errors
    /// Bad input in model or data; nothing that could be proposed fits the budget; the device fails.
    pub fn give(question: &Question, watch: &dyn Watch) -> Result<Self> {
        let model = OpenModel::open(&question.model)?;
        let (device, budget) = match question.memory_budget {
            Some(budget) => (None, Some(budget.0)),
            None => {
                let device = Device::open(question.device.as_deref())?;
                let free = device.room().free.map(|(bytes, _)| (bytes as f64 * (1.0 - LEFT)) as usize);
                (Some(device), free)
            }
        };
        drop(device);
        let shared = Arc::new(Shared::default());
        let recipe = Recipe {
            model: Some(question.model.clone()),
            data: Some(question.data.clone()),
            out: Some(PathBuf::from("my-adapter")),
            device: question.device.clone(),
            no_autotune: question.no_autotune.then_some(true),
            memory_budget: budget.map(ByteSize),
            max_length: Some(LONGEST),
            ..Recipe::default()
        };
        // Any adapter will do to read the data.
        let prepared = Prepared::beside(shared.clone(), Recipe { memory_budget: None, ..recipe.clone() }.resolve()?, &model)?;
        let data = prepared.data.clone();
        let mut looks = Looks::of(&data, &model.tokenizer)?;
        drop(prepared);
        let recipe = Recipe { max_length: Some(looks.longest.next_multiple_of(64).clamp(64, LONGEST)), ..recipe };

        // The model's own loss, before anything is decided; it needs less than training does.
        let (recipe, prepared) = fitting(&recipe, &model, &shared)?;
        let most = Looks::most_tokens(&data);
        let graphs = [
            prepared.graphs(),
            vec![Evaluator::model(&model.files.config, &model.storage(prepared.weight_type()), None, most)?.graph],
        ];
        let device = prepared.open_device()?;
        let (name, resting) = (device.info.name.clone(), prepared.weight_type());
        let (weights, _) = session::load(&model, &prepared.session_options(), device, &graphs.concat(), None, watch)?;
        looks.ask(&data, &mut Evaluator::new(weights.clone(), &model.files.config, None, most)?)?;

        let mut choices = choices::choices(&looks, &recipe, &model)?;
        let recipe = chosen(&recipe, &choices)?;
        let (recipe, prepared) = fitting(&Recipe { weights: None, batch_size: None, ..recipe }, &model, &shared)?;
        // A larger adapter may leave less room for them.
        let weights = match prepared.weight_type() == resting {
            true => weights,
            false => {
                drop(weights);
                session::load(&model, &prepared.session_options(), prepared.open_device()?, &prepared.graphs(), None, watch)?.0
            }
        };
        let flops_per_second = prepared.measure_rate(weights)?;
        let batches = prepared.total_steps as f64 * prepared.options.gradient_accumulation_steps as f64;
        choices.extend(of_memory(&recipe, &prepared, question));
        let command = command(question, &choices);
        Ok(Self {
            device: name,
            kinds: looks.kinds(),
            parameters: prepared.trained_parameters(),
            steps: prepared.total_steps,
            memory: prepared.memory(),
            budget,
            flops_per_second,
            seconds: batches * prepared.flops_a_batch() / flops_per_second,
            command,
            sweep: sweep(question, &looks, &choices, prepared.trained_parameters()),
            choices,
            looks,
        })
    }
}

/// The recipe with what the choices say.
fn chosen(recipe: &Recipe, choices: &[Choice]) -> Result<Recipe> {
    let entries: Vec<String> = choices.iter().map(|choice| format!("{} = {}\n", choice.option, choice.value.toml())).collect();
    let said = Recipe::from_toml(&entries.concat(), std::path::Path::new("advice"))?;
    Ok(said.or(recipe.clone()))
}

/// The first of the proposals that stays within the recipe's budget.
fn fitting<'m>(recipe: &Recipe, model: &'m OpenModel, shared: &Arc<Shared>) -> Result<(Recipe, Prepared<'m>)> {
    let mut last = None;
    for weights in TYPES {
        for batch in BATCHES {
            let proposal = Recipe {
                weights,
                batch_size: Some(batch),
                gradient_accumulation_steps: Some(BATCHES[0] / batch),
                ..recipe.clone()
            };
            match Prepared::beside(shared.clone(), proposal.clone().resolve()?, model) {
                Ok(prepared) => return Ok((proposal, prepared)),
                Err(Error::BadInput { place, problem, proposal }) if place == "--memory-budget" => {
                    last = Some(Error::BadInput {
                        place,
                        problem: format!("even with nf4 weights and one row a batch: {problem}"),
                        proposal,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::bad_input("advise", "there is nothing to propose", "this is a defect; please report it")))
}

/// The choices that memory decides.
fn of_memory(recipe: &Recipe, prepared: &Prepared, question: &Question) -> Vec<Choice> {
    let memory = "the plan of the run's memory, which is what the run allocates (`graftling train --dry-run` prints it)";
    let mut all = vec![Choice {
        option: "max_length",
        value: Value::Whole(prepared.options.max_length as u64),
        why: "the longest record, rounded up to 64; shorter records share a row".to_string(),
        evidence: memory.into(),
        if_wrong: "too short cuts the ends of records, and says so; too long costs memory for rows that are never full",
        thin: false,
    }];
    if prepared.options.batch_size != BATCHES[0] {
        all.push(Choice {
            option: "batch_size",
            value: Value::Whole(prepared.options.batch_size as u64),
            why: "more rows at a time do not fit".to_string(),
            evidence: memory.into(),
            if_wrong: "nothing: the gradient is the same, summed over the batches of a step",
            thin: false,
        });
        all.push(Choice {
            option: "gradient_accumulation_steps",
            value: Value::Whole(prepared.options.gradient_accumulation_steps as u64),
            why: "as many rows a step as without the limit".to_string(),
            evidence: "LoRA Without Regret (2025): LoRA wants small batches, below 32 rows".into(),
            if_wrong: "a step of a few rows more or less makes little difference",
            thin: false,
        });
    }
    if let Some(weights) = recipe.weights {
        all.push(Choice {
            option: "weights",
            value: Value::Text(weights.to_string()),
            why: "as in the file, the weights would leave no room for training".to_string(),
            evidence: memory.into(),
            if_wrong: "q8_0 changes the base model's loss hardly, nf4 a little: compare `graftling eval` with and without --weights",
            thin: false,
        });
    }
    let recomputes = !matches!(prepared.recompute(), Recompute::None | Recompute::Layers(0));
    if let Some(budget) = question.memory_budget.or(recipe.memory_budget.filter(|_| recomputes)) {
        all.push(Choice {
            option: "memory_budget",
            value: Value::Text(budget.0.to_string()),
            why: match prepared.recompute() {
                Recompute::None => "all activations fit, nothing is computed twice".to_string(),
                Recompute::Layers(0) => "norms and activation functions are computed again, no whole layer".to_string(),
                Recompute::Layers(layers) => {
                    format!("the activations of {layers} layers are computed again instead of being kept")
                }
            },
            evidence: memory.into(),
            if_wrong: "nothing but time: recomputing changes no number of a run, and costs up to a third more arithmetic",
            thin: false,
        });
    }
    all
}

/// The `train` command.
fn command(question: &Question, choices: &[Choice]) -> String {
    let mut words = vec!["graftling train".to_string(), option("model", &question.model)];
    words.extend(question.data.iter().map(|data| option("data", &data.display().to_string())));
    words.push("--out my-adapter".to_string());
    let options = choices.iter().map(|choice| (choice.option, choice.value.plain()));
    words.extend(options.map(|(key, value)| option(key, &value)));
    words.extend(question.device.as_ref().map(|device| option("device", device)));
    words.extend(question.no_autotune.then(|| "--no-autotune".to_string()));
    words.join(" ")
}

/// A sweep file over what the evidence leaves open, short enough for an evening; `None` where it leaves nothing open.
fn sweep(question: &Question, looks: &Looks, choices: &[Choice], parameters: usize) -> Option<String> {
    let open: Vec<&str> = choices.iter().filter(|choice| choice.thin).map(|choice| choice.option).collect();
    if open.is_empty() {
        return None;
    }
    let text = |text: &str| toml::Value::String(text.to_string()).to_string();
    let data: Vec<String> = question.data.iter().map(|data| text(&data.display().to_string())).collect();
    let placements = open.contains(&"target_modules");
    let mut file = format!(
        "# The evidence leaves open: {}. Each run holds back a tenth of the records, and is judged by its loss on them.\n\
         # Better: check_data with answers to be met, and general_data to see what is forgotten (docs/sweep.md).\n\
         seeds = [1, 2]\nchoose = \"loss\"\n",
        open.join(", ")
    );
    if placements {
        file += &format!("budget = {parameters}\n");
    }
    file += &format!("\n[base]\nmodel = {}\ndata = [{}]\neval_split = 0.1\n", text(&question.model), data.join(", "));
    file += &question.device.as_ref().map_or(String::new(), |device| format!("device = {}\n", text(device)));
    file += if question.no_autotune { "no_autotune = true\n" } else { "" };
    let varies = |option: &str| open.contains(&option) || (placements && option == "lora_r");
    for choice in choices.iter().filter(|choice| !varies(choice.option)) {
        file += &format!("{} = {}\n", choice.option, choice.value.toml());
    }
    file += "\n[axes]\n";
    if placements {
        file += "target_modules = [\"attention\", \"mlp\", \"all-linear\"]\n";
    }
    if open.contains(&"learning_rate") {
        file += "learning_rate = [1e-4, 3e-4, 1e-3]\n";
    }
    if open.contains(&"epochs") {
        let most = choices.iter().find_map(|choice| match (choice.option, &choice.value) {
            ("epochs", Value::Whole(passes)) => Some(*passes),
            _ => None,
        });
        let most = most.unwrap_or(3);
        file += &format!("epochs = [{}, {most}]  # {} records\n", most.div_ceil(3), looks.records);
    }
    Some(file)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sweep::SweepFile;

    fn choice(option: &'static str, value: Value, thin: bool) -> Choice {
        Choice { option, value, why: String::new(), evidence: "".into(), if_wrong: "", thin }
    }

    fn question() -> Question {
        let data = vec![PathBuf::from("it's/data 1.jsonl")];
        Question { model: "a \"model\"".to_string(), data, memory_budget: None, device: None, no_autotune: false }
    }

    /// Whatever is left open, the sweep reads.
    #[test]
    fn every_sweep_that_is_proposed_is_one() {
        let options = ["target_modules", "learning_rate", "epochs"];
        for open in 1..8_usize {
            let thin = |at: usize| open >> at & 1 == 1;
            let choices = [
                choice("target_modules", Value::Text("all-linear".to_string()), thin(0)),
                choice("lora_r", Value::Whole(16), false),
                choice("lora_alpha", Value::Real(32.0), false),
                choice("learning_rate", Value::Real(2e-4), thin(1)),
                choice("epochs", Value::Whole(10), thin(2)),
                choice("memory_budget", Value::Text("1000000000".to_string()), false),
            ];
            let text = sweep(&question(), &Looks::default(), &choices, 5000).unwrap();
            let file = SweepFile::from_toml(&text, Path::new("sweep.toml")).unwrap_or_else(|error| panic!("{error}\n{text}"));
            let arms: usize = (0..3).map(|at| if thin(at) { [3, 3, 2][at] } else { 1 }).product();
            assert_eq!(file.arms.len(), arms, "{options:?} {text}");
            assert_eq!((file.arms[0].recipe.model.as_deref(), file.budget), (Some("a \"model\""), thin(0).then_some(5000)));
            let chosen = chosen(&Recipe::default(), &choices).unwrap();
            assert_eq!((chosen.lora_r, chosen.epochs, chosen.memory_budget), (Some(16), Some(10), Some(ByteSize(1_000_000_000))));
        }
        assert_eq!(sweep(&question(), &Looks::default(), &[choice("epochs", Value::Whole(3), false)], 1), None);
    }

    #[test]
    fn the_command_is_quoted_for_a_shell() {
        let line = command(&question(), &[choice("learning_rate", Value::Real(2e-4), false)]);
        assert_eq!(
            line,
            "graftling train --model 'a \"model\"' --data 'it'\\''s/data 1.jsonl' --out my-adapter --learning-rate 2e-4"
        );
    }
}
