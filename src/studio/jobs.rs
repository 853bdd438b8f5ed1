//! The one thread that owns the model on the device, and the queue before it.
//!
//! The device is opened by the first job that needs it and given back when a run starts, since a laptop has not the memory for both. The
//! queue is short: who finds it full is told so and asks again. A job whose asker has gone is not begun, and a long one looks whether it is
//! still wanted ([`Engine::wanted`]).

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Serialize;
use tokio::sync::oneshot;

use super::Opened;
use super::api::{self, Answered, Refusal};
use super::early::Early;
use super::events::Events;
use crate::caught::caught;
use crate::gpu;
use crate::session::{Session, SessionOptions, Use, Watch};
use crate::{Error, Result};

/// Jobs that may wait.
const QUEUE: usize = 32;

/// What the thread is doing with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Nothing is on it.
    Closed,
    Opening,
    Ready,
}

/// A device, as people know it.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceName {
    pub name: String,
    pub kind: String,
}

/// What is known of the thread without asking it.
#[derive(Default)]
struct Status {
    stage: AtomicU8,
    device: RwLock<Option<DeviceName>>,
    /// Bits of an f64: floating-point operations a second of forward and backward; 0 if nobody has timed them.
    rate: AtomicU64,
}

type Work = Box<dyn FnOnce(&mut Engine) -> Result<Vec<u8>> + Send>;

struct Job {
    opened: Arc<Opened>,
    work: Work,
    gone: Arc<AtomicBool>,
    answer: oneshot::Sender<Answered<Vec<u8>>>,
}

enum Message {
    Job(Job),
    /// Give the device back, and say so.
    Release(oneshot::Sender<()>),
}

/// The way to the thread.
pub struct Jobs {
    queue: SyncSender<Message>,
    status: Arc<Status>,
}

/// Tells the thread, when it is dropped, that nobody waits for the job any more.
struct Asker(Arc<AtomicBool>);

impl Drop for Asker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Jobs {
    /// Starts the thread; it opens nothing yet, and nothing while a run `is_training`.
    ///
    /// # Errors
    /// Failed, when the system gives no thread.
    pub(super) fn start(
        events: Events,
        options: SessionOptions,
        is_training: impl Fn() -> bool + Send + 'static,
    ) -> Result<Self> {
        let (queue, waiting) = sync_channel(QUEUE);
        let status = Arc::new(Status::default());
        let told = status.clone();
        let work = move || {
            work_off(Engine { options, events, status: told, gone: Arc::default(), on_device: None }, &waiting, is_training)
        };
        let thread = std::thread::Builder::new().name("engine".to_string()).spawn(work);
        thread.map_err(|error| Error::failed("studio", format!("cannot start a thread: {error}"), "close other programs"))?;
        Ok(Self { queue, status })
    }

    /// What is on the device.
    pub fn stage(&self) -> Stage {
        match self.status.stage.load(Ordering::SeqCst) {
            0 => Stage::Closed,
            1 => Stage::Opening,
            _ => Stage::Ready,
        }
    }

    /// The device, if it is open.
    pub fn device(&self) -> Option<DeviceName> {
        self.status.device.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Floating-point operations a second of forward and backward, if somebody has timed them.
    pub fn rate(&self) -> Option<f64> {
        Some(f64::from_bits(self.status.rate.load(Ordering::SeqCst))).filter(|rate| *rate > 0.0)
    }

    /// Lets the thread do `work` with `opened`; dropping the future takes the wish back.
    ///
    /// # Errors
    /// [`Refusal`] with 503: the queue is full. Those of the work.
    pub async fn ask(
        &self,
        opened: Arc<Opened>,
        work: impl FnOnce(&mut Engine) -> Result<Vec<u8>> + Send + 'static,
    ) -> Answered<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let asker = Asker(Arc::default());
        let job = Job { opened, work: Box::new(work), gone: asker.0.clone(), answer };
        self.queue.try_send(Message::Job(job)).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::busy(),
            TrySendError::Disconnected(_) => ended(),
        })?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Gives the device back, once the job at hand is done. Blocks.
    pub fn release(&self) {
        let (done, released) = oneshot::channel();
        if self.queue.send(Message::Release(done)).is_ok() {
            let _ = released.blocking_recv();
        }
    }
}

fn ended() -> Refusal {
    Error::failed("studio", "the thread that computes has ended", "start `graftling studio` again").into()
}

fn work_off(mut engine: Engine, waiting: &Receiver<Message>, is_training: impl Fn() -> bool) {
    for message in waiting {
        match message {
            Message::Release(done) => {
                engine.close();
                let _ = done.send(());
            }
            // Nobody would read the answer.
            Message::Job(job) if job.gone.load(Ordering::SeqCst) => {}
            // A run has begun since it was asked.
            Message::Job(job) if is_training() => drop(job.answer.send(Err(Refusal::training()))),
            Message::Job(Job { opened, work, gone, answer }) => {
                engine.gone = gone;
                engine.turn_to(opened);
                let done = caught(|| work(&mut engine));
                let done = done.unwrap_or_else(|message| {
                    // What it was building is not to be trusted.
                    engine.close();
                    let proposal = "this is a defect of graftling: please report it with the model and the view";
                    Err(Error::failed("studio", format!("the view failed: {message}"), proposal))
                });
                if matches!(done, Err(Error::DeviceLost { .. })) {
                    engine.close();
                }
                let _ = answer.send(done.map_err(Refusal::from));
            }
        }
    }
}

