"""The daemon is killed at random moments: nothing that a client was told is lost, and nothing is left without an owner."""

import os
import random
import threading
import time

from watched import Watched

from e2b import Sandbox

ROUNDS = int(os.environ.get("CRASH_ROUNDS", "12"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.randrange(1 << 30)
SANDBOXES = 4


def test_kill9_at_random_moments_loses_nothing_and_leaves_nothing(server):
    print(f"CRASH_SEED={SEED}")
    chance = random.Random(SEED)
    watched = [Watched(server) for _ in range(SANDBOXES)]
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
                    # Its fate is looked at below: it is either listed or leaves nothing.
                    pass

        threads = [threading.Thread(target=keep_busy, args=(sandbox, chance.random())) for sandbox in watched]
        threads.append(threading.Thread(target=come_and_go))
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 1.5))
        server.kill()
        over.set()
        for thread in threads:
            thread.join()
        server.start()
        known = {sandbox.id for sandbox in watched}
        listed = {sandbox.sandbox_id: sandbox.state.value for sandbox in Sandbox.list(**server.options).next_items()}
        assert known <= listed.keys(), f"round {round}: lost {known - listed.keys()}\n{server.tail()}"
        for id, state in told.items():
            assert listed[id] == state, f"round {round}: {id} was told {state}, is {listed[id]}\n{server.tail()}"
        for stranger in listed.keys() - known:
            Sandbox.kill(stranger, **server.options)
        for sandbox in watched:
            ticket, pid, count = sandbox.read(server)
            assert (ticket, pid) == (sandbox.ticket, sandbox.pid), f"round {round}: another process answers"
            assert sandbox.count <= count <= sandbox.count + sandbox.unsure, f"round {round}: memory went back or forth"
            sandbox.count, sandbox.unsure = count, 0
    for sandbox in watched:
        assert Sandbox.kill(sandbox.id, **server.options)
    server.stop()
    left, layers = server.remains()
    assert not left, "\n".join(left)
    # The base template's.
    assert len(layers) == 1, layers
