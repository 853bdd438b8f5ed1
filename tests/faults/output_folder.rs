//! What the user has in the output folder stays: it is not deleted, truncated, replaced or written to through a link, unless
//! `--overwrite` says so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::runs::{Workshop, fixture, run};

const STEPS: [&str; 4] = ["--max-steps", "4", "--save-steps", "2"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    STEPS.into_iter().chain(more.iter().copied()).collect()
}

/// Everything below a folder: files with their bytes, links with their targets. The lock file is graftling's.
fn everything(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().strip_prefix(folder).unwrap().display().to_string();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            }
            let content = match (kind.is_file(), kind.is_symlink()) {
                (true, _) => fs::read(entry.path()).unwrap(),
                (_, true) => fs::read_link(entry.path()).unwrap().display().to_string().into_bytes(),
                _ => Vec::new(),
            };
            all.insert(name, content);
        }
    }
    all.remove(".graftling.lock");
    all
}

/// A new run into `out` is refused with these words, with `--resume` too where `resumed` says so, and nothing in it changes.
fn refused(shop: &Workshop, resumed: bool, words: &[&str]) {
    let before = everything(&shop.path("out"));
    let more: &[&[&str]] = if resumed { &[&[], &["--resume"]] } else { &[&[]] };
    for more in more {
        let (_, err) = run(shop.train("out", &with(more)), 2);
        for word in words {
            assert!(err.contains(word), "{word} is not in: {err}");
        }
        assert_eq!(everything(&shop.path("out")), before, "{more:?}");
    }
}

/// A folder as Hugging Face's Trainer leaves it.
fn of_trainer(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    for name in ["optimizer.pt", "trainer_state.json", "adapter_model.safetensors", "rng_state.pth"] {
        fs::write(folder.join(name), name).unwrap();
    }
}

#[test]
fn checkpoints_of_other_programs_are_neither_deleted_nor_replaced() {
    let shop = Workshop::new();
    for step in [1, 2, 500] {
        of_trainer(&shop.path(&format!("out/checkpoint-{step}")));
    }
    refused(&shop, false, &["checkpoint-500, not made by graftling", "--overwrite"]);
    // Also where the run would only replace one of them.
    let (_, err) = run(shop.train("out", &with(&["--overwrite"])), 2);
    assert!(err.contains("checkpoint-2, not made by graftling") && !err.contains("checkpoint-500"), "{err}");
    for step in [1, 2] {
        fs::rename(shop.path(&format!("out/checkpoint-{step}")), shop.path(&format!("moved-{step}"))).unwrap();
    }
    // A higher number does not count as one of the run's own, however few are kept.
    let foreign = everything(&shop.path("out/checkpoint-500"));
    run(shop.train("out", &with(&["--overwrite", "--save-total-limit", "1"])), 0);
    assert_eq!(everything(&shop.path("out/checkpoint-500")), foreign);
    assert!(shop.path("out/checkpoint-4/state.json").is_file(), "{:?}", shop.names("out"));
    // Put there while the run stands still.
    of_trainer(&shop.path("out/checkpoint-6"));
    let longer = ["--max-steps", "6", "--lr-schedule", "constant", "--resume"];
    let before = everything(&shop.path("out"));
    run(shop.train("out", &longer), 2);
    assert_eq!(everything(&shop.path("out")), before);
}

