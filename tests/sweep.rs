//! Sweeps from the outside: the real program on a tiny model.

mod runs;

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};

use runs::{Workshop, program, run, wait_until};
use serde_json::Value;

/// Two placements of one budget, two seeds, and everything that a checkpoint could forget in use.
const SWEEP: &str = "seeds = [1, 2]\nbudget = 1500\ncheck_data = [\"held-out.jsonl\", \"questions.jsonl\"]\nmax_new_tokens = 5\ngeneral_data = \"general.jsonl\"\n\
    [base]\nmodel = \"model\"\ndata = \"train.jsonl\"\nlora_dropout = 0.1\nmax_length = 32\nbatch_size = 2\n\
    gradient_accumulation_steps = 2\nlearning_rate = 5e-3\nmax_steps = 6\nsave_steps = 1\nno_autotune = true\n\
    [axes]\ntarget_modules = [\"q_proj\", \"mlp\"]\n";

fn shop(sweep: &str) -> Workshop {
    let shop = Workshop::new();
    std::fs::write(shop.path("sweep.toml"), with_device(sweep)).unwrap();
    std::fs::copy(shop.path("train.jsonl"), shop.path("general.jsonl")).unwrap();
    shop
}

/// The tests may be asked to run on a certain device; a sweep names it in its file.
fn with_device(sweep: &str) -> String {
    match std::env::var("GRAFTLING_TEST_DEVICE") {
        Ok(device) => sweep.replacen("[base]\n", &format!("[base]\ndevice = {device:?}\n"), 1),
        Err(_) => sweep.to_string(),
    }
}

fn sweep(shop: &Workshop, arguments: &[&str]) -> Command {
    let mut command = program();
    command.current_dir(shop.path("")).arg("sweep").args(arguments);
    command
}

fn results(shop: &Workshop, out: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(shop.path(out).join("results.json")).unwrap()).unwrap()
}

/// `results.json` without what a clock or chance says.
fn timeless(mut results: Value) -> Value {
    for arm in results["arms"].as_array_mut().unwrap() {
        let planned = number(&arm["plan"]["planned_bytes"]);
        let strip = |of: &mut Value| {
            let of = of.as_object_mut().unwrap();
            of.remove("seconds_a_step");
            of.remove("peak_bytes")
        };
        strip(&mut arm["figures"]);
        for run in arm["runs"].as_array_mut().unwrap() {
            // Small buffers that are written through live for a moment longer: how many there are when a step's numbers arrive is chance.
            let peak = number(&strip(run).unwrap());
            assert!((0.99..1.2).contains(&(peak / planned)), "{peak} bytes were planned as {planned}");
        }
    }
    results
}

