//! The layers of the crate, said once, and held: a module of `src/` imports from layers below its own, and from no other. So no import
//! climbs, and there is no circle between two modules of the top level.

use std::collections::BTreeSet;
use std::path::Path;

/// From the bottom up; modules of one layer know nothing of each other.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["byte_size", "cache", "caught", "files", "nearest", "picture", "terminal"],
    &["confined", "ranks"],
    &["allocator", "storage"],
    // What is computed, and with which kernels; no device.
    &["kernel"],
    &["graph"],
    // Where, which knows kernels and no op; and what an op is made of, which knows no device.
    &["gpu", "ops"],
    &["autograd", "reference"],
    // When, and in which memory.
    &["plan"],
    // What a model is.
    &["architecture"],
    // A model as a graph, which knows no file and no text; and files in and out, which know no graph.
    &["formats", "model"],
    &["text"],
    &["data"],
    &["adapter"],
    // Adapters into weights, and both into files; no device.
    &["merge"],
    &["export"],
    // Models on a device, and what they are used for.
    &["session"],
    &["generate"],
    &["train"],
    &["bench", "demo", "sweep"],
    &["advise"],
    &["studio"],
    &["cli"],
];

/// The module that has what the crate offers at its root: the error type and a macro.
fn module_of(name: &str) -> &str {
    match name {
        "Error" | "Result" => "error",
        "kernel_params" => "kernel",
        other => other,
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// First names of a path or of each path in a group: `a::b` gives `a`, `{a, b::{c}}` gives `a` and `b`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let (mut depth, mut from, mut names) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[from..at]));
                from = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Modules of the top level that a file names, `below` levels under the root: by `crate::`, `graftling::`, or enough `super::`.
fn named(text: &str, below: usize) -> BTreeSet<String> {
    let code: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let roots = ["crate::".to_string(), "graftling::".to_string(), format!("\nuse {}", "super::".repeat(below))];
    let mut names = BTreeSet::new();
    for root in &roots {
        for (at, found) in code.match_indices(root) {
            let is_whole =
                found.starts_with('\n') || !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let rest = &code[at + found.len()..];
            if is_whole && !rest.starts_with("super::") {
                names.extend(first_names(rest).into_iter().filter(|name| !name.is_empty() && name != "self"));
            }
        }
    }
    names
}

/// What is wrong with the imports of a file; `path` is relative to `src/`.
fn climbs(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").collect();
    let module = parts[0];
    let Some(own) = layer(module) else { return vec![format!("src/{path}: `{module}` stands in no layer")] };
    let wrong = |name: String| match layer(module_of(&name)) {
        _ if module_of(&name) == module => None,
        Some(other) if other < own => None,
        Some(_) => Some(format!("src/{path}: `{module}` imports `{name}`, which is not below it")),
        None => Some(format!("src/{path}: `{name}` stands in no layer")),
    };
    named(text, parts.len()).into_iter().filter_map(wrong).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn no_import_climbs() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for file in &files {
        let path = file.strip_prefix(&source).unwrap().to_string_lossy().replace('\\', "/");
        if path == "lib.rs" || path == "main.rs" {
            continue;
        }
        seen.insert(path.split(['/', '.']).next().unwrap().to_string());
        wrong.extend(climbs(&path, &std::fs::read_to_string(file).unwrap()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<_> = LAYERS.iter().copied().flatten().filter(|module| !seen.contains(**module)).collect();
    assert!(gone.is_empty(), "in a layer, but not in src/: {gone:?}");
}

#[test]
fn a_planted_climb_is_seen() {
    for (path, text) in [
        ("graph/mod.rs", "use crate::ops::Op;"),
        ("gpu/device.rs", "fn f(tuning: &crate::plan::Plan) {}"),
        ("gpu/device.rs", "use crate::ops::Op;"),
        ("model/graph.rs", "use crate::formats::TextSource;"),
        ("model/weights.rs", "use crate::{Result, text::Tokenizer};"),
        ("session/mod.rs", "use crate::{Error, train::{step::Step, trainer::Trainer}};"),
        ("autograd.rs", "use crate::reference;"),
        ("graph/shape.rs", "//! Shapes.\nuse super::super::ops::Op;"),
        ("graph/mod.rs", "//! Graphs.\nuse super::ops::Op;"),
        ("cli/mod.rs", "use graftling::unheard_of::Thing;"),
        ("unheard_of.rs", ""),
    ] {
        assert_eq!(climbs(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("graph/shape.rs", "//! Shapes.\nuse super::ops::Op;\nuse super::{Graph, Op};"),
        ("ops/mod.rs", "//! See crate::plan.\nuse crate::{Error, graph::{Graph, Op}, kernel_params};"),
        ("cli/train.rs", "use graftling::train::Run;"),
    ] {
        assert_eq!(climbs(path, text), Vec::<String>::new(), "{text}");
    }
}
