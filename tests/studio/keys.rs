//! The page by keyboard alone: real key events, no click, and no focus that a script gives.

use serde_json::{Value, json};

use super::browser::Browser;
use super::{Place, VIEWS, go, refusals};

/// Follows the focus; what it gives is said there.
const FOCUS: &str = include_str!("focus.js");

/// What else a view shows: by its address.
const PARTS: [&str; 11] = [
    "source?op=rope",
    "source?file=src/ops/rope.rs",
    "journey/embedding",
    "journey/attention",
    "journey/mlp",
    "journey/layers",
    "journey/output",
    "journey/formats",
    "journey/loss",
    "journey/gradients",
    "journey/adapter",
];

/// Keys that are pressed at the most in search of something.
const PATIENCE: usize = 6000;

fn press(browser: &mut Browser, keys: &[&str]) {
    keys.iter().for_each(|key| browser.press(key));
}

/// Whether this is true of `e`, which has the focus.
fn has(browser: &mut Browser, test: &str) -> bool {
    browser.evaluate(&format!("((e) => Boolean({test}))(document.activeElement)")) == true
}

/// Tab, or another key, until this is true of what has the focus.
fn until(browser: &mut Browser, key: &str, test: &str) {
    for _ in 0..250 {
        browser.press(key);
        if has(browser, test) {
            return;
        }
    }
    panic!("{key} does not get to {test}");
}

fn text(browser: &mut Browser, selector: &str) -> String {
    browser.evaluate(&format!("document.querySelector('{selector}')?.textContent")).as_str().unwrap_or_default().to_owned()
}

/// Goes by Tab through the whole content and back, opens all that can be opened, and moves through all groups. Gives what was wrong.
fn walk(browser: &mut Browser) -> Value {
    let at = |browser: &mut Browser, key: &str| {
        browser.press(key);
        browser.evaluate("walk.at()")
    };
    browser.evaluate("walk.begin()");
    let mut stops = 0;
    for _ in 0..PATIENCE {
        let now = at(browser, "Tab");
        if now["inside"] != true && stops > 0 {
            break;
        }
        stops += usize::from(now["inside"] == true);
        if now["closed"] == true {
            let opened = at(browser, "Enter");
            assert!(opened["closed"] == false, "Enter does not open {opened}");
            // What was closed is filled as it opens.
            std::thread::sleep(std::time::Duration::from_millis(150));
        } else if now["grouped"] == true {
            let mut reached = at(browser, "Home")["reached"].clone();
            for _ in 0..PATIENCE {
                let more = at(browser, "ArrowRight")["reached"].clone();
                // The first that Home gets to may have been known.
                if more == reached && at(browser, "ArrowRight")["reached"] == more {
                    break;
                }
                reached = more;
            }
        }
    }
    assert!(stops > 2, "Tab gets to {stops} controls");
    let back = (0..PATIENCE).take_while(|times| at(browser, "Shift+Tab")["inside"] == true || *times == 0).count();
    assert!(back >= stops, "Tab gets to {stops} controls, and back to {back}");
    browser.evaluate("walk.found()")
}

#[test]
fn keys_get_to_every_control_and_the_focus_is_always_seen() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    for (width, theme) in [(1280, "light"), (390, "dark")] {
        browser.size(width, 800);
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        browser.send("Emulation.setEmulatedMedia", json!({ "features": features }));
        browser.open(&place.url());
        browser.settle();
        browser.evaluate(FOCUS);
        for view in VIEWS.iter().chain(&PARTS) {
            go(&mut browser, view);
            let found = walk(&mut browser);
            assert_eq!(found, json!([]), "{view}, {width} pixels wide, {theme}: {found:#}");
            let headings = browser.evaluate("[...document.querySelectorAll('main h1')].length");
            assert_eq!(headings, 1, "{view} has one heading of its own");
        }
    }
    place.check(&browser, "a walk by keys");
}

