//! Measurements of this machine: what the device can do at most, how near each kernel comes to it, and what a training step and a
//! generated token cost.
//!
//! * [`speed`]: the device's own peak and bandwidth, by a kernel that only multiplies and one that only copies;
//! * [`cases`]: every kernel at the shapes of a model's layer; [`kernels`] times them;
//! * [`step`]: training steps of a model; [`formats`]: with its weights in several formats; [`generation`]: greedy decoding;
//! * [`sum`]: what it costs to add up gradients over the ranks of a run;
//! * [`timer`]: how a graph is timed; [`report`]: all of it as text.
//!
//! Every figure is measured in the run that prints it. Rates count the operations of [`Op::flops`](crate::graph::Op::flops) and the bytes
//! of [`Op::traffic`](crate::graph::Op::traffic): what has to be computed and moved, whatever a kernel does beyond that. A share is that of
//! the peak or of the bandwidth, whichever of the two would take longer ([`Roofline`](crate::plan::timings::Roofline)). Operands that
//! fit the caches can be moved faster than memory is, so a share of the bandwidth may exceed 100 %.

pub mod cases;
pub mod formats;
pub mod generation;
pub mod kernels;
pub mod report;
pub mod speed;
pub mod step;
pub mod sum;
pub mod timer;
