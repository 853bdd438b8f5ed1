//! What it costs to add up an adapter's gradients over the ranks of a run: measured between the ranks that there are, and on paper for
//! networks.
//!
//! A sum that is spread over `n` ranks moves at least `2 (n - 1) / n` times the gradients' bytes out of each of them, and as much in: each
//! rank adds up an n-th of the numbers and gives the result to the others. The figures on paper are those bytes over what the
//! network carries one way, and nothing else: no latency, and networks that carry both ways at a time.
//!
//! The sum goes in groups while the device does the backward pass ([`crate::train::sum`]). Where the network is done with each before the
//! device has the next, a step waits for the last group only.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::adapter::{AdapterBuffers, AdapterLayout};
use crate::architecture::known;
use crate::byte_size::ByteSize;
use crate::gpu::Device;
use crate::graph::DType;
use crate::ranks::Ranks;
use crate::terminal::aligned;
use crate::train::needs::default_adapter;
use crate::train::step::LossGraph;
use crate::train::sum::GROUP;

/// Networks of the figures on paper: their names, and the bytes that they carry one way in a second.
pub const NETWORKS: [(&str, f64); 3] = [("1 GbE", 0.125e9), ("10 GbE", 1.25e9), ("100 GbE", 12.5e9)];

/// Ranks of the figures on paper, where only one process measures.
const ON_PAPER: usize = 4;

/// Timed sums, after one that is not counted; the median counts.
const TIMES: usize = 3;

/// The gradients of one model's adapter.
#[derive(Clone, Debug, Serialize)]
pub struct SumRow {
    pub model: &'static str,
    /// Trained numbers.
    pub parameters: usize,
    /// Bytes of their gradients in f32, as they lie on the device.
    pub bytes: usize,
    /// In how many groups they go, and the bytes of the last one.
    pub groups: usize,
    pub last_group_bytes: usize,
    /// From the device to the host and back.
    pub moved_seconds: f64,
    /// Over the ranks, in the order that is fast; `None` of one process.
    pub sum_seconds: Option<f64>,
    /// Over the ranks, in their order: as many broadcasts as there are ranks.
    pub in_order_seconds: Option<f64>,
    /// The sum over `ranks_on_paper` ranks, by the names of [`NETWORKS`].
    pub on_paper_seconds: Vec<(&'static str, f64)>,
}

/// All rows, and who measured.
#[derive(Clone, Debug, Serialize)]
pub struct SumReport {
    pub device: String,
    pub ranks: usize,
    pub ranks_on_paper: usize,
    pub rows: Vec<SumRow>,
}

/// Measures the adapters that `train` makes by default of three sizes of one family, or of the smallest `most`. All ranks call it.
///
/// # Errors
/// The device has not the memory, or is lost.
pub fn measure(ranks: &Ranks, device: &Arc<Device>, most: usize) -> Result<SumReport> {
    let ranks_on_paper = if ranks.is_alone() { ON_PAPER } else { ranks.count() };
    let mut rows = Vec::new();
    for (model, config) in known::three_sizes()?.into_iter().take(most) {
        let placement = default_adapter(&config)?.on(&config);
        let layout = AdapterLayout::new(&placement);
        // The order of the gradients does not depend on how many tokens there are.
        let made = LossGraph::build(&config, &|_| DType::F32, &placement, 1)?.made();
        let groups = layout.groups(&made, GROUP);
        let buffers = AdapterBuffers::allocate(device.clone(), "gradients", &layout)?;
        let mut gradients = buffers.read()?;
        let bytes = buffers.bytes();
        let moved_seconds = timed(ranks, || {
            gradients = buffers.read()?;
            buffers.write(&gradients);
            device.flush()
        })?;
        let mut between_ranks = |add: fn(&Ranks, &mut [f32])| match ranks.is_alone() {
            true => Ok(None),
            false => timed(ranks, || {
                add(ranks, &mut gradients);
                Ok(())
            })
            .map(Some),
        };
        let sum_seconds = between_ranks(|ranks, gradients| ranks.sum(gradients))?;
        let in_order_seconds =
            between_ranks(|ranks, gradients| (0..ranks.count()).for_each(|from| ranks.share(gradients, from)))?;
        let on_paper = |(name, rate): (&'static str, f64)| (name, on_paper(bytes, ranks_on_paper, rate));
        rows.push(SumRow {
            model,
            parameters: layout.parameters(),
            bytes,
            groups: groups.len(),
            last_group_bytes: groups.last().map_or(0, |group| group.iter().map(Range::len).sum()),
            moved_seconds,
            sum_seconds,
            in_order_seconds,
            on_paper_seconds: NETWORKS.map(on_paper).to_vec(),
        });
    }
    Ok(SumReport { device: device.info.name.clone(), ranks: ranks.count(), ranks_on_paper, rows })
}

/// Seconds of a sum of so many bytes over a network that carries `rate` bytes a second one way.
pub fn on_paper(bytes: usize, ranks: usize, rate: f64) -> f64 {
    2.0 * (ranks as f64 - 1.0) / ranks as f64 * bytes as f64 / rate
}

/// Median of the seconds until all ranks have done it.
fn timed(ranks: &Ranks, mut what: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut seconds = Vec::with_capacity(TIMES);
    for _ in 0..=TIMES {
        ranks.any(false);
        let began = Instant::now();
        what()?;
        ranks.any(false);
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[TIMES / 2])
}

impl SumReport {
    /// A table, and what its columns mean.
    pub fn text(&self) -> String {
        let head =
            ["model", "parameters", "bytes", "groups", "the last", "device and back", "sum", "in rank order"].map(str::to_string);
        let mut lines = vec![head.into_iter().chain(NETWORKS.map(|(name, _)| name.to_string())).collect::<Vec<_>>()];
        let time = |seconds: f64| format!("{:.1} ms", 1e3 * seconds);
        let measured = |seconds: Option<f64>| seconds.map_or("-".to_string(), time);
        for row in &self.rows {
            let mut cells = vec![
                row.model.to_string(),
                format!("{:.1} M", row.parameters as f64 * 1e-6),
                ByteSize(row.bytes).to_string(),
                row.groups.to_string(),
                ByteSize(row.last_group_bytes).to_string(),
                time(row.moved_seconds),
                measured(row.sum_seconds),
                measured(row.in_order_seconds),
            ];
            cells.extend(row.on_paper_seconds.iter().map(|(_, seconds)| time(*seconds)));
            lines.push(cells);
        }
        let mut text = format!("gradients of the adapters that `train` makes by default, f32, a step; {}\n", self.device);
        text += &aligned(&lines);
        let (ranks, on_paper) = (self.ranks, self.ranks_on_paper);
        let measured = match ranks {
            1 => "start it with mpirun to measure sums".to_string(),
            _ => format!("measured between {ranks} ranks"),
        };
        let _ = writeln!(text, "{measured}; networks: bytes over the network's rate, for {on_paper} ranks");
        text +=
            "a sum goes in groups during the backward pass; where the network keeps up, a step waits for the last group only\n";
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_on_paper_moves_what_a_ring_moves() {
        // Two ranks: half of the numbers to the other one, and half of the sums back.
        assert_eq!(on_paper(1_000_000, 2, 1e6), 1.0);
        assert_eq!(on_paper(1_000_000, 4, 1e6), 1.5);
        assert_eq!(on_paper(1_000_000, 1, 1e6), 0.0);
    }
}
