//! Vectors of the model that are trained as a whole, as PEFT does: weights of norms (`modules_to_save`, whose names mean every module that
//! ends with them) and biases of linear layers (`bias`: of all, or of the adapted ones) and of routers that are trained as a whole.

use super::AdapterMatrix;
use crate::architecture::{Architecture, Site, parameters, routers, sites};
use crate::formats::peft::{AdapterConfig, TrainedBiases, module_path};
use crate::{Error, Result};

/// A vector of the model's that the adapter has in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// `layers.3.input_layernorm.weight`, `norm.weight`, `layers.3.self_attn.q_proj.bias`.
    pub name: String,
    /// `None` for the last norm.
    pub layer: Option<usize>,
    /// Elements of the parts that the graph takes apart, where a layer fuses several; one part otherwise.
    parts: Vec<usize>,
}

impl Vector {
    /// The weight of a norm, `size` elements.
    fn norm(name: &str, layer: Option<usize>, size: usize) -> Self {
        Self { name: format!("{name}.weight"), layer, parts: vec![size] }
    }

    /// The bias of a linear layer, an element for each output.
    fn bias(site: &Site) -> Self {
        let parts = site.outputs.iter().map(|(_, rows)| *rows).collect();
        Self { name: format!("{}.bias", site.name()), layer: Some(site.layer), parts }
    }

    /// As one of the adapter's matrices.
    pub fn matrix(&self) -> AdapterMatrix {
        let shape = [self.parts.iter().sum(), 1];
        AdapterMatrix { vector: true, parts: self.parts.clone(), ..AdapterMatrix::named(self.name.clone(), shape, true) }
    }

    /// The model's tensor that it stands for.
    pub fn tensor(&self) -> String {
        format!("model.{}", self.name)
    }

    /// Whether it is the weight of a norm of each head, and not of a whole row.
    pub fn is_of_heads(&self) -> bool {
        self.name.ends_with("q_norm.weight") || self.name.ends_with("k_norm.weight")
    }
}

/// The vectors of this model that an adapter's configuration means.
///
/// # Errors
/// Bad input, at `place`: a name that no norm ends with.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Vector>> {
    let mut vectors = norms_of_peft(place, adapter, model)?;
    let is_trained = |site: &Site| match adapter.bias {
        TrainedBiases::None => false,
        TrainedBiases::All => true,
        TrainedBiases::LoraOnly => adapter.adapts(site.layer, site.module, &site.name()),
    };
    let all = sites(model);
    if let Some(site) = all.iter().find(|site| site.bias && site.experts.is_some() && is_trained(site)) {
        let problem = format!("trains the biases of {} (`bias`), which graftling keeps as they are", site.name());
        let proposal = "train the adapter with bias none, or with lora_only and no layers of experts";
        return Err(Error::bad_input(place, problem, proposal));
    }
    vectors.extend(all.iter().filter(|site| site.bias && is_trained(site)).map(Vector::bias));
    // A router that is trained as a whole is trained with its bias.
    let is_saved = |site: &Site| {
        let path = module_path(&site.name(), model.text_path);
        adapter.routers_to_save().any(|saved| path.ends_with(saved))
    };
    vectors.extend(routers(model).iter().filter(|site| site.bias && is_saved(site)).map(Vector::bias));
    Ok(vectors)
}

fn norms_of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Vector>> {
    let all = parameters(model).into_iter().filter_map(|parameter| {
        let name = parameter.name.strip_prefix("model.")?.strip_suffix("norm.weight").map(|start| format!("{start}norm"))?;
        Some((name, parameter.layer, parameter.shape[0]))
    });
    let all: Vec<(String, Option<usize>, usize)> = all.collect();
    let names: Vec<&str> = all.iter().take(4).map(|(norm, ..)| norm.as_str()).collect();
    let proposal = format!("norms are such as {}", names.join(", "));
    let saved: Vec<&str> = adapter.norms_to_save().collect();
    let is_meant = ending_with(place, ("norm", &saved), all.iter().map(|(norm, ..)| norm.as_str()), model, &proposal)?;
    let meant = all.iter().zip(is_meant).filter(|(_, is_meant)| *is_meant);
    Ok(meant.map(|((name, layer, size), _)| Vector::norm(name, *layer, *size)).collect())
}

/// Of each of these modules of a kind whether the path that PEFT has for it ends with one of the `saved` names of `modules_to_save`.
///
/// # Errors
/// Bad input, at `place`: a name that no module ends with.
pub(super) fn ending_with<'m>(
    place: &str,
    (kind, saved): (&str, &[&str]),
    modules: impl Iterator<Item = &'m str>,
    model: &Architecture,
    proposal: &str,
) -> Result<Vec<bool>> {
    let paths: Vec<String> = modules.map(|module| module_path(module, model.text_path)).collect();
    match saved.iter().find(|saved| !paths.iter().any(|path| path.ends_with(**saved))) {
        Some(saved) => {
            let problem = format!("`{saved}` of modules_to_save is the end of no {kind}'s name in this model");
            Err(Error::bad_input(place, problem, proposal))
        }
        None => Ok(paths.iter().map(|path| saved.iter().any(|saved| path.ends_with(saved))).collect()),
    }
}
