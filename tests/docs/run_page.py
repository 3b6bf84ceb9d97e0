"""Run a page's code blocks: ``python -m tests.docs.run_page [--write] PAGE``.

The tests run it in a process and a folder for each page. By hand, in any folder;
``--write`` puts the outputs of now into the page where they differ.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from sybil.example import SybilFailure

from tests.docs.blocks import Page


def main() -> int:
    """Run one page and return the exit status."""
    *options, name = sys.argv[1:]
    path = Path(name).resolve()
    with tempfile.TemporaryDirectory(prefix="poolguard-docs-") as temporary:
        folder = f"{temporary}/shop"  # lines of code are shown with their folder
        os.mkdir(folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        os.environ.setdefault("DATABASE_URL", f"sqlite:///{folder}/shop.sqlite")
        os.environ.update(XDG_RUNTIME_DIR=temporary, NO_COLOR="1")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        page = Page(path, may_write="--write" in options)
        try:
            page.run()
        except SybilFailure as failure:
            print(failure, file=sys.stderr)
            return 1
        if page.rewritten:
            path.write_text(page.text())
        os.chdir(path.parent)
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that a page has left, and what they hold, need no goodbye.
    os._exit(status)
