//! The routes of all views that look into the model on its device.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Method, Nothing, Refusal, Route, engine, host};
use super::{answer, attention, backward, embedding, fuse, lens, logits, lora, mlp, prove, sources};
use crate::Result;
use crate::studio::Studio;
use crate::studio::look::{Kept, Look};

pub(super) fn routes() -> Vec<Route> {
    use Method::{Get, Post};
    vec![
        look(Post, "/api/attention", attention::attention),
        look(Post, "/api/mlp", mlp::mlp),
        look(Post, "/api/lens", lens::lens),
        look(Post, "/api/embedding", embedding::embedding),
        look(Post, "/api/logits", logits::logits),
        look(Get, "/api/lora", |look, _: &Nothing| lora::lora(look)),
        look(Get, "/api/lora/site", lora::site),
        look(Post, "/api/answer", answer::answer),
        look(Post, "/api/fuse", fuse::fuse),
        look(Post, "/api/backward", backward::backward),
        look(Post, "/api/prove", prove::prove),
        host(Get, "/api/sources", |_: &Arc<Studio>, _: Nothing| sources::sources().map_err(Refusal::from)),
        host(Get, "/api/file", |_: &Arc<Studio>, asked: sources::FileAsked| sources::file(&asked).map_err(Refusal::from)),
        host(Get, "/api/source", |studio: &Arc<Studio>, asked: sources::Asked| {
            sources::source(&asked, studio.theatre.folder().as_deref()).map_err(Refusal::from)
        }),
    ]
}

/// A view of the model on its device.
fn look<Q: DeserializeOwned, A: Serialize>(
    method: Method,
    path: &'static str,
    view: impl Fn(&mut Look, &Q) -> Result<A> + Send + Sync + 'static,
) -> Route {
    engine(method, path, move |engine, asked: Q| {
        let pause = engine.pauses();
        let (kept, session, opened) = engine.kept(|_, _| Ok(Kept::default()))?;
        let folder = opened.adapter.as_ref().map(|adapter| adapter.folder.as_path());
        view(&mut Look { session, model: &opened.model, folder, kept, pause: &pause }, &asked)
    })
}
