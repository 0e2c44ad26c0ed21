"""SSH with OpenSSH's own clients: ssh, scp, sftp. A key of the test's own is registered through the API."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest

from conftest import API_KEY, API_URL, PAUSES, eventually, serve
from terminal import Screen

pytestmark = [
    pytest.mark.skipif("DORMOUSE_TEST_SSH" not in os.environ, reason="the server serves no SSH"),
    pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh on this host"),
]

MIB = 1 << 20


class Client:
    """OpenSSH's programs with one key and no other configuration."""

    def __init__(self, home, key):
        self.host, self.port = os.environ["DORMOUSE_TEST_SSH"].rsplit(":", 1)
        self.home = home
        self.options = ["-F", "none", "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        self.options += ["-o", f"UserKnownHostsFile={home}/known_hosts", "-o", "StrictHostKeyChecking=accept-new"]
        self.options += ["-o", "LogLevel=ERROR"]

    def ssh(self, login, *arguments, options=()):
        # The first value of an option counts.
        return ["ssh", *options, *self.options, "-p", self.port, f"{name(login)}@{self.host}", *arguments]

    def run(self, login, *arguments, options=(), timeout=120, **more):
        command = self.ssh(login, *arguments, options=options)
        more.setdefault("stdin", None if "input" in more else subprocess.DEVNULL)
        if more["stdin"] is None:
            del more["stdin"]
        return subprocess.run(command, capture_output=True, timeout=timeout, **more)

    def background(self, login, *arguments, options=(), **more):
        command = self.ssh(login, *arguments, options=options)
        for stream in ("stdin", "stdout", "stderr"):
            more.setdefault(stream, subprocess.PIPE)
        return subprocess.Popen(command, **more)

    def copy(self, *arguments, timeout=120):
        """scp; `arguments` name the sandbox as `id:path`."""
        remote = [f"{id}@{self.host}:{path}" if path else id for id, _, path in (a.partition(":") for a in arguments)]
        return subprocess.run(["scp", *self.options, "-P", self.port, *remote], capture_output=True, timeout=timeout)

    def sftp(self, login, batch, timeout=120):
        command = ["sftp", *self.options, "-P", self.port, "-b", "-", f"{name(login)}@{self.host}"]
        return subprocess.run(command, input=batch.encode(), capture_output=True, timeout=timeout)


def name(login):
    return login if isinstance(login, str) else login.sandbox_id


def keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)
    return path.with_name(path.name + ".pub").read_text()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    home = tmp_path_factory.mktemp("ssh")
    public = keygen(home / "key")
    with httpx.Client(base_url=API_URL, headers={"X-API-Key": API_KEY}, timeout=60) as api:
        added = api.post("/ssh-keys", json={"publicKey": public})
        assert added.status_code == 201, added.text
        yield Client(home, home / "key")
        api.delete(f"/ssh-keys/{quote(added.json()['fingerprint'], safe='')}")


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """64 MiB that do not compress, and their hash."""
    path = tmp_path_factory.mktemp("big") / "big"
    path.write_bytes(os.urandom(64 * MIB))
    return path, digest(path)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_command_has_input_output_error_and_an_exit_status(client, sandbox):
    done = client.run(sandbox, "tr a-z A-Z; echo oops >&2; exit 7", input=b"hello\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"HELLO\n", b"oops\n")


def test_commands_see_what_the_sdks_see(client, make):
    sandbox = make(envs={"FROM_SANDBOX": "yes"})
    script = "echo $(id -un) $PWD $FROM_SANDBOX $E2B_SANDBOX_ID $SHELL"
    assert client.run(sandbox, script).stdout.decode().split() == [
        *sandbox.commands.run("echo $(id -un) $PWD").stdout.split(),
        "yes",
        sandbox.sandbox_id,
        "/bin/bash",
    ]


def test_variables_of_the_client_are_passed_on(client, sandbox):
    done = client.run(sandbox, 'echo "$GREETING"', options=["-o", "SetEnv=GREETING=hello"])
    assert done.stdout == b"hello\n"


def test_another_user_is_chosen_in_the_name(client, sandbox):
    assert client.run(sandbox.sandbox_id + "+root", "id -un").stdout == b"root\n"
    unknown = client.run(sandbox.sandbox_id + "+nobody2", "id -un")
    assert unknown.returncode == 255
    assert b"nobody2" in unknown.stderr


def test_death_by_a_signal_is_reported(client, sandbox):
    done = client.run(sandbox, "kill -KILL $$")
    assert done.returncode == 255


def test_a_shell_without_a_terminal_reads_commands(client, sandbox):
    done = client.run(sandbox, input=b"echo one\necho two\nexit 3\n")
    assert (done.returncode, done.stdout) == (3, b"one\ntwo\n")


@pytest.fixture
def screen(client):
    screens = []

    def open_screen(*arguments, **more):
        login, *rest = arguments
        screens.append(Screen(client.ssh(login, *rest, options=["-tt"]), **more))
        return screens[-1]

    yield open_screen
    for it in screens:
        it.close()


def test_a_shell_has_a_terminal_that_follows_the_window(screen, sandbox):
    it = screen(sandbox, rows=30, cols=100)
    it.type("echo size=$(stty size) term=$TERM.\r")
    it.expect("size=30 100 term=")
    it.resize(41, 133)
    it.process.send_signal(signal.SIGWINCH)
    it.type("until [ \"$(stty size)\" = '41 133' ]; do sleep 0.1; done; echo re''sized\r")
    it.expect("resized")
    it.type("exit 5\r")
    assert it.process.wait(60) == 5


def test_ctrl_c_interrupts_what_runs_at_the_terminal(screen, sandbox):
    it = screen(sandbox)
    # The program itself says that it is there: before that Ctrl-C would be the shell's.
    it.type("bash -c 'trap \"exit 42\" INT; echo rea\"\"dy; while :; do sleep 0.1; done'; echo sta''tus $?\r")
    it.expect("ready")
    it.type("\x03")
    it.expect("status 42")


def test_64_mib_through_a_command_that_copies_its_input(client, sandbox, big, tmp_path):
    path, expected = big
    back = tmp_path / "back"
    with open(path, "rb") as source, open(back, "wb") as sink:
        ssh = client.background(sandbox, "cat", stdin=source, stdout=sink)
        assert ssh.wait(300) == 0
    assert digest(back) == expected


def test_64_mib_with_new_keys_on_the_way(client, sandbox, big, tmp_path):
    path, expected = big
    with open(path, "rb") as source:
        done = subprocess.run(
            client.ssh(sandbox, "sha256sum", options=["-o", "RekeyLimit=8M"]), stdin=source, capture_output=True, timeout=300
        )
    assert done.stdout.split()[0].decode() == expected, done.stderr


def test_64_mib_with_scp_there_and_back(client, sandbox, big, tmp_path):
    path, expected = big
    there = client.copy(str(path), f"{sandbox.sandbox_id}:big", timeout=300)
    assert there.returncode == 0, there.stderr
    assert sandbox.commands.run("sha256sum big").stdout.split()[0] == expected
    back = client.copy(f"{sandbox.sandbox_id}:big", str(tmp_path / "back"), timeout=300)
    assert back.returncode == 0, back.stderr
    assert digest(tmp_path / "back") == expected


def test_scp_copies_trees_with_modes_and_times(client, sandbox, tmp_path):
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "script").write_text("#!/bin/sh\necho ran\n")
    (tree / "sub" / "script").chmod(0o750)
    os.utime(tree / "sub" / "script", (1_000_000, 2_000_000))
    done = client.copy("-r", "-p", str(tree), f"{sandbox.sandbox_id}:/home/user/")
    assert done.returncode == 0, done.stderr
    assert sandbox.commands.run("stat -c '%a %Y %U' tree/sub/script; tree/sub/script").stdout == "750 2000000 user\nran\n"


