"""`desktop` through its official client."""

import httpx
from conftest import SANDBOX_URL, eventually, route
from e2b_desktop import Sandbox


def test_a_desktop_is_seen_and_used():
    desktop = Sandbox.create(timeout=600, resolution=(800, 600))
    try:
        assert desktop.get_screen_size() == (800, 600)
        desktop.move_mouse(100, 120)
        assert desktop.get_cursor_position() == (100, 120)
        assert bytes(desktop.screenshot()).startswith(b"\x89PNG")
        desktop.commands.run("xfce4-terminal", background=True, timeout=0)
        eventually(lambda: desktop.get_application_windows("xfce4-terminal"), deadline=60, every=0.5)
        desktop.write("echo typed > /home/user/typed.txt")
        desktop.press("enter")
        eventually(lambda: desktop.files.exists("/home/user/typed.txt"), deadline=60, every=0.5)
        desktop.stream.start()
        page = httpx.get(f"{SANDBOX_URL}/vnc.html", headers=route(desktop, 6080))
        assert page.status_code == 200 and "noVNC" in page.text
        desktop.stream.stop()
    finally:
        desktop.kill()
