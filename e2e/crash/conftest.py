"""A server for each test, which the test may kill."""

import os
import tempfile
from pathlib import Path

import pytest
from server import Server


@pytest.fixture
def server():
    with tempfile.TemporaryDirectory(prefix="dormouse-crash-") as data:
        server = Server(Path(data), "--pool-size", "1", "--extra-ca", os.environ.get("DORMOUSE_EXTRA_CA", "auto"))
        server.start()
        yield server
        # Shown only when the test failed.
        print(server.tail(80))
        if server.process.poll() is None:
            server.stop()
