//! `route`: the router of a mixture of experts: which experts a token is sent to, and with what weights.
//!
//! With `p = softmax(logits)` over the E experts of a row, `numbers` are those of the K largest, the largest first, the lower number first where
//! two are equal, and `weights` are their p. Renormalised they are divided by their sum, which makes them the softmax over those chosen.
//!
//! | value | shape | |
//! |---|---|---|
//! | logits | `[T, E]` f32 | |
//! | weights | `[T, K]` f32 | |
//! | numbers | `[T, K]` u32 | each below E |
//!
//! **Gradient.** The choice is constant where no two logits are equal, so `weights` alone have one. With d their gradients and
//! `dot = sum_j d_j p_j` over those chosen, p being the softmax that the weights are taken from:
//! `d_logit_e = p_e (d_e - dot)` for a chosen expert and `-p_e dot` for another. Renormalised, p is 0 for those that are not chosen.
//! [`RouteBackward`].

use super::{Example, OpEntry, Random, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

/// Input `logits`; outputs `weights, numbers`.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// K: to how many experts each token is sent.
    pub experts: usize,
    /// Whether weights add up to 1.
    pub renormalised: bool,
}

/// Inputs `d_weights, logits, numbers`; output `d_logits`.
#[derive(Clone, Copy, Debug)]
pub struct RouteBackward {
    pub renormalised: bool,
}

/// The softmax of a row over these experts, by expert; 0 for all others.
fn softmax(logits: &[f64], over: &[usize]) -> Vec<f64> {
    let largest = over.iter().fold(f64::NEG_INFINITY, |largest, &expert| largest.max(logits[expert]));
    let sum: f64 = over.iter().map(|&expert| (logits[expert] - largest).exp()).sum();
    let mut p = vec![0.0; logits.len()];
    over.iter().for_each(|&expert| p[expert] = (logits[expert] - largest).exp() / sum);
    p
}

/// The experts that a softmax is over, where these are chosen.
fn over(experts: usize, chosen: &[usize], renormalised: bool) -> Vec<usize> {
    if renormalised { chosen.to_vec() } else { (0..experts).collect() }
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "route"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("route", inputs, 1)?;
        let logits = inputs[0];
        expect::dtype("route", "logits", logits, DType::F32)?;
        if self.experts == 0 || self.experts > logits.shape.columns {
            return Err(ShapeError::new(
                "route",
                "logits",
                logits,
                format!("a column for each of {} experts or more", self.experts.max(1)),
            ));
        }
        let rows = logits.shape.rows;
        Ok(vec![TensorType::f32(rows, self.experts), TensorType::u32(rows, self.experts)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let logits = inputs[0];
        let (mut weights, mut numbers) = (Matrix::zeros(outputs[0]), Matrix::zeros(outputs[1]));
        for t in 0..logits.rows {
            let row = logits.row(t);
            let mut order: Vec<usize> = (0..row.len()).collect();
            // Stable: the lower number first where two are equal.
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let chosen = &order[..self.experts];
            let p = softmax(row, &over(row.len(), chosen, self.renormalised));
            for (j, &expert) in chosen.iter().enumerate() {
                weights.row_mut(t)[j] = p[expert];
                numbers.row_mut(t)[j] = expert as f64;
            }
        }
        vec![weights, numbers]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let rows = call.inputs[0].rows;
        let params = params(rows, call.inputs[0].columns(), self.experts, self.renormalised);
        vec![Dispatch::only(&ROUTE, call, params, spread(rows.div_ceil(64)))]
    }

    fn flops(&self, inputs: &[[usize; 2]], outputs: &[[usize; 2]]) -> u64 {
        (inputs[0][0] * inputs[0][1] * (outputs[0][1] + 2)) as u64
    }
}

impl Differentiate for Route {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        vjp.only_first_output("route")?;
        let (Some(d_weights), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let op = RouteBackward { renormalised: self.renormalised };
        let d_logits = vjp.graph.apply_one(op, &[d_weights, vjp.inputs[0], vjp.outputs[1]], name)?;
        vjp.give(0, d_logits);
        Ok(())
    }
}

impl Op for RouteBackward {
    fn name(&self) -> &'static str {
        "route_backward"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        const OP: &str = "route_backward";
        expect::count(OP, inputs, 3)?;
        let [d_weights, logits, numbers] = [inputs[0], inputs[1], inputs[2]];
        expect::dtype(OP, "logits", logits, DType::F32)?;
        expect::dtype(OP, "d_weights", d_weights, DType::F32)?;
        expect::rows(OP, "d_weights", d_weights, logits.shape.rows)?;
        let chosen = d_weights.shape.columns;
        expect::same(OP, "numbers", numbers, TensorType::u32(logits.shape.rows, chosen))?;
        if chosen == 0 || chosen > logits.shape.columns {
            return Err(ShapeError::new(OP, "logits", logits, format!("a column for each of {} experts or more", chosen.max(1))));
        }
        Ok(vec![logits])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [d_weights, logits, numbers] = inputs else { unreachable!("checked by infer") };
        let mut d_logits = Matrix::zeros(outputs[0]);
        for t in 0..logits.rows {
            let chosen: Vec<usize> = (0..numbers.columns).map(|j| numbers.index(t, j)).collect();
            let p = softmax(logits.row(t), &over(logits.columns, &chosen, self.renormalised));
            let d = d_weights.row(t);
            let dot: f64 = chosen.iter().zip(d).map(|(&expert, d)| d * p[expert]).sum();
            for (expert, element) in d_logits.row_mut(t).iter_mut().enumerate() {
                let own = chosen.iter().position(|&number| number == expert).map_or(0.0, |j| d[j]);
                *element = p[expert] * (own - dot);
            }
        }
        vec![d_logits]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let rows = call.inputs[1].rows;
        let params = params(rows, call.inputs[1].columns(), call.inputs[0].columns(), self.renormalised);
        vec![Dispatch::only(&BACKWARD, call, params, spread(rows.div_ceil(64)))]
    }
}

