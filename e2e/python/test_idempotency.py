"""Creating with an Idempotency-Key."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest


@pytest.fixture
def create(api):
    made = set()

    def create(key, **body):
        response = api.post("/v2/sandboxes", json={"templateID": "base", **body}, headers={"Idempotency-Key": key})
        if response.status_code == 201:
            made.add(response.json()["sandboxID"])
        return response

    yield create
    for sandbox_id in made:
        api.delete(f"/sandboxes/{sandbox_id}")


def test_same_key_and_body_make_one_sandbox(create):
    key = uuid.uuid4().hex
    first, second = create(key, timeout=60), create(key, timeout=60)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()


def test_same_key_with_another_body_is_refused(create):
    key = uuid.uuid4().hex
    create(key, timeout=60)
    answer = create(key, timeout=61)
    assert answer.status_code == 409
    assert answer.json()["error_code"] == "idempotency_request_mismatch"


def test_at_once_it_is_still_one(create):
    key = uuid.uuid4().hex
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: create(key, timeout=60), range(5)))
    made = {answer.json()["sandboxID"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    for answer in answers:
        assert answer.status_code == 201 or answer.json()["error_code"] == "idempotency_in_progress"


@pytest.mark.parametrize("key", ["Ä".encode(), b"A B", b"x" * 256, b""])
def test_impossible_keys(api, key):
    answer = api.post("/v2/sandboxes", json={"templateID": "base"}, headers={"Idempotency-Key": key})
    assert answer.status_code == 400


def test_the_client_s_option(make):
    key = uuid.uuid4().hex
    assert make(idempotency_key=key).sandbox_id == make(idempotency_key=key).sandbox_id
