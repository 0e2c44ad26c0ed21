"""Running commands: output, errors, input, signals, limits."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import eventually

from e2b import CommandExitException, InvalidArgumentException, NotFoundException, TimeoutException


def test_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


def test_failure_carries_everything(sandbox):
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("echo out; echo err >&2; exit 3")
    assert (failure.value.exit_code, failure.value.stdout, failure.value.stderr) == (3, "out\n", "err\n")


def test_output_streams_while_the_command_runs(sandbox):
    first = threading.Event()
    command = sandbox.commands.run("echo first; read line; echo got $line", background=True, stdin=True)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(command.wait, on_stdout=lambda _: first.set())
        assert first.wait(10)
        sandbox.commands.send_stdin(command.pid, "hello\n")
        assert result.result(10).stdout == "first\ngot hello\n"


def test_large_output_arrives_whole(sandbox):
    result = sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert result.stdout == "x" * 3_000_000


def test_split_characters_are_joined(sandbox):
    assert sandbox.commands.run("python3 -c \"print('ü€😀' * 50000, end='')\"").stdout == "ü€😀" * 50000


def test_stdin_is_echoed_exactly_and_closed(sandbox):
    command = sandbox.commands.run("cat", background=True, stdin=True)
    text = "no newline at the end: ü \\ \"quoted\"\n\nlast"
    sandbox.commands.send_stdin(command.pid, text)
    sandbox.commands.close_stdin(command.pid)
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout == text
    # Also when the first time has ended it.
    sandbox.commands.close_stdin(command.pid)


def test_stdin_is_empty_unless_asked_for(sandbox):
    assert sandbox.commands.run("cat; echo done").stdout == "done\n"


def test_streamed_input_keeps_its_order(sandbox):
    command = sandbox.commands.run("cat", background=True, stdin=True)
    sandbox.commands.stream_input(command.pid, (f"{number}\n" for number in range(200)))
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout.split() == [str(number) for number in range(200)]


def test_environment_of_one_command_is_not_seen_by_the_next(sandbox):
    assert sandbox.commands.run("echo $FOO", envs={"FOO": "bar"}).stdout == "bar\n"
    assert sandbox.commands.run("echo [$FOO]").stdout == "[]\n"


def test_working_directory(sandbox):
    assert sandbox.commands.run("pwd").stdout == "/home/user\n"
    assert sandbox.commands.run("pwd", cwd="/usr/share").stdout == "/usr/share\n"
    sandbox.files.make_dir("/home/user/below")
    assert sandbox.commands.run("pwd", cwd="below").stdout == "/home/user/below\n"
    assert sandbox.commands.run("pwd", cwd="~").stdout == "/home/user\n"
    with pytest.raises(InvalidArgumentException, match="cwd '/no/such' does not exist"):
        sandbox.commands.run("pwd", cwd="/no/such")


def test_list_kill_and_connect(sandbox):
    command = sandbox.commands.run("sleep 1000", background=True)
    listed = [process for process in sandbox.commands.list() if process.pid == command.pid]
    assert listed[0].cmd == "/bin/bash" and listed[0].args == ["-l", "-c", "sleep 1000"]
    assert sandbox.commands.kill(command.pid) is True
    with pytest.raises(CommandExitException) as ended:
        command.wait()
    assert ended.value.exit_code == -1
    eventually(lambda: sandbox.commands.run(f"kill -0 {command.pid} 2>&1 || echo gone").stdout.endswith("gone\n"))
    assert command.pid not in [process.pid for process in sandbox.commands.list()]
    assert sandbox.commands.kill(command.pid) is False


def test_unknown_process(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(999_999)
    assert sandbox.commands.kill(999_999) is False


def test_second_listener_gets_later_output(sandbox):
    command = sandbox.commands.run("read line; echo $line; exit 5", background=True, stdin=True)
    command.disconnect()
    again = sandbox.commands.connect(command.pid)
    assert again.pid == command.pid
    sandbox.commands.send_stdin(command.pid, "later\n")
    with pytest.raises(CommandExitException) as ended:
        again.wait()
    assert (ended.value.stdout, ended.value.exit_code) == ("later\n", 5)


def test_disconnecting_does_not_end_the_command(sandbox):
    command = sandbox.commands.run("sleep 1000", background=True)
    command.disconnect()
    assert sandbox.commands.run(f"ps -o comm= -p {command.pid}").stdout.strip() in ("sleep", "bash")


def test_timeout_ends_the_command(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("echo $$ > /tmp/pid; exec sleep 1000", timeout=1)
    eventually(lambda: "gone" in sandbox.commands.run("kill -0 $(cat /tmp/pid) 2>/dev/null || echo gone").stdout)


def test_missing_program_is_127(sandbox):
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("no-such-program")
    assert failure.value.exit_code == 127


def test_background_children_do_not_hold_the_command(sandbox):
    assert sandbox.commands.run("sleep 1000 >/dev/null 2>&1 & echo started").stdout == "started\n"


def test_many_commands_at_once(sandbox):
    commands = [sandbox.commands.run(f"echo {number}; sleep 0.2; exit 0", background=True) for number in range(20)]
    assert [command.wait().stdout for command in commands] == [f"{number}\n" for number in range(20)]


@pytest.mark.parametrize(
    "program",
    "bash curl git sudo ps pgrep ss tput realpath ip python3 python pip node npm gcc g++ make jq nano less wget unzip zip "
    "xz nc ping file killall openssl ssh".split(),
)
def test_tools_are_there(tools, program):
    assert program in tools


@pytest.fixture(scope="module")
def tools():
    from e2b import Sandbox

    sandbox = Sandbox.create()
    try:
        listed = sandbox.commands.run("compgen -c | sort -u").stdout.split()
    finally:
        sandbox.kill()
    return set(listed)


def test_python_node_and_c_work(sandbox):
    assert sandbox.commands.run("python3 -c 'import ssl, sqlite3, venv; print(6 * 7)'").stdout == "42\n"
    assert sandbox.commands.run("node -e 'console.log(6 * 7)'").stdout == "42\n"
    sandbox.files.write("/tmp/a.c", '#include <stdio.h>\nint main(void) { printf("%d\\n", 6 * 7); }\n')
    assert sandbox.commands.run("cc -o /tmp/a /tmp/a.c && /tmp/a").stdout == "42\n"


def test_git_works(sandbox):
    script = """
    set -e
    git init -q repo && cd repo
    git config user.email a@example.com && git config user.name A
    echo one > file && git add file && git commit -qm first
    git clone -q file://$PWD /tmp/copy && cat /tmp/copy/file
    """
    assert sandbox.commands.run(script).stdout == "one\n"


def test_input_of_64_kib_and_a_byte_is_exact(sandbox):
    """One more than a pipe holds."""
    data = os.urandom((64 << 10) + 1)
    command = sandbox.commands.run("cat > got; stat -c %s got", background=True, stdin=True)
    sandbox.commands.send_stdin(command.pid, data)
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout == f"{len(data)}\n"
    assert sandbox.files.read("got", format="bytes") == data


def test_streamed_input_is_exact(sandbox):
    data = os.urandom(1_000_003)
    command = sandbox.commands.run("cat > got", background=True, stdin=True)
    sandbox.commands.stream_input(command.pid, (data[at : at + 70_001] for at in range(0, len(data), 70_001)))
    sandbox.commands.close_stdin(command.pid)
    command.wait()
    assert sandbox.files.read("got", format="bytes") == data


def test_connecting_after_the_end_tells_how_it_ended(sandbox):
    command = sandbox.commands.run("exit 7", background=True)
    with pytest.raises(CommandExitException):
        command.wait()
    with pytest.raises(CommandExitException) as late:
        sandbox.commands.connect(command.pid).wait()
    assert late.value.exit_code == 7
    killed = sandbox.commands.run("sleep 1000", background=True)
    sandbox.commands.kill(killed.pid)
    eventually(lambda: killed.pid not in [process.pid for process in sandbox.commands.list()])
    with pytest.raises(CommandExitException) as late:
        sandbox.commands.connect(killed.pid).wait()
    assert (late.value.exit_code, late.value.error) == (-1, "signal: killed")


def test_timeout_of_a_connection_spares_the_command(sandbox):
    command = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    command.disconnect()
    with pytest.raises(TimeoutException):
        sandbox.commands.connect(command.pid, timeout=1).wait()
    assert sandbox.commands.kill(command.pid) is True


def test_no_timeout(sandbox):
    assert sandbox.commands.run("sleep 1; echo done", timeout=0).stdout == "done\n"


def test_several_listeners_hear_the_same(sandbox):
    command = sandbox.commands.run("read line; echo $line", background=True, stdin=True)
    others = [sandbox.commands.connect(command.pid) for _ in range(3)]
    sandbox.commands.send_stdin(command.pid, "heard\n")
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(handle.wait).result(20) for handle in (command, *others)]
    assert [result.stdout for result in results] == ["heard\n"] * 4


def test_children_of_a_killed_command_may_live(sandbox):
    """Only the process itself is killed, as E2B does."""
    command = sandbox.commands.run("sleep 4321 & echo started; wait", background=True)
    assert next(iter(command))[0] == "started\n"
    sandbox.commands.kill(command.pid)
    with pytest.raises(CommandExitException):
        command.wait()
    assert sandbox.commands.run("pgrep -f 'sleep 4321' | wc -l").stdout != "0\n"


def test_unknown_user(sandbox):
    with pytest.raises(Exception, match="invalid username: 'nobody-knows'"):
        sandbox.commands.run("true", user="nobody-knows")
