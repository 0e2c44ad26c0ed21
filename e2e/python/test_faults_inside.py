"""Programs that use all there is: they hurt their own sandbox at most, and what the API says of it is true."""

import asyncio
import resource
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import INSIDE, SANDBOX_URL, eventually, route

from e2b import CommandExitException, Sandbox
from e2b.exceptions import SandboxException

# A busy machine makes all of these slow; none of them depends on how slow.
pytestmark = pytest.mark.timeout(300)
PATIENCE = 120


def check_neighbour(neighbour):
    assert neighbour.commands.run("echo fine", timeout=PATIENCE).stdout == "fine\n"


def check_told(api, sandbox):
    """A sandbox that suffered is either there and works, or gone, and says so everywhere. Whether it is there."""

    def told():
        listed = api.get(f"/sandboxes/{sandbox.sandbox_id}").status_code
        if listed == 404:
            return "gone"
        assert listed == 200
        try:
            return sandbox.commands.run("echo alive", timeout=30, request_timeout=30).stdout.strip()
        except (SandboxException, httpx.HTTPError):
            # Perhaps it is ending just now.
            return None

    if eventually(told, PATIENCE) == "alive":
        return True
    assert not Sandbox.kill(sandbox.sandbox_id)
    assert sandbox.sandbox_id not in {listed["sandboxID"] for listed in api.get("/v2/sandboxes?limit=100").json()}
    return False


def test_a_fork_bomb_stays_inside_and_can_be_killed(make, api):
    neighbour, victim = make(), make()
    # Every process makes two, for ever, and does nothing else.
    bomb = "import os,time\nwhile True:\n  try: os.fork()\n  except OSError: time.sleep(1)\n"
    victim.files.write("/home/user/bomb.py", bomb)
    victim.commands.run("python3 bomb.py", background=True, timeout=0)
    for _ in range(5):
        check_neighbour(neighbour)
    assert api.get("/health").status_code in (200, 204)
    assert api.get(f"/sandboxes/{neighbour.sandbox_id}").json()["state"] == "running"
    # Whether its own kernel gave in or not.
    Sandbox.kill(victim.sandbox_id)
    assert api.get(f"/sandboxes/{victim.sandbox_id}").status_code == 404
    check_neighbour(make())


def test_a_full_disk_is_no_space_left(make, api):
    sandbox = make()
    total, free = map(int, sandbox.commands.run("df --output=size,avail -k / | tail -1").stdout.split())
    assert 0 < free <= total < 1 << 40, "the size of the disk is no invention"
    # What is reserved counts, and costs the host nothing.
    sandbox.commands.run(f"fallocate -l {free - 20480}K /home/user/most", timeout=PATIENCE)
    with pytest.raises(CommandExitException) as full:
        sandbox.commands.run("dd if=/dev/zero of=/home/user/rest bs=1M count=100", timeout=PATIENCE)
    assert "No space left on device" in full.value.stderr
    assert int(sandbox.commands.run("stat -c %s /home/user/rest").stdout) >= 10 << 20, "what fitted was written"
    with pytest.raises(CommandExitException):
        sandbox.commands.run("fallocate -l 1G /home/user/another", timeout=PATIENCE)
    assert check_told(api, sandbox)
    # Room comes back.
    sandbox.commands.run("rm /home/user/most /home/user/rest")
    sandbox.files.write("/home/user/after", "x" * 1_000_000)
    assert len(sandbox.files.read("/home/user/after")) == 1_000_000


def test_a_limit_of_the_disk_survives_a_pause(make):
    sandbox = make()
    before = sandbox.commands.run("df --output=size -k / | tail -1").stdout
    sandbox.pause()
    sandbox = sandbox.connect()
    assert sandbox.commands.run("df --output=size -k / | tail -1").stdout == before


def test_full_memory_ends_a_program_or_the_sandbox(make, api):
    neighbour, victim = make(), make()
    victim.files.write("/home/user/fill.py", "import os\nkeep = []\nwhile True: keep.append(os.urandom(1 << 20))")
    with pytest.raises((SandboxException, httpx.HTTPError)):
        # The program ends, or the sandbox with it.
        victim.commands.run("python3 fill.py", timeout=PATIENCE, request_timeout=PATIENCE)
    check_told(api, victim)
    check_neighbour(neighbour)


@pytest.mark.parametrize("where", ["/dev/shm", "/tmp"])
def test_files_in_memory_have_a_limit(make, api, where):
    sandbox = make()
    with pytest.raises(CommandExitException) as full:
        sandbox.commands.run(f"dd if=/dev/zero of={where}/all bs=1M count=3000", timeout=PATIENCE)
    assert "No space left on device" in full.value.stderr
    assert check_told(api, sandbox), "nobody died of it"
    sandbox.commands.run(f"rm {where}/all && echo x > {where}/x")


def test_a_client_that_stops_reading_holds_nobody_up(make, api):
    sandbox = make()
    # Not iterated: the connection is there, and nobody reads from it.
    flood = sandbox.commands.run("head -c 2000000000 /dev/zero | tr '\\0' x", background=True, timeout=0)
    for _ in range(5):
        assert sandbox.commands.run("echo other", timeout=PATIENCE).stdout == "other\n"
    sandbox.files.write("/home/user/file", "content")
    used = int(sandbox.commands.run("awk '/^MemAvailable/ {print $2}' /proc/meminfo").stdout)
    assert used > 300_000, "nothing keeps what nobody reads"
    assert flood.pid in {process.pid for process in sandbox.commands.list()}, "it waits"
    assert sandbox.commands.kill(flood.pid)
    eventually(lambda: flood.pid not in {process.pid for process in sandbox.commands.list()}, PATIENCE)
    assert check_told(api, sandbox)


def test_a_thousand_connections_at_once(make, api):
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2 * count)), hard))
    sandbox = make()
    sandbox.files.write("/home/user/gather.py", (INSIDE / "gather.py").read_text())
    server = sandbox.commands.run(f"python3 -u gather.py 8000 {count}", background=True, timeout=0)
    said, _, _ = next(iter(server))
    assert said == "listening\n"
    address = urlsplit(SANDBOX_URL)
    headers = "".join(f"{name}: {value}\r\n" for name, value in route(sandbox, 8000).items())
    request = f"GET / HTTP/1.1\r\nhost: {address.netloc}\r\n{headers}connection: close\r\n\r\n".encode()

    async def one():
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them():
        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(count))), PATIENCE)

    answers = asyncio.run(all_of_them())
    assert all(answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"there") for answer in answers)
    assert check_told(api, sandbox)
    server.kill()
