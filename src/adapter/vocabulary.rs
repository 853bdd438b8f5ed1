//! What is trained of the embedding and the output matrix: rows of their own for some tokens, or the whole matrix.
//!
//! * [`OwnRows`]: the model's matrix stays as it is, in its format, and some tokens have rows of their own in its place, which are all that is
//!   trained. A token that the matrix has no row for begins with the mean of all rows, one that it has with its row. Where a model has one matrix
//!   for both (tied), the rows are those of both.
//! * [`Whole`]: a matrix in f32 in the place of the model's own. As in PEFT it is a copy: where the model has one matrix for both, the other
//!   use goes on with the model's, unless the adapter says that it stays one (`ensure_weight_tying`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::AdapterMatrix;
use crate::architecture::Architecture;
use crate::formats::peft::{AdapterConfig, AdapterTensor};
use crate::model::hook::Vocabulary;
use crate::storage::TensorSource;
use crate::{Error, Result};

/// A matrix in the place of the model's own.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    pub module: Vocabulary,
    /// `[tokens, hidden_size]`; tokens that the adapter adds are among them.
    pub shape: [usize; 2],
    /// If not, it keeps the values that it has in the file.
    pub trained: bool,
    /// Whether it is the output matrix as well.
    pub is_both: bool,
    /// The model's tensor that it stands for.
    pub tensor: &'static str,
    /// Tokens that the model knows; the others are new.
    pub known: usize,
}

/// Rows of some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnRows {
    pub module: Vocabulary,
    /// Strictly increasing.
    pub tokens: Vec<u32>,
    /// `hidden_size`.
    pub columns: usize,
    /// Whether they are those of the output matrix as well.
    pub is_both: bool,
    /// The model's tensor whose rows they stand for.
    pub tensor: &'static str,
    /// Tokens that the model knows; the others are new.
    pub known: usize,
}

/// The name of such a matrix among the adapter's own.
pub fn whole_name(module: Vocabulary) -> String {
    format!("{}.weight", module.name())
}

/// The name of the rows among the adapter's own matrices.
pub fn rows_name(module: Vocabulary) -> String {
    format!("{}.token_rows", module.name())
}

impl Whole {
    /// As one of the adapter's matrices.
    pub fn matrix(&self) -> AdapterMatrix {
        AdapterMatrix::named(whole_name(self.module), self.shape, self.trained)
    }
}

impl OwnRows {
    /// As one of the adapter's matrices, `[tokens, hidden_size]`.
    pub fn matrix(&self) -> AdapterMatrix {
        AdapterMatrix::named(rows_name(self.module), [self.tokens.len(), self.columns], true)
    }

    /// One more than the largest token.
    pub fn end(&self) -> usize {
        self.tokens.last().map_or(0, |&last| last as usize + 1)
    }

    /// What the graph calls the list of the tokens.
    pub fn list_name(&self) -> String {
        format!("{}.tokens", rows_name(self.module))
    }

    /// Which row is a token's.
    pub fn row_of(&self, token: u32) -> Option<usize> {
        self.tokens.binary_search(&token).ok()
    }
}

/// What an adapter's configuration says of both matrices of this model.
///
/// # Errors
/// Bad input, at `place`: rows that no matrix has and no token is given.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<(Vec<Whole>, Vec<OwnRows>)> {
    let (tied, columns) = (model.tie_word_embeddings, model.hidden_size);
    let mut whole: Vec<Whole> = Vec::new();
    let mut rows: Vec<OwnRows> = Vec::new();
    for module in [Vocabulary::Embedding, Vocabulary::Output] {
        let trained = adapter.modules_to_save.iter().any(|saved| saved == module.name());
        if let Some(&count) = adapter.whole_rows.get(module.name()).or(trained.then_some(&model.vocab_size)) {
            // A file has the one matrix of a model twice; only what was trained apart is two.
            let is_copy = module == Vocabulary::Output && whole.iter().any(|embedding| embedding.is_both);
            let is_both = tied && (!trained || adapter.ensure_weight_tying);
            let known = model.vocab_size;
            let whole_of = Whole { module, shape: [count, columns], trained, is_both, tensor: module.tensor(tied), known };
            whole.extend((!is_copy).then_some(whole_of));
        }
        if let Some(tokens) = adapter.token_indices.get(module.name()) {
            let output_is_whole = adapter.modules_to_save.iter().any(|saved| saved == Vocabulary::Output.name());
            let is_both = tied && module == Vocabulary::Embedding && !output_is_whole && {
                let of_output = adapter.token_indices.get(Vocabulary::Output.name());
                of_output.is_none_or(|others| others == tokens)
            };
            let is_copy = module == Vocabulary::Output && rows.iter().any(|embedding| embedding.is_both);
            let known = model.vocab_size;
            let own = OwnRows { module, tokens: tokens.clone(), columns, is_both, tensor: module.tensor(tied), known };
            rows.extend((!is_copy).then_some(own));
        }
    }
    // What is trained apart is no output matrix of a tied model.
    let output_alone = whole.iter().any(|whole| whole.module == Vocabulary::Output);
    whole.iter_mut().for_each(|whole| whole.is_both &= !output_alone);
    check(place, model, &whole, &rows)?;
    Ok((whole, rows))
}

