"""Languages: which Jupyter kernel runs one, and how a variable of the environment is set in it.

A language is a kernel specification that Jupyter finds: the ones beside this file, or any that a user installs.
"""

import json
import shlex
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

DEFAULT = "python"
# Names that clients use, and the kernels. Jupyter keeps the name `python` for itself.
KERNELS = {"python": "python3", "js": "javascript", "ts": "javascript", "typescript": "javascript", "sh": "bash"}

# What a kernel runs first. Programs written for Node.js call `require`, which Deno has only as a function to be made.
PRELUDE = {
    "javascript": """
        import { createRequire } from "node:module";
        globalThis.require = createRequire(Deno.cwd() + "/");
    """,
}


class UnknownLanguage(Exception):
    def __init__(self, name, known):
        super().__init__(f"no kernel for language {name!r}; there are {', '.join(sorted(map(language_of, known)))}")


class Specifications(KernelSpecManager):
    """Kernel specifications of the system, and before them our own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.kernel_dirs = [str(Path(__file__).parent / "kernels"), *self.kernel_dirs]


def kernel_of(specifications, language):
    """The name of the kernel that runs `language`, which may be None for the default one."""
    name = (language or DEFAULT).lower()
    name = KERNELS.get(name, name)
    try:
        specifications.get_kernel_spec(name)
    except NoSuchKernel:
        raise UnknownLanguage(name, specifications.find_kernel_specs()) from None
    return name


def language_of(kernel):
    """What clients call the language of a kernel."""
    return "python" if kernel == "python3" else kernel


def set_environment(kernel, variables):
    """Code that sets variables; a value of None removes one. None when the kernel's language is not known to us."""
    if kernel == "python3":
        return "\n".join(
            f"__import__('os').environ.pop({name!r}, None)" if value is None else f"__import__('os').environ[{name!r}] = {value!r}"
            for name, value in variables.items()
        )
    if kernel == "javascript":
        return "\n".join(
            f"Deno.env.delete({json.dumps(name)});" if value is None else f"Deno.env.set({json.dumps(name)}, {json.dumps(value)});"
            for name, value in variables.items()
        )
    if kernel == "bash":
        return "\n".join(
            f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}"
            for name, value in variables.items()
            if name.isidentifier()
        )
    return None
