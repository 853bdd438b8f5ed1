//! Times the [`cases`](super::cases) of a model, each within a bounded time.

use super::cases::{Case, Sizes, cases};
use super::timer::{average_seconds_of_run, seconds_of_run};
use crate::architecture::Architecture;
use crate::gpu::Device;
use crate::graph::{Call, Counts, DType, Graph, Operand, Origin, ValueId};
use crate::plan::timings::{Bound, Roofline};
use crate::plan::{Executable, Pinned, Tuned};
use crate::{Error, Result};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// One line of the table.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KernelRow {
    pub name: String,
    pub shape: String,
    /// The kernels that ran, in order.
    pub kernels: Vec<&'static str>,
    pub flops: f64,
    pub bytes: f64,
    pub measured: Option<Measured>,
    /// Why the shape is smaller than asked for, or was not measured at all.
    pub note: Option<String>,
}

/// What a measurement gave.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Measured {
    pub seconds: f64,
    pub flops_per_second: f64,
    pub bytes_per_second: f64,
    /// Of the peak or the bandwidth, as `bound` says.
    pub share: f64,
    pub bound: Bound,
}

/// How the tables are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub rows: usize,
    pub storage: DType,
    pub r: usize,
    /// Time for one line.
    pub budget: Duration,
}

/// Rows are not shortened below this.
const LEAST_ROWS: usize = 32;
/// Budgets that one run may take before rows are taken away.
const LONGEST: f64 = 2.0;
/// Budgets that one run may take at the most, when it has no more rows to lose.
const PATIENCE: f64 = 8.0;
/// Bytes of a matrix at the most: the machine should not have to make room for a measurement.
const LARGEST: usize = 256 << 20;

/// Measures models one after the other; what it learns from a smaller one keeps it from taking too long with a larger one.
pub struct Tables {
    place: Tuned,
    roofline: Roofline,
    options: Options,
    /// Share of the roofline that a case of this name had.
    shares: HashMap<String, f64>,
}

impl Tables {
    pub fn new(place: Tuned, roofline: Roofline, options: Options) -> Self {
        Self { place, roofline, options, shares: HashMap::new() }
    }

    /// How many lines a model has.
    pub fn lines(&self, config: &Architecture) -> usize {
        cases(config, &self.sizes(self.options.rows)).len()
    }

