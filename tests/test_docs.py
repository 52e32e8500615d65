"""Every example in docstrings and in docs/ runs, and everything that the pages name exists.

tests/slow/pages.py runs the pages for newcomers (README.md, CONTRIBUTING.md, docs/tutorial.md, examples/) and all
commands that install something, each page in an environment of its own.
"""

import ast
import contextlib
import doctest
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import re
import shlex
from pathlib import Path

import pages
import pytest

import lstm_cy
from lstm_cy.cli import main
from lstm_cy.cli.arguments import make_parser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
RUN_HERE = [page for page in PAGES if page.relative_to(ROOT).as_posix() not in pages.PAGES]
API = "".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(lstm_cy.__path__, "lstm_cy.")
    if "_kernels" not in name and "__main__" not in name
]
# Commands in `sh` blocks that are not run here, by their beginning, with the reason: those of lstm-cy,
NOT_RUN = {
    "lstm-cy bench": "a measurement; tests/cli/test_cli.py runs it in a small form",
    "lstm-cy train --layers 2 --hidden 256 --batch-size 16 --minutes 10": "takes ten minutes",
    "lstm-cy perplexity library.npz": "reads the model of those ten minutes",
    "lstm-cy generate library.npz": "reads the model of those ten minutes",
    "LSTM_CY_ISA=avx2 lstm-cy info": "not every processor has AVX2; tests/test_config.py forces each available one",
    "LSTM_CY_ENGINE=blas lstm-cy info": "read once in a process; tests/test_config.py forces both in new processes",
}
# and others
TOOLS = {
    "python -m venv": "tests/slow/pages.py makes an environment for each page",
    ". .venv/bin/activate": "tests/slow/pages.py makes an environment for each page",
    "python -m pip": "tests/slow/pages.py runs commands that install something",
    "pip": "tests/slow/pages.py runs commands that install something",
    "apt-get": "changes the machine",
    "unzip": "reads a file that another command downloads",
    "cc ": "tests/export/test_c99.py compiles exported files",
    "./amp": "tests/export/test_c99.py runs exported files",
    "arm-none-eabi-gcc": "tests/slow/c99.sh compiles and runs exported files for microcontrollers",
    'python -c "import matplotlib, pathlib;': "empties a cache that is in use here",
    "python benchmarks/": "a measurement",
    "asv": "a measurement",
    "python -m examples.": "takes minutes; tests/test_examples.py runs the examples in a small form",
    "mypy": "a step of .ci/run",
    "python tests/stubtest.py": "a step of .ci/run",
    "tests/slow/": "takes minutes to hours, run by hand",
    "GLIBC=2.17 tests/slow/": "takes minutes, run by hand",
    "python tests/slow/": "takes minutes to hours, run by hand",
    "arecord": "needs a microphone",
    "OPENBLAS_NUM_THREADS=1 mpirun": "a program of the reader",
    "LSTM_CY_NUM_THREADS=2 python my_program.py": "a program of the reader",
}


def page_id(page):
    return str(page.relative_to(ROOT))


def fences(page, languages):
    """Return (language, text) of each fenced block in those languages, from top to bottom."""
    found = re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, block) for language, block in found if language in languages]


