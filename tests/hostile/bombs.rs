//! Small files that once took all time, memory or stack, and their relatives: the command ends soon, with one error that names the file
//! and what it did, and exit code 2.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{alone, program::program, seeds};

/// A command that takes longer does not end. Deadlines are seconds; the machine may be busy.
const LONGEST: Duration = Duration::from_secs(60);

/// A model folder and data, of which single files are replaced.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put("config.json", seeds::config_json().to_string());
        place.put("model.safetensors", &seeds::safetensors()[0]);
        place.put("tokenizer.json", &seeds::tokenizer()[0]);
        place.put("data.jsonl", CONVERSATION);
        place.put("chat_template.jinja", "{% for m in messages %}{{ m.content ~ ' ' }}{% endfor %}");
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join(name), bytes).unwrap();
    }

    /// Exit code and standard error of `graftling train --dry-run` with further arguments.
    pub fn train(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = program();
        let model: &[&str] = if arguments.contains(&"--model") { &[] } else { &["--model", "."] };
        command.args(["train", "--dry-run"]).args(model).args(arguments).current_dir(self.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut pipe = child.stderr.take().unwrap();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).unwrap();
            text
        });
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if started.elapsed() > LONGEST {
                child.kill().unwrap();
                panic!("{arguments:?} has not ended within {LONGEST:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (status.code(), reader.join().unwrap())
    }

    /// That training ends with one error that holds `expected`.
    #[track_caller]
    fn refused(&self, what: &str, arguments: &[&str], expected: &[&str]) {
        let (code, message) = self.train(arguments);
        assert_eq!(code, Some(2), "{what}: {message}");
        assert_eq!(message.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{what}: {message}");
        assert!(expected.iter().all(|words| message.contains(words)), "{what}: {message}");
    }
}

const CONVERSATION: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
const DATA: [&str; 2] = ["--data", "data.jsonl"];

fn template(what: &str, template: &str, expected: &str) {
    let place = Place::new();
    place.put("chat_template.jinja", template);
    place.refused(what, &DATA, &["chat_template.jinja", expected]);
}

/// Which bound is met first, of time or memory, depends on the machine.
const STOPPED: &str = "and was stopped";
/// Said of the stack, and of values by what reads them.
const STACK: &str = "too deeply";

/// A list that lies in a list, a hundred thousand times.
fn nested(use_of_it: &str) -> String {
    let pairs = "{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
    format!("{{% set ns = namespace(x=1) %}}{{% set ns.y = [] %}}{{% for j in range(3) %}}{pairs}{{% endfor %}}{use_of_it}")
}

#[test]
fn deep_values_do_not_overflow_the_stack() {
    let _alone = alone();
    for use_of_it in [
        "{{ ns.x | tojson }}",
        "{{ ns.x }}",
        "{{ ns.x ~ 'a' }}",
        "{{ ns.x == [ns.x] }}",
        "{{ [ns.x] | join }}",
        "{{ [ns.x, [1]] | sort }}",
        "{{ [ns.x, ns.x] | unique }}",
        "{{ ns.x | string }}",
        "{{ ns.x in [[ns.x]] }}",
        "{{ ns.x < [ns.x] }}",
        "{{ {'a': ns.x} }}",
        "{{ {ns.x: 1} }}",
        "{{ [ns.x] | map('string') | list }}",
        "{{ [ns.x] | min }}",
        "{{ '%s' | format(ns.x) }}",
        "{{ [{'a': ns.x}] | groupby('a') }}",
    ] {
        template(use_of_it, &nested(use_of_it), STACK);
    }
    let deep =
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x | tojson }}";
    template("objects", deep, STACK);
    template("indented", &nested("{{ ns.x | tojson(indent=2) }}"), STACK);
    let slices = "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | batch(1) | list | slice(1) | list %}\
                  {% endfor %}{{ ns.x }}";
    template("batches", slices, STACK);
}

