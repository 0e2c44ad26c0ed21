"""Templates: what the SDK's builder makes, and what sandboxes of it find."""

import uuid

import pytest
from conftest import eventually

from e2b import Template, wait_for_port
from e2b.exceptions import BuildException, SandboxException


@pytest.fixture
def name(api):
    """A name that is free; the template is deleted after the test."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    yield name
    eventually(lambda: api.delete(f"/templates/{name}").status_code in (204, 404), deadline=30)


def lines(logs):
    return [entry.message for entry in logs]


def test_a_template_with_everything_starts_with_its_command_running(name, make, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("made of a template")
    (tmp_path / "site" / "tool.sh").write_text("#!/bin/sh\necho tool\n")
    template = (
        Template(file_context_path=tmp_path)
        .from_base_image()
        .set_envs({"GREETING": "hello", "LONGER": "$GREETING there", "PATH": "/opt/tools:$PATH"})
        .run_cmd('echo "$LONGER" > /etc/greeting && rm /etc/motd', user="root")
        .copy("site/*", "/srv/site/", mode=0o755)
        .set_workdir("/srv/work")
        .run_cmd("whoami > who.txt && touch /tmp/left")
        .set_start_cmd("python3 -m http.server 8123 --directory /srv/site", wait_for_port(8123))
    )
    logs = []
    Template.build(template, name, cpu_count=2, memory_mb=512, on_build_logs=logs.append)
    text = lines(logs)
    assert any(line.startswith("Building template ") for line in text), text
    assert any("[builder 2/" in line and "RUN" in line for line in text), text
    assert text[-1].startswith("Build finished, took ") or "finished" in text[-1].lower(), text

    sandbox = make(name)
    run = lambda command: sandbox.commands.run(command).stdout.strip()
    assert run("curl -s localhost:8123/index.html") == "made of a template"
    assert any("http.server" in " ".join(process.args) for process in sandbox.commands.list())
    assert run("cat /etc/greeting") == "hello there"
    assert run("pwd; cat who.txt; echo $GREETING; ls /tmp; test -e /etc/motd || echo gone") == "/srv/work\nuser\nhello\ngone"
    assert run("stat -c '%U %a' /srv/site/index.html /srv/work") == "user 755\nuser 755"
    assert run("echo $PATH").startswith("/opt/tools:")
    assert run("cat /.e2b").count("=") == 3
    assert run("nproc; grep MemTotal /proc/meminfo | tr -dc 0-9") == "2\n524288"
    info = sandbox.get_info()
    assert info.name == name or info.template_id

    # The same steps come from the cache, and those after a change do not.
    logs.clear()
    child = Template().from_template(name).run_cmd("cat /etc/greeting > copy.txt")
    Template.build(child, f"{name}:child", on_build_logs=logs.append)
    Template.build(child, f"{name}:again", on_build_logs=logs.append)
    assert sum("CACHED [builder 1/1] RUN" in line for line in lines(logs)) == 1, lines(logs)
    # A child inherits the context and the start command.
    other = make(f"{name}:child")
    assert other.commands.run("pwd; cat copy.txt; curl -s localhost:8123/index.html").stdout.split("\n")[:3] == [
        "/srv/work",
        "hello there",
        "made of a template",
    ]
    assert {tag.tag for tag in Template.get_tags(name)} == {"default", "child", "again"}
    for sandbox in (sandbox, other):
        sandbox.kill()


def test_a_build_in_background_is_building_at_once_and_its_failure_is_told(name):
    template = Template().from_base_image().run_cmd("echo one; echo two >&2; exit 7")
    build = Template.build_in_background(template, name)
    assert Template.get_build_status(build).status == "building"
    done = lambda: (s := Template.get_build_status(build)).status != "building" and s
    status = eventually(done, deadline=120, every=0.2)
    assert status.status == "error"
    assert status.reason.message == "failed to run command 'echo one; echo two >&2; exit 7': exit status 7"
    assert status.reason.step == "1"
    text = lines(status.log_entries)
    assert "[builder 1/1] [stdout]: one" in text and "[builder 1/1] [stderr]: two" in text, text
    assert text[-1].startswith("Build failed: failed to run command"), text


def test_an_unknown_user_is_told_in_the_known_words(name):
    template = Template().from_base_image().run_cmd("whoami", user="root123")
    with pytest.raises(BuildException) as error:
        Template.build(template, name)
    expected = "failed to run command 'whoami': command failed: unauthenticated: invalid username: 'root123'"
    assert expected in str(error.value)


def test_a_dockerfile_builds(name, make, tmp_path):
    (tmp_path / "app.py").write_text("print('app')")
    dockerfile = """
