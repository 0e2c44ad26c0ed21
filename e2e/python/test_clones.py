"""Sandboxes from one template are alike, but not twins."""

from e2b import Sandbox


def test_randomness_differs(make):
    commands = [
        "head -c 16 /dev/urandom | base64",
        "python3 -c 'import random, uuid; print(random.random(), uuid.uuid4())'",
        "node -e 'console.log(Math.random(), crypto.randomUUID())'",
        "openssl rand -hex 16",
        "mktemp -u",
    ]
    sandboxes = [make() for _ in range(3)]
    for command in commands:
        values = {sandbox.commands.run(command).stdout for sandbox in sandboxes}
        assert len(values) == len(sandboxes), command


def test_identities_differ(make):
    one, two = make(), make()
    assert one._envd_access_token != two._envd_access_token
    assert one.commands.run("hostname").stdout != two.commands.run("hostname").stdout


def test_files_of_one_are_not_seen_by_another(make):
    one, two = make(), make()
    one.files.write("/home/user/private", "x")
    one.commands.run("sudo rm /usr/bin/nano")
    assert not two.files.exists("/home/user/private")
    assert two.files.exists("/usr/bin/nano")
    assert Sandbox.connect(one.sandbox_id).files.exists("/home/user/private")
