//! An adapter from its folder onto the device.

use std::path::Path;
use std::sync::Arc;

use super::placement::Strength;
use super::{AdapterLayout, DeviceAdapter, Dora, Lora, Method, Piece, Placement};
use super::{routers, vectors, vocabulary};
use crate::architecture::{self, Architecture, Site, sites};
use crate::formats::adapter_file::AdapterFile;
use crate::formats::peft::{ALIKE, AdapterConfig, AdapterTensor, CONFIG, paths_of_site};
use crate::gpu::{Device, padded};
use crate::{Error, Result};

impl Placement {
    /// What an adapter's configuration means on this model.
    ///
    /// # Errors
    /// As [`Placement::from_peft`] and [`Placement::from_adapter_hub`].
    pub fn of_file(place: &str, adapter: &AdapterFile, model: &Architecture) -> Result<Self> {
        match adapter {
            AdapterFile::Peft(config) => Self::from_peft(place, config, model),
            AdapterFile::AdapterHub(config) => Self::from_adapter_hub(place, config, model),
        }
    }

    /// What PEFT's configuration of an adapter means on this model.
    ///
    /// # Errors
    /// Bad input, at `place`: it adapts a layer that the model does not have, or lacks tensors of a module that it names.
    pub fn from_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Self> {
        let layers = adapter.layers_to_transform.clone().unwrap_or_else(|| (0..model.num_hidden_layers).collect());
        if let Some(layer) = layers.iter().find(|&&layer| layer >= model.num_hidden_layers) {
            let problem = format!("the adapter is for layer {layer}, but the model has {} layers", model.num_hidden_layers);
            return Err(Error::bad_input(place, problem, "use the adapter with the model that it was trained on"));
        }
        let paths = |site: &Site| paths_of_site(site, model.text_path);
        let adapts = |site: &Site| adapter.adapts(site.layer, site.module, &site.name());
        if let Ok(Some(means)) = adapter.chosen.matcher()
            && let Some(site) = sites(model).iter().find(|site| !adapts(site) && paths(site).iter().any(|path| means(path)))
        {
            let (module, layer) = (site.module, site.layer);
            let problem = format!(
                "has no tensors for module {module} in layer {layer}, which adapter_config.json chooses by target_modules"
            );
            let proposal = "Check that adapter_config.json and adapter_model.safetensors belong together, and copy both again.";
            return Err(Error::bad_input(place, problem, proposal));
        }
        let all = || sites(model).into_iter().chain(architecture::routers(model));
        if let Some(site) = all().find(|site| (site.experts.is_some() || site.parameter) && adapts(site))
            && (adapter.use_dora || adapter.lora_bias)
        {
            let (option, place) = (if adapter.use_dora { "DoRA" } else { "lora_bias" }, format!("{place}: {}", site.name()));
            let proposal = "adapt experts by LoRA alone, or leave them out: --target-modules attention";
            return Err(Error::bad_input(
                place,
                format!("{option} is not there for the layers of experts, nor for parameters"),
                proposal,
            ));
        }
        let all_paths: Vec<String> = all().flat_map(|site| paths(&site)).collect();
        for module in adapter.chosen.without_module(&all_paths) {
            tracing::warn!(
                "{place}: target module {module} is passed over: the model has no such module, nor the adapter its tensors"
            );
        }
        let adapted = all().filter(adapts);
        let piece = |site: Site| {
            let (r, scale) = adapter
                .rank_and_scale(&paths(&site))
                .map_err(|(key, problem)| Error::bad_input(format!("{place}: {CONFIG}: key `{key}`"), problem, ALIKE))?;
            let lora = Lora { dropout: adapter.lora_dropout, has_bias: adapter.lora_bias, ..Lora::new(r, scale) };
            let method = if adapter.use_dora { Method::Dora(Dora::new(lora)) } else { Method::Lora(lora) };
            Ok(Piece::new(site, method))
        };
        let pieces = adapted.map(piece).collect::<Result<Vec<Piece>>>()?;
        let (whole, rows) = vocabulary::of_peft(place, adapter, model)?;
        let vectors = vectors::of_peft(place, adapter, model)?;
        let routers = routers::of_peft(place, adapter, model)?;
        if let Some(router) = routers.iter().find(|router| pieces.iter().any(|piece| router.is_of(&piece.site))) {
            let problem = format!("{} is trained as a whole, and has an adapter besides", router.name);
            return Err(Error::bad_input(place, problem, "leave it out of the target modules, or of modules_to_save"));
        }
        Ok(Self { pieces, whole, rows, vectors, routers, strength: Strength::default() })
    }
}

fn not_together(site: &Site, problem: impl std::fmt::Display) -> Error {
    let place = format!("--adapter: {}", site.name());
    Error::bad_input(place, problem, "use it alone; a DoRA adapter may be merged into the model first")
}

/// An adapter that has been read and fits its model; it is on no device yet.
pub struct LoadedAdapter {
    pub placement: Placement,
    layout: AdapterLayout,
    contents: Vec<f32>,
    /// Matrices that are not trained.
    frozen: Vec<AdapterTensor>,
}

