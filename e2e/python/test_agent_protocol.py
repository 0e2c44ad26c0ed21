"""The agent's protocol as it is on the wire: what the clients rely on, and what none of them sends."""

import base64
import socket
import struct
import time

import httpx
import pytest
from conftest import SANDBOX_URL, eventually
from connect_rpc import AGENT, END, MESSAGE, Stream, envelope, headers, start, unary

START = "process.Process/Start"
CONNECT = "process.Process/Connect"
STREAM_INPUT = "process.Process/StreamInput"
CONNECT_JSON = "application/connect+json"


def assert_error(response, status, code):
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json()["message"]


def test_events_of_a_command(sandbox):
    with Stream(sandbox, START, start("printf out; printf err >&2; exit 3")) as stream:
        assert stream.response.status_code == 200
        assert stream.response.headers["content-type"] == CONNECT_JSON
        assert "content-encoding" not in stream.response.headers
        first = stream.event()
        assert set(first) == {"start"} and first["start"]["pid"] > 1
        events = [stream.event() for _ in range(3)]
        data = {name: base64.b64decode(text) for event in events[:2] for name, text in event["data"].items()}
        assert data == {"stdout": b"out", "stderr": b"err"}
        assert events[2] == {"end": {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"}}
        assert stream.next() == (END, {})


def test_chunks_are_at_most_32_kib(sandbox):
    sizes = []
    with Stream(sandbox, START, start("head -c 1000000 /dev/zero")) as stream:
        while "end" not in (event := stream.event()):
            sizes.append(len(base64.b64decode(event.get("data", {}).get("stdout", ""))))
    assert sum(sizes) == 1_000_000 and max(sizes) <= 32 << 10


def test_silence_is_broken_by_keepalives(sandbox):
    with Stream(sandbox, START, start("sleep 1000"), Keepalive_Ping_Interval="1") as stream:
        assert "start" in stream.event()
        assert [stream.event() for _ in range(2)] == [{"keepalive": {}}] * 2
    with Stream(sandbox, "filesystem.Filesystem/WatchDir", {"path": "/tmp"}, Keepalive_Ping_Interval="1") as stream:
        assert stream.next() == (MESSAGE, {"start": {}})
        assert stream.next() == (MESSAGE, {"keepalive": {}})


def test_timeout_of_a_start_kills(sandbox):
    with Stream(sandbox, START, start("echo $$ > /tmp/pid; exec sleep 1000"), Connect_Timeout_Ms="700") as stream:
        assert stream.end()["code"] == "deadline_exceeded"
    eventually(lambda: "gone" in sandbox.commands.run("kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone").stdout)


def test_timeout_kills_also_when_nobody_listens(sandbox):
    with Stream(sandbox, START, start("echo $$ > /tmp/pid; exec sleep 1000"), Connect_Timeout_Ms="700") as stream:
        assert "start" in stream.event()
    eventually(lambda: sandbox.files.exists("/tmp/pid"))
    eventually(lambda: "gone" in sandbox.commands.run("kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone").stdout)


def test_timeout_of_a_listener_spares_the_command(sandbox):
    command = sandbox.commands.run("sleep 1000", background=True)
    with Stream(sandbox, CONNECT, {"process": {"pid": command.pid}}, Connect_Timeout_Ms="300") as stream:
        assert stream.end()["code"] == "deadline_exceeded"
    assert sandbox.commands.kill(command.pid) is True


def test_end_of_a_command_is_told_to_those_who_come_late(sandbox):
    pids = {}
    for code in (0, 7):
        with Stream(sandbox, START, start(f"exit {code}", tag=f"ended-{code}")) as stream:
            pids[code] = stream.event()["start"]["pid"]
            assert stream.end() is None
    for code, pid in pids.items():
        for selector in ({"pid": pid}, {"tag": f"ended-{code}"}):
            with Stream(sandbox, CONNECT, {"process": selector}) as stream:
                assert stream.event() == {"start": {"pid": pid}}
                end = stream.event()["end"]
                assert (end.get("exitCode", 0), end["exited"], end["status"]) == (code, True, f"exit status {code}")
                assert stream.end() is None


def test_only_the_latest_ends_are_kept(sandbox):
    with Stream(sandbox, START, start("exit 1")) as stream:
        pid = stream.event()["start"]["pid"]
        stream.end()
    for _ in range(130):
        with Stream(sandbox, START, {"process": {"cmd": "/bin/true"}, "stdin": False}) as stream:
            stream.end()
    with Stream(sandbox, CONNECT, {"process": {"pid": pid}}) as stream:
        error = stream.end()
    assert error == {"code": "not_found", "message": f"process with pid {pid} not found"}


def test_signals(sandbox):
    command = sandbox.commands.run("trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done", background=True)
    assert next(iter(command))[0] == "ready\n"
    selector = {"process": {"pid": command.pid}}
    assert_error(unary(sandbox, "process.Process/SendSignal", {**selector, "signal": 2}), 501, "unimplemented")
    assert unary(sandbox, "process.Process/SendSignal", {**selector, "signal": "SIGNAL_SIGTERM"}).json() == {}
    with Stream(sandbox, CONNECT, selector) as stream:
        while "end" not in (event := stream.event()):
            pass
    assert event["end"]["exitCode"] == 9


def test_input_of_the_wrong_kind(sandbox):
    send = "process.Process/SendInput"
    data = base64.b64encode(b"x").decode()
    without = sandbox.commands.run("sleep 1000", background=True, stdin=False).pid
    assert_error(unary(sandbox, send, {"process": {"pid": without}, "input": {"stdin": data}}), 500, "internal")
    assert_error(unary(sandbox, send, {"process": {"pid": without}, "input": {"pty": data}}), 500, "internal")
    assert_error(unary(sandbox, "process.Process/Update", {"process": {"pid": without}, "pty": {"size": {"cols": 9, "rows": 9}}}), 500, "internal")
    assert_error(unary(sandbox, send, {"process": {"pid": 999_999}, "input": {"stdin": data}}), 404, "not_found")
    assert_error(unary(sandbox, send, {"process": {"pid": without}, "input": {"stdin": "!"}}), 400, "invalid_argument")


def test_streamed_input(sandbox):
    command = sandbox.commands.run("cat", background=True, stdin=True)
    parts = [{"start": {"process": {"pid": command.pid}}}, {"keepalive": {}}]
    parts += [{"data": {"input": {"stdin": base64.b64encode(text).decode()}}} for text in (b"one ", b"two ", b"three")]
    body = b"".join(envelope(part) for part in parts)
    with Stream(sandbox, STREAM_INPUT, (body[at : at + 7] for at in range(0, len(body), 7))) as stream:
        assert stream.next() == (MESSAGE, {})
        assert stream.next() == (END, {})
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout == "one two three"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00\x00",
        struct.pack(">BI", 0, 100) + b"{}",
        struct.pack(">BI", 0, 2**32 - 1) + b"{}",
        struct.pack(">BI", 0, 65 << 20) + b"{}",
        envelope(b"{"),
        envelope(b"[]"),
        envelope(b"\xff\xfe"),
        envelope(b'{"process":{"pid":"x"},"start":5}'),
        envelope(b'{"process":{"pid":-1},"data":[]}'),
        envelope(b"{}", flags=1),
        envelope(b"{}", flags=END),
        b"\x16\x03\x01" + b"\x00" * 50,
    ],
    ids=lambda body: body[:20].hex() or "nothing",
)
@pytest.mark.parametrize("method", [START, CONNECT, STREAM_INPUT])
def test_broken_frames_end_in_an_error(shared, method, body):
    if method == STREAM_INPUT and body in (b"", envelope(b"{}", flags=END)):
        pytest.skip("an empty stream of input is a whole one")
    with Stream(shared, method, body) as stream:
        if stream.response.headers.get("content-type") == CONNECT_JSON:
            error = stream.end()
            assert error["code"] and error["message"]
        else:
            assert 400 <= stream.response.status_code < 500
    assert shared.commands.run("echo alive").stdout == "alive\n"