def test_the_old_scp_protocol_runs_the_sandboxes_scp(client, sandbox, tmp_path):
    if not sandbox.commands.run("command -v scp || true").stdout:
        # The base template has none; what counts is that the command is run there and that its failure is told.
        done = client.copy("-O", __file__, f"{sandbox.sandbox_id}:x")
        assert done.returncode != 0
        assert b"scp" in done.stderr
        return
    done = client.copy("-O", __file__, f"{sandbox.sandbox_id}:x")
    assert done.returncode == 0, done.stderr
    assert sandbox.files.read("x") == open(__file__).read()


def test_sftp_does_what_a_file_server_does(client, sandbox, tmp_path):
    (tmp_path / "a").write_text("content")
    done = client.sftp(
        sandbox,
        f"""
pwd
mkdir dir
cd dir
put {tmp_path}/a a
chmod 600 a
rename a b
ln -s b link
ln b hard
ls -l
df
get link {tmp_path}/back
rm hard
rm link
-rm missing
mkdir empty
rmdir empty
""",
    )
    assert done.returncode == 0, done.stderr
    output = done.stdout.decode()
    assert "Remote working directory: /home/user" in output
    assert "-rw------- " in output and "lrwxrwxrwx " in output
    assert (tmp_path / "back").read_text() == "content"
    assert sandbox.commands.run("ls dir; stat -c %a dir/b").stdout == "b\n600\n"


