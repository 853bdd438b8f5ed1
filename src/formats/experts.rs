//! Matrices of experts: a folder has a tensor for each expert, and graftling takes those of a layer as one, one below the other.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::architecture::{Architecture, parameters};
use crate::storage::source::missing;
use crate::storage::{TensorInfo, TensorSource};
use crate::{Error, Result};

/// What to do about a file whose experts do not fit together.
const WRONG_EXPERTS: &str = "The file is incomplete or belongs to another model: download or convert it again.";

/// The tensors of a source, with those of all experts of a layer under one name.
struct Stacked {
    inner: Box<dyn TensorSource>,
    /// Sorted by name.
    tensors: Vec<TensorInfo>,
    /// Of each that is stacked the tensors that it is made of, all of one shape and format.
    stacks: HashMap<String, Vec<String>>,
}

/// The same source, where nothing is to be stacked; else one in which the experts' tensors are.
///
/// # Errors
/// [`Error::BadInput`] naming the tensor of an expert that is missing, of another shape or in another format than those before it.
pub(super) fn stacked(config: &Architecture, inner: Box<dyn TensorSource>) -> Result<Box<dyn TensorSource>> {
    if config.has_experts_together() {
        return Ok(inner);
    }
    let unreadable: HashSet<&str> = inner.unreadable().iter().map(|(name, _)| name.as_str()).collect();
    let mut stacks = HashMap::new();
    let mut made = Vec::new();
    for parameter in parameters(config) {
        let Some(count) = parameter.experts.filter(|_| inner.find(&parameter.name).is_none()) else { continue };
        let names: Vec<String> = (0..count).map(|expert| parameter.of_expert(expert)).collect();
        // Those that cannot be read are for the check of all tensors to name.
        if names.iter().any(|name| unreadable.contains(name.as_str())) {
            continue;
        }
        let mut whole: Option<TensorInfo> = None;
        for name in &names {
            let bad = |problem: String| Error::bad_input(format!("{}: tensor {name}", inner.place(name)), problem, WRONG_EXPERTS);
            let shape = [parameter.shape[0] / count, parameter.shape[1]];
            let info = inner.find(name).ok_or_else(|| bad(format!("is missing; its shape would be {shape:?}")))?;
            if info.shape != shape {
                return Err(bad(format!("has shape {:?}, but the config asks for {shape:?}", info.shape)));
            }
            if info.storage.is_ordered() {
                return Err(bad(
                    "has columns in an order of their own (act-order), which graftling has not for experts".to_owned()
                ));
            }
            match &mut whole {
                None => whole = Some(TensorInfo { name: parameter.name.clone(), shape: parameter.shape.clone(), ..info.clone() }),
                Some(whole) if whole.storage == info.storage => whole.bytes += info.bytes,
                Some(whole) => {
                    return Err(bad(format!(
                        "is {}, and that of an expert before it {}",
                        info.storage.name(),
                        whole.storage.name()
                    )));
                }
            }
        }
        made.extend(whole);
        stacks.insert(parameter.name, names);
    }
    if stacks.is_empty() {
        return Ok(inner);
    }
    let parts: HashSet<&str> = stacks.values().flatten().map(String::as_str).collect();
    let mut tensors: Vec<TensorInfo> =
        inner.tensors().iter().filter(|info| !parts.contains(info.name.as_str())).cloned().chain(made).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Box::new(Stacked { inner, tensors, stacks }))
}

impl TensorSource for Stacked {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn unreadable(&self) -> &[(String, String)] {
        self.inner.unreadable()
    }

    fn place(&self, name: &str) -> String {
        self.inner.place(self.stacks.get(name).and_then(|names| names.first()).map_or(name, String::as_str))
    }

    fn order(&self, name: &str) -> Option<Vec<u32>> {
        self.inner.order(name)
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        let Some(names) = self.stacks.get(name) else { return self.inner.read_rows(name, rows) };
        let info = self.find(name).ok_or_else(|| missing(self.place(name), name))?;
        crate::storage::source::byte_range(&self.place(name), info, &rows)?;
        let each = info.rows() / names.len();
        let mut bytes = Vec::new();
        let mut row = rows.start;
        while row < rows.end {
            let (expert, within) = (row / each, row % each);
            let end = (expert + 1) * each;
            let last = rows.end.min(end);
            bytes.extend(self.inner.read_rows(&names[expert], within..within + (last - row))?);
            row = last;
        }
        Ok(bytes)
    }
}