def test_one_message_too_many(shared):
    with Stream(shared, CONNECT, envelope({"process": {"pid": 999_999}}) * 2) as stream:
        assert stream.end()["code"] in ("invalid_argument", "unimplemented", "not_found")


def test_entries_of_broken_links_are_listed(sandbox):
    """The clients leave them out; on the wire they are there."""
    sandbox.commands.run("mkdir d; ln -s nowhere d/broken; ln -s /etc d/fine")
    entries = unary(sandbox, "filesystem.Filesystem/ListDir", {"path": "d", "depth": 1}).json()["entries"]
    broken, fine = entries
    assert broken["name"] == "broken" and broken["isSymlink"] and broken.get("type") in (None, "FILE_TYPE_UNSPECIFIED")
    assert broken["symlinkTarget"] == "/home/user/d/broken" and broken.get("mode", 0) == 0
    assert (fine["type"], fine["symlinkTarget"], fine["permissions"]) == ("FILE_TYPE_DIRECTORY", "/etc", "Lrwxrwxrwx")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"path":1}', b'{"path":"\\ud800"}', b"{}}"])
def test_broken_messages(shared, body):
    response = unary(shared, "filesystem.Filesystem/Stat", body)
    if body in (b"", b"null", b"[]"):
        assert response.status_code in (200, 400)
    else:
        assert_error(response, 400, "invalid_argument")


