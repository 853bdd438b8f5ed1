//! The studio's server from the outside: who gets nothing, what is answered, and a run that is watched from its start to its end.

mod client;
#[path = "../runs/mod.rs"]
mod runs;
mod walk;

use client::{Answer, Event, Studio};
use runs::{Workshop, run, wait_until};
use serde_json::{Value, json};

fn studio(shop: &Workshop, more: &[&str]) -> Studio {
    let mut command = shop.command(&["studio", "--no-browser", "--no-autotune"]);
    command.args(more);
    Studio::start(command)
}

fn open(shop: &Workshop) -> Studio {
    studio(shop, &["--model", "model"])
}

#[test]
fn nothing_is_given_without_the_token_or_to_another_place() {
    let shop = Workshop::new();
    let studio = open(&shop);
    let host = ("Host", format!("127.0.0.1:{}", studio.port));
    let cookie = ("Cookie", format!("other=1; graftling-{}={}", studio.port, studio.token));
    let wrong = ("Cookie", format!("graftling-{}={}", studio.port, "0".repeat(32)));
    for path in ["/", "/studio.css", "/api/state", "/api/events", "/nothing", "/?token=0", "/../Cargo.toml"] {
        let ask = |headers: &[(&str, String)]| studio.ask("GET", path, headers, b"").status;
        assert_eq!(ask(std::slice::from_ref(&host)), 401, "{path}");
        assert_eq!(ask(&[host.clone(), wrong.clone()]), 401, "{path}");
        assert_eq!(ask(&[host.clone(), ("Authorization", studio.token.clone())]), 401, "{path}: no bearer");
        for other in ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:80@127.0.0.1"] {
            assert_eq!(ask(&[("Host", other.to_string()), cookie.clone()]), 403, "{path} for {other}");
        }
        for origin in ["http://evil.example", "null", "https://127.0.0.1", &format!("http://127.0.0.1:{}", studio.port + 1)] {
            assert_eq!(ask(&[host.clone(), cookie.clone(), ("Origin", origin.to_string())]), 403, "{path} from {origin}");
        }
    }
    // With the cookie of another place's page, nothing is changed either.
    let body = br#"{"adapter": null}"#;
    let origin = ("Origin", "http://evil.example".to_string());
    assert_eq!(studio.ask("POST", "/api/open", &[host.clone(), cookie.clone(), origin], body).status, 403);

    // The address that was printed gives the cookie, and an address without the token in it.
    let welcome = studio.ask("GET", &format!("/?token={}", studio.token), std::slice::from_ref(&host), b"");
    assert_eq!((welcome.status, welcome.header("location")), (303, Some("/")));
    let given = welcome.header("set-cookie").unwrap();
    assert_eq!(given, format!("graftling-{}={}; HttpOnly; SameSite=Strict; Path=/", studio.port, studio.token));
    for host in [host.clone(), ("Host", format!("localhost:{}", studio.port))] {
        let page = studio.ask("GET", "/", &[host, cookie.clone()], b"");
        assert_eq!(page.status, 200);
        assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self'"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert!(!String::from_utf8_lossy(&page.body).contains(&studio.token));
    }
    for path in ["/nothing", "/api/nothing", "/../Cargo.toml", "/%2e%2e/mod.rs"] {
        assert_eq!(studio.get(path).status, 404, "{path}");
    }
    assert_eq!(studio.post("/api/state", &json!({})).status, 405);
    for path in ["/", "/api/nothing"] {
        assert_eq!(studio.post(path, &json!({})).status, 404, "{path}");
        assert!(!studio.post(path, &json!({})).refusal()[0].is_empty());
    }
    // However something is asked: never an empty answer.
    let others = [
        ("POST", "/api/events"),
        ("PUT", "/api/state"),
        ("DELETE", "/api/plan"),
        ("PATCH", "/studio.css"),
        ("OPTIONS", "/api/x"),
    ];
    for (method, path) in others {
        let answer = studio.ask(method, path, &studio.with_token(), b"{}");
        assert!([404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
        assert!(answer.refusal().iter().all(|part| !part.is_empty()), "{method} {path}");
    }
    assert_eq!(studio.get("/api/run").ok(), Value::Null, "none is shown");
    assert_eq!(studio.get("/api/run?dir=nowhere").status, 404);
}

#[test]
fn state_anatomy_and_tokens_are_of_this_model() {
    let shop = Workshop::new();
    let studio = open(&shop);
    let state = studio.get("/api/state").ok();
    let model = &state["model"];
    assert_eq!((&model["layers"], &model["vocabulary"], &model["format"]), (&json!(3), &json!(96), &json!("F32")));
    assert_eq!((&state["engine"], &state["adapter"], &state["run"]), (&json!("closed"), &Value::Null, &Value::Null));

    let (inspected, _) = run(shop.command(&["inspect", "model", "--json"]), 0);
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(model["parameters"], inspected["parameters"]);
    let anatomy = studio.get("/api/anatomy").ok();
    let modules = anatomy["modules"].as_array().unwrap();
    let sum = |key: &str| modules.iter().map(|module| module[key].as_f64().unwrap()).sum::<f64>();
    assert_eq!(sum("parameters"), model["parameters"].as_f64().unwrap());
    assert_eq!(sum("bytes"), model["bytes"].as_f64().unwrap());
    assert!((sum("share") - 1.0).abs() < 1e-9);
    assert!(modules.iter().any(|module| module["site"] == "layers.2.mlp.down_proj" && module["part"] == "mlp"));
    let formats = anatomy["formats"].as_array().unwrap();
    let error = |name: &str| &formats.iter().find(|format| format["name"] == name).unwrap()["error"];
    assert_eq!(*error("f32"), Value::Null, "that is how they are stored");
    assert!(error("bf16").as_f64().unwrap() < error("q8_0").as_f64().unwrap());
    assert!(error("q8_0").as_f64().unwrap() < error("q4_0").as_f64().unwrap());

    let weight = studio.post("/api/weight", &json!({ "site": "layers.0.self_attn.q_proj", "row": 3, "column": 5 })).ok();
    let value = weight["value"].as_f64().unwrap();
    let exact = weight["formats"].as_array().unwrap().iter().find(|format| format["name"] == "f32").unwrap();
    assert_eq!(exact["value"].as_f64().unwrap(), value);
    let bits: String = (0..3).map(|part| exact["bits"][part].as_str().unwrap()).collect();
    assert_eq!(f32::from_bits(u32::from_str_radix(&bits, 2).unwrap()), value as f32);
    let outside = studio.post("/api/weight", &json!({ "site": "layers.0.self_attn.q_proj", "row": 9999, "column": 5 }));
    assert_eq!((outside.status, outside.refusal()[1].as_str()), (400, "layers.0.self_attn.q_proj"));

    let tokens = studio.post("/api/tokens", &json!({ "text": "w5 w7" })).ok();
    let ids: Vec<&Value> = tokens["tokens"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
    assert_eq!(ids, [5, 7]);
    let record = json!({ "record": { "input_ids": [4, 5, 6, 7], "labels": [-100, -100, 6, 7] }, "max_length": 3 });
    let tokens = studio.post("/api/tokens", &record).ok();
    let learned: Vec<bool> = tokens["tokens"].as_array().unwrap().iter().map(|token| token["supervised"] == true).collect();
    assert_eq!((learned, &tokens["cut"]), (vec![false, false, true, true], &json!(1)));
}

/// What the command line says to standard error, from an answer.
fn as_said(answer: &Answer) -> String {
    let [what, place, propose] = answer.refusal();
    format!("error: {place}: {what}\n  {propose}")
}

#[test]
fn errors_and_plans_are_those_of_the_command_line() {
    let shop = Workshop::new();
    let studio = open(&shop);
    let base = json!({ "model": "model", "data": ["train.jsonl"], "out": "out" });
    let with = |key: &str, value: Value| {
        let mut recipe = base.clone();
        recipe[key] = value;
        recipe
    };
    let cli = |more: &[&str]| {
        let arguments = [&["train", "--model", "model", "--data", "train.jsonl", "--out", "out"], more].concat();
        run(shop.command(&arguments), 2).1
    };
    for (key, value, option) in [
        ("target_modules", json!("q_proj,nope"), ["--target-modules", "q_proj,nope"]),
        ("layers", json!("7-9"), ["--layers", "7-9"]),
        ("lora_r", json!(0), ["--lora-r", "0"]),
        ("memory_budget", json!("10KB"), ["--memory-budget", "10KB"]),
    ] {
        for path in ["/api/plan", "/api/train/check"] {
            let answer = studio.post(path, &with(key, value.clone()));
            assert_eq!(answer.status, 400, "{path} {key}");
            assert_eq!(cli(&option).trim_end(), as_said(&answer), "{path} {key}");
        }
    }
    let unknown = studio.post("/api/train", &with("lora_rr", json!(3)));
    assert!(unknown.refusal()[2].contains("did you mean `lora_r`?"), "{:?}", unknown.refusal());
    let missing = studio.post("/api/train", &json!({ "model": "model", "out": "out" }));
    assert_eq!((missing.status, missing.refusal()[1].as_str()), (400, "--data"));
    assert!(shop.names("out").is_empty(), "what is refused leaves nothing");
    let no_json = studio.ask("POST", "/api/plan", &studio.with_token(), b"{");
    assert_eq!((no_json.status, no_json.refusal()[1].as_str()), (400, "request"));

    let recipe = with("lora_r", json!(4));
    let (plan, check) = (studio.post("/api/plan", &recipe).ok(), studio.post("/api/train/check", &recipe).ok());
    assert_eq!(plan["trainable"], check["parameters"]);
    let sum_of = |memory: &Value| memory.as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum::<u64>();
    assert_eq!(plan["memory"]["total"].as_u64().unwrap(), sum_of(&check["memory"]));
    assert_eq!(plan["command"], "graftling train --model model --data train.jsonl --out out --lora-r 4");
    let (dry, _) = run(shop.command(&["train", "--model", "model", "--data", "train.jsonl", "--dry-run", "--lora-r", "4"]), 0);
    assert!(dry.contains(check["summary"].as_str().unwrap().trim()), "{dry}\n{check}");
    assert_eq!(plan["step_seconds"], Value::Null, "nobody has timed this device");
    let advised = plan["reasons"].as_array().unwrap();
    assert!(advised.iter().any(|reason| reason["choice"] == "lora_r" && reason["evidence"].as_str().unwrap().len() > 10));

    // A record longer than the model's context is whole with another rotation: a given one, or that of the adapter to begin with.
    shop.write_records("long.jsonl", &[json!({ "input_ids": (0..300).map(|at| 3 + at % 90).collect::<Vec<_>>() })]);
    run(shop.train("start", &["--max-steps", "1", "--rope-scaling", "linear:2"]), 0);
    let of_run = |more: &[(&str, &str)]| {
        let mut recipe = json!({ "model": "model", "data": ["long.jsonl"], "out": "out" });
        let mut arguments: Vec<String> =
            ["train", "--model", "model", "--data", "long.jsonl", "--dry-run"].map(str::to_owned).into();
        for (key, value) in more {
            recipe[*key] = json!(value);
            arguments.extend([format!("--{}", key.replace('_', "-")), value.to_string()]);
        }
        let (dry, _) = run(shop.command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()), 0);
        let check = studio.post("/api/train/check", &recipe).ok();
        assert!(dry.contains(check["summary"].as_str().unwrap().trim()), "{more:?}: {dry}\n{check}");
        assert_eq!(studio.post("/api/plan", &recipe).ok()["memory"]["total"], sum_of(&check["memory"]), "{more:?}");
        check["summary"].as_str().unwrap().to_owned()
    };
    assert!(of_run(&[]).contains("255 supervised of 256 tokens"));
    for more in [[("rope_scaling", "linear:2")], [("init_adapter", "start")]] {
        assert!(of_run(&more).contains("299 supervised of 300 tokens"), "{more:?}");
    }

    // On full batches, from the options alone.
    let planned = |max_length: u64| studio.post("/api/plan", &json!({ "max_length": max_length, "lora_r": 4 })).ok();
    assert_eq!(planned(32)["trainable"], plan["trainable"]);
    let bytes = |plan: &Value| plan["memory"]["activations"].as_u64().unwrap();
    assert!(bytes(&planned(32)) < bytes(&planned(64)));
    let rate = studio.post("/api/time", &json!({ "max_length": 32 })).ok();
    assert!(rate["flops_per_second"].as_f64().unwrap() > 0.0);
    assert!(planned(32)["step_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(studio.get("/api/state").ok()["engine"], "ready");

    let form = studio.get("/api/recipe").ok();
    let fields = form["fields"].as_array().unwrap();
    let rate = fields.iter().find(|field| field["key"] == "learning_rate").unwrap();
    assert_eq!(rate["default"], 2e-4);
    assert!(rate["why"].as_str().unwrap().contains("full fine-tune"));
    assert_eq!(form["given"]["model"], "model");
}

#[test]
fn a_hundred_requests_at_once_are_served_or_refused_politely() {
    let shop = Workshop::new();
    let studio = open(&shop);
    let kinds = [("/api/tokens", json!({ "text": "w5 w7" })), ("/api/time", json!({ "max_length": 32 }))];
    for (path, body) in &kinds {
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..100).map(|_| scope.spawn(|| studio.post(path, body))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        let served = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(served >= 10, "{path}: {served} were served");
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
            assert!(answer.refusal()[2].contains("again"));
        }
        assert_eq!(studio.post(path, body).status, 200, "and then it goes on");
    }
}

const STEPS: u64 = 60;

fn recipe(out: &str) -> Value {
    json!({
        "model": "model", "data": ["train.jsonl"], "out": out, "eval_data": ["held-out.jsonl"], "eval_steps": 7, "lora_r": 4,
        "lora_dropout": 0.1, "max_length": 32, "batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 5e-3,
        "weight_decay": 0.01, "max_steps": STEPS, "save_steps": 5, "no_autotune": true, "tensorboard": true,
        "sample_steps": 6, "sample_prompts": ["w5 w7"],
    })
}

/// Events up to one of these names.
fn until(events: &mut client::Events, names: &[&str]) -> Vec<Event> {
    let mut seen = Vec::new();
    for event in events {
        let is_last = names.contains(&event.name.as_str());
        seen.push(event);
        if is_last {
            return seen;
        }
    }
    panic!("the stream ended: {seen:?}")
}

fn steps(events: &[Event]) -> Vec<u64> {
    events.iter().filter(|event| event.name == "step").map(|event| event.data["step"].as_u64().unwrap()).collect()
}

/// Started, watched, left and come back to, stopped, gone on with: at the end it is the run that was never looked at.
#[cfg(unix)]
#[test]
fn a_run_streams_stops_and_goes_on_and_a_reload_loses_nothing() {
    let shop = Workshop::new();
    let studio = open(&shop);
    assert_eq!(studio.post("/api/time", &json!({ "max_length": 32 })).status, 200, "the device is the studio's");
    let mut events = studio.events(None);
    let started = studio.post("/api/train", &recipe("out")).ok();
    assert_eq!((&started["phase"], &started["own"]), (&json!("running"), &json!(true)));
    assert_eq!(studio.get("/api/state").ok()["engine"], "training");
    let refused = studio.post("/api/time", &json!({}));
    assert_eq!(refused.status, 409, "the device is the run's");
    assert!(refused.refusal()[2].contains("pause"));
    assert_eq!(studio.post("/api/train", &recipe("other")).status, 409, "one run at a time");

    // The page goes away after some steps, and comes back.
    let mut first: Vec<Event> = Vec::new();
    while steps(&first).len() < 8 {
        first.extend(until(&mut events, &["step", "error"]));
        assert!(first.iter().all(|event| event.name != "error"), "{first:?}");
    }
    drop(events);
    assert!(first.iter().filter(|event| event.name == "step").all(|event| event.id == event.data["step"].as_u64()));
    let evaluated = first.iter().find(|event| event.name == "eval").unwrap();
    assert!(evaluated.data["step"] == 7 && evaluated.data["eval_loss"].is_number() && evaluated.id.is_none());
    let sample = first.iter().find(|event| event.name == "sample").unwrap();
    assert_eq!((&sample.data["step"], &sample.data["prompt"]), (&json!(6), &json!("w5 w7")));
    assert!(sample.data["answer"].as_str().is_some_and(|answer| answer.starts_with('w')), "{sample:?}");
    let last = *steps(&first).last().unwrap();
    let mut events = studio.events(Some(last));
    let paused = studio.post("/api/train/pause", &json!({}));
    let ended = until(&mut events, &["done", "error"]);
    let all = [steps(&first), steps(&ended)].concat();
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>(), "each step once");
    assert_eq!(paused.status, 200);
    let run_now = studio.get("/api/run").ok();
    assert_eq!((&run_now["phase"], &run_now["resumable"]), (&json!("paused"), &json!(true)), "{run_now}");
    assert_eq!(run_now["checkpoint"]["step"], all.len(), "a whole step is saved");
    assert_eq!(run_now["about"]["total_steps"], STEPS);
    // Meanwhile the device is the studio's again, and the checkpoint can be looked into.
    let open = json!({ "adapter": run_now["checkpoint"]["dir"] });
    assert_eq!(studio.post("/api/open", &open).ok()["adapter"]["sites"], 21);
    assert_eq!(studio.post("/api/time", &json!({ "max_length": 32 })).status, 200);

    assert_eq!(studio.post("/api/train/resume", &json!({})).ok()["phase"], "running");
    until(&mut events, &["done", "error"]);
    let done = studio.get("/api/run").ok();
    assert_eq!((&done["phase"], &done["resumable"]), (&json!("done"), &json!(false)), "{done}");
    assert_eq!(done["metrics"].as_array().unwrap().len() as u64, STEPS);
    // Who comes only now hears all of it.
    assert_eq!(steps(&until(&mut studio.events(None), &["done"])), (1..=STEPS).collect::<Vec<_>>());

    let asked: Vec<&Value> = done["samples"].as_array().unwrap().iter().map(|sample| &sample["step"]).collect();
    assert_eq!(asked, [6, 12, 18, 24, 30, 36, 42, 48, 54, 60], "each round once, across the pause");

    let undisturbed = studio.post("/api/train", &recipe("undisturbed"));
    assert_eq!(undisturbed.status, 200);
    let mut events = studio.events(None);
    until(&mut events, &["done", "error"]);
    assert_eq!(shop.result("out"), shop.result("undisturbed"));
    let past = studio.get("/api/runs").ok();
    let runs: Vec<&str> = past["runs"].as_array().unwrap().iter().map(|run| run["dir"].as_str().unwrap()).collect();
    assert!(runs.len() == 2 && runs.iter().any(|dir| dir.ends_with("undisturbed")), "{past}");
    assert!(shop.names("out").iter().filter(|name| name.starts_with("events.out.tfevents.")).count() == 2);
}

#[test]
fn a_run_that_cannot_be_says_why() {
    let shop = Workshop::new();
    let studio = open(&shop);
    let mut events = studio.events(None);
    let mut wrong = recipe("out");
    wrong["data"] = json!(["nowhere.jsonl"]);
    assert_eq!(studio.post("/api/train", &wrong).status, 200, "the process itself reads the data");
    let seen = until(&mut events, &["done", "error"]);
    let error = &seen.last().unwrap().data["error"];
    assert!(error["what"].as_str().is_some_and(|what| what.starts_with("nowhere.jsonl: ")), "{seen:?}");
    assert!(error["propose"].as_str().is_some_and(|propose| !propose.is_empty()));
    let run = studio.get("/api/run").ok();
    assert_eq!((&run["phase"], &run["error"]), (&json!("failed"), error));
    assert_eq!(studio.get("/api/state").ok()["engine"], "closed");
    assert_eq!(studio.post("/api/train/stop", &json!({})).status, 409, "there is nothing to stop");
}

/// A run in one terminal, looked at from another.
#[cfg(unix)]
#[test]
fn a_run_in_a_terminal_is_watched_and_stopped() {
    let shop = Workshop::new();
    let mut training = shop.train("out", &["--max-steps", "5000"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    wait_until("steps of a run in a terminal", || {
        assert!(training.try_wait().unwrap().is_none());
        shop.metrics_lines("out") >= 3
    });
    let studio = studio(&shop, &["--run", "out"]);
    let state = studio.get("/api/state").ok();
    assert_eq!((&state["engine"], &state["run"]["dir"]), (&json!("training"), &json!("out")));
    assert_eq!(state["model"]["layers"], 3, "the model is the run's");
    let mut events = studio.events(None);
    let mut seen = Vec::new();
    while steps(&seen).len() < 5 {
        seen.extend(until(&mut events, &["step"]));
    }
    assert_eq!(studio.get("/api/run").ok()["own"], false);
    assert_eq!(studio.post("/api/train/stop", &json!({})).ok()["phase"], "stopping");
    assert_eq!(training.wait().unwrap().code(), Some(1), "as after Ctrl-C");
    seen.extend(until(&mut events, &["done", "error"]));
    assert_eq!(seen.last().unwrap().data["phase"], "stopped");
    let all = steps(&seen);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    assert_eq!(shop.metrics_lines("out"), all.len());
    assert_eq!(studio.get("/api/run").ok()["checkpoint"]["step"], all.len());
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_studio_and_saves_its_run() {
    let shop = Workshop::new();
    let mut studio = open(&shop);
    let mut long = recipe("out");
    long["max_steps"] = json!(5000);
    studio.post("/api/train", &long).ok();
    wait_until("steps of the studio's run", || shop.metrics_lines("out") >= 3);
    assert_eq!(studio.interrupt(), Some(0));
    let saved = shop.metrics_lines("out");
    assert!(shop.names("out").contains(&format!("checkpoint-{saved}")), "{:?}", shop.names("out"));
}

#[test]
fn train_shows_itself_while_it_goes_on() {
    let shop = Workshop::new();
    let studio = Studio::start(shop.train("out", &["--max-steps", "5000", "--studio"]));
    let state = studio.get("/api/state").ok();
    assert_eq!((&state["engine"], &state["run"]["dir"]), (&json!("training"), &json!("out")));
    assert!(steps(&until(&mut studio.events(None), &["step"])).contains(&1));
}
