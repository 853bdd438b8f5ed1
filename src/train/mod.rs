//! Training.

pub mod curve;
pub mod durable;
pub mod evaluate;
pub mod interrupt;
pub mod lock;
pub mod metrics;
pub mod options;
pub mod schedule;
pub mod step;
pub mod trainer;