def test_oversized_messages(shared):
    response = unary(shared, "filesystem.Filesystem/Stat", b'{"path":"' + b"x" * (65 << 20) + b'"}')
    assert_error(response, 429, "resource_exhausted")


def test_unknown_methods_and_types(shared):
    assert unary(shared, "process.Process/NoSuch", {}).status_code in (404, 501)
    assert unary(shared, "no.Such/Method", {}).status_code in (404, 501)
    sent = {**headers(shared), "Content-Type": "text/plain"}
    assert httpx.post(f"{SANDBOX_URL}/process.Process/List", content=b"{}", headers=sent).status_code == 415
    sent["Content-Type"] = "application/json"
    assert httpx.get(f"{SANDBOX_URL}/process.Process/List", headers=sent).status_code in (400, 405, 415)


def test_python_s_headers_are_taken(shared):
    extra = {"Content_Encoding": "identity", "Accept_Encoding": "identity", "Connect_Timeout_Ms": "60000"}
    response = unary(shared, "process.Process/List", {}, **extra)
    assert response.status_code == 200 and "content-encoding" not in response.headers
    extra = {"Connect_Content_Encoding": "identity", "Connect_Accept_Encoding": "identity", "Accept_Encoding": "zstd,gzip,br"}
    with Stream(shared, START, start("echo x"), **extra) as stream:
        assert stream.end() is None
        assert "content-encoding" not in stream.response.headers


def test_snake_case_numbers_for_names_and_unknown_fields(shared):
    body = {"path": "/etc", "depth": 1, "someday": {"maybe": []}}
    assert unary(shared, "filesystem.Filesystem/ListDir", body).status_code == 200
    watcher = unary(shared, "filesystem.Filesystem/CreateWatcher", {"path": "/tmp", "include_entry": True}).json()["watcherId"]
    assert unary(shared, "filesystem.Filesystem/GetWatcherEvents", {"watcher_id": watcher}).json().get("events", []) == []
    assert unary(shared, "filesystem.Filesystem/RemoveWatcher", {"watcher_id": watcher}).json() == {}
    for method in ("GetWatcherEvents", "RemoveWatcher"):
        assert_error(unary(shared, f"filesystem.Filesystem/{method}", {"watcherId": watcher}), 404, "not_found")


@pytest.mark.parametrize(
    "path, status",
    [
        ("a\u0000b", 400),
        ("~nobody/x", 400),
        ("x" * 5000, 400),
        ("d/" * 3000, 400),
        ("/" + "y" * 300, 400),
        ("../../etc/passwd", 200),
        ("/../../../etc/passwd", 200),
        ("/etc/./../etc//passwd", 200),
        ("/proc/self/root/etc/passwd", 200),
        ("/etc/passwd/", 200),
        ("/etc/passwd/below", 404),
    ],
)
def test_tricks_with_paths(shared, path, status):
    assert unary(shared, "filesystem.Filesystem/Stat", {"path": path}).status_code == status
    response = httpx.get(f"{SANDBOX_URL}/files", params={"path": path}, headers=headers(shared))
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json()["code"] == status