#[test]
fn only_what_is_provably_a_checkpoint_of_the_run_goes_when_there_are_too_many() {
    let shop = Workshop::new();
    let options = |steps: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        let all = ["--lr-schedule", "constant", "--save-steps", "1", "--max-steps", steps];
        all.into_iter().chain(more.iter().copied()).collect()
    };
    run(shop.train("out", &options("4", &["--save-total-limit", "9"])), 0);
    // A note beside it, another adapter in it, read-only, a link to a folder elsewhere.
    fs::write(shop.path("out/checkpoint-1/note.txt"), "the best one").unwrap();
    fs::write(shop.path("out/checkpoint-2/adapter_model.safetensors"), "mine").unwrap();
    fs::rename(shop.path("out/checkpoint-3"), shop.path("elsewhere")).unwrap();
    symlink(shop.path("elsewhere"), shop.path("out/checkpoint-3")).unwrap();
    let kept = ["checkpoint-1", "checkpoint-2", "checkpoint-3"];
    let before = kept.map(|name| everything(&shop.path(&format!("out/{name}/."))));
    run(shop.train("out", &options("7", &["--save-total-limit", "1", "--resume"])), 0);
    assert_eq!(kept.map(|name| everything(&shop.path(&format!("out/{name}/.")))), before);
    let names = shop.names("out");
    assert!(names.contains(&"checkpoint-7".to_string()), "{names:?}");
    assert!(!["checkpoint-4", "checkpoint-5", "checkpoint-6"].iter().any(|old| names.contains(&old.to_string())), "{names:?}");
    fs::create_dir(shop.path("out/checkpoint-8")).unwrap();
    // An empty folder of the name is put aside.
    run(shop.train("out", &options("8", &["--save-total-limit", "1", "--resume"])), 0);
    assert!(shop.path("out/damaged-checkpoint-8").is_dir() && shop.path("out/checkpoint-8/state.json").is_file());
}

#[test]
fn an_adapter_that_is_there_is_replaced_only_when_told() {
    let shop = Workshop::new();
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    fs::create_dir(shop.path("out")).unwrap();
    for name in files {
        fs::copy(fixture().join("adapter").join(name), shop.path("out").join(name)).unwrap();
    }
    // Somebody's adapter, also as the start of the run itself.
    refused(&shop, true, &["adapter_", "--overwrite"]);
    let from_itself = |more: &[&str]| {
        shop.command(
            &[&["train", "--model", "model", "--data", "train.jsonl", "--out", "out", "--init-adapter", "out"], &STEPS[..], more]
                .concat(),
        )
    };
    let before = everything(&shop.path("out"));
    run(from_itself(&[]), 2);
    assert_eq!(everything(&shop.path("out")), before);
    run(from_itself(&["--overwrite"]), 0);
    assert_ne!(everything(&shop.path("out"))[files[1]], before[files[1]]);

    // A finished run; and one whose adapter its owner has since replaced.
    refused(&shop, false, &["holds a run already", "--resume", "--overwrite"]);
    run(shop.train("other", &STEPS), 0);
    fs::copy(fixture().join("adapter").join(files[1]), shop.path("other").join(files[1])).unwrap();
    let before = everything(&shop.path("other"));
    let (_, err) = run(shop.train("other", &with(&["--resume"])), 2);
    assert!(err.contains("other/adapter_model.safetensors") && err.contains("--overwrite"), "{err}");
    assert_eq!(everything(&shop.path("other")), before);
    run(shop.train("other", &with(&["--resume", "--overwrite"])), 0);
}

#[test]
fn overwriting_begins_anew_and_loses_neither_the_old_checkpoints_before_there_are_new_ones_nor_the_metrics() {
    let shop = Workshop::new();
    run(shop.train("out", &STEPS), 0);
    let old = everything(&shop.path("out"));
    run(shop.train("whole", &with(&["--seed", "5"])), 0);
    // Stopped by a learning rate that ends it before its first checkpoint.
    let fails = ["--max-steps", "40", "--save-steps", "40", "--overwrite", "--max-grad-norm", "0", "--learning-rate", "1e36"];
    let mut command = shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--out", "out"]);
    command.args(fails);
    run(command, 1);
    for name in ["checkpoint-4/optimizer.safetensors", "metrics.jsonl"] {
        let kept = if name == "metrics.jsonl" { "metrics.jsonl.1".to_string() } else { format!("replaced-{name}") };
        assert_eq!(everything(&shop.path("out"))[&kept], old[name]);
    }
    assert_eq!(everything(&shop.path("out"))["adapter_model.safetensors"], old["adapter_model.safetensors"]);
    run(shop.train("out", &with(&["--overwrite", "--seed", "5"])), 0);
    assert_eq!(shop.result("out"), shop.result("whole"));
    let names = shop.names("out");
    assert!(!names.iter().any(|name| name.starts_with("replaced-")), "superfluous now: {names:?}");
    assert_eq!(everything(&shop.path("out"))["metrics.jsonl.1"], old["metrics.jsonl"]);
}

