//! Python's containers that minijinja does not tell from lists: tuples, the views of a dictionary, and ranges. They print otherwise.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, Value};

/// A range may have so many items, as in Jinja2's sandbox.
const LONGEST_RANGE: u128 = 100_000;

/// A container of a kind that Python prints in its own way.
#[derive(Debug)]
pub(super) enum Container {
    /// `(a, b)`
    Tuple(Vec<Value>),
    /// `{...}.items()` and the like, with the name of its type: it has no positions.
    View(&'static str, Vec<Value>),
    Range {
        start: i64,
        stop: i64,
        step: i64,
        length: usize,
    },
}

impl Object for Container {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match **self {
            Self::View(..) => ObjectRepr::Iterable,
            _ => ObjectRepr::Seq,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = usize::try_from(key.clone()).ok()?;
        match &**self {
            Self::Tuple(items) => items.get(at).cloned(),
            Self::View(..) => None,
            Self::Range { start, step, length, .. } => (at < *length).then(|| Value::from(start + step * at as i64)),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &**self {
            Self::Tuple(items) => Enumerator::Seq(items.len()),
            Self::View(_, items) => Enumerator::Values(items.clone()),
            Self::Range { length, .. } => Enumerator::Seq(*length),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = super::python_values::repr(&Value::from_dyn_object(Arc::clone(self))).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

/// A tuple of the items of a list.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from_object(Container::Tuple(items))
}

/// The pairs of a dictionary.
///
/// # Errors
/// `map` is none.
pub(super) fn pairs(map: &Value) -> Result<Vec<Value>, Error> {
    if map.kind() != ValueKind::Map {
        let problem = format!("a value of type {} has no pairs of key and value", map.kind());
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    map.try_iter()?.map(|key| Ok(tuple(vec![key.clone(), map.get_item(&key)?]))).collect()
}

/// `map.items()`, `map.keys()` or `map.values()`.
///
/// # Errors
/// `map` is no dictionary.
pub(super) fn view(map: &Value, method: &str) -> Result<Value, Error> {
    let (name, items) = match method {
        "items" => ("dict_items", pairs(map)?),
        "keys" => ("dict_keys", map.try_iter()?.collect()),
        _ => ("dict_values", map.try_iter()?.map(|key| map.get_item(&key)).collect::<Result<_, _>>()?),
    };
    Ok(Value::from_object(Container::View(name, items)))
}

/// `range(stop)` or `range(start, stop, step)`.
///
/// # Errors
/// No step, or more items than Jinja2's sandbox allows.
pub(super) fn range(first: i64, second: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, stop) = second.map_or((0, first), |stop| (first, stop));
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Error::new(ErrorKind::InvalidOperation, "range: the step is zero"));
    }
    let span = if step > 0 { i128::from(stop) - i128::from(start) } else { i128::from(start) - i128::from(stop) };
    let length = (span.max(0) as u128).div_ceil(u128::from(step.unsigned_abs()));
    if length > LONGEST_RANGE {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("range: {length} items are more than {LONGEST_RANGE}")));
    }
    Ok(Value::from_object(Container::Range { start, stop, step, length: length as usize }))
}
