//! `/api/anatomy`: where the parameters of the model are, and what its weights would be in other formats.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Answered, Method, Nothing, Route, host};
use crate::architecture::{Architecture, Parameter, Part, Role, linear_modules, parameters};
use crate::formats::ModelPlace;
use crate::model::weights::WeightType;
use crate::storage::{DType, TensorSource};
use crate::studio::{Opened, Studio};
use crate::{Error, Result};

pub(super) fn routes() -> Vec<Route> {
    vec![host(Method::Get, "/api/anatomy", anatomy), host(Method::Post, "/api/weight", weight)]
}

/// The model, tensor by tensor.
#[derive(Clone, Serialize)]
pub struct Anatomy {
    modules: Vec<Module>,
    formats: Vec<FormatRow>,
    /// The tensor on whose rows the formats' errors were measured.
    measured_on: String,
}

#[derive(Clone, Serialize)]
struct Module {
    /// `layers.3.self_attn.q_proj`, with `.bias` where it is one.
    site: String,
    layer: Option<usize>,
    module: &'static str,
    part: &'static str,
    /// `[out_features, in_features]`, or `[features]`.
    shape: Vec<usize>,
    parameters: u64,
    /// In the file.
    bytes: u64,
    format: String,
    /// Of all parameters.
    share: f64,
    /// The tensor's name in the file.
    source: String,
}

/// All weights in one format.
#[derive(Clone, Serialize)]
struct FormatRow {
    /// As `--weights` has it.
    name: String,
    /// A value, with its part of the block's scales.
    bits: f64,
    /// Of the model on the device.
    bytes: usize,
    /// Relative: the root of the mean square of what is lost over that of the values; `None` for the format of the file.
    error: Option<f64>,
}

/// Values of the tensor on which errors are measured.
const MEASURED_VALUES: usize = 1 << 18;

fn anatomy(studio: &Arc<Studio>, _: Nothing) -> Answered<Anatomy> {
    let opened = studio.opened()?;
    if let Some(known) = opened.anatomy.get() {
        return Ok(known.clone());
    }
    let made = Anatomy::of(&opened)?;
    Ok(opened.anatomy.get_or_init(|| made).clone())
}

/// The part's word here: people call the output matrix the head.
fn part_name(part: Part) -> &'static str {
    match part {
        Part::Output => "head",
        other => other.name(),
    }
}

/// Names without what all have in common.
fn site_name(parameter: &Parameter) -> String {
    let name = parameter.name.strip_prefix("model.").unwrap_or(&parameter.name);
    name.strip_suffix(".weight").unwrap_or(name).to_string()
}

impl Anatomy {
    fn of(opened: &Opened) -> Result<Self> {
        let files = &opened.model.files;
        let all = parameters(&files.config);
        let total: u64 = all.iter().map(Parameter::count).sum();
        let is_gguf = matches!(files.place, ModelPlace::Gguf(_));
        let module = |parameter: &Parameter| {
            let info = files.tensors.find(&parameter.name);
            Module {
                site: site_name(parameter),
                layer: parameter.layer,
                module: parameter.module,
                part: part_name(parameter.part),
                shape: parameter.shape.clone(),
                parameters: parameter.count(),
                bytes: info.map_or(0, |info| info.bytes),
                format: info.map_or(String::new(), |info| info.storage.name().to_string()),
                share: parameter.count() as f64 / total as f64,
                source: if is_gguf { parameter.ggml.clone() } else { parameter.name.clone() },
            }
        };
        let (measured_on, values) = sample(&files.config, &*files.tensors)?;
        let stored = files.tensors.find(&measured_on).map(|info| info.storage);
        let format = |dtype: &DType| FormatRow {
            name: dtype.to_string(),
            bits: dtype.block_bytes() as f64 * 8.0 / dtype.block() as f64,
            bytes: opened.model.weight_bytes(WeightType::asked(Some(*dtype), true)),
            error: (stored != Some(*dtype)).then(|| error_of(*dtype, &values)),
        };
        let formats = written_formats().iter().map(format).collect();
        Ok(Self { modules: all.iter().map(module).collect(), formats, measured_on })
    }
}

/// Those that `--weights` knows.
fn written_formats() -> &'static [DType] {
    <DType as clap::ValueEnum>::value_variants()
}

/// Some rows of the down projection in the middle of the model, and the tensor's name.
fn sample(config: &Architecture, tensors: &dyn TensorSource) -> Result<(String, Vec<f32>)> {
    let down = linear_modules(config).into_iter().find(|site| site.has(Role::Down));
    let name = down.map_or_else(String::new, |site| {
        let middle = crate::architecture::Site { layer: config.num_hidden_layers / 2, ..site };
        format!("model.{}.weight", middle.name())
    });
    let Some(info) = tensors.find(&name) else { return Ok((name, Vec::new())) };
    let rows = (MEASURED_VALUES / info.row_values().max(1)).clamp(1, info.rows());
    let mut values = vec![0.0; rows * info.row_values()];
    tensors.read_rows_f32(&name, 0..rows, &mut values)?;
    // Whole blocks of every format.
    values.truncate(values.len() / 256 * 256);
    Ok((name, values))
}

