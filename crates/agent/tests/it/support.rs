//! A running agent, and the least of an HTTP client: what is on the wire is what the tests are about.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An agent on a free port, with files of its own in place of `/etc` and `/run`. Ends with the test.
pub(crate) struct Agent {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) root: TempDir,
}

impl Agent {
    /// Starts an agent that takes this test for the control peer.
    pub(crate) fn start() -> Self {
        Self::with_control_peer("127.0.0.1")
    }

    pub(crate) fn with_control_peer(peer: &str) -> Self {
        let root = tempfile::tempdir().expect("temporary directory");
        let home = root.path().join("home");
        for directory in ["etc", "run", "home"] {
            std::fs::create_dir(root.path().join(directory)).expect("made");
        }
        let (uid, gid) = if is_root() {
            (1000, 1000)
        } else {
            (rustix_uid(), rustix_gid())
        };
        if is_root() {
            // The sandbox's user must be able to reach its home.
            let _ = std::os::unix::fs::chown(&home, Some(uid), Some(gid));
            use std::os::unix::fs::PermissionsExt as _;
            let _ = std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755));
        }
        let home = home.display();
        let passwd = format!("root:x:0:0:root:/root:/bin/bash\nuser:x:{uid}:{gid}::{home}:/bin/bash\n");
        std::fs::write(root.path().join("etc/passwd"), passwd).expect("written");
        let group = format!("root:x:0:\nuser:x:{gid}:\nsudo:x:27:user\n");
        std::fs::write(root.path().join("etc/group"), group).expect("written");
        // A host name of its own, so that tests do not rename the machine they run on.
        let mut command = if is_root() {
            let mut command = Command::new("unshare");
            command.args(["--uts", env!("CARGO_BIN_EXE_dormouse-agent")]);
            command
        } else {
            Command::new(env!("CARGO_BIN_EXE_dormouse-agent"))
        };
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--control-peer", peer])
            .arg("--etc")
            .arg(root.path().join("etc"))
            .arg("--run")
            .arg(root.path().join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the agent starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("the agent speaks");
        let address = line.trim().strip_prefix("listening on ").expect("an address");
        let address = address.parse().expect("an address");
        Self { child, address, root }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The home of `user`.
    pub(crate) fn home(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join("home").join(path)
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.send(method, target, headers, body);
        let mut raw = Vec::new();
        stream.read_to_end(&mut raw).expect("an answer");
        Answer::parse(&raw)
    }

    /// Sends a request, and leaves the reading to the caller.
    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("the agent listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
            head.push_str("connection: close\r\n");
        }
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding")) {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).expect("sent");
        // The agent may answer and close before it has read everything.
        let _ = stream.write_all(body);
        stream
    }

    pub(crate) fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"")
    }

    /// A unary call.
    pub(crate) fn call(&self, method: &str, body: &Value) -> Answer {
        self.call_as(None, method, body)
    }

    pub(crate) fn call_as(&self, user: Option<&str>, method: &str, body: &Value) -> Answer {
        let authorization = authorization(user);
        let headers = [
            ("content-type", "application/json"),
            ("authorization", authorization.as_str()),
        ];
        self.request(
            "POST",
            &format!("/{method}"),
            &headers[..if user.is_some() { 2 } else { 1 }],
            &to_bytes(body),
        )
    }

    /// A streaming call, not yet read.
    pub(crate) fn open(&self, method: &str, body: &Value, headers: &[(&str, &str)]) -> Events {
        let mut all = vec![
            ("content-type", "application/connect+json"),
            ("connect-protocol-version", "1"),
        ];
        all.extend(headers);
        Events::new(self.send("POST", &format!("/{method}"), &all, &envelope(body)))
    }

    /// Starts a process and follows it.
    pub(crate) fn start_process(&self, body: &Value, headers: &[(&str, &str)]) -> Events {
        self.open("process.Process/Start", body, headers)
    }

    /// Runs a shell script without input to its end.
    pub(crate) fn run(&self, user: Option<&str>, script: &str) -> Outcome {
        let body = json!({"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": false});
        let authorization = authorization(user);
        let headers = [("authorization", authorization.as_str())];
        self.start_process(&body, &headers[..usize::from(user.is_some())]).outcome()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn authorization(user: Option<&str>) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:", user.unwrap_or_default())))
}

fn to_bytes(body: &Value) -> Vec<u8> {
    serde_json::to_vec(body).expect("JSON")
}

/// A message as streams carry it.
pub(crate) fn envelope(body: &Value) -> Vec<u8> {
    let body = to_bytes(body);
    let length = u32::try_from(body.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), &body].concat()
}

