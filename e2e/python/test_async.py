"""The asynchronous client."""

import asyncio

import pytest
from conftest import PAUSES, WAKES

from e2b import AsyncSandbox, CommandExitException, FilesystemEventType, PtySize, SandboxState


async def test_life(amake):
    sandbox = await amake(timeout=120)
    assert await sandbox.is_running()
    assert await sandbox.pause() is True
    assert await sandbox.pause() is False
    await sandbox.connect()
    assert (await sandbox.get_info()).state == SandboxState.RUNNING
    assert await sandbox.kill() is True
    assert await sandbox.kill() is False


async def test_five_pauses_at_once(amake):
    sandbox = await amake(lifecycle=PAUSES)
    results = await asyncio.gather(*(sandbox.pause() for _ in range(5)))
    assert sorted(results) == [False, False, False, False, True]


async def test_commands_stream(amake):
    sandbox = await amake()
    first = asyncio.Event()
    command = await sandbox.commands.run(
        "echo first; read line; echo $line; exit 3", background=True, stdin=True, on_stdout=lambda _: first.set()
    )
    await asyncio.wait_for(first.wait(), 10)
    await sandbox.commands.send_stdin(command.pid, "second\n")
    with pytest.raises(CommandExitException) as ended:
        await command.wait()
    assert (ended.value.stdout, ended.value.exit_code) == ("first\nsecond\n", 3)


async def test_many_commands_at_once(amake):
    sandbox = await amake()
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(20)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(20)]


async def test_many_calls_wake_it_once(amake):
    sandbox = await amake(lifecycle=WAKES)
    await sandbox.pause()
    results = await asyncio.gather(*(sandbox.commands.run(f"echo {number}") for number in range(10)))
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(10)]


async def test_files(amake):
    sandbox = await amake()
    await sandbox.files.write("a.txt", "content")
    assert await sandbox.files.read("a.txt") == "content"
    assert [entry.name for entry in await sandbox.files.list("/home/user") if entry.name == "a.txt"] == ["a.txt"]


async def test_watching(amake):
    sandbox = await amake()
    await sandbox.files.make_dir("w")
    created = asyncio.Event()

    def on_event(event):
        if event.name == "file" and event.type == FilesystemEventType.CREATE:
            created.set()

    handle = await sandbox.files.watch_dir("w", on_event=on_event)
    await sandbox.files.write("w/file", "x")
    await asyncio.wait_for(created.wait(), 10)
    await handle.stop()


async def test_terminal(amake):
    sandbox = await amake()
    answered = asyncio.Event()

    async def on_data(data):
        if b"42" in data:
            answered.set()

    terminal = await sandbox.pty.create(PtySize(rows=24, cols=80), on_data=on_data)
    await sandbox.pty.send_stdin(terminal.pid, b"echo $((40 + 2))\n")
    await asyncio.wait_for(answered.wait(), 10)
    await sandbox.pty.kill(terminal.pid)


async def test_several_sandboxes_at_once(amake):
    sandboxes = await asyncio.gather(*(amake() for _ in range(4)))
    results = await asyncio.gather(*(sandbox.commands.run("echo $E2B_SANDBOX_ID") for sandbox in sandboxes))
    assert [result.stdout.strip() for result in results] == [sandbox.sandbox_id for sandbox in sandboxes]
    assert isinstance(await AsyncSandbox.connect(sandboxes[0].sandbox_id), AsyncSandbox)
