import time

from e2b import Sandbox

sandbox = Sandbox.create(
    timeout=10 * 60,
    lifecycle={
        "on_timeout": "pause",
        "auto_resume": True,
    },
)

sandbox.commands.run("python3 -m pip -q install 'flask>=2.2'")

sandbox.files.write(
    "/home/user/app.py",
    'from flask import Flask\n'
    'app = Flask(__name__)\n'
    '@app.route("/")\n'
    'def hello():\n'
    '    return "Hello, World!"\n'
    'app.run(host="0.0.0.0", port=3000)\n'
)

sandbox.commands.run(
    "python3 -u /home/user/app.py > /home/user/flask.log 2>&1",
    background=True,
)

time.sleep(1)

preview_host = sandbox.get_host(3000)
print(f"Preview URL: https://{preview_host}")

print(f"Status before pause: {sandbox.get_info().state}")
sandbox.pause()
print(f"Status after pause: {sandbox.get_info().state}")
