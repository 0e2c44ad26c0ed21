"""E2B's own command line, `@e2b/cli`: what works without a login at E2B, and what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import eventually
from terminal import Screen

E2B = Path(__file__).parents[2] / "node_modules/.bin/e2b"

pytestmark = pytest.mark.skipif(not E2B.exists(), reason="@e2b/cli is not installed: cargo xtask clients --refresh")


@pytest.fixture
def environment(tmp_path):
    # A home of its own, so that a login of the person who runs the tests is not used. Node.js may be one of the clients'.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "HOME": str(tmp_path), "PATH": path, "NO_COLOR": "1", "TERM": "xterm"}


@pytest.fixture
def e2b(environment):
    def run(*arguments, status=0, stream="stdout", **more):
        if "input" not in more:
            more["stdin"] = subprocess.DEVNULL
        command = [str(E2B), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, **more)
        assert done.returncode == status, done.stdout + done.stderr
        return getattr(done, stream)

    return run


@pytest.fixture
def screen(environment):
    screens = []

    def open_screen(*arguments, **more):
        screens.append(Screen([str(E2B), *arguments], env=environment, **more))
        return screens[-1]

    yield open_screen
    for it in screens:
        it.close()


@pytest.fixture
def made(e2b, api):
    """Makes sandboxes by `e2b sandbox create --detach`, which prints the id."""
    ids = []

    def create(*options):
        ids.append(e2b("sandbox", "create", "base", "--detach", *options).strip())
        return ids[-1]

    yield create
    for id in ids:
        api.delete(f"/sandboxes/{id}")


def test_create_list_info_and_kill(e2b, made, api):
    id = made("--timeout", "77", "--lifecycle.ontimeout", "pause", "--lifecycle.autoresume")
    assert id in e2b("sandbox", "list")
    listed = json.loads(e2b("sandbox", "list", "--format", "json", "--template", "base"))
    ours = next(sandbox for sandbox in listed if sandbox["sandboxId"] == id)
    assert (ours["name"], ours["state"]) == ("base", "running")
    info = json.loads(e2b("sandbox", "info", id, "--format", "json"))
    assert info["lifecycle"] == {"onTimeout": "pause", "autoResume": True}
    assert f"Sandbox ID: {id}" in e2b("sandbox", "info", id)
    assert "has been killed" in e2b("sandbox", "kill", id)
    assert api.get(f"/sandboxes/{id}").status_code == 404
    assert "wasn't found" in e2b("sandbox", "kill", id, stream="stderr")


def test_kill_all_kills_those_that_match(e2b, make, api):
    kept = make()
    killed = make(metadata={"cli": "kill-all"})
    assert "Killed 1" in e2b("sandbox", "kill", "--all", "--metadata", "cli=kill-all")
    assert api.get(f"/sandboxes/{killed.sandbox_id}").status_code == 404
    assert api.get(f"/sandboxes/{kept.sandbox_id}").status_code == 200


def test_list_filters_by_metadata_and_state(e2b, make):
    sandbox = make(metadata={"cli": "list"})

    def listed(*options):
        found = json.loads(e2b("sandbox", "list", "--metadata", "cli=list", "--format", "json", *options))
        return [one["sandboxId"] for one in found]

    assert listed() == [sandbox.sandbox_id]
    assert listed("--state", "paused") == []
    assert listed("--limit", "1", "--order", "asc") == [sandbox.sandbox_id]


def test_pause_and_resume(e2b, made, api):
    id = made()
    e2b("sandbox", "pause", id)
    assert api.get(f"/sandboxes/{id}").json()["state"] == "paused"
    e2b("sandbox", "resume", id)
    assert api.get(f"/sandboxes/{id}").json()["state"] == "running"


def test_exec_passes_input_output_and_the_exit_code(e2b, made):
    id = made()
    assert e2b("sandbox", "exec", id, "echo", "hello") == "hello\n"
    assert e2b("sandbox", "exec", id, "cat", input="piped") == "piped"
    e2b("sandbox", "exec", id, "--", "sh", "-c", "exit 3", status=3)
    script = "echo $(id -un) $PWD $NAME"
    options = ["--user", "root", "--cwd", "/tmp", "--env", "NAME=value"]
    assert e2b("sandbox", "exec", *options, id, "--", "sh", "-c", script) == "root /tmp value\n"


def test_exec_in_the_background_prints_the_process(e2b, make):
    sandbox = make()
    pid = int(e2b("sandbox", "exec", "--background", sandbox.sandbox_id, "sleep", "1000", stream="stderr"))
    assert pid in [process.pid for process in sandbox.commands.list()]


def test_connect_is_a_terminal_in_the_sandbox(screen, made):
    id = made()
    it = screen("sandbox", "connect", id, rows=33, cols=120)
    it.type("echo size=$(stty size) id=$E2B_SANDBOX_ID.\r")
    it.expect(f"size=33 120 id={id}.")
    it.type("exit\r")
    it.process.wait(60)


def test_create_without_detach_connects_and_kills_at_the_end(screen, api):
    it = screen("sandbox", "create", "base")
    it.type("echo id=$E2B_SANDBOX_ID.\r")
    it.expect("id=i")
    it.expect(".", deadline=60)
    it.type("exit\r")
    it.process.wait(60)


def test_logs_have_a_line_for_each_event(e2b, made):
    id = made()
    assert "Sandbox created" in e2b("sandbox", "logs", id)
    lines = e2b("sandbox", "logs", id, "--format", "json").split("\n")
    first = next(json.loads(line) for line in lines if line.startswith("{"))
    assert (first["level"], first["message"]) == ("info", "Sandbox created")


def test_logs_that_follow_end_with_the_sandbox(screen, made, api):
    id = made()
    it = screen("sandbox", "logs", "--follow", id)
    it.expect("Sandbox created")
    api.delete(f"/sandboxes/{id}")
    it.process.wait(60)


def test_metrics(e2b, made, api):
    id = made()
    if api.get(f"/sandboxes/{id}/metrics").status_code == 501:
        pytest.skip("this server has no metrics yet")
    measured = eventually(lambda: e2b("sandbox", "metrics", id, "--format", "json").strip(), deadline=60, every=1)
    assert "cpu" in measured.lower()


def test_snapshots(e2b, made, api):
    id = made()
    if api.get("/snapshots").status_code == 501:
        pytest.skip("this server has no snapshots yet")
    e2b("sandbox", "snapshot", "create", id)
    listed = json.loads(e2b("sandbox", "snapshot", "list", id, "--format", "json"))
    assert listed
    for snapshot in listed:
        e2b("sandbox", "snapshot", "delete", snapshot.get("snapshotId") or snapshot["snapshotID"])


def test_templates_are_listed(e2b):
    assert " base " in e2b("template", "list")
    listed = json.loads(e2b("template", "list", "--format", "json"))
    assert any("base" in template["aliases"] for template in listed)


def test_a_template_project_is_begun_without_a_server(e2b, tmp_path):
    e2b("template", "init", "--name", "mine", "--language", "python-sync", "--path", str(tmp_path))
    assert (tmp_path / "mine" / "template.py").exists()


def test_no_login_is_told(e2b):
    assert "Not logged in" in e2b("auth", "info")


def test_refusals_are_told_with_the_servers_words(e2b):
    command = [str(E2B), "sandbox", "create", "no-such-template", "--detach"]
    # The status is what counts for scripts; the words come with a trace of the CLI's own.
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "template 'no-such-template' not found" in done.stdout + done.stderr
