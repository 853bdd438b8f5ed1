//! One run by several ranks: what one process would have made of it, whatever becomes of a rank.
//!
//! The ranks of most tests are threads or processes that `mpirun` starts on this machine's driver; those need a graftling with the
//! feature `mpi` (`./tools/test --mpi`).
#![cfg(unix)]

#[path = "common/not_run.rs"]
mod not_run;
mod runs;
#[path = "common/signals.rs"]
mod signals;
#[path = "common/threads.rs"]
mod threads;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use graftling::train::checkpoint::latest;
use runs::{Workshop, run, wait_until};
use threads::Thread;

#[test]
fn ranks_tell_each_other_what_they_have() {
    let heard = Thread::run(3, |ranks| {
        let mut sum = [ranks.rank() as f32, 1.0];
        ranks.sum(&mut sum);
        let mut shared = [ranks.rank() as u32; 2];
        ranks.share(&mut shared, 1);
        let told: Option<String> = ranks.told(ranks.is_first().then(|| "of the first".to_string())).unwrap();
        let things: Vec<usize> = (0..7).collect();
        let mine: Vec<usize> = ranks.mine(&things).map(|(number, thing)| if number == *thing { number } else { 7 }).collect();
        assert_eq!(mine, (0..7).filter(|&number| ranks.is_mine(number)).collect::<Vec<_>>());
        let anyone = [ranks.any(ranks.rank() == 2), ranks.any(false)];
        assert_eq!(ranks.agree(Ok(ranks.rank())).unwrap(), ranks.rank());
        (sum, shared, told, ranks.all(&"x".repeat(ranks.rank())), anyone, mine)
    });
    for (rank, (sum, shared, told, all, anyone, mine)) in heard.into_iter().enumerate() {
        assert_eq!((sum, shared, anyone), ([3.0, 3.0], [1, 1], [true, false]));
        assert_eq!((told.as_deref(), all), (Some("of the first"), vec![String::new(), "x".to_string(), "xx".to_string()]));
        assert_eq!(mine, (rank..7).step_by(3).collect::<Vec<_>>());
    }
}

/// The command, started as so many ranks; `None`, and told, where that cannot be.
fn by(count: usize, command: &Command) -> Option<Command> {
    if !cfg!(feature = "mpi") {
        not_run::not_run("graftling was built without the feature mpi; ./tools/test --mpi builds and tests it");
        return None;
    }
    if Command::new("mpirun").arg("--version").output().is_err() {
        not_run::not_run("there is no mpirun (Debian: openmpi-bin)");
        return None;
    }
    let mut ranks = mpirun();
    ranks.args(["-n", &count.to_string()]).arg(command.get_program()).args(command.get_args());
    ranks.current_dir(command.get_current_dir().unwrap()).env_remove("GRAFTLING_LOG").stdin(Stdio::null());
    Some(ranks)
}

fn mpirun() -> Command {
    let mut mpirun = Command::new("mpirun");
    // More ranks than processors, and as root in a container.
    mpirun.arg("--oversubscribe").env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    mpirun
}

/// The losses, norms and rates of each step of a run.
fn numbers(shop: &Workshop, out: &str) -> Vec<[f64; 3]> {
    shop.metrics(out).iter().map(|step| ["loss", "grad_norm", "learning_rate"].map(|key| step[key].as_f64().unwrap())).collect()
}

fn tokens(shop: &Workshop, out: &str) -> Vec<u64> {
    shop.metrics(out).iter().map(|step| step["tokens"].as_u64().unwrap()).collect()
}

/// N ranks with one batch each are one process with N batches.
#[test]
fn ranks_train_as_one_process_that_accumulates() {
    let shop = Workshop::new();
    let options = ["--max-steps", "5", "--eval-data", "held-out.jsonl", "--eval-steps", "2"];
    let Some(ranks) = by(3, &shop.train_by(1, "ranks", &options)) else { return };
    run(shop.train_by(3, "one", &options), 0);
    let (_, err) = run(ranks, 0);
    assert!(err.contains("3 ranks: a step has 3 batches, 1 a rank") && err.matches("done: 5 steps").count() == 1, "{err}");
    assert_eq!(tokens(&shop, "ranks"), tokens(&shop, "one"));
    for (ranks, one) in numbers(&shop, "ranks").iter().zip(numbers(&shop, "one")) {
        for (ranks, one) in ranks.iter().zip(one) {
            assert!((ranks - one).abs() <= 1e-6 * one.abs(), "{ranks} of the ranks, {one} of one process");
        }
    }
}

