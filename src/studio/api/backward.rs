//! `/api/backward`: one record through the training step: losses, gradients, and what was not computed.
//!
//! The graph is [`LossGraph`], the very one that training runs, with the record as its only batch; nothing is dropped (dropout), and nothing
//! is updated. Which nodes there are, and which there are not, is read from what [`crate::autograd`] made.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::prove::Forward;
use crate::adapter::dora::MAGNITUDE;
use crate::adapter::{AdapterBuffers, DeviceAdapter, Method, Placement};
use crate::architecture::Architecture;
use crate::data::{Batch, Example, LoneRecord, encode_record};
use crate::graph::{Graph, NodeId, Origin, ValueId};
use crate::plan::{self, Pinned};
use crate::session::Session;
use crate::session::probe::{MOST_TOKENS, Probe};
use crate::studio::look::{Look, norm, rows_for, usual_placement};
use crate::train::step::LossGraph;
use crate::{Error, Result};

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// A record, as a line of a data file has it.
    pub record: Map<String, Value>,
    /// Longer records are cut; left out, and at the most: [`MOST_TOKENS`].
    pub max_length: Option<usize>,
}

/// The training step of a record.
#[derive(Debug, Serialize)]
pub struct Backward {
    /// Mean over the supervised tokens, in nats.
    pub loss: f64,
    pub tokens: Vec<Token>,
    /// Whether a fresh adapter stands in for one that is not open: training's default, whose B is zero, so that A has no gradient yet.
    pub fresh: bool,
    pub sites: Vec<Site>,
    pub graph: Nodes,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Token {
    pub id: u32,
    pub text: String,
    /// -log p of this token after those before it; `None` where it is not supervised.
    pub nll: Option<f32>,
}

/// Euclidean norms of the gradients of a site's matrices.
#[derive(Debug, PartialEq, Serialize)]
pub struct Site {
    pub site: String,
    pub layer: usize,
    pub module: &'static str,
    pub a_norm: f64,
    pub b_norm: f64,
    /// Of DoRA's m.
    pub m_norm: Option<f64>,
}

/// The step as it is computed, and what of it is not.
#[derive(Debug, Serialize)]
pub struct Nodes {
    pub nodes: Vec<Node>,
    pub counts: Counts,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Node {
    pub name: String,
    pub op: &'static str,
    pub layer: Option<usize>,
    pub state: State,
    pub why: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Forward,
    Backward,
    /// Another trainer would compute it.
    Skipped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub forward: usize,
    pub backward: usize,
    pub skipped: usize,
}

/// A record on the device, ready to be differentiated.
pub struct Step {
    pub probe: Probe,
    pub example: Example,
    pub batch: Batch,
    loss: ValueId,
    nll: ValueId,
    gradients: AdapterBuffers,
}

impl Step {
    /// Encodes a record and prepares its step with this adapter.
    ///
    /// # Errors
    /// Bad input: no record, or one with nothing to learn. Failed: the device has not the memory.
    pub fn new(look: &Look, adapter: &DeviceAdapter, asked: &Asked) -> Result<(Self, LossGraph)> {
        let example = example(look, asked)?;
        let session = look.session;
        let graph = graph(session, &adapter.placement, rows_for(example.input_ids.len()))?;
        let gradients = AdapterBuffers::allocate(session.weights().device().clone(), "gradients", &adapter.layout)?;
        let mut pinned = pinned(look, adapter, None, &graph)?;
        pinned.extend(adapter.layout.pinned(&gradients, &graph.gradients));
        let (loss, nll) = (graph.loss, graph.nll);
        let probe = Probe::new(session, graph.model.graph.clone(), graph.model.inputs, &[loss, nll], pinned)?;
        let batch = Batch::assemble(std::slice::from_ref(&example), &[0]);
        Ok((Self { probe, example, batch, loss, nll, gradients }, graph))
    }

    /// Runs it; gives the loss.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn run(&mut self) -> Result<f32> {
        self.probe.run_batch(&self.batch, 1.0 / self.batch.targets.len() as f64)?;
        Ok(self.probe.read(self.loss)?[0])
    }

    /// -log p of each supervised token.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn token_nll(&self) -> Result<Vec<f32>> {
        self.probe.read(self.nll)
    }

    /// The gradients of the last run, laid out as the adapter.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn gradients(&self) -> Result<Vec<f32>> {
        self.gradients.read()
    }
}

/// The step of a record of at most `rows` tokens. What is looked at is the loss of the tokens.
fn graph(session: &Session, placement: &Placement, rows: usize) -> Result<LossGraph> {
    let config = Architecture { router_aux_loss_coef: None, ..session.config().clone() };
    Ok(LossGraph::build(&config, &|name| session.weights().dtype(name), placement, rows)?)
}

/// Has the driver compile what the step of a record of at most `rows` tokens runs.
///
/// # Errors
/// If a kernel does not compile, or the device is lost.
pub(in crate::studio) fn compile(session: &Session, rows: usize) -> Result<()> {
    let fresh = || usual_placement(session.config());
    let placement = session.adapter().map_or_else(fresh, |adapter| adapter.without_dropout().placement);
    let graph = graph(session, &placement, rows)?;
    let kept = [graph.outputs(), graph.gradients.clone()].concat();
    let pinned = session.weights().pinned(&graph.model, session.config())?;
    plan::compile(&session.weights().place(), &graph.model.graph, &kept, &pinned)
}