FROM e2bdev/base
ARG WHO=world
ENV TEXT="hello $WHO"
WORKDIR /app
COPY app.py .
RUN python3 app.py > out.txt && echo "$TEXT" >> out.txt
USER builder
RUN id -un > /home/builder/who
"""
    Template.build(Template(file_context_path=tmp_path).from_dockerfile(dockerfile), name)
    sandbox = make(name)
    assert sandbox.commands.run("cat out.txt; cat ~/who; id -un").stdout == "app\nhello world\nbuilder\nbuilder\n"


def test_names_and_tags(name, api):
    assert Template.exists("base")
    assert not Template.exists(name)
    Template.build(Template().from_base_image(), f"{name}:v1", tags=["stable"])
    assert Template.exists(name)
    tags = {tag.tag: tag.build_id for tag in Template.get_tags(name)}
    assert set(tags) == {"v1", "stable"}
    assigned = Template.assign_tags(f"{name}:v1", ["production"])
    assert assigned.build_id == tags["v1"]
    Template.remove_tags(name, ["stable"])
    assert {tag.tag for tag in Template.get_tags(name)} == {"v1", "production"}
    refused = [
        api.post("/templates/tags", json={"target": f"{name}:v1", "tags": [":bad"]}),
        api.post("/templates/tags", json={"target": f"{name}:v1", "tags": []}),
        api.request("DELETE", "/templates/tags", json={"name": name, "tags": ["default"]}),
        api.request("DELETE", "/templates/tags", json={"name": f"{name}:v1", "tags": ["v1"]}),
    ]
    assert [answer.status_code for answer in refused] == [400] * 4
    missing = [
        api.post("/templates/tags", json={"target": f"{name}:none", "tags": ["x"]}),
        api.post("/templates/tags", json={"target": "nothing-of-that-name", "tags": ["x"]}),
        api.request("DELETE", "/templates/tags", json={"name": name, "tags": ["none"]}),
        api.get("/templates/nothing-of-that-name/tags"),
        api.post("/v2/sandboxes", json={"templateID": f"{name}:none"}),
    ]
    assert [answer.status_code for answer in missing] == [404] * 5


def test_a_template_in_use_is_not_deleted(name, api, make):
    Template.build(Template().from_base_image(), name)
    sandbox = make(name)
    answer = api.delete(f"/templates/{name}")
    assert answer.status_code == 400 and "running sandboxes" in answer.json()["message"]
    listed = {template["templateID"]: template for template in api.get("/templates").json()}
    mine = next(template for template in listed.values() if name in template["aliases"])
    assert mine["buildStatus"] == "ready" and mine["spawnCount"] == 1
    assert api.patch(f"/v2/templates/{name}", json={"public": True}).json()["names"] == [f"default/{name}"]
    assert api.get(f"/templates/aliases/{name}").json()["public"] is True
    sandbox.kill()
    assert api.delete(f"/templates/{name}").status_code == 204
    assert api.get(f"/templates/aliases/{name}").status_code == 404
    with pytest.raises(SandboxException):
        make(name)


def bad_requests(api, name):
    build = api.post("/v3/templates", json={"name": name}).json()
    start = f"/v2/templates/{build['templateID']}/builds/{build['buildID']}"
    yield 400, api.post("/v3/templates", json={})
    yield 400, api.post("/v3/templates", json={"name": "bad name"})
    yield 400, api.post("/v3/templates", json={"name": "other/x"})
    yield 400, api.post("/v3/templates", json={"name": f"{name}:"})
    yield 400, api.post("/v3/templates", json={"name": name, "cpuCount": 3})
    yield 400, api.post("/v3/templates", json={"name": name, "memoryMB": 129})
    yield 400, api.post(start, json={})
    yield 400, api.post(start, json={"fromImage": "a", "fromTemplate": "b"})
    yield 400, api.post(start, json={"fromTemplate": "base", "steps": [{"type": "RUN", "args": ["x"]}] * 1000})
    yield 404, api.post(f"/v2/templates/{build['templateID']}/builds/{uuid.uuid4()}", json={"fromTemplate": "base"})
    yield 404, api.post(f"/v2/templates/nothing-here/builds/{build['buildID']}", json={"fromTemplate": "base"})
    yield 400, api.get(f"/templates/{build['templateID']}/builds/nonsense/status")
    yield 404, api.get(f"/templates/{build['templateID']}/builds/{uuid.uuid4()}/status")
    yield 400, api.get(f"/templates/{build['templateID']}/files/..%2F..%2Fetc")
    yield 404, api.get(f"/templates/nothing-here/files/{'a' * 64}")
    link = api.get(f"/templates/{build['templateID']}/files/{'a' * 64}")
    yield 201, link
    yield 403, api.put(link.json()["url"] + "0", content=b"x")
    yield 403, api.put(link.json()["url"].replace("a" * 64, "b" * 64), content=b"x")
    # The build waits all the time.
    yield 202, api.post(start, json={"fromTemplate": "base", "steps": [{"type": "NONSENSE"}]})
    yield 400, api.post(start, json={"fromTemplate": "base"})


def test_bad_requests_are_refused_and_change_nothing(name, api):
    wrong = [(want, got.status_code, got.url.path, got.text) for want, got in bad_requests(api, name) if got.status_code != want]
    assert not wrong
