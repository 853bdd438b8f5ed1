//! `graftling merge`: adapters into the weights of their model, with a report of what that does to it.

use std::cell::RefCell;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use graftling::adapter::rope_scaling;
use graftling::architecture::{Parameter, RopeOverride, parameters};
use graftling::cache::cache_folder;
use graftling::data::source::folder::{self, Side};
use graftling::data::{self, LoadOptions, LongRecords};
use graftling::export::{self, Source};
use graftling::formats::atomic;
use graftling::kernel::Arithmetic;
use graftling::merge::combine::Method;
use graftling::merge::report::{self, Row, Sums};
use graftling::merge::{Combination, Update};
use graftling::model::weights::WeightType;
use graftling::session::evaluate::Evaluation;
use graftling::session::{OpenModel, Session, SessionOptions, batch};
use graftling::storage::DType;
use graftling::storage::mixture::Mixture;
use graftling::{Error, Result, terminal};
use serde_json::{Value, json};

use super::counter::Counter;
use super::export::{Opened, check_apart, weighted};

/// The report's name in the merged folder.
const REPORT: &str = "merge-report.json";
/// Lines of the table of modules.
const SHOWN: usize = 12;
/// Its columns, by the keys of the report.
const COLUMNS: [&str; 6] = ["size", "overlap", "overlap_by_chance", "rounding", "kept", "requantised.kept"];

/// Put adapters into the weights of their model, and tell what that does to it
///
/// OUT becomes a Hugging Face folder; `graftling export` makes a GGUF file of it, or of model and adapter at once. Weights pass through
/// matrix by matrix, computed in f64 and rounded once, so that a model of any size needs some hundred megabytes of memory. OUT appears
/// complete or not at all, with merge-report.json in it: of each matrix how large the change is against the base, how far its strongest
/// directions are the base's own, what the rounding of the type costs, and what another type of blocks would leave of the change.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  graftling merge --model path/to/model --adapter my-adapter --out merged
  graftling merge --model path/to/model --adapter my-adapter --type bf16 --out merged --data held-out.jsonl
  graftling merge --model path/to/model --adapter facts --adapter style --weights 1,0.5 --method ties --density 0.3 --out merged")]
