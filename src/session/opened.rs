//! A model as the commands use it: its files, tokenizer and chat template.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::adapter::added_tokens::{self, Extended};
use crate::adapter::rope_scaling;
use crate::architecture::{Architecture, RopeOverride, parameters};
use crate::formats::{AddedTokenSource, ModelFiles};
use crate::graph::DType;
use crate::model::weights::WeightType;
use crate::text::{ChatTemplate, Tokenizer, marks};
use crate::{Error, Result};

/// A model whose files have been found and checked; no weight has been read yet.
pub struct OpenModel {
    pub files: ModelFiles,
    pub tokenizer: Tokenizer,
    /// `None` for a base model that has none.
    pub template: Option<ChatTemplate>,
    /// Tokens that have, or with an adapter will have, a row in embedding and output matrix: the model's, and those that an adapter adds.
    pub tokens: usize,
    /// The tokens that adapters add to the model's tokenizer, with their ids, from the lowest on. They are part of `tokenizer`.
    pub added: Vec<(u32, AddedTokenSource)>,
    /// The moment that dates in the template are taken from, in seconds since 1970; `None` without a template.
    pub template_time: Option<i64>,
    /// The rotation in place of the model's own, if there is one.
    pub rope_scaling: Option<RopeOverride>,
}

impl OpenModel {
    /// Opens a folder, a .gguf file or a Hugging Face name.
    ///
    /// # Errors
    /// Bad input: no model there, an architecture that is not supported, a damaged file, tokenizer or template.
    pub fn open(spec: &str) -> Result<Self> {
        Self::open_at(spec, None)
    }

    /// [`OpenModel::open`], with the moment that dates in the template are taken from; `None` for now.
    ///
    /// # Errors
    /// As [`OpenModel::open`].
    pub fn open_at(spec: &str, template_time: Option<i64>) -> Result<Self> {
        let template_time = template_time.unwrap_or_else(crate::text::chat_template::now);
        let files = ModelFiles::open(spec)?;
        let tokenizer = Tokenizer::from_source(&files.text)?;
        for note in tokenizer.notes() {
            tracing::warn!("{spec}: {note}");
        }
        let template = ChatTemplate::from_source_at(&files.text, template_time)?;
        let template_time = template.as_ref().map(|_| template_time);
        let tokens = files.config.vocab_size;
        Ok(Self { files, tokenizer, template, tokens, added: Vec::new(), template_time, rope_scaling: None })
    }

    /// The model as a run trains it: with the load balancing loss of this weight, with the rotation that is asked for, or that the adapter
    /// which it starts from remembers, with the tokens that this adapter adds, and with those that are to be trained.
    ///
    /// # Errors
    /// As [`OpenModel::open`], [`OpenModel::balanced`], [`OpenModel::with_tokens_of`] and [`OpenModel::with_tokens`]. Bad input: the adapter was
    /// trained with another rotation than the one that is asked for.
    pub fn for_run(
        spec: &str,
        template_time: Option<i64>,
        scaling: Option<RopeOverride>,
        router_aux_loss_coef: Option<f64>,
        init_adapter: Option<&Path>,
        train_tokens: &[String],
    ) -> Result<Self> {
        let model = Self::open_at(spec, template_time)?;
        let scaling = rope_scaling::chosen(scaling, init_adapter)?;
        let model = model.rotated(scaling).balanced(router_aux_loss_coef)?;
        model.with_tokens_of(init_adapter)?.with_tokens(train_tokens)
    }

