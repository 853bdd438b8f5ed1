//! What the numbers of a run depend on, by name: what a checkpoint records, and a run that goes on must not change.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Prepared;
use crate::Result;
use crate::adapter::start::Start;
use crate::formats::adapter_file::AdapterFile;
use crate::formats::adapter_hub::BottleneckConfig;
use crate::formats::peft::AdapterConfig;
use crate::session::prefix_cache::PrefixCacheType;

impl Prepared<'_> {
    /// All that the numbers of the run depend on, by name.
    ///
    /// # Errors
    /// If a tensor of the model cannot be read.
    pub fn fingerprint(&self) -> Result<BTreeMap<String, String>> {
        let mut print = self.options.fingerprint(self.schedule.warmup_steps(), self.total_steps);
        let start = self.start.as_ref().map_or("none".to_string(), |contents| {
            let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(contents));
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        });
        let more = [
            ("model (content)", self.model.fingerprint()?),
            ("data (content)", self.data.fingerprint()),
            ("eval_data (content)", self.eval_data.as_ref().map_or("none".to_string(), |data| data.fingerprint())),
            ("init_adapter (content)", start),
        ];
        print.extend(more.map(|(name, value)| (name.to_string(), value)));
        let of_adapter = match &self.adapter {
            AdapterFile::Peft(config) => self.of_lora(config),
            AdapterFile::AdapterHub(config) => of_bottlenecks(config),
        };
        print.extend(of_adapter.into_iter().map(|(name, value)| (name.to_string(), value)));
        // Where it is no part of the loss, no checkpoint names it.
        let balance = self.model.files.config.router_aux_loss_coef;
        print.extend(balance.map(|coefficient| ("router_aux_loss_coef".to_string(), coefficient.to_string())));
        // Checkpoints from before there were questions do not name them.
        print.extend(self.checks.as_ref().map(|checks| ("check_data (content)".to_string(), checks.set.fingerprint())));
        // A cache in f32 changes no number.
        if self.prefix.train.is_some() && self.options.prefix_cache_type != PrefixCacheType::F32 {
            print.insert("prefix_cache_type".to_string(), serde_json::json!(self.options.prefix_cache_type).to_string());
        }
        Ok(print)
    }

    fn of_lora(&self, config: &AdapterConfig) -> Vec<(&'static str, String)> {
        let layers = config.layers_to_transform.as_ref().map_or("all".to_string(), |layers| format!("{layers:?}"));
        let always = [
            ("lora_r", config.r.to_string()),
            ("lora_alpha", config.lora_alpha.to_string()),
            ("lora_dropout", config.lora_dropout.to_string()),
            ("use_rslora", config.use_rslora.to_string()),
            ("target_modules", config.target_modules.join(",")),
            ("layers", layers),
        ];
        let AdapterConfig { only, rank_pattern, alpha_pattern, use_dora, modules_to_save, token_indices, .. } = config;
        let start = self.options.init_lora_weights.unwrap_or_default();
        let ratio = self.options.loraplus_lr_ratio.unwrap_or(1.0);
        // The tokens with rows of their own, and those that the model is extended by.
        let added: Vec<_> = self.model.added.iter().map(|(id, token)| (id, &token.content)).collect();
        let tokens = format!("{token_indices:?}, added {added:?}");
        // Of an adapter that is not as every adapter was once.
        let if_set = [
            ("modules", only.is_some(), format!("{only:?}")),
            ("rank_pattern", !rank_pattern.is_empty(), format!("{:?}", rank_pattern.entries())),
            ("alpha_pattern", !alpha_pattern.is_empty(), format!("{:?}", alpha_pattern.entries())),
            ("use_dora", *use_dora, "true".to_string()),
            ("modules_to_save", !modules_to_save.is_empty(), modules_to_save.join(",")),
            ("train_tokens", !token_indices.is_empty() || !added.is_empty(), tokens),
            ("init_lora_weights", start != Start::default(), start.to_string()),
            ("loraplus_lr_ratio", ratio != 1.0, ratio.to_string()),
        ];
        let if_set = if_set.into_iter().filter(|(_, set, _)| *set).map(|(name, _, value)| (name, value));
        always.into_iter().chain(if_set).collect()
    }
}

fn of_bottlenecks(config: &BottleneckConfig) -> Vec<(&'static str, String)> {
    let places = [(config.after_attention, "attention"), (config.after_mlp, "mlp")];
    let places = places.iter().filter(|(is_there, _)| *is_there).map(|(_, place)| *place).collect::<Vec<_>>();
    vec![
        ("bottlenecks after", places.join(", ")),
        ("bottleneck input", format!("{:?}", config.input)),
        ("reduction_factor", format!("{:?}", config.reduction_factor)),
        ("non_linearity", format!("{:?}", config.non_linearity.non_linearity)),
        ("scaling", config.scaling.to_string()),
        ("dropout", config.dropout.to_string()),
        ("init_weights", format!("{:?}", config.init_weights)),
        ("leave_out", format!("{:?}", config.leave_out)),
    ]
}
