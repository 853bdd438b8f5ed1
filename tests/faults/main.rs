//! What happens to a run, and to the user's files, when the world does not behave: kill -9 at any moment, Ctrl-C, a full disk, nobody who reads what it says, a
//! second process, a lost device, too little memory, a folder that is not empty, checkpoints and models that are not what they were.
//!
//! `GRAFTLING_KILLS` sets the number of kill moments (default 8), `GRAFTLING_KILL_SEED` their seed, which is printed.
#![cfg(unix)]

mod broken_models;
mod device_lost;
#[path = "../common/not_run.rs"]
mod not_run;
mod output_folder;
mod reports;
mod resume;
#[path = "../runs/mod.rs"]
mod runs;
mod short_memory;
#[path = "../common/signals.rs"]
mod signals;
mod while_it_runs;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use graftling::formats::peft::load_adapter;
use graftling::train::checkpoint::latest;
use graftling::train::lock::FolderLock;
use runs::{Workshop, run};

const STEPS: [&str; 4] = ["--max-steps", "24", "--save-steps", "2"];

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// A small generator for moments; what matters is that a failure can be repeated.
fn scrambled(seed: u64) -> u64 {
    let mut bits = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ (bits >> 27)
}

fn start(mut command: Command) -> Child {
    signals::listen_to_signals(&mut command);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until `done` holds; a child that ends before is a failure.
fn wait_until(child: &mut Child, done: impl Fn() -> bool) {
    runs::wait_until("what a run does", || {
        let is_done = done();
        assert!(is_done || child.try_wait().unwrap().is_none(), "the run ended too early: {}", said(child));
        is_done
    });
}

/// Not through `kill`, which a small system lacks.
fn send(process: u32, signal: i32) {
    // SAFETY: a call with two numbers.
    assert_eq!(unsafe { libc::kill(process as libc::pid_t, signal) }, 0);
}

fn said(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Every folder that is called a checkpoint is one, whatever happened before.
fn checkpoints_are_whole(out: &Path) {
    for entry in std::fs::read_dir(out).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-")) {
            load_adapter(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(path.join("state.json").is_file() && path.join("optimizer.safetensors").is_file(), "{}", path.display());
        }
    }
}

#[test]
fn killed_at_any_moment_a_run_goes_on_bit_by_bit() {
    let shop = Workshop::new();
    let held_out = ["--eval-data", "held-out.jsonl", "--eval-steps", "5"];
    let options: Vec<&str> = STEPS.into_iter().chain(held_out).collect();
    let resumed: Vec<&str> = options.iter().copied().chain(["--resume"]).collect();
    let started = Instant::now();
    run(shop.train("whole", &options), 0);
    let duration = started.elapsed();
    let expected = shop.result("whole");
    assert_eq!(expected.0.len(), 24);

    let kills = from_environment("GRAFTLING_KILLS").unwrap_or(8);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = from_environment("GRAFTLING_KILL_SEED").unwrap_or(now);
    eprintln!("{kills} kills, GRAFTLING_KILL_SEED={seed}, an undisturbed run takes {duration:?}");
    let (mut killed, mut round) = (0, 0);
    while killed < kills {
        // One folder is killed again and again until the run in it comes through.
        let out = format!("killed-{round}");
        round += 1;
        loop {
            let mut child = start(shop.train(&out, &resumed));
            let share = (scrambled(seed + killed) % 1000) as f64 / 1000.0;
            std::thread::sleep(duration.mul_f64(share));
            let ended = child.try_wait().unwrap();
            if ended.is_none() && killed < kills {
                killed += 1;
                child.kill().unwrap(); // SIGKILL
                child.wait().unwrap();
                checkpoints_are_whole(&shop.path(&out));
                continue;
            }
            let status = child.wait().unwrap();
            assert!(status.success(), "{}", said(&mut child));
            break;
        }
        assert_eq!(shop.result(&out), expected, "round {round}");
        assert!(shop.names(&out).iter().all(|name| !name.contains("tmp") && !name.contains("partial")), "{:?}", shop.names(&out));
    }
}

#[test]
fn ctrl_c_saves_says_how_to_go_on_and_the_result_is_the_same() {
    let shop = Workshop::new();
    // Too long to be through before the signal comes, and at a constant rate, so that the resumed run may be shorter.
    let options = |steps: &'static str| ["--lr-schedule", "constant", "--save-steps", "1000", "--max-steps", steps];
    let mut child = start(shop.train("out", &options("100000")));
    wait_until(&mut child, || shop.metrics_lines("out") >= 2);
    send(child.id(), libc::SIGINT);
    let status = child.wait().unwrap();
    let text = said(&mut child);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("everything is saved in") && text.contains("--resume"), "{text}");
    let (_, state) = latest(&shop.path("out")).unwrap().expect("a checkpoint is there");
    assert!(state.step >= 2 && shop.metrics("out").len() as u64 == state.step);

    let steps: &'static str = Box::leak((state.step + 3).to_string().into_boxed_str());
    let resumed: Vec<&str> = options(steps).into_iter().chain(["--resume"]).collect();
    run(shop.train("out", &resumed), 0);
    run(shop.train("whole", &options(steps)), 0);
    assert_eq!(shop.result("out"), shop.result("whole"));
}

