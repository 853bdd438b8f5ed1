//! What arms have in common: the model on the device, the kernels that all of them compute with, the figures of the model alone.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::measure::Yardsticks;
use super::result::{Measures, write_json};
use crate::files;
use crate::formats::atomic;
use crate::gpu::Device;
use crate::graph::Graph;
use crate::model::weights::DeviceWeights;
use crate::plan::autotune::Record;
use crate::session::{self, OpenModel, SessionOptions, Watch};
use crate::train::interrupt::Interrupt;
use crate::train::options::Recipe;
use crate::{Error, Result};

/// What an arm needs on the device before it is trained. Arms that have the same share it.
#[derive(Clone, Debug)]
pub struct Base {
    /// The settings, for people; it tells bases apart.
    pub name: String,
    model: String,
    recipe: Recipe,
}

impl Base {
    /// The base of an arm.
    ///
    /// # Errors
    /// Bad input: the recipe names no model.
    pub fn of(recipe: &Recipe) -> Result<Self> {
        let model = recipe
            .model
            .clone()
            .ok_or_else(|| Error::bad_input("[base]", "no model is named", "write model = \"path/to/model\" under [base]"))?;
        let Recipe { rope_scaling, init_adapter, router_aux_loss_coef, weights, matmul, device, no_autotune, .. } = recipe;
        let mut name = model.clone();
        let mut add = |key: &str, value: Option<String>| name += &value.map_or(String::new(), |value| format!(", {key} {value}"));
        add("rope scaling", rope_scaling.map(|scaling| scaling.to_string()));
        // It may have a rotation, or tokens, of its own.
        add("init_adapter", init_adapter.as_ref().map(|adapter| adapter.display().to_string()));
        add("router aux loss", router_aux_loss_coef.map(|coefficient| coefficient.to_string()));
        add("weights", weights.map(|weights| weights.to_string()));
        add("matmul", matmul.map(|matmul| format!("{matmul:?}").to_lowercase()));
        add("device", device.clone());
        add("train_tokens", recipe.train_tokens.as_ref().map(|tokens| tokens.join(",")));
        add("no_autotune", no_autotune.filter(|off| *off).map(|off| off.to_string()));
        Ok(Self { name, model, recipe: recipe.clone() })
    }

    /// Opens its files. `out` may know the moment from which dates in the chat template are taken.
    ///
    /// # Errors
    /// As [`OpenModel::for_run`].
    pub fn open(&self, out: &Path) -> Result<OpenModel> {
        let known = self.read::<Kernels>(out, "base")?;
        let template_time = known.and_then(|known| known.template_time);
        let Recipe { rope_scaling, init_adapter, router_aux_loss_coef, .. } = &self.recipe;
        let (adapter, tokens) = (init_adapter.as_deref(), self.recipe.tokens());
        OpenModel::for_run(&self.model, template_time, *rope_scaling, *router_aux_loss_coef, adapter, &tokens)
    }

    fn path(&self, out: &Path, kind: &str) -> PathBuf {
        let digest = Sha256::digest(&self.name);
        let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        out.join(format!("{kind}-{hash}.json"))
    }

    fn read<T: DeserializeOwned>(&self, out: &Path, kind: &str) -> Result<Option<T>> {
        let path = self.path(out, kind);
        let text = match files::read_to_string(&path, 1 << 24) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::bad_input(path.display(), error, "give another --out")),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::bad_input(
                path.display(),
                format!("is damaged: {error}"),
                "give another --out, or remove this file if no run is begun",
            )
        })
    }

    /// Chooses the kernels for these graphs, or takes those that the sweep has computed with so far, and sends the weights to the device.
    /// Processes that begin at the same time agree.
    ///
    /// # Errors
    /// No such device; it has not the memory; the folder cannot be written to.
    pub fn load(
        &self,
        out: &Path,
        model: &OpenModel,
        options: &SessionOptions,
        graphs: &[Graph],
        watch: &dyn Watch,
    ) -> Result<(Arc<DeviceWeights>, Record)> {
        let open = || Device::open_for(options.device.as_deref(), options.matmul);
        let known = self.read::<Kernels>(out, "base")?;
        if known.is_none() {
            let (_, _, kernels) = session::tuned(open()?, options, graphs, None, watch);
            let chosen = Kernels { base: self.name.clone(), template_time: model.template_time, kernels };
            atomic::write_new(&self.path(out, "base"), format!("{}\n", serde_json::json!(chosen)).as_bytes())?;
        }
        // Another process may have been quicker.
        let kernels = self.read::<Kernels>(out, "base")?.map(|known| known.kernels);
        session::load(model, options, open()?, graphs, kernels.as_ref(), watch)
    }

    /// The figures of the model alone: as the sweep has them, or measured now. `None`: someone asked to stop.
    ///
    /// # Errors
    /// As [`Yardsticks::measure`]; Bad input: they are of other data.
    pub fn before(
        &self,
        out: &Path,
        sticks: &Yardsticks,
        weights: &Arc<DeviceWeights>,
        interrupt: &Interrupt,
    ) -> Result<Option<Measures>> {
        let data = sticks.fingerprint();
        if let Some(known) = self.read::<Before>(out, "before")?
            && known.data == data
        {
            return Ok(Some(known.measures));
        }
        let Some(measures) = sticks.measure(weights, None, &sticks.ends(None), interrupt)? else { return Ok(None) };
        write_json(&self.path(out, "before"), &Before { base: self.name.clone(), data, measures: measures.clone() })?;
        Ok(Some(measures))
    }

    /// The figures of the model alone, if they have been measured.
    ///
    /// # Errors
    /// Bad input: the file is damaged.
    pub fn measured(&self, out: &Path) -> Result<Option<Measures>> {
        Ok(self.read::<Before>(out, "before")?.map(|known| known.measures))
    }
}

/// `base-HASH.json`
#[derive(Serialize, Deserialize)]
struct Kernels {
    base: String,
    template_time: Option<i64>,
    kernels: Record,
}

/// `before-HASH.json`
#[derive(Serialize, Deserialize)]
struct Before {
    base: String,
    data: BTreeMap<String, String>,
    measures: Measures,
}
