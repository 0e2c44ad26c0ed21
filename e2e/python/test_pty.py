"""Terminals."""

import hashlib
import re
import threading
import time

import pytest
from conftest import eventually

from e2b import CommandExitException, PtySize, TimeoutException


class Terminal:
    """Collects what a terminal prints, in a thread, and waits for text."""

    def __init__(self, handle):
        self.handle = handle
        self.text = ""
        self.changed = threading.Condition()
        self.result = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            self.result = self.handle.wait(on_pty=self._got)
        except Exception as error:
            self.result = error

    def _got(self, data):
        with self.changed:
            self.text += data.decode(errors="replace")
            self.changed.notify_all()

    def expect(self, pattern, deadline=15):
        end = time.monotonic() + deadline
        with self.changed:
            while not (found := re.search(pattern, self.text)):
                assert self.changed.wait(end - time.monotonic()), f"{pattern!r} not in {self.text!r}"
        return found


@pytest.fixture
def terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), envs={"MARK": "set"})
    return Terminal(handle)


def send(sandbox, terminal, text):
    sandbox.pty.send_stdin(terminal.handle.pid, text.encode())


def test_shell_answers_and_ends(sandbox, terminal):
    send(sandbox, terminal, "echo $((40 + 2)) $MARK $TERM\n")
    terminal.expect(r"42 set xterm-256color")
    send(sandbox, terminal, "exit\n")
    terminal.thread.join(10)
    assert terminal.result.exit_code == 0


def test_size_and_resize(sandbox, terminal):
    send(sandbox, terminal, "echo size=$(tput cols)x$(tput lines)\n")
    terminal.expect(r"size=80x24")
    sandbox.pty.resize(terminal.handle.pid, PtySize(rows=40, cols=132))
    send(sandbox, terminal, "echo size=$(tput cols)x$(tput lines)\n")
    terminal.expect(r"size=132x40")


def test_control_c_reaches_the_foreground_job(sandbox, terminal):
    send(sandbox, terminal, "sleep 1000\n")
    eventually(lambda: sandbox.commands.run("pgrep -x sleep || true").stdout)
    send(sandbox, terminal, "\x03")
    send(sandbox, terminal, "echo after=$?\n")
    terminal.expect(r"after=130")


def test_it_is_a_terminal_of_the_user(sandbox, terminal):
    send(sandbox, terminal, "test -t 0 && echo tty=$(stat -c %U $(tty)) who=$(id -un)\n")
    terminal.expect(r"tty=user who=user")


def test_reconnecting(sandbox):
    first = sandbox.pty.create(PtySize(rows=24, cols=80))
    sandbox.pty.send_stdin(first.pid, b"KEPT=yes\n")
    first.disconnect()
    again = Terminal(sandbox.pty.connect(first.pid))
    send(sandbox, again, "echo kept=$KEPT\n")
    again.expect(r"kept=yes")


def test_kill(sandbox, terminal):
    assert sandbox.pty.kill(terminal.handle.pid) is True
    terminal.thread.join(10)
    assert isinstance(terminal.result, CommandExitException)
    assert sandbox.pty.kill(terminal.handle.pid) is False


def test_streamed_input(sandbox, terminal):
    sandbox.pty.stream_input(terminal.handle.pid, [b"echo a=", b"$((1+1))", b"\n"])
    terminal.expect(r"a=2")


def test_terminal_survives_a_sleep(sandbox, terminal):
    send(sandbox, terminal, "KEPT=yes; echo ready=$((1))\n")
    terminal.expect(r"ready=1")
    sandbox.pause()
    sandbox.connect()
    again = Terminal(sandbox.pty.connect(terminal.handle.pid))
    send(sandbox, again, "echo kept=$KEPT\n")
    again.expect(r"kept=yes")


def test_environment_directory_and_user(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), user="root", cwd="/usr/share", envs={"LANG": "C"})
    terminal = Terminal(handle)
    send(sandbox, terminal, "echo who=$(id -un) at=$(pwd) lang=$LANG\n")
    terminal.expect(r"who=root at=/usr/share lang=C\b")


def test_binary_input(sandbox, terminal):
    """A terminal in raw mode hands every byte on."""
    send(sandbox, terminal, "stty raw -echo; echo ready=$((1)); head -c 255 | sha256sum; stty sane\n")
    terminal.expect(r"ready=1")
    # Those that make signals are left out: gVisor's terminals act on them in raw mode too.
    data = bytes(byte for byte in range(1, 256) if byte not in (3, 0x1A, 0x1C)) + b"abc"
    sandbox.pty.send_stdin(terminal.handle.pid, data)
    terminal.expect(hashlib.sha256(data).hexdigest())


def test_connecting_twice(sandbox):
    first = sandbox.pty.create(PtySize(rows=24, cols=80))
    one, two = Terminal(first), Terminal(sandbox.pty.connect(first.pid))
    sandbox.pty.send_stdin(first.pid, b"echo both=$((40 + 2))\n")
    one.expect(r"both=42")
    two.expect(r"both=42")
    sandbox.pty.send_stdin(first.pid, b"exit 3\n")
    for terminal in (one, two):
        terminal.thread.join(10)
        assert isinstance(terminal.result, CommandExitException) and terminal.result.exit_code == 3


def test_timeout_ends_the_terminal(sandbox):
    handle = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=2)
    terminal = Terminal(handle)
    terminal.thread.join(20)
    assert isinstance(terminal.result, TimeoutException)
    eventually(lambda: handle.pid not in [process.pid for process in sandbox.commands.list()])


def test_full_screen_programs(sandbox, terminal):
    sandbox.files.write("note.txt", "first line\n")
    send(sandbox, terminal, "nano note.txt\n")
    terminal.expect(r"GNU nano")
    send(sandbox, terminal, "edited ")
    send(sandbox, terminal, "\x18")
    terminal.expect(r"Save modified buffer")
    send(sandbox, terminal, "y\r")
    eventually(lambda: sandbox.files.read("note.txt") == "edited first line\n")
