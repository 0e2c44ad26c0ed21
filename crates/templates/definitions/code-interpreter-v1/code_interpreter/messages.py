"""Jupyter's messages as lines of the answer."""

import json
import time

# The order in which Jupyter's clients prefer them does not matter: all are passed on.
FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/javascript": "javascript",
    "application/vnd.e2b.data.v1+json": "data",
    "application/vnd.e2b.chart.v1+json": "chart",
}


def line_of(message):
    """The line for a message of the kernel's output channel, or None when clients are not told of it."""
    content = message["content"]
    match message["msg_type"]:
        case "stream":
            return {"type": content["name"], "text": content["text"], "timestamp": time.time_ns()}
        case "display_data":
            return result(content["data"], is_main=False)
        case "execute_result":
            return result(content["data"], is_main=True)
        case "error":
            return error(content["ename"], content["evalue"], "\n".join(content["traceback"]))
        case "execute_input":
            return {"type": "number_of_executions", "execution_count": content["execution_count"]}
    return None


def result(data, is_main):
    line = {"type": "result", "is_main_result": is_main}
    extra = {}
    for kind, value in data.items():
        field = FIELDS.get(kind)
        if field is None:
            extra[kind] = value
        elif field in ("png", "jpeg", "pdf"):
            line[field] = value.replace("\n", "")
        else:
            line[field] = value
    text = line.get("text")
    # A string's result is the string, not how it would be written in a program.
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] and text[0] in "'\"`":
        line["text"] = text[1:-1]
    if extra:
        line["extra"] = extra
    return line


def error(name, value, traceback):
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def encode(line):
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
