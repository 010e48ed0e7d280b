"""The documentation site: `make docs`. Markdown pages, notebooks as they were run, and the docstrings."""

from dream import __version__

project = "DREAM"
author = "The DREAM authors"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

html_theme = "furo"
html_title = "DREAM"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks hold what they gave; the tests run them
copybutton_exclude = ".linenos, .gp, .go"

default_role = "code"  # the docstrings' single backquotes
autodoc_inherit_docstrings = False  # Lightning's own are for its own site
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signature
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def setup(app):
    """Keep napoleon from taking "H: size of the state", an attribute's symbol and meaning, for its type and
    meaning."""

    def keep(app, what, name, obj, options, lines):
        if what in ("attribute", "property"):
            lines[:0] = ["..", ""]  # it looks for a type in the first line only: here an empty comment

    app.connect("autodoc-process-docstring", keep, priority=100)