/// Questions are many and answers are long: who asks to stop does not wait for them. What was cut short is measured when the run goes on,
/// and it ends as one that nobody stopped.
#[test]
fn ctrl_c_ends_a_round_of_questions_which_is_asked_again_on_resume() {
    let shop = Workshop::new();
    let options = ["--max-steps", "4", "--check-data", "questions.jsonl", "--check-steps", "2", "--check-max-new-tokens", "100"];
    let with_more =
        |more: &[&'static str]| [options.as_slice(), &["--eval-data", "held-out.jsonl", "--eval-steps", "2"], more].concat();
    run(shop.train("whole", &with_more(&[])), 0);
    // When the questions are asked nobody outside can see: the signal comes later and later, until one step is there without its answers.
    let cut_short = || shop.metrics("out").last().is_some_and(|last| last["step"] == 2 && last["check"].is_null());
    for delay in (0..).map(|round: u64| 20 * round) {
        let _ = std::fs::remove_dir_all(shop.path("out"));
        let mut child = start(shop.train("out", &with_more(&[])));
        wait_until(&mut child, || shop.metrics_lines("out") >= 1);
        std::thread::sleep(std::time::Duration::from_millis(delay));
        send(child.id(), libc::SIGINT);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "the run was through before it could be stopped: {}", said(&mut child));
        if cut_short() {
            break;
        }
    }
    let (_, state) = latest(&shop.path("out")).unwrap().expect("a checkpoint is there");
    assert_eq!(state.step, 2);
    let (_, err) = run(shop.train("out", &with_more(&["--resume"])), 0);
    assert!(err.contains("step 2: ") && err.contains("of 9 questions answered right"), "{err}");
    assert_eq!(shop.result("out"), shop.result("whole"));
}

#[test]
fn a_second_process_is_refused() {
    let shop = Workshop::new();
    std::fs::create_dir(shop.path("out")).unwrap();
    let lock = FolderLock::acquire(&shop.path("out")).unwrap();
    let (_, err) = run(shop.train("out", &STEPS), 1);
    assert!(err.contains(&format!("process {} is training into this folder", std::process::id())), "{err}");
    drop(lock);
    run(shop.train("out", &STEPS), 0);
}

#[test]
fn damaged_checkpoints_are_passed_over_and_torn_metrics_repaired() {
    let shop = Workshop::new();
    run(shop.train("out", &STEPS), 0);
    let expected = shop.result("out");
    // As a copy that was cut short would leave it.
    std::fs::write(shop.path("out/checkpoint-24/state.json"), "{\"format_version\": 1,").unwrap();
    let metrics = std::fs::read(shop.path("out/metrics.jsonl")).unwrap();
    std::fs::write(shop.path("out/metrics.jsonl"), &metrics[..metrics.len() - 7]).unwrap();
    let resumed: Vec<&str> = STEPS.into_iter().chain(["--resume"]).collect();
    let (_, err) = run(shop.train("out", &resumed), 0);
    assert!(err.contains("checkpoint-24 is passed over") && err.contains("going on after step 22"), "{err}");
    assert_eq!(shop.result("out"), expected);
}

/// Needs root for a small file system; elsewhere it says that it did nothing.
#[test]
fn a_full_disk_ends_the_run_with_the_last_checkpoint_good() {
    let shop = Workshop::new();
    std::fs::create_dir(shop.path("small")).unwrap();
    let small = shop.path("small");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(&small).stderr(Stdio::null()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        return not_run::not_run("a small file system cannot be mounted here (needs root)");
    }
    let _unmount = Unmount(&small);
    run(shop.train("whole", &STEPS), 0);
    // Each checkpoint takes about 90 KB; with all of them kept the disk is full after a few.
    let keep_all: Vec<&str> = STEPS.into_iter().chain(["--save-total-limit", "100"]).collect();
    let (_, err) = run(shop.train("small/out", &keep_all), 1);
    assert!(err.contains("error: ") && err.contains("No space left") && err.contains("--resume"), "{err}");
    checkpoints_are_whole(&small.join("out"));
    let (folder, state) = latest(&small.join("out")).unwrap().expect("a good checkpoint is left");
    assert!(err.contains(&folder.file_name().unwrap().to_string_lossy().into_owned()), "{err}");
    assert!(state.step < 24);
    // Room again: the run goes on, and ends as if nothing had been.
    let remount = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small).status().unwrap();
    assert!(remount.success());
    run(shop.train("small/out", &keep_all.into_iter().chain(["--resume"]).collect::<Vec<_>>()), 0);
    assert_eq!(shop.result("small/out"), shop.result("whole"));
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
