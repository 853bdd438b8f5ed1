//! Models by their Hugging Face name: `owner/name`, or `owner/name@revision`.
//!
//! Files rest in the cache that the Python libraries use, so what either has fetched serves both. The environment is read as
//! `huggingface_hub` documents it: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME` (where the cache is), `HF_HUB_OFFLINE` or
//! `TRANSFORMERS_OFFLINE` (never use the network), `HF_ENDPOINT` (a mirror), `HF_TOKEN` (for models behind a licence).
//! A complete model in the cache is used without asking the network whether there is a newer one.

use std::{
    env,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};

use super::hugging_face::{self, Form};
use crate::{Error, Result};

/// Small files that describe a model. Only the first is in every model.
const DESCRIPTIONS: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    Form::Safetensors.index(),
    Form::PyTorch.index(),
];

/// How to reach the hub and where its files rest.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The folder with `models--owner--name` in it.
    pub cache: PathBuf,
    /// Whether the network is forbidden.
    pub offline: bool,
    /// `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// Sent with every request, if there is one.
    pub token: Option<String>,
}

/// Whether `spec` can be the name of a model on the hub: two parts of letters, digits, `-`, `_` and `.`, perhaps `@revision`.
pub fn is_name(spec: &str) -> bool {
    let (name, revision) = spec.split_once('@').unwrap_or((spec, "main"));
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.contains("..")
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(part) && revision.split('/').all(part)
}

impl Hub {
    /// The hub as the environment describes it.
    ///
    /// # Errors
    /// [`Error::BadInput`] if there is no home directory and no variable that says where the cache is.
    pub fn from_environment() -> Result<Self> {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name: &str, below: &str| set(name).map(|folder| PathBuf::from(folder).join(below));
        let cache = path("HF_HUB_CACHE", "")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE", ""))
            .or_else(|| path("HF_HOME", "hub"))
            .or_else(|| path("XDG_CACHE_HOME", "huggingface/hub"))
            .or_else(|| env::home_dir().map(|home| home.join(".cache/huggingface/hub")))
            .ok_or_else(|| {
                Error::bad_input("Hugging Face cache", "there is no home directory to keep it in", "Set HF_HOME to a folder.")
            })?;
        let true_value = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Ok(Self {
            offline: set("HF_HUB_OFFLINE").or_else(|| set("TRANSFORMERS_OFFLINE")).is_some_and(true_value),
            endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: set("HF_TOKEN").or_else(|| Cache::new(cache.clone()).token()),
            cache,
        })
    }

    /// The folder with the model's config and tokenizer, fetched if need be; no weights.
    ///
    /// # Errors
    /// [`Error::BadInput`] if there is no such model or it has no `config.json`, or if the network is needed but forbidden;
    /// [`Error::Failed`] if the hub cannot be reached.
    pub fn fetch_descriptions(&self, name: &str) -> Result<PathBuf> {
        let cached = self.cached(name);
        // Another program may have fetched the config alone.
        let complete = |folder: &PathBuf| self.offline || folder.join("tokenizer.json").exists();
        match (cached.clone().filter(complete), cached) {
            (Some(folder), _) => Ok(folder),
            (None, Some(folder)) => self.download_descriptions(name).or(Ok(folder)),
            (None, None) => self.download_descriptions(name),
        }
    }

    fn download_descriptions(&self, name: &str) -> Result<PathBuf> {
        let (repo, listed) = self.connect(name)?;
        if !listed.iter().any(|file| file == "config.json") {
            let proposal = match listed.iter().find(|file| file.ends_with(".gguf")) {
                Some(file) => format!("It has GGUF files: download one, for instance {}, and give its path.", repo.url(file)),
                None => "Choose a model in the transformers format.".to_owned(),
            };
            return Err(Error::bad_input(name, "has no config.json on Hugging Face", proposal));
        }
        for file in DESCRIPTIONS.iter().filter(|file| listed.iter().any(|listed| listed == **file)) {
            self.fetch(name, &repo, file)?;
        }
        self.cached(name)
            .ok_or_else(|| Error::failed(name, "was fetched but is not in the cache", "Check the cache folder and try again."))
    }

    /// The folder with the whole model, fetched if need be.
    ///
    /// # Errors
    /// As [`Hub::fetch_descriptions`], or if the model has no weights in a form that is read.
    pub fn fetch_weights(&self, name: &str) -> Result<PathBuf> {
        let folder = self.fetch_descriptions(name)?;
        let mut forms = Vec::new();
        for form in Form::ALL {
            let shards = hugging_face::shards(&folder, form)?;
            forms.push(shards.map_or(vec![form.whole().to_owned()], |shards| shards.into_iter().collect()));
        }
        if forms.iter().any(|wanted| wanted.iter().all(|file| folder.join(file).exists())) {
            return Ok(folder);
        }
        let (repo, listed) = self.connect(name)?;
        let Some(wanted) = forms.iter().find(|wanted| wanted.iter().all(|file| listed.contains(file))) else {
            let problem = "has neither model.safetensors nor pytorch_model.bin on Hugging Face";
            return Err(Error::bad_input(name, problem, "Choose a model whose weights are in one of these forms."));
        };
        let missing = wanted.iter().filter(|file| !folder.join(file).exists());
        for file in missing {
            self.fetch(name, &repo, file)?;
        }
        // A model that has moved on since its descriptions were cached lies in a new snapshot, with the weights only.
        self.fetch_descriptions(name)
    }

    /// The snapshot's folder, if the cache has the model's config.
    fn cached(&self, name: &str) -> Option<PathBuf> {
        let config = Cache::new(self.cache.clone()).repo(repo_of(name)).get("config.json")?;
        config.parent().map(Path::to_owned)
    }

    /// A handle on the model and the names of its files.
    fn connect(&self, name: &str) -> Result<(ApiRepo, Vec<String>)> {
        if self.offline {
            return Err(Error::bad_input(
                name,
                format!("is no folder or file here, and is not complete in the cache {}", self.cache.display()),
                "HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it, or give the path of a model folder or a .gguf file.",
            ));
        }
        let api = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(std::io::stderr().is_terminal())
            .with_user_agent("graftling", env!("CARGO_PKG_VERSION"))
            .build()
            .map_err(|error| self.explain(name, &error))?;
        let repo = api.repo(repo_of(name));
        let info = repo.info().map_err(|error| self.explain(name, &error))?;
        Ok((repo, info.siblings.into_iter().map(|sibling| sibling.rfilename).collect()))
    }

    fn fetch(&self, name: &str, repo: &ApiRepo, file: &str) -> Result<()> {
        repo.get(file).map(drop).map_err(|error| self.explain(&format!("{name}/{file}"), &error))
    }

    fn explain(&self, what: &str, error: &ApiError) -> Error {
        let text = error.to_string();
        let status = |code: u16| text.contains(&format!("status code {code}"));
        if status(401) || status(403) || status(404) {
            return Error::bad_input(
                what,
                format!("is no folder or file here, and {} does not give it out ({text})", self.endpoint),
                "Check the spelling. For a model behind a licence, accept it on its page and set HF_TOKEN to a token of yours.",
            );
        }
        Error::failed(
            what,
            format!("is no folder or file here, and {} could not be reached ({text})", self.endpoint),
            "Check the path or the network. HTTPS_PROXY names a proxy and HF_ENDPOINT a mirror; a model that was copied to this \
             machine is used by giving its folder or .gguf file.",
        )
    }
}

fn repo_of(name: &str) -> Repo {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned())
}
