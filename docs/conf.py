"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

project = "Flask-PoolGuard"
author = "Flask-PoolGuard contributors"
copyright = "2026, Flask-PoolGuard contributors"

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

extensions = ["myst_parser", "sphinx.ext.autodoc", "pool_pictures"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_ext"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"

nitpicky = False
html_theme = "furo"
html_title = "Flask-PoolGuard"