/// The model on the device, with what views keep there.
pub struct Engine {
    options: SessionOptions,
    events: Events,
    status: Arc<Status>,
    /// Whether nobody waits for the job at hand.
    gone: Arc<AtomicBool>,
    on_device: Option<OnDevice>,
}

struct OnDevice {
    opened: Arc<Opened>,
    session: Option<Session>,
    early: Option<Early>,
    kept: HashMap<TypeId, Box<dyn Any>>,
}

impl Engine {
    /// The files of the model at hand.
    ///
    /// # Errors
    /// None while a job is done.
    pub fn opened(&self) -> Result<&Arc<Opened>> {
        self.on_device.as_ref().map(|on| &on.opened).ok_or_else(|| Error::bad_input("model", "no model is open", "open one"))
    }

    /// The model on the device, with its adapter; the first call opens it.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub fn session(&mut self) -> Result<&Session> {
        self.with_session()?.session.as_ref().ok_or_else(not_open)
    }

    /// A thing that a view keeps on the device from one request to the next, one of each type; `make` is called where it is not there
    /// yet. It goes when the device is given back, or another model or adapter is opened.
    ///
    /// # Errors
    /// As [`Engine::session`], and those of `make`.
    pub fn kept<T: Any>(
        &mut self,
        make: impl FnOnce(&Session, &Opened) -> Result<T>,
    ) -> Result<(&mut T, &Session, &Arc<Opened>)> {
        let OnDevice { opened, session, kept, .. } = self.with_session()?;
        let session = session.as_ref().ok_or_else(not_open)?;
        if let std::collections::hash_map::Entry::Vacant(place) = kept.entry(TypeId::of::<T>()) {
            place.insert(Box::new(make(session, opened)?));
        }
        let thing = kept.get_mut(&TypeId::of::<T>()).and_then(|thing| thing.downcast_mut()).ok_or_else(not_open)?;
        Ok((thing, session, opened))
    }

    /// Forgets what [`Engine::kept`] keeps of this type.
    pub fn forget<T: Any>(&mut self) {
        if let Some(on) = &mut self.on_device {
            on.kept.remove(&TypeId::of::<T>());
        }
    }

    /// An error if nobody waits for the answer any more; for the pauses of long work.
    ///
    /// # Errors
    /// Failed: the asker has gone.
    pub fn wanted(&self) -> Result<()> {
        match self.gone.load(Ordering::SeqCst) {
            true => Err(cancelled()),
            false => Ok(()),
        }
    }

    /// For the pauses of long work that borrows what the engine keeps: tells the page how far it is (what, done, of), and is an error if
    /// nobody waits for the answer any more.
    pub fn pauses(&self) -> impl Fn(&str, u64, u64) -> Result<()> + use<> {
        let (gone, events) = (self.gone.clone(), self.events.clone());
        move |what, done, total| match gone.load(Ordering::SeqCst) {
            true => Err(cancelled()),
            false => {
                events.progress(what, done, total);
                Ok(())
            }
        }
    }

    /// Tells the page how far the work at hand is.
    pub fn progress(&self, what: &str, done: u64, total: u64) {
        self.events.progress(what, done, total);
    }

    /// Notes how many floating-point operations a second of forward and backward the device does; plans tell times by it.
    pub fn timed(&self, flops_per_second: f64) {
        self.status.rate.store(flops_per_second.to_bits(), Ordering::SeqCst);
    }

    fn with_session(&mut self) -> Result<&mut OnDevice> {
        let Self { options, events, status, on_device, .. } = self;
        let on = on_device.as_mut().ok_or_else(not_open)?;
        if on.session.is_none() {
            status.stage.store(1, Ordering::SeqCst);
            let opened = open(&on.opened, options, events);
            status.stage.store(if opened.is_ok() { 2 } else { 0 }, Ordering::SeqCst);
            let session = opened?;
            let info = &session.weights().device().info;
            let device = DeviceName { name: info.name.clone(), kind: gpu::kind(info).to_string() };
            *status.device.write().unwrap_or_else(PoisonError::into_inner) = Some(device);
            on.early = Some(Early::start(&session));
            on.session = Some(session);
        }
        Ok(on)
    }

    /// Makes `opened` the model at hand.
    fn turn_to(&mut self, opened: Arc<Opened>) {
        if self.on_device.as_ref().is_none_or(|on| !Arc::ptr_eq(&on.opened, &opened)) {
            self.close();
            self.on_device = Some(OnDevice { opened, session: None, early: None, kept: HashMap::new() });
        }
    }

    /// Gives the device back.
    fn close(&mut self) {
        self.on_device = None;
        *self.status.device.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.status.stage.store(0, Ordering::SeqCst);
    }
}

fn open(opened: &Opened, options: &SessionOptions, events: &Events) -> Result<Session> {
    let uses = api::uses(&opened.model.files.config);
    let uses: Vec<&dyn Use> = uses.iter().map(|used| &**used).collect();
    let folder = opened.adapter.as_ref().map(|adapter| adapter.folder.as_path());
    Session::open(&opened.model, folder, options, &uses, &Opening(events))
}

fn cancelled() -> Error {
    Error::failed("request", "it was cancelled", "ask again")
}

fn not_open() -> Error {
    Error::failed("studio", "the model is not on the device", "ask again")
}

/// Tells the page how far opening is.
struct Opening<'a>(&'a Events);

impl Watch for Opening<'_> {
    fn tuning(&self, done: usize, total: usize) {
        self.0.progress("choosing kernels for this device, once", done as u64, total as u64);
    }

    fn loading(&self, done: u64, total: u64) {
        self.0.progress("loading the weights", done, total);
    }

    fn note(&self, text: &str) {
        self.0.progress(text, 0, 0);
    }
}
