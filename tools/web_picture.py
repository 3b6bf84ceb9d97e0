"""Draw the live page for docs/web.md: the lending desk, while requests wait.

``make picture`` runs this. It needs Chromium. The desk runs under gunicorn on SQLite,
with pools that are too small for its visitors, and each of these holds a connection
while it does something else.
"""

import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

from tests.support.browser import browser
from tests.support.gunicorn import GunicornApp
from tests.support.waiting import wait_until

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "web-page.png"
WORKERS, SIZE = 3, 2
VISITORS = 10
# For so long the first of them hold their connections; then the picture is taken.
HELD_SECONDS, TAKEN_AFTER_SECONDS = 30, 5
WIDTH, HEIGHT = 1280, 700


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory(prefix="poolguard-picture-") as made:
        folder = Path(made)
        env = {
            "EXAMPLE_FAULTS": "1",
            "EXAMPLE_INSTANCE_PATH": made,
            "XDG_RUNTIME_DIR": made,
            "FLASK_POOLGUARD_POOL_SIZE": str(SIZE),
            "FLASK_POOLGUARD_MAX_OVERFLOW": "1",
            "FLASK_POOLGUARD_POOL_TIMEOUT": "15",
            "FLASK_POOLGUARD_HELD_WARNING": "5",
        }
        app = "example_app:create_app()"
        server = GunicornApp(app, folder, workers=WORKERS, threads=16, env=env)
        with server, browser() as tab:
            tab.look(WIDTH, height=HEIGHT)
            tab.open(f"{server.base_url}/pools/")
            tab.wait_for(f"{WORKERS} live workers", "#workers-count")
            server.post("/faults/leak")
            visitors = [
                threading.Thread(
                    target=server.post,
                    args=(f"/faults/slow?seconds={HELD_SECONDS}",),
                    kwargs={"seconds": 2 * HELD_SECONDS},
                )
                for _ in range(VISITORS)
            ]
            for each in visitors:
                each.start()
                time.sleep(0.3)
            time.sleep(TAKEN_AFTER_SECONDS)
            wait_until(lambda: tab.text("#level") == "CRITICAL", seconds=30)
            tab.picture(PICTURE, HEIGHT)
            with Image.open(PICTURE) as drawn:
                # So many colours are enough, and it is a third of the size.
                drawn.convert("RGB").quantize(64).save(PICTURE, optimize=True)
            for each in visitors:
                each.join()
    print(f"{PICTURE}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
