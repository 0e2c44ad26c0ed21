"""A terminal with a program at it, for commands that people use by hand."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time


class Screen:
    """Runs a command at a terminal of its own."""

    def __init__(self, command, rows=24, cols=80, **more):
        self.master, slave = pty.openpty()
        self.resize(rows, cols)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, **more)
        os.close(slave)
        self.seen = b""

    def resize(self, rows, cols):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, deadline=60):
        """Reads until `text` has come; forgets what came before it."""
        end = time.monotonic() + deadline
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError as error:
                raise AssertionError(f"no {text!r} in {self.seen!r}") from error
        self.seen = self.seen.split(text.encode(), 1)[1]

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
