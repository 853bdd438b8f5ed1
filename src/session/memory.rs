//! What graphs occupy on a device, known from the configuration alone, and the refusal of what does not fit.

use std::collections::HashSet;
use std::fmt::Write;

use crate::byte_size::ByteSize;
use crate::gpu::{Room, padded};
use crate::graph::{Graph, Origin, ValueId};
use crate::kernel::Facts;
use crate::model::graph::{Head, Model};
use crate::plan::Plan;
use crate::{Error, Result};

/// The plan of a graph whose weights, adapter and state lie elsewhere, and the bytes of its inputs and kernel parameters. `keep` is read
/// after a run; `more_pinned` lies elsewhere too.
pub fn planned(graph: &Graph, keep: &[ValueId], more_pinned: &[ValueId], facts: &Facts) -> (Plan, usize) {
    let leaves = graph.value_ids().filter(|id| matches!(graph[*id].origin, Origin::Weight | Origin::Adapter | Origin::State));
    let pinned: HashSet<ValueId> = leaves.chain(more_pinned.iter().copied()).collect();
    let plan = Plan::new(graph, keep, &pinned);
    let inputs = plan.input_bytes(graph) + plan.parameter_bytes(graph, facts);
    (plan, inputs)
}

/// Bytes of a model's rope tables, but for one that is an input of each run.
pub fn rope_bytes(model: &Model) -> usize {
    let of_weights = |table: &&ValueId| model.graph[**table].origin == Origin::Weight;
    model.rope_tables.iter().filter(of_weights).map(|&table| padded(model.graph[table].tensor.max_bytes())).sum()
}

/// Bytes on the device, by class, of a model that is not trained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub weights: usize,
    pub adapter: usize,
    /// Keys and values of earlier tokens.
    pub cache: usize,
    /// After sharing by liveness.
    pub activations: usize,
    /// Token ids, positions, rope tables, kernel parameters.
    pub inputs: usize,
    /// The largest single value, which has to fit a binding: name and bytes.
    pub largest: Option<(String, usize)>,
}

impl Needs {
    /// What graphs need that run beside each other; those with a key/value cache share one.
    pub fn of(models: &[Model], facts: &Facts) -> Self {
        let mut needs = Self::default();
        for model in models {
            let graph = &model.graph;
            let outputs = match model.head {
                Head::Loss { loss, nll } => vec![loss, nll],
                Head::Logits(value) | Head::Hidden(value) => vec![value],
            };
            let (plan, inputs) = planned(graph, &outputs, &[], facts);
            needs.activations += plan.arena_bytes();
            needs.inputs += inputs + rope_bytes(model);
            let cache = model.caches.iter().map(|&cache| padded(graph[cache].tensor.max_bytes())).sum();
            needs.cache = needs.cache.max(cache);
            let caches = model.caches.iter().map(|&cache| (graph[cache].name.clone(), graph[cache].tensor.max_bytes()));
            let largest = plan.largest(graph).into_iter().chain(caches).max_by_key(|(_, bytes)| *bytes);
            needs.largest = needs.largest.into_iter().chain(largest).max_by_key(|(_, bytes)| *bytes);
        }
        needs
    }

    /// All of it.
    pub fn total(&self) -> usize {
        self.weights + self.adapter + self.cache + self.activations + self.inputs
    }

    /// Refuses what a device, called `place`, has not the room for, as far as that is known. `smaller`: options that would help.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what is needed, by class, and what would make it less.
    pub fn check_room(&self, place: &str, room: &Room, smaller: &[&str]) -> Result<()> {
        let total = self.total();
        if let Some((free, source)) = room.free.filter(|(free, _)| total as u64 > *free) {
            let free = ByteSize(usize::try_from(free).unwrap_or(usize::MAX));
            return Err(self.short(place, &format!("this needs {}, but there are {free} ({source})", ByteSize(total)), smaller));
        }
        if let Some((name, bytes)) = self.largest.as_ref().filter(|(_, bytes)| *bytes > room.largest_binding) {
            let [bytes, most] = [*bytes, room.largest_binding].map(ByteSize);
            return Err(self.short(
                place,
                &format!("`{name}` needs {bytes} in one piece, but the largest piece is {most}"),
                smaller,
            ));
        }
        Ok(())
    }

    /// `error`; where memory was short after all, with the figures.
    pub fn explained(&self, error: Error, place: &str, smaller: &[&str]) -> Error {
        match error {
            Error::OutOfMemory { problem, .. } => self.short(place, &problem, smaller),
            other => other,
        }
    }

    fn short(&self, place: &str, problem: &str, smaller: &[&str]) -> Error {
        let classes = [
            ("weights", self.weights),
            ("adapter", self.adapter),
            ("keys and values", self.cache),
            ("activations", self.activations),
            ("inputs", self.inputs),
        ];
        let problem = format!("{problem}{}", table(&classes));
        let mut proposal = "what would help:".to_string();
        for line in smaller.iter().chain(&["--weights with a smaller type, such as q8_0"]) {
            let _ = write!(proposal, "\n    {line}");
        }
        Error::OutOfMemory { place: place.to_string(), problem, proposal }
    }
}

/// The classes that are not empty, a line each.
pub fn table(classes: &[(&str, usize)]) -> String {
    let mut text = "\n  what it needs:".to_string();
    for (class, bytes) in classes.iter().filter(|(_, bytes)| *bytes > 0) {
        let _ = write!(text, "\n    {class:<24}{:>12}", ByteSize(*bytes).to_string());
    }
    text
}
