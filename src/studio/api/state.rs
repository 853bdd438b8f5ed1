//! `/api/state`: what is open; `/api/open`: another model or adapter.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Answered, Method, Nothing, Route, host};
use crate::architecture::{FAMILIES, parameters};
use crate::formats::ModelPlace;
use crate::storage::source::by_format;
use crate::studio::jobs::{DeviceName, Stage};
use crate::studio::{Opened, Studio};

pub(super) fn routes() -> Vec<Route> {
    vec![host(Method::Get, "/api/state", state), host(Method::Post, "/api/open", open)]
}

/// What is open.
#[derive(Serialize)]
pub struct State {
    /// `None` where only runs are looked at.
    model: Option<ModelState>,
    adapter: Option<AdapterState>,
    /// `None` until a view has needed it.
    device: Option<DeviceName>,
    engine: EngineState,
    run: Option<RunState>,
    version: &'static str,
}

#[derive(Serialize)]
struct ModelState {
    name: String,
    path: String,
    family: &'static str,
    /// In which most of its bytes are stored.
    format: String,
    parameters: u64,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocabulary: usize,
    context: usize,
    /// Of the tensors in the file.
    bytes: u64,
    /// Whether it has a chat template.
    chat: bool,
    experts: Option<ExpertsState>,
}

/// What stands in the place of the MLP in some layers.
#[derive(Serialize)]
struct ExpertsState {
    count: usize,
    /// To how many of them a token is sent.
    per_token: usize,
    /// Features inside one.
    intermediate: usize,
    /// Features inside the one that every token is sent to.
    shared: Option<usize>,
    layers: Vec<usize>,
}

#[derive(Serialize)]
struct AdapterState {
    path: String,
    /// What the adapter's scale is multiplied by where a request says nothing else.
    strength: f64,
    parameters: usize,
    sites: usize,
}

#[derive(Serialize)]
struct RunState {
    dir: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum EngineState {
    Closed,
    Opening,
    Ready,
    Training,
}

fn state(studio: &Arc<Studio>, _: Nothing) -> Answered<State> {
    let opened = studio.opened().ok();
    let engine = match studio.jobs.stage() {
        _ if studio.is_training() => EngineState::Training,
        Stage::Closed => EngineState::Closed,
        Stage::Opening => EngineState::Opening,
        Stage::Ready => EngineState::Ready,
    };
    Ok(State {
        model: opened.as_deref().map(model_state),
        adapter: opened.as_deref().and_then(|opened| opened.adapter.as_ref()).map(|adapter| AdapterState {
            path: adapter.folder.display().to_string(),
            strength: 1.0,
            parameters: adapter.placement.parameters(),
            sites: adapter.placement.pieces.len(),
        }),
        device: studio.jobs.device(),
        engine,
        run: studio.theatre.folder().map(|folder| RunState { dir: folder.display().to_string() }),
        version: env!("CARGO_PKG_VERSION"),
    })
}

fn model_state(opened: &Opened) -> ModelState {
    let files = &opened.model.files;
    let config = &files.config;
    let formats = by_format(files.tensors.tensors());
    let bytes = formats.values().map(|total| total.bytes).sum();
    let most = formats.into_iter().max_by_key(|(_, total)| total.bytes);
    let path = match &files.place {
        ModelPlace::Folder(path) | ModelPlace::Gguf(path) | ModelPlace::Config(path) => path.display().to_string(),
        ModelPlace::Hub(name) => name.clone(),
    };
    ModelState {
        name: files.name.clone(),
        path,
        family: FAMILIES.iter().find(|family| family.class == config.class).map_or("", |family| family.model_type),
        format: most.map_or(String::new(), |(name, _)| name),
        parameters: parameters(config).iter().map(|parameter| parameter.count()).sum(),
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        intermediate: config.intermediate_size,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocabulary: config.vocab_size,
        context: config.context(),
        bytes,
        chat: opened.model.template.is_some(),
        experts: config.experts.as_ref().map(|experts| ExpertsState {
            count: experts.count,
            per_token: experts.per_token,
            intermediate: experts.intermediate_size,
            shared: experts.shared_intermediate_size,
            layers: (0..config.num_hidden_layers).filter(|&layer| config.experts_of(layer).is_some()).collect(),
        }),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    /// Left out: the model that is open.
    model: Option<String>,
    /// A PEFT folder; left out: no adapter.
    adapter: Option<PathBuf>,
}

fn open(studio: &Arc<Studio>, asked: Open) -> Answered<State> {
    let spec = match asked.model {
        Some(spec) => spec,
        None => studio.opened()?.spec.clone(),
    };
    studio.reopen(&spec, asked.adapter.as_deref())?;
    state(studio, Nothing {})
}
