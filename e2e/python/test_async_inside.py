"""Commands, terminals, files, watching and Git with the asynchronous client: the same ground as with the synchronous one."""

import asyncio
import hashlib
import os

import pytest
from conftest import INSIDE

from e2b import (
    CommandExitException,
    FileNotFoundException,
    FilesystemEventType,
    FileType,
    GitAuthException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    TimeoutException,
)


@pytest.fixture
async def sandbox(amake):
    return await amake()


async def eventually(check, deadline=15.0):
    async with asyncio.timeout(deadline):
        while not (value := await check()):
            await asyncio.sleep(0.05)
    return value


async def output(sandbox, command, **options):
    return (await sandbox.commands.run(command, **options)).stdout


async def test_exact_input(sandbox):
    data = os.urandom((64 << 10) + 1)
    command = await sandbox.commands.run("cat > got", background=True, stdin=True)
    await sandbox.commands.send_stdin(command.pid, data)
    await sandbox.commands.close_stdin(command.pid)
    await command.wait()
    assert await sandbox.files.read("got", format="bytes") == data


async def test_streamed_input(sandbox):
    command = await sandbox.commands.run("cat", background=True, stdin=True)
    stream = sandbox.commands.stream_input(command.pid)
    for number in range(100):
        await stream.send(f"{number}\n")
    await stream.close()
    await sandbox.commands.close_stdin(command.pid)
    assert (await command.wait()).stdout.split() == [str(number) for number in range(100)]


async def test_disconnecting_and_coming_back(sandbox):
    command = await sandbox.commands.run("read line; echo $line; exit 5", background=True, stdin=True)
    await command.disconnect()
    again = await sandbox.commands.connect(command.pid)
    await sandbox.commands.send_stdin(command.pid, "later\n")
    with pytest.raises(CommandExitException) as ended:
        await again.wait()
    assert (ended.value.stdout, ended.value.exit_code) == ("later\n", 5)
    with pytest.raises(CommandExitException) as late:
        await (await sandbox.commands.connect(command.pid)).wait()
    assert late.value.exit_code == 5


async def test_timeouts_and_kills(sandbox):
    with pytest.raises(TimeoutException):
        await sandbox.commands.run("echo $$ > /tmp/pid; exec sleep 1000", timeout=1)

    async def gone():
        return "gone" in await output(sandbox, "kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone")

    await eventually(gone)
    command = await sandbox.commands.run("sleep 1000", background=True, timeout=0)
    assert command.pid in [process.pid for process in await sandbox.commands.list()]
    assert await command.kill() is True
    with pytest.raises(CommandExitException):
        await command.wait()
    assert await sandbox.commands.kill(command.pid) is False
    with pytest.raises(NotFoundException):
        await sandbox.commands.connect(999_999)
    with pytest.raises(InvalidArgumentException):
        await sandbox.commands.run("true", cwd="/no/such")
    with pytest.raises(Exception, match="invalid username"):
        await sandbox.commands.run("true", user="nobody-knows")


async def test_terminals(sandbox):
    text = ""
    changed = asyncio.Event()

    async def on_data(data):
        nonlocal text
        text += data.decode(errors="replace")
        changed.set()

    async def expect(wanted):
        async with asyncio.timeout(15):
            while wanted not in text:
                changed.clear()
                await changed.wait()

    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=on_data)
    await sandbox.pty.send_stdin(terminal.pid, b"KEPT=yes; echo size=$(tput cols)\n")
    await expect("size=80")
    await sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    await terminal.disconnect()
    again = await sandbox.pty.connect(terminal.pid, on_data=on_data)
    await sandbox.pty.send_stdin(terminal.pid, b"echo kept=$KEPT size=$(tput cols)\n")
    await expect("kept=yes size=100")
    stream = sandbox.pty.stream_input(terminal.pid)
    await stream.send(b"exit ")
    await stream.send(b"0\n")
    await stream.close()
    assert (await again.wait()).exit_code == 0


async def chunks(pieces):
    for piece in pieces:
        yield piece


