//! Which form each class of matrix products takes on a device: a table that is measured, and that a launch is given beside the
//! device's [`Facts`](super::Facts), so that the choice of a kernel stays a function of the call. What a class's forms are, `ops::matmul` knows.

use super::Arithmetic;
use crate::storage::DType;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// Which operand of a matrix product is transposed; see [`crate::ops::matmul`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Layout {
    NT,
    NN,
    TN,
}

/// Products that are equally fast: all weights of one shape, and all batches of about one size. Rows that are counted anew for each run (m
/// in NT and NN, k in TN) stand as the next power of two of their maximum, so that a data set with slightly longer records needs no new
/// measurement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Class {
    pub layout: Layout,
    /// `[m, n, k]`: rows and columns of out, length of the sums.
    pub size: [usize; 3],
    /// Storage of b.
    pub dtype: DType,
    /// What it is computed in.
    pub arithmetic: Arithmetic,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [m, n, k] = self.size;
        write!(f, "{:?} {m}x{n}x{k} {}", self.layout, self.dtype)?;
        match self.arithmetic {
            Arithmetic::F32 => Ok(()),
            other => write!(f, " ({})", other.name()),
        }
    }
}

/// The form of each class, by id. A class that is not in the table, or whose form is not possible on the device, follows the fixed rule.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    choices: Option<Arc<HashMap<Class, String>>>,
    /// Every class that was looked up, for [`Tuning::listening`].
    asked: Option<Arc<Mutex<Vec<Class>>>>,
}

impl Tuning {
    /// No table: the fixed rule for all.
    pub const NONE: Self = Self { choices: None, asked: None };

    pub fn new(choices: HashMap<Class, String>) -> Self {
        Self { choices: Some(Arc::new(choices)), asked: None }
    }

    /// An empty table that notes what is looked up: so the products inside any op are found without the op's help.
    pub fn listening() -> Self {
        Self { choices: None, asked: Some(Arc::default()) }
    }

    /// The class of every product for which a [`Tuning::listening`] table was asked, in order.
    pub fn asked(&self) -> Vec<Class> {
        self.asked.as_ref().map_or_else(Vec::new, |asked| asked.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Id of the form for this class.
    pub fn get(&self, class: &Class) -> Option<&str> {
        self.choices.as_ref()?.get(class).map(String::as_str)
    }

    /// Id of the form for the class that `class` gives, which is asked only where there is a table.
    pub(crate) fn choice(&self, class: impl FnOnce() -> Option<Class>) -> Option<&str> {
        if self.choices.is_none() && self.asked.is_none() {
            return None;
        }
        let class = class()?;
        if let Some(asked) = &self.asked {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(class);
        }
        self.get(&class)
    }
}

/// Two tables are equal if they choose the same.
impl PartialEq for Tuning {
    fn eq(&self, other: &Self) -> bool {
        let choices = |tuning: &Self| tuning.choices.clone().filter(|choices| !choices.is_empty());
        choices(self) == choices(other)
    }
}
