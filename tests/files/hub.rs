//! Models by name: a small hub on this machine, its cache, offline mode, and messages.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use graftling::formats::hub::{Hub, is_name};
use serde_json::json;

use super::{message, tiny};

/// Serves the files of `owner/model`, as huggingface.co does; returns its address and the count of requests.
fn serve(files: BTreeMap<&'static str, Vec<u8>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = requests.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let path = lines.next().and_then(|line| line.split(' ').nth(1).map(str::to_owned)).unwrap_or_default();
            let one_byte = lines.by_ref().take_while(|line| !line.is_empty()).any(|line| line.ends_with("bytes=0-0"));
            counter.fetch_add(1, Ordering::SeqCst);
            let found = path.strip_prefix("/owner/model/resolve/main/").and_then(|name| files.get(name));
            let (status, body, size) = if path == "/api/models/owner/model/revision/main" {
                let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
                ("200 OK", json!({"siblings": siblings, "sha": "abc"}).to_string().into_bytes(), 0)
            } else {
                match found {
                    Some(body) if one_byte => ("206 Partial Content", body[..1].to_vec(), body.len()),
                    Some(body) => ("200 OK", body.clone(), body.len()),
                    None => ("404 Not Found", Vec::new(), 0),
                }
            };
            let etag = path.replace(['/', '.'], "-");
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{size}\r\nETag: \"{etag}\"\r\n\
                 X-Repo-Commit: abc\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    (address, requests)
}

fn hub(endpoint: &str, cache: &tempfile::TempDir) -> Hub {
    Hub { cache: cache.path().to_owned(), offline: false, endpoint: endpoint.to_owned(), token: None }
}

#[test]
fn a_model_is_fetched_once_and_then_needs_no_network() {
    let config = tiny::config_json().to_string().into_bytes();
    let (endpoint, requests) = serve(BTreeMap::from([
        ("config.json", config),
        ("model.safetensors", tiny::weights()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{}".to_vec()),
        ("README.md", b"not wanted".to_vec()),
    ]));
    let cache = tempfile::tempdir().unwrap();
    let online = hub(&endpoint, &cache);
    let folder = online.fetch_descriptions("owner/model").unwrap();
    assert!(folder.join("tokenizer_config.json").exists() && !folder.join("model.safetensors").exists());
    let folder = online.fetch_weights("owner/model").unwrap();
    assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap(), tiny::weights());
    assert!(!folder.join("README.md").exists());
    let before = requests.load(Ordering::SeqCst);
    let offline = Hub { offline: true, ..online.clone() };
    assert_eq!(offline.fetch_weights("owner/model").unwrap(), folder);
    assert_eq!(online.fetch_weights("owner/model").unwrap(), folder);
    assert_eq!(requests.load(Ordering::SeqCst), before);
    assert!(graftling::formats::ModelFiles::open(folder.to_str().unwrap()).is_ok());

    let text = message(online.fetch_weights("owner/other"));
    assert!(text.contains("owner/other") && text.contains("HF_TOKEN"), "{text}");
}

/// Python's `AutoConfig` fetches config.json alone; the rest is then still to come.
#[test]
fn a_half_cached_model_is_completed_where_the_network_allows_it() {
    let config = tiny::config_json().to_string().into_bytes();
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(BTreeMap::from([("config.json", config.clone())]));
    hub(&endpoint, &cache).fetch_descriptions("owner/model").unwrap();
    let (endpoint, _) = serve(BTreeMap::from([("config.json", config), ("tokenizer.json", b"{}".to_vec())]));
    let unreachable = hub("http://127.0.0.1:1", &cache).fetch_descriptions("owner/model").unwrap();
    assert!(unreachable.join("config.json").exists() && !unreachable.join("tokenizer.json").exists());
    let folder = hub(&endpoint, &cache).fetch_descriptions("owner/model").unwrap();
    assert!(folder.join("tokenizer.json").exists());
}

#[test]
fn models_in_pytorch_files_alone_are_fetched() {
    let config = tiny::config_json().to_string().into_bytes();
    let (endpoint, _) = serve(BTreeMap::from([("config.json", config.clone()), ("pytorch_model.bin", b"x".to_vec())]));
    let cache = tempfile::tempdir().unwrap();
    let folder = hub(&endpoint, &cache).fetch_weights("owner/model").unwrap();
    assert_eq!(std::fs::read(folder.join("pytorch_model.bin")).unwrap(), b"x");
    let (endpoint, _) = serve(BTreeMap::from([("config.json", config), ("flax_model.msgpack", b"x".to_vec())]));
    let text = message(hub(&endpoint, &tempfile::tempdir().unwrap()).fetch_weights("owner/model"));
    assert!(text.contains("pytorch_model.bin"), "{text}");
}

#[test]
fn models_without_a_config_are_refused_with_advice() {
    let (endpoint, _) = serve(BTreeMap::from([("model-q8_0.gguf", b"x".to_vec())]));
    let text = message(hub(&endpoint, &tempfile::tempdir().unwrap()).fetch_descriptions("owner/model"));
    assert!(text.contains("config.json") && text.contains("model-q8_0.gguf"), "{text}");
}

#[test]
fn what_cannot_be_reached_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    // Port 1 of this machine: refused at once.
    let nowhere = hub("http://127.0.0.1:1", &cache);
    let error = nowhere.fetch_weights("owner/model").unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("could not be reached") && error.to_string().contains("HTTPS_PROXY"), "{error}");
    let offline = Hub { offline: true, ..nowhere };
    let error = offline.fetch_weights("owner/model").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn names_are_told_from_paths() {
    for name in ["HuggingFaceTB/SmolLM2-135M-Instruct", "a/b.c_d", "a/b@v1.0", "a/b@refs/pr/3"] {
        assert!(is_name(name), "{name}");
    }
    for path in ["model", "./a/b", "../a", "/a/b", "a/b/c", "a/", "a/..", "a b/c", "~/m", "", "a/b@", "a\\b/c"] {
        assert!(!is_name(path), "{path}");
    }
}
