//! `/api/prove`: the derivative of the loss by one number of A, B or DoRA's m, measured: that number is changed on the device, and the loss
//! is computed again.
//!
//! DoRA's gradient takes the lengths of rows for constants (section 4.3 of its paper). So they keep, while a number is changed, what they
//! are computed from: what is measured is the derivative that the gradient is of.
//!
//! With `D(h) = (L(w + h) - L(w - h)) / 2h`, what is given is `(4 D(h) - D(2h)) / 3`, of which the error falls with `h^4` (Richardson). The losses
//! are means of the tokens' f32 losses, added up in f64; each is off by some units in its last place, and the difference by that over h. So
//! h is as large as the curve allows, and `uncertainty` says what is left: how far D(h) and D(2h) disagree, and the rounding.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::backward::{self, Differentiated, Step, pinned};
use super::lora::no_site;
use crate::adapter::dora::MAGNITUDE;
use crate::adapter::{AdapterBuffers, DeviceAdapter, Method};
use crate::data::Batch;
use crate::graph::ValueId;
use crate::session::probe::Probe;
use crate::studio::look::Look;
use crate::train::step::LossGraph;
use crate::{Error, Result};

/// By how much the loss is to change: a thousand times its rounding.
const CHANGE: f64 = 4e-3;
/// The smallest step and the largest.
const STEPS: [f64; 2] = [1e-3, 0.5];
/// How far the slopes of two steps may disagree, as a share: then their combination is far nearer.
const BEND: f64 = 0.02;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// A record, as a line of a data file has it.
    pub record: Map<String, Value>,
    /// As in `/api/backward`.
    pub max_length: Option<usize>,
    /// `layers.3.self_attn.q_proj`
    pub site: String,
    pub matrix: Matrix,
    pub row: usize,
    pub column: usize,
}

/// A is `[rank, in_features]`, B `[out_features, rank]`; DoRA's m, `[out_features, 1]`, has the lengths of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Matrix {
    A,
    B,
    #[serde(rename = "m")]
    Magnitude,
}

/// A derivative in two ways.
#[derive(Debug, Serialize)]
pub struct Proof {
    /// The number itself.
    pub value: f32,
    /// By the backward pass.
    pub gradient: f64,
    /// By differences.
    pub difference: f64,
    /// h.
    pub step: f64,
    /// How far the two differ, as a share of the larger one.
    pub relative: f64,
    /// How far `difference` may be off.
    pub uncertainty: f64,
    /// The losses at -2h, -h, h, 2h.
    pub losses: [f64; 4],
}

/// Measures a derivative. The adapter is afterwards what it was, bit for bit.
///
/// # Errors
/// Bad input: no record, no such site, matrix, row or column. Failed: the device has not the memory.
pub fn prove(look: &mut Look, asked: &Asked) -> Result<Proof> {
    let adapter = look.trained()?;
    let piece =
        adapter.placement.pieces.iter().find(|piece| piece.site.name() == asked.site).ok_or_else(|| no_site(&asked.site))?;
    if asked.matrix == Matrix::Magnitude && !matches!(piece.method, Method::Dora(_)) {
        let problem = format!("{} is adapted by LoRA, which has no m", asked.site);
        return Err(Error::bad_input("matrix", problem, "ask for A or B"));
    }
    if piece.method.lora().is_none() {
        return Err(Error::bad_input("site", "has a bottleneck, and no A or B", "open a LoRA adapter"));
    }
    let own = match asked.matrix {
        Matrix::A => "lora_a",
        Matrix::B => "lora_b",
        Matrix::Magnitude => MAGNITUDE,
    };
    let name = piece.matrix_name(own);
    let element = adapter.layout.element(&name, asked.row, asked.column).ok_or_else(|| {
        let shape = adapter.layout.tensors.iter().find(|tensor| tensor.name == name).map_or([0, 0], |tensor| tensor.shape);
        let problem = format!("{name} has the shape {shape:?}, and no element [{}, {}]", asked.row, asked.column);
        Error::bad_input("row, column", problem, "count from 0")
    })?;

    let record = backward::Asked { record: asked.record.clone(), max_length: asked.max_length };
    let mut known = match look.kept.differentiated.take().filter(|known| known.asked == record) {
        Some(known) => known,
        None => {
            let (mut step, graph) = Step::new(look, &adapter, &record)?;
            step.run()?;
            let gradients = step.gradients()?;
            Differentiated { asked: record, graph, batch: step.batch, gradients, forward: None }
        }
    };
    let forward = match known.forward.take() {
        Some(forward) => forward,
        None => Forward::new(look, &adapter, &known.graph)?,
    };
    let gradient = f64::from(known.gradients[element]);
    let proof = known.forward.insert(forward).proof(look, &known.batch, adapter.parameters(), (element, gradient));
    look.kept.differentiated = Some(known);
    proof
}

