"""What the tests share: the server's address, sandboxes that are killed at the end, and waiting for a condition.

The server is found by the variables that any user of the clients sets: E2B_API_KEY, E2B_API_URL, E2B_SANDBOX_URL.
"""

import json
import os
import time
from collections import defaultdict
from pathlib import Path

import features
import httpx
import pytest

from e2b import AsyncSandbox

API_URL = os.environ["E2B_API_URL"]
API_KEY = os.environ["E2B_API_KEY"]
SANDBOX_URL = os.environ["E2B_SANDBOX_URL"]

INSIDE = Path(__file__).parent / "inside"

PAUSES = {"on_timeout": "pause", "auto_resume": False}
WAKES = {"on_timeout": "pause", "auto_resume": True}


def pytest_ignore_collect(collection_path):
    """Files that the installed SDK is too old for even to be loaded."""
    return (collection_path.name.startswith("test_") and features.lacking_import(collection_path) is not None) or None


def pytest_collection_modifyitems(items):
    for item in items:
        if missing := features.lacking(item.function):
            item.add_marker(pytest.mark.skip(reason=f"this SDK has no {missing}"))


# Per file, for `cargo xtask compat`: what became of the tests.
RESULTS = defaultdict(lambda: {"passed": 0, "failed": 0, "skipped": 0, "failures": [], "lacks": None})


def pytest_runtest_logreport(report):
    name = Path(report.nodeid.split("::")[0]).name
    result = RESULTS[name]
    if report.failed:
        result["failed"] += 1
        result["failures"].append(report.nodeid.split("::", 1)[-1])
    elif report.skipped:
        result["skipped"] += 1
    elif report.when == "call":
        result["passed"] += 1


def pytest_sessionfinish(session):
    target = os.environ.get("DORMOUSE_TEST_RESULTS")
    # Workers report to the one that started them.
    if target and not hasattr(session.config, "workerinput"):
        for path in Path(__file__).parent.glob("test_*.py"):
            if missing := features.lacking_import(path):
                RESULTS[path.name]["lacks"] = missing
        Path(target).write_text(json.dumps(RESULTS, indent=1))


def eventually(check, deadline=10.0, every=0.05):
    """The first true value of `check()`; a failure when there is none before the deadline."""
    end = time.monotonic() + deadline
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < end, f"still {value!r} after {deadline} s"
        time.sleep(every)


@pytest.fixture
def make():
    """Makes sandboxes and kills them after the test."""
    made = []

    def create(template="base", **options):
        sandbox = features.create(template, **options)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def sandbox(make):
    return make()


@pytest.fixture
async def amake():
    made = []

    async def create(template="base", **options):
        sandbox = await AsyncSandbox.create(template, **options)
        made.append(sandbox)
        return sandbox

    yield create
    for sandbox in made:
        await sandbox.kill()


@pytest.fixture
def api():
    """The control API without a client in between."""
    with httpx.Client(base_url=API_URL, headers={"X-API-Key": API_KEY}, timeout=60) as client:
        yield client


@pytest.fixture
def ports():
    """Requests to ports inside sandboxes: `ports(sandbox, 8000, "GET", "/path")`."""
    with httpx.Client(base_url=SANDBOX_URL, timeout=60) as client:

        def request(sandbox, port, method="GET", path="/", **options):
            headers = {**route(sandbox, port), **options.pop("headers", {})}
            return client.request(method, path, headers=headers, **options)

        yield request


def route(sandbox, port):
    """The headers that lead to a port of a sandbox."""
    sandbox_id = sandbox if isinstance(sandbox, str) else sandbox.sandbox_id
    return {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}


def serve(sandbox, ports, host="0.0.0.0", port=8000):
    """Starts the test server inside a sandbox; returns its process once it answers."""
    sandbox.files.write("/home/user/server.py", (INSIDE / "server.py").read_text())
    process = sandbox.commands.run(f"exec python3 -u server.py {host} {port}", background=True, timeout=0)
    eventually(lambda: ports(sandbox, port).status_code == 200)
    return process


def api_sandbox(api, sandbox):
    """What the API says about a sandbox."""
    return api.get(f"/sandboxes/{sandbox.sandbox_id}").json()
