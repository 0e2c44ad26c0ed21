"""Terminals."""

import re
import threading
import time

import pytest
from conftest import eventually

from e2b import CommandExitException, PtySize


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