/// The forward pass of a record's step.
pub struct Forward {
    probe: Probe,
    nll: ValueId,
}

impl Forward {
    /// Prepares the forward pass of the graph that gave the gradients.
    fn new(look: &Look, adapter: &DeviceAdapter, graph: &LossGraph) -> Result<Self> {
        let constants = if graph.leaves.copies.is_empty() { None } else { Some(adapter.copied("constants of a proof")?) };
        let (pinned, nll) = (pinned(look, adapter, constants.as_ref(), graph)?, graph.nll);
        let (graph, inputs) = (graph.model.graph.clone(), graph.model.inputs);
        Ok(Self { probe: Probe::new(look.session, graph, inputs, &[nll], pinned)?, nll })
    }

    fn proof(
        &mut self,
        look: &Look,
        batch: &Batch,
        parameters: &AdapterBuffers,
        (element, gradient): (usize, f64),
    ) -> Result<Proof> {
        let value = parameters.read_element(element)?;
        let mut h = (CHANGE / gradient.abs().max(f64::MIN_POSITIVE)).clamp(STEPS[0], STEPS[1]);
        let measured = loop {
            (look.pause)("losses beside the number", 0, 4)?;
            let measured = self.measured(batch, parameters, (element, f64::from(value)), h);
            parameters.write_element(element, value);
            let measured = measured?;
            // Where the curve bends more than the losses are rounded, a smaller step tells more.
            if measured.bend <= BEND * measured.slope.abs() || h / 4.0 < STEPS[0] || measured.rounding > measured.bend {
                break measured;
            }
            h /= 4.0;
        };
        let Measured { slope: difference, bend, rounding, losses } = measured;
        let larger = gradient.abs().max(difference.abs()).max(f64::MIN_POSITIVE);
        let relative = (gradient - difference).abs() / larger;
        Ok(Proof { value, gradient, difference, step: h, relative, uncertainty: bend + rounding, losses })
    }

    /// The slope from losses at four places around `value`.
    fn measured(
        &mut self,
        batch: &Batch,
        parameters: &AdapterBuffers,
        (element, value): (usize, f64),
        h: f64,
    ) -> Result<Measured> {
        // What f32 makes of the four numbers is what is divided by.
        let numbers = [-2.0, -1.0, 1.0, 2.0].map(|times| (value + times * h) as f32);
        let mut losses = [0.0; 4];
        for (loss, number) in losses.iter_mut().zip(numbers) {
            parameters.write_element(element, number);
            self.probe.run_batch(batch, 1.0 / batch.targets.len() as f64)?;
            let nll = self.probe.read(self.nll)?;
            *loss = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
        }
        let slope = |low: usize, high: usize| (losses[high] - losses[low]) / (f64::from(numbers[high]) - f64::from(numbers[low]));
        let (near, far) = (slope(1, 2), slope(0, 3));
        // Tens of layers in f32 are off by tens of units in the last place, which add up at random over the tokens.
        let off = 64.0 * f64::from(f32::EPSILON) * losses[1].abs().max(1.0) / (batch.targets.len() as f64).sqrt();
        Ok(Measured { slope: (4.0 * near - far) / 3.0, bend: (near - far).abs() / 3.0, rounding: off / h, losses })
    }
}

struct Measured {
    slope: f64,
    /// How far the slopes of both steps disagree.
    bend: f64,
    /// How far the slope is off by rounding.
    rounding: f64,
    losses: [f64; 4],
}