pub struct MergeArgs {
    /// Model: a folder, a .gguf file, or a Hugging Face name
    #[arg(long, value_name = "M")]
    model: String,
    /// PEFT folder of an adapter for this model; give --adapter again for more
    #[arg(long, value_name = "A", required = true)]
    adapter: Vec<PathBuf>,
    /// By what each adapter's change is multiplied, separated by commas [default: 1 for each]
    #[arg(long, value_name = "W,...", value_delimiter = ',', allow_negative_numbers = true)]
    weights: Vec<f64>,
    /// How the changes of several adapters become one
    #[arg(long, value_enum, value_name = "METHOD", default_value_t)]
    method: Method,
    /// Share of the values of each adapter's change that stay, with ties, dare-* and magnitude-prune
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    density: f64,
    /// Rank of the result, with svd [default: the largest of the adapters']
    #[arg(long, value_name = "R")]
    rank: Option<usize>,
    /// Decides which values dare-* drops
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Type of the matrices: f32, f16 or bf16 [default: the model's own if it is one of these, else f16]
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Mixture>,
    /// Another rotary scaling than the model's [default: what the adapter was trained with]
    #[arg(long, value_name = "SCALING")]
    rope_scaling: Option<RopeOverride>,
    /// Directions that are compared with the base's strongest ones in each matrix; 0 leaves this out, which takes the most time
    #[arg(long, value_name = "K", default_value_t = 8)]
    overlap: usize,
    /// Data on which to compare the losses of base, base with adapter, merged, and merged in --requantise
    #[arg(long, value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Type of blocks in which the merged weights are tried besides [default: the model's own if it is one, else q4_0]
    #[arg(long, value_enum, value_name = "TYPE")]
    requantise: Option<DType>,
    /// GPU for --data: its number or a part of its name as `graftling doctor` lists it [default: the fastest kind]
    #[arg(long, value_name = "GPU")]
    device: Option<String>,
    /// Replace what an earlier merge or export wrote at --out
    #[arg(long)]
    overwrite: bool,
    /// Print the report as one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad input in model, adapters, data or options; the disk is full; the GPU failed.
pub fn run(args: MergeArgs) -> Result<()> {
    let adapters = weighted(&args.adapter, &args.weights)?;
    let combination = Combination { method: args.method, density: args.density, seed: args.seed, rank: args.rank };
    combination.check()?;
    check_apart(&args.out, &args.model, &args.adapter)?;
    export::check_target(&args.out, args.overwrite)?;
    let mut opened = Opened::open(&args.model, args.rope_scaling, &args.adapter)?;
    let update = Update::load(&adapters, &opened.files.config)?;
    update.replaced.put_into(&mut opened.files.config);
    let kind = args.kind.unwrap_or_else(|| opened.own_type());
    let changed: Vec<Parameter> =
        parameters(&opened.files.config).into_iter().filter(|parameter| update.changes(&parameter.name)).collect();
    let sums: RefCell<Vec<(String, Sums)>> = RefCell::default();
    let bar = Counter::of("merging, in values");
    let progress = |done, total| bar.at(done, total);
    let measured = |parameter: &Parameter, found| sums.borrow_mut().push((parameter.name.clone(), found));
    let source = Source {
        combination,
        added: &opened.added,
        progress: &progress,
        measured: &measured,
        ..Source::new(&opened.files, opened.tokenizer.as_ref(), &update)
    };
    let coarse = args.requantise.unwrap_or_else(|| own_blocks(&opened));
    if !coarse.can_quantise() {
        return Err(Error::bad_input(
            "--requantise",
            format!("graftling only reads {coarse}"),
            "Give q4_0, q4_k, q8_0 or the like.",
        ));
    }
    let mut document = Value::Null;
    let written = export::folder::write(&source, kind.base(), &args.out, args.overwrite, |folder| {
        let rows = rows(&args, &source, &changed, coarse, &sums.borrow())?;
        let warnings = report::warnings(&rows, &kind.base().to_string(), Some(&coarse.to_string()));
        let listed: Vec<Value> = adapters.iter().map(|(path, weight)| json!({ "path": path, "weight": weight })).collect();
        document = json!({
            "model": args.model,
            "adapters": listed,
            "method": clap::ValueEnum::to_possible_value(&args.method).map(|value| value.get_name().to_owned()),
            "type": kind.name(),
            "requantised_to": coarse.to_string(),
            "matrices": changed.len(),
            "modules": rows,
            "warnings": warnings,
        });
        if !update.replaced.is_empty() {
            document["vocabulary"] = update.replaced.report();
        }
        atomic::write_atomically(&folder.join(REPORT), format!("{document:#}\n").as_bytes())
    });
    bar.finish();
    written?;
    if !args.data.is_empty() {
        document["losses"] = losses(&args, coarse)?;
        atomic::write_atomically(&args.out.join(REPORT), format!("{document:#}\n").as_bytes())?;
    }
    for warning in document["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        terminal::say(&format!("warning: {warning}"));
    }
    match args.json {
        true => super::print_json(&document),
        false => {
            super::print(&table(&document))?;
            terminal::say(&format!("{} is written ({}), the report in {REPORT}", args.out.display(), kind.name()));
            Ok(())
        }
    }
}

/// The type in which the model rests, if it is one of blocks that can be written.
fn own_blocks(opened: &Opened) -> DType {
    opened.resting().filter(|dtype| dtype.block() > 1 && dtype.can_quantise()).unwrap_or(DType::Q4_0)
}

/// What is told of each changed matrix.
fn rows(args: &MergeArgs, source: &Source, changed: &[Parameter], coarse: DType, sums: &[(String, Sums)]) -> Result<Vec<Row>> {
    let (update, weights) = (source.update, source.weights());
    let bar = Counter::of("comparing with the base, in matrices");
    let total = sums.len() as u64;
    let mut rows = Vec::with_capacity(sums.len());
    for (at, (tensor, sums)) in sums.iter().enumerate() {
        let overlap = match args.overlap {
            0 => None,
            k => report::overlap(&*source.files.tensors, update, tensor, k)?,
        };
        let parameter = changed.iter().find(|parameter| parameter.name == *tensor);
        let requantised = parameter.map(|parameter| weights.rounded_to(parameter, coarse)).transpose()?.flatten();
        let pairs = if update.places.len() > 1 { report::pairs(update, tensor)? } else { Vec::new() };
        rows.push(Row {
            module: update.site(tensor).map(|site| site.name()).unwrap_or_default(),
            size: sums.size(),
            rounding: sums.rounding(),
            kept: sums.kept(),
            requantised,
            overlap: overlap.map(|(overlap, _)| overlap),
            overlap_by_chance: overlap.map(|(_, chance)| chance),
            pairs,
        });
        bar.at(at as u64 + 1, total);
    }
    bar.finish();
    Ok(rows)
}

/// The losses of base, base with adapter (if there is one, with weight 1), merged, and merged in blocks.
fn losses(args: &MergeArgs, coarse: DType) -> Result<Value> {
    // With the tokens that the adapters add, which the merged model has.
    let base = OpenModel::open(&args.model)?.with_tokens_of(args.adapter.iter().map(PathBuf::as_path))?;
    let merged = OpenModel::open(&args.out.display().to_string())?;
    let max_length = base.files.config.context();
    let options = LoadOptions { max_length, long_records: LongRecords::Cut, eval_split: None };
    let files = folder::files(&args.data, Side::HeldOut)?;
    let (data, _) = data::load_files(&files, &base.tokenizer, base.template.as_ref(), options)?;
    data.check_vocabulary(merged.files.config.vocab_size)?;
    let batches = batch::in_order(&data);
    let most = batch::most_tokens(&data, &batches);
    let loss = |model: &OpenModel, adapter: Option<&Path>, weights: WeightType| -> Result<f64> {
        let options = SessionOptions {
            device: args.device.clone(),
            matmul: Arithmetic::default(),
            weights,
            autotune: true,
            cache: cache_folder(),
        };
        let uses = Evaluation { max_tokens: most };
        let session = super::with_bars(|bars| Session::open(model, adapter, &options, &[&uses], bars))?;
        Ok(super::eval::total(&super::eval::losses(&session, &data, &batches)?).0)
    };
    let mut losses = json!({});
    // The base has no rows for tokens that were added.
    if data.check_vocabulary(base.files.config.vocab_size).is_ok() {
        losses["base"] = json!(loss(&base, None, WeightType::Lossless)?);
    }
    if let ([adapter], true) = (args.adapter.as_slice(), args.weights.iter().all(|weight| *weight == 1.0)) {
        let rotated = base.rotated(rope_scaling::chosen(args.rope_scaling, Some(adapter))?);
        losses["unmerged"] = json!(loss(&rotated, Some(adapter), WeightType::Lossless)?);
    }
    losses["merged"] = json!(loss(&merged, None, WeightType::Lossless)?);
    losses["requantised"] = json!(loss(&merged, None, WeightType::In(coarse))?);
    Ok(losses)
}

/// The report for people: means by kind of module, the matrices that change the most, losses.
fn table(document: &Value) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail; the results are dropped for that reason.
    let empty = Vec::new();
    let mut rows: Vec<&Value> = document["modules"].as_array().unwrap_or(&empty).iter().collect();
    let number = |row: &Value, column: &str| match column.split_once('.') {
        Some((outer, inner)) => row[outer][inner].as_f64(),
        None => row[column].as_f64(),
    };
    rows.sort_by(|a, b| number(b, "size").unwrap_or(0.0).total_cmp(&number(a, "size").unwrap_or(0.0)));
    let coarse = document["requantised_to"].as_str().unwrap_or_default();
    let head =
        ["size", "overlap", "by chance", "rounding", "kept", &format!("kept in {coarse}")].map(|name| format!(" {name:>12}"));
    let _ = writeln!(text, "{:<32}{}", "module", head.concat());
    let cells = |of: &dyn Fn(&str) -> Option<f64>| {
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        COLUMNS.map(|column| format!(" {:>12}", shown(of(column)))).concat()
    };
    for row in rows.iter().take(SHOWN) {
        let _ = writeln!(text, "{:<32}{}", row["module"].as_str().unwrap_or_default(), cells(&|column| number(row, column)));
    }
    if rows.len() > SHOWN {
        let _ = writeln!(text, "... and {} more in {REPORT}", rows.len() - SHOWN);
    }
    let mean = |key: &str| {
        let values: Vec<f64> = rows.iter().filter_map(|row| number(row, key)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let _ = writeln!(text, "{:<32}{}", "mean", cells(&mean));
    let mut pairs: Vec<(Value, Vec<(f64, f64)>)> = Vec::new();
    for pair in rows.iter().filter_map(|row| row["pairs"].as_array()).flatten() {
        let values = (pair["cosine"].as_f64().unwrap_or(0.0), pair["sign_conflicts"].as_f64().unwrap_or(0.0));
        match pairs.iter_mut().find(|(adapters, _)| *adapters == pair["adapters"]) {
            Some((_, found)) => found.push(values),
            None => pairs.push((pair["adapters"].clone(), vec![values])),
        }
    }
    for (adapters, values) in pairs {
        let count = values.len() as f64;
        let (cosine, conflicts) = values.iter().fold((0.0, 0.0), |sum, value| (sum.0 + value.0, sum.1 + value.1));
        let _ = writeln!(
            text,
            "adapters {adapters}: cosine {:.3}, signs differ in {:.1} % of the values",
            cosine / count,
            100.0 * conflicts / count
        );
    }
    for (name, loss) in document["losses"].as_object().into_iter().flatten() {
        let name = if name == "requantised" { format!("merged in {coarse}") } else { name.clone() };
        let _ = writeln!(text, "loss, {name}: {:.4}", loss.as_f64().unwrap_or(f64::NAN));
    }
    text
}