/// Where the leaves of a step are; `constants` as in [`DeviceAdapter::pinned_beside`].
pub(super) fn pinned(
    look: &Look,
    adapter: &DeviceAdapter,
    constants: Option<&AdapterBuffers>,
    graph: &LossGraph,
) -> Result<HashMap<ValueId, Pinned>> {
    let mut pinned = look.session.weights().pinned(&graph.model, look.session.config())?;
    pinned.extend(adapter.pinned_beside(constants, &graph.model.graph, &graph.leaves));
    Ok(pinned)
}

/// The record as tokens, cut to what a look is at.
fn example(look: &Look, asked: &Asked) -> Result<Example> {
    let vocabulary = look.session.tokens();
    let most = MOST_TOKENS.min(look.session.config().context());
    let max_length = asked.max_length.unwrap_or(most);
    if !(2..=most).contains(&max_length) {
        return Err(Error::bad_input("max_length", format!("{max_length} tokens"), format!("give 2 to {most}")));
    }
    let json = Value::Object(asked.record.clone()).to_string();
    let model = look.model;
    let LoneRecord { mut example, .. } = encode_record(&json, &model.tokenizer, model.template.as_ref(), vocabulary)?;
    example.input_ids.truncate(max_length);
    example.labels.truncate(max_length);
    look.check_ids(&example.input_ids, None)?;
    if example.supervised_tokens() == 0 {
        let problem = format!("in its first {max_length} tokens there is nothing to learn");
        return Err(Error::bad_input("record", problem, "give one with an assistant's turn or a completion, or a shorter one"));
    }
    Ok(example)
}

/// Differentiates the loss of a record.
///
/// # Errors
/// Bad input: no record, or one with nothing to learn. Failed: the device has not the memory.
pub fn backward(look: &mut Look, asked: &Asked) -> Result<Backward> {
    let adapter = look.trained()?;
    let (mut step, graph) = Step::new(look, &adapter, asked)?;
    let loss = f64::from(step.run()?);
    let mut nll = step.token_nll()?.into_iter();
    let contents = step.gradients()?;
    let gradients = adapter.layout.unpack(&contents);
    let norm_of = |name: String| gradients.iter().find(|tensor| tensor.name == name).map_or(0.0, |tensor| norm(&tensor.values));
    let sites = adapter.placement.pieces.iter().map(|piece| {
        let matrix = |own: &str| norm_of(piece.matrix_name(own));
        let (a_norm, b_norm) = (matrix("lora_a"), matrix("lora_b"));
        let m_norm = matches!(piece.method, Method::Dora(_)).then(|| matrix(MAGNITUDE));
        Site { site: piece.site.name(), layer: piece.site.layer, module: piece.site.module, a_norm, b_norm, m_norm }
    });
    let sites = sites.collect();
    let mut tokens = Vec::with_capacity(step.example.input_ids.len());
    for (place, (&id, label)) in step.example.input_ids.iter().zip(&step.example.labels).enumerate() {
        let nll = if place > 0 && label.is_some() { nll.next() } else { None };
        tokens.push(Token { id, text: look.text(id)?, nll });
    }
    let graph_nodes = nodes(&graph);
    let differentiated = Differentiated { asked: asked.clone(), graph, batch: step.batch, gradients: contents, forward: None };
    look.kept.differentiated = Some(differentiated);
    Ok(Backward { loss, tokens, fresh: look.session.adapter().is_none(), sites, graph: graph_nodes })
}

/// A record that has been differentiated, for proofs of its gradients.
pub struct Differentiated {
    pub(super) asked: Asked,
    pub(super) graph: LossGraph,
    pub(super) batch: Batch,
    /// Laid out as the adapter.
    pub(super) gradients: Vec<f32>,
    /// Once somebody has asked for a proof.
    pub(super) forward: Option<Forward>,
}

/// The nodes of a step, and those that there are not.
pub fn nodes(step: &LossGraph) -> Nodes {
    let graph = &step.model.graph;
    let forward = step.forward_nodes();
    let mut nodes = Vec::new();
    let mut push = |name: String, op, state, why| {
        let layer = layer_of(&name);
        nodes.push(Node { name, op, layer, state, why });
    };
    for (index, node) in graph.nodes().iter().enumerate() {
        let (state, why) = match index < forward {
            true => (State::Forward, "leads to the loss"),
            false => (State::Backward, "lies between an adapter and the loss"),
        };
        push(node.name.clone(), node.op.name(), state, why);
    }
    for (index, node) in graph.nodes()[..forward].iter().enumerate() {
        if !is_differentiated(step, graph, NodeId(index)) {
            push(
                format!("d_{}", node.name),
                node.op.name(),
                State::Skipped,
                "no adapter below it: nothing there would use its gradient",
            );
            continue;
        }
        for &input in &node.inputs {
            let value = &graph[input];
            if value.origin == Origin::Weight && value.tensor.dtype.is_weight() {
                let why = "the weight is frozen: it needs no gradient";
                push(format!("d_{}", value.name), node.op.name(), State::Skipped, why);
            }
        }
    }
    let count = |state| nodes.iter().filter(|node| node.state == state).count();
    let counts = Counts { forward: count(State::Forward), backward: count(State::Backward), skipped: count(State::Skipped) };
    Nodes { nodes, counts }
}

/// Has a node of the forward pass a backward pass?
fn is_differentiated(step: &LossGraph, graph: &Graph, node: NodeId) -> bool {
    graph[node].outputs.iter().any(|output| *output == step.loss || step.gradient_of.contains_key(output))
}

/// The layer that a name tells.
fn layer_of(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn names_tell_layers() {
        assert_eq!(layer_of("d_model.layers.12.mlp.down_proj.weight"), Some(12));
        assert_eq!((layer_of("layers.3.self_attn.q_proj.lora_u"), layer_of("loss")), (Some(3), None));
    }
}