/// An adapter of three groups: the first one is summed while there is something left to compute. And whoever is killed meanwhile,
/// nobody waits for it for ever.
#[test]
fn an_adapter_of_several_groups_is_summed_during_the_backward_pass() {
    let shop = Workshop::new();
    let adapter = ["--lora-r", "2048", "--lora-alpha", "32", "--lora-dropout", "0.1"];
    let train = |batches: usize, out: &str, steps: &str| {
        shop.train_of(batches, out, &adapter, &["--lr-schedule", "constant", "--max-grad-norm", "1", "--max-steps", steps])
    };
    let Some(mut ranks) = by(2, &train(2, "ranks", "3")) else { return };
    ranks.env("GRAFTLING_LOG", "graftling::train=debug");
    run(train(4, "one", "3"), 0);
    let (_, err) = run(ranks, 0);
    let left = |line: &str| line.split_once("a sum of ")?.1.split_once(" with ")?.1.split(' ').next()?.parse::<usize>().ok();
    let left: Vec<usize> = err.lines().filter_map(left).collect();
    // Two ranks, three steps.
    assert!(left.len() >= 12 && left.len().is_multiple_of(6) && left.iter().any(|&left| left > 0), "{left:?}: {err}");
    for (ranks, one) in numbers(&shop, "ranks").iter().zip(numbers(&shop, "one")) {
        for (ranks, one) in ranks.iter().zip(one) {
            assert!((ranks - one).abs() <= 1e-6 * one.abs(), "{ranks} of the ranks, {one} of one process");
        }
    }
    let child = start(by(2, &train(2, "killed", "100000")).unwrap());
    wait_for_lines(&shop, "killed", 3);
    // SAFETY: a call with two numbers.
    assert_eq!(unsafe { libc::kill(children(child.id())[1], libc::SIGKILL) }, 0);
    let (code, err) = ended(child);
    assert!(code != Some(0) && err.contains("Killed"), "{code:?}: {err}");
}

/// Each batch adds the load balancing loss of its routers, whichever rank it is on.
#[test]
fn the_balance_of_routers_is_that_of_one_process() {
    let shop = Workshop::new();
    shop.put_model("families", "mixtral");
    std::fs::remove_dir_all(shop.path("model")).unwrap();
    std::fs::rename(shop.path("mixtral"), shop.path("model")).unwrap();
    let options = ["--modules-to-save", "gate", "--router-aux-loss-coef", "0.1", "--deterministic-sum", "--max-steps", "4"];
    let Some(ranks) = by(3, &shop.train_by(1, "ranks", &options)) else { return };
    run(shop.train_by(3, "one", &options), 0);
    run(ranks, 0);
    let balance = |out| shop.metrics(out).iter().map(|step| step["aux_loss"].as_f64().unwrap()).collect::<Vec<_>>();
    assert!(balance("one").iter().all(|&balance| balance > 1.0), "{:?}", balance("one"));
    assert_eq!((balance("ranks"), shop.result("ranks")), (balance("one"), shop.result("one")));
}

/// The first rank looks at the data, and all start from what it found there.
#[test]
fn a_start_that_looks_at_the_data_is_that_of_one_process() {
    let shop = Workshop::new();
    let options = ["--init-lora-weights", "eva", "--deterministic-sum", "--max-steps", "4"];
    let Some(ranks) = by(3, &shop.train_by(1, "ranks", &options)) else { return };
    run(shop.train_by(3, "one", &options), 0);
    let (_, err) = run(ranks, 0);
    assert!(err.contains("inputs have settled after"), "{err}");
    assert_eq!(shop.result("ranks"), shop.result("one"));
}

/// Also where the last step of an epoch has batches for some of the ranks only, and with all that a run measures between its steps.
#[test]
fn a_sum_in_order_has_the_bits_of_one_process() {
    let shop = Workshop::new();
    let data = std::fs::read_to_string(shop.path("train.jsonl")).unwrap();
    let first: Vec<&str> = data.lines().take(18).collect();
    std::fs::write(shop.path("train.jsonl"), first.join("\n")).unwrap();
    let looks = ["--eval-data", "held-out.jsonl", "--eval-steps", "2", "--check-data", "questions.jsonl", "--check-steps", "3"];
    // 9 batches an epoch: 4, 4, and 1 that leaves three of four ranks without.
    let options = [&["--deterministic-sum", "--no-packing", "--max-steps", "5"], &looks[..]].concat();
    let Some(four) = by(4, &shop.train_by(1, "four", &options)) else { return };
    run(shop.train_by(4, "one", &options), 0);
    run(four, 0);
    let tokens = tokens(&shop, "one");
    assert!(3 * tokens[2] < tokens[0], "the third step is to be short: {tokens:?}");
    assert_eq!(shop.result("four"), shop.result("one"));
    // Two batches a rank.
    run(by(2, &shop.train_by(2, "two", &options)).unwrap(), 0);
    assert_eq!(shop.result("two"), shop.result("one"));
    // The fast sum of a short step: who has no batch adds nothing.
    let fast: Vec<&str> = options[1..].to_vec();
    run(by(4, &shop.train_by(1, "fast", &fast)).unwrap(), 0);
    for (fast, one) in numbers(&shop, "fast").iter().zip(numbers(&shop, "one")) {
        assert!((fast[0] - one[0]).abs() <= 1e-6 * one[0] && (fast[1] - one[1]).abs() <= 1e-6 * one[1], "{fast:?} {one:?}");
    }
}

