//! What an adapter consists of: its configuration, its tensors, and the tokenizer beside it. No model is read.

use std::collections::BTreeMap;
use std::path::Path;

use graftling::Result;
use graftling::adapter::added_tokens;
use graftling::formats::adapter_file::AdapterFile;
use graftling::formats::adapter_hub::{BottleneckConfig, Input};
use graftling::formats::peft::{AdapterConfig, AdapterTensor};
use serde_json::{Value, json};

use super::tables::grouped;

/// Tokens that the text report names.
const SHOWN: usize = 12;

/// The report on the adapter in `folder` as one JSON document.
///
/// # Errors
/// Bad input: an adapter that graftling does not read.
pub(super) fn report(folder: &Path) -> Result<Value> {
    let (config, tensors) = match AdapterFile::load(folder)? {
        (AdapterFile::Peft(config), tensors) => (config, tensors),
        (AdapterFile::AdapterHub(config), tensors) => return Ok(bottlenecks(folder, &config, &tensors)),
    };
    let named: BTreeMap<u32, String> = added_tokens::all(folder)?.into_iter().map(|(id, token)| (id, token.content)).collect();
    let rows =
        |tokens: &Vec<u32>| -> Vec<Value> { tokens.iter().map(|id| json!({ "id": id, "token": named.get(id) })).collect() };
    let whole = |(module, rows): (&String, &usize)| {
        let trained = config.modules_to_save.contains(module) || config.ensure_weight_tying;
        (module.clone(), json!({ "rows": rows, "trained": trained }))
    };
    let AdapterConfig { r, lora_alpha, lora_dropout, use_rslora, use_dora, lora_bias, .. } = &config;
    Ok(json!({
        "adapter": folder,
        "base_model": config.base_model,
        "method": if *use_dora { "DoRA" } else { "LoRA" },
        "r": r,
        "lora_alpha": lora_alpha,
        "lora_dropout": lora_dropout,
        "use_rslora": use_rslora,
        "lora_bias": lora_bias,
        "rank_pattern": config.rank_pattern.entries().iter().cloned().collect::<BTreeMap<_, _>>(),
        "alpha_pattern": config.alpha_pattern.entries().iter().cloned().collect::<BTreeMap<_, _>>(),
        "target_modules": config.target_modules,
        "layers": config.layers_to_transform,
        "modules": config.only,
        "trainable_token_indices": config.token_indices.iter().map(|(module, ids)| (module.clone(), json!(rows(ids)))).collect::<serde_json::Map<_, _>>(),
        "whole_matrices": config.whole_rows.iter().map(whole).collect::<serde_json::Map<_, _>>(),
        "norms": tensors.iter().filter(|tensor| tensor.name.ends_with("norm.weight")).map(|tensor| &tensor.name).collect::<Vec<_>>(),
        "ensure_weight_tying": config.ensure_weight_tying,
        "tensors": tensors.len(),
        "parameters": tensors.iter().map(|tensor| tensor.values.len()).sum::<usize>(),
    }))
}

/// The same of bottleneck adapters.
fn bottlenecks(folder: &Path, config: &BottleneckConfig, tensors: &[AdapterTensor]) -> Value {
    let input = match config.input {
        Input::Output => "output",
        Input::Sum => "output and residual",
        Input::Residual => "residual",
    };
    let factor = &config.reduction_factor;
    json!({
        "adapter": folder,
        "base_model": config.base_model,
        "method": "bottleneck",
        "after_attention": config.after_attention,
        "after_mlp": config.after_mlp,
        "input": input,
        "reduction_factor": factor.default,
        "reduction_factors": factor.layers,
        "non_linearity": config.non_linearity,
        "scaling": config.scaling,
        "dropout": config.dropout,
        "leave_out": config.leave_out,
        "tensors": tensors.len(),
        "parameters": tensors.iter().map(|tensor| tensor.values.len()).sum::<usize>(),
    })
}

fn text_of_bottlenecks(report: &Value) -> String {
    let places = [("after_attention", "attention"), ("after_mlp", "MLP")];
    let places: Vec<&str> = places.iter().filter(|(key, _)| report[*key] == true).map(|(_, place)| *place).collect();
    format!(
        "{}\n  bottlenecks for {}: of {} at {}, width hidden size / {}, {}, scale {}, dropout {}\n  layers without one: {}\n",
        plain(&report["adapter"]),
        plain(&report["base_model"]),
        plain(&report["input"]),
        places.join(" and "),
        report["reduction_factor"],
        plain(&report["non_linearity"]),
        report["scaling"],
        report["dropout"],
        report["leave_out"],
    )
}

/// The same for people.
pub(super) fn text(report: &Value) -> String {
    if report["method"] == "bottleneck" {
        let parameters = grouped(report["parameters"].as_u64().unwrap_or(0));
        return text_of_bottlenecks(report) + &format!("  {} tensors, {parameters} parameters\n", report["tensors"]);
    }
    let text = |key: &str| report[key].as_str().unwrap_or("?").to_owned();
    let list = |value: &Value| value.as_array().into_iter().flatten().map(plain).collect::<Vec<_>>().join(", ");
    let scale = if report["use_rslora"] == true { "alpha / sqrt(r)" } else { "alpha / r" };
    let mut out = format!(
        "{}\n  {} adapter for {}: rank {}, alpha {}, scale {scale}, dropout {}\n",
        text("adapter"),
        text("method"),
        text("base_model"),
        report["r"],
        report["lora_alpha"],
        report["lora_dropout"]
    );
    let layers = if report["layers"].is_null() { "all layers".to_owned() } else { format!("layers {}", list(&report["layers"])) };
    out += &match report["modules"].as_array() {
        Some(modules) => format!("  {} modules one by one: {}\n", modules.len(), list(&report["modules"])),
        None => format!("  {} in {layers}\n", list(&report["target_modules"])),
    };
    for (key, what) in [("rank_pattern", "ranks of their own"), ("alpha_pattern", "alphas of their own")] {
        let entries = report[key].as_object().into_iter().flatten().map(|(name, value)| format!("{name}={value}"));
        let entries: Vec<String> = entries.collect();
        if !entries.is_empty() {
            out += &format!("  {what}: {}\n", entries.join(", "));
        }
    }
    if report["lora_bias"] == true {
        out += "  a bias beside each B (lora_bias)\n";
    }
    for (module, tokens) in report["trainable_token_indices"].as_object().into_iter().flatten() {
        let tokens = tokens.as_array().map_or(&[][..], Vec::as_slice);
        let named = tokens.iter().take(SHOWN).map(|token| match token["token"].as_str() {
            Some(name) => format!("{name} ({})", token["id"]),
            None => token["id"].to_string(),
        });
        let more = if tokens.len() > SHOWN { ", ..." } else { "" };
        out += &format!("  rows of {module} for {} tokens: {}{more}\n", tokens.len(), named.collect::<Vec<_>>().join(", "));
    }
    for (module, matrix) in report["whole_matrices"].as_object().into_iter().flatten() {
        let kind = if matrix["trained"] == true { "trained" } else { "not trained: of a model whose vocabulary was extended" };
        out += &format!("  the whole of {module}, {} rows, {kind}\n", matrix["rows"]);
    }
    let norms = report["norms"].as_array().map_or(&[][..], Vec::as_slice);
    if let Some(first) = norms.first() {
        out += &format!("  the weights of {} norms, such as {}\n", norms.len(), plain(first));
    }
    out + &format!("  {} tensors, {} parameters\n", report["tensors"], grouped(report["parameters"].as_u64().unwrap_or(0)))
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
