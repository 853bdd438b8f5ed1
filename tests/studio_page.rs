//! The studio's page in a real browser, on a real model: every view opens with numbers, the journey plays to its end, a run is started, left,
//! come back to and stopped, and all of it by keys alone. Nothing is asked of another place, and the console stays empty.
//!
//! Without a browser, or without `GRAFTLING_TEST_MODEL`, they say that they do not run. `tools/screenshots` takes pictures.

#[path = "studio/browser.rs"]
mod browser;
#[path = "studio/client.rs"]
mod client;
#[path = "studio/keys.rs"]
mod keys;
#[path = "common/not_run.rs"]
mod not_run;
#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use browser::Browser;
use client::Studio;
use program::program;
use tempfile::TempDir;

/// The views, by their address.
const VIEWS: [&str; 11] =
    ["journey", "anatomy", "text", "attention", "mlp", "residual", "lora", "backward", "source", "theatre", "chat"];

/// The longest that a view may take until all its numbers are there, once the model is open. The goal is 2 s on an idle machine; a test shares
/// its processors with others.
const LONGEST: Duration = Duration::from_secs(20);

/// A folder with a little data and an adapter, and a studio for it.
struct Place {
    folder: TempDir,
    studio: Studio,
    _turn: MutexGuard<'static, ()>,
}

fn model() -> Option<String> {
    std::env::var("GRAFTLING_TEST_MODEL").ok()
}

fn graftling(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = program();
    command.current_dir(folder).args(arguments).args(["--model", &model().unwrap(), "--no-autotune"]);
    command
}

impl Place {
    /// `None`, in words, where there is no browser or no model.
    fn open() -> Option<Self> {
        // Each has a model and a browser of its own: one after the other.
        static ONE: Mutex<()> = Mutex::new(());
        if browser::program().is_none() || model().is_none() {
            not_run::not_run("this needs Chromium, and GRAFTLING_TEST_MODEL to name SmolLM2-135M-Instruct as a GGUF file");
            return None;
        }
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let record = |n: usize| {
            let [user, assistant] = [("user", format!("How many is {n} and {n}?")), ("assistant", format!("It is {}.", 2 * n))]
                .map(|(role, content)| serde_json::json!({ "role": role, "content": content }));
            format!("{}\n", serde_json::json!({ "messages": [user, assistant] }))
        };
        std::fs::write(folder.path().join("data.jsonl"), (1..9).map(record).collect::<String>()).unwrap();
        let mut train = graftling(folder.path(), &["train", "--data", "data.jsonl", "--out", "adapter", "--lora-r", "4"]);
        train.args([
            "--layers",
            "27-29",
            "--max-steps",
            "3",
            "--max-length",
            "64",
            "--batch-size",
            "1",
            "--learning-rate",
            "1e-3",
        ]);
        let trained = train.output().unwrap();
        assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
        let studio = Studio::start(graftling(folder.path(), &["studio", "--no-browser", "--adapter", "adapter"]));
        Some(Self { folder, studio, _turn: turn })
    }

    /// Questions for a run, and a sweep of two arms that has been done.
    fn sweep(&self) {
        let folder = self.folder.path();
        let turns =
            serde_json::json!([{ "role": "user", "content": "How many is 2 and 2?" }, { "role": "assistant", "content": "4" }]);
        let question = serde_json::json!({ "messages": turns, "expect": { "contains": "4", "group": "sums" } });
        std::fs::write(folder.join("questions.jsonl"), format!("{question}\n")).unwrap();
        let base = "data = [\"data.jsonl\"]\neval_split = 0.25\nlayers = \"29\"\nmax_steps = 1\nmax_length = 64\nbatch_size = 1\nno_autotune = true";
        let model = serde_json::json!(model().unwrap());
        let file = format!("seeds = [1]\nchoose = \"loss\"\n[base]\nmodel = {model}\n{base}\n[axes]\nlora_r = [2, 4]\n");
        std::fs::write(folder.join("sweep.toml"), file).unwrap();
        let mut sweep = program();
        let done = sweep.current_dir(folder).args(["sweep", "--config", "sweep.toml", "--out", "sweep"]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.studio.port)
    }

