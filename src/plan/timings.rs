//! Timed dispatches, summed by kernel, as a table or as a trace for chrome://tracing and ui.perfetto.dev.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// One dispatch of a timed run.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    pub kernel: &'static str,
    pub op: &'static str,
    /// Name of the node that it belongs to.
    pub node: String,
    /// By the device's clock, which begins at some moment.
    pub start_seconds: f64,
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes that have to be moved: see [`crate::graph::Op::traffic`].
    pub bytes: f64,
}

/// What the device can do at most, as measured; see [`crate::bench::speed`].
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Roofline {
    pub flops_per_second: f64,
    pub bytes_per_second: f64,
}

/// What keeps a kernel from being faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    Compute,
    Memory,
}

impl Roofline {
    /// The shortest time in which the device could do this work, and which of the two takes that long.
    pub fn least_seconds(&self, flops: f64, bytes: f64) -> (f64, Bound) {
        let (compute, memory) = (flops / self.flops_per_second, bytes / self.bytes_per_second);
        if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }
}

/// All dispatches of one kernel.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KernelTotal {
    pub kernel: &'static str,
    pub calls: usize,
    pub seconds: f64,
    pub flops: f64,
    pub bytes: f64,
}

/// Sums by kernel, the longest first.
pub fn by_kernel(timings: &[Timing]) -> Vec<KernelTotal> {
    let mut totals: BTreeMap<&'static str, KernelTotal> = BTreeMap::new();
    for timing in timings {
        let kernel = timing.kernel;
        let total = totals.entry(kernel).or_insert(KernelTotal { kernel, calls: 0, seconds: 0.0, flops: 0.0, bytes: 0.0 });
        total.calls += 1;
        total.seconds += timing.seconds;
        total.flops += timing.flops;
        total.bytes += timing.bytes;
    }
    let mut totals: Vec<_> = totals.into_values().collect();
    totals.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    totals
}

/// A table by kernel. With a roofline, the last column is the share of the peak or of the bandwidth, whichever bounds the kernel.
pub fn table(timings: &[Timing], roofline: Option<&Roofline>) -> String {
    let all: f64 = timings.iter().map(|timing| timing.seconds).sum();
    let mut text = format!("{:<40} {:>6} {:>10} {:>7} {:>9} {:>8}", "kernel", "calls", "ms", "share", "GFLOP/s", "GB/s");
    text.push_str(if roofline.is_some() { "  of the bound\n" } else { "\n" });
    for KernelTotal { kernel, calls, seconds, flops, bytes } in by_kernel(timings) {
        let rate = |amount: f64, width: usize| match amount > 0.0 && seconds > 0.0 {
            true => format!("{:>width$.1}", amount / seconds * 1e-9),
            false => format!("{:>width$}", "-"),
        };
        let (milliseconds, share) = (seconds * 1e3, 100.0 * seconds / all.max(f64::MIN_POSITIVE));
        let _ = write!(text, "{kernel:<40} {calls:>6} {milliseconds:>10.2} {share:>6.1}% {} {}", rate(flops, 9), rate(bytes, 8));
        if let Some(roofline) = roofline
            && flops + bytes > 0.0
            && seconds > 0.0
        {
            let (least, bound) = roofline.least_seconds(flops, bytes);
            let bound = if bound == Bound::Compute { "compute" } else { "memory" };
            let _ = write!(text, " {:>5.1}% {bound}", 100.0 * least / seconds);
        }
        text.push('\n');
    }
    text
}

/// The trace, in Chrome's JSON format: one complete event a dispatch, microseconds from the first.
pub fn chrome_trace(timings: &[Timing]) -> Value {
    let first = timings.iter().map(|timing| timing.start_seconds).fold(f64::INFINITY, f64::min);
    let events: Vec<Value> = timings
        .iter()
        .map(|timing| {
            json!({
                "name": timing.kernel, "cat": timing.op, "ph": "X", "pid": 1, "tid": 1,
                "ts": (timing.start_seconds - first) * 1e6, "dur": timing.seconds * 1e6,
                "args": { "node": timing.node, "flops": timing.flops, "bytes": timing.bytes },
            })
        })
        .collect();
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(kernel: &'static str, start_seconds: f64, seconds: f64, flops: f64, bytes: f64) -> Timing {
        Timing { kernel, op: "op", node: "node".into(), start_seconds, seconds, flops, bytes }
    }

    #[test]
    fn dispatches_are_summed_by_kernel_and_the_longest_comes_first() {
        let timings = [timing("a", 5.0, 1.0, 2.0, 0.0), timing("b", 6.0, 3.0, 0.0, 4.0), timing("a", 9.0, 1.0, 6.0, 1.0)];
        let totals = by_kernel(&timings);
        assert_eq!(totals[0], KernelTotal { kernel: "b", calls: 1, seconds: 3.0, flops: 0.0, bytes: 4.0 });
        assert_eq!(totals[1], KernelTotal { kernel: "a", calls: 2, seconds: 2.0, flops: 8.0, bytes: 1.0 });
    }

    /// 2e9 operations in 1 s at a peak of 4e9: half of it. 3e9 bytes in 1 s at 4e9: three quarters, which is what bounds it.
    #[test]
    fn the_slower_of_arithmetic_and_memory_is_the_bound() {
        let roofline = Roofline { flops_per_second: 4e9, bytes_per_second: 4e9 };
        assert_eq!(roofline.least_seconds(2e9, 1e9), (0.5, Bound::Compute));
        assert_eq!(roofline.least_seconds(2e9, 3e9), (0.75, Bound::Memory));
        let text = table(&[timing("a", 0.0, 1.0, 2e9, 3e9)], Some(&roofline));
        assert!(text.contains("75.0% memory") && text.contains(" 2.0 ") && text.contains("100.0%"), "{text}");
        assert!(!table(&[timing("a", 0.0, 1.0, 2e9, 3e9)], None).contains("memory"));
    }

    #[test]
    fn a_trace_starts_at_zero_and_counts_microseconds() {
        let trace = chrome_trace(&[timing("b", 7.5, 0.25, 1.0, 2.0), timing("a", 7.0, 0.5, 0.0, 0.0)]);
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!((events[0]["ts"].as_f64(), events[0]["dur"].as_f64()), (Some(5e5), Some(2.5e5)));
        assert_eq!((events[1]["ts"].as_f64(), events[1]["name"].as_str()), (Some(0.0), Some("a")));
    }
}