    /// The model with the tokens that these adapters add to its tokenizer.
    ///
    /// # Errors
    /// Bad input: a tokenizer beside an adapter cannot be read, or belongs to another model.
    pub fn with_tokens_of<'p>(mut self, adapters: impl IntoIterator<Item = &'p Path>) -> Result<Self> {
        if let Some(extended) = added_tokens::extended_by_all(adapters, &self.files.text, &self.tokenizer)? {
            self.take(extended);
        }
        Ok(self)
    }

    /// The model with these tokens behind its own, but for those that it has. What the chat template writes, or ends a generation, is a mark and
    /// special; all else is content, which messages have and answers show.
    ///
    /// # Errors
    /// Bad input: the tokenizer cannot take them.
    pub fn with_tokens(mut self, tokens: &[String]) -> Result<Self> {
        let in_template = self.files.text.chat_template.as_deref().unwrap_or_default();
        let mut new: Vec<AddedTokenSource> = Vec::new();
        for token in tokens {
            let is_known = self.tokenizer.token_id(token).is_some() || new.iter().any(|other| other.content == *token);
            let is_mark = marks::ends_generation(token) || in_template.contains(token);
            if !is_known && is_mark && !in_template.contains(token) {
                tracing::warn!(
                    "--train-tokens: {token} ends a generation by its name, in llama.cpp too, so it is added as a special token, and messages \
                     have it as plain text; as content of messages, give it another name"
                );
            }
            new.extend((!is_known).then(|| AddedTokenSource::new(token, is_mark)));
        }
        if !new.is_empty() {
            let extended = added_tokens::extended(&self.files.text, &new)?;
            self.take(extended);
        }
        Ok(self)
    }

    fn take(&mut self, (text, tokenizer, added): Extended) {
        self.files.text = text;
        self.tokenizer = tokenizer;
        self.tokens = added.iter().fold(self.tokens, |most, (id, _)| most.max(*id as usize + 1));
        self.added.extend(added);
    }

    /// Tokens that the model's own tokenizer has.
    pub fn known_tokens(&self) -> usize {
        self.added.iter().map(|(id, _)| *id as usize).min().unwrap_or(self.tokenizer.vocab_size())
    }

    /// The model with this rotation in place of its own.
    #[must_use]
    pub fn rotated(mut self, scaling: Option<RopeOverride>) -> Self {
        if let Some(scaling) = scaling {
            self.files.config.override_rope(scaling);
            self.rope_scaling = Some(scaling);
        }
        self
    }

    /// The model with this coefficient of the load balancing loss in place of its config's, 0 for none.
    ///
    /// # Errors
    /// Bad input: there is one, and the model has no experts.
    pub fn balanced(mut self, coefficient: Option<f64>) -> Result<Self> {
        let config = &mut self.files.config;
        if let Some(coefficient) = coefficient {
            config.router_aux_loss_coef = (coefficient > 0.0).then_some(coefficient);
            if config.router_aux_loss_coef.is_some() && config.experts.is_none() {
                let problem = format!("{} has no experts, and so no router whose choices could be balanced", self.files.name);
                return Err(Error::bad_input("--router-aux-loss-coef", problem, "leave the option out"));
            }
        }
        Ok(self)
    }

    /// The type in which a weight will rest on the device, by its name.
    pub fn storage(&self, weight_type: WeightType) -> impl Fn(&str) -> DType {
        move |name| self.files.tensors.find(name).map_or(DType::F32, |info| weight_type.of(info))
    }

    /// Bytes that the weights will occupy on the device.
    pub fn weight_bytes(&self, weight_type: WeightType) -> usize {
        let used = parameters(&self.files.config);
        let used = used.iter().filter_map(|parameter| self.files.tensors.find(&parameter.name));
        used.map(|info| weight_type.bytes(info)).sum()
    }

    /// A short name for what the model is: its configuration, the tensors' shapes and storage, and the values of all norms, which
    /// differ between any two trainings of one architecture and are quick to read.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        // What is about training is told by itself, and is not named, so that runs from before it go on.
        let config = Architecture { router_aux_loss_coef: None, ..self.files.config.clone() };
        hash.update(format!("{config:?}").replace("router_aux_loss_coef: None, ", ""));
        for parameter in parameters(&self.files.config) {
            let name = parameter.name;
            let Some(info) = self.files.tensors.find(&name) else { continue };
            hash.update(format!("{name} {:?} {}", info.shape, info.storage.name()));
            if info.shape.len() < 2 {
                let mut values = vec![0.0; info.rows()];
                self.files.tensors.read_rows_f32(&name, 0..values.len(), &mut values)?;
                hash.update(bytemuck::cast_slice::<f32, u8>(&values));
            }
        }
        Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
    }
}