@pytest.mark.parametrize("query", ["path=%ff%fe", "path=%00", "path=a%00b", "path=" + "x" * 5000, "path=%c0%ae%c0%ae/etc/passwd"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_paths_that_are_no_text(shared, method, query):
    sent = {**headers(shared), "Content-Type": "application/octet-stream"}
    response = httpx.request(method, f"{SANDBOX_URL}/files?{query}", headers=sent, content=b"x" if method == "POST" else None)
    assert 400 <= response.status_code < 500 or response.status_code == 200 and "c0" in query
    assert not shared.files.exists("/etc/passwdx")


@pytest.mark.parametrize("user", ["nobody-knows", "..", "root\u0000", "a b", "x" * 3000])
def test_unknown_users(shared, user):
    assert_error(unary(shared, "filesystem.Filesystem/Stat", {"path": "/"}, user=user), 401, "unauthenticated")
    response = httpx.get(f"{SANDBOX_URL}/files", params={"path": "/etc/hostname", "username": user}, headers=headers(shared))
    assert response.status_code == 401 and "error looking up user" in response.json()["message"]


def test_names_in_file_systems_need_not_be_text(sandbox):
    sandbox.commands.run("mkdir bytes && cd bytes && touch $'\\xff\\xfe' plain && mkdir $'d\\xff'")
    names = [entry.name for entry in sandbox.files.list("bytes", depth=2)]
    assert len(names) == 3 and "plain" in names
    handle = sandbox.files.watch_dir("bytes")
    sandbox.commands.run("touch bytes/$'\\xfd'")
    eventually(lambda: handle.get_new_events())


def test_several_ranges(sandbox):
    sandbox.files.write("/tmp/digits", "0123456789" * 100)
    get = lambda ranges: httpx.get(
        f"{SANDBOX_URL}/files", params={"path": "/tmp/digits"}, headers={**headers(sandbox), "Range": ranges}
    )
    one = get("bytes=10-14")
    assert (one.status_code, one.text, one.headers["content-range"]) == (206, "01234", "bytes 10-14/1000")
    assert get("bytes=-3").text == "789"
    assert get("bytes=2000-").status_code == 416
    assert get("bytes=2000-").headers["content-range"] == "bytes */1000"
    several = get("bytes=0-1,500-502,-1,5000-")
    assert several.status_code == 206
    kind, boundary = several.headers["content-type"].split("; boundary=")
    assert kind == "multipart/byteranges"
    assert int(several.headers["content-length"]) == len(several.content)
    parts = several.content.split(f"--{boundary}".encode())
    assert (parts[0], parts[-1]) == (b"", b"--\r\n")
    read = [part.strip(b"\r\n").split(b"\r\n\r\n") for part in parts[1:-1]]
    assert [content for _, content in read] == [b"01", b"012", b"9"]
    assert b"Content-Range: bytes 500-502/1000" in read[1][0]
    assert get("bytes=0-900,50-950").status_code == 200, "more than there is: all of it"


def test_conditional_downloads(sandbox):
    sandbox.files.write("/tmp/f", "content")
    get = lambda **extra: httpx.get(f"{SANDBOX_URL}/files", params={"path": "/tmp/f"}, headers=headers(sandbox, **extra))
    modified = get().headers["last-modified"]
    assert get(If_Modified_Since=modified).status_code == 304
    assert get(If_Unmodified_Since="Thu, 01 Jan 1970 00:00:10 GMT").status_code == 412
    assert get(Range="bytes=0-1", If_Range="Thu, 01 Jan 1970 00:00:10 GMT").text == "content"
    assert get(Range="bytes=0-1", If_Range=modified).text == "co"
    assert get(Accept_Encoding="br;q=1, identity;q=0").status_code == 406
    assert get().headers["vary"].lower().startswith("accept-encoding")


def upload(sandbox, files, **params):
    return httpx.post(f"{SANDBOX_URL}/files", params=params, files=files, headers=headers(sandbox), timeout=60)


def test_forms(sandbox):
    written = upload(sandbox, [("file", ("/tmp/a/b c.txt", b"1")), ("other", ("ignored", b"2")), ("file", ("rel/ü.txt", b"3"))])
    assert written.json() == [
        {"path": "/tmp/a/b c.txt", "name": "b c.txt", "type": "file"},
        {"path": "/home/user/rel/ü.txt", "name": "ü.txt", "type": "file"},
    ]
    assert sandbox.files.read("rel/ü.txt") == "3"
    assert upload(sandbox, {"file": ("x", b"1")}, path="/tmp/named").json()[0]["path"] == "/tmp/named"
    assert upload(sandbox, [("file", ("/tmp/z", b"1")), ("file", ("/tmp/z", b"2"))]).status_code == 400
    assert upload(sandbox, {"file": ("/tmp", b"1")}).status_code == 400


@pytest.mark.parametrize(
    "content_type, body",
    [
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/tmp/cut\"\r\n\r\ncontent"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n\r\n--b--"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data", b"--b--"),
        ("application/json", b"{}"),
        ("", b"x"),
        ("application/octet-stream", b"no path"),
    ],
)
def test_bad_uploads(shared, content_type, body):
    sent = {**headers(shared), "Content-Type": content_type}
    response = httpx.post(f"{SANDBOX_URL}/files", content=body, headers=sent)
    assert response.status_code == 400 and response.json()["code"] == 400 and response.json()["message"]


def test_broken_gzip_is_refused(shared):
    sent = {**headers(shared), "Content-Type": "application/octet-stream", "Content-Encoding": "gzip"}
    response = httpx.post(f"{SANDBOX_URL}/files", params={"path": "/tmp/gz"}, content=b"not gzip", headers=sent)
    assert response.status_code == 400
    sent["Content-Encoding"] = "br"
    assert httpx.post(f"{SANDBOX_URL}/files", params={"path": "/tmp/gz"}, content=b"x", headers=sent).status_code == 400


@pytest.mark.parametrize(
    "name, value", [("X-Metadata-a", "tab\there"), ("X-Metadata-" + "k" * 247, "x"), ("X-Metadata-a", "v" * 4097), ("X-Metadata-", "x")]
)
def test_metadata_that_cannot_be_kept(shared, name, value):
    sent = {**headers(shared), "Content-Type": "application/octet-stream", name: value}
    response = httpx.post(f"{SANDBOX_URL}/files", params={"path": "/tmp/meta"}, content=b"x", headers=sent)
    assert response.status_code == 400, response.text


def test_pieces_are_joined(sandbox):
    for number in range(3):
        sandbox.files.write(f"/tmp/piece{number}", str(number) * 3)
    body = {"source_paths": [f"/tmp/piece{number}" for number in range(3)], "destination": "joined/whole"}
    joined = httpx.post(f"{SANDBOX_URL}/files/compose", json=body, headers=headers(sandbox))
    assert joined.status_code == 200 and joined.json()["path"] == "/home/user/joined/whole"
    assert sandbox.files.read("joined/whole") == "000111222"
    assert not sandbox.files.exists("/tmp/piece0")
    assert httpx.post(f"{SANDBOX_URL}/files/compose", json=body, headers=headers(sandbox)).status_code == 404


def test_measurements_and_environment(make):
    sandbox = make(envs={"FOO": "bar"})
    metrics = httpx.get(f"{SANDBOX_URL}/metrics", headers=headers(sandbox)).json()
    wanted = "ts cpu_count cpu_used_pct mem_total mem_used mem_cache mem_total_mib mem_used_mib disk_used disk_total"
    assert set(wanted.split()) <= set(metrics)
    assert metrics["mem_total"] > metrics["mem_used"] > 0 and metrics["cpu_count"] >= 1
    assert abs(metrics["ts"] - time.time()) < 60
    envs = httpx.get(f"{SANDBOX_URL}/envs", headers=headers(sandbox)).json()
    assert (envs["FOO"], envs["E2B_SANDBOX_ID"]) == ("bar", sandbox.sandbox_id)


def test_a_client_that_never_reads_holds_nothing_up(sandbox):
    """Its output stops; the agent and everybody else go on."""
    host, port = httpx.URL(SANDBOX_URL).host, httpx.URL(SANDBOX_URL).port
    body = envelope(start("yes"))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers(sandbox).items())
    with socket.create_connection((host, port)) as silent:
        silent.sendall(
            f"POST /{START} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {CONNECT_JSON}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
        )
        assert silent.recv(1024).startswith(b"HTTP/1.1 200")
        assert sandbox.commands.run("echo others").stdout == "others\n"
        resident = int(sandbox.commands.run("awk '/VmRSS/ {print $2}' /proc/1/status", user="root").stdout)
        assert resident < 64 << 10
    sandbox.commands.run("pkill yes || true")


def test_agent_is_idle_when_nothing_happens(sandbox):
    """No timers: its processor time stands still between two looks."""
    # Fields of /proc/1/stat, and of a second look without any request in between.
    script = "a=$(cut -d' ' -f14,15 /proc/1/stat); sleep 5; b=$(cut -d' ' -f14,15 /proc/1/stat); echo $a; echo $b"
    sandbox.commands.run("true")
    before, after = ([int(ticks) for ticks in line.split()] for line in sandbox.commands.run(script).stdout.splitlines())
    # Starting `sleep` and reporting its end is work, of a tick or two.
    assert sum(after) - sum(before) <= 3


@pytest.fixture(scope="module")
def shared():
    """A sandbox for tests that must change nothing in it."""
    from e2b import Sandbox

    sandbox = Sandbox.create(timeout=600)
    yield sandbox
    sandbox.kill()
