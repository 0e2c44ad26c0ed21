"""`code-interpreter-v1` through its official client, in both of its Python forms."""

import asyncio
import base64
import threading

import httpx
import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox

from e2b.exceptions import NotFoundException, SandboxException, TimeoutException


@pytest.fixture(scope="module")
def interpreter():
    """One sandbox for the tests that leave nothing behind."""
    sandbox = Sandbox.create(timeout=600, envs={"GREETING": "good day"})
    yield sandbox
    sandbox.kill()


def test_state_stays_between_executions(interpreter):
    context = interpreter.create_code_context()
    interpreter.run_code("x = 20", context=context)
    execution = interpreter.run_code("x += 1; x", context=context)
    assert (execution.text, execution.error) == ("21", None)
    assert execution.execution_count == 2


def test_output_streams_in_order(interpreter):
    seen = []
    execution = interpreter.run_code(
        "import sys, time\nprint('one', flush=True)\ntime.sleep(0.2)\nprint('two', file=sys.stderr)\n'three'",
        on_stdout=lambda message: seen.append(("out", message.line, message.error)),
        on_stderr=lambda message: seen.append(("err", message.line, message.error)),
        on_result=lambda result: seen.append(("result", result.text, result.is_main_result)),
    )
    assert seen == [("out", "one\n", False), ("err", "two\n", True), ("result", "three", True)]
    assert (execution.logs.stdout, execution.logs.stderr) == (["one\n"], ["two\n"])


def test_errors_have_name_value_and_traceback(interpreter):
    errors = []
    execution = interpreter.run_code("def f():\n    return 1 / 0\nf()", on_error=errors.append)
    assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
    assert "f()" in execution.error.traceback
    assert [error.name for error in errors] == ["ZeroDivisionError"]
    assert interpreter.run_code("1 + 1").text == "2"


def test_figures_are_pictures_and_charts(interpreter):
    execution = interpreter.run_code(
        "import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2])\nplt.title('Counts')\nplt.show()"
    )
    [figure] = execution.results
    assert base64.b64decode(figure.png).startswith(b"\x89PNG")
    assert (figure.chart.type.value, figure.chart.title) == ("bar", "Counts")
    assert [(bar.label, bar.value) for bar in figure.chart.elements] == [("a", 1.0), ("b", 2.0)]
    assert not figure.is_main_result


def test_tables_carry_their_data(interpreter):
    execution = interpreter.run_code("import pandas as pd\npd.DataFrame({'a': [1, 2], 'b': ['x', None]})")
    [table] = execution.results
    assert "<table" in table.html
    assert table.data == {"a": [1, 2], "b": ["x", None]}


def test_rich_results(interpreter):
    execution = interpreter.run_code(
        "from IPython.display import HTML, JSON, Latex, Markdown, SVG, display\n"
        "display(HTML('<b>h</b>'), Markdown('**m**'), Latex('$l$'), JSON({'j': 1}), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))"
    )
    html, markdown, latex, data, svg = execution.results
    assert (html.html, markdown.markdown, latex.latex) == ("<b>h</b>", "**m**", "$l$")
    assert data.json == {"j": 1}
    assert svg.svg.startswith("<svg")


@pytest.mark.parametrize(
    ("language", "code", "text"),
    [
        ("javascript", "const a = await Promise.resolve(20); a + 1", "21"),
        ("js", "const fs = require('node:fs'); fs.existsSync('/etc/passwd')", "true"),
        ("typescript", "const words: string[] = ['a', 'b']; words.length", "2"),
    ],
)
def test_javascript(interpreter, language, code, text):
    execution = interpreter.run_code(code, language=language)
    assert (execution.text, execution.error) == (text, None)


def test_javascript_output_and_errors(interpreter):
    execution = interpreter.run_code("console.log('out'); console.error('err'); throw new TypeError('no')", language="javascript")
    assert (execution.logs.stdout, execution.logs.stderr) == (["out\n"], ["err\n"])
    assert (execution.error.name, execution.error.value) == ("TypeError", "no")


def test_bash(interpreter):
    assert "".join(interpreter.run_code("cd /tmp\npwd", language="bash").logs.stdout) == "/tmp\n"


def test_an_unknown_language_is_named(interpreter):
    with pytest.raises(SandboxException, match="cobol"):
        interpreter.run_code("1", language="cobol")


