//! What the page and scripts can ask: one file a view, and the one list of routes. `docs/studio.md` is the reference.
//!
//! A handler is a function of a typed request to a typed answer. One of [`host`] reads files only, and runs beside others; one of
//! [`engine`] has the model on the device to itself, and waits for its turn. Neither has to fear a panic: it is answered with an error.

mod anatomy;
pub mod answer;
pub mod attention;
pub mod backward;
pub mod embedding;
pub mod fuse;
pub mod lens;
pub mod logits;
mod looks;
pub mod lora;
pub mod mlp;
mod plan;
pub mod prove;
mod runs;
pub mod sources;
mod state;
mod tokens;

use std::sync::Arc;

pub(super) use anatomy::Anatomy;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Studio;
use super::jobs::Engine;
use crate::architecture::Architecture;
use crate::generate::generator::Generation;
use crate::session::Use;
use crate::session::probe::{MOST_TOKENS, Probing};
use crate::{Error, Result};

/// Tokens of the longest text that the views take.
pub const CONTEXT: usize = 1024;

/// All that can be asked.
pub fn routes() -> Vec<Route> {
    let of_files = [state::routes(), anatomy::routes(), plan::routes(), tokens::routes(), runs::routes()];
    of_files.into_iter().chain([looks::routes()]).flatten().collect()
}

/// What the model is put on the device for.
pub fn uses(model: &Architecture) -> Vec<Box<dyn Use>> {
    let most = model.context();
    vec![Box::new(Generation { context: CONTEXT.min(most) }), Box::new(Probing { tokens: MOST_TOKENS.min(most) })]
}

/// How a route is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The request is what the address has after `?`, all of it text.
    Get,
    /// The request is a JSON object.
    Post,
}

/// One thing that can be asked.
#[derive(Clone)]
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub(super) answer: Answer,
}

type HostAnswer = dyn Fn(&Arc<Studio>, &[u8]) -> Answered<Vec<u8>> + Send + Sync;
type EngineAnswer = dyn Fn(&mut Engine, &[u8]) -> Result<Vec<u8>> + Send + Sync;

/// From the request as JSON to the answer as JSON.
#[derive(Clone)]
pub(super) enum Answer {
    Host(Arc<HostAnswer>),
    Engine(Arc<EngineAnswer>),
}

/// A route that needs no device.
pub fn host<Q: DeserializeOwned, A: Serialize>(
    method: Method,
    path: &'static str,
    handler: impl Fn(&Arc<Studio>, Q) -> Answered<A> + Send + Sync + 'static,
) -> Route {
    let answer = move |studio: &Arc<Studio>, asked: &[u8]| Ok(written(&handler(studio, read(asked)?)?)?);
    Route { method, path, answer: Answer::Host(Arc::new(answer)) }
}

/// A route that needs the model on the device.
pub fn engine<Q: DeserializeOwned, A: Serialize>(
    method: Method,
    path: &'static str,
    handler: impl Fn(&mut Engine, Q) -> Result<A> + Send + Sync + 'static,
) -> Route {
    let answer = move |engine: &mut Engine, asked: &[u8]| written(&handler(engine, read(asked)?)?);
    Route { method, path, answer: Answer::Engine(Arc::new(answer)) }
}

fn read<Q: DeserializeOwned>(asked: &[u8]) -> Result<Q> {
    let asked = if asked.is_empty() { b"{}" } else { asked };
    let proposal = "docs/studio.md shows the requests of every address";
    serde_json::from_slice(asked).map_err(|error| Error::bad_input("request", error, proposal))
}

fn written(answer: &impl Serialize) -> Result<Vec<u8>> {
    let defect = "this is a defect of graftling: please report it";
    serde_json::to_vec(answer).map_err(|error| Error::failed("answer", format!("cannot be written: {error}"), defect))
}

/// What a handler of [`host`] gives.
pub type Answered<A> = std::result::Result<A, Refusal>;

/// The request of a route that asks for nothing in particular.
#[derive(Deserialize)]
pub struct Nothing {}

/// Why there is no answer: what the command line would say, and the status that HTTP has for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    pub what: String,
    /// File, line, tensor, key or option.
    pub place: String,
    pub propose: String,
}

impl Refusal {
    pub(super) fn new(status: u16, place: &str, what: &str, propose: &str) -> Self {
        Self { status, what: what.to_string(), place: place.to_string(), propose: propose.to_string() }
    }

    /// Others wait already.
    pub fn busy() -> Self {
        Self::new(503, "studio", "too many requests wait already", "ask again in a second")
    }

    /// The device belongs to a run.
    pub fn training() -> Self {
        let what = "a run is training, and the device is its own until it ends";
        Self::new(409, "studio", what, "pause the run to look into the model, or wait until it has ended")
    }

    /// As the body of the answer.
    pub fn json(&self) -> serde_json::Value {
        json!({ "error": { "what": self.what, "where": self.place, "propose": self.propose } })
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = if error.exit_code() == 2 { 400 } else { 500 };
        let [place, what, propose] = error.parts();
        Self::new(status, place, what, propose)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, what, place, propose } = refusal;
        match status {
            400..500 => Self::bad_input(place, what, propose),
            _ => Self::failed(place, what, propose),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_routes_are_asked_alike() {
        let routes = routes();
        for (at, route) in routes.iter().enumerate() {
            assert!(route.path.starts_with("/api/"));
            assert!(routes[..at].iter().all(|other| (other.method, other.path) != (route.method, route.path)), "{}", route.path);
        }
    }

    #[test]
    fn a_request_that_is_none_is_refused_with_its_place() {
        #[derive(Deserialize, Debug)]
        struct Asked {
            #[allow(dead_code, reason = "only its reading is tested")]
            layer: usize,
        }
        let refusal = Refusal::from(read::<Asked>(br#"{"layer": "two"}"#).unwrap_err());
        assert_eq!((refusal.status, refusal.place.as_str()), (400, "request"));
        assert!(refusal.what.contains("line 1 column 15"), "{}", refusal.what);
        assert!(read::<Nothing>(b"").is_ok());
    }
}