    /// A browser that has opened the printed address.
    fn browser(&self) -> Browser {
        let mut browser = Browser::start();
        browser.open(&format!("{}?token={}", self.url(), self.studio.token));
        browser.settle();
        browser
    }

    /// That nothing went wrong in the page, and nothing was asked of another place.
    fn check(&self, browser: &Browser, what: &str) {
        assert!(browser.errors.is_empty(), "{what}: {:#?}", browser.errors);
        let here = self.url();
        let elsewhere: Vec<&String> = browser.requests.iter().filter(|url| !url.starts_with(&here) && !is_local(url)).collect();
        assert!(elsewhere.is_empty(), "{what}: {elsewhere:?}");
    }
}

/// Made by the page or the browser itself: nothing is asked of anyone.
fn is_local(url: &str) -> bool {
    ["data:", "blob:", "about:"].iter().any(|scheme| url.starts_with(scheme))
}

/// What the view says, without the frame.
fn said(browser: &mut Browser) -> String {
    browser.evaluate("document.getElementById('content').innerText").as_str().unwrap_or_default().to_string()
}

fn go(browser: &mut Browser, view: &str) -> Duration {
    browser.evaluate(&format!("location.hash = '#/{view}'"));
    browser.settle()
}

/// Errors that the view shows, in words.
fn refusals(browser: &mut Browser) -> String {
    let found = browser.evaluate("[...document.querySelectorAll('#content .error')].map((box) => box.innerText).join('; ')");
    found.as_str().unwrap_or_default().to_string()
}

#[test]
fn every_view_opens_with_real_numbers() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    for view in VIEWS {
        // The first that needs the model opens it.
        go(&mut browser, view);
        go(&mut browser, "nowhere");
        let took = go(&mut browser, view);
        if view == "chat" {
            browser.evaluate("[...document.querySelectorAll('button')].find((button) => button.textContent === 'Send').click()");
            browser.settle();
        }
        assert_eq!(refusals(&mut browser), "", "{view}");
        let text = said(&mut browser);
        let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).count();
        // A conversation is words; its numbers are read token by token.
        let least = if view == "chat" { 1 } else { 5 };
        assert!(numbers >= least && text.len() > 300, "{view} says little: {text}");
        assert!(took < LONGEST, "{view} took {took:?}");
        eprintln!("{view}: {took:?}");
        let words = browser.evaluate("[...document.querySelectorAll('#content svg[role=img], #content canvas:not([aria-hidden])')].every((picture) => picture.getAttribute('aria-label') || picture.getAttribute('aria-labelledby') || picture.closest('[aria-label]') || picture.closest('figure')?.querySelector('figcaption'))");
        assert_eq!(words, true, "{view}: a picture that nobody puts into words");
        browser.size(390, 800);
        browser.settle();
        let wide = browser.evaluate("document.documentElement.scrollWidth - innerWidth").as_i64().unwrap();
        assert!(wide <= 0, "{view} is {wide} pixels too wide for a phone");
        browser.size(1280, 800);
        place.check(&browser, view);
    }
}

#[test]
fn the_journey_plays_to_its_end() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    go(&mut browser, "journey");
    // Space plays: after some seconds it is at the next sentence.
    let sentence = "[...document.querySelectorAll('.beats li')].findIndex((li) => li.className === 'now')";
    assert_eq!(browser.evaluate(sentence), 0);
    browser.press("Space");
    browser.wait_for(&format!("{sentence} > 0"));
    browser.press("Space");
    let stop = "document.querySelector('.rail a[aria-current=step]')?.getAttribute('href')";
    let stops = browser.evaluate("document.querySelectorAll('.rail a').length").as_u64().unwrap();
    let mut seen = Vec::new();
    for _ in 0..40 * stops {
        let at = browser.evaluate(stop).as_str().unwrap_or_default().to_string();
        // Between two stops there is none.
        if !at.is_empty() && seen.last() != Some(&at) {
            browser.settle();
            assert_eq!(refusals(&mut browser), "", "{at}");
            assert!(said(&mut browser).chars().any(|c| c.is_ascii_digit()), "{at} has no numbers");
            seen.push(at);
        }
        if browser.evaluate("document.querySelector('.journey')?.innerText.includes('The end')") == true {
            break;
        }
        browser.press("ArrowRight");
    }
    assert_eq!(seen.len() as u64, stops, "{seen:?}");
    assert_eq!(browser.evaluate("document.querySelector('.journey').innerText.includes('The end')"), true);
    place.check(&browser, "the journey");
}

