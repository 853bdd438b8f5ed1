//! The tasks of `data/tasks`: what they expect is what they teach, and what they ask is not what they taught.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use graftling::data::expect::Expect;
use graftling::data::source::Place;
use serde_json::Value;

fn records(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("data/tasks").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap()
}

#[test]
fn what_a_task_expects_is_what_it_teaches() {
    for task in ["facts", "format", "both", "many"] {
        let trained = records(&format!("{task}/train.jsonl"));
        let prompts: BTreeSet<&str> = trained.iter().map(|record| text(record, "prompt")).collect();
        let answers: BTreeSet<&str> = trained.iter().map(|record| text(record, "completion")).collect();
        assert_eq!(prompts.len(), trained.len(), "{task}: a question is trained twice");
        let mut seen = BTreeSet::new();
        for side in ["check", "test"] {
            let name = format!("{task}/{side}.jsonl");
            let asked = records(&name);
            let expects: Vec<Expect> = asked
                .iter()
                .zip(1..)
                .map(|(record, line)| Expect::read(Place::line(&name, line), &record["expect"]).unwrap())
                .collect();
            for (record, expect) in asked.iter().zip(&expects) {
                let prompt = text(record, "prompt");
                let meets = |expect: &Expect, answer: &str| expect.met(answer).iter().all(|(_, met)| *met);
                assert!(meets(expect, text(record, "completion")), "{record}");
                assert!(!meets(expect, "") && !meets(expect, prompt), "{record}");
                let group = expect.group.as_deref().unwrap();
                assert_eq!(prompts.contains(prompt), group == "trained", "{record}");
                if group != "format" {
                    assert!(answers.contains(text(record, "completion")), "{record}: never taught");
                    // Of another fact no answer is right.
                    let others = answers.iter().filter(|answer| **answer != text(record, "completion"));
                    others.for_each(|other| assert!(!meets(expect, other), "{record} {other}"));
                }
                assert!(seen.insert(prompt.to_string()), "{record}: asked twice");
            }
        }
    }
}

/// Both sides ask of each kind equally often, so that neither is easier.
#[test]
fn check_and_test_have_the_same_parts() {
    let parts = |name: String| {
        let mut parts = BTreeMap::new();
        for record in records(&name) {
            *parts.entry(record["expect"]["group"].as_str().unwrap().to_string()).or_insert(0) += 1;
        }
        parts
    };
    for task in ["facts", "format", "both", "many"] {
        assert_eq!(parts(format!("{task}/check.jsonl")), parts(format!("{task}/test.jsonl")), "{task}");
    }
    assert!(records("general.jsonl").iter().all(|record| record["text"].is_string()));
}
