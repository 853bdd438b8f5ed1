//! An adapter from a PEFT folder onto the device.

use std::path::Path;
use std::sync::Arc;

use super::{AdapterLayout, DeviceAdapter, LoraSpec};
use crate::formats::peft::{AdapterConfig, load_adapter};
use crate::gpu::Device;
use crate::model::config::ModelConfig;
use crate::{Error, Result};

impl LoraSpec {
    /// What an adapter's configuration means on this model.
    ///
    /// # Errors
    /// Bad input, at `place`: it adapts a layer that the model does not have.
    pub fn from_peft(place: &str, adapter: &AdapterConfig, model: &ModelConfig) -> Result<Self> {
        let layers = adapter.layers_to_transform.clone().unwrap_or_else(|| (0..model.num_hidden_layers).collect());
        if let Some(layer) = layers.iter().find(|&&layer| layer >= model.num_hidden_layers) {
            let problem = format!("the adapter is for layer {layer}, but the model has {} layers", model.num_hidden_layers);
            return Err(Error::bad_input(place, problem, "use the adapter with the model that it was trained on"));
        }
        Ok(Self {
            r: adapter.r,
            scale: adapter.scale(),
            dropout: adapter.lora_dropout,
            target_modules: adapter.target_modules.clone(),
            layers,
        })
    }
}

impl DeviceAdapter {
    /// Loads a PEFT folder for use with a model of this configuration.
    ///
    /// # Errors
    /// Bad input: no adapter, one that graftling cannot use, or one for another model. Failed, if the device has not the memory.
    pub fn load(folder: &Path, device: Arc<Device>, model: &ModelConfig) -> Result<Self> {
        let (config, tensors) = load_adapter(folder)?;
        let place = folder.display().to_string();
        let spec = LoraSpec::from_peft(&place, &config, model)?;
        let layout = AdapterLayout::new(&spec, model);
        let contents = layout.pack(&place, &tensors)?;
        Self::new(device, spec, layout, &contents)
    }
}
