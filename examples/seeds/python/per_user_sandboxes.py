from e2b import Sandbox

user_sandboxes: dict[str, Sandbox] = {}  # user_id → Sandbox

def get_sandbox(user_id: str) -> Sandbox:
    if user_id not in user_sandboxes:
        user_sandboxes[user_id] = Sandbox.create(
            timeout=5 * 60,
            lifecycle={
                "on_timeout": "pause",
                "auto_resume": True,
            },
        )

    return user_sandboxes[user_id]

# On each user request (auto-resumes if paused)
sandbox = get_sandbox("user-123")
result = sandbox.commands.run('echo "Hello from your sandbox"')
print(result.stdout)
