"""`sandbox.git`: every method, against real servers inside the sandbox."""

import pytest
from conftest import INSIDE, eventually

from e2b import GitAuthException, GitUpstreamException, InvalidArgumentException

SERVED = "http://127.0.0.1:8418/project.git"


@pytest.fixture
def git(sandbox):
    sandbox.git.configure_user("Ada", "ada@example.com")
    return sandbox.git


def commit(sandbox, path, name, content, message):
    sandbox.files.write(f"{path}/{name}", content)
    sandbox.git.add(path)
    return sandbox.git.commit(path, message)


def log(sandbox, path, *options):
    return sandbox.commands.run(f"git -C {path} log --format=%s {' '.join(options)}").stdout.split("\n")[:-1]


def serve_http(sandbox):
    """A bare repository behind a server that wants a password."""
    sandbox.git.init("/home/user/served/project.git", bare=True, initial_branch="main")
    sandbox.files.write("git_server.py", (INSIDE / "git_server.py").read_text())
    command = "exec python3 git_server.py 8418 /home/user/served ada s3cret"
    sandbox.commands.run(command, background=True, timeout=0)
    ready = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8418/ || true"
    eventually(lambda: sandbox.commands.run(ready).stdout == "401")


def test_user_and_configuration(sandbox, git):
    assert git.get_config("user.name") == "Ada"
    assert git.get_config("user.email") == "ada@example.com"
    assert git.get_config("no.such") is None
    git.init("repo")
    git.set_config("pull.rebase", "false", scope="local", path="repo")
    assert git.get_config("pull.rebase", scope="local", path="repo") == "false"
    git.configure_user("Bob", "bob@example.com", scope="local", path="repo")
    assert git.get_config("user.name", scope="local", path="repo") == "Bob"
    assert git.get_config("user.name", scope="global") == "Ada"
    with pytest.raises(InvalidArgumentException):
        git.set_config("a.b", "c", scope="local")


def test_working_tree(sandbox, git):
    git.init("repo", initial_branch="main")
    assert git.status("repo").is_clean
    sandbox.files.write("repo/a.txt", "one\n")
    status = git.status("repo")
    assert (status.current_branch, status.has_untracked) == ("main", True)
    assert [(file.name, file.status) for file in status.file_status] == [("a.txt", "untracked")]
    git.add("repo", files=["a.txt"])
    assert git.status("repo").has_staged
    git.commit("repo", "first", author_name="Eve", author_email="eve@example.com")
    assert sandbox.commands.run("git -C repo log -1 --format='%an %ae %s'").stdout == "Eve eve@example.com first\n"
    assert git.status("repo").is_clean

    sandbox.files.write("repo/a.txt", "two\n")
    git.restore("repo", ["a.txt"])
    assert sandbox.files.read("repo/a.txt") == "one\n"
    sandbox.files.write("repo/a.txt", "two\n")
    git.add("repo")
    git.restore("repo", ["a.txt"], staged=True, worktree=False)
    status = git.status("repo")
    assert not status.has_staged and status.has_changes
    git.reset("repo", mode="hard")
    assert sandbox.files.read("repo/a.txt") == "one\n"
    git.commit("repo", "empty", allow_empty=True)
    git.reset("repo", mode="soft", target="HEAD~1")
    assert log(sandbox, "repo") == ["first"]


def test_branches(sandbox, git):
    git.init("repo", initial_branch="main")
    commit(sandbox, "repo", "a", "1", "first")
    git.create_branch("repo", "feature")
    branches = git.branches("repo")
    assert (sorted(branches.branches), branches.current_branch) == (["feature", "main"], "feature")
    git.checkout_branch("repo", "main")
    assert git.branches("repo").current_branch == "main"
    git.checkout_branch("repo", "feature")
    commit(sandbox, "repo", "b", "2", "second")
    git.checkout_branch("repo", "main")
    git.delete_branch("repo", "feature", force=True)
    assert git.branches("repo").branches == ["main"]


