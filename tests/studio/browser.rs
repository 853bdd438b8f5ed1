//! Chromium without a screen, led over its DevTools protocol.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

/// The program, if there is one.
pub fn program() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|path| path.is_file())
}

/// One tab.
pub struct Browser {
    process: Child,
    socket: WebSocket<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    number: u64,
    waiting: VecDeque<Value>,
    /// Addresses that are being loaded, by request.
    loading: HashMap<String, String>,
    /// All that were asked for.
    pub requests: Vec<String>,
    /// What went wrong in the page: exceptions, errors on the console, answers that the browser complains of.
    pub errors: Vec<String>,
    _profile: TempDir,
}

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

impl Browser {
    pub fn start() -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut command = Command::new(program().expect("a browser"));
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        // What a browser fetches by itself is none of the page's requests, and is turned off.
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]);
        command.arg("--remote-debugging-port=0").arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.split_once("listening on ").map(|(_, url)| url.to_string())).expect("its address");
        // Whoever does not read what it says, stops it.
        std::thread::spawn(move || lines.for_each(drop));
        let (socket, _) = tungstenite::connect(&url).unwrap();
        if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        }
        let mut browser = Self {
            process,
            socket,
            session: None,
            number: 0,
            waiting: VecDeque::new(),
            loading: HashMap::new(),
            requests: Vec::new(),
            errors: Vec::new(),
            _profile: profile,
        };
        let target = browser.send("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let session = browser.send("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = Some(session["sessionId"].as_str().unwrap().to_string());
        for domain in ["Page", "Runtime", "Network", "Log"] {
            browser.send(&format!("{domain}.enable"), json!({}));
        }
        browser.size(1280, 800);
        browser
    }

    /// A command, and what it answers.
    pub fn send(&mut self, method: &str, parameters: Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut message = json!({ "id": number, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "{method}: no answer");
            let Some(mut answer) = self.receive() else { continue };
            if answer["id"] == number {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].take();
            }
            self.waiting.push_back(answer);
            self.note_all();
        }
    }

    fn receive(&mut self) -> Option<Value> {
        match self.socket.read() {
            Ok(Message::Text(text)) => Some(serde_json::from_str(&text).unwrap()),
            Ok(_) => None,
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                None
            }
            Err(error) => panic!("the browser is gone: {error}"),
        }
    }

    fn note_all(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            self.note(&event);
        }
    }

    fn note(&mut self, event: &Value) {
        let (about, text) = (&event["params"], |value: &Value| value.as_str().unwrap_or_default().to_string());
        let request = text(&about["requestId"]);
        match event["method"].as_str().unwrap_or_default() {
            "Network.requestWillBeSent" => {
                let url = text(&about["request"]["url"]);
                if about["type"] != "EventSource" {
                    self.loading.insert(request, url.clone());
                }
                self.requests.push(url);
            }
            "Network.loadingFinished" | "Network.loadingFailed" => drop(self.loading.remove(&request)),
            "Runtime.exceptionThrown" => self.errors.push(about["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if about["type"] == "error" => self.errors.push(about["args"].to_string()),
            "Log.entryAdded" if about["entry"]["level"] == "error" => self.errors.push(about["entry"].to_string()),
            _ => {}
        }
    }

    /// The value of an expression, a promise's included.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.send("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, expression: &str) {
        let began = Instant::now();
        while self.evaluate(expression) != true {
            if began.elapsed() > PATIENCE {
                let text = self.evaluate("document.body.innerText");
                panic!("never: {expression}\n{text}\n{:?}", self.errors);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Goes to an address.
    pub fn open(&mut self, url: &str) {
        self.send("Page.navigate", json!({ "url": url }));
        self.wait_for("document.readyState === 'complete'");
    }

    /// Waits until nothing is loaded and nothing is said to be on its way. Gives how long that took.
    pub fn settle(&mut self) -> Duration {
        let (began, mut quiet) = (Instant::now(), None::<Instant>);
        loop {
            let busy = self.evaluate("document.querySelectorAll('.busy').length > 0") == true;
            while let Some(event) = self.receive() {
                self.note(&event);
            }
            match (busy || !self.loading.is_empty(), quiet) {
                (true, _) => quiet = None,
                (false, None) => quiet = Some(Instant::now()),
                (false, Some(since)) if since.elapsed() > Duration::from_millis(500) => return since.duration_since(began),
                _ => {}
            }
            assert!(began.elapsed() < PATIENCE, "still loading: {:?}", self.loading.values());
        }
    }

    /// The window's size in pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.send("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Presses a key: a sign, or what `KeyboardEvent.code` calls it, with `Shift+` before it if that is held.
    pub fn press(&mut self, keys: &str) {
        let (held, code) = keys.strip_prefix("Shift+").map_or((0, keys), |key| (8, key));
        let number = match code {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "Space" => 32,
            "End" => 35,
            "Home" => 36,
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            sign if sign.as_bytes()[0].is_ascii_alphanumeric() => u32::from(sign.as_bytes()[0].to_ascii_uppercase()),
            _ => 0,
        };
        let (key, text) = match code {
            "Space" => (" ", " "),
            "Enter" => (code, "\r"),
            sign if sign.len() == 1 => (sign, sign),
            named => (named, ""),
        };
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            let event = json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number, "text": text, "modifiers": held });
            self.send("Input.dispatchKeyEvent", event);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
