//! `/api/sources`, `/api/source`: of every op its formula, gradient rule, f64 reference and kernels, as they stand in the files that this
//! program was built from.

use std::path::Path;

use rust_embed::RustEmbed;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kernel::shader;
use crate::ops::registry;
use crate::{Error, Result};

/// The files that this program was built from.
#[derive(RustEmbed)]
#[folder = "src"]
#[prefix = "src/"]
struct Files;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileAsked {
    /// `src/studio/api/attention.rs`
    pub path: String,
}

/// A file of this program.
#[derive(Debug, Serialize)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// A file that this program was built from.
///
/// # Errors
/// Bad input: there is no such file.
pub fn file(asked: &FileAsked) -> Result<File> {
    let content = Files::get(&asked.path).ok_or_else(|| {
        let proposal = "name a file as the `path` of /api/source is named, such as src/ops/rope.rs";
        Error::bad_input("path", format!("`{}` is no file of this program", asked.path), proposal)
    })?;
    Ok(File { path: asked.path.clone(), text: String::from_utf8_lossy(&content.data).into_owned() })
}

/// All ops.
#[derive(Debug, Serialize)]
pub struct Sources {
    pub ops: Vec<Summary>,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    pub op: &'static str,
    /// The first sentence of its page.
    pub what: String,
    pub path: String,
    pub kernels: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub op: String,
}

/// One op.
#[derive(Debug, Serialize)]
pub struct Source {
    pub op: &'static str,
    /// Markdown: what it computes, inputs and outputs.
    pub formula: String,
    /// Markdown: its gradient rule; for an op that is none's forward pass, why it has none.
    pub gradient: String,
    /// Rust: the same in plain f64.
    pub reference: String,
    /// Every kernel that may compute it.
    pub kernels: Vec<Composed>,
    /// The files that these are composed of, each once.
    pub wgsl: Vec<Wgsl>,
    pub path: String,
    /// The file with the main part of the first kernel.
    pub shader: String,
    /// First and last line of the op's code in `path`, from 1: from `impl Op` to the end of its reference.
    pub repository_lines: [usize; 2],
    /// In the last profile of the run that is shown; `None` without one.
    pub time: Option<Time>,
}

