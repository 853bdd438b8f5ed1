//! What `graftling demo` needs besides training and generation: a lesson that no model can know, and a small model to teach.
//!
//! * [`lesson`]: twenty facts about an invented island, and how an answer is marked right or wrong;
//! * [`small_model`]: SmolLM2-135M-Instruct, fetched once, checked and kept in the cache. The tests use the same file.

pub mod lesson;
pub mod small_model;
