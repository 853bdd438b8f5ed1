//! Norms whose weight is trained as a whole: `modules_to_save` of PEFT, whose names mean every module that ends with them.

use super::AdapterMatrix;
use crate::architecture::{Architecture, parameters};
use crate::formats::peft::{AdapterConfig, module_path};
use crate::{Error, Result};

/// A norm with a weight of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Norm {
    /// `layers.3.input_layernorm`, `norm`.
    pub name: String,
    /// `None` for the last one.
    pub layer: Option<usize>,
    pub size: usize,
}

impl Norm {
    /// As one of the adapter's matrices, a vector.
    pub fn matrix(&self) -> AdapterMatrix {
        AdapterMatrix { vector: true, ..AdapterMatrix::named(format!("{}.weight", self.name), [self.size, 1], true) }
    }

    /// The model's tensor that it stands for.
    pub fn tensor(&self) -> String {
        format!("model.{}.weight", self.name)
    }

    /// Whether it is of each head, and not of a whole row.
    pub fn is_of_heads(&self) -> bool {
        self.name.ends_with("q_norm") || self.name.ends_with("k_norm")
    }
}

/// The norms of this model that an adapter's configuration means.
///
/// # Errors
/// Bad input, at `place`: a name that no norm ends with.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Norm>> {
    let all = parameters(model).into_iter().filter_map(|parameter| {
        let name = parameter.name.strip_prefix("model.")?.strip_suffix("norm.weight").map(|start| format!("{start}norm"))?;
        Some(Norm { name, layer: parameter.layer, size: parameter.shape[0] })
    });
    let all: Vec<Norm> = all.collect();
    let means = |saved: &str, norm: &Norm| module_path(&norm.name, model.text_path).ends_with(saved);
    if let Some(saved) = adapter.norms_to_save().find(|saved| !all.iter().any(|norm| means(saved, norm))) {
        let names: Vec<&str> = all.iter().take(4).map(|norm| norm.name.as_str()).collect();
        let problem = format!("`{saved}` of modules_to_save is the end of no norm's name in this model");
        return Err(Error::bad_input(place, problem, format!("norms are such as {}", names.join(", "))));
    }
    Ok(all.into_iter().filter(|norm| adapter.norms_to_save().any(|saved| means(saved, norm))).collect())
}
