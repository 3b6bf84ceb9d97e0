"""Sphinx configuration."""

from __future__ import annotations

project = "Flask-PoolGuard"
author = "Flask-PoolGuard contributors"
copyright = "2026, Flask-PoolGuard contributors"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_typehints = "description"
autodoc_member_order = "bysource"

nitpicky = False
html_theme = "furo"
html_title = "Flask-PoolGuard"

html_static_path = ["_static"]
html_js_files = [("search.js", {"defer": "defer"})]
