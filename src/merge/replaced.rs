//! What an adapter has in the place of the model's: rows of embedding and output matrix, or behind them, whole norms, biases and routers.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::adapter::Placement;
use crate::adapter::vocabulary::{rows_name, whole_name};
use crate::architecture::{Architecture, EMBEDDING_TENSOR, OUTPUT_TENSOR};
use crate::formats::peft::AdapterTensor;
use crate::model::hook::Vocabulary;
use crate::{Error, Result};

/// What stands in the place of the model's.
#[derive(Clone, Debug, Default)]
pub struct Replaced {
    /// By the name of the tensor.
    tensors: BTreeMap<String, ReplacedTensor>,
    /// Tokens that there are in all.
    tokens: usize,
    /// Whether a model with one matrix for both uses has two now.
    unties: bool,
}

/// One tensor: a matrix `[tokens, hidden_size]`, a router, or a norm or bias, whose rows are single values.
#[derive(Clone, Debug)]
pub struct ReplacedTensor {
    /// The model's tensor that has the rows which are not the adapter's.
    pub source: String,
    /// All rows; the model's own where there are none. Both uses of the vocabulary may share it.
    whole: Option<Arc<AdapterTensor>>,
    /// Rows of some tokens, and these, strictly increasing.
    own: Option<(Vec<u32>, Arc<AdapterTensor>)>,
    columns: usize,
}

impl ReplacedTensor {
    /// Some rows in pieces, from the first to the last: the adapter's with its values, and `None` where they are the model's.
    pub fn pieces(&self, rows: Range<usize>) -> Vec<(Range<usize>, Option<&[f32]>)> {
        let rest = |rows: Range<usize>| {
            let values =
                self.whole.as_ref().and_then(|whole| whole.values.get(rows.start * self.columns..rows.end * self.columns));
            (rows, values)
        };
        let mut pieces = Vec::new();
        let mut first = rows.start;
        if let Some((tokens, own)) = &self.own {
            let tokens = tokens.iter().map(|&token| token as usize).zip(own.values.chunks(self.columns));
            for (token, values) in tokens.filter(|(token, _)| rows.contains(token)) {
                pieces.extend((first < token).then(|| rest(first..token)));
                pieces.push((token..token + 1, Some(values)));
                first = token + 1;
            }
        }
        pieces.extend((first < rows.end).then(|| rest(first..rows.end)));
        pieces
    }
}

impl Replaced {
    /// Takes what belongs to no linear layer out of `given`.
    ///
    /// # Errors
    /// Bad input, at `place`: a matrix is missing or of another shape.
    pub fn of(
        place: &str,
        placement: &Placement,
        model: &Architecture,
        given: &mut HashMap<String, AdapterTensor>,
    ) -> Result<Self> {
        let mut taken: HashMap<String, Arc<AdapterTensor>> = HashMap::new();
        for matrix in placement.matrices_beside() {
            let proposal = "use an adapter that was trained on this model";
            let found = given
                .remove(&matrix.name)
                .ok_or_else(|| Error::bad_input(place, format!("`{}` is missing", matrix.name), proposal))?;
            if found.shape != matrix.shape {
                let problem = format!("`{}` has shape {:?}, the model needs {:?}", matrix.name, found.shape, matrix.shape);
                return Err(Error::bad_input(place, problem, proposal));
            }
            taken.insert(matrix.name, Arc::new(found));
        }
        if taken.is_empty() {
            return Ok(Self::default());
        }
        let parts = |module| (placement.whole_of(module).map(|of| of.module), placement.rows_of(module).map(|of| of.module));
        let [embedding, output] = [Vocabulary::Embedding, Vocabulary::Output].map(parts);
        let tied = model.tie_word_embeddings;
        let unties = tied && embedding != output;
        let matrix = |module: Vocabulary| {
            let whole = placement.whole_of(module).map(|of| taken[&whole_name(of.module)].clone());
            let own = placement.rows_of(module).map(|of| (of.tokens.clone(), taken[&rows_name(of.module)].clone()));
            ReplacedTensor { source: module.tensor(tied).to_owned(), whole, own, columns: model.hidden_size }
        };
        let mut tensors = BTreeMap::new();
        let vectors = placement.vectors.iter().map(|vector| (&vector.name, vector.tensor(), 1));
        let routers = placement.routers.iter().map(|router| (&router.name, router.tensor(), router.shape[1]));
        for (name, tensor, columns) in vectors.chain(routers) {
            let whole = taken.get(name).cloned();
            tensors.insert(tensor.clone(), ReplacedTensor { source: tensor, whole, own: None, columns });
        }
        let has = |part: (Option<Vocabulary>, Option<Vocabulary>)| part != (None, None);
        if has(embedding) || has(output) {
            tensors.insert(EMBEDDING_TENSOR.to_owned(), matrix(Vocabulary::Embedding));
            if !tied || unties {
                tensors.insert(OUTPUT_TENSOR.to_owned(), matrix(Vocabulary::Output));
            }
        }
        Ok(Self { tensors, tokens: placement.tokens(model), unties })
    }

    /// Whether all is the model's.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// What a tensor becomes, if it changes.
    pub fn tensor(&self, name: &str) -> Option<&ReplacedTensor> {
        self.tensors.get(name)
    }

    /// For the report: tokens in all, and of each changed tensor the rows that are the adapter's, or that all are.
    pub fn report(&self) -> Value {
        let of = |matrix: &ReplacedTensor| match matrix.whole {
            Some(_) => json!("all"),
            None => json!(matrix.own.as_ref().map_or(0, |(tokens, _)| tokens.len())),
        };
        let rows: serde_json::Map<String, Value> = self.tensors.iter().map(|(name, tensor)| (name.clone(), of(tensor))).collect();
        json!({ "tokens": self.tokens, "own_rows": rows, "unties": self.unties })
    }

    /// Makes the model's configuration that of the merged model.
    pub fn put_into(&self, model: &mut Architecture) {
        if !self.is_empty() {
            model.vocab_size = self.tokens;
            model.tie_word_embeddings &= !self.unties;
        }
    }

    /// Refuses to write this as an adapter for another program, which has matrices of linear layers alone.
    ///
    /// # Errors
    /// Bad input, if anything stands in the place of the model's.
    pub fn refuse_in(&self, target: &str, proposal: &str) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let problem = format!(
            "has rows of embedding or output matrix, or whole norms, biases or routers (trainable_token_indices, modules_to_save, bias, added tokens), which \
             {target} cannot carry"
        );
        Err(Error::bad_input("--adapter", problem, proposal))
    }
}