/// The bytes of every run's adapter.
fn adapters(shop: &Workshop, out: &str) -> BTreeMap<String, Vec<u8>> {
    let runs =
        ["q_proj", "mlp"].iter().flat_map(|arm| [1, 2].map(|seed| format!("arms/{arm}/seed-{seed}/adapter_model.safetensors")));
    runs.map(|path| (path.clone(), std::fs::read(shop.path(out).join(&path)).unwrap())).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Steps of all runs so far.
fn steps(shop: &Workshop, out: &str) -> usize {
    let arms = shop.names(&format!("{out}/arms"));
    let runs = arms
        .iter()
        .flat_map(|arm| shop.names(&format!("{out}/arms/{arm}")).into_iter().map(move |seed| format!("{out}/arms/{arm}/{seed}")));
    runs.map(|run| shop.metrics_lines(&run)).sum()
}

/// Starts the sweep and kills it once it has done `more` steps more; false if it ended before.
fn killed(shop: &Workshop, out: &str, more: usize) -> bool {
    let before = steps(shop, out);
    let mut child: Child =
        sweep(shop, &["--config", "sweep.toml", "--out", out]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut has_ended = false;
    wait_until("steps of the sweep", || {
        has_ended = child.try_wait().unwrap().is_some();
        has_ended || steps(shop, out) >= before + more
    });
    child.kill().unwrap();
    child.wait().unwrap();
    !has_ended
}

/// The whole of it: the budget's ranks, results, table, pictures; and killed three times it ends with the same bits.
#[test]
fn a_sweep_killed_three_times_ends_as_one_that_was_not() {
    let shop = shop(SWEEP);
    let (out, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "whole"]), 0);
    assert!(err.contains("run 1 of 4: q_proj, seed 1") && err.contains("run 4 of 4: mlp, seed 2"), "{err}");
    assert!(out.contains("best by check share: "), "{out}");
    assert!(out.contains("check always") && out.contains("check at-times") && !out.contains("check regex"), "{out}");
    assert_eq!(std::fs::read_to_string(shop.path("whole/results.txt")).unwrap(), out);
    for picture in ["score-parameters.svg", "forgetting.svg"] {
        let svg = std::fs::read_to_string(shop.path("whole").join(picture)).unwrap();
        assert!(svg.contains(">q_proj<") && svg.contains(">mlp<") && !svg.contains("NaN"), "{svg}");
    }
    let whole = results(&shop, "whole");
    // q_proj of 3 layers is [32, 32]: 192 numbers a rank. The three matrices of an MLP have more.
    let of = |arm: usize, key: &str| whole["arms"][arm]["plan"][key].as_u64().unwrap();
    assert_eq!((of(0, "rank"), of(0, "parameters"), of(0, "steps")), (7, 7 * 192, 6));
    assert!(
        of(1, "rank") >= 1 && of(1, "parameters") <= 1500 && of(1, "parameters") > 1500 - of(1, "parameters") / of(1, "rank")
    );
    let figures = &whole["arms"][0]["figures"];
    assert_eq!(figures["check_loss"]["seeds"], 2);
    assert!(number(&figures["check_loss"]["spread"]) > 0.0, "seeds differ");
    assert_eq!((number(&figures["check_group.always"]["mean"]), number(&figures["check_group.never"]["mean"])), (1.0, 0.0));
    // Three questions of each group; those of two groups have the same kind of check.
    let times = number(&figures["check_group.at-times"]["mean"]);
    assert!((number(&figures["check_share"]["mean"]) - (1.0 + times) / 3.0).abs() < 1e-9);
    assert!((number(&figures["check_share.regex"]["mean"]) - (1.0 + times) / 2.0).abs() < 1e-9);
    let before = whole["before"].as_object().unwrap().values().next().unwrap();
    let general: Vec<f64> =
        (whole["arms"][0]["runs"].as_array().unwrap().iter()).map(|run| number(&run["measures"]["general"]["loss"])).collect();
    let forgetting = (general[0] + general[1]) / 2.0 - number(&before["general"]["loss"]);
    assert!((number(&figures["forgetting"]["mean"]) - forgetting).abs() < 1e-9);
    assert!(number(&figures["check_loss"]["mean"]) < number(&before["check"]["loss"]), "nothing was learned");

    for more in [3, 5, 4] {
        assert!(killed(&shop, "killed", more), "it ended before it was killed");
    }
    let (_, err) = run(sweep(&shop, &["--out", "killed"]), 0);
    assert!(!err.contains("run 1 of 4"), "some run was finished before: {err}");
    assert_eq!(timeless(results(&shop, "killed")), timeless(whole));
    assert_eq!(adapters(&shop, "killed"), adapters(&shop, "whole"));

    // Nothing is left to do, and nothing is done.
    let (again, err) = run(sweep(&shop, &["--out", "killed"]), 0);
    assert!(!err.contains("run 1 of"), "{err}");
    assert_eq!(again, run(sweep(&shop, &["--out", "killed", "--report"]), 0).0);
}

/// One arm at a time, each in a process of its own, as a scheduler does it.
#[test]
fn arms_in_processes_of_their_own_end_as_the_whole_sweep() {
    let shop = shop(&SWEEP.replace("max_steps = 6", "max_steps = 2"));
    let (listed, _) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "apart", "--dry-run"]), 0);
    assert!(listed.contains("1 q_proj") && listed.contains("2 arms, 2 seeds: 4 runs"), "{listed}");
    assert!(!shop.path("apart").exists(), "a dry run writes nothing");
    let mut children: Vec<Child> = ["1", "mlp"]
        .map(|arm| {
            sweep(&shop, &["--config", "sweep.toml", "--out", "apart", "--arm", arm]).stdout(Stdio::null()).spawn().unwrap()
        })
        .into();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    run(sweep(&shop, &["--config", "sweep.toml", "--out", "whole"]), 0);
    assert_eq!(timeless(results(&shop, "apart")), timeless(results(&shop, "whole")));
    assert_eq!(adapters(&shop, "apart"), adapters(&shop, "whole"));
    assert_eq!(results(&shop, "apart")["complete"], true);
    let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "whole", "--arm", "3"]), 2);
    assert!(err.contains("there are: 1 q_proj, 2 mlp"), "{err}");
}

#[test]
fn a_changed_sweep_is_told_and_a_changed_run_is_refused() {
    let short = SWEEP.replace("max_steps = 6", "max_steps = 1").replace("seeds = [1, 2]", "seeds = [1]");
    let shop = shop(&short);
    run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 0);
    // Another arm: the others stay as they are.
    std::fs::write(shop.path("sweep.toml"), with_device(&short.replace("\"mlp\"]", "\"mlp\", \"v_proj\"]"))).unwrap();
    let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 0);
    assert!(err.contains("new arms: v_proj; arms that are gone: none") && err.contains("run 1 of 1: v_proj"), "{err}");
    // Another rate under the same names.
    std::fs::write(shop.path("sweep.toml"), with_device(&short.replace("5e-3", "4e-3"))).unwrap();
    let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 2);
    assert!(err.contains("seed-1: this run is finished and was another: learning_rate was 0.005 and is 0.004"), "{err}");
    // Other check data.
    std::fs::write(shop.path("sweep.toml"), with_device(&short)).unwrap();
    std::fs::copy(shop.path("train.jsonl"), shop.path("held-out.jsonl")).unwrap();
    let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 2);
    assert!(err.contains("check_data (content) was"), "{err}");
    // The same questions, of which other answers are expected.
    let shop = self::shop(&short);
    run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 0);
    let questions = std::fs::read_to_string(shop.path("questions.jsonl")).unwrap();
    std::fs::write(shop.path("questions.jsonl"), questions.replacen("w2", "w3", 1)).unwrap();
    let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 2);
    assert!(err.contains("check_data (content) was"), "{err}");
}

