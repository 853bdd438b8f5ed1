//! What `graftling demo` needs besides training and generation: a lesson that no model can know, and small models to teach.
//!
//! * [`lesson`]: twenty facts about an invented island, and how an answer is marked right or wrong;
//! * [`small_model`]: SmolLM2-135M-Instruct or Gemma 3 270M, fetched once, checked and kept in the cache. The tests use the same files.

pub mod lesson;
pub mod small_model;
