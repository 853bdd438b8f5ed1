//! What the numbers of a run depend on, by name: what a checkpoint records, and a run that goes on must not change.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::Prepared;
use crate::Result;
use crate::adapter::start::Start;
use crate::formats::peft::AdapterConfig;
use crate::session::prefix_cache::PrefixCacheType;

impl Prepared<'_> {
    /// What of the adapter is not as every adapter was once.
    fn adapter_print(&self) -> BTreeMap<String, String> {
        let AdapterConfig { only, rank_pattern, alpha_pattern, use_dora, modules_to_save, token_indices, .. } = &self.adapter;
        let start = self.options.init_lora_weights.unwrap_or_default();
        let ratio = self.options.loraplus_lr_ratio.unwrap_or(1.0);
        let entries = [
            ("modules", only.is_some(), format!("{only:?}")),
            ("rank_pattern", !rank_pattern.is_empty(), format!("{:?}", rank_pattern.entries())),
            ("alpha_pattern", !alpha_pattern.is_empty(), format!("{:?}", alpha_pattern.entries())),
            ("use_dora", *use_dora, "true".to_string()),
            ("modules_to_save", !modules_to_save.is_empty(), modules_to_save.join(",")),
            ("train_tokens", !token_indices.is_empty() || !self.model.added.is_empty(), self.tokens_print()),
            ("init_lora_weights", start != Start::default(), start.to_string()),
            ("loraplus_lr_ratio", ratio != 1.0, ratio.to_string()),
        ];
        entries.into_iter().filter(|(_, set, _)| *set).map(|(name, _, value)| (name.to_string(), value)).collect()
    }

    /// The tokens with rows of their own, and those that the model is extended by.
    fn tokens_print(&self) -> String {
        let added: Vec<_> = self.model.added.iter().map(|(id, token)| (id, &token.content)).collect();
        format!("{:?}, added {added:?}", self.adapter.token_indices)
    }

    /// All that the numbers of the run depend on, by name.
    ///
    /// # Errors
    /// If a tensor of the model cannot be read.
    pub fn fingerprint(&self) -> Result<BTreeMap<String, String>> {
        let mut print = self.options.fingerprint(self.schedule.warmup_steps(), self.total_steps);
        let AdapterConfig { r, lora_alpha, lora_dropout, target_modules, layers_to_transform, use_rslora, .. } = &self.adapter;
        let layers = layers_to_transform.as_ref().map_or("all".to_string(), |layers| format!("{layers:?}"));
        let start = self.start.as_ref().map_or("none".to_string(), |contents| {
            let digest = Sha256::digest(bytemuck::cast_slice::<f32, u8>(contents));
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        });
        let more = [
            ("model (content)", self.model.fingerprint()?),
            ("data (content)", self.data.fingerprint()),
            ("eval_data (content)", self.eval_data.as_ref().map_or("none".to_string(), |data| data.fingerprint())),
            ("lora_r", r.to_string()),
            ("lora_alpha", lora_alpha.to_string()),
            ("lora_dropout", lora_dropout.to_string()),
            ("use_rslora", use_rslora.to_string()),
            ("target_modules", target_modules.join(",")),
            ("layers", layers),
            ("init_adapter (content)", start),
        ];
        print.extend(more.map(|(name, value)| (name.to_string(), value)));
        print.extend(self.adapter_print());
        // Checkpoints from before there were questions do not name them.
        print.extend(self.checks.as_ref().map(|checks| ("check_data (content)".to_string(), checks.set.fingerprint())));
        // A cache in f32 changes no number.
        if self.prefix.train.is_some() && self.options.prefix_cache_type != PrefixCacheType::F32 {
            print.insert("prefix_cache_type".to_string(), serde_json::json!(self.options.prefix_cache_type).to_string());
        }
        Ok(print)
    }
}