#[test]
fn a_model_is_looked_into_by_keys() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    let browser = &mut browser;
    until(browser, "Tab", "e.className === 'skip'");
    browser.press("Enter");
    assert!(has(browser, "e.id === 'content'"));

    // Lists of keys and of what may be opened: Escape closes them, and the focus goes back.
    until(browser, "Tab", "e.className === 'primary'");
    for key in ["?", "o"] {
        browser.press(key);
        assert!(has(browser, "e.closest('dialog[open]')"));
        press(browser, &["Tab", "Tab", "Tab", "Tab", "Tab", "Tab", "Escape"]);
        assert!(has(browser, "!document.querySelector('dialog[open]') && e.className === 'primary'"), "after {key}");
    }

    // The map: a module and a layer lose their adapters.
    press(browser, &["g", "a"]);
    browser.settle();
    let trained = "document.querySelector('.big-numbers dd').textContent";
    let mut known = browser.evaluate(trained);
    let chosen = "e.getAttribute('aria-pressed') === 'false' || e.matches('.layer-name:not(.is-on)')";
    for (place, key) in [("e.matches('.cell')", "Enter"), ("e.matches('.layer-name')", "Space")] {
        until(browser, "Tab", place);
        if key == "Enter" {
            until(browser, "ArrowDown", "e.dataset.site?.endsWith('q_proj')");
        }
        browser.press(key);
        browser.settle();
        assert!(has(browser, chosen), "{place}");
        let now = browser.evaluate(trained);
        assert_ne!(now, known, "{place}");
        known = now;
    }
    // A range of layers goes with the one that was left out.
    until(browser, "Tab", "e.matches('.strip button')");
    press(browser, &["Enter", "Enter", "ArrowRight", "ArrowRight", "Shift+Enter"]);
    assert_eq!(browser.evaluate("document.querySelector('.strip [aria-pressed=true]').textContent"), "3");

    // Another head, and another reader in its picture.
    press(browser, &["g", "h"]);
    browser.settle();
    until(browser, "Tab", "e.matches('.head')");
    press(browser, &["ArrowRight", "Enter"]);
    assert_eq!(text(browser, ".card > .stack > h2"), "Head 1");
    until(browser, "Tab", "e.getAttribute('role') === 'application'");
    press(browser, &["Home", "ArrowUp", "Enter"]);
    assert!(has(browser, "e.getAttribute('role') === 'application'"));
    until(browser, "Tab", "e.matches('.token')");
    // What chooses, and is drawn anew by it, keeps the focus; and what its tooltip says is seen.
    press(browser, &["ArrowLeft", "Enter"]);
    assert!(has(
        browser,
        "e.matches('.token[aria-checked=true]') && e.title === document.querySelector('.tip:not([hidden])').textContent"
    ));

    press(browser, &["g", "r"]);
    browser.settle();
    until(browser, "Tab", "e.matches('.token')");
    press(browser, &["Home", "Enter"]);
    browser.settle();
    assert!(has(browser, "e.matches('.token') && e.closest('[role=radiogroup]')"), "the row of tokens keeps the focus");

    press(browser, &["g", "l"]);
    browser.settle();
    until(browser, "Tab", "e.matches('.graft input')");
    browser.press("Home");
    browser.wait_for("document.body.innerText.includes('At strength 0.00')");

    // A gradient is proved.
    press(browser, &["g", "b"]);
    browser.settle();
    until(browser, "Tab", "e.getAttribute('role') === 'application'");
    press(browser, &["ArrowDown", "Enter"]);
    browser.settle();
    until(browser, "Tab", "e.getAttribute('aria-label')?.startsWith('B, ')");
    press(browser, &["ArrowDown", "Enter"]);
    browser.wait_for("document.body.innerText.includes('by the backward pass')");
    assert!(has(browser, "e.getAttribute('role') === 'application'"));

    // Keys of the page are letters where one writes, and what else a token might have been is read where the focus is.
    press(browser, &["g", "c"]);
    browser.settle();
    until(browser, "Tab", "e.tagName === 'TEXTAREA'");
    press(browser, &["End", "Space", "g", "t", "?"]);
    assert!(has(browser, "e.value.endsWith(' gt?') && !document.querySelector('dialog[open]') && location.hash === '#/chat'"));
    browser.press("Enter");
    browser.settle();
    until(browser, "Shift+Tab", "e.matches('.answer .token')");
    browser.press("ArrowRight");
    assert!(text(browser, ".side-adapted .answer-about").contains(" had "));
    assert_eq!(refusals(browser), "");
    place.check(browser, "a look by keys");
}

