"""How long the things take that users wait for: create to the end of a first command, pause, wake to a first answer.

Run it against a server with the usual variables set (`eval "$(dormouse env)"`): python examples/timings.py
"""

import statistics
import time

from e2b import Sandbox

ROUNDS = 7


def timed(call):
    started = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - started) * 1000


def one_round(times):
    def create_and_run():
        sandbox = Sandbox.create(lifecycle={"on_timeout": "pause", "auto_resume": True})
        sandbox.commands.run("true")
        return sandbox

    sandbox, took = timed(create_and_run)
    times.setdefault("create to the end of a first command", []).append(took)
    try:
        sandbox.files.write("/home/user/hello.txt", "hello")
        steps = [
            ("a command in a running sandbox", lambda: sandbox.commands.run("true")),
            ("reading a file in a running sandbox", lambda: sandbox.files.read("/home/user/hello.txt")),
            ("pause", sandbox.pause),
            ("wake by reading a file", lambda: sandbox.files.read("/home/user/hello.txt")),
            ("pause again", sandbox.pause),
            ("wake by a command", lambda: sandbox.commands.run("true")),
        ]
        for name, step in steps:
            times.setdefault(name, []).append(timed(step)[1])
    finally:
        sandbox.kill()


def main():
    times = {}
    for _ in range(ROUNDS):
        one_round(times)
    print(f"{'milliseconds, as the Python client sees them':<45} {'median':>7} {'min':>7} {'max':>7}")
    for name, values in times.items():
        print(f"{name:<45} {statistics.median(values):>7.0f} {min(values):>7.0f} {max(values):>7.0f}")


if __name__ == "__main__":
    main()