#[test]
fn a_run_starts_streams_pauses_goes_on_and_stops_and_a_reload_loses_nothing() {
    let Some(place) = Place::open() else { return };
    place.sweep();
    let mut browser = place.browser();
    go(&mut browser, "theatre");
    let set = |browser: &mut Browser, key: &str, value: &str| {
        let input = format!(
            "(() => {{ const label = [...document.querySelectorAll('label')].find((l) => l.querySelector('code')?.textContent === '{key}');
            const input = document.getElementById(label.htmlFor); input.value = '{value}';
            for (const name of ['input', 'change']) input.dispatchEvent(new Event(name, {{ bubbles: true }})); }})()"
        );
        browser.evaluate(&input);
    };
    let options = [
        ("data", "data.jsonl"),
        ("out", "run"),
        ("layers", "27-29"),
        ("max_steps", "500"),
        ("max_length", "64"),
        ("batch_size", "1"),
        ("lora_r", "4"),
        ("check_data", "questions.jsonl"),
        ("check_steps", "2"),
    ];
    for (key, value) in options {
        set(&mut browser, key, value);
    }
    let press = |browser: &mut Browser, text: &str| {
        let button = format!("[...document.querySelectorAll('button')].find((b) => b.textContent.trim() === '{text}')");
        browser.wait_for(&format!("Boolean({button})"));
        browser.evaluate(&format!("{button}.click()"));
    };
    press(&mut browser, "Check it first");
    browser.settle();
    assert_eq!(refusals(&mut browser), "");
    assert!(said(&mut browser).contains("500 steps"), "{}", said(&mut browser));
    press(&mut browser, "Start training");
    let step = "Number(document.querySelector('.run-bar')?.getAttribute('aria-valuenow') ?? 0)";
    browser.wait_for(&format!("{step} >= 3"));
    let before = browser.evaluate(step).as_u64().unwrap();
    browser.open(&place.url());
    go(&mut browser, "theatre");
    browser.wait_for(&format!("{step} > {before}"));
    assert_eq!(refusals(&mut browser), "");
    browser.wait_for("document.querySelector('.theatre-now').innerText.includes('answered right')");
    // Pausing gives the device back, and going on goes on.
    press(&mut browser, "Pause");
    browser.wait_for("document.querySelector('.phase')?.dataset.phase === 'paused'");
    let paused = browser.evaluate(step).as_u64().unwrap();
    go(&mut browser, "mlp");
    assert_eq!(refusals(&mut browser), "");
    go(&mut browser, "theatre");
    press(&mut browser, "Go on");
    browser.wait_for(&format!("{step} > {paused}"));
    // Looking inside waits, in words.
    go(&mut browser, "attention");
    assert!(refusals(&mut browser).contains("pause the run"), "{}", refusals(&mut browser));
    go(&mut browser, "theatre");
    press(&mut browser, "Stop");
    browser.wait_for("document.querySelector('.phase')?.dataset.phase === 'stopped'");
    let run = place.studio.get("/api/run").ok();
    let steps: Vec<u64> = run["metrics"].as_array().unwrap().iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
    assert_eq!(run["checkpoint"]["step"], steps.len());
    browser.wait_for(&format!("{step} === {}", steps.len()));
    assert!(place.folder.path().join(format!("run/checkpoint-{}", steps.len())).is_dir());
    // What has been stands below: the run, and the arms of a sweep.
    press(&mut browser, "Look again");
    browser.settle();
    let text = said(&mut browser);
    assert!(text.contains("Arms of") && text.contains("lora_r = 2") && text.contains("has an adapter"), "{text}");
    browser.evaluate("document.querySelector('input[type=checkbox][aria-label^=compare]').click()");
    browser.settle();
    browser.wait_for("Boolean(document.querySelector('[aria-label^=\"Loss by step of the chosen runs\"]'))");
    // The browser itself notes an answer of 409 as an error of the network.
    browser.errors.retain(|error| !error.contains("409"));
    place.check(&browser, "the theatre");
}
