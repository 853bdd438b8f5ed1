//! The tensors of an adapter's file: each by what its key names and `adapter_config.json` says of it, and all that belong together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::chosen::Paths;
use super::names::{self, Named, OfVocabulary};
use super::patterns::ALIKE;
use super::{AdapterConfig, AdapterTensor, CONFIG, EMBEDDING, TrainedBiases, WRONG_ADAPTER, fused, is_router};
use crate::architecture::experts::{ExpertNames, of_expert};
use crate::formats::adapter_folder::Tensors;
use crate::storage::TensorInfo;
use crate::{Error, Result};

/// All matrices of the file, sorted by name, each layer with all of its own; and of each adapted layer (`layers.3.self_attn.q_proj`) what it is
/// called in the file. `config` then has what only the file says: sizes of whole matrices, the number of experts.
pub(super) fn tensors(path: &Path, config: &mut AdapterConfig, names_of: &ExpertNames) -> Result<(Vec<AdapterTensor>, Paths)> {
    let file = Tensors::open(path)?;
    let mut found = Found::default();
    // A router that is there by two names is one.
    let copies: BTreeSet<String> = file.infos().iter().filter_map(|info| names::router_of_today(&info.name)).collect();
    for info in file.infos().iter().filter(|info| !copies.contains(&info.name)) {
        found.take(&file, info, config)?;
    }
    let Found { tensors, paths, of_experts, fused } = found;
    let of_family = |name: String| if is_of_a_router(&name) { names_of.of_today(&name) } else { name };
    let mut paths: Paths = paths.into_iter().map(|(site, paths)| (of_family(site), paths)).collect();
    let renamed = |tensor: AdapterTensor| AdapterTensor { name: of_family(tensor.name), ..tensor };
    let mut tensors: BTreeMap<String, AdapterTensor> =
        tensors.into_values().map(renamed).map(|tensor| (tensor.name.clone(), tensor)).collect();
    let (together, count) = all_together(of_experts).map_err(|(name, problem, proposal)| file.bad(&name, problem, proposal))?;
    config.experts = count;
    let apart =
        fused::apart(config, names_of, fused).map_err(|problem| Error::bad_input(path.display(), problem, WRONG_ADAPTER))?;
    for tensor in &apart {
        if together.iter().any(|other| other.name == tensor.name) {
            let problem = format!("has {} of all experts in one parameter and of single ones as well", tensor.name);
            return Err(Error::bad_input(path.display(), problem, WRONG_ADAPTER));
        }
        let site = tensor.name.rsplit_once('.').map_or("", |(site, _)| site);
        paths.entry(site.to_owned()).or_default().extend(names::paths(site, config.experts, ""));
    }
    tensors.extend(apart.into_iter().chain(together).map(|tensor| (tensor.name.clone(), tensor)));
    // Of a list that has no rows of its own, because it is that of another module.
    config.token_indices.values_mut().for_each(|tokens| tokens.sort_unstable());
    check_complete(&file, config, &tensors)?;
    if tensors.keys().all(|name| is_beside(name)) {
        return Err(Error::bad_input(path.display(), "has no tensors of LoRA", WRONG_ADAPTER));
    }
    Ok((tensors.into_values().collect(), paths))
}

/// What a file has, taken apart.
#[derive(Default)]
struct Found {
    tensors: BTreeMap<String, AdapterTensor>,
    paths: Paths,
    /// Of single experts, by the name of the matrix of all, and by number.
    of_experts: BTreeMap<String, BTreeMap<usize, AdapterTensor>>,
    /// Pairs of the parameters of all experts.
    fused: BTreeMap<fused::Place, AdapterTensor>,
}

