//! An adapter from a PEFT folder onto the device.

use std::path::Path;
use std::sync::Arc;

use super::{AdapterLayout, DeviceAdapter, Lora, Method, Piece, Placement};
use crate::architecture::{Architecture, linear_modules, sites};
use crate::formats::peft::{AdapterConfig, load_adapter};
use crate::gpu::Device;
use crate::{Error, Result};

impl Placement {
    /// What an adapter's configuration means on this model.
    ///
    /// # Errors
    /// Bad input, at `place`: it adapts a layer that the model does not have, or lacks tensors of a module that it names.
    pub fn from_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Self> {
        let layers = adapter.layers_to_transform.clone().unwrap_or_else(|| (0..model.num_hidden_layers).collect());
        if let Some(layer) = layers.iter().find(|&&layer| layer >= model.num_hidden_layers) {
            let problem = format!("the adapter is for layer {layer}, but the model has {} layers", model.num_hidden_layers);
            return Err(Error::bad_input(place, problem, "use the adapter with the model that it was trained on"));
        }
        for module in &adapter.without_tensors {
            if linear_modules(model).iter().any(|site| site.module == module) {
                let problem = format!("has no tensors for module {module}, which adapter_config.json lists in target_modules");
                let proposal =
                    "Check that adapter_config.json and adapter_model.safetensors belong together, and copy both again.";
                return Err(Error::bad_input(place, problem, proposal));
            }
            tracing::warn!(
                "{place}: target module {module} is passed over: the model has no such module, nor the adapter its tensors"
            );
        }
        let adapted = sites(model).into_iter().filter(|site| adapter.adapts(site.layer, site.module));
        let lora = Lora { r: adapter.r, scale: adapter.scale(), dropout: adapter.lora_dropout };
        Ok(Self { pieces: adapted.map(|site| Piece { site, method: Method::Lora(lora.clone()) }).collect() })
    }
}

/// An adapter that has been read and fits its model; it is on no device yet.
pub struct LoadedAdapter {
    pub placement: Placement,
    layout: AdapterLayout,
    contents: Vec<f32>,
}

impl LoadedAdapter {
    /// Reads a PEFT folder for use with a model of this configuration.
    ///
    /// # Errors
    /// Bad input: no adapter, one that graftling cannot use, or one for another model.
    pub fn load(folder: &Path, model: &Architecture) -> Result<Self> {
        let (config, tensors) = load_adapter(folder)?;
        let place = folder.display().to_string();
        let placement = Placement::from_peft(&place, &config, model)?;
        let layout = AdapterLayout::new(&placement);
        let contents = layout.pack(&place, &tensors)?;
        Ok(Self { placement, layout, contents })
    }

    /// Bytes that it will occupy on a device.
    pub fn bytes(&self) -> usize {
        self.layout.elements() * 4
    }

    /// Puts it on a device.
    ///
    /// # Errors
    /// Failed, if the device has not the memory.
    pub fn upload(self, device: Arc<Device>) -> Result<DeviceAdapter> {
        DeviceAdapter::new(device, self.placement, self.layout, &self.contents)
    }
}

impl DeviceAdapter {
    /// Loads a PEFT folder for use with a model of this configuration.
    ///
    /// # Errors
    /// As [`LoadedAdapter::load`] and [`LoadedAdapter::upload`].
    pub fn load(folder: &Path, device: Arc<Device>, model: &Architecture) -> Result<Self> {
        LoadedAdapter::load(folder, model)?.upload(device)
    }
}