#[test]
fn long_and_deep_programs_do_not_overflow_the_stack() {
    let _alone = alone();
    for (open, middle, close) in [
        ("1+", "1", ""),
        ("1 ~ ", "1", ""),
        ("-", "1", ""),
        ("not ", "1", ""),
        ("[", "1", "]"),
        ("(", "1", ")"),
        ("{1:", "1", "}"),
        ("", "a", ".a"),
        ("", "a", "[0]"),
        ("", "a", "()"),
        ("", "1", "|string"),
        ("1 if 1 else ", "1", ""),
        ("a and ", "1", ""),
        ("1 == ", "1", ""),
        ("2**", "1", ""),
        ("", "1", " is defined"),
    ] {
        for count in [20_000, 300_000] {
            let place = Place::new();
            place.put("chat_template.jinja", format!("{{{{ {}{middle}{} }}}}", open.repeat(count), close.repeat(count)));
            // Some of these are sound programs.
            let (code, message) = place.train(&DATA);
            assert!(matches!(code, Some(0 | 2)), "{open} {close} {count}: {code:?} {message}");
        }
    }
    for (open, close) in
        [("{% if true %}", "{% endif %}"), ("{% for i in [1] %}", "{% endfor %}"), ("{% macro m() %}", "{% endmacro %}")]
    {
        let place = Place::new();
        place.put("chat_template.jinja", format!("{}{}", open.repeat(50_000), close.repeat(50_000)));
        place.refused(open, &DATA, &["chat_template.jinja"]);
    }
    template("endless macro", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "chat template");
    template("endless loop", "{% for a in [[1]] recursive %}{{ loop([a]) }}{% endfor %}", "chat template");
    template(
        "imports itself",
        "{% from 'chat_template' import ns as q %}{% set ns = namespace() %}{% set q.x = q %}{{ q }}",
        "template",
    );
}

#[test]
fn long_work_and_large_values_end() {
    let _alone = alone();
    template(
        "doubling",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        STOPPED,
    );
    template("indent", "{{ 'x' | indent(4294967296, true) }}", STOPPED);
    template(
        "multiplied",
        "{% for a in range(99999) %}{% set x = ('a' * 90000000) | replace('a', 'b') | upper %}{% endfor %}",
        "",
    );
    let lists =
        "{% set ns = namespace(x=[1, 2]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}";
    template("lists", lists, STOPPED);
    let slow = "{% set x = 'ab' * 3000000 %}{% for i in range(99999) %}{% set y = x | replace('a', 'c') | length %}{% endfor %}";
    template("filters", slow, STOPPED);
    let sorted = "{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | reverse | sort | unique | length %}{% endfor %}";
    template("sorted", sorted, STOPPED);
}

/// A few characters that ask for a value of gigabytes, or for a loop of billions.
#[test]
fn widths_counts_and_powers_of_a_few_digits_end() {
    let _alone = alone();
    for (program, expected) in [
        ("{{ 'a' * 10000000000 }}", "too large"),
        ("{{ ('x' * 1000000) | replace('x', 'y' * 100000) }}", STOPPED),
        ("{{ range(10 ** 9) | list | length }}", "range"),
        ("{{ '%1000000000d' | format(1) }}", STOPPED),
        ("{{ '{:>1000000000}'.format(1) }}", STOPPED),
        ("{{ 'a'.center(10000000000) }}", "width"),
        ("{{ messages | map(attribute='content') | join('x' * 90000000) }}", ""),
        ("{{ 'x'.join(['y'] * 500000000) }}", STOPPED),
        ("{{ [[1] * 100000] * 100000 }}", STOPPED),
        ("{{ messages | batch(1000000000, 'z') | list }}", STOPPED),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "calculate"),
        ("{% include 'config.json' %}", "config.json"),
    ] {
        template(program, program, expected);
    }
}

/// The first sound tokenizer with one part replaced.
fn tokenizer(part: &str, value: Value) -> Vec<u8> {
    let mut tokenizer: Value = serde_json::from_slice(&seeds::tokenizer()[0]).unwrap();
    tokenizer[part] = value;
    tokenizer.to_string().into_bytes()
}

fn with_tokenizer(what: &str, file: &[u8], data: &str, expected: &str) {
    let place = Place::new();
    place.put("tokenizer.json", file);
    place.put("data.jsonl", data);
    place.refused(what, &DATA, &["tokenizer", expected]);
}

