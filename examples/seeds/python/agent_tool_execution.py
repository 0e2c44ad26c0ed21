from e2b import Sandbox

# One-time setup
sandbox = Sandbox.create(
    timeout=5 * 60,
    lifecycle={
        "on_timeout": "pause",
        "auto_resume": True,
    },
)

# Later: called for each agent/tool task
def run_tool_task(command: str) -> str:
    result = sandbox.commands.run(command)
    return result.stdout

print(run_tool_task('python -c "print(2 + 2)"'))
