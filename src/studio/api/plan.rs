//! `/api/plan`: what a run with these options would train, need and take, before it is started.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Answered, Method, Route, engine, host};
use crate::advise::choices::choices;
use crate::advise::looks::Looks;
use crate::studio::jobs::Engine;
use crate::studio::{Opened, Studio};
use crate::terminal::option;
use crate::train::memory::Memory;
use crate::train::needs::Planned;
use crate::train::options::{Recipe, TrainOptions};
use crate::train::prepare::Prepared;
use crate::train::rate;
use crate::{Error, Result};

pub(super) fn routes() -> Vec<Route> {
    vec![host(Method::Post, "/api/plan", plan), engine(Method::Post, "/api/time", time)]
}

/// Any keys of a recipe. `model` is the one that is open; without `data` and `out` the plan is of full batches.
pub type Asked = Map<String, Value>;

/// What the options mean.
#[derive(Serialize)]
pub struct Plan {
    /// Numbers that are trained.
    trainable: usize,
    memory: PlannedMemory,
    /// Of a full batch, forward and backward; `None` until this device has been timed (`/api/time`).
    step_seconds: Option<f64>,
    /// Floating-point operations of a full batch.
    step_flops: f64,
    command: String,
    /// The same as a file for `train --config`.
    recipe: String,
    reasons: Vec<Reason>,
}

/// Bytes on the device.
#[derive(Serialize)]
struct PlannedMemory {
    weights: usize,
    /// With inputs, and what evaluation adds.
    activations: usize,
    adapter: usize,
    optimizer: usize,
    total: usize,
}

impl From<Memory> for PlannedMemory {
    fn from(memory: Memory) -> Self {
        Self {
            weights: memory.weights,
            activations: memory.activations + memory.inputs + memory.evaluation,
            adapter: memory.adapters,
            optimizer: memory.optimizer,
            total: memory.total(),
        }
    }
}

/// Why an option has its value.
#[derive(Serialize)]
pub struct Reason {
    /// The key of the recipe.
    choice: String,
    value: String,
    why: String,
    /// Who has measured it; empty where it is a default of the option table.
    evidence: String,
    /// What a wrong choice would cost.
    if_wrong: String,
}

fn plan(studio: &Arc<Studio>, asked: Asked) -> Answered<Plan> {
    let opened = studio.opened()?;
    let has_data = asked.contains_key("data");
    let (text, options) = options_of(asked, &opened)?;
    let opened = studio.opened_for(&options)?;
    let (trainable, memory, flops, reasons) = match has_data {
        true => {
            let prepared = Prepared::new(options.clone(), &opened.model)?;
            let reasons = advised(&prepared, &opened)?;
            (prepared.trained_parameters(), prepared.memory(), prepared.flops_a_batch(), reasons)
        }
        false => {
            let planned = Planned::of(&options, &opened.model)?;
            (planned.placement.parameters(), planned.memory(), planned.flops(), Vec::new())
        }
    };
    Ok(Plan {
        trainable,
        memory: memory.into(),
        step_seconds: studio.jobs.rate().map(|rate| flops * options.gradient_accumulation_steps as f64 / rate),
        step_flops: flops,
        command: command(&text, has_data)?,
        reasons: reasons.into_iter().chain(of_table(&text)?).collect(),
        recipe: text.to_string(),
    })
}

/// The recipe as a file has it, and checked as the command line checks it.
pub(super) fn options_of(mut asked: Asked, opened: &Opened) -> Result<(toml::Table, TrainOptions)> {
    asked.insert("model".to_string(), Value::String(opened.spec.clone()));
    let text = recipe_table(asked)?;
    let mut recipe = Recipe::from_toml(&text.to_string(), Path::new("recipe"))?;
    recipe.data.get_or_insert_with(|| vec![PathBuf::from("data.jsonl")]);
    recipe.out.get_or_insert_with(|| PathBuf::from("my-adapter"));
    Ok((text, recipe.resolve()?))
}