def test_variables_of_the_sandbox_and_of_an_execution(interpreter):
    read = "import os; os.environ.get('GREETING')"
    assert interpreter.run_code(read).text == "good day"
    assert interpreter.run_code(read, envs={"GREETING": "good night"}).text == "good night"
    assert interpreter.run_code(read).text == "good day"
    assert interpreter.run_code("process.env.GREETING", language="javascript", envs={"GREETING": "a 'b' \"c\""}).text == "a 'b' \"c\""


def test_contexts_are_apart(interpreter):
    one, two = interpreter.create_code_context(cwd="/tmp"), interpreter.create_code_context()
    interpreter.run_code("shared = 1", context=one)
    assert interpreter.run_code("shared", context=two).error.name == "NameError"
    assert interpreter.run_code("import os; os.getcwd()", context=one).text == "/tmp"
    assert interpreter.run_code("import os; os.getcwd()", context=two).text == "/home/user"
    assert {one.id, two.id} <= {context.id for context in interpreter.list_code_contexts()}
    interpreter.restart_code_context(one)
    assert interpreter.run_code("shared", context=one).error.name == "NameError"
    interpreter.remove_code_context(one)
    with pytest.raises(NotFoundException):
        interpreter.run_code("1", context=one)
    interpreter.remove_code_context(two)


def test_a_timeout_interrupts_the_code(interpreter):
    context = interpreter.create_code_context()
    interpreter.run_code("kept = 'yes'", context=context)
    with pytest.raises(TimeoutException):
        interpreter.run_code("while True: pass", context=context, timeout=2)
    assert interpreter.run_code("kept", context=context).text == "yes"


def test_a_kernel_that_dies_is_started_anew(interpreter):
    context = interpreter.create_code_context()
    execution = interpreter.run_code("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", context=context)
    assert execution.error.name == "KernelDied"
    assert interpreter.run_code("1 + 1", context=context).text == "2"


def test_packages_are_shared_with_the_shell(interpreter):
    assert interpreter.commands.run("python3 -c 'import numpy, pandas, sklearn, scipy; print(1)'").stdout == "1\n"
    assert interpreter.run_code("import getpass; getpass.getuser()").text == "user"


def test_bad_requests_are_refused(interpreter):
    url = f"{interpreter.connection_config.get_sandbox_url(interpreter.sandbox_id, interpreter.sandbox_domain, port=49999)}"
    headers = {"E2b-Sandbox-Id": interpreter.sandbox_id, "E2b-Sandbox-Port": "49999"}
    with httpx.Client(base_url=url, headers=headers) as client:
        for body in (b"", b"{", b"[]", b'{"code": 1}', b'{"language": "python"}', b'{"code": "1", "env_vars": {"A": 1}}', b"\xff"):
            assert client.post("/execute", content=body).status_code == 400, body
        assert client.post("/contexts", json={"cwd": "/does/not/exist"}).status_code == 400
        assert client.delete("/contexts/none").status_code == 404


def test_kernels_go_on_after_a_pause():
    sandbox = Sandbox.create(timeout=600)
    try:
        sandbox.run_code("value = 41")
        sandbox.run_code("let counter = 1", language="javascript")
        sandbox.pause()
        sandbox = Sandbox.connect(sandbox.sandbox_id)
        assert sandbox.run_code("value + 1").text == "42"
        assert sandbox.run_code("counter + 1", language="javascript").text == "2"
    finally:
        sandbox.kill()


def test_a_kill_during_an_execution_is_told():
    sandbox = Sandbox.create(timeout=600)
    failures = []

    def run():
        try:
            sandbox.run_code("print('begun', flush=True)\nimport time; time.sleep(300)", on_stdout=lambda _: begun.set())
        except Exception as error:
            failures.append(error)

    begun = threading.Event()
    running = threading.Thread(target=run)
    running.start()
    assert begun.wait(60)
    sandbox.kill()
    running.join(60)
    assert failures and isinstance(failures[0], TimeoutException), failures


async def test_the_asynchronous_client():
    sandbox = await AsyncSandbox.create(timeout=600)
    try:
        contexts = await asyncio.gather(*(sandbox.create_code_context() for _ in range(3)))
        executions = await asyncio.gather(
            *(sandbox.run_code(f"import time; time.sleep(0.1); {number} * 2", context=context) for number, context in enumerate(contexts))
        )
        assert [execution.text for execution in executions] == ["0", "2", "4"]
    finally:
        await sandbox.kill()
