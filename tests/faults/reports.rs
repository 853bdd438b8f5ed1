//! What becomes of what the program says: nobody reads it, there is no room for it, it holds what drives a terminal; and a run whose
//! terminal goes away.

use std::fs::File;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{said, send, start, wait_until};
use crate::runs::{Workshop, run};

/// Where output can be lost: the name, and a new stream of that kind.
fn lost(kind: &str) -> Stdio {
    match kind {
        "a full disk" => File::options().write(true).open("/dev/full").unwrap().into(),
        _ => std::io::pipe().unwrap().1.into(),
    }
}

/// Systems without such a device have the closed pipe.
fn kinds() -> Vec<&'static str> {
    let full = std::path::Path::new("/dev/full").exists().then_some("a full disk");
    ["a closed pipe"].into_iter().chain(full).collect()
}

#[test]
fn a_run_trains_to_its_end_whatever_becomes_of_its_reports() {
    let shop = Workshop::new();
    let options = ["--max-steps", "6", "--save-steps", "3", "--eval-data", "held-out.jsonl", "--eval-steps", "2"];
    run(shop.train("heard", &options), 0);
    for kind in kinds() {
        let mut command = shop.train(kind, &options);
        let status = command.env("GRAFTLING_LOG", "debug").stdout(lost(kind)).stderr(lost(kind)).status().unwrap();
        assert_eq!(status.code(), Some(0), "{kind}");
        assert_eq!(shop.result(kind), shop.result("heard"), "{kind}");
    }
    // An error that nobody hears still ends with its exit code.
    for kind in kinds() {
        let mut command = shop.train("none", &["--data", "nowhere.jsonl"]);
        assert_eq!(command.stdout(lost(kind)).stderr(lost(kind)).status().unwrap().code(), Some(2), "{kind}");
        let mut command = shop.train("none", &["--no-such-option"]);
        assert_eq!(command.stdout(lost(kind)).stderr(lost(kind)).status().unwrap().code(), Some(2), "{kind}");
    }
}

#[test]
fn where_the_output_is_the_product_a_reader_may_leave_and_a_full_disk_is_an_error() {
    let shop = Workshop::new();
    let products: [&[&str]; 7] = [
        &["eval", "--model", "model", "--data", "held-out.jsonl", "--json"],
        &["generate", "--model", "model", "--prompt", "w5 w9", "--max-new-tokens", "3"],
        &["generate", "--model", "model", "--prompt", "w5 w9", "--max-new-tokens", "3", "--json"],
        &["inspect", "model"],
        &["inspect", "model", "--json"],
        &["train", "--model", "model", "--data", "train.jsonl", "--dry-run"],
        &["--help"],
    ];
    for arguments in products {
        for kind in kinds() {
            let output = shop.command(arguments).stdout(lost(kind)).output().unwrap();
            let err = String::from_utf8(output.stderr).unwrap();
            let full = kind == "a full disk";
            assert_eq!(output.status.code(), Some(i32::from(full)), "{arguments:?} to {kind}: {err}");
            assert_eq!(
                err.matches("error: standard output: cannot be written").count(),
                usize::from(full),
                "{arguments:?}: {err}"
            );
            assert!(!err.contains("panicked"), "{arguments:?}: {err}");
        }
    }
}

#[test]
fn nohup_keeps_a_run_alive_and_a_plain_hangup_saves_it() {
    let shop = Workshop::new();
    let options = ["--lr-schedule", "constant", "--save-steps", "1000", "--max-steps", "100000"];

    let train = shop.train("deaf", &options);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(train.get_program()).args(train.get_args());
    command.current_dir(train.get_current_dir().unwrap());
    let mut child = start(command);
    wait_until(&mut child, || shop.metrics_lines("deaf") >= 2);
    send(child.id(), libc::SIGHUP);
    let heard = shop.metrics_lines("deaf");
    wait_until(&mut child, || shop.metrics_lines("deaf") >= heard + 20);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!said(&mut child).contains("interrupted"));

    let mut child = start(shop.train("hearing", &options));
    wait_until(&mut child, || shop.metrics_lines("hearing") >= 2);
    send(child.id(), libc::SIGHUP);
    let status = child.wait().unwrap();
    let text = said(&mut child);
    assert!(status.code() == Some(1) && text.contains("interrupted") && text.contains("everything is saved in"), "{text}");
}