#[test]
fn the_journey_and_the_list_of_views_are_gone_through_by_keys() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    let browser = &mut browser;
    go(browser, "journey");
    // Where one writes, the keys of the journey are those of the text.
    until(browser, "Tab", "e.tagName === 'SUMMARY' || e.tagName === 'TEXTAREA'");
    press(browser, &["Space", "ArrowRight", "ArrowDown", "x"]);
    assert!(has(browser, "e.value.includes(' ') && e.value.includes('x')"));
    assert_eq!(browser.evaluate("document.querySelector('.player .primary').textContent + location.hash"), "Play#/journey");
    // The button that goes on keeps the focus from stop to stop.
    let forward = "e.getAttribute('aria-label') === 'Forward'";
    until(browser, "Shift+Tab", forward);
    for stop in ["embedding", "attention"] {
        for _ in 0..9 {
            if browser.evaluate("location.hash") == format!("#/journey/{stop}") {
                break;
            }
            browser.press("Enter");
            browser.settle();
            assert!(has(browser, forward), "on the way to {stop}");
        }
    }
    // A picture is read by arrows, and the journey stays where it is.
    until(browser, "Tab", "e.matches('.heat')");
    press(browser, &["ArrowRight", "ArrowDown"]);
    assert_eq!(browser.evaluate("location.hash"), "#/journey/attention");
    assert!(text(browser, ".stop-picture .readout").contains("reads"));

    // On a narrow page the list of views is behind a button.
    browser.size(390, 800);
    browser.open(&place.url());
    browser.settle();
    let open = "document.body.classList.contains('menu-open')";
    for key in ["Escape", "Tab"] {
        until(browser, "Tab", "e.id === 'menu'");
        browser.press("Enter");
        assert!(has(browser, &format!("{open} && e.matches('#nav a')")));
        browser.press(key);
        assert!(
            has(browser, &format!("!{open} && ({} || document.getElementById('content').contains(e))", "e.id === 'menu'")),
            "{key}"
        );
        browser.open(&place.url());
        browser.settle();
    }
    until(browser, "Tab", "e.id === 'menu'");
    press(browser, &["Enter", "ArrowDown", "Enter"]);
    browser.settle();
    assert!(has(browser, &format!("!{open} && e.id === 'content' && location.hash === '#/anatomy'")));
    place.check(browser, "the journey by keys");
}

#[test]
fn a_run_is_led_by_keys() {
    let Some(place) = Place::open() else { return };
    let mut browser = place.browser();
    let browser = &mut browser;
    press(browser, &["g", "o"]);
    browser.settle();
    let options = [
        ("data", "data.jsonl"),
        ("out", "run"),
        ("layers", "29"),
        ("lora_r", "4"),
        ("max_steps", "500"),
        ("max_length", "64"),
        ("batch_size", "1"),
    ];
    for (key, value) in options {
        until(browser, "Tab", &format!("e.labels?.[0]?.querySelector('code')?.textContent === '{key}'"));
        value.chars().for_each(|sign| browser.press(&sign.to_string()));
    }
    let phase = |browser: &mut Browser, name: &str| {
        browser.wait_for(&format!("document.querySelector('.phase')?.dataset.phase === '{name}'"))
    };
    until(browser, "Tab", "e.textContent === 'Start training'");
    browser.press("Enter");
    browser.wait_for("document.activeElement.matches('.theatre-now')");
    phase(browser, "running");
    browser.wait_for("Number(document.querySelector('.run-bar')?.getAttribute('aria-valuenow')) > 2");
    // A chart is read while it gets more steps.
    until(browser, "Tab", "e.getAttribute('aria-label')?.startsWith('Loss by step')");
    browser.press("Home");
    let step = browser.evaluate("Number(document.querySelector('.run-bar').getAttribute('aria-valuenow'))");
    browser.wait_for(&format!("Number(document.querySelector('.run-bar').getAttribute('aria-valuenow')) > {step}"));
    assert!(has(browser, "e.matches('.plot') && e.parentElement.querySelector('.readout').textContent.startsWith('step 1:')"));
    for (button, then) in [("Pause", "paused"), ("Go on", "running"), ("Stop", "stopped")] {
        until(browser, "Shift+Tab", &format!("e.textContent === '{button}'"));
        browser.press("Enter");
        phase(browser, then);
        assert!(has(browser, "e.closest('.theatre-now')"), "after {button} the focus is where the run is");
        until(browser, "Tab", "e.getAttribute('aria-label')?.startsWith('Loss by step')");
    }
    place.check(browser, "a run by keys");
}
