//! Training.

pub mod evaluate;
pub mod step;
pub mod trainer;
