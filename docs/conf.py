"""How Sphinx makes the site: sphinx-build -W --keep-going -b html docs build/site."""

import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref

import lstm_cy

# Loaded here, because Sphinx otherwise reads a compiled module's stub, which has no docstrings.
import lstm_cy.stepper

sys.path.insert(0, str(Path(__file__).parent))  # for gates_page

project = "lstm_cy"
author = "the lstm_cy developers"
copyright = f"2026, {author}"
version = release = lstm_cy.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "numpydoc", "gates_page"]
exclude_patterns = ["images"]
highlight_language = "none"  # of blocks without a language: formulas, tokens

# Headings get the same anchors as on a code host, where the pages are read too.
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
# A name in backticks in a docstring is a link if the API has it, else code.
default_role = "py:obj"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
numpydoc_validation_checks = {
    "GL03",  # no two blank lines in a row, none after the opening quotes
    "GL06",  # sections have names that numpydoc knows
    "GL07",  # and its order
    "GL08",  # there is a docstring
    "SS01",  # with a summary
    "SS02",  # that begins with a capital letter
    "SS03",  # and ends with a period
    "SS04",  # and no spaces before it
    "PR01",  # every parameter is documented
    "PR02",  # none that does not exist
    "PR03",  # in the order of the signature
    "PR10",  # with a space before the colon of its type
    "RT01",  # the result is documented
    "YD01",  # and yielded values
}

numpydoc_validation_exclude = {
    # made by the library, not by its caller: Attributes documents them
    r"\.(History|Hypothesis|Row|Optimizer|Tape|(Attention)?Gradients|Session|Graph(Plan|Stepper)|PlanPart)$",
    r"\.trace\.(Predictions|Memory|SpanUnit|Match|(Unit)?Explanation)$",
    # comments of data, not docstrings
    r"\.(ELEMENTWISE|VECTORWISE|config|masks|begins_steps|frozen_parameters)$",
    # methods of the layer protocol that subclasses replace, documented in the base class
    r"\.(?!Layer\.)\w+\.(parameter_gradients|partial_backward|stages_for|steps_of)$",
    # compiled: Python does not know the signature
    r"\.(Stepper|StreamPool)$",
    # an alias, documented in one line
    r"\.GateTrace\.telling$",  # codespell:ignore telling
}

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"lstm_cy {version}"
html_show_sphinx = False
html_copy_source = False


def without_links_to_folders(app, doctree):
    """Replace links to folders of the repository by their text: the site has no pages for folders."""
    for link in list(doctree.findall(pending_xref)):
        if (Path(doctree["source"]).parent / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def with_links_to_pictures(app, doctree):
    """Make each picture a link to its file: Sphinx does this for those with a scale."""
    for picture in doctree.findall(nodes.image):
        picture["scale"] = 100


# Members by which models ask a layer what it can do. docs/how-to/own-layer.md has them; the pages of layers do not
# repeat them.
PROTOCOL = {"cost", "least_size", "pairs_of", "quantized", "run", "run_backward", "run_forward", "stage", "states_of"}
PROTOCOL |= {"arguments", "check_mask", "in_chains", "input_features", "output_features", "run_traced"}
PROTOCOL |= {"gives_steps", "input_directions", "is_causal", "is_model", "masks", "needs_steps", "num_outputs"}
PROTOCOL |= {"num_states", "num_traced", "passes_on", "vocabulary_size"}


def without_protocol(app, what, name, member, skip, options):
    """Leave the protocol of layers out of the pages, but for its methods in Layer."""
    if name in PROTOCOL and what == "class":
        return not getattr(member, "__qualname__", "").startswith("Layer.")
    return None


def setup(app):
    app.connect("doctree-read", without_links_to_folders)
    app.connect("doctree-read", with_links_to_pictures)
    app.connect("autodoc-skip-member", without_protocol)
