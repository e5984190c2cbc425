"""Sphinx: Markdown pages, a notebook, the configuration reference and the API from docstrings."""

import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(DOCS.parent), os.environ.get("PYTHONPATH", "")])  # of the notebook

from config_reference import reference  # noqa: E402

from segframe import __version__  # noqa: E402

project = "segframe"
author = "the segframe authors"
copyright = author
release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "auto"
nb_execution_in_temp = True  # where its runs are written
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of the machine that builds
exclude_patterns = ["_build"]
smartquotes = False  # quotes of commands stay as they are typed
html_theme = "furo"
html_title = f"segframe {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {"navigation_with_keys": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
suppress_warnings = ["myst.header"]

page = DOCS / "configuration_reference.md"
if not page.is_file() or page.read_text() != reference():
    page.write_text(reference())


def docstring_as_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Read docstrings as plain paragraphs with `code`; indented lines as they are; nothing else is markup."""
    out: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith(" ")
        if indented and not literal:
            out += ["", "::", ""]
        elif literal and line and not indented:
            out.append("")
        literal = indented or (literal and not line)
        out.append(f"  {line}" if indented else as_rst(line))
    lines[:] = out


def as_rst(line: str) -> str:
    """One line of a docstring, with its markup escaped but for `code`."""
    parts = re.split(r"(`+[^`]+`+)", line)
    return "".join(
        f"``{part.strip('`')}``" if k % 2 else re.sub(r"([*_|\\])", r"\\\1", part) for k, part in enumerate(parts)
    )


def setup(app: object) -> None:
    """Register the reading of docstrings."""
    app.connect("autodoc-process-docstring", docstring_as_text)  # type: ignore[attr-defined]