impl LoadedAdapter {
    /// Reads an adapter's folder for use with a model of this configuration.
    ///
    /// # Errors
    /// Bad input: no adapter, one that graftling cannot use, or one for another model.
    pub fn load(folder: &Path, model: &Architecture) -> Result<Self> {
        let (config, tensors) = AdapterFile::load_for(folder, model)?;
        let place = folder.display().to_string();
        let placement = Placement::of_file(&place, &config, model)?;
        let (layout, frozen_layout) = (AdapterLayout::new(&placement), AdapterLayout::frozen(&placement));
        let tensors = placement.without_copies(tensors);
        let is_frozen = |tensor: &AdapterTensor| frozen_layout.tensors.iter().any(|matrix| matrix.name == tensor.name);
        let (frozen, trained): (Vec<_>, Vec<_>) = tensors.into_iter().partition(is_frozen);
        let contents = layout.pack(&place, &trained)?;
        frozen_layout.pack(&place, &frozen)?;
        Ok(Self { placement, layout, contents, frozen })
    }

    /// Several adapters as one, each with a weight: their updates are added up. One alone with weight 1 is itself.
    ///
    /// # Errors
    /// Bad input, naming the layer: a DoRA adapter that is weighted, or meets another adapter at a layer. It sets the lengths of whole rows, so
    /// that what it does is no update that could be scaled or added. Two bottleneck adapters at one place: each would be the other's input.
    pub fn together(weighted: Vec<(Self, f64)>) -> Result<Self> {
        let several = weighted.len() > 1;
        let (mut placement, mut trained, mut frozen) = (Placement::default(), Vec::new(), Vec::new());
        for (number, (mut adapter, weight)) in weighted.into_iter().enumerate() {
            let label = if several { format!("{}/", number + 1) } else { String::new() };
            let beside: Vec<String> = adapter.placement.matrices_beside().map(|matrix| matrix.name).collect();
            let named = |tensor: AdapterTensor| match beside.contains(&tensor.name) {
                true => tensor,
                false => AdapterTensor { name: format!("{label}{}", tensor.name), ..tensor },
            };
            for name in &beside {
                let place = format!("--adapter: {name}");
                let proposal = "use the adapter alone, without a weight, or merge it into the model first";
                if weight != 1.0 {
                    return Err(Error::bad_input(place, "stands in the place of the model's own and has no weight", proposal));
                }
                if placement.matrices_beside().next().is_some() {
                    return Err(Error::bad_input(place, "is not the only matrix of its kind in these adapters", proposal));
                }
            }
            placement.whole.append(&mut adapter.placement.whole);
            placement.rows.append(&mut adapter.placement.rows);
            placement.vectors.append(&mut adapter.placement.vectors);
            placement.routers.append(&mut adapter.placement.routers);
            trained.extend(adapter.layout.unpack(&adapter.contents).into_iter().map(named));
            frozen.extend(adapter.frozen.into_iter().map(named));
            for piece in &mut adapter.placement.pieces {
                if matches!(piece.method, Method::Dora(_)) && weight != 1.0 {
                    let problem = format!("cannot have weight {weight}: DoRA sets the lengths of whole rows");
                    return Err(not_together(&piece.site, problem));
                }
                piece.label.clone_from(&label);
                piece.method.multiply(weight);
            }
            placement.pieces.extend(adapter.placement.pieces);
        }
        let pieces = &mut placement.pieces;
        pieces.sort_by_key(|piece| piece.site.number);
        for (at, piece) in pieces.iter().enumerate() {
            let others = pieces[at + 1..].iter().take_while(|other| other.site.number == piece.site.number);
            if let Some(problem) = others.filter_map(|other| piece.method.conflict(&other.method)).next() {
                return Err(not_together(&piece.site, problem));
            }
        }
        let layout = AdapterLayout::new(&placement);
        let contents = layout.pack("adapters", &trained)?;
        Ok(Self { placement, layout, contents, frozen })
    }

    /// Bytes that it will occupy on a device.
    pub fn bytes(&self) -> usize {
        // And what generation computes of it, a number for each output.
        let prepared = self.placement.pieces.iter().filter(|piece| piece.method.has_constants());
        let prepared: usize =
            prepared.map(|piece| piece.site.outputs.iter().map(|(_, rows)| padded(rows * 4)).sum::<usize>()).sum();
        let lists: usize = self.placement.rows.iter().map(|rows| padded(rows.tokens.len() * 4)).sum();
        (self.layout.elements() + AdapterLayout::frozen(&self.placement).elements()) * 4 + prepared + lists
    }

    /// Puts it on a device.
    ///
    /// # Errors
    /// Failed, if the device has not the memory.
    pub fn upload(self, device: Arc<Device>) -> Result<DeviceAdapter> {
        let adapter = DeviceAdapter::new(device, self.placement, self.layout, &self.contents)?;
        adapter.set_frozen(&self.frozen)?;
        Ok(adapter)
    }
}

impl DeviceAdapter {
    /// Loads an adapter's folder for use with a model of this configuration.
    ///
    /// # Errors
    /// As [`LoadedAdapter::load`] and [`LoadedAdapter::upload`].
    pub fn load(folder: &Path, device: Arc<Device>, model: &Architecture) -> Result<Self> {
        LoadedAdapter::load(folder, model)?.upload(device)
    }
}
