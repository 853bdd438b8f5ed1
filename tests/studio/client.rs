//! A studio as its own process, and a client of its API that trusts nothing but bytes.
#![allow(dead_code)] // each test file uses its own part

#[cfg(unix)]
#[path = "../common/signals.rs"]
mod signals;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A studio that ends with the test.
pub struct Studio {
    process: Child,
    pub port: u16,
    pub token: String,
    said: Arc<Mutex<String>>,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The answer of a request that went well.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// What, where and what to do, of one that did not.
    pub fn refusal(&self) -> [String; 3] {
        let json = self.json();
        ["what", "where", "propose"].map(|key| json["error"][key].as_str().expect("a refusal says why").to_string())
    }
}

impl Studio {
    /// Starts what prints a studio's address, and waits for that.
    pub fn start(mut command: Command) -> Self {
        #[cfg(unix)]
        signals::listen_to_signals(&mut command);
        let mut process = command.stderr(Stdio::piped()).stdout(Stdio::null()).stdin(Stdio::null()).spawn().unwrap();
        let stderr = process.stderr.take().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut heard = heard.lock().unwrap();
                heard.push_str(&line);
                heard.push('\n');
            }
        });
        let began = Instant::now();
        loop {
            let text = said.lock().unwrap().clone();
            if let Some((_, rest)) = text.split_once("http://127.0.0.1:")
                && let Some((port, rest)) = rest.split_once("/?token=")
                && rest.contains('\n')
            {
                let token = rest.lines().next().unwrap().to_string();
                return Self { process, port: port.parse().unwrap(), token, said };
            }
            assert!(process.try_wait().unwrap().is_none(), "it ended: {text}");
            assert!(began.elapsed() < Duration::from_secs(60), "no address: {text}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has said to standard error.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &self.with_token(), b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &self.with_token(), body.to_string().as_bytes())
    }

    pub fn with_token(&self) -> Vec<(&'static str, String)> {
        vec![("Host", format!("127.0.0.1:{}", self.port)), ("Authorization", format!("Bearer {}", self.token))]
    }

    /// One request with exactly these headers.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> Answer {
        let mut stream = self.send(method, path, headers, body);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| line.split_once(": ").map(|(key, value)| (key.to_lowercase(), value.to_string()));
        Answer { status, headers: lines.filter_map(pair).collect(), body: bytes[end + 4..].to_vec() }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, String)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(key, value)| head += &format!("{key}: {value}\r\n"));
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// Events after this step.
    pub fn events(&self, last: Option<u64>) -> Events {
        let mut headers = self.with_token();
        headers.extend(last.map(|last| ("Last-Event-ID", last.to_string())));
        Events { lines: BufReader::new(self.send("GET", "/api/events", &headers, b"")) }
    }

    /// Asks it to end as Ctrl-C does, and gives its exit code.
    #[cfg(unix)]
    pub fn interrupt(&mut self) -> Option<i32> {
        Command::new("kill").args(["-INT", &self.process.id().to_string()]).status().unwrap();
        self.process.wait().unwrap().code()
    }

    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A stream of server-sent events.
pub struct Events {
    lines: BufReader<TcpStream>,
}

/// One event.
#[derive(Debug)]
pub struct Event {
    pub name: String,
    pub id: Option<u64>,
    pub data: Value,
}

impl Iterator for Events {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (None, None, None);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).ok()? == 0 {
                return None;
            }
            // Lines of the chunked transfer are none of the fields.
            match line.trim_end().split_once(": ") {
                Some(("event", value)) => name = Some(value.to_string()),
                Some(("id", value)) => id = Some(value.parse().unwrap()),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ => {}
            }
            if line == "\n"
                && let (Some(name), Some(data)) = (name.take(), data.take())
            {
                return Some(Event { name, id, data });
            }
        }
    }
}