#[test]
fn a_run_goes_on_with_any_number_of_ranks_and_the_same_data() {
    let shop = Workshop::new();
    let options = |steps: &'static str, more: &[&'static str]| {
        [&["--lr-schedule", "constant", "--deterministic-sum", "--save-steps", "2", "--max-steps", steps], more].concat()
    };
    let Some(two) = by(2, &shop.train_by(1, "out", &options("3", &[]))) else { return };
    run(two, 0);
    let (_, err) = run(shop.train_by(1, "out", &options("6", &["--resume"])), 0);
    assert!(err.contains("2 batches, as the run began with 2 ranks") && err.contains("going on after step 3"), "{err}");
    // One of three is without a batch in every step.
    let (_, err) = run(by(3, &shop.train_by(1, "out", &options("10", &["--resume"]))).unwrap(), 0);
    assert!(err.contains("going on after step 6") && err.contains("0 or 1 a rank"), "{err}");
    run(shop.train_by(2, "whole", &options("10", &[])), 0);
    assert_eq!(shop.result("out"), shop.result("whole"));
}

fn start(mut command: Command) -> Child {
    signals::listen_to_signals(&mut command);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn wait_for_lines(shop: &Workshop, out: &str, lines: usize) {
    wait_until("steps of the ranks", || shop.metrics_lines(out) >= lines);
}

/// The processes that `parent` has started, in the order of their numbers, which is that of the ranks.
fn children(parent: u32) -> Vec<i32> {
    let mut all: Vec<i32> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            // After the name, which may hold spaces: the state, and then the parent.
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(parent.to_string().as_str())
        })
        .collect();
    all.sort_unstable();
    all
}