impl Found {
    /// Takes a tensor in.
    fn take(&mut self, file: &Tensors, info: &TensorInfo, config: &mut AdapterConfig) -> Result<()> {
        let key = info.name.as_str();
        if let Some(saved) = names::norm_or_router(key) {
            // The model's own stands beside the trained one.
            return saved.map_or(Ok(()), |name| self.take_saved(file, info, name, config));
        }
        if let Some(name) = names::bias(key) {
            return self.take_bias(file, info, name, config);
        }
        if let Some(of) = names::of_vocabulary(key) {
            return self.take_vocabulary(file, info, of, config);
        }
        if let Some(place) = fused::of_key(key) {
            let &[rows, columns] = info.shape.as_slice() else {
                return Err(file.bad(key, format!("has shape {:?}, not two dimensions", info.shape), WRONG_ADAPTER));
            };
            let tensor = AdapterTensor { name: key.to_owned(), shape: [rows, columns], values: file.values(key)? };
            return once(file, key, self.fused.insert(place, tensor), "`default`");
        }
        let Some(named) = names::of_key(key) else {
            let problem = "is not the lora_A or lora_B of a linear module in a layer";
            let proposal = "graftling adapts the projections of attention and MLP; train the adapter without embeddings, lm_head or other parts.";
            return Err(file.bad(key, problem, proposal));
        };
        self.take_linear(file, info, named, config)
    }

    fn take_saved(&mut self, file: &Tensors, info: &TensorInfo, name: String, config: &AdapterConfig) -> Result<()> {
        let key = info.name.as_str();
        let (shape, expected) = match (info.shape.as_slice(), names::is_router(&name)) {
            (&[experts, hidden], true) => (Some([experts, hidden]), "[experts, hidden]"),
            (_, true) => (None, "[experts, hidden]"),
            (&[size], false) => (Some([size, 1]), "[hidden]"),
            (_, false) => (None, "[hidden]"),
        };
        let Some(shape) = shape else {
            return Err(file.bad(key, format!("has shape {:?}, not {expected}", info.shape), WRONG_ADAPTER));
        };
        let path = names::path(name.strip_suffix(".weight").unwrap_or(&name), "");
        if !config.ends_to_save().any(|saved| path.ends_with(saved)) {
            return Err(file.bad(key, format!("is there, but {CONFIG} does not list it in modules_to_save"), WRONG_ADAPTER));
        }
        self.tensors.insert(name.clone(), AdapterTensor { name, shape, values: file.values(key)? });
        Ok(())
    }

    fn take_bias(&mut self, file: &Tensors, info: &TensorInfo, name: String, config: &AdapterConfig) -> Result<()> {
        let key = info.name.as_str();
        let &[size] = info.shape.as_slice() else {
            return Err(file.bad(key, format!("has shape {:?}, not [out]", info.shape), WRONG_ADAPTER));
        };
        // Of a router that is trained as a whole, the bias is a part.
        let module = name.strip_suffix(".bias").unwrap_or(&name);
        let is_saved = is_of_a_router(module) && config.ends_to_save().any(|saved| names::path(module, "").ends_with(saved));
        if config.bias == TrainedBiases::None && !is_saved {
            return Err(file.bad(key, format!("is there, but {CONFIG} does not say bias"), WRONG_ADAPTER));
        }
        let tensor = AdapterTensor { name: name.clone(), shape: [size, 1], values: file.values(key)? };
        once(file, key, self.tensors.insert(name, tensor), "`base_layer`")
    }

