"""Files and directories."""

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2b import FileNotFoundException, FileType, InvalidArgumentException, NotFoundException


def test_write_and_read(sandbox):
    info = sandbox.files.write("notes/today.txt", "hello\n")
    assert (info.path, info.name, info.type) == ("/home/user/notes/today.txt", "today.txt", FileType.FILE)
    assert sandbox.files.read("/home/user/notes/today.txt") == "hello\n"
    assert sandbox.commands.run("stat -c '%U %G %a' notes notes/today.txt").stdout == "user user 755\nuser user 644\n"


@pytest.mark.parametrize("path", ["with space.txt", "ü 😀.txt", "a&b=c?d#e%20.txt", "'quoted\".txt", "deep/er/file.txt"])
def test_odd_names(sandbox, path):
    sandbox.files.write(path, "content")
    assert sandbox.files.read(path) == "content"
    assert sandbox.files.exists(path)


def test_bytes_stay_bytes(sandbox):
    data = bytes(range(256)) * 1000
    sandbox.files.write("/tmp/data", data)
    assert sandbox.files.read("/tmp/data", format="bytes") == data


def test_empty_file(sandbox):
    sandbox.files.write("/tmp/empty", "")
    assert sandbox.files.read("/tmp/empty") == ""


def test_large_file_streams_both_ways(sandbox):
    size = 40 << 20
    sandbox.files.write("/tmp/large", io.BytesIO(b"\x07" * size))
    assert sandbox.files.get_info("/tmp/large").size == size
    received = 0
    for chunk in sandbox.files.read("/tmp/large", format="stream"):
        received += len(chunk)
    assert received == size


def test_compressed_transfer(sandbox):
    text = "compress me " * 100_000
    sandbox.files.write("/tmp/text", text, gzip=True)
    assert sandbox.commands.run("head -c 11 /tmp/text").stdout == "compress me"
    assert sandbox.files.read("/tmp/text", gzip=True) == text


def test_several_files_at_once(sandbox):
    entries = [{"path": f"/tmp/many/{number}", "data": str(number)} for number in range(10)]
    written = sandbox.files.write_files(entries)
    assert [info.path for info in written] == [entry["path"] for entry in entries]
    assert [sandbox.files.read(f"/tmp/many/{number}") for number in range(10)] == [str(n) for n in range(10)]


def test_overwriting_keeps_the_mode(sandbox):
    sandbox.files.write("script.sh", "#!/bin/sh\necho 1\n")
    sandbox.commands.run("chmod 755 script.sh")
    sandbox.files.write("script.sh", "#!/bin/sh\necho 2\n")
    assert sandbox.commands.run("./script.sh").stdout == "2\n"


def test_root_writes_anywhere(sandbox):
    sandbox.files.write("/etc/new.conf", "x", user="root")
    assert sandbox.commands.run("stat -c %U /etc/new.conf").stdout == "root\n"
    assert sandbox.files.write("root.txt", "x", user="root").path == "/root/root.txt"


def test_missing_file(sandbox):
    with pytest.raises(FileNotFoundException):
        sandbox.files.read("/no/such/file")
    assert sandbox.files.exists("/no/such/file") is False
    with pytest.raises(FileNotFoundException):
        sandbox.files.get_info("/no/such/file")


def test_reading_a_directory_is_an_error(sandbox):
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read("/home/user")


def test_writing_over_a_directory_is_an_error(sandbox):
    with pytest.raises(InvalidArgumentException):
        sandbox.files.write("/home/user", "x")


def test_list_is_in_order_and_bounded(sandbox):
    sandbox.commands.run("mkdir -p t/b/deep/er t/a && touch t/c t/a/x t/b/deep/y")
    names = lambda depth: [entry.path.removeprefix("/home/user/t/") for entry in sandbox.files.list("t", depth=depth)]
    assert names(1) == ["a", "b", "c"]
    assert names(2) == ["a", "a/x", "b", "b/deep", "c"]
    assert names(10) == ["a", "a/x", "b", "b/deep", "b/deep/er", "b/deep/y", "c"]
    kinds = {entry.name: entry.type for entry in sandbox.files.list("t")}
    assert kinds == {"a": FileType.DIR, "b": FileType.DIR, "c": FileType.FILE}
    with pytest.raises(InvalidArgumentException, match="depth"):
        sandbox.files.list("t", depth=0)