def prose(page):
    """Return the text outside fenced blocks and code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name.startswith("lstm_cy.torch"):
        pytest.importorskip("torch")
    failed, _ = doctest.testmod(importlib.import_module(name), verbose=False, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_the_public_names_have_examples():
    documented = [getattr(lstm_cy, name) for name in lstm_cy.__all__ if callable(getattr(lstm_cy, name))]
    without = [thing.__name__ for thing in documented if not doctest.DocTestFinder().find(thing)[0].examples]
    # load: in the example of save; threads: settings of the process; from_torch: needs PyTorch, in docs/formats.md
    assert set(without) <= {"load", "set_num_threads", "get_num_threads", "from_torch"}


# Code on pages

PYTHON = [page for page in RUN_HERE if fences(page, {"python", "py"})]


def missing_for(block):
    """Return the libraries that a block imports and that are not installed."""
    tree = list(ast.walk(ast.parse(block)))
    names = [alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree if isinstance(node, ast.ImportFrom)]
    libraries = {name.partition(".")[0] for name in names}
    missing = {name for name in libraries if importlib.util.find_spec(name) is None}
    return sorted(missing | (libraries & {"keras"} if not installed_backends() else set()))


def installed_backends():
    """Return the installed backends of Keras; its NumPy backend needs JAX."""
    return [name for name in ("torch", "tensorflow", "jax") if importlib.util.find_spec(name)]


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # Keras's
@pytest.mark.parametrize("page", PYTHON, ids=page_id)
def test_python_blocks(page, tmp_path, monkeypatch):
    """All blocks of a page run in order; `py` blocks need another framework, and run if it is installed."""
    monkeypatch.chdir(tmp_path)
    if "KERAS_BACKEND" not in os.environ and (backends := installed_backends()):
        monkeypatch.setenv("KERAS_BACKEND", backends[0])
    names, absent = {"__name__": "page"}, []
    for language, block in fences(page, {"python", "py"}):
        if language == "py" and (missing := absent or missing_for(block)):  # a later block may use names of this one
            absent = missing
            continue
        exec(compile(block, page_id(page), "exec"), names)
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}; all other blocks have run")


def commands(page):
    """Yield the commands in the `sh` blocks of a page."""
    for _, block in fences(page, {"sh"}):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                if words := shlex.split(command, comments=True):
                    yield " ".join(command.split()), words


def reason_not_to_run(command):
    return next((reason for beginning, reason in (NOT_RUN | TOOLS).items() if command.startswith(beginning)), None)


SHELL = [page for page in RUN_HERE if fences(page, {"sh"})]


@pytest.mark.parametrize("page", SHELL, ids=page_id)
def test_commands(page, tmp_path, monkeypatch):
    """Each command of lstm-cy exists with its options and runs, or is in NOT_RUN; others are in TOOLS."""
    monkeypatch.chdir(tmp_path)
    prepare_files()
    for command, words in commands(page):
        ours = words[words.index("lstm-cy") + 1 :] if "lstm-cy" in words else None
        if ours:
            make_parser()[0].parse_args(ours)
        if reason_not_to_run(command):
            continue
        assert words[0] == "lstm-cy", f"neither run nor in NOT_RUN or TOOLS: {command}"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(ours) == 0, command
        assert printed.getvalue(), command


def prepare_files():
    """Write files that the commands read: small texts, and a model that another page makes."""
    book = "Once upon a time it was a dark and stormy night, and the wind blew.\n却说那一日，风雪甚紧。\n" * 40
    for name in ("book.txt", "another.txt", "novel.txt"):
        Path(name).write_text(book, encoding="utf-8")
    lstm_cy.save(lstm_cy.LSTM(3, 5, seed=0), "small.npz")


def test_every_command_that_is_not_run_is_on_a_page():
    found = [command for page in SHELL for command, _ in commands(page)]
    unused = [beginning for beginning in NOT_RUN | TOOLS if not any(line.startswith(beginning) for line in found)]
    assert unused == []


def test_every_command_that_installs_is_run_by_the_script():
    script = [pages.command(line) for lines in pages.pages_that_install().values() for line in lines]
    for page in SHELL:
        for _, line in pages.steps(page.read_text(), ("sh",)):
            if "pip install" in line:
                assert pages.command(line) in script, f"{page_id(page)}: {line}"


def test_scripts_and_modules_that_are_named_exist():
    for page in SHELL:
        for command, words in commands(page):
            for module in re.findall(r"python -m (examples[\w.]*)", command):
                path = ROOT / module.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), command
            if words[0] == "python" and words[1].endswith(".py"):
                assert (ROOT / words[1]).exists(), command


# Links


def links(page):
    """Return the links and pictures of a page that lead to files: (path, anchor)."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target.partition("#")[::2] for target in targets if not re.match(r"\w+:", target)]


def anchors(page):
    """Return the anchors that code hosts give the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_local_links_have_targets(page):
    for path, anchor in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_can_be_reached():
    """By links from docs/index.md, which a code host shows too."""
    seen, queue = set(), [DOCS / "index.md"]
    while queue:
        page = queue.pop()
        if page not in seen:
            seen.add(page)
            queue += [(page.parent / path).resolve() for path, _ in links(page) if path.endswith(".md")]
    assert [page_id(page) for page in DOCS.rglob("*.md") if page not in seen] == []


def test_tests_that_are_named_exist():
    for page in PAGES:
        for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", page.read_text()):
            assert f"def {name}(" in (ROOT / path).read_text(), f"{page_id(page)}: {path}::{name}"


# The maintainers' pages


def rows(page, heading):
    """Return the cells of each row of the tables under a heading of level 2."""
    section = re.split(r"^## ", page.read_text(), flags=re.MULTILINE)
    (section,) = [text for text in section if text.startswith(f"{heading}\n")]
    return [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)][2:]


def test_contributing_has_a_row_for_each_module():
    named = []
    for first, *_ in rows(ROOT / "CONTRIBUTING.md", "Files"):
        folder = None
        for path in map(Path, re.findall(r"`([^`]+)`", first)):
            folder = path.parent if len(path.parts) > 1 else folder
            named.append((folder / path.name).as_posix())
    sources = [path for path in (ROOT / "lstm_cy").rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pxi", ".h")]
    modules = {path.relative_to(ROOT).as_posix() for path in sources}
    packages = {path for path in modules if path.endswith("/__init__.py")} - {"lstm_cy/__init__.py"}
    assert sorted(named) == sorted(modules - packages)


ARCHITECTURE = DOCS / "architecture.md"
KERNELS = "lstm_cy/_kernels/"


def file_named(name):
    """Return a file that docs/architecture.md names: by its path, or by its name alone if it is a kernel's."""
    path = ROOT / name
    if "/" in name or path.exists():
        return path
    return next((ROOT / KERNELS).rglob(name), ROOT / KERNELS / name)


