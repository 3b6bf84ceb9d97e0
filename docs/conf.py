"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Flask-PoolGuard"
author = "Flask-PoolGuard contributors"
copyright = "2026, Flask-PoolGuard contributors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "pool_pictures", "reference"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"

# Options begin with two hyphens, which would become a dash.
smartquotes = False

nitpicky = True
nitpick_ignore_regex = [
    # Other packages' names: the build has no network, so none of their inventories.
    (
        "py:.*",
        r"(flask|sqlalchemy)\..*|Flask|Blueprint|(Async)?Engine|_AnyExecuteParams"
        r"|CollectorRegistry|MeterProvider|ExitStack|t\.Any|datetime\..*",
    ),
    # Type variables, and types of arguments that no page explains.
    (
        "py:class",
        r"(flask_poolguard\.extension\.)?_(Kept|View)|Apps|Instruments|Target",
    ),
    # What a method returns, and its docstring describes.
    ("py:class", "Auth|Report|ScopeBlock|Stat"),
]
html_theme = "furo"
html_title = "Flask-PoolGuard"

html_static_path = ["_static"]
html_js_files = [("search.js", {"defer": "defer"})]
