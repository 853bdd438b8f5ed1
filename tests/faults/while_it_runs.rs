//! What happens to the output folder while a run writes into it.

use std::fs;

use super::{said, send, start, wait_until};
use crate::runs::{Workshop, run};

const ENDLESS: [&str; 6] = ["--lr-schedule", "constant", "--save-steps", "100000", "--max-steps", "100000"];

/// The run's folder is moved away, and the user puts another in its place: nothing is written there, and the run can go on.
#[test]
fn a_folder_that_takes_the_place_of_the_runs_own_is_not_written_to() {
    let shop = Workshop::new();
    let mut child = start(shop.train("out", &ENDLESS));
    wait_until(&mut child, || shop.metrics_lines("out") >= 2);
    fs::rename(shop.path("out"), shop.path("away")).unwrap();
    fs::create_dir(shop.path("out")).unwrap();
    fs::write(shop.path("out/adapter_model.safetensors"), "the user's").unwrap();
    send(child.id(), libc::SIGINT);
    let status = child.wait().unwrap();
    let text = said(&mut child);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("out: is another folder than the one in which this run began"), "{text}");
    assert_eq!(shop.names("out"), ["adapter_model.safetensors"]);
    assert_eq!(fs::read_to_string(shop.path("out/adapter_model.safetensors")).unwrap(), "the user's");
}

/// As after `rm -r`: the run ends with a word instead of a folder that holds half of what it should.
#[test]
fn a_folder_that_is_removed_is_not_made_again() {
    let shop = Workshop::new();
    let mut child = start(shop.train("out", &ENDLESS));
    wait_until(&mut child, || shop.metrics_lines("out") >= 2);
    fs::remove_dir_all(shop.path("out")).unwrap();
    send(child.id(), libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let text = said(&mut child);
    assert!(text.contains("out: was moved away or removed"), "{text}");
    assert!(!shop.path("out").exists());
}

/// An adapter that another program puts into the folder in the meantime stays, under a name of its own.
#[test]
fn an_adapter_that_comes_in_the_meantime_is_kept() {
    let shop = Workshop::new();
    let mut child = start(shop.train("out", &["--max-steps", "200", "--save-steps", "200"]));
    wait_until(&mut child, || shop.metrics_lines("out") >= 2);
    fs::write(shop.path("out/adapter_model.safetensors"), "the user's").unwrap();
    let status = child.wait().unwrap();
    let text = said(&mut child);
    assert!(status.success() && text.contains("adapter_model.safetensors came while this run went on"), "{text}");
    assert_eq!(fs::read_to_string(shop.path("out/adapter_model.safetensors.1")).unwrap(), "the user's");
    graftling::formats::peft::load_adapter(&shop.path("out")).unwrap();
    // The next run goes on from its own adapter, which is none that came.
    let (_, text) = run(shop.train("out", &["--max-steps", "200", "--save-steps", "200", "--resume"]), 0);
    assert!(!text.contains("came while"), "{text}");
}
