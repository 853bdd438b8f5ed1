//! Shapes, element types, and the error that a wrong shape gives.

use crate::storage::DType;
use std::fmt;

/// The number of rows of a value: known when the graph is built, or counted anew for every run with a known maximum.
/// Memory is planned for the maximum, work follows the count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rows {
    Fixed(usize),
    /// One row a token of the batch, at most this many.
    Tokens(usize),
    /// One row a supervised token of the batch, at most this many.
    Supervised(usize),
    /// One row for each token of the batch, at most `tokens`, and each of the `experts` that it is sent to.
    Routed {
        tokens: usize,
        experts: usize,
    },
}

/// Row counts of one run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Counts {
    pub tokens: usize,
    pub supervised: usize,
}

impl Rows {
    /// The largest count that can occur.
    pub fn max(self) -> usize {
        match self {
            Self::Fixed(n) | Self::Tokens(n) | Self::Supervised(n) => n,
            Self::Routed { tokens, experts } => tokens.saturating_mul(experts),
        }
    }

    /// The count of this run.
    pub fn resolve(self, counts: &Counts) -> usize {
        match self {
            Self::Fixed(n) => n,
            Self::Tokens(_) => counts.tokens,
            Self::Supervised(_) => counts.supervised,
            Self::Routed { experts, .. } => counts.tokens.saturating_mul(experts),
        }
    }

    /// A row for each of these rows and each of the `experts` that it is sent to; `None` for rows that are sent to none.
    pub fn sent_to(self, experts: usize) -> Option<Self> {
        match self {
            Self::Fixed(n) => Some(Self::Fixed(n.saturating_mul(experts))),
            Self::Tokens(tokens) => Some(Self::Routed { tokens, experts }),
            Self::Supervised(_) | Self::Routed { .. } => None,
        }
    }
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(n) => write!(f, "{n}"),
            Self::Tokens(n) => write!(f, "tokens<={n}"),
            Self::Supervised(n) => write!(f, "supervised<={n}"),
            Self::Routed { tokens, experts } => write!(f, "{experts} a token<={tokens}"),
        }
    }
}

/// `[rows, columns]`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Shape {
    pub rows: Rows,
    pub columns: usize,
}

impl Shape {
    pub fn fixed(rows: usize, columns: usize) -> Self {
        Self { rows: Rows::Fixed(rows), columns }
    }

    /// `[rows, columns]` of one run.
    pub fn resolve(&self, counts: &Counts) -> [usize; 2] {
        [self.rows.resolve(counts), self.columns]
    }

    /// Elements at the largest row count.
    pub fn max_elements(&self) -> usize {
        self.rows.max() * self.columns
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {}]", self.rows, self.columns)
    }
}

/// Shape and element type of a value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TensorType {
    pub shape: Shape,
    pub dtype: DType,
}

impl TensorType {
    pub fn new(rows: Rows, columns: usize, dtype: DType) -> Self {
        Self { shape: Shape { rows, columns }, dtype }
    }

    pub fn f32(rows: Rows, columns: usize) -> Self {
        Self::new(rows, columns, DType::F32)
    }

    pub fn u32(rows: Rows, columns: usize) -> Self {
        Self::new(rows, columns, DType::U32)
    }

    /// Bytes at the largest row count.
    pub fn max_bytes(&self) -> usize {
        self.dtype.bytes(self.shape.max_elements())
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.shape, self.dtype)
    }
}

/// An op was applied to values of the wrong shape, type or number.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{op} `{node}`: {what} is {found}, expected {expected}")]
pub struct ShapeError {
    pub op: &'static str,
    /// Name of the node that was to be made; empty until [`Graph::apply`](super::Graph::apply) fills it in.
    pub node: String,
    /// Which input, by its role in the op.
    pub what: String,
    pub found: String,
    pub expected: String,
}

impl ShapeError {
    pub fn new(op: &'static str, what: impl fmt::Display, found: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self { op, node: String::new(), what: what.to_string(), found: found.to_string(), expected: expected.to_string() }
    }

    pub(crate) fn at(mut self, node: &str) -> Self {
        self.node = node.to_owned();
        self
    }
}

impl From<ShapeError> for crate::Error {
    fn from(error: ShapeError) -> Self {
        Self::bad_input("model graph", error, "the model's configuration and its tensors do not fit together; check config.json")
    }
}
