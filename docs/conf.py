"""Configuration of the documentation, built with ``make docs``."""

from __future__ import annotations

import sys
from dataclasses import MISSING
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from oar_lxc import __version__
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Main, Network
from oar_lxc.model.spec import Group, Spec, documented

project = "oar_lxc"
author = "The oar_lxc authors"
copyright = "2026, The oar_lxc authors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated", "man"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "class"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"oar_lxc {release}"
html_static_path = ["_static"]
html_copy_source = False


def _write_reference() -> None:
    """Write what a spec file may say, from the code that reads it."""
    directory = Path(__file__).with_name("_generated")
    directory.mkdir(exist_ok=True)
    for kind in (Spec, Group, Network, Link, Main):
        text = ""
        for key, sentence, default in documented(kind):
            shown = (
                ""
                if default in (None, (), {}, "", MISSING)
                else f" Default: ``{_toml(default)}``."
            )
            text += f"``{key}``\n   {sentence}{shown}\n\n"
        (directory / f"{kind.__name__.lower()}.inc").write_text(text.rstrip("\n") + "\n")


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value!r}".replace("'", '"')


_write_reference()


def _keep_colons(
    app: Sphinx, what: str, name: str, subject: object, options: object, lines: list[str]
) -> None:
    """Keep napoleon from taking what precedes a colon in a property's docstring for its type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", "\N{RATIO} ", 1)


def setup(app: Sphinx) -> None:
    """Connect to autodoc, before napoleon does."""
    app.connect("autodoc-process-docstring", _keep_colons, priority=100)
