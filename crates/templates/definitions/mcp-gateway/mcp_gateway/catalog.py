"""The servers that a configuration may name, and any repository that it brings with `github/owner/repository`."""

import json
import shlex
from dataclasses import dataclass, field


class BadConfiguration(Exception):
    """The configuration names what is not there, or leaves out what a server needs."""


@dataclass
class Server:
    """How a server is installed and started."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    # A shell command that prepares the server, and where both run.
    install: str | None = None
    directory: str | None = None


def npm(package, *arguments):
    return ["npx", "--yes", package, *arguments]


def python(*package):
    return ["uvx", *package]


# Each entry: the command, then which setting of the configuration becomes which variable.
ENTRIES = {
    "arxiv": (python("arxiv-mcp-server"), {"storagePath": "ARXIV_STORAGE_PATH"}),
    "brave": (npm("@brave/brave-search-mcp-server"), {"apiKey": "BRAVE_API_KEY"}),
    "context7": (npm("@upstash/context7-mcp"), {"apiKey": "CONTEXT7_API_KEY"}),
    "duckduckgo": (python("duckduckgo-mcp-server"), {}),
    "everything": (npm("@modelcontextprotocol/server-everything"), {}),
    "exa": (npm("exa-mcp-server"), {"apiKey": "EXA_API_KEY"}),
    "fetch": (python("mcp-server-fetch"), {}),
    "filesystem": (npm("@modelcontextprotocol/server-filesystem"), {}),
    "firecrawl": (npm("firecrawl-mcp"), {"apiKey": "FIRECRAWL_API_KEY", "url": "FIRECRAWL_API_URL"}),
    "git": (python("mcp-server-git"), {}),
    "memory": (npm("@modelcontextprotocol/server-memory"), {}),
    "notion": (npm("@notionhq/notion-mcp-server"), {"internalIntegrationToken": "NOTION_TOKEN"}),
    "sequentialthinking": (npm("@modelcontextprotocol/server-sequential-thinking"), {}),
    # Written for the library's first major version, and does not say so.
    "sqlite": (python("--with", "mcp<2", "mcp-server-sqlite"), {}),
    "tavily": (npm("tavily-mcp"), {"apiKey": "TAVILY_API_KEY"}),
    "time": (python("mcp-server-time"), {}),
    "wikipedia": (python("wikipedia-mcp"), {}),
}


def read(text):
    """The servers that a configuration asks for."""
    try:
        configuration = json.loads(text)
    except ValueError as error:
        raise BadConfiguration(f"the configuration is not JSON: {error}") from error
    if not isinstance(configuration, dict):
        raise BadConfiguration("the configuration must be an object: a name and settings for each server")
    return [server_of(name, {} if settings is None else settings) for name, settings in configuration.items()]


def server_of(name, settings):
    if not isinstance(settings, dict):
        raise BadConfiguration(f"the settings of {name} must be an object")
    if name.startswith("github/"):
        return repository(name, settings)
    if name not in ENTRIES:
        raise BadConfiguration(
            f"server {name} is not in this gateway's catalogue ({', '.join(ENTRIES)}); "
            "others can be brought as github/owner/repository with installCmd and runCmd"
        )
    command, variables = ENTRIES[name]
    arguments = paths_of(name, settings)
    environment = {variable: str(settings[key]) for key, variable in variables.items() if key in settings}
    return Server(name, [*command, *arguments], environment)


def paths_of(name, settings):
    """Directories that a server may use are arguments."""
    paths = settings.get("paths", [])
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise BadConfiguration(f"paths of {name} must be a list of strings")
    if name == "filesystem":
        return paths or ["/home/user"]
    if name == "git":
        return ["--repository", paths[0]] if paths else []
    return []


def repository(name, settings):
    parts = name.split("/")
    if len(parts) != 3 or not all(part and part.strip(".") and part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in parts):
        raise BadConfiguration(f"{name} is not github/owner/repository")
    run, install, variables = settings.get("runCmd"), settings.get("installCmd"), settings.get("envs") or {}
    if not isinstance(run, str) or not run:
        raise BadConfiguration(f"{name} needs runCmd, the command that starts it")
    directory = f"/home/user/mcp/{parts[1]}/{parts[2]}"
    clone = f"test -d {directory} || git clone --depth 1 https://github.com/{parts[1]}/{parts[2]} {directory}"
    prepare = clone if not install else f"{clone} && cd {directory} && {install}"
    start = ["bash", "-c", f"cd {shlex.quote(directory)} && exec {run}"]
    return Server(parts[2], start, {key: str(value) for key, value in variables.items()}, install=prepare, directory=directory)
