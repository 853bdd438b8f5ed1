//! What is adapted, and how: low-rank adapters on frozen linear modules.

pub mod targets;