/// A kernel, and the files of which it is made, its own last.
#[derive(Debug, Serialize)]
pub struct Composed {
    pub name: &'static str,
    pub files: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Wgsl {
    /// The file.
    pub name: String,
    pub text: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Time {
    pub calls: usize,
    /// Of the step.
    pub share: f64,
    pub ms: f64,
}

/// The list of ops.
///
/// # Errors
/// Failed: an op has no file, which is a defect.
pub fn sources() -> Result<Sources> {
    let summary = |entry: crate::ops::OpEntry| {
        let page = Page::find(entry.name)?;
        let what = page.formula.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        Ok(Summary { op: entry.name, what, path: page.path, kernels: entry.kernels.len() })
    };
    Ok(Sources { ops: registry().into_iter().map(summary).collect::<Result<_>>()? })
}

/// An op; `run` is the folder of the run that is shown.
///
/// # Errors
/// Bad input: there is no such op.
pub fn source(asked: &Asked, run: Option<&Path>) -> Result<Source> {
    let ops = registry();
    let names: Vec<&str> = ops.iter().map(|entry| entry.name).collect();
    let entry = ops.iter().find(|entry| entry.name == asked.op).ok_or_else(|| {
        Error::bad_input("op", format!("there is no op `{}`", asked.op), format!("give one of {}", names.join(", ")))
    })?;
    let page = Page::find(entry.name)?;
    let (mut kernels, mut wgsl) = (Vec::new(), Vec::<Wgsl>::new());
    for kernel in &entry.kernels {
        let parts = shader::parts(kernel).map_err(|problem| Error::failed("shaders", problem, DEFECT))?;
        kernels.push(Composed { name: kernel.name, files: parts.iter().map(|(file, _)| file.clone()).collect() });
        for (name, text) in parts {
            if wgsl.iter().all(|known| known.name != name) {
                wgsl.push(Wgsl { name, text });
            }
        }
    }
    let time = run.and_then(|run| time(run, entry.name));
    Ok(Source {
        op: entry.name,
        formula: page.formula,
        gradient: page.gradient,
        reference: page.reference,
        shader: kernels.first().and_then(|kernel| kernel.files.last()).cloned().unwrap_or_default(),
        kernels,
        wgsl,
        path: page.path,
        repository_lines: page.lines,
        time,
    })
}

const DEFECT: &str = "this is a defect of graftling: please report it";

/// What the file of an op says.
struct Page {
    path: String,
    formula: String,
    gradient: String,
    reference: String,
    lines: [usize; 2],
}

impl Page {
    /// The file in which the op gives this name.
    fn find(op: &str) -> Result<Self> {
        let name = format!("\"{op}\"");
        for file in Files::iter().filter(|file| file.starts_with("src/ops/")) {
            let Some(content) = Files::get(&file) else { continue };
            let text = String::from_utf8_lossy(&content.data);
            let lines: Vec<&str> = text.lines().collect();
            let named =
                |at: usize| lines[at].contains("fn name(&self)") && lines.get(at + 1).is_some_and(|next| next.trim() == name);
            if let Some(at) = (0..lines.len()).find(|&at| named(at)) {
                return Self::read(op, &file, &lines, at);
            }
        }
        Err(Error::failed("sources", format!("no file gives the name {name}"), DEFECT))
    }

    /// `at`: the line on which the op's name is given.
    fn read(op: &str, path: &str, lines: &[&str], at: usize) -> Result<Self> {
        let page = lines.iter().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
        let page = page.collect::<Vec<_>>().join("\n");
        let (formula, gradient) = page.split_once("**Gradient").map_or((page.as_str(), None), |(formula, rest)| {
            (formula, Some(format!("**Gradient{}", rest.split("\n\n| input").next().unwrap_or(rest))))
        });
        let first = lines[..at].iter().rposition(|line| line.starts_with("impl Op for")).unwrap_or(at);
        let end = |from: usize, mark: &str| lines[from..].iter().position(|line| *line == mark).map(|found| from + found);
        let missing = |what: &str| Error::failed(path, format!("`{op}` has no {what}"), DEFECT);
        let last = end(at, "}").ok_or_else(|| missing("end"))?;
        let start =
            (first..last).find(|&line| lines[line].starts_with("    fn reference(")).ok_or_else(|| missing("reference"))?;
        let stop = end(start, "    }").ok_or_else(|| missing("end of its reference"))?;
        let reference: Vec<&str> = lines[start..=stop].iter().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
        let of_reason = || {
            let reason = lines[first..last].iter().find_map(|line| line.trim().strip_prefix("Derivative::None(\""));
            reason.map(|reason| format!("None: {}.", reason.trim_end_matches("\")"))).unwrap_or_default()
        };
        Ok(Self {
            path: path.to_owned(),
            formula: formula.trim().to_owned(),
            gradient: gradient.map_or_else(of_reason, |gradient| gradient.trim().to_owned()),
            reference: reference.join("\n"),
            lines: [first + 1, stop + 1],
        })
    }
}

/// Bytes of the largest trace that is read.
const LARGEST_TRACE: u64 = 64 << 20;

/// What the newest trace in a run's folder (`train --profile`) says of an op.
fn time(run: &Path, op: &str) -> Option<Time> {
    let newest = std::fs::read_dir(run).ok()?.flatten().filter(|entry| entry.path().extension().is_some_and(|end| end == "json"));
    let mut traces: Vec<_> = newest.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    traces.sort();
    let trace = traces.into_iter().rev().find_map(|(_, path)| {
        let value: Value = serde_json::from_slice(&crate::files::read(&path, LARGEST_TRACE).ok()?).ok()?;
        value["traceEvents"].as_array().cloned()
    })?;
    let microseconds = |event: &Value| event["dur"].as_f64().unwrap_or(0.0);
    let all: f64 = trace.iter().map(microseconds).sum();
    let own: Vec<f64> = trace.iter().filter(|event| event["cat"] == op).map(microseconds).collect();
    let sum: f64 = own.iter().sum();
    Some(Time { calls: own.len(), share: sum / all.max(f64::MIN_POSITIVE), ms: sum / 1e3 })
}