    fn take_vocabulary(
        &mut self,
        file: &Tensors,
        info: &TensorInfo,
        (module, what): (&str, OfVocabulary),
        config: &mut AdapterConfig,
    ) -> Result<()> {
        let key = info.name.as_str();
        let &[rows, columns] = info.shape.as_slice() else {
            return Err(file.bad(key, format!("has shape {:?}, not [tokens, hidden]", info.shape), WRONG_ADAPTER));
        };
        let own_name = match what {
            OfVocabulary::Original => return Ok(()),
            OfVocabulary::Whole => "weight",
            // What a list means for the embedding alone, a file of a model with one matrix for both may have twice.
            OfVocabulary::Rows if !config.token_indices.contains_key(module) && config.token_indices.contains_key(EMBEDDING) => {
                return Ok(());
            }
            OfVocabulary::Rows => "token_rows",
        };
        let mut values = file.values(key)?;
        if what == OfVocabulary::Whole {
            let before = config.whole_rows.insert(module.to_owned(), rows);
            if before.is_some_and(|before| before != rows) {
                let problem = format!("has {rows} rows, and another key of {module} has others");
                return Err(file.bad(key, problem, WRONG_ADAPTER));
            }
        } else {
            values = in_token_order(config.token_indices.get_mut(module), &values, [rows, columns])
                .map_err(|problem| file.bad(key, problem, WRONG_ADAPTER))?;
        }
        let name = format!("{module}.{own_name}");
        self.tensors.insert(name.clone(), AdapterTensor { name, shape: [rows, columns], values });
        Ok(())
    }

    fn take_linear(&mut self, file: &Tensors, info: &TensorInfo, named: Named, config: &AdapterConfig) -> Result<()> {
        let key = info.name.as_str();
        let r = config.rank_of(&named.path);
        self.paths.entry(named.site().to_owned()).or_default().insert(named.path.clone());
        let name = named.name;
        let (expected, rank) = match () {
            _ if names::is_vector(&name) => ("[out]", None),
            _ if name.ends_with("lora_a") => ("[r, in]", Some(info.shape.first())),
            _ => ("[out, r]", Some(info.shape.get(1))),
        };
        let shape = match *info.shape.as_slice() {
            [rows, columns] if rank.is_some() => [rows, columns],
            [rows] if rank.is_none() => [rows, 1],
            _ => return Err(file.bad(key, format!("has shape {:?}, not {expected}", info.shape), WRONG_ADAPTER)),
        };
        if rank.is_some_and(|found| found != Some(&r)) {
            let problem = format!("has shape {:?}, but r is {r} and the shape must be {expected}", info.shape);
            return Err(file.bad(key, problem, WRONG_ADAPTER));
        }
        let own_name = name.rsplit('.').next().unwrap_or_default();
        let wanted = |own: &str, is: bool| own_name != own || is;
        if !wanted("lora_magnitude_vector", config.use_dora) || !wanted("lora_b_bias", config.lora_bias) {
            let option = if config.use_dora { "lora_bias" } else { "use_dora or lora_bias" };
            return Err(file.bad(key, format!("is there, but {CONFIG} does not say {option}"), WRONG_ADAPTER));
        }
        let tensor = AdapterTensor { name: name.clone(), shape, values: file.values(key)? };
        let before = match named.expert {
            Some(expert) => self.of_experts.entry(name).or_default().insert(expert, tensor),
            None => self.tensors.insert(name, tensor),
        };
        once(file, key, before, "`default`")
    }
}

/// That nothing was there under another spelling of the key, with or without this word.
fn once(file: &Tensors, key: &str, before: Option<AdapterTensor>, word: &str) -> Result<()> {
    match before {
        None => Ok(()),
        Some(_) => Err(file.bad(key, format!("occurs twice, with and without {word} in its key"), WRONG_ADAPTER)),
    }
}

/// Does a matrix belong to no linear layer's adapter?
fn is_beside(name: &str) -> bool {
    names::vocabulary_module(name).is_some() || is_saved(name) || names::is_bias(name)
}

/// Is it the whole weight of a module of a layer, or of the last norm?
fn is_saved(name: &str) -> bool {
    names::is_norm(name) || names::is_router(name)
}

/// Does a layer (`layers.3.mlp.gate`), or a matrix of it, belong to a router?
fn is_of_a_router(name: &str) -> bool {
    name.split('.').nth(3).is_some_and(is_router)
}

