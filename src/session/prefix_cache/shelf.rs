//! Stores that outlive a run: several runs on one model and one data set, of which each adapts the same layers or upper ones, compute what
//! enters these layers once.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Store, StorePlan};
use crate::Result;

/// All that the hidden states in a store depend on, and how they lie in it. The kernels depend on the largest number of rows, and on the
/// device, which all runs of a shelf have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Of {
    pub weights: String,
    pub data: String,
    pub first_layer: usize,
    pub max_tokens: usize,
    pub on_disk: bool,
    pub plan: StorePlan,
}

/// The stores of runs on one device.
#[derive(Debug, Default)]
pub struct Shelf {
    /// The one that was used last stands last.
    stores: Mutex<Vec<(Of, Arc<Mutex<Store>>)>>,
}

impl Shelf {
    /// The store of this, or a new one. What no run uses any more is thrown out, that which was used longest ago first, until all together
    /// take no more than `bound` bytes, in memory or on disk.
    ///
    /// # Errors
    /// Those of `make`.
    pub(super) fn store(&self, of: Of, bound: usize, make: impl FnOnce() -> Result<Store>) -> Result<Arc<Mutex<Store>>> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stores.iter().position(|(there, _)| *there == of).map(|at| stores.remove(at));
        let entry = match found {
            Some(entry) => entry,
            None => {
                let others: usize =
                    stores.iter().filter(|(there, _)| there.on_disk == of.on_disk).map(|(there, _)| there.plan.bytes()).sum();
                let mut excess = (others + of.plan.bytes()).saturating_sub(bound);
                stores.retain(|(there, store)| {
                    let goes = excess > 0 && there.on_disk == of.on_disk && Arc::strong_count(store) == 1;
                    if goes {
                        excess = excess.saturating_sub(there.plan.bytes());
                    }
                    !goes
                });
                (of, Arc::new(Mutex::new(make()?)))
            }
        };
        let store = entry.1.clone();
        stores.push(entry);
        Ok(store)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PrefixCacheType;
    use super::*;

    fn of(first_layer: usize, tokens: usize) -> Of {
        let plan = StorePlan::new([tokens].into_iter(), 4, PrefixCacheType::F32, usize::MAX);
        Of { weights: "w".into(), data: "d".into(), first_layer, max_tokens: 8, on_disk: false, plan }
    }

    #[test]
    fn a_store_is_shared_by_what_is_the_same_and_thrown_out_when_there_is_no_room() {
        let shelf = Shelf::default();
        let get = |of: Of| shelf.store(of.clone(), 2 * 3 * 16, || Store::new(&of.plan, None)).unwrap();
        let first = get(of(1, 3));
        first.lock().unwrap().save(0, &mut [7.0; 12]).unwrap();
        assert!(Arc::ptr_eq(&first, &get(of(1, 3))));
        assert!(!Arc::ptr_eq(&first, &get(of(2, 3))), "another layer, other states");
        // A third has room only in the place of one that nobody uses: the second.
        get(of(3, 3));
        assert!(Arc::ptr_eq(&first, &get(of(1, 3))));
        drop(first);
        get(of(4, 3));
        get(of(5, 3));
        let mut found = [0.0; 12];
        assert!(!get(of(1, 3)).lock().unwrap().load(0, &mut found), "it had been thrown out");
    }
}
