//! Training.

pub mod curve;
pub mod durable;
pub mod interrupt;
pub mod lock;
pub mod metrics;
pub mod options;
pub mod schedule;