def test_sftp_reaches_what_the_user_may_reach(client, sandbox):
    refused = client.sftp(sandbox, "get /etc/shadow /dev/null\n")
    assert refused.returncode != 0
    assert b"ermission denied" in refused.stderr
    done = client.sftp(sandbox.sandbox_id + "+root", "get /etc/shadow /dev/null\n")
    assert done.returncode == 0, done.stderr


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


@pytest.fixture
def forwarded(client):
    """Runs `ssh -N` with options until the test ends."""
    running = []

    def forward(login, *options):
        ssh = client.background(login, "-N", options=[*options, "-o", "ExitOnForwardFailure=yes"])
        running.append(ssh)
        return ssh

    yield forward
    for ssh in running:
        ssh.kill()
        ssh.communicate()


def test_a_port_of_the_sandboxes_loopback_is_forwarded(forwarded, sandbox, ports):
    serve(sandbox, ports, host="127.0.0.1")
    port = free_port()
    forwarded(sandbox, "-L", f"127.0.0.1:{port}:localhost:8000")

    def page():
        try:
            return httpx.get(f"http://127.0.0.1:{port}/", timeout=10)
        except httpx.TransportError:
            return None

    assert eventually(page, deadline=60).status_code == 200


def test_only_ports_of_the_sandbox_are_forwarded_and_never_the_agents(client, sandbox):
    for target in ["localhost:49983", f"{sandbox.sandbox_id}:49983", "169.254.77.1:80", "example.com:80"]:
        done = client.run(sandbox, options=["-W", target, "-o", "LogLevel=INFO"])
        assert done.returncode == 255, target
        assert b"administratively prohibited" in done.stderr, target
    closed = client.run(sandbox, options=["-W", "localhost:1", "-o", "LogLevel=INFO"])
    assert b"connect failed" in closed.stderr.lower()


def test_forwarding_back_is_refused(client, sandbox):
    done = client.run(sandbox, "true", options=["-R", "9000:localhost:80", "-o", "ExitOnForwardFailure=yes"])
    assert done.returncode == 255
    assert b"remote port forwarding failed" in done.stderr


