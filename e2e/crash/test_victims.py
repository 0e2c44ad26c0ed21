"""Processes of sandboxes are killed at random moments, the daemon sometimes with them: no sandbox is half there, none that was told to be
asleep is lost, and nothing is left without an owner."""

import os
import random
import threading
import time

import httpx
from host import cgroups, instances, processes, send
from watched import Watched

from e2b import Sandbox

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "6"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1 << 30)
SANDBOXES = 3
# After a death: until the API has noticed.
PATIENCE = 60


def state(server, sandbox):
    """What the API says of a sandbox; None: there is no such sandbox."""
    answer = httpx.get(
        f"{server.options['api_url']}/sandboxes/{sandbox.id}", headers={"X-API-Key": server.options["api_key"]}, timeout=60
    )
    if answer.status_code == 404:
        return None
    answer.raise_for_status()
    return answer.json()["state"]


def settle(server, sandbox):
    """What a sandbox counts, once it answers; None once it is gone."""
    end = time.monotonic() + PATIENCE
    while True:
        said = state(server, sandbox)
        if said is None:
            return None
        try:
            return sandbox.read(server)
        except (httpx.HTTPError, OSError) as error:
            assert time.monotonic() < end, f"{sandbox.id} is {said}, and does not answer: {error!r}\n{server.tail()}"
            time.sleep(0.1)


def test_victims_at_random_moments_are_gone_or_whole(server):
    print(f"CRASH_SEED={SEED}")
    chance = random.Random(SEED)
    watched = [Watched(server) for _ in range(SANDBOXES)]
    seen, lost, killed = set(), 0, 0
    for round in range(ROUNDS):
        told = {}
        over = threading.Event()

        def keep_busy(sandbox, seed):
            mine = random.Random(seed)
            while not over.is_set():
                sandbox.act(server, mine, told)

        def come_and_go():
            while not over.is_set():
                try:
                    Sandbox.create(timeout=3600, **server.options).kill()
                except Exception:
                    # It may be the victim.
                    pass

        threads = [threading.Thread(target=keep_busy, args=(sandbox, chance.random())) for sandbox in watched]
        threads.append(threading.Thread(target=come_and_go))
        for thread in threads:
            thread.start()
        for _ in range(chance.randrange(1, 4)):
            time.sleep(chance.uniform(0.02, 0.4))
            found = processes(server.data)
            seen |= instances(server.data) | found.keys()
            if found:
                victim = found[chance.choice(sorted(found))]
                kind = chance.choice(["shim", "runsc", "all"])
                for pid in victim["shim"] * (kind != "runsc") + victim["runsc"] * (kind != "shim"):
                    send(pid)
                    killed += 1
        with_daemon = chance.random() < 0.5
        if with_daemon:
            server.kill()
        over.set()
        for thread in threads:
            thread.join()
        if with_daemon:
            server.start()
        for place, sandbox in enumerate(watched):
            counted = settle(server, sandbox)
            if counted is None:
                assert told.get(sandbox.id) != "paused", f"round {round}: {sandbox.id} was asleep, and is lost\n{server.tail()}"
                lost += 1
                watched[place] = Watched(server)
                continue
            ticket, pid, count = counted
            assert (ticket, pid) == (sandbox.ticket, sandbox.pid), f"round {round}: another process answers"
            assert sandbox.count <= count <= sandbox.count + sandbox.unsure, f"round {round}: memory went back or forth"
            sandbox.count, sandbox.unsure = count, 0
        known = {sandbox.id for sandbox in watched}
        for listed in Sandbox.list(**server.options).next_items():
            if listed.sandbox_id not in known:
                Sandbox.kill(listed.sandbox_id, **server.options)
    print(f"{killed} processes killed, {lost} sandboxes gone with them")
    for sandbox in watched:
        assert Sandbox.kill(sandbox.id, **server.options)
    seen |= instances(server.data)
    server.stop()
    left, layers = server.remains()
    assert not left, "\n".join(left)
    assert not cgroups(seen), "cgroups without an instance"
    # The base template's.
    assert len(layers) == 1, layers