/// Moves the cursor, sets the title, begins a control sequence in one character, goes back in the line, reverses what follows.
const COMMANDS: &str = "\x1b[2J\x1b]0;title\x07\u{9b}31m\r\u{202e}";

/// Fails where a terminal would obey; gives what was said.
#[track_caller]
fn harmless(command: Command, code: i32) -> String {
    let shown = format!("{command:?}");
    let (out, err) = run(command, code);
    let said = out + &err;
    let obeyed =
        said.chars().find(|&character| (character.is_control() && !"\n\t".contains(character)) || character == '\u{202e}');
    assert_eq!(obeyed, None, "{shown}: {said:?}");
    said
}

#[test]
fn what_files_hold_does_not_drive_the_terminal() {
    let shop = Workshop::new();
    let edit = |file: &str, change: &dyn Fn(&mut Value)| {
        let path = shop.path("model").join(file);
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    };
    let train = |data: &str, more: &[&str]| {
        let arguments = [&["train", "--model", "model", "--data", data, "--out", "out"], more].concat();
        shop.command(&arguments)
    };
    // Every word of the vocabulary, so that whatever is generated has some.
    edit("tokenizer.json", &|tokenizer| {
        let vocab = tokenizer["model"]["vocab"].as_object().unwrap().clone();
        let named = |(word, id): (String, Value)| (if word.starts_with('w') { word + COMMANDS } else { word }, id);
        tokenizer["model"]["vocab"] = Value::Object(vocab.into_iter().map(named).collect());
    });
    let generate = ["generate", "--model", "model", "--prompt", "w5", "--max-new-tokens", "4"];
    assert!(harmless(shop.command(&generate), 0).contains(r"\u{1b}[2J"));
    let (document, _) = run(shop.command(&[&generate[..], &["--json"]].concat()), 0);
    assert!(!document.contains(['\x1b', '\u{9b}', '\u{202e}']), "{document:?}");
    assert!(serde_json::from_str::<Value>(&document).unwrap()["text"].as_str().unwrap().contains(COMMANDS));
    let eval = ["eval", "--model", "model", "--data", "held-out.jsonl", "--per-token"];
    harmless(shop.command(&eval), 0);
    harmless(train("train.jsonl", &["--dry-run"]), 0);

    // Names and messages in errors.
    shop.write_records("keys.jsonl", &[json!({ COMMANDS: 1 })]);
    assert!(harmless(train("keys.jsonl", &[]), 2).contains("keys.jsonl:1"));
    harmless(train(&format!("{COMMANDS}.jsonl"), &[]), 2);
    harmless(train("train.jsonl", &[&format!("--{COMMANDS}")]), 2);
    shop.write_records(
        "chats.jsonl",
        &[json!({ "messages": [{ "role": "user", "content": "w5" }, { "role": "assistant", "content": "w6" }] })],
    );
    let template = format!("{{{{ raise_exception({}) }}}}", json!(COMMANDS));
    std::fs::write(shop.path("model/tokenizer_config.json"), json!({ "chat_template": template }).to_string()).unwrap();
    harmless(train("chats.jsonl", &[]), 2);
    let renamed = format!("model{COMMANDS}");
    std::fs::rename(shop.path("model"), shop.path(&renamed)).unwrap();
    harmless(shop.command(&["inspect", &renamed]), 0);
    harmless(shop.command(&["inspect", &renamed, "--json"]), 0);
    std::fs::rename(shop.path(&renamed), shop.path("model")).unwrap();
    edit("config.json", &|config| config["architectures"] = json!([COMMANDS]));
    harmless(shop.command(&["inspect", "model"]), 2);
    harmless(train("train.jsonl", &[]), 2);
}
