//! `/api/mlp`: gate and up of a layer, the activation, and the neurons that a token moves most.

use serde::{Deserialize, Serialize};

use crate::ops::glu::Activation;
use crate::studio::look::Look;
use crate::{Error, Result};

/// Bars of a histogram.
const BARS: usize = 64;
/// Points of the activation's curve.
const POINTS: usize = 129;
/// Neurons that are named for each token.
const NEURONS: usize = 8;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
    pub layer: usize,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
}

/// What an MLP did with a text.
#[derive(Debug, Serialize)]
pub struct Mlp {
    /// Neurons: `intermediate_size`.
    pub width: usize,
    /// `silu` or `gelu_tanh`.
    pub activation: &'static str,
    /// Before the activation, of all tokens.
    pub gate: Distribution,
    pub up: Distribution,
    /// The activation from the lowest gate to the highest: `[gate, activation(gate)]`.
    pub curve: Vec<[f64; 2]>,
    pub tokens: Vec<Token>,
}

#[derive(Debug, Serialize)]
pub struct Distribution {
    pub histogram: Histogram,
}

/// Counts of bars of equal width from `from` to `to`.
#[derive(Debug, PartialEq, Serialize)]
pub struct Histogram {
    pub from: f32,
    pub to: f32,
    pub counts: Vec<usize>,
}

#[derive(Debug, Serialize)]
pub struct Token {
    /// Those of the largest `value` in magnitude, the largest first.
    pub neurons: Vec<Neuron>,
}

/// `value = activation(gate) * up`, as the device computed it.
#[derive(Debug, PartialEq, Serialize)]
pub struct Neuron {
    pub neuron: usize,
    pub gate: f32,
    pub up: f32,
    pub value: f32,
}

/// The MLP of a layer.
///
/// # Errors
/// Bad input: ids, layer or strength out of range. Failed: the device has not the memory.
pub fn mlp(look: &mut Look, asked: &Asked) -> Result<Mlp> {
    look.check_ids(&asked.ids, asked.adapter)?;
    look.check_layer(asked.layer)?;
    if look.session.config().experts_of(asked.layer).is_some() {
        let (place, problem) = (format!("layer {}", asked.layer), "has experts, of which this view shows none");
        return Err(Error::bad_input(place, problem, "look at a layer with one MLP, or at its attention"));
    }
    let ready = look.layer(asked.layer, &asked.ids, asked.adapter)?;
    let (probe, layer) = (&ready.probe, ready.layer()?);
    let (gate, up, inner) = (probe.read(layer.gate)?, probe.read(layer.up)?, probe.read(layer.inner)?);
    let width = look.session.config().intermediate_size;
    let tokens = inner.chunks(width).enumerate().map(|(token, row)| {
        let neuron = |&neuron: &usize| {
            let at = token * width + neuron;
            Neuron { neuron, gate: gate[at], up: up[at], value: inner[at] }
        };
        Token { neurons: strongest(row).iter().map(neuron).collect() }
    });
    let tokens = tokens.collect();
    let activation = layer.glu.activation;
    let gates = histogram(&gate);
    let point = |at: usize| {
        let share = at as f64 / (POINTS - 1) as f64;
        let x = f64::from(gates.from) * (1.0 - share) + f64::from(gates.to) * share;
        [x, activation.of(x)]
    };
    Ok(Mlp {
        width,
        activation: match activation {
            Activation::Silu => "silu",
            Activation::GeluTanh => "gelu_tanh",
            Activation::ClampedSilu { .. } => "clamped_silu",
        },
        curve: (0..POINTS).map(point).collect(),
        gate: Distribution { histogram: gates },
        up: Distribution { histogram: histogram(&up) },
        tokens,
    })
}

/// The neurons of the largest magnitude, the largest first; of equal ones the first.
fn strongest(row: &[f32]) -> Vec<usize> {
    let falling = |a: &usize, b: &usize| row[*b].abs().total_cmp(&row[*a].abs()).then(a.cmp(b));
    let mut order: Vec<usize> = (0..row.len()).collect();
    if NEURONS < order.len() {
        order.select_nth_unstable_by(NEURONS - 1, falling);
        order.truncate(NEURONS);
    }
    order.sort_unstable_by(falling);
    order
}

fn histogram(values: &[f32]) -> Histogram {
    let (from, to) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    let mut counts = vec![0; BARS];
    for value in values {
        let share = f64::from(value - from) / f64::from(to - from).max(f64::MIN_POSITIVE);
        counts[((share * BARS as f64) as usize).min(BARS - 1)] += 1;
    }
    Histogram { from, to, counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bar_and_the_ends_are_in_the_outer_ones() {
        let Histogram { from, to, counts } = histogram(&[-1.0, 1.0, 0.0, 1.0]);
        assert_eq!((from, to, counts[0], counts[BARS - 1], counts[BARS / 2]), (-1.0, 1.0, 1, 2, 1));
        assert_eq!(histogram(&[3.0; 5]).counts.iter().sum::<usize>(), 5);
    }

    #[test]
    fn the_strongest_neurons_are_those_of_the_largest_magnitude() {
        let row: Vec<f32> = (0..20).map(|at| if at == 7 { -50.0 } else { at as f32 }).collect();
        assert_eq!(strongest(&row), [7, 19, 18, 17, 16, 15, 14, 13]);
        assert_eq!(strongest(&[1.0, -2.0]), [1, 0]);
    }
}