async def test_files(sandbox):
    data = os.urandom(300_000)
    written = await sandbox.files.write("d/bytes", data, metadata={"kind": "random"})
    assert (written.path, written.metadata) == ("/home/user/d/bytes", {"kind": "random"})
    assert await sandbox.files.read("d/bytes", format="bytes") == data
    received = b"".join([piece async for piece in await sandbox.files.read("d/bytes", format="stream")])
    assert received == data
    await sandbox.files.write("streamed", chunks([data[:1000], data[1000:]]))
    await sandbox.files.write("packed", "text " * 10_000, gzip=True)
    assert await sandbox.files.read("packed", gzip=True) == "text " * 10_000
    assert hashlib.sha256(data).hexdigest() in await output(sandbox, "sha256sum streamed")

    many = await sandbox.files.write_files([{"path": f"m/{number}", "data": str(number)} for number in range(5)])
    assert [info.name for info in many] == [str(number) for number in range(5)]
    assert await sandbox.files.make_dir("d") is False
    await sandbox.commands.run("ln -s nowhere d/broken; ln -s /home/user/d d/up")
    assert (await sandbox.files.get_info("d/up")).symlink_target == "/home/user/d"
    assert (await sandbox.files.get_info("d/broken")).symlink_target == "/home/user/d/broken"
    moved = await sandbox.files.rename("d/bytes", "e/bytes")
    assert (moved.metadata, moved.permissions, moved.type) == ({"kind": "random"}, "-rw-r--r--", FileType.FILE)
    await sandbox.files.remove("e")
    assert await sandbox.files.exists("e") is False
    for call in (sandbox.files.read, sandbox.files.get_info, sandbox.files.list):
        with pytest.raises(NotFoundException):
            await call("/no/such")
    with pytest.raises(FileNotFoundException):
        await sandbox.files.read("/no/such", format="stream")
    assert "Name:" in await sandbox.files.read("/proc/self/status")
    with pytest.raises(InvalidArgumentException):
        await sandbox.files.list("d", depth=0)


async def test_ten_thousand_files(sandbox):
    await sandbox.commands.run("mkdir many && cd many && seq -f 'file-%05g' 10000 | xargs touch")
    assert len(await sandbox.files.list("many", request_timeout=60)) == 10_000


async def test_watching_a_tree(sandbox):
    await sandbox.files.make_dir("w")
    seen = []
    ended = asyncio.Event()
    handle = await sandbox.files.watch_dir(
        "w", on_event=seen.append, on_exit=lambda _: ended.set(), recursive=True, include_entry=True
    )
    await sandbox.commands.run("mkdir -p w/a/b && for i in $(seq 500); do echo $i > w/a/b/$i; done")

    async def complete():
        created = {event.name for event in seen if event.type == FilesystemEventType.CREATE}
        return {f"a/b/{number}" for number in range(1, 501)} <= created

    await eventually(complete)
    assert any(event.entry and event.entry.path == "/home/user/w/a/b/500" for event in seen)
    await handle.stop()
    with pytest.raises(NotFoundException):
        await sandbox.files.watch_dir("/no/such", on_event=seen.append)


async def test_git(sandbox):
    git = sandbox.git
    await git.configure_user("Ada", "ada@example.com")
    await git.init("/home/user/served/project.git", bare=True, initial_branch="main")
    await sandbox.files.write("git_server.py", (INSIDE / "git_server.py").read_text())
    await sandbox.commands.run("exec python3 git_server.py 8418 /home/user/served ada s3cret", background=True, timeout=0)
    ready = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8418/ || true"

    async def answers():
        return await output(sandbox, ready) == "401"

    await eventually(answers)
    url = "http://127.0.0.1:8418/project.git"
    with pytest.raises(GitAuthException):
        await git.clone(url, path="refused")
    await git.clone(url, path="one", username="ada", password="s3cret")
    await sandbox.files.write("one/a.txt", "1\n")
    assert (await git.status("one")).has_untracked
    await git.add("one")
    await git.commit("one", "first")
    await git.push("one", username="ada", password="s3cret")
    await git.dangerously_authenticate("ada", "s3cret", host="127.0.0.1:8418", protocol="http")
    await git.clone(url, path="two")
    await git.create_branch("two", "feature")
    assert (await git.branches("two")).current_branch == "feature"
    await git.checkout_branch("two", "main")
    await git.delete_branch("two", "feature")
    await git.pull("two")
    assert await sandbox.files.read("two/a.txt") == "1\n"
    await sandbox.files.write("two/a.txt", "2\n")
    await git.restore("two", ["a.txt"])
    await git.reset("two", mode="hard")
    await git.remote_add("two", "other", "https://example.com/x.git")
    assert await git.remote_get("two", "other") == "https://example.com/x.git"
    await git.set_config("a.b", "c")
    assert await git.get_config("a.b") == "c"
