//! The server: on 127.0.0.1 only, for whoever has the token, and for no page of another place.
//!
//! What guards it: a request whose `Host` is another name (a page that points its own name at this machine), or whose `Origin` is another
//! page, gets 403; one without the token gets 401. Both come before anything else is looked at, the page's own files included. The token
//! comes with the address once, and from then on in a cookie that no script can read and no other page can send.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, get, on};
use serde_json::{Map, Value};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt};

use super::api::{self, Answer, Answered, Method, Refusal};
use super::assets::asset;
use super::events::Event;
use super::{Studio, Token};
use crate::caught::caught;
use crate::{Error, Result};

/// Requests that read files, and are done or wait at the same time.
const AT_ONCE: usize = 64;
/// Threads for them.
const THREADS: usize = 4;
/// Bytes of the largest request; a record of this size has more tokens than any view shows.
const LARGEST_REQUEST: usize = 4 << 20;

/// The only places that anything is loaded from or sent to is the studio itself.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Where a studio is.
#[derive(Clone)]
pub struct Address {
    pub port: u16,
    pub token: Token,
}

impl Address {
    /// What to open in a browser.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token.as_str())
    }

    fn cookie(&self) -> String {
        format!("graftling-{}", self.port)
    }
}

#[derive(Clone)]
struct Server {
    studio: Arc<Studio>,
    address: Address,
    room: Arc<Semaphore>,
}

impl Studio {
    /// Serves the page until `stop` is told; `ready` is called once the address is open. What a run in the theatre has done by then is kept.
    ///
    /// # Errors
    /// Failed: the port is taken, or the system gives no threads.
    pub fn serve(self: &Arc<Self>, stop: &Arc<Notify>, ready: impl FnOnce(&Address)) -> Result<()> {
        let failed = |error: std::io::Error| {
            let place = format!("127.0.0.1:{}", self.setup.port.unwrap_or(0));
            Error::failed(place, format!("cannot serve: {error}"), "give another --port, or leave it out for any that is free")
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(THREADS)
            .enable_all()
            .build()
            .map_err(failed)?;
        let served = runtime.block_on(async {
            let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, self.setup.port.unwrap_or(0)));
            let listener = TcpListener::bind(wanted).await.map_err(failed)?;
            let port = listener.local_addr().map_err(failed)?.port();
            let address = Address { port, token: Token::random() };
            let server = Server { studio: self.clone(), address: address.clone(), room: Arc::new(Semaphore::new(AT_ONCE)) };
            ready(&address);
            tokio::select! {
                served = axum::serve(listener, router(server)) => served.map_err(failed),
                () = stop.notified() => Ok(()),
            }
        });
        // Who listens to events would be waited for without end.
        runtime.shutdown_background();
        self.theatre.end();
        served
    }
}

fn router(server: Server) -> Router {
    let mut router = Router::new().route("/api/events", get(events));
    for route in api::routes() {
        let method = match route.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
        };
        let handler = move |State(server): State<Server>, asked: Asked| {
            let answer = route.answer.clone();
            async move { replied(server.answer(answer, asked).await) }
        };
        router = router.route(route.path, on(method, handler));
    }
    router
        .fallback(file)
        .method_not_allowed_fallback(|| async {
            refused(&Refusal::new(405, "request", "is asked by the other of GET and POST", SEE))
        })
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .layer(from_fn_with_state(server.clone(), guard))
        .with_state(server)
}

const SEE: &str = "docs/studio.md shows how each address is asked";

/// The request as JSON, from the address or the body.
struct Asked(Answered<Vec<u8>>);

impl<S: Send + Sync> axum::extract::FromRequest<S> for Asked {
    type Rejection = Infallible;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Infallible> {
        if request.method() == axum::http::Method::GET {
            return Ok(Self(of_query(request.uri())));
        }
        let body: std::result::Result<Bytes, BytesRejection> = Bytes::from_request(request, state).await;
        Ok(Self(body.map(|body| body.to_vec()).map_err(|error| {
            let proposal = "send at most 4 MiB of JSON";
            Refusal::new(error.status().as_u16(), "request", &error.body_text(), proposal)
        })))
    }
}

fn of_query(uri: &Uri) -> Answered<Vec<u8>> {
    let pairs = Query::<BTreeMap<String, String>>::try_from_uri(uri);
    let Query(pairs) = pairs.map_err(|error| Refusal::new(400, "request", &error.body_text(), SEE))?;
    let object: Map<String, Value> = pairs.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
    Ok(Value::Object(object).to_string().into_bytes())
}