/// Methods as arms: a budget sets the rank of one and the widths of the others.
#[test]
fn methods_are_compared_at_one_budget() {
    let (head, _) = SWEEP.split_once("[axes]").unwrap();
    let arms: String = ["lora", "houlsby", "pfeiffer", "parallel"]
        .map(|method| format!("[[arm]]\nname = \"{method}\"\nadapter_method = \"{method}\"\n"))
        .concat();
    let file = head
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("lora_dropout = 0.1\n", "")
        .replace("budget = 1500", "budget = 2500");
    let shop = shop(&(file + &arms));
    run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 0);
    let results = results(&shop, "out");
    // On three layers of 32 features: (2 x 32 + 1) for each unit of width and 32 besides, twice a layer or once. A unit of rank has 1,536.
    let plan = |arm: usize| [&results["arms"][arm]["plan"]["rank"], &results["arms"][arm]["plan"]["parameters"]].map(number);
    let expected = |width: f64, places: f64| [width, places * (65.0 * width + 32.0)];
    assert_eq!([0, 1, 2, 3].map(plan), [[1.0, 1536.0], expected(5.0, 6.0), expected(12.0, 3.0), expected(12.0, 3.0)]);
    for arm in ["houlsby", "pfeiffer", "parallel"] {
        assert!(shop.path(&format!("out/arms/{arm}/seed-1/adapter.safetensors")).exists(), "{arm}");
    }
}

/// An adapter that is trained further brings its rotation: arms with it have another model than arms without, and remember it.
#[test]
fn arms_that_start_from_an_adapter_have_its_model() {
    let (head, _) = SWEEP.split_once("[axes]").unwrap();
    let head = head.replace("seeds = [1, 2]", "seeds = [1]").replace("budget = 1500\n", "");
    let head = head.replace("max_steps = 6", "max_steps = 1");
    let shop = shop(&(head + "[[arm]]\nname = \"fresh\"\nlora_r = 4\n[[arm]]\nname = \"further\"\ninit_adapter = \"start\"\n"));
    run(shop.train("start", &["--max-steps", "1", "--rope-scaling", "linear:2"]), 0);
    run(sweep(&shop, &["--config", "sweep.toml", "--out", "out"]), 0);
    let results = results(&shop, "out");
    let before: Vec<&Value> = results["before"].as_object().unwrap().values().map(|of| &of["general"]["loss"]).collect();
    assert!(before.len() == 2 && before[0] != before[1], "another rotation is another model: {before:?}");
    let remembered = |arm: &str| std::fs::read_to_string(shop.path(&format!("out/arms/{arm}/seed-1/rope_scaling.json"))).ok();
    assert_eq!(remembered("fresh"), None);
    assert!(remembered("further").is_some_and(|text| text.contains("linear:2")));
}

/// A rate at which nothing can be learned is a result too; a placement that the budget has no room for is named.
#[test]
fn arms_that_diverge_or_cannot_be_do_not_stop_the_others() {
    let wild = SWEEP
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("budget = 1500", "budget = 400")
        .replace("learning_rate = 5e-3\n", "");
    let wild = wild.replace("lora_dropout = 0.1", "lora_dropout = 0.1\nmax_grad_norm = 0\nlr_schedule = \"constant\"");
    let shop = shop(&(wild + "learning_rate = [1e36, 1e-3]\n"));
    let (out, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out", "--json"]), 0);
    let results: Value = serde_json::from_str(&out).unwrap();
    assert!(err.contains("arm `q_proj_lr-1e36`, seed 1, left the numbers"), "{err}");
    assert_eq!(results["arms"][0]["diverged"].to_string(), "[1]");
    assert_eq!((&results["best"]["arm"], &results["arms"].as_array().unwrap().len()), (&Value::from("q_proj_lr-1e-3"), &2));
    let why = results["impossible"]["mlp_lr-1e-3"].as_str().unwrap();
    assert!(why.contains("more than the budget of 400"), "{why}");
}

#[test]
fn the_array_jobs_name_every_arm() {
    let shop = shop(SWEEP);
    for (option, submit, array) in [
        ("--slurm", "sbatch out/sweep.slurm.sh", "#SBATCH --array=1-2"),
        ("--hq", "hq submit out/sweep.hq.sh", "#HQ --array=1-2"),
    ] {
        let (_, err) = run(sweep(&shop, &["--config", "sweep.toml", "--out", "out", option]), 0);
        assert!(err.contains(submit), "{err}");
        let script = std::fs::read_to_string(shop.path(submit.split(' ').next_back().unwrap())).unwrap();
        assert!(script.contains(array) && script.contains("sweep --config "), "{script}");
    }
}
