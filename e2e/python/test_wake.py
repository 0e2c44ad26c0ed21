"""What a sandbox finds after it slept: everything, as it was. These run once more with deep sleep only."""

import time

import pytest
from conftest import WAKES, eventually, serve

from e2b import Sandbox


@pytest.fixture
def awake(make, ports):
    """A sandbox with the test server in it, and a function that reads the server's state."""
    sandbox = make(lifecycle=WAKES, envs={"MARKER": "kept"})
    process = serve(sandbox, ports)
    return sandbox, process, lambda: ports(sandbox, 8000, path="/state").json()


def test_a_running_server_goes_on(awake):
    sandbox, process, state = awake
    before = state()
    sandbox.pause()

    after = state()

    assert after["pid"] == before["pid"] == process.pid
    assert after["token"] == before["token"]
    assert after["ticks"] >= before["ticks"]
    assert after["unlinked"] == "kept open"
    assert after["in_flight"] == "in flight"
    assert after["loopback"] == "x"
    assert after["marker"] == "kept"
    eventually(lambda: state()["ticks"] > after["ticks"])


def test_many_sleeps_in_a_row(awake):
    # With connections open at each: a snapshot of such a moment once went deaf in one of five.
    sandbox, _, state = awake
    token = state()["token"]
    for _ in range(15):
        sandbox.pause()
        assert state()["token"] == token
        assert sandbox.commands.run("echo awake").stdout == "awake\n"


@pytest.mark.parametrize("directory", ["/", "/dev", "/etc", "/usr/bin"])
def test_first_call_after_a_wake_may_be_any(make, directory):
    # A new sandbox is one that woke: programs once crashed on code that nobody had run since.
    sandbox = make(lifecycle=WAKES)
    assert sandbox.files.list(directory)
    sandbox.pause()
    assert sandbox.files.list(directory)


def test_programs_start_after_a_wake(make):
    sandbox = make(lifecycle=WAKES)
    commands = ["python3 -c 'import ssl, json, sqlite3; print(1)'", "node -e 'console.log(1)'", "git --version > /dev/null; echo 1"]
    for command in commands:
        assert sandbox.commands.run(command).stdout == "1\n"
        sandbox.pause()
        assert sandbox.commands.run(command).stdout == "1\n"


def test_clock_is_right_after_a_sleep(awake):
    sandbox, _, state = awake
    sandbox.pause()
    time.sleep(3)
    assert abs(state()["time"] - time.time()) < 1
    assert abs(float(sandbox.commands.run("date +%s.%N").stdout) - time.time()) < 1


def test_time_does_not_pass_for_a_sleeping_program(awake):
    sandbox, _, state = awake
    sandbox.pause()
    before = state()["ticks"]
    sandbox.pause()
    time.sleep(3)
    # It ticks 100 times a second while awake.
    assert state()["ticks"] - before < 200


def test_files_in_memory_and_on_disk_are_kept(make):
    sandbox = make()
    sandbox.commands.run("echo disk > ~/f; echo shm > /dev/shm/f; echo tmp > /tmp/f; rm ~/.profile")
    sandbox.commands.run("echo etc > /etc/f", user="root")
    sandbox.pause()
    sandbox.connect()
    assert sandbox.commands.run("cat ~/f /dev/shm/f /tmp/f /etc/f; test -e ~/.profile || echo removed").stdout.split() == [
        "disk", "shm", "tmp", "etc", "removed",
    ]


def test_mounted_tmpfs_is_kept(make):
    sandbox = make()
    sandbox.commands.run("mkdir /mnt/t && mount -t tmpfs none /mnt/t && echo x > /mnt/t/f", user="root")
    sandbox.pause()
    sandbox.connect()
    assert sandbox.commands.run("cat /mnt/t/f").stdout == "x\n"


def test_background_command_goes_on_and_can_be_listened_to(make):
    sandbox = make()
    command = sandbox.commands.run("read line; echo got $line", background=True, stdin=True, timeout=0)
    sandbox.pause()
    same = Sandbox.connect(sandbox.sandbox_id)
    assert command.pid in [process.pid for process in same.commands.list()]
    again = same.commands.connect(command.pid)
    same.commands.send_stdin(command.pid, "it\n")
    assert again.wait().stdout == "got it\n"


@pytest.mark.xfail(reason="a reader that waits in open() of a named pipe over a pause may wait for ever (docs/engines.md, Limits)", strict=False)
@pytest.mark.timeout(60)
def test_pipeline_that_waits_goes_on(make):
    sandbox = make()
    sandbox.commands.run("mkfifo /tmp/in; (cat /tmp/in | tr a-z A-Z > /tmp/out) > /dev/null 2>&1 &")
    sandbox.pause()
    sandbox.connect()
    sandbox.commands.run("echo hello > /tmp/in", timeout=20)
    eventually(lambda: sandbox.files.read("/tmp/out") == "HELLO\n")


def test_memory_of_a_large_program_is_kept(make, ports):
    sandbox = make(lifecycle=WAKES)
    sandbox.files.write(
        "/home/user/big.py",
        "import hashlib, os, sys\nblock = os.urandom(100 << 20)\nprint(hashlib.sha256(block).hexdigest(), flush=True)\n"
        "sys.stdin.readline()\nprint(hashlib.sha256(block).hexdigest(), flush=True)\n",
    )
    command = sandbox.commands.run("exec python3 big.py > out.txt", background=True, stdin=True, timeout=0)
    eventually(lambda: sandbox.files.exists("out.txt") and len(sandbox.files.read("out.txt").split()) == 1)
    sandbox.pause()
    sandbox.commands.send_stdin(command.pid, "\n")
    first, second = eventually(lambda: (lines := sandbox.files.read("out.txt").split()) and len(lines) == 2 and lines)
    assert first == second


def test_every_kind_of_call_wakes_it(make, ports):
    sandbox = make(lifecycle=WAKES)
    serve(sandbox, ports)
    sandbox.files.write("f", "x")
    calls = [
        lambda: sandbox.commands.run("true"),
        lambda: sandbox.files.read("f"),
        lambda: sandbox.files.write("f", "y"),
        lambda: sandbox.files.list("/home/user"),
        lambda: sandbox.commands.list(),
        lambda: ports(sandbox, 8000).raise_for_status(),
        lambda: ports(sandbox, 8000, "POST", content=b"body").raise_for_status(),
    ]
    for call in calls:
        sandbox.pause()
        call()
        assert sandbox.is_running()


def test_request_body_arrives_whole_at_a_waking_server(make, ports):
    sandbox = make(lifecycle=WAKES)
    serve(sandbox, ports)
    sandbox.pause()
    body = b"z" * 3_000_000
    assert ports(sandbox, 8000, "PUT", content=body).json()["length"] == len(body)


def test_sandbox_sleeps_on_its_own_and_wakes_on_a_page_view(make, ports):
    sandbox = make(timeout=300, lifecycle=WAKES)
    process = serve(sandbox, ports)
    sandbox.set_timeout(1)
    eventually(lambda: sandbox.get_info().state.value == "paused")
    assert ports(sandbox, 8000, path="/state").json()["pid"] == process.pid


def test_outgoing_connections_work_after_a_wake(make, ports):
    sandbox = make(lifecycle=WAKES)
    serve(sandbox, ports)
    sandbox.pause()
    assert "state" not in sandbox.commands.run("curl -s http://127.0.0.1:8000/").stdout
    assert sandbox.commands.run("curl -s -o /dev/null -w '%{http_code}' http://localhost:8000/").stdout == "200"