/// That all is there that the configuration says, and each pair with its other half.
fn check_complete(file: &Tensors, config: &AdapterConfig, tensors: &BTreeMap<String, AdapterTensor>) -> Result<()> {
    for module in &config.modules_to_save {
        let is_end = config.ends_to_save().any(|end| end == module);
        let of_end = |name: &String| is_saved(name) && names::path(name, "").ends_with(&format!("{module}.weight"));
        let is_there = if is_end { tensors.keys().any(of_end) } else { tensors.contains_key(&format!("{module}.weight")) };
        if !is_there {
            return Err(file.bad(module, format!("is missing, which {CONFIG} lists in modules_to_save"), WRONG_ADAPTER));
        }
    }
    for (module, tokens) in &config.token_indices {
        // Where a model has one matrix for both, the rows are in the file once.
        let is_copy = config.token_indices.get(EMBEDDING) == Some(tokens) && module != EMBEDDING;
        if !is_copy && !tensors.contains_key(&format!("{module}.token_rows")) {
            let problem = format!("rows are missing, which {CONFIG} lists in trainable_token_indices");
            return Err(file.bad(module, problem, WRONG_ADAPTER));
        }
    }
    let mut owed = vec!["lora_a", "lora_b"];
    owed.extend(config.use_dora.then_some("lora_magnitude_vector"));
    owed.extend(config.lora_bias.then_some("lora_b_bias"));
    for name in tensors.keys().filter(|name| !is_beside(name)) {
        let site = name.rsplit_once('.').map_or("", |(site, _)| site);
        let missing = owed.iter().map(|own| format!("{site}.{own}")).find(|partner| !tensors.contains_key(partner));
        if let Some(partner) = missing {
            return Err(file.bad(name, format!("is there, but {partner} is missing"), WRONG_ADAPTER));
        }
    }
    Ok(())
}

/// The matrices of all experts, of those of single ones: by name, then by number.
///
/// # Errors
/// The name of a matrix, what is wrong with it, and what to do: an expert has none, or one of another shape.
fn all_together(
    found: BTreeMap<String, BTreeMap<usize, AdapterTensor>>,
) -> std::result::Result<(Vec<AdapterTensor>, usize), (String, String, &'static str)> {
    let count = found.values().filter_map(|of| of.keys().last()).max().map_or(0, |last| last.saturating_add(1));
    let mut tensors = Vec::with_capacity(found.len());
    for (name, of) in found {
        let number = |expert: usize| of_expert(&name, expert);
        if let Some(lacking) = (0..count).find(|expert| !of.contains_key(expert)) {
            let problem = "is missing, and other experts have theirs: graftling adapts all of them".to_owned();
            return Err((number(lacking), problem, WRONG_ADAPTER));
        }
        let shape = of.values().next().map_or([0, 0], |tensor| tensor.shape);
        if let Some((expert, tensor)) = of.iter().find(|(_, tensor)| tensor.shape != shape) {
            let problem = format!("has shape {:?}, and that of expert 0 {shape:?}", tensor.shape);
            return Err((number(*expert), format!("{problem}: graftling has one rank for all experts of a layer"), ALIKE));
        }
        let values = of.into_values().flat_map(|tensor| tensor.values).collect();
        tensors.push(AdapterTensor { name, shape: [count * shape[0], shape[1]], values });
    }
    Ok((tensors, count))
}

/// Rows in the order of their tokens, into which `tokens` is brought too.
fn in_token_order(
    tokens: Option<&mut Vec<u32>>,
    rows: &[f32],
    [count, columns]: [usize; 2],
) -> std::result::Result<Vec<f32>, String> {
    let Some(tokens) = tokens else { return Err(format!("is there, but {CONFIG} has no trainable_token_indices for it")) };
    if tokens.len() != count {
        return Err(format!("has {count} rows, but trainable_token_indices has {} tokens", tokens.len()));
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&row| tokens[row]);
    *tokens = order.iter().map(|&row| tokens[row]).collect();
    if let Some(pair) = tokens.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("has two rows for token {}", pair[0]));
    }
    Ok(order.iter().flat_map(|&row| &rows[row * columns..(row + 1) * columns]).copied().collect())
}