/// Whether this test may do what only root may. Says so when not.
pub(crate) fn root_or_skip(what: &str) -> bool {
    let root = is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

pub(crate) fn is_root() -> bool {
    rustix_uid() == 0
}

fn rustix_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn rustix_gid() -> u32 {
    rustix::process::getgid().as_raw()
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(raw: &[u8]) -> Self {
        let end = raw.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        let mut answer = Self {
            status,
            head,
            body: raw[end + 4..].to_vec(),
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = join_chunks(&answer.body);
        }
        answer
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Asserts an RPC error.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str, message: &str) {
        assert_eq!(
            (self.status, self.json()["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.text()
        );
        let text = self.json()["message"].as_str().unwrap_or_default().to_owned();
        assert!(text.contains(message), "{text:?} does not contain {message:?}");
    }
}

fn join_chunks(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = raw.windows(2).position(|window| window == b"\r\n") {
        let length = usize::from_str_radix(&String::from_utf8_lossy(&raw[..line]), 16).expect("a chunk length");
        if length == 0 {
            break;
        }
        body.extend_from_slice(&raw[line + 2..line + 2 + length]);
        raw = &raw[line + 4 + length..];
    }
    body
}

/// A stream of messages, read as they come.
pub(crate) struct Events {
    stream: BufReader<TcpStream>,
    head: Option<String>,
    buffer: Vec<u8>,
}

/// What a process did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) pid: u64,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) pty: String,
    pub(crate) end: Option<Value>,
    pub(crate) error: Option<Value>,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn assert_exit(&self, code: i64) -> &Self {
        let end = self.end.as_ref().unwrap_or_else(|| panic!("no end: {self:?}"));
        assert_eq!(end["exitCode"].as_i64().unwrap_or(0), code, "{self:?}");
        self
    }

    /// Standard output without the line's end.
    pub(crate) fn line(&self) -> &str {
        self.stdout.trim_end()
    }
}

impl Events {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream: BufReader::new(stream),
            head: None,
            buffer: Vec::new(),
        }
    }

    /// The status line and headers.
    pub(crate) fn head(&mut self) -> &str {
        if self.head.is_none() {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(self.stream.read_line(&mut head).expect("an answer"), 0, "no head: {head}");
            }
            self.head = Some(head);
        }
        self.head.as_deref().expect("read")
    }

    /// The next message and whether it ends the stream. None at the end of the connection.
    pub(crate) fn next(&mut self) -> Option<(bool, Value)> {
        self.head();
        loop {
            if let Some(&[flags, a, b, c, d]) = self.buffer.get(..5) {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.buffer.len() >= 5 + length {
                    let message = serde_json::from_slice(&self.buffer[5..5 + length]).expect("JSON");
                    self.buffer.drain(..5 + length);
                    return Some((flags & 2 != 0, message));
                }
            }
            let mut line = String::new();
            self.stream.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok().filter(|length| *length > 0)?;
            let mut chunk = vec![0; length + 2];
            self.stream.read_exact(&mut chunk).ok()?;
            self.buffer.extend_from_slice(&chunk[..length]);
        }
    }

    /// The next message that is not the end of the stream.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Value {
        match self.next() {
            Some((false, message)) => message,
            other => panic!("no message but {other:?}"),
        }
    }

    /// Reads the `start` event.
    #[track_caller]
    pub(crate) fn pid(&mut self) -> u64 {
        self.message()["event"]["start"]["pid"]
            .as_u64()
            .expect("the first event is start")
    }

    /// Reads to the end.
    #[track_caller]
    pub(crate) fn outcome(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut stdout, mut stderr, mut pty) = (Vec::new(), Vec::new(), Vec::new());
        while let Some((last, message)) = self.next() {
            if last {
                outcome.error = message.get("error").cloned();
                break;
            }
            let event = &message["event"];
            if let Some(pid) = event["start"]["pid"].as_u64() {
                outcome.pid = pid;
            }
            for (name, bytes) in [("stdout", &mut stdout), ("stderr", &mut stderr), ("pty", &mut pty)] {
                if let Some(data) = event["data"][name].as_str() {
                    bytes.extend(STANDARD.decode(data).expect("base64"));
                }
            }
            if let Some(end) = event.get("end") {
                outcome.end = Some(end.clone());
            }
        }
        outcome.stdout = String::from_utf8_lossy(&stdout).into_owned();
        outcome.stderr = String::from_utf8_lossy(&stderr).into_owned();
        outcome.pty = String::from_utf8_lossy(&pty).into_owned();
        outcome
    }
}
