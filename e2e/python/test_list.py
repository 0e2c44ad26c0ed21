"""Listing sandboxes: filters, order, pages."""

import uuid

import pytest
from conftest import eventually

from e2b import Sandbox, SandboxQuery, SandboxState


@pytest.fixture
def mark():
    """Metadata that only this test's sandboxes have."""
    return {"test": uuid.uuid4().hex}


def ids(items):
    return [item.sandbox_id for item in items]


def collect(**options):
    pages = Sandbox.list(**options)
    found = []
    while pages.has_next:
        page = pages.next_items()
        if "limit" in options:
            assert len(page) <= options["limit"]
        found += ids(page)
    return found


def test_newest_comes_first_and_the_order_can_be_turned(make, mark):
    made = ids(make(metadata=mark) for _ in range(3))
    query = SandboxQuery(metadata=mark)
    assert collect(query=query) == made[::-1]
    assert collect(query=query, order="asc") == made


def test_pages_of_one_hold_each_sandbox_once(make, mark):
    made = ids(make(metadata=mark) for _ in range(3))
    assert collect(query=SandboxQuery(metadata=mark), limit=1) == made[::-1]
    assert collect(query=SandboxQuery(metadata=mark), limit=2) == made[::-1]


def test_running_and_sleeping_are_merged_by_age(make, mark):
    made = [make(metadata=mark) for _ in range(3)]
    made[1].pause()
    query = SandboxQuery(metadata=mark)
    assert set(collect(query=query, limit=1)) == set(ids(made))
    assert collect(query=SandboxQuery(metadata=mark, state=[SandboxState.PAUSED])) == [made[1].sandbox_id]
    assert set(collect(query=SandboxQuery(metadata=mark, state=[SandboxState.RUNNING]))) == {
        made[0].sandbox_id,
        made[2].sandbox_id,
    }


def test_metadata_must_match_in_all_and_survives_odd_characters(make, mark):
    odd = {"a b": "c&d=e", "ü/ö": "100 %", **mark}
    sandbox = make(metadata=odd)
    make(metadata=mark)
    assert sandbox.get_info().metadata == odd
    assert collect(query=SandboxQuery(metadata=odd)) == [sandbox.sandbox_id]
    assert collect(query=SandboxQuery(metadata={**mark, "a b": "other"})) == []


def test_started_after_is_inclusive(make, mark):
    first, second = make(metadata=mark), make(metadata=mark)
    start = second.get_info().started_at
    assert collect(query=SandboxQuery(metadata=mark, started_after=start)) == [second.sandbox_id]
    assert first.sandbox_id in collect(query=SandboxQuery(metadata=mark))


def test_template_filter(make, mark):
    sandbox = make(metadata=mark)
    template = sandbox.get_info().template_id
    assert collect(query=SandboxQuery(metadata=mark, template=template)) == [sandbox.sandbox_id]
    assert collect(query=SandboxQuery(metadata=mark, template="base")) == [sandbox.sandbox_id]
    assert collect(query=SandboxQuery(metadata=mark, template="no-such-template")) == []


def test_headers_of_pages(api, make, mark):
    for _ in range(2):
        make(metadata=mark)
    query = {"metadata": f"test={mark['test']}", "limit": 1}
    first = api.get("/v2/sandboxes", params=query)
    assert first.status_code == 200
    assert first.headers["X-Total-Running"] == "2"
    second = api.get("/v2/sandboxes", params={**query, "nextToken": first.headers["X-Next-Token"]})
    assert "X-Next-Token" not in second.headers
    assert first.json()[0]["sandboxID"] != second.json()[0]["sandboxID"]


def test_every_required_field_is_there(api, make, mark):
    make(metadata=mark)
    for path in ("/sandboxes", "/v2/sandboxes"):
        items = api.get(path, params={"metadata": f"test={mark['test']}"}).json()
        assert len(items) == 1
        assert {
            "templateID", "sandboxID", "clientID", "startedAt", "endAt", "cpuCount", "memoryMB", "diskSizeMB", "state",
            "envdVersion",
        } <= items[0].keys()


@pytest.mark.parametrize(
    "query",
    ["nextToken=garbage", "limit=0", "limit=-1", "limit=x", "state=sleeping", "order=sideways", "startedAfter=yesterday"],
)
def test_bad_queries_are_refused(api, query):
    response = api.get(f"/v2/sandboxes?{query}")
    assert response.status_code == 400
    assert response.json()["code"] == 400


def test_v1_lists_running_ones_only(api, make, mark):
    running, sleeping = make(metadata=mark), make(metadata=mark)
    sleeping.pause()
    found = api.get("/sandboxes", params={"metadata": f"test={mark['test']}"}).json()
    assert [item["sandboxID"] for item in found] == [running.sandbox_id]


def test_sandbox_that_ends_disappears(make, mark):
    make(metadata=mark, timeout=1)
    eventually(lambda: not collect(query=SandboxQuery(metadata=mark)))
