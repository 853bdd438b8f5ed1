//! `--eval-split`: which records are held out.
//!
//! Each record is drawn by its own content: the same record is on the same side whatever stands before it, in whichever file and form,
//! and twins are never on both sides.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::record::Record;

/// Whether `record` is among the held-out `share` (0 to 1) of all records.
pub(super) fn is_held_out(record: &Record, share: f64) -> bool {
    draw(record) < share
}

/// A number from 0 to below 1, evenly spread over records.
fn draw(record: &Record) -> f64 {
    let content = match record {
        Record::Messages { messages, inputs } => {
            let messages: Vec<Value> = messages.iter().map(|message| json!([message, message.learned])).collect();
            json!(["messages", messages, inputs.tools, inputs.more])
        }
        Record::Instruction { system, instruction, input, output } => json!(["instruction", system, instruction, input, output]),
        Record::Completion { prompt, completion } => json!(["completion", prompt, completion]),
        Record::Text(text) => json!(["text", text]),
        Record::Tokens { input_ids, labels } => json!(["tokens", input_ids, labels]),
    };
    let digest = Sha256::digest(sorted(content).to_string());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    // 53 bits are what f64 holds exactly.
    (u64::from_le_bytes(first) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The same value with the keys of all objects in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draw_is_even_and_never_changes() {
        let held_out = (0..4000).filter(|number| is_held_out(&Record::Text(format!("record {number}")), 0.05)).count();
        // 200 expected, standard deviation 14.
        assert!(held_out.abs_diff(200) < 70, "{held_out}");
        // What was held out in one version is not trained on in the next.
        let draws: Vec<String> =
            ["a", "b"].iter().map(|text| format!("{:.6}", draw(&Record::Text((*text).to_string())))).collect();
        assert_eq!(draws, ["0.819000", "0.251335"]);
    }
}
