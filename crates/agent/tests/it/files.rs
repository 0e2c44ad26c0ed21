//! File contents over HTTP (contract 3.3).

use std::io::{Read as _, Write as _};

use dormouse_agent_proto::signature::{Operation, sign};
use serde_json::json;

use crate::support::{Agent, Answer, root_or_skip};

const BOUNDARY: &str = "multipart/form-data; boundary=XX";

fn part(disposition: &str, content: &str) -> String {
    format!("--XX\r\ncontent-disposition: form-data; {disposition}\r\n\r\n{content}\r\n")
}

fn upload(agent: &Agent, query: &str, parts: &[String]) -> Answer {
    let body = format!("{}--XX--\r\n", parts.concat());
    agent.request(
        "POST",
        &format!("/files{query}"),
        &[("content-type", BOUNDARY)],
        body.as_bytes(),
    )
}

fn put(agent: &Agent, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut all = vec![("content-type", "application/octet-stream")];
    all.extend(headers);
    agent.request("POST", &format!("/files?path={path}"), &all, body)
}

fn error(answer: &Answer) -> (u16, String) {
    let body = answer.json();
    assert_eq!(
        body["code"].as_u64(),
        Some(answer.status.into()),
        "the status is in the body too"
    );
    (answer.status, body["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn forms_write_files() {
    let agent = Agent::start();
    let home = agent.root.path().join("home").display().to_string();
    let answer = upload(&agent, "?path=hello.txt", &[part("name=\"file\"", "hi")]);
    assert_eq!(
        answer.json(),
        json!([{"name": "hello.txt", "path": format!("{home}/hello.txt"), "type": "file"}])
    );
    assert_eq!(agent.get("/files?path=hello.txt").text(), "hi");
    let parts = [
        part("name=\"file\"; filename=\"a/b c.txt\"", "1"),
        part("name=\"other\"", "ignored"),
        part("name=\"file\"; filename=\"/tmp/../tmp/x\"; filename*=UTF-8''a%2F%C3%A9", "2"),
    ];
    let paths: Vec<_> = upload(&agent, "", &parts)
        .json()
        .as_array()
        .expect("a list")
        .iter()
        .map(|file| file["path"].clone())
        .collect();
    assert_eq!(paths, [format!("{home}/a/b c.txt"), format!("{home}/a/é")]);
    assert_eq!(std::fs::read_to_string(agent.home("a/é")).expect("there"), "2");
}

#[test]
fn bad_uploads_are_refused() {
    let agent = Agent::start();
    let twice = [
        part("name=\"file\"; filename=\"a\"", "1"),
        part("name=\"file\"; filename=\"./a\"", "2"),
    ];
    assert_eq!(upload(&agent, "", &twice).status, 400);
    assert_eq!(upload(&agent, "", &[part("name=\"file\"", "x")]).status, 400);
    assert_eq!(error(&put(&agent, "/tmp", &[], b"x")).0, 400);
    assert_eq!(
        agent
            .request("POST", "/files?path=a", &[("content-type", "text/plain")], b"x")
            .status,
        400
    );
    assert_eq!(
        agent
            .request("POST", "/files", &[("content-type", "application/octet-stream")], b"x")
            .status,
        400
    );
    assert_eq!(put(&agent, "a", &[("content-encoding", "br")], b"x").status, 400);
    let (status, message) = error(&agent.request("POST", "/files?path=a&username=who", &[("content-type", BOUNDARY)], b""));
    assert_eq!(status, 401);
    assert!(message.starts_with("error looking up user 'who':"), "{message}");
}

#[test]
fn uploads_belong_to_their_user() {
    if !root_or_skip("giving files away") {
        return;
    }
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let agent = Agent::start();
    assert_eq!(put(&agent, "new/dir/file", &[], b"x").status, 200);
    for path in ["new", "new/dir", "new/dir/file"] {
        assert_eq!(std::fs::metadata(agent.home(path)).expect("there").uid(), 1000, "{path}");
    }
    let mode = |path: &str| std::fs::metadata(agent.home(path)).expect("there").permissions().mode() & 0o7777;
    assert_eq!((mode("new/dir"), mode("new/dir/file")), (0o755, 0o644));
    std::fs::set_permissions(agent.home("new/dir/file"), std::fs::Permissions::from_mode(0o700)).expect("changed");
    let target = format!("{}&username=root", agent.home("new/dir/file").display());
    assert_eq!(put(&agent, &target, &[], b"yz").status, 200);
    let metadata = std::fs::metadata(agent.home("new/dir/file")).expect("there");
    assert_eq!((metadata.uid(), mode("new/dir/file")), (0, 0o700));
}

#[test]
fn streams_pass_in_both_directions_with_flat_memory() {
    let agent = Agent::start();
    let size = 64 << 20;
    let headers = [("content-type", "application/octet-stream"), ("transfer-encoding", "chunked")];
    let mut stream = agent.send("POST", "/files?path=big", &headers, b"");
    let chunk = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![7; 1 << 20], b"\r\n"].concat();
    for _ in 0..size >> 20 {
        stream.write_all(&chunk).expect("taken");
    }
    stream.write_all(b"0\r\n\r\n").expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = agent.get("/files?path=big");
    assert_eq!(answer.header("content-length"), Some(size.to_string().as_str()));
    assert!(answer.body.len() == size && answer.body.iter().all(|byte| *byte == 7));
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a size");
    let peak: u64 = peak
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number");
    assert!(peak < 48 << 10, "{peak} KiB");
}

#[test]
fn downloads_explain_themselves() {
    let agent = Agent::start();
    std::fs::write(agent.home("a"), "0123456789").expect("written");
    let answer = agent.get("/files?path=a");
    assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(
        answer
            .header("vary")
            .map(|vary| vary.contains("Accept-Encoding") || vary.contains("accept-encoding")),
        Some(true)
    );
    std::fs::write(agent.home("empty"), "").expect("written");
    assert_eq!(agent.get("/files?path=empty").header("content-length"), Some("0"));
    let missing = agent.home("none").display().to_string();
    assert_eq!(
        error(&agent.get("/files?path=none")),
        (404, format!("path '{missing}' does not exist"))
    );
    assert_eq!(error(&agent.get("/files?path=/tmp")).0, 400);
    assert_eq!(error(&agent.get("/files?path=/dev/zero")).0, 400);
    let kernel_file = agent.get("/files?path=/proc/self/comm");
    assert!(!kernel_file.body.is_empty(), "the kernel's files have content");
}

#[test]
fn ranges_and_conditions() {
    let agent = Agent::start();
    std::fs::write(agent.home("a"), "0123456789").expect("written");
    let get = |headers: &[(&str, &str)]| agent.request("GET", "/files?path=a", headers, b"");
    let part = get(&[("range", "bytes=2-4"), ("accept-encoding", "gzip")]);
    assert_eq!((part.status, part.text().as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(part.header("content-length"), Some("3"));
    let beyond = get(&[("range", "bytes=10-")]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let several = get(&[("range", "bytes=0-1,-2,20-")]);
    let kind = several.header("content-type").expect("a type").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("parts");
    let part = |range: &str, content: &str| {
        format!("--{boundary}\r\nContent-Range: bytes {range}/10\r\nContent-Type: application/octet-stream\r\n\r\n{content}\r\n")
    };
    let expected = format!("{}{}--{boundary}--\r\n", part("0-1", "01"), part("8-9", "89"));
    assert_eq!((several.status, several.text()), (206, expected.clone()));
    assert_eq!(several.header("content-length"), Some(expected.len().to_string().as_str()));
    assert_eq!(get(&[("range", "bytes=0-8,1-9")]).status, 200, "more than there is");
    let modified = get(&[]).header("last-modified").expect("a date").to_owned();
    assert_eq!(get(&[("if-modified-since", &modified)]).status, 304);
    assert_eq!(get(&[("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT")]).status, 200);
    assert_eq!(get(&[("range", "bytes=0-0"), ("if-range", &modified)]).status, 206);
    assert_eq!(
        get(&[("range", "bytes=0-0"), ("if-range", "Thu, 01 Jan 1970 00:00:00 GMT")]).status,
        200
    );
    assert_eq!(error(&get(&[("accept-encoding", "br, identity;q=0")])).0, 406);
}

/// What is no text was taken for a name with other characters in it.
#[test]
fn names_that_are_no_text_are_refused() {
    let agent = Agent::start();
    for query in [
        "path=%ff%fe",
        "path=a%c0%ae",
        "username=%ff&path=a",
        "signature_expiration=soon&path=a",
    ] {
        let target = format!("/files?{query}");
        assert_eq!(error(&agent.get(&target)).0, 400, "{query}");
        assert_eq!(
            error(&agent.request("POST", &target, &[("content-type", "application/octet-stream")], b"x")).0,
            400
        );
    }
    let form = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\xff\"\r\n\r\nx\r\n--b--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=b")];
    assert_eq!(error(&agent.request("POST", "/files", &headers, form)).0, 400);
    assert_eq!(
        std::fs::read_dir(agent.home("")).expect("a home").count(),
        0,
        "nothing was written"
    );
}

#[test]
fn large_files_arrive_whole_in_pieces() {
    let agent = Agent::start();
    // Not a multiple of any buffer.
    let content: Vec<u8> = (0..3_000_001_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    assert_eq!(put(&agent, "large", &[], &content).status, 200);
    assert_eq!(std::fs::read(agent.home("large")).expect("written"), content);
    assert!(agent.get("/files?path=large").body == content);
    let part = agent.request("GET", "/files?path=large", &[("range", "bytes=1000-2500000")], b"");
    assert!(part.body == content[1000..=2_500_000]);
}

#[test]
fn gzip_in_both_directions() {
    let agent = Agent::start();
    let text = "dormouse ".repeat(10_000);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).expect("compressed");
    let compressed = encoder.finish().expect("compressed");
    assert_eq!(put(&agent, "a", &[("content-encoding", "gzip")], &compressed).status, 200);
    assert_eq!(std::fs::read_to_string(agent.home("a")).expect("there"), text);
    let answer = agent.request("GET", "/files?path=a", &[("accept-encoding", "gzip")], b"");
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(answer.body.as_slice())
        .read_to_string(&mut unpacked)
        .expect("gzip");
    assert_eq!(unpacked, text);
    assert_eq!(
        put(&agent, "b", &[("content-encoding", "gzip")], b"this is no gzip").status,
        400
    );
}

#[test]
fn metadata_is_replaced_as_a_whole() {
    let agent = Agent::start();
    let answer = put(&agent, "a", &[("X-Metadata-Kind", "x"), ("X-Metadata-Old", "y")], b"1");
    if answer.status == 400 {
        return println!("skipped: no extended attributes on this file system");
    }
    assert_eq!(answer.json()[0]["metadata"], json!({"kind": "x", "old": "y"}));
    let stat = || agent.call("filesystem.Filesystem/Stat", &json!({"path": "a"})).json()["entry"]["metadata"].clone();
    assert_eq!(stat(), json!({"kind": "x", "old": "y"}));
    put(&agent, "a", &[("X-Metadata-Kind", "z")], b"1");
    assert_eq!(stat(), json!({"kind": "z"}));
    assert_eq!(put(&agent, "a", &[], b"1").json()[0].get("metadata"), None);
    assert_eq!(stat(), json!(null));
}

#[test]
fn signatures_open_one_file() {
    let agent = Agent::start();
    std::fs::write(agent.home("a"), "secret").expect("written");
    let init = json!({"sandboxId": "i1", "templateId": "t", "hostname": "", "accessToken": "tok"});
    let headers = [("content-type", "application/json")];
    assert_eq!(
        agent
            .request("POST", "/init", &headers, &serde_json::to_vec(&init).expect("JSON"))
            .status,
        204
    );
    let link = |operation, expiration: Option<i64>| {
        let signature = sign("a", operation, "user", "tok", expiration)
            .replace('+', "%2B")
            .replace('/', "%2F");
        let expiration = expiration.map(|at| format!("&signature_expiration={at}")).unwrap_or_default();
        format!("/files?path=a&username=user&signature={signature}{expiration}")
    };
    assert_eq!(agent.get(&link(Operation::Read, None)).text(), "secret");
    assert_eq!(agent.get(&link(Operation::Read, Some(i64::from(u32::MAX)))).text(), "secret");
    assert_eq!(
        error(&agent.get("/files?path=a")),
        (401, "missing signature query parameter".into())
    );
    assert_eq!(
        error(&agent.get(&link(Operation::Write, None))),
        (401, "invalid signature".into())
    );
    let expired = agent.get(&link(Operation::Read, Some(1)));
    assert_eq!(expired.text(), r#"{"code":401,"message":"signature is already expired"}"#);
    let with_token = |token: &str| agent.request("GET", "/files?path=a", &[("x-access-token", token)], b"");
    assert_eq!(with_token("tok").text(), "secret");
    assert_eq!(
        error(&with_token("x")),
        (401, "access token present in header but does not match".into())
    );
    let written = upload(
        &agent,
        link(Operation::Write, None).trim_start_matches("/files"),
        &[part("name=\"file\"", "new")],
    );
    assert_eq!(written.status, 200, "{}", written.text());
}

#[test]
fn pieces_become_one() {
    let agent = Agent::start();
    for (name, content) in [("p1", "one "), ("p2", "two")] {
        std::fs::write(agent.home(name), content).expect("written");
    }
    let compose = |body: &serde_json::Value| {
        let body = serde_json::to_vec(body).expect("JSON");
        agent.request("POST", "/files/compose", &[("content-type", "application/json")], &body)
    };
    let missing = compose(&json!({"source_paths": ["p1", "none"], "destination": "whole"}));
    assert_eq!(missing.status, 404);
    assert!(agent.home("p1").exists(), "nothing is lost");
    let answer = compose(&json!({"source_paths": ["p1", "p2"], "destination": "d/whole"}));
    assert_eq!(
        (answer.status, answer.json()["name"].as_str()),
        (200, Some("whole")),
        "{}",
        answer.text()
    );
    assert_eq!(answer.json()["type"], "FILE_TYPE_FILE");
    assert_eq!(std::fs::read_to_string(agent.home("d/whole")).expect("there"), "one two");
    assert!(!agent.home("p1").exists() && !agent.home("p2").exists());
}
