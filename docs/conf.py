"""Sphinx settings; every table of methods and verdicts is written by _ext/ from the registry and the stored results."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import surplus

project = "surplus"
author = "the surplus authors"
copyright = "the surplus authors"
version = release = surplus.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "docstrings", "catalogue", "results"]
exclude_patterns = ["_build", "_ext", "results"]
source_suffix = {".md": "markdown"}

autodoc_default_options = {"members": True, "undoc-members": True, "exclude-members": "model_config"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_heading_anchors = 3
# The same settings class may be re-exported by its room: a plain name then means either, and both are the same.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = "surplus"
html_copy_source = False
