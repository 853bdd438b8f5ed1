//! The studio: a page, served to this machine alone, that shows a model, its adapter and its training.
//!
//! * this page: a [`Studio`], what it was opened with ([`Setup`]), and [`Studio::serve`];
//! * [`server`]: routes, the token, and what is refused; [`assets`]: the page, which is a part of the program;
//! * [`jobs`]: the one thread that owns the model on the device, the [`Engine`](jobs::Engine); [`early`]: kernels before it needs them;
//! * [`look`]: the model as the views see it; [`kept`]: what they keep from one request to the next;
//! * [`api`]: one file a view, typed requests and answers; `docs/studio.md` is the reference;
//! * [`runs`]: training as a process of its own, and what it writes; [`samples`]: answers while it goes on; [`events`]: how the page hears
//!   of it.

pub mod api;
pub mod assets;
pub mod early;
pub mod events;
pub mod jobs;
pub mod kept;
pub mod look;
pub mod runs;
pub mod samples;
pub mod server;
mod token;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::adapter::{LoadedAdapter, Placement};
use crate::session::{OpenModel, SessionOptions};
use crate::train::keep::beginning;
use crate::train::options::TrainOptions;
use crate::{Error, Result};
use events::Events;
use jobs::Jobs;
use runs::Theatre;
pub use server::Address;
pub use token::Token;

/// What a studio is opened with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A folder, a .gguf file or a Hugging Face name; `None`: that of the adapter, or of the run.
    pub model: Option<String>,
    /// PEFT folder.
    pub adapter: Option<PathBuf>,
    /// Output folder of a run to show, which may go on in another process.
    pub run: Option<PathBuf>,
    /// `None` for any that is free.
    pub port: Option<u16>,
    /// Which device, and how it computes.
    pub session: SessionOptions,
    /// The program that trains: `graftling`, usually this very process's.
    pub program: PathBuf,
}

/// The files that the views are about; no weight is on a device because of them.
pub struct Opened {
    pub model: OpenModel,
    /// As the user wrote it.
    pub spec: String,
    pub adapter: Option<OpenedAdapter>,
    /// Once somebody has asked.
    anatomy: OnceLock<api::Anatomy>,
}

/// An adapter that has been read and fits the model.
pub struct OpenedAdapter {
    pub folder: PathBuf,
    pub placement: Placement,
}

impl Opened {
    /// Finds and checks the files of a model, and of an adapter for it.
    ///
    /// # Errors
    /// As [`OpenModel::for_run`] and [`LoadedAdapter::load`].
    pub fn open(spec: &str, adapter: Option<&Path>) -> Result<Self> {
        let model = OpenModel::for_run(spec, None, None, None, adapter, &[])?;
        let read = |folder: &Path| -> Result<OpenedAdapter> {
            let placement = LoadedAdapter::load(folder, &model.files.config)?.placement;
            Ok(OpenedAdapter { folder: folder.to_path_buf(), placement })
        };
        let adapter = adapter.map(read).transpose()?;
        Ok(Self { model, spec: spec.to_string(), adapter, anatomy: OnceLock::new() })
    }
}

/// A studio that is open.
pub struct Studio {
    setup: Setup,
    opened: RwLock<Option<Arc<Opened>>>,
    jobs: Jobs,
    events: Events,
    theatre: Theatre,
}

impl Studio {
    /// Opens the files that `setup` names; the device is opened by whoever first needs it.
    ///
    /// # Errors
    /// Bad input: no such model, an adapter that does not fit it, a run of which nothing is known.
    pub fn open(setup: Setup) -> Result<Arc<Self>> {
        let of_adapter = || setup.adapter.as_deref().and_then(runs::base_model);
        let of_run = || setup.run.as_deref().and_then(runs::base_model);
        let opened = match setup.model.clone().or_else(of_adapter).or_else(of_run) {
            Some(spec) => Some(Arc::new(Opened::open(&spec, setup.adapter.as_deref())?)),
            None if setup.adapter.is_some() => {
                let problem = "its adapter_config.json does not say for which model it is";
                return Err(Error::bad_input("--adapter", problem, "give --model as well"));
            }
            None => None,
        };
        let events = Events::new();
        let theatre = Theatre::new(setup.program.clone(), events.clone())?;
        let studio = Self {
            jobs: Jobs::start(events.clone(), setup.session.clone(), theatre.asks_whether_training())?,
            theatre,
            events,
            opened: RwLock::new(opened),
            setup,
        };
        if let Some(folder) = &studio.setup.run {
            studio.theatre.attach(folder)?;
        }
        Ok(Arc::new(studio))
    }

    /// The model, if there is one.
    ///
    /// # Errors
    /// Bad input: there is none.
    pub fn opened(&self) -> Result<Arc<Opened>> {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner).clone();
        let proposal = "start `graftling studio --model M`, or open a model on the page";
        opened.ok_or_else(|| Error::bad_input("model", "no model is open", proposal))
    }

    /// The model as a run of these options trains it: the one that is open, unless these options or its adapter change it.
    ///
    /// # Errors
    /// As [`OpenModel::for_run`].
    pub fn opened_for(&self, options: &TrainOptions) -> Result<Arc<Opened>> {
        let TrainOptions { rope_scaling, router_aux_loss_coef: balance, init_adapter, train_tokens, resume, .. } = options;
        let is_changed =
            rope_scaling.is_some() || balance.is_some() || init_adapter.is_some() || train_tokens.is_some() || *resume;
        let is_its_model =
            |open: &Arc<Opened>| open.spec == options.model && open.model.rope_scaling.is_none() && open.model.added.is_empty();
        if let Some(open) = self.opened().ok().filter(|open| !is_changed && is_its_model(open)) {
            return Ok(open);
        }
        let (time, adapter) = (beginning::template_time(options), init_adapter.as_deref());
        let model = OpenModel::for_run(&options.model, time, *rope_scaling, *balance, adapter, &options.tokens())?;
        Ok(Arc::new(Opened { model, spec: options.model.clone(), adapter: None, anatomy: OnceLock::new() }))
    }

    /// Puts another model, or the same with another adapter, in the place of the open one.
    ///
    /// # Errors
    /// As [`Opened::open`]; the one that was open then stays.
    pub fn reopen(&self, spec: &str, adapter: Option<&Path>) -> Result<()> {
        let opened = Opened::open(spec, adapter)?;
        *self.opened.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(opened));
        Ok(())
    }

    /// Whether a run that this studio shows occupies the device.
    pub fn is_training(&self) -> bool {
        self.theatre.is_training()
    }
}