def test_the_files_and_functions_that_the_architecture_names_exist():
    names = set(re.findall(r"`([^`\n]+)`", ARCHITECTURE.read_text()))
    files = {name for name in names if re.search(r"/|\.(py|pyx|pxd|pxi|md)$", name)}
    assert [name for name in sorted(files) if not file_named(name).exists()] == []
    folders = [path for folder in ("lstm_cy", "tests") for path in (ROOT / folder).rglob("*.p*")]
    sources = [path for path in folders if path.suffix in (".py", ".pyx", ".pxd", ".pxi")]
    known = set(re.findall(r"\w+", "".join(path.read_text() for path in [*sources, ROOT / "setup.py"])))
    words = {word for name in names - files for word in re.findall(r"[A-Za-z]\w+|_\w+", name)}
    assert sorted(words - known) == []


def test_each_function_is_in_the_file_of_its_row():
    for heading in ("A call", "A step", "Training"):
        for _, functions, files in rows(ARCHITECTURE, heading):
            text = "".join(file_named(name).read_text() for name in re.findall(r"`([^`]+)`", files))
            for name in re.findall(r"`(?:\w+\.)?(\w+)`", functions):
                defined = rf"^ *(?:def|cdef[\w &*]*|class|cdef class) \*?{name}\b"
                assert re.search(defined, text, re.MULTILINE), (heading, name, files)


# The API's pages


def documented():
    """Return {name: object} of the API's pages; modules with all their public members."""
    things = {}
    for kind, name in re.findall(r"^\.\. auto(class|function|module|data):: ([\w.]+)", API, re.MULTILINE):
        if kind == "module":
            module = importlib.import_module(name)
            things[name] = module
            members = {k: v for k, v in vars(module).items() if getattr(v, "__module__", None) == name}
            things |= {f"{name}.{member}": thing for member, thing in members.items() if member[0] != "_"}
            continue
        owner, _, last = name.rpartition(".")
        things[name] = getattr(importlib.import_module(owner), last)
    return things


def test_every_public_name_is_on_a_page_of_the_api():
    pytest.importorskip("sklearn")
    pytest.importorskip("torch")
    shown = documented()
    public = set(lstm_cy.__all__) | set(lstm_cy._HOME)
    things = {name: getattr(lstm_cy, name) for name in public - set(lstm_cy._MODULES)}
    assert [name for name, thing in things.items() if not any(thing is other for other in shown.values())] == []
    assert [name for name in lstm_cy._MODULES if not any(other.startswith(f"lstm_cy.{name}") for other in shown)] == []


def test_the_index_of_the_api_names_them():
    table = (DOCS / "api" / "index.md").read_text()
    assert [name for name in lstm_cy._HOME if f"`{name}`" not in table] == []


def test_every_command_and_option_is_on_its_page():
    page = (DOCS / "api" / "command-line.md").read_text()
    _, choices = make_parser()
    sections = dict(re.findall(r"^## lstm-cy (\w+)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(choices)
    for name, parser in choices.items():
        actions = [action for action in parser._actions if action.dest != "help"]
        known = {action.option_strings[-1] if action.option_strings else action.metavar for action in actions}
        documented_here = set(re.findall(r"^\| `([^\s`]+)", sections[name], re.MULTILINE))
        assert documented_here == known, name


# Figures and pictures


@pytest.fixture(scope="module")
def charts():
    spec = importlib.util.spec_from_file_location("charts", ROOT / "benchmarks" / "charts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_the_figures_of_the_page_of_performance(charts):
    """If this fails: python benchmarks/charts.py"""
    begin, end = charts.MARKS
    table = (ROOT / "README.md").read_text().partition(begin)[2].partition(end)[0]
    assert table == charts.summary()
    figures = re.findall(r"[\d.]+", "".join(line.partition(", ")[2] for line in table.splitlines() if line[:2] == "| "))
    assert len(figures) > 50
    performance = (DOCS / "performance.md").read_text()
    assert [figure for figure in figures if not re.search(rf"\b{re.escape(figure)}\b", performance)] == []


def test_the_charts_show_the_figures_of_the_tables(charts):
    """If this fails: python benchmarks/charts.py"""
    pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image")  # Matplotlib brings it
    for name in charts.PICTURES:
        table = charts.ratios(name)
        assert len(table) > 5 and all(len(row) > 2 for row in table.values())
        with image.open(charts.path(name)) as picture:
            assert json.loads(picture.text["Description"]) == table, name
