"""Watching directories."""

import pytest
from conftest import eventually

from e2b import FilesystemEventType, InvalidArgumentException, NotFoundException


def seen(handle):
    """A function that collects the events so far as pairs."""
    found = []

    def collect():
        found.extend((event.name, event.type) for event in handle.get_new_events())
        return found

    return collect


def test_events_of_a_file_s_life(sandbox):
    sandbox.files.make_dir("w")
    handle = sandbox.files.watch_dir("w")
    collect = seen(handle)
    sandbox.files.write("w/a", "1")
    eventually(lambda: {("a", FilesystemEventType.CREATE), ("a", FilesystemEventType.WRITE)} <= set(collect()))
    sandbox.commands.run("chmod 600 w/a; mv w/a w/b; rm w/b")
    wanted = {
        ("a", FilesystemEventType.CHMOD),
        ("a", FilesystemEventType.RENAME),
        ("b", FilesystemEventType.CREATE),
        ("b", FilesystemEventType.REMOVE),
    }
    eventually(lambda: wanted <= set(collect()))
    handle.stop()
    with pytest.raises(Exception):
        handle.get_new_events()


def test_new_directories_are_watched_too_when_recursive(sandbox):
    sandbox.files.make_dir("w/old")
    handle = sandbox.files.watch_dir("w", recursive=True)
    collect = seen(handle)
    sandbox.files.write("w/old/file", "1")
    eventually(lambda: ("old/file", FilesystemEventType.CREATE) in collect())
    sandbox.files.make_dir("w/new")
    eventually(lambda: ("new", FilesystemEventType.CREATE) in collect())
    sandbox.files.write("w/new/file", "1")
    eventually(lambda: any(name == "new/file" for name, _ in collect()))


def test_entries_come_along_when_asked_for(sandbox):
    sandbox.files.make_dir("w")
    handle = sandbox.files.watch_dir("w", include_entry=True)
    sandbox.files.write("w/a", "12345")
    events = []

    def entry():
        events.extend(handle.get_new_events())
        return next((e.entry for e in events if e.entry and e.entry.size == 5), None)

    assert eventually(entry).path == "/home/user/w/a"


def test_watching_survives_a_sleep(sandbox):
    sandbox.files.make_dir("w")
    handle = sandbox.files.watch_dir("w")
    sandbox.pause()
    sandbox.connect()
    collect = seen(handle)
    sandbox.files.write("w/after", "1")
    eventually(lambda: ("after", FilesystemEventType.CREATE) in collect())


def test_what_cannot_be_watched(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir("/no/such")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.watch_dir("/etc/hostname")


def test_thousands_of_events_in_a_tree(sandbox):
    handle = sandbox.files.watch_dir("/home/user", recursive=True)
    collect = seen(handle)
    sandbox.commands.run("mkdir -p t/{a,b,c,d}/{0..9} && for d in t/*/*; do for i in $(seq 50); do echo $i > $d/$i; done; done", timeout=120)
    wanted = {f"t/{one}/{two}/{number}" for one in "abcd" for two in range(10) for number in range(1, 51)}

    def complete():
        created = {name for name, kind in collect() if kind == FilesystemEventType.CREATE}
        return wanted <= created

    eventually(complete, deadline=30)
    written = {name for name, kind in collect() if kind == FilesystemEventType.WRITE}
    assert wanted <= written


def test_directories_that_come_and_go(sandbox):
    sandbox.commands.run("mkdir -p w/a outside/below && touch outside/below/file")
    handle = sandbox.files.watch_dir("w", recursive=True)
    collect = seen(handle)
    sandbox.commands.run("mv outside w/in; mv w/in/below w/a/")
    eventually(lambda: {("in", FilesystemEventType.CREATE), ("a/below", FilesystemEventType.CREATE)} <= set(collect()))
    sandbox.files.write("w/a/below/new", "x")
    eventually(lambda: ("a/below/new", FilesystemEventType.CREATE) in collect())
    sandbox.files.remove("w/a")
    eventually(lambda: ("a", FilesystemEventType.REMOVE) in collect())


def test_two_watchers_each_get_everything(sandbox):
    one, two = (seen(sandbox.files.watch_dir("/home/user")) for _ in range(2))
    sandbox.files.write("x", "1")
    for collect in (one, two):
        eventually(lambda: ("x", FilesystemEventType.CREATE) in collect())


def test_without_recursion_only_the_directory_itself(sandbox):
    sandbox.files.make_dir("w/below")
    collect = seen(sandbox.files.watch_dir("w"))
    sandbox.files.write("w/below/hidden", "1")
    sandbox.files.write("w/last", "1")
    eventually(lambda: ("last", FilesystemEventType.CREATE) in collect())
    assert not any("hidden" in name for name, _ in collect())
