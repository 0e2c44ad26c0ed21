"""What the installed SDK can do, for tests that are run against older ones (`cargo xtask compat`).

A test is skipped when its source uses something that this SDK does not have: a name imported from `e2b`, a method of a sandbox, or an
option of its creation. Nothing is skipped because it failed.
"""

import ast
import functools
import inspect
import textwrap
from pathlib import Path

import e2b
from e2b import AsyncSandbox, Sandbox
from e2b.sandbox_sync.commands.command import Commands
from e2b.sandbox_sync.commands.pty import Pty
from e2b.sandbox_sync.filesystem.filesystem import Filesystem

# Where the methods are that came with time. A test that uses one of the names needs the class to have it.
METHODS = {
    "beta_pause": Sandbox,
    "download_url": Sandbox,
    "get_host": Sandbox,
    "get_info": Sandbox,
    "get_metrics": Sandbox,
    "pause": Sandbox,
    "upload_url": Sandbox,
}

# What hangs below a sandbox: `sandbox.commands.…`.
PARTS = {"commands": Commands, "files": Filesystem, "pty": Pty}

# Options of other calls that came with time: a test that gives one to a call of this name needs the call to take it.
OPTIONS = {
    ("SandboxQuery", "started_after"): getattr(e2b, "SandboxQuery", None),
    ("SandboxQuery", "template"): getattr(e2b, "SandboxQuery", None),
    ("list", "order"): getattr(Sandbox, "list", None),
    ("watch_dir", "include_entry"): Filesystem.watch_dir,
    ("watch_dir", "allow_network_mounts"): Filesystem.watch_dir,
}

# What makes a sandbox in our tests.
MAKERS = {"make", "amake"}


def parameters(call):
    """The names that a function takes, those of its `**options: Unpack[…]` included."""
    names = set()
    for parameter in inspect.signature(call).parameters.values():
        names.add(parameter.name)
        if parameter.kind is parameter.VAR_KEYWORD:
            options = getattr(parameter.annotation, "__args__", ())
            names.update(*(getattr(option, "__annotations__", {}) for option in options))
    return names


@functools.cache
def create_options():
    # Before 2.0 the class itself made sandboxes.
    return parameters(Sandbox.create if hasattr(Sandbox, "create") else Sandbox.__init__)


def create(template="base", **options):
    """Makes a sandbox, in whichever way this SDK does it."""
    return Sandbox.create(template, **options) if hasattr(Sandbox, "create") else Sandbox(template, **options)


def uses_class_method(node):
    """`Sandbox.kill(…)`: since 2.0 methods of a sandbox can be called on the class, with an id."""
    return isinstance(node.value, ast.Name) and node.value.id in ("Sandbox", "AsyncSandbox")


def lacking_in(tree):
    """The first thing in this piece of source that the SDK does not have."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr in METHODS and not hasattr(METHODS[node.attr], node.attr):
                return f"Sandbox.{node.attr}"
            part = PARTS.get(getattr(node.value, "attr", None))
            if part and not hasattr(part, node.attr):
                return f"{node.value.attr}.{node.attr}"
            if uses_class_method(node) and not hasattr(AsyncSandbox if node.value.id == "AsyncSandbox" else Sandbox, node.attr):
                return f"{node.value.id}.{node.attr}"
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", None))
            if called in MAKERS:
                for keyword in node.keywords:
                    if keyword.arg and keyword.arg not in create_options():
                        return f"create({keyword.arg}=…)"
            for keyword in node.keywords:
                owner = OPTIONS.get((called, keyword.arg))
                if owner and keyword.arg not in parameters(owner):
                    return f"{called}({keyword.arg}=…)"
        if isinstance(node, ast.ImportFrom) and node.module == "e2b":
            for alias in node.names:
                if not hasattr(e2b, alias.name):
                    return f"e2b.{alias.name}"
    return None


@functools.cache
def helpers_of(path):
    """The functions of a test file by name: what a test calls is part of it."""
    tree = ast.parse(Path(path).read_text())
    return {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


def lacking(function):
    """The first thing that a test, its fixtures or the functions of its file use and this SDK does not have."""
    path = inspect.getsourcefile(function)
    helpers = helpers_of(path)
    seen, waiting = set(), [ast.parse(textwrap.dedent(inspect.getsource(function)))]
    while waiting:
        tree = waiting.pop()
        found = lacking_in(tree)
        if found:
            return found
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
            node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)
        }
        for name in (names & helpers.keys()) - seen:
            seen.add(name)
            waiting.append(helpers[name])
    return None


def lacking_import(path):
    """The first name that a test file imports from `e2b` and that is not there: the file cannot be loaded then."""
    try:
        tree = ast.parse(Path(path).read_text())
    except (OSError, SyntaxError):
        return None
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return next((found for node in imports if (found := lacking_in(node))), None)