kernel_params!(Params { rows: u32, experts: u32, chosen: u32, of_chosen: u32 });

fn params(rows: usize, experts: usize, chosen: usize, renormalised: bool) -> Vec<u8> {
    let (rows, experts, chosen) = (rows as u32, experts as u32, chosen as u32);
    Params { rows, experts, chosen, of_chosen: u32::from(renormalised) }.bytes()
}

/// One invocation a row.
static ROUTE: Kernel = Kernel::checked("route", Params::FIELDS);

/// One invocation a row.
static BACKWARD: Kernel = Kernel::checked("route_backward", Params::FIELDS);

/// Rows, experts, chosen ones.
const SIZES: [[usize; 3]; 5] = [[1, 1, 1], [3, 4, 4], [70, 8, 2], [130, 60, 4], [5, 128, 8]];

/// Logits that no finite difference can bring out of their order: each row has other distances of at least 0.01.
fn logits(random: &mut Random, [rows, experts, _]: [usize; 3]) -> Matrix {
    let mut logits = Matrix::zeros([rows, experts]);
    for t in 0..rows {
        let mut order: Vec<usize> = (0..experts).collect();
        (1..experts).rev().for_each(|at| order.swap(at, random.below(at + 1)));
        for (place, expert) in order.into_iter().enumerate() {
            logits.row_mut(t)[expert] = f64::from(((place as f64 + 0.4 * random.uniform()) * 6.0 / experts as f64) as f32);
        }
    }
    logits
}

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "route",
        kernels: vec![&ROUTE],
        examples: |random| {
            let mut examples = Vec::new();
            for size in SIZES {
                for renormalised in [false, true] {
                    let inputs = vec![(TensorType::f32(Rows::Fixed(size[0]), size[1]), logits(random, size))];
                    examples.push(Example::new(Route { experts: size[2], renormalised }, inputs));
                }
            }
            examples
        },
        tolerance: |_| 1e-6,
    }
}

pub(super) fn backward_entry() -> OpEntry {
    OpEntry {
        name: "route_backward",
        kernels: vec![&BACKWARD],
        examples: |random| {
            let mut examples = Vec::new();
            for size in SIZES {
                for renormalised in [false, true] {
                    let rows = Rows::Fixed(size[0]);
                    let [of_experts, of_chosen] = [[size[0], size[1]], [size[0], size[2]]];
                    let logits = logits(random, size);
                    let numbers = Route { experts: size[2], renormalised }.reference(&[&logits], &[of_chosen; 2]).swap_remove(1);
                    let d_weights = random.matrix(of_chosen, 1.0);
                    let inputs = vec![
                        (TensorType::f32(rows, of_chosen[1]), d_weights),
                        (TensorType::f32(rows, of_experts[1]), logits),
                        (TensorType::u32(rows, of_chosen[1]), numbers),
                    ];
                    examples.push(Example::new(RouteBackward { renormalised }, inputs));
                }
            }
            examples
        },
        tolerance: |_| 1e-6,
    }
}