def test_many_channels_share_one_connection(client, sandbox, tmp_path):
    control = ["-o", f"ControlPath={tmp_path}/control"]
    master = client.background(sandbox, "-N", "-M", options=control)
    try:
        eventually(lambda: (tmp_path / "control").exists(), deadline=60)
        # One that is never read from must not hold up the others.
        stuck = client.background(sandbox, "yes", options=control)
        with ThreadPoolExecutor(24) as pool:
            results = pool.map(lambda n: client.run(sandbox, f"cat; echo {n}", input=b"x" * 100_000, options=control), range(24))
            outputs = [done.stdout for done in results]
        assert outputs == [b"x" * 100_000 + f"{n}\n".encode() for n in range(24)]
        stuck.kill()
        stuck.communicate()
    finally:
        master.kill()
        master.communicate()


def test_an_unknown_key_is_refused(client, sandbox, tmp_path):
    keygen(tmp_path / "other")
    done = Client(tmp_path, tmp_path / "other").run(sandbox, "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_a_key_that_was_removed_is_refused(client, sandbox, api, tmp_path):
    public = keygen(tmp_path / "key")
    fingerprint = api.post("/ssh-keys", json={"publicKey": public, "name": "short"}).json()["fingerprint"]
    other = Client(tmp_path, tmp_path / "key")
    assert other.run(sandbox, "echo in").stdout == b"in\n"
    assert api.post("/ssh-keys", json={"publicKey": public}).status_code == 409
    assert api.delete(f"/ssh-keys/{quote(fingerprint, safe='')}").status_code == 204
    assert b"Permission denied" in other.run(sandbox, "echo in").stderr


def test_a_sandbox_that_is_not_there_is_named(client):
    done = client.run("inosuchsandbox0000000", "true")
    assert done.returncode == 255
    assert b"doesn't exist or you don't have access to it" in done.stderr
    wrong = client.run("root/x", "true")
    assert b"log in with a sandbox's id" in wrong.stderr


def test_garbage_on_the_port_is_cut_off_and_others_are_served(client, sandbox):
    with socket.create_connection((client.host, int(client.port)), timeout=60) as it:
        it.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 100_000)
        received = b""
        try:
            while chunk := it.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    assert received.startswith(b"SSH-2.0-")
    assert client.run(sandbox, "echo fine").stdout == b"fine\n"


@pytest.mark.parametrize("lifecycle", [None, PAUSES], ids=["default", "never woken by traffic"])
def test_a_sleeping_sandbox_is_woken(client, make, lifecycle):
    sandbox = make(**({"lifecycle": lifecycle} if lifecycle else {}))
    client.run(sandbox, "echo kept > /dev/shm/memory")
    sandbox.pause()
    done = client.run(sandbox, "cat /dev/shm/memory")
    assert done.stdout == b"kept\n", done.stderr


def test_a_session_ends_with_a_message_when_its_sandbox_goes_to_sleep(client, make):
    sandbox = make(timeout=600)
    ssh = client.background(sandbox, "echo started; sleep 1000")
    assert ssh.stdout.readline() == b"started\n"
    sandbox.pause()
    _, words = ssh.communicate(timeout=60)
    assert ssh.returncode == 255
    assert b"went to sleep" in words
    # What ran is still there.
    assert client.run(sandbox, "pgrep -f 'sleep 1000' >/dev/null && echo there").stdout == b"there\n"


def test_a_terminal_ends_with_a_message_when_its_sandbox_is_killed(screen, make):
    sandbox = make()
    it = screen(sandbox)
    it.type("echo rea''dy\r")
    it.expect("ready")
    sandbox.kill()
    it.expect("was killed")
    assert it.process.wait(60) == 255


def test_a_client_that_vanishes_hangs_up(client, sandbox):
    ssh = client.background(sandbox, "echo started; exec sleep 4242")
    assert ssh.stdout.readline() == b"started\n"
    ssh.kill()
    ssh.communicate()
    count = "pgrep -cx sleep || true"
    eventually(lambda: sandbox.commands.run(count).stdout.strip() == "0", deadline=30, every=0.5)