def test_remotes(git):
    git.init("repo")
    assert git.remote_get("repo", "origin") is None
    git.remote_add("repo", "origin", "https://example.com/one.git")
    assert git.remote_get("repo", "origin") == "https://example.com/one.git"
    git.remote_add("repo", "origin", "https://example.com/two.git", overwrite=True)
    assert git.remote_get("repo", "origin") == "https://example.com/two.git"


def test_git_daemon(sandbox, git):
    git.init("/home/user/served/project.git", bare=True, initial_branch="main")
    serve = "exec git daemon --export-all --enable=receive-pack --base-path=/home/user/served --listen=127.0.0.1"
    sandbox.commands.run(serve, background=True, timeout=0)
    url = "git://127.0.0.1/project.git"
    eventually(lambda: sandbox.commands.run(f"git ls-remote {url} && echo answers || true").stdout.endswith("answers\n"))
    git.clone(url, path="one")
    commit(sandbox, "one", "a.txt", "1\n", "first")
    git.push("one")
    git.clone(url, path="two")
    assert sandbox.files.read("two/a.txt") == "1\n"
    commit(sandbox, "one", "a.txt", "2\n", "second")
    assert git.status("one").ahead == 1
    git.push("one", remote="origin", branch="main")
    git.pull("two")
    assert sandbox.files.read("two/a.txt") == "2\n"
    git.clone(url, path="shallow", depth=1, branch="main")
    assert log(sandbox, "shallow") == ["second"]


def test_push_without_upstream_says_so(sandbox, git):
    git.init("repo", initial_branch="main")
    commit(sandbox, "repo", "a", "1", "first")
    git.init("/home/user/bare.git", bare=True)
    git.remote_add("repo", "origin", "file:///home/user/bare.git")
    with pytest.raises(GitUpstreamException):
        git.push("repo", set_upstream=False)
    with pytest.raises(GitUpstreamException):
        git.pull("repo")
    git.push("repo", remote="origin", branch="main", set_upstream=True)
    assert git.status("repo").upstream == "origin/main"


def test_credentials(sandbox, git):
    serve_http(sandbox)
    with pytest.raises(GitAuthException):
        git.clone(SERVED, path="refused")
    with pytest.raises(GitAuthException):
        git.clone(SERVED, path="refused", username="ada", password="wrong")
    git.clone(SERVED, path="one", username="ada", password="s3cret")
    # The password is not left behind.
    assert git.remote_get("one", "origin") == SERVED
    commit(sandbox, "one", "a.txt", "1\n", "first")
    with pytest.raises(GitAuthException):
        git.push("one")
    git.push("one", username="ada", password="s3cret")
    assert git.remote_get("one", "origin") == SERVED
    git.clone(SERVED, path="two", username="ada", password="s3cret", dangerously_store_credentials=True)
    assert git.remote_get("two", "origin") == SERVED.replace("//", "//ada:s3cret@")
    commit(sandbox, "two", "a.txt", "2\n", "second")
    git.push("two")
    with pytest.raises(GitAuthException):
        git.pull("one")
    git.pull("one", username="ada", password="s3cret")
    assert sandbox.files.read("one/a.txt") == "2\n"


def test_stored_credentials(sandbox, git):
    serve_http(sandbox)
    git.dangerously_authenticate("ada", "s3cret", host="127.0.0.1:8418", protocol="http")
    git.clone(SERVED, path="one")
    commit(sandbox, "one", "a.txt", "1\n", "first")
    git.push("one")
    assert log(sandbox, "/home/user/served/project.git", "main") == ["first"]


def test_as_another_user(sandbox):
    sandbox.git.init("/root/repo", user="root")
    assert sandbox.commands.run("sudo stat -c %U /root/repo/.git").stdout == "root\n"


def test_large_repository(sandbox, git):
    git.init("repo", initial_branch="main")
    sandbox.commands.run("mkdir -p repo/d && cd repo/d && for i in $(seq 1000); do echo $i > $i; done")
    git.add("repo", all=True)
    git.commit("repo", "many")
    git.clone("file:///home/user/repo", path="copy")
    assert sandbox.commands.run("ls copy/d | wc -l").stdout == "1000\n"
