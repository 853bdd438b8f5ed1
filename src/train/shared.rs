//! What several runs on one model and one device have in common, so that it is made once: the records as tokens, and the hidden states
//! that enter the lowest adapted layer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::Result;
use crate::data::Dataset;
use crate::session::prefix_cache::Shelf;

/// Training data and held-out data.
pub(super) type Data = (Arc<Dataset>, Option<Arc<Dataset>>);

/// See the [module](self). Each run has its own, unless it is [prepared beside others](crate::train::prepare::Prepared::beside).
#[derive(Debug, Default)]
pub struct Shared {
    data: Mutex<HashMap<String, Data>>,
    pub(super) prefixes: Shelf,
}

impl Shared {
    /// The data that `key` tells from all other data, by `load` where it is not there yet.
    ///
    /// # Errors
    /// Those of `load`.
    pub(super) fn data(&self, key: String, load: impl FnOnce() -> Result<Data>) -> Result<Data> {
        let mut all = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = all.get(&key) {
            return Ok(data.clone());
        }
        let data = load()?;
        all.insert(key, data.clone());
        Ok(data)
    }
}