#[test]
fn rules_of_a_tokenizer_end() {
    let _alone = alone();
    let text = r#"{"text": "aaaaaaaa"}"#;
    let double = json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" });
    with_tokenizer(
        "doubling",
        &tokenizer("normalizer", json!({ "type": "Sequence", "normalizers": vec![double.clone(); 60] })),
        text,
        STOPPED,
    );
    let mut nest = double;
    for _ in 0..60 {
        nest = json!({ "type": "Sequence", "normalizers": [nest, { "type": "Replace", "pattern": { "Regex": "a" }, "content": "aa" }] });
    }
    with_tokenizer("nested and doubling", &tokenizer("normalizer", nest.clone()), text, "");
    let place = Place::new();
    place.put("tokenizer.json", "{\"a\":".repeat(100_000));
    place.refused("deep JSON", &DATA, &["tokenizer.json"]);
    let decoders = json!({ "type": "Sequence", "decoders": vec![json!({ "type": "Replace", "pattern": { "String": "a" }, "content": "aa" }); 60] });
    // Decoding is asked for by the preview of the data, where it is shown, and by `generate`.
    let place = Place::new();
    place.put("tokenizer.json", tokenizer("decoder", decoders));
    place.put("data.jsonl", text);
    place.refused("decoder", &DATA, &["tokenizer.json", STOPPED]);
    let pieces: Vec<Value> = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } }); 200_000];
    let post = json!({ "type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {} });
    let long = format!(r#"{{"text": "{}"}}"#, "ab ".repeat(3000));
    with_tokenizer("pieces", &tokenizer("post_processor", post), &long, "");
    let ids: Vec<u32> = vec![1; 100_000];
    let tokens: Vec<String> = vec!["<s>".to_string(); 100_000];
    let post = json!({ "type": "TemplateProcessing", "pair": [],
        "single": vec![json!({ "SpecialToken": { "id": "x", "type_id": 0 } }); 10_000],
        "special_tokens": { "x": { "id": "x", "ids": ids, "tokens": tokens } } });
    with_tokenizer("special tokens", &tokenizer("post_processor", post), text, STOPPED);
    let regex =
        |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let aaa = format!(r#"{{"text": "{}"}}"#, "a".repeat(200_000));
    for pattern in ["(a+)+$b", "(a|aa)+$b", "(?:a?){40}a{40}$b", "(.*)*$b", "((a*)*)*$b", "(?=(a+))a*b\\1"] {
        let place = Place::new();
        place.put("tokenizer.json", tokenizer("pre_tokenizer", regex(pattern)));
        place.put("data.jsonl", &aaa);
        let (code, message) = place.train(&DATA);
        assert!(matches!(code, Some(0 | 2)), "{pattern}: {code:?} {message}");
    }
    for pattern in ["(".repeat(100_000), "(?:a{1000}){1000}".repeat(100), "((((((a{99}){99}){99}){99}){99}){99})".to_string()] {
        let place = Place::new();
        place.put("tokenizer.json", tokenizer("pre_tokenizer", regex(&pattern)));
        let (code, message) = place.train(&DATA);
        assert!(matches!(code, Some(0 | 2)), "{pattern}: {code:?} {message}");
    }
}

/// Opening a pipe waits for one who writes to it; a device has no end.
#[cfg(unix)]
#[test]
fn pipes_devices_and_sockets_are_no_files() {
    let _alone = alone();
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "data.jsonl",
        "recipe.toml",
    ];
    for (name, kind) in names.into_iter().flat_map(|name| [(name, "a pipe"), (name, "a device"), (name, "a socket")]) {
        let place = Place::new();
        place.put("recipe.toml", "");
        let path = place.path().join(name);
        let _ = fs::remove_file(&path);
        if name == "model.safetensors.index.json" {
            fs::remove_file(place.path().join("model.safetensors")).unwrap();
        }
        let _open;
        match kind {
            "a pipe" => assert!(Command::new("mkfifo").arg(&path).status().unwrap().success()),
            "a device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
            _ => _open = std::os::unix::net::UnixListener::bind(&path).unwrap(),
        }
        place.refused(name, &["--data", "data.jsonl", "--config", "recipe.toml"], &[name, kind]);
    }
    let place = Place::new();
    let gguf = place.path().join("model.gguf");
    assert!(Command::new("mkfifo").arg(&gguf).status().unwrap().success());
    place.refused("model.gguf", &["--data", "data.jsonl", "--model", "model.gguf"], &["model.gguf", "a pipe"]);
    place.refused("/dev/zero", &["--data", "/dev/zero"], &["/dev/zero", "a device"]);
    place.refused("/dev/zero", &["--data", "data.jsonl", "--model", "/dev/zero"], &["/dev/zero", "a device"]);
    place.refused("/dev/stdin", &["--data", "/dev/stdin"], &["/dev/stdin", "a device"]);
}

#[test]
fn records_of_any_length_end() {
    let _alone = alone();
    let refused = |what: &str, record: String, expected: &str| {
        let place = Place::new();
        place.put("data.jsonl", format!("{CONVERSATION}\n{record}\n"));
        place.refused(what, &DATA, &["data.jsonl:2", expected]);
    };
    refused("one long line", format!(r#"{{"text": "{}"}}"#, "ab ".repeat(60 << 20)), "a line has more than 16 MiB");
    refused("one long text", format!(r#"{{"text": "{}"}}"#, "ab ".repeat(4 << 20)), "12 MiB");
    let turn = r#"{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}"#;
    let turns = |count: usize| format!(r#"{{"messages": [{}]}}"#, vec![turn; count].join(", "));
    let place = Place::new();
    // One rendering finds all turns.
    place.put("data.jsonl", turns(4000));
    let (code, message) = place.train(&DATA);
    assert_eq!(code, Some(0), "{message}");
    place.put("data.jsonl", format!(r#"{{"text": "{}"}}"#, "ab ".repeat(1 << 20)));
    assert_eq!(place.train(&DATA).0, Some(0));
}