impl Server {
    async fn answer(self, answer: Answer, asked: Asked) -> Answered<Vec<u8>> {
        let asked = asked.0?;
        match answer {
            Answer::Engine(handler) => {
                if self.studio.is_training() {
                    return Err(Refusal::training());
                }
                let opened = self.studio.opened()?;
                self.studio.jobs.ask(opened, move |engine| handler(engine, &asked)).await
            }
            Answer::Host(handler) => {
                let Ok(permit) = self.room.try_acquire_owned() else { return Err(Refusal::busy()) };
                let studio = self.studio.clone();
                let work = move || {
                    let _permit = permit;
                    caught(|| handler(&studio, &asked)).unwrap_or_else(|message| Err(failed(&message)))
                };
                tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed(&error.to_string())))
            }
        }
    }

    /// Why the request gets nothing, if so.
    fn refuses(&self, headers: &HeaderMap) -> Option<Refusal> {
        let port = self.address.port;
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let names = |of: &dyn Fn(&str) -> String, value: &str| hosts.iter().any(|host| of(host) == value);
        let elsewhere = |what: &str| Some(Refusal::new(403, "request", what, "open the address that graftling printed"));
        if !text(header::HOST).is_some_and(|host| names(&str::to_string, host)) {
            return elsewhere("is for another host than this studio's");
        }
        if text(header::ORIGIN).is_some_and(|origin| !names(&|host| format!("http://{host}"), origin)) {
            return elsewhere("comes from the page of another place");
        }
        let bearer = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        let name = self.address.cookie();
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut given = bearer.into_iter().chain(pairs.filter(|(key, _)| *key == name).map(|(_, value)| value));
        match given.any(|given| self.address.token.is(given)) {
            true => None,
            false => {
                Some(Refusal::new(401, "request", "comes without this studio's token", "open the address that graftling printed"))
            }
        }
    }
}

fn failed(message: &str) -> Refusal {
    let defect = "this is a defect of graftling: please report it with the view";
    Refusal::new(500, "studio", &format!("the view failed: {message}"), defect)
}

/// Lets through who may ask, and gives the token's cookie to who brings the token with the address.
async fn guard(State(server): State<Server>, request: Request, next: Next) -> Response {
    let refusal = server.refuses(request.headers());
    let mut response = match refusal {
        None => next.run(request).await,
        Some(Refusal { status: 401, .. }) if brings_token(&server, request.uri()) => {
            let cookie =
                format!("{}={}; HttpOnly; SameSite=Strict; Path=/", server.address.cookie(), server.address.token.as_str());
            (StatusCode::SEE_OTHER, [(header::LOCATION, "/".to_string()), (header::SET_COOKIE, cookie)]).into_response()
        }
        Some(refusal) => refused(&refusal),
    };
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    response.headers_mut().extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

fn brings_token(server: &Server, uri: &Uri) -> bool {
    let token = Query::<BTreeMap<String, String>>::try_from_uri(uri).ok().and_then(|Query(pairs)| pairs.get("token").cloned());
    uri.path() == "/" && token.is_some_and(|token| server.address.token.is(&token))
}

async fn file(method: axum::http::Method, uri: Uri) -> Response {
    match asset(uri.path()).filter(|_| method == axum::http::Method::GET) {
        // Who brings the token again, with the cookie already there, gets an address without it.
        Some(_) if uri.path() == "/" && uri.query().is_some_and(|query| query.contains("token=")) => {
            (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response()
        }
        Some(asset) => ([(header::CONTENT_TYPE, asset.media_type)], Body::from(asset.content.into_owned())).into_response(),
        None => refused(&Refusal::new(404, uri.path(), "there is nothing at this address", SEE)),
    }
}

fn replied(answer: Answered<Vec<u8>>) -> Response {
    match answer {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response =
        (status, [(header::CONTENT_TYPE, "application/json")], Body::from(refusal.json().to_string())).into_response();
    if refusal.status == 503 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Events from now on, after those that the asker has missed.
async fn events(State(server): State<Server>, headers: HeaderMap, uri: Uri) -> Response {
    let Query(asked) = Query::<BTreeMap<String, String>>::try_from_uri(&uri).unwrap_or_default();
    // A browser sends the header when it connects again; the first time the page says what it has.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).or(asked.get("after").map(String::as_str));
    let last = last.and_then(|last| last.parse().ok()).unwrap_or(0);
    // Listens first, so that nothing falls between the two.
    let live = BroadcastStream::new(server.studio.events.listen());
    let studio = server.studio.clone();
    let missed = tokio::task::spawn_blocking(move || studio.theatre.missed(last)).await.unwrap_or_default();
    let told = missed.iter().filter_map(|event| event.step).max().unwrap_or(last);
    Sse::new(stream(missed, live, told)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

fn stream(
    missed: Vec<Event>,
    live: BroadcastStream<Event>,
    mut told: u64,
) -> impl Stream<Item = std::result::Result<sse::Event, Infallible>> {
    // One that has fallen behind ends here: the browser connects again, and is told what it missed.
    let live = live.take_while(std::result::Result::is_ok).filter_map(std::result::Result::ok);
    let live = live.filter(move |event| {
        // A run that begins, or begins again, is told from its first step; one that is about to end is not.
        if event.name == "run" && event.data["phase"] == "running" {
            told = 0;
        }
        event.step.is_none_or(|step| step > told)
    });
    tokio_stream::iter(missed).chain(live).map(|Event { name, step, data }| {
        let event = sse::Event::default().event(name).data(data.to_string());
        // What belongs to a step comes before it: who has the step's number has all of it.
        Ok(match step.filter(|_| name == "step") {
            Some(step) => event.id(step.to_string()),
            None => event,
        })
    })
}
