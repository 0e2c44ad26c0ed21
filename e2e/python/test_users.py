"""Users, sudo and the environment."""

import pytest

from e2b import CommandExitException


def run(sandbox, command, **options):
    return sandbox.commands.run(command, **options).stdout.strip()


def test_default_user(sandbox):
    assert run(sandbox, "id -un; id -u; echo $HOME $USER $LOGNAME") == "user\n1000\n/home/user user user"
    assert "sudo" in run(sandbox, "id -Gn").split()


def test_root(sandbox):
    assert run(sandbox, "id -un; echo $HOME; pwd", user="root").startswith("root\n/root")


@pytest.mark.parametrize(
    "command, output",
    [
        ("sudo id -un", "root"),
        ("sudo -n id -u", "0"),
        ("sudo -u user id -un", "user"),
        ("sudo -E printenv FOO", "bar"),
        ("sudo -H printenv HOME", "/root"),
        ("sudo -i pwd", "/root"),
        ("sudo -i printenv USER", "root"),
        ("sudo -- echo dashes", "dashes"),
        ("sudo A=1 printenv A", "1"),
        ("sudo sh -c 'echo $0 in $(pwd)'", "sh in /home/user"),
        ("echo in | sudo cat", "in"),
        ("sudo sudo id -un", "root"),
    ],
)
def test_sudo(sandbox, command, output):
    assert run(sandbox, command, envs={"FOO": "bar"}) == output


def test_sudo_passes_the_exit_code_on(sandbox):
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("sudo sh -c 'exit 42'")
    assert failure.value.exit_code == 42


def test_sudo_writes_where_only_root_may(sandbox):
    assert run(sandbox, "echo x | sudo tee /etc/only-root > /dev/null; stat -c %U /etc/only-root") == "root"
    with pytest.raises(CommandExitException):
        sandbox.commands.run("echo x > /etc/not-me")


def test_environment_of_the_sandbox(make):
    sandbox = make(envs={"FOO": "from create", "BAR": "b"})
    assert run(sandbox, "echo $FOO") == "from create"
    assert run(sandbox, "echo $FOO $BAR", envs={"FOO": "from run"}) == "from run b"
    sandbox.pause()
    sandbox.connect()
    assert run(sandbox, "echo $FOO") == "from create"


def test_sandbox_knows_its_name(sandbox):
    assert run(sandbox, "echo $E2B_SANDBOX $E2B_SANDBOX_ID") == f"true {sandbox.sandbox_id}"
    assert run(sandbox, "cat /run/e2b/.E2B_SANDBOX_ID") == sandbox.sandbox_id
    assert run(sandbox, "echo $E2B_TEMPLATE_ID") == sandbox.get_info().template_id


def test_places_for_everybody(sandbox):
    assert run(sandbox, "touch /usr/local/x /code/x /tmp/x && echo fine") == "fine"


@pytest.mark.parametrize(
    "command, output",
    [
        ("sudo su -c 'id -un'", "root"),
        ("sudo su user -c 'id -un; pwd'", "user\n/home/user"),
        ("sudo su - -c 'pwd; printenv USER'", "/root\nroot"),
        ("sudo su - user -c 'printenv HOME'", "/home/user"),
        ("sudo -u root su user -s /bin/sh -c 'echo $0'", "sh"),
    ],
)
def test_su_by_way_of_sudo(sandbox, command, output):
    assert run(sandbox, command) == output


def test_new_users_can_be_made_and_used(sandbox):
    run(sandbox, "sudo useradd -m -s /bin/bash -G sudo ada")
    assert run(sandbox, "id -un; pwd; echo $HOME", user="ada") == "ada\n/home/ada\n/home/ada"
    sandbox.files.write("note", "x", user="ada")
    assert run(sandbox, "stat -c %U /home/ada/note", user="root") == "ada"
    assert run(sandbox, "sudo id -un", user="ada") == "root"