/// That both matrices have a row for each token, which new ones have from the adapter.
fn check(place: &str, model: &Architecture, whole: &[Whole], rows: &[OwnRows]) -> Result<()> {
    let proposal = "use the adapter with the model that it was trained on, or train it with rows for all tokens that it adds";
    let ends = [Vocabulary::Embedding, Vocabulary::Output].map(|module| {
        let of = rows.iter().find(|rows| rows.is_of(module));
        let matrix = whole.iter().find(|whole| whole.is_of(module)).map_or(model.vocab_size, |whole| whole.shape[0]);
        let end = of.map_or(matrix, |of| of.end().max(matrix));
        match (matrix..end).find(|&token| of.is_none_or(|of| of.row_of(token as u32).is_none())) {
            Some(token) => Err(Error::bad_input(place, format!("has no row of {} for token {token}", module.name()), proposal)),
            None => Ok(end),
        }
    });
    let [embedding, output] = ends;
    let (embedding, output) = (embedding?, output?);
    if embedding != output {
        let problem = format!("has {embedding} tokens in embed_tokens and {output} in lm_head, which must have the same");
        return Err(Error::bad_input(place, problem, proposal));
    }
    Ok(())
}

/// Has a part of the vocabulary this use?
trait IsOf {
    fn is_of(&self, module: Vocabulary) -> bool;
}

impl IsOf for Whole {
    fn is_of(&self, module: Vocabulary) -> bool {
        self.module == module || self.is_both
    }
}

impl IsOf for OwnRows {
    fn is_of(&self, module: Vocabulary) -> bool {
        self.module == module || self.is_both
    }
}

impl super::Placement {
    /// The matrix that stands for the model's own in this use.
    pub fn whole_of(&self, module: Vocabulary) -> Option<&Whole> {
        self.whole.iter().find(|whole| whole.is_of(module))
    }

    /// The rows of their own in this use.
    pub fn rows_of(&self, module: Vocabulary) -> Option<&OwnRows> {
        self.rows.iter().find(|rows| rows.is_of(module))
    }

    /// Tokens that there are in all, with those that the adapter adds.
    pub fn tokens(&self, model: &Architecture) -> usize {
        let matrix = self.whole_of(Vocabulary::Output).map_or(model.vocab_size, |whole| whole.shape[0]);
        self.rows_of(Vocabulary::Output).map_or(matrix, |rows| rows.end().max(matrix))
    }

    /// Without what a file has twice because its model has one matrix for both uses.
    pub fn without_copies(&self, mut tensors: Vec<AdapterTensor>) -> Vec<AdapterTensor> {
        let output = Vocabulary::Output;
        let is_one = |name: &str| {
            (name == whole_name(output) && self.whole.iter().any(|whole| whole.is_both))
                || (name == rows_name(output) && self.rows.iter().any(|rows| rows.is_both))
        };
        tensors.retain(|tensor| !is_one(&tensor.name));
        tensors
    }

    /// How what belongs to no linear layer begins: with the model's own values, and for new tokens with the mean of its rows.
    ///
    /// # Errors
    /// Bad input: the model's tensor cannot be read.
    pub(super) fn start_beside(&self, source: &dyn TensorSource) -> Result<Vec<AdapterTensor>> {
        let mut started = Vec::new();
        // Of so many rows of a tensor.
        let mut means: HashMap<(&str, usize), Vec<f32>> = HashMap::new();
        for whole in self.whole.iter().filter(|whole| whole.trained) {
            let mut values = source.read_f32(whole.tensor)?;
            let columns = whole.shape[1];
            let known = values.len() / columns;
            if known < whole.shape[0] {
                let mut sums = vec![0.0; columns];
                add_rows(&mut sums, &values);
                let mean = mean(&sums, known);
                (known..whole.shape[0]).for_each(|_| values.extend(&mean));
                means.insert((whole.tensor, known), mean);
            }
            started.push(AdapterTensor { name: whole_name(whole.module), shape: whole.shape, values });
        }
        for own in &self.rows {
            let in_matrix = source.find(own.tensor).map_or(0, |info| info.rows()).min(own.known);
            let mut values = Vec::with_capacity(own.tokens.len() * own.columns);
            for &token in &own.tokens {
                let token = token as usize;
                if token >= in_matrix {
                    let mean: &[f32] = match means.entry((own.tensor, in_matrix)) {
                        Entry::Occupied(mean) => mean.into_mut(),
                        Entry::Vacant(mean) => mean.insert(mean_row(source, own.tensor, in_matrix, own.columns)?),
                    };
                    values.extend(mean);
                    continue;
                }
                let mut row = vec![0.0; own.columns];
                source.read_rows_f32(own.tensor, token..token + 1, &mut row)?;
                values.extend(row);
            }
            started.push(AdapterTensor { name: rows_name(own.module), shape: [own.tokens.len(), own.columns], values });
        }
        for vector in &self.vectors {
            let (matrix, values) = (vector.matrix(), source.read_f32(&vector.tensor())?);
            started.push(AdapterTensor { name: matrix.name, shape: matrix.shape, values });
        }
        for router in &self.routers {
            let (matrix, values) = (router.matrix(), source.read_f32(&router.tensor())?);
            started.push(AdapterTensor { name: matrix.name, shape: matrix.shape, values });
        }
        Ok(started)
    }
}

/// Rows that are read at one time.
const STEP: usize = 1024;

/// The mean of the first `rows` rows, read a few at a time.
fn mean_row(source: &dyn TensorSource, tensor: &str, rows: usize, columns: usize) -> Result<Vec<f32>> {
    let mut sums = vec![0.0; columns];
    for first in (0..rows).step_by(STEP) {
        let last = (first + STEP).min(rows);
        let mut values = vec![0.0; (last - first) * columns];
        source.read_rows_f32(tensor, first..last, &mut values)?;
        add_rows(&mut sums, &values);
    }
    Ok(mean(&sums, rows))
}

/// Adds rows up, in f64.
fn add_rows(sums: &mut [f64], values: &[f32]) {
    for row in values.chunks(sums.len().max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
}

fn mean(sums: &[f64], rows: usize) -> Vec<f32> {
    sums.iter().map(|sum| (sum / rows.max(1) as f64) as f32).collect()
}