def test_list_of_nothing(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.files.list("/no/such")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.list("/etc/hostname")


def test_info(sandbox):
    sandbox.files.write("f.txt", "12345")
    sandbox.commands.run("mkdir d; ln -s /home/user/f.txt link")
    file, directory, link = (sandbox.files.get_info(name) for name in ("f.txt", "d", "link"))
    assert (file.size, file.mode, file.permissions) == (5, 0o644, "-rw-r--r--")
    assert (file.owner, file.group) == ("user", "user")
    assert (directory.type, directory.permissions) == (FileType.DIR, "drwxr-xr-x")
    assert directory.size > 0
    assert (link.name, link.symlink_target) == ("link", "/home/user/f.txt")


def test_make_dir(sandbox):
    assert sandbox.files.make_dir("one/two/three") is True
    assert sandbox.files.make_dir("one/two/three") is False
    assert sandbox.commands.run("stat -c %U one one/two/three").stdout == "user\nuser\n"
    sandbox.files.write("file", "x")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.make_dir("file")


def test_remove(sandbox):
    sandbox.commands.run("mkdir -p tree/a/b && touch tree/a/b/c")
    sandbox.files.remove("tree")
    assert not sandbox.files.exists("tree")
    sandbox.files.remove("tree")


def test_rename(sandbox):
    sandbox.files.write("old", "content")
    moved = sandbox.files.rename("old", "new/place")
    assert moved.path == "/home/user/new/place"
    assert sandbox.files.read("new/place") == "content"
    assert not sandbox.files.exists("old")
    with pytest.raises(NotFoundException):
        sandbox.files.rename("old", "x")


def test_metadata(sandbox):
    sandbox.files.write("m", "x", metadata={"author": "me", "kind": "note"})
    assert sandbox.files.get_info("m").metadata == {"author": "me", "kind": "note"}
    sandbox.files.rename("m", "n")
    assert sandbox.files.get_info("n").metadata == {"author": "me", "kind": "note"}
    sandbox.files.write("n", "y")
    assert not sandbox.files.get_info("n").metadata


def test_home_and_relative_paths(sandbox):
    sandbox.files.write("~/tilde", "1")
    sandbox.files.write("relative", "2")
    assert sandbox.commands.run("cat /home/user/tilde /home/user/relative").stdout == "12"


def test_unknown_user_is_refused(sandbox):
    with pytest.raises(Exception, match="nobody-knows"):
        sandbox.files.read("/etc/hostname", user="nobody-knows")
    with pytest.raises(Exception, match="invalid username: 'nobody-knows'"):
        sandbox.commands.run("true", user="nobody-knows")


def test_ten_thousand_files_are_listed(sandbox):
    sandbox.commands.run("mkdir many && cd many && seq -f 'file-%05g' 10000 | xargs touch")
    entries = sandbox.files.list("many", request_timeout=60)
    assert [entry.name for entry in entries] == [f"file-{number:05}" for number in range(1, 10_001)]
    assert {(entry.type, entry.permissions, entry.owner, entry.size) for entry in entries} == {(FileType.FILE, "-rw-r--r--", "user", 0)}


def test_links(sandbox):
    sandbox.files.write("real/file", "content")
    sandbox.commands.run(
        "ln -s /home/user/real/file absolute; ln -s real/file relative; ln -s real to-directory;"
        "ln -s nowhere broken; ln -s loop loop; ln -s absolute chain"
    )
    target = "/home/user/real/file"
    for name in ("absolute", "relative", "chain"):
        info = sandbox.files.get_info(name)
        assert (info.name, info.path, info.symlink_target) == (name, f"/home/user/{name}", target)
        assert info.permissions == "Lrwxrwxrwx"
        assert sandbox.files.read(name) == "content"
    assert sandbox.files.get_info("to-directory").symlink_target == "/home/user/real"
    assert [entry.path for entry in sandbox.files.list("to-directory")] == ["/home/user/to-directory/file"]
    for name in ("broken", "loop"):
        assert sandbox.files.get_info(name).symlink_target == f"/home/user/{name}"
        assert sandbox.files.get_info(name).mode == 0
    with pytest.raises(NotFoundException):
        sandbox.files.read("broken")
    listed = {entry.name for entry in sandbox.files.list("/home/user")}
    assert {"absolute", "relative", "to-directory"} <= listed
    # Removing and renaming mean the link.
    sandbox.files.remove("to-directory")
    sandbox.files.rename("absolute", "moved")
    assert sandbox.files.read("real/file") == "content" and sandbox.files.get_info("moved").symlink_target == target
    # Writing means what it leads to.
    sandbox.files.write("relative", "new")
    assert sandbox.files.read("real/file") == "new"


def test_files_of_the_kernel(sandbox):
    """They say that they are empty."""
    assert sandbox.files.get_info("/proc/self/status").size == 0
    assert "Name:" in sandbox.files.read("/proc/self/status")
    assert sandbox.files.read("/proc/cpuinfo").startswith("processor")
    assert b"Name:" in b"".join(sandbox.files.read("/proc/self/status", format="stream"))


@pytest.mark.parametrize(
    "make_it, expected",
    [
        ("touch x; chmod 640 x", ("-rw-r-----", 0o640)),
        ("touch x; chmod 4755 x", ("urwxr-xr-x", 0o755)),
        ("mkdir x; chmod 1777 x", ("dtrwxrwxrwx", 0o777)),
        ("mkdir x; chmod 2775 x", ("dgrwxrwxr-x", 0o775)),
        ("mkfifo x; chmod 600 x", ("prw-------", 0o600)),
        ("touch x; chmod 0 x", ("----------", 0)),
    ],
)
def test_permissions_are_written_as_the_original_does(sandbox, make_it, expected):
    sandbox.commands.run(make_it)
    info = sandbox.files.get_info("x")
    assert (info.permissions, info.mode) == expected


def test_owners_without_a_name_are_numbers(sandbox):
    sandbox.commands.run("touch x && sudo chown 4321:8765 x")
    info = sandbox.files.get_info("x")
    assert (info.owner, info.group) == ("4321", "8765")


def test_metadata_and_attributes_are_the_same_thing(sandbox):
    sandbox.files.write("m", "x", metadata={"Author": "me"})
    attributes = "python3 -c \"import os; print({n: os.getxattr('m', n) for n in os.listxattr('m')})\""
    assert sandbox.commands.run(attributes).stdout == "{'user.e2b.author': b'me'}\n"
    sandbox.commands.run("python3 -c \"import os; os.setxattr('m', 'user.e2b.outside', b'yes')\"")
    assert sandbox.files.get_info("m").metadata == {"author": "me", "outside": "yes"}
    assert [entry.metadata for entry in sandbox.files.list(".") if entry.name == "m"] == [{"author": "me", "outside": "yes"}]
    written = sandbox.files.write_files([{"path": name, "data": name} for name in ("p", "q")], metadata={"k": "v"})
    assert [info.metadata for info in written] == [{"k": "v"}] * 2


def test_pipes_and_devices_are_no_files(sandbox):
    """And nobody waits for one."""
    sandbox.commands.run("mkfifo pipe")
    for path in ("pipe", "/dev/zero"):
        with pytest.raises(InvalidArgumentException):
            sandbox.files.read(path)
    with pytest.raises(Exception):
        sandbox.files.write("pipe", "x")


def test_many_transfers_at_once(sandbox):
    data = {f"t/{number}": os.urandom(300_000) for number in range(16)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: sandbox.files.write(*item), data.items()))
        read = list(pool.map(lambda path: bytes(sandbox.files.read(path, format="bytes")), data))
    assert read == list(data.values())


def test_uploads_in_pieces_of_any_size(sandbox):
    data = os.urandom(200_000)
    pieces = [data[at : at + 777] for at in range(0, len(data), 777)]
    sandbox.files.write("pieces", iter(pieces))
    assert sandbox.files.read("pieces", format="bytes") == data
    sandbox.files.write("packed", iter(pieces), gzip=True)
    assert sandbox.files.read("packed", format="bytes") == data