/// At every name that a run writes to: a link to a file of the user, to nothing and to a folder, a folder, a pipe.
#[test]
fn links_and_pipes_are_neither_followed_nor_waited_for() {
    let shop = Workshop::new();
    let user = shop.path("user");
    fs::create_dir(&user).unwrap();
    fs::write(user.join("file"), "the user's").unwrap();
    let mine = everything(&user);
    let (file, nothing) = (user.join("file"), user.join("nothing"));
    let names =
        [".graftling.lock", "metrics.jsonl", "loss.svg", "adapter_model.safetensors", "adapter_config.json", "checkpoint-2"];
    let put = |path: &Path, what: usize| match what {
        0 => symlink(&file, path).unwrap(),
        1 => symlink(&nothing, path).unwrap(),
        2 => symlink(&user, path).unwrap(),
        3 => fs::create_dir(path).unwrap(),
        _ => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
    };
    for what in 0..5 {
        for name in names {
            let out = format!("{what}-{name}");
            fs::create_dir(shop.path(&out)).unwrap();
            put(&shop.path(&out).join(name), what);
            run(shop.train(&out, &STEPS), 2);
        }
    }
    // Put there after a run, which then goes on.
    let longer = ["--max-steps", "6", "--save-steps", "2", "--lr-schedule", "constant"];
    run(shop.train("done", &["--max-steps", "4", "--save-steps", "2", "--lr-schedule", "constant"]), 0);
    for what in [0, 2, 4] {
        for name in names {
            let out = format!("resumed-{what}-{name}");
            assert!(Command::new("cp").args(["-r", "done", &out]).current_dir(shop.path("")).status().unwrap().success());
            let path = shop.path(&out).join(name);
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            put(&path, what);
            // A picture is not worth a run, and an older checkpoint is not needed.
            let code = if ["loss.svg", "checkpoint-2"].contains(&name) { 0 } else { 2 };
            run(shop.train(&out, &[&longer[..], &["--resume"]].concat()), code);
            assert!(!fs::symlink_metadata(&path).unwrap().is_file(), "{out}");
        }
    }
    assert_eq!(everything(&user), mine);
    // A link to a folder is a place as any other.
    fs::create_dir(shop.path("disk")).unwrap();
    symlink(shop.path("disk"), shop.path("linked")).unwrap();
    run(shop.train("linked", &STEPS), 0);
    assert!(shop.path("disk/adapter_model.safetensors").is_file());
}

#[test]
fn a_picture_a_config_or_metrics_of_someone_else_are_refused_and_the_models_folder_is_no_place() {
    let shop = Workshop::new();
    fs::create_dir(shop.path("out")).unwrap();
    for name in ["loss.svg", "metrics.jsonl", "config.json", "adapter_model.bin"] {
        fs::write(shop.path("out").join(name), "the user's").unwrap();
        refused(&shop, false, &[name, "another --out"]);
        fs::remove_file(shop.path("out").join(name)).unwrap();
    }
    let before = everything(&shop.path("model"));
    for more in [&[][..], &["--overwrite"], &["--resume"]] {
        run(shop.train("./model/.", &with(more)), 2);
        assert_eq!(everything(&shop.path("model")), before);
        assert!(!shop.path("model/.graftling.lock").exists());
    }
    // What does not concern the run is no obstacle.
    fs::write(shop.path("out/notes.txt"), "the user's").unwrap();
    fs::write(shop.path("out/.graftling-tmp-notes"), "the user's").unwrap();
    run(shop.train("out", &STEPS), 0);
    assert_eq!(fs::read_to_string(shop.path("out/.graftling-tmp-notes")).unwrap(), "the user's");
    assert_eq!(fs::read_to_string(shop.path("out/notes.txt")).unwrap(), "the user's");
    // A picture that was drawn over is left alone.
    fs::write(shop.path("out/loss.svg"), "drawn over").unwrap();
    let (_, err) = run(shop.train("out", &with(&["--resume"])), 0);
    assert!(err.contains("loss.svg is not of this run"), "{err}");
    assert_eq!(fs::read_to_string(shop.path("out/loss.svg")).unwrap(), "drawn over");
}
