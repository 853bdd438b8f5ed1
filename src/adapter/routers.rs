//! Routers of experts that are trained as a whole, as PEFT's `modules_to_save` does: a matrix in f32 in the place of the model's own.
//!
//! A name means every module that ends with it: `gate` is the router, and in Qwen 2 the gate of the shared expert too, whose name is
//! `shared_expert_gate`; `mlp.gate` is the router alone.

use super::AdapterMatrix;
use super::vectors::ending_with;
use crate::Result;
use crate::architecture::{Architecture, Site, routers};
use crate::formats::peft::AdapterConfig;

/// A router that the adapter has in the place of the model's.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// `layers.3.mlp.gate.weight`
    pub name: String,
    pub layer: usize,
    /// `[experts, hidden_size]`
    pub shape: [usize; 2],
}

impl Router {
    /// As one of the adapter's matrices.
    pub fn matrix(&self) -> AdapterMatrix {
        AdapterMatrix::named(self.name.clone(), self.shape, true)
    }

    /// Is it this linear layer?
    pub fn is_of(&self, site: &Site) -> bool {
        self.name.strip_suffix(".weight") == Some(&site.name())
    }

    /// The model's tensor that it stands for.
    pub fn tensor(&self) -> String {
        format!("model.{}", self.name)
    }
}

/// The routers of this model that an adapter's configuration means.
///
/// # Errors
/// Bad input, at `place`: a name that no router ends with.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Router>> {
    let all: Vec<(String, Site)> = routers(model).into_iter().map(|site| (site.name(), site)).collect();
    let proposal = match all.first() {
        Some((module, _)) => format!("routers are such as {module}"),
        None => "the model has no experts, and so no router: leave it out".to_owned(),
    };
    let saved: Vec<&str> = adapter.routers_to_save().collect();
    let is_meant = ending_with(place, ("router", &saved), all.iter().map(|(module, _)| module.as_str()), model, &proposal)?;
    let meant = all.iter().zip(is_meant).filter(|(_, is_meant)| *is_meant);
    let router = |(module, site): &(String, Site)| Router {
        name: format!("{module}.weight"),
        layer: site.layer,
        shape: [site.out_features, site.in_features],
    };
    Ok(meant.map(|(found, _)| router(found)).collect())
}