    /// Measures the lines that `wanted` says, by name. `each` is told every line as it comes.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn measure(
        &mut self,
        config: &Architecture,
        wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&KernelRow),
    ) -> Result<Vec<KernelRow>> {
        let mut lines = Vec::new();
        for (index, case) in cases(config, &self.sizes(self.options.rows)).into_iter().enumerate() {
            if wanted(&case.name) {
                let line = self.line(config, index, case)?;
                each(&line);
                lines.push(line);
            }
        }
        Ok(lines)
    }

    fn sizes(&self, rows: usize) -> Sizes {
        let Options { storage, r, .. } = self.options;
        Sizes { rows, storage, r, largest: LARGEST.min(self.place.device.max_binding()) }
    }

    /// Chooses the rows of a line by what a short version of it takes, and measures it.
    fn line(&mut self, config: &Architecture, index: usize, mut case: Case) -> Result<KernelRow> {
        let budget = self.options.budget.as_secs_f64();
        let mut rows = self.options.rows;
        let mut line = self.describe(&case)?;
        let share = match self.shares.get(&case.name) {
            Some(share) => *share,
            None => match self.probe(config, index) {
                Ok(share) => share,
                // No memory for it, most likely; if the device is lost, the next line says so as well.
                Err(Error::Failed { problem, .. }) => {
                    line.note = Some(format!("left out: {problem}"));
                    return Ok(line);
                }
                Err(error) => return Err(error),
            },
        };
        let expected = |line: &KernelRow| self.roofline.least_seconds(line.flops, line.bytes).0 / share;
        while expected(&line) > LONGEST * budget && rows / 2 >= LEAST_ROWS {
            rows /= 2;
            case = cases(config, &self.sizes(rows)).swap_remove(index);
            line = self.describe(&case)?;
        }
        if line.shape != cases(config, &self.sizes(self.options.rows)).swap_remove(index).shape {
            line.note = Some(format!("shortened to {rows} rows"));
        }
        if expected(&line) > PATIENCE * budget {
            line.note = Some(format!("left out: it would take about {:.1} s", expected(&line)));
            return Ok(line);
        }
        match self.time(&case, self.options.budget) {
            Ok(seconds) => {
                let (least, bound) = self.roofline.least_seconds(line.flops, line.bytes);
                let share = least / seconds;
                self.shares.insert(case.name, share);
                let (flops_per_second, bytes_per_second) = (line.flops / seconds, line.bytes / seconds);
                line.measured = Some(Measured { seconds, flops_per_second, bytes_per_second, share, bound });
            }
            Err(Error::Failed { problem, .. }) => line.note = Some(format!("left out: {problem}")),
            Err(error) => return Err(error),
        }
        Ok(line)
    }

    /// The share of the roofline that a line has with few rows.
    fn probe(&self, config: &Architecture, index: usize) -> Result<f64> {
        let rows = self.options.rows.min(LEAST_ROWS);
        let case = cases(config, &self.sizes(rows)).swap_remove(index);
        let line = self.describe(&case)?;
        let seconds = self.time(&case, Duration::ZERO)?;
        Ok(self.roofline.least_seconds(line.flops, line.bytes).0 / seconds)
    }

    /// A line without its measurement.
    fn describe(&self, case: &Case) -> Result<KernelRow> {
        let (graph, _, outputs) = graph_of(case)?;
        let node = &graph.nodes()[0];
        let operands = |ids: &[ValueId]| -> Vec<Operand> {
            ids.iter()
                .map(|&id| {
                    let tensor = graph[id].tensor;
                    Operand { tensor, rows: tensor.shape.rows.max(), part_starts: vec![0] }
                })
                .collect()
        };
        let (inputs, outputs) = (operands(&node.inputs), operands(&outputs));
        let call = Call { inputs: &inputs, outputs: &outputs, device: &self.place.device.facts, tuning: &self.place.tuning };
        Ok(KernelRow {
            name: case.name.clone(),
            shape: case.shape.clone(),
            kernels: case.op.launch(&call).iter().map(|dispatch| dispatch.kernel.name).collect(),
            flops: graph.flops(&Counts::default()) as f64,
            bytes: case.op.traffic(&inputs, &outputs) as f64,
            measured: None,
            note: None,
        })
    }

    fn time(&self, case: &Case, budget: Duration) -> Result<f64> {
        seconds_of_run(&self.place.device, &mut self.prepare(case)?, budget)
    }

    fn prepare(&self, case: &Case) -> Result<Executable> {
        let (graph, leaves, outputs) = graph_of(case)?;
        let mut pinned: HashMap<ValueId, Pinned> = HashMap::new();
        for (id, (tensor, fill)) in leaves.into_iter().zip(&case.inputs) {
            let slice = self.place.device.allocate(&case.name, tensor.max_bytes())?;
            fill.write(&self.place.device, &slice, *tensor)?;
            pinned.insert(id, slice.into());
        }
        Executable::new(self.place.clone(), graph, &outputs, pinned)
    }

    /// The product with the best rate of those in these lines, if one was measured: to be timed again beside something else.
    ///
    /// # Errors
    /// If the device has not the memory, or is lost.
    pub fn best_product(&self, config: &Architecture, lines: &[KernelRow]) -> Result<Option<Product>> {
        let rate = |line: &KernelRow| line.measured.map(|measured| measured.flops_per_second);
        let products = lines.iter().filter(|line| line.name.starts_with("matmul") && line.measured.is_some());
        let Some(best) = products.max_by(|a, b| rate(a).partial_cmp(&rate(b)).unwrap_or(Ordering::Equal)) else {
            return Ok(None);
        };
        let sizes = std::iter::successors(Some(self.options.rows), |rows| (rows / 2 >= LEAST_ROWS).then_some(rows / 2));
        let mut same = sizes.flat_map(|rows| cases(config, &self.sizes(rows)));
        let case = same.find(|case| case.name == best.name && case.shape == best.shape);
        case.map(|case| {
            let (device, executable) = (self.place.device.clone(), self.prepare(&case)?);
            let seconds = best.measured.map_or(f64::INFINITY, |measured| measured.seconds);
            Ok(Product { device, executable, flops: best.flops, seconds, budget: self.options.budget })
        })
        .transpose()
    }
}

/// The case as a graph of one node, with its leaves and the node's outputs.
fn graph_of(case: &Case) -> Result<(Graph, Vec<ValueId>, Vec<ValueId>)> {
    let mut graph = Graph::new();
    let leaves: Vec<ValueId> = case.inputs.iter().map(|(tensor, _)| graph.leaf(&case.name, *tensor, Origin::State)).collect();
    let outputs = graph.apply_shared(case.op.clone(), &leaves, &case.name)?;
    Ok((graph, leaves, outputs))
}

/// A product that can be timed again and again.
pub struct Product {
    device: Arc<Device>,
    executable: Executable,
    flops: f64,
    /// What it took in its best moment.
    seconds: f64,
    budget: Duration,
}

impl Product {
    /// Its rate now, in floating-point operations a second: the average of a line's time.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn rate(&mut self) -> Result<f64> {
        Ok(self.flops / average_seconds_of_run(&self.device, &mut self.executable, self.seconds, self.budget)?)
    }
}