/// What the page's form says, without what it leaves open.
pub(super) fn recipe_table(asked: Asked) -> Result<toml::Table> {
    let given = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let given: Map<String, Value> = asked.into_iter().filter(|(_, value)| given(value)).collect();
    let proposal = "give each key the value that a recipe file has";
    toml::Table::try_from(given).map_err(|error| Error::bad_input("recipe", error, proposal))
}

fn command(recipe: &toml::Table, has_data: bool) -> Result<String> {
    let mut words = vec!["graftling train".to_string()];
    let mut option = |key: &str, value: &str| words.push(option(key, value));
    // What must be given comes first, in its order.
    for key in Recipe::keys() {
        match recipe.get(&key) {
            Some(toml::Value::Array(items)) if key == "data" || key == "eval_data" => {
                items.iter().filter_map(toml::Value::as_str).for_each(|item| option(&key, item));
            }
            Some(toml::Value::Array(items)) => {
                let items: Vec<&str> = items.iter().filter_map(toml::Value::as_str).collect();
                option(&key, &items.join(","));
            }
            Some(toml::Value::String(text)) => option(&key, text),
            Some(value) => option(&key, &value.to_string()),
            None if key == "data" && !has_data => option(&key, "data.jsonl"),
            None if key == "out" => option(&key, "my-adapter"),
            None => {}
        }
    }
    Ok(words.join(" "))
}

/// What `advise` says to the data, as far as it can without asking the model.
fn advised(prepared: &Prepared, opened: &Opened) -> Result<Vec<Reason>> {
    let looks = Looks::of(&prepared.data, &opened.model.tokenizer)?;
    let recipe = Recipe {
        model: Some(prepared.options.model.clone()),
        data: Some(prepared.options.data.clone()),
        out: Some(prepared.options.out.clone()),
        ..Recipe::default()
    };
    let choices = choices(&looks, &recipe, &opened.model)?;
    let reason = |choice: crate::advise::choices::Choice| Reason {
        choice: choice.option.to_string(),
        value: choice.value.plain(),
        why: format!("`graftling advise` would take {} here: {}", choice.value.plain(), choice.why),
        evidence: choice.evidence.to_string(),
        if_wrong: choice.if_wrong.to_string(),
    };
    Ok(choices.into_iter().map(reason).collect())
}

/// Why the options that were left out have the values that they have.
fn of_table(recipe: &toml::Table) -> Result<Vec<Reason>> {
    let fields = Recipe::fields().into_iter();
    let left_open = fields.filter(|field| !recipe.contains_key(field.key) && !field.why.is_empty() && !field.required);
    // The others say what happens without them: nothing.
    let told = left_open.filter(|field| !field.default.is_null() || field.why.contains(':'));
    let reason = |field: crate::train::ask::recipe::Field| {
        let value = match field.default {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let choice = field.key.to_string();
        Reason { choice, value, why: field.why.to_string(), evidence: String::new(), if_wrong: String::new() }
    };
    Ok(told.map(reason).collect())
}

/// How fast this device is.
#[derive(Serialize)]
pub struct Rate {
    /// Floating-point operations a second of forward and backward.
    flops_per_second: f64,
    /// Of a full batch of the plan.
    step_seconds: f64,
}

/// A text that is long enough for the kernels to be busy.
const TIMED: &str =
    "A graft is a shoot of one plant that grows on the root of another. The root stays what it is, and feeds both. ";

fn time(engine: &mut Engine, asked: Asked) -> Result<Rate> {
    let opened = engine.opened()?.clone();
    let (_, options) = options_of(asked, &opened)?;
    let planned = Planned::of(&options, &opened.model)?;
    let ids = opened.model.tokenizer.encode(&TIMED.repeat(8), true)?;
    let weights = engine.session()?.weights().clone();
    let flops_per_second = rate::measure(weights, &opened.model.files.config, &planned, &ids)?;
    engine.timed(flops_per_second);
    Ok(Rate { flops_per_second, step_seconds: planned.flops() / flops_per_second })
}