#[test]
#[cfg(target_os = "linux")]
fn whichever_rank_is_killed_the_run_goes_on_from_a_good_checkpoint() {
    let shop = Workshop::new();
    let options = |steps: &str| {
        ["--lr-schedule", "constant", "--deterministic-sum", "--save-steps", "2", "--resume", "--max-steps", steps]
            .map(str::to_string)
            .to_vec()
    };
    let train = |out: &str, batches: usize, steps: &str| {
        let options = options(steps);
        shop.train_by(batches, out, &options.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut last = 0;
    for victim in 0..3 {
        let Some(command) = by(3, &train("out", 1, "100000")) else { return };
        let child = start(command);
        wait_for_lines(&shop, "out", last + 5);
        let ranks = children(child.id());
        assert_eq!(ranks.len(), 3, "mpirun has started the ranks itself");
        // SAFETY: a call with two numbers.
        assert_eq!(unsafe { libc::kill(ranks[victim], libc::SIGKILL) }, 0);
        let (code, err) = ended(child);
        assert!(code != Some(0) && err.contains(&format!("rank {victim} ")) && err.contains("Killed"), "{code:?}: {err}");
        // `mpirun` does not wait for those that it ends, and rank 0 holds the folder until it is gone.
        wait_until("no rank that goes on without the others", || {
            ranks.iter().all(|rank| !Path::new(&format!("/proc/{rank}")).exists())
        });
        let (_, state) = latest(&shop.path("out")).unwrap().expect("a good checkpoint");
        assert!(state.step as usize > last, "rank {victim}: nothing was saved");
        last = state.step as usize;
    }
    let steps = (last + 3).to_string();
    run(by(3, &train("out", 1, &steps)).unwrap(), 0);
    run(train("whole", 3, &steps), 0);
    assert_eq!(shop.result("out"), shop.result("whole"));
}

/// As a batch system asks before it kills; `mpirun` hands this signal to all ranks.
#[test]
fn asked_to_stop_all_ranks_stop_after_the_same_step() {
    let shop = Workshop::new();
    let options =
        |steps: &'static str| ["--lr-schedule", "constant", "--deterministic-sum", "--save-steps", "1000", "--max-steps", steps];
    let Some(command) = by(2, &shop.train_by(1, "out", &options("100000"))) else { return };
    let child = start(command);
    wait_for_lines(&shop, "out", 3);
    // SAFETY: a call with two numbers.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGUSR1) }, 0);
    let (code, err) = ended(child);
    assert!(
        code == Some(1) && err.matches("everything is saved in").count() == 1 && err.contains("mpirun -n 2"),
        "{code:?}: {err}"
    );
    let (_, state) = latest(&shop.path("out")).unwrap().expect("a checkpoint is there");
    assert_eq!(shop.metrics("out").len() as u64, state.step);
    let steps: &'static str = Box::leak((state.step + 2).to_string().into_boxed_str());
    let resumed: Vec<&str> = options(steps).into_iter().chain(["--resume"]).collect();
    run(by(2, &shop.train_by(1, "out", &resumed)).unwrap(), 0);
    run(shop.train_by(2, "whole", &options(steps)), 0);
    assert_eq!(shop.result("out"), shop.result("whole"));
}

/// The messages of graftling in what a failed run of ranks says.
fn messages(command: Command, code: i32) -> Vec<String> {
    let (_, err) = run(command, code);
    assert!(!err.contains("interrupted"), "{err}");
    err.lines().filter(|line| line.contains("error: ")).map(str::to_string).collect()
}

#[test]
fn one_message_tells_which_rank_failed_and_of_what() {
    let shop = Workshop::new();
    // All ranks meet the same: bad input, and numbers that are not finite.
    let Some(missing) = by(3, &shop.command(&["train", "--model", "model", "--data", "none.jsonl", "--out", "out"])) else {
        return;
    };
    let one = |all: Vec<String>, start: &str, part: &str| {
        assert!(all.len() == 1 && all[0].starts_with(start) && all[0].contains(part), "{all:#?}");
    };
    one(messages(missing, 2), "error: rank 0 of 3 on ", "none.jsonl: cannot be read");
    let wild =
        ["train", "--model", "model", "--data", "train.jsonl", "--out", "out", "--learning-rate", "1e30", "--max-grad-norm", "0"];
    one(messages(by(2, &shop.command(&wild)).unwrap(), 1), "error: rank 0 of 2 on ", "step 2: the loss is");
    // One rank's own.
    let train = |more: &[&str]| shop.train_by(1, "other", &[&["--max-steps", "4"], more].concat());
    if std::env::var_os("GRAFTLING_TEST_DEVICE").is_none() {
        let absent = by(2, &train(&["--device", "0,no such GPU"])).unwrap();
        one(messages(absent, 2), "error: rank 1 of 2 on ", "no adapter fits `no such GPU`");
    }
    let (first, second) = (train(&[]), train(&["--seed", "5"]));
    let mut two = mpirun();
    two.args(["-n", "1"]).arg(first.get_program()).args(first.get_args()).arg(":");
    two.args(["-n", "1"]).arg(second.get_program()).args(second.get_args()).current_dir(first.get_current_dir().unwrap());
    one(messages(two, 2), "error: rank 1 of 2 on ", "seed is 5 here and 0 on rank 0");
    assert!(!Path::new(&shop.path("other/metrics.jsonl")).exists(), "nothing was begun");
}

/// Started by itself, a graftling that has MPI is as one that has not; and without MPI, ranks are told what they lack.
#[test]
fn a_process_alone_touches_no_mpi() {
    let shop = Workshop::new();
    let (_, err) = run(shop.train_by(1, "out", &["--max-steps", "2"]), 0);
    assert!(!err.contains("rank 0"), "{err}");
    if !cfg!(feature = "mpi") {
        let mut command = shop.train_by(1, "other", &["--max-steps", "2"]);
        command.env("OMPI_COMM_WORLD_SIZE", "2");
        let (_, err) = run(command, 0);
        assert!(err.contains("one of 2 ranks") && err.contains("--features mpi"), "{err}");
    }
}

#[test]
fn sums_are_measured_between_the_ranks_that_there_are() {
    let shop = Workshop::new();
    let command = shop.command(&["bench", "--sum", "--quick", "--json"]);
    let Some(ranks) = by(2, &command) else { return };
    let report: serde_json::Value = serde_json::from_str(&run(ranks, 0).0).unwrap();
    assert_eq!(report["ranks"], 2);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 1);
    // r (in + out) a linear layer: 16 (2048 * 2 + 2048 * 2 + 2 (2048 + 512) + 3 (2048 + 8192)) * 16 layers.
    assert_eq!(rows[0]["parameters"], 11_272_192);
    for row in rows {
        let bytes = row["bytes"].as_f64().unwrap();
        assert!(row["sum_seconds"].as_f64().unwrap() > 0.0 && row["in_order_seconds"].as_f64().unwrap() > 0.0, "{row}");
        // Half of the numbers to the other rank and half of the sums back, at 125 million bytes a second.
        assert!((row["on_paper_seconds"][0][1].as_f64().unwrap() - bytes / 125e6).abs() < 1e-9, "{row}");
    }
}