fn error_of(dtype: DType, values: &[f32]) -> f64 {
    let found = rounded(dtype, values);
    let squares = |of: &mut dyn Iterator<Item = f32>| of.map(|value| f64::from(value).powi(2)).sum::<f64>();
    let lost = squares(&mut values.iter().zip(&found).map(|(value, found)| value - found));
    let all = squares(&mut values.iter().copied());
    if all > 0.0 { (lost / all).sqrt() } else { 0.0 }
}

/// Values after they have been stored in this format; whole blocks of it.
fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    let mut found = vec![0.0; values.len()];
    dtype.dequantise(&dtype.quantise(values), &mut found);
    found
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AskedWeight {
    /// As [`Module::site`] has it.
    site: String,
    row: usize,
    column: usize,
}

/// One number of the model, in every format.
#[derive(Serialize)]
struct WeightAnswer {
    /// As the file has it.
    value: f32,
    format: String,
    formats: Vec<WeightRow>,
}

#[derive(Serialize)]
struct WeightRow {
    name: String,
    value: f32,
    /// Sign, exponent and mantissa, for formats in which a number stands alone.
    bits: Option<[String; 3]>,
    /// How many values share scales with it, and the bytes of all of them.
    block: usize,
    block_bytes: usize,
}

fn weight(studio: &Arc<Studio>, asked: AskedWeight) -> Answered<WeightAnswer> {
    let opened = studio.opened()?;
    let files = &opened.model.files;
    let all = parameters(&files.config);
    let of = |parameter: &&Parameter| site_name(parameter) == asked.site;
    let tensor = all.iter().find(of).and_then(|parameter| files.tensors.find(&parameter.name));
    let Some(info) = tensor else {
        let problem = format!("`{}` is no tensor of this model", asked.site);
        return Err(Error::bad_input("site", problem, "name one as /api/anatomy does").into());
    };
    let width = info.row_values();
    if asked.row >= info.rows() || asked.column >= width {
        let problem = format!("[{}, {}] is outside of [{}, {width}]", asked.row, asked.column, info.rows());
        return Err(Error::bad_input(asked.site, problem, "rows and columns are counted from 0").into());
    }
    let mut row = vec![0.0; width];
    files.tensors.read_rows_f32(&info.name, asked.row..asked.row + 1, &mut row)?;
    let value = row[asked.column];
    let format = |dtype: &DType| {
        // The block that it is in, filled up where the row ends within it.
        let block = dtype.block();
        let first = asked.column / block * block;
        let mut values: Vec<f32> = row[first..row.len().min(first + block)].to_vec();
        values.resize(block, 0.0);
        let value = rounded(*dtype, &values)[asked.column - first];
        WeightRow { name: dtype.to_string(), value, bits: bits(*dtype, value), block, block_bytes: dtype.block_bytes() }
    };
    let formats = written_formats().iter().map(format).collect();
    Ok(WeightAnswer { value, format: info.storage.name().to_string(), formats })
}

fn bits(dtype: DType, value: f32) -> Option<[String; 3]> {
    let (word, width, exponent) = match dtype {
        DType::F32 => (value.to_bits(), 32, 8),
        DType::BF16 => (u32::from(half::bf16::from_f32(value).to_bits()), 16, 8),
        DType::F16 => (u32::from(half::f16::from_f32(value).to_bits()), 16, 5),
        _ => return None,
    };
    let text = format!("{word:0width$b}");
    Some([text[..1].to_string(), text[1..=exponent].to_string(), text[exponent + 1..].to_string()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_of_a_number_are_sign_exponent_and_mantissa() {
        let parts = |dtype| bits(dtype, -1.5).unwrap().join(" ");
        assert_eq!(parts(DType::F32), "1 01111111 10000000000000000000000");
        assert_eq!(parts(DType::BF16), "1 01111111 1000000");
        assert_eq!(parts(DType::F16), "1 01111 1000000000");
        assert_eq!(bits(DType::Q8_0, 1.0), None);
    }

    #[test]
    fn finer_formats_lose_less() {
        let values: Vec<f32> = (0..4096).map(|at| ((at * 7919 % 4096) as f32 / 4096.0 - 0.5).powi(3)).collect();
        let errors = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_K].map(|dtype| error_of(dtype, &values));
        assert_eq!(errors[0], 0.0);
        assert!(errors.windows(2).all(|pair| pair[0] < pair[1]), "{errors:?}");
    }
}
