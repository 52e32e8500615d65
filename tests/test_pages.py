"""tests/slow/pages.py runs the pages for newcomers: it reads their steps, and fails if a step fails."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pages
import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell and signals of POSIX")
if not (pages.ROOT / "README.md").exists():
    pytest.skip("needs the pages", allow_module_level=True)


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the steps of a text as a page, in a new repository."""
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    return lambda text: pages.run_page("page.md", list(pages.steps(text)), tmp_path, environment)


def block(language, text):
    return f"```{language}\n{text}\n```\n\nSome words.\n\n"


def test_steps_are_commands_and_python_blocks_in_order():
    text = (
        block("sh", "# nothing\na \\\n  b   # why\nc && d")
        + block("text", "no")
        + block("py", "e\nf")
        + block("sh", "g")
    )
    found = list(pages.steps(text))
    assert found == [("sh", "a \\\n  b   # why"), ("sh", "c && d"), ("python", "e\nf\n"), ("sh", "g")]
    assert [pages.command(line) for _, line in found[:2]] == ["a \\\n  b", "c && d"]


def test_commands_share_a_shell_and_blocks_an_interpreter(run, tmp_path, capfd):
    text = "".join(
        [
            block("sh", "NAME=value\n: > a.npz   # a comment\nmkdir package && cd package"),
            block("python", "import sys"),
            block("sh", 'test "$NAME" = value && echo "a = 3" > module.py\ncd ..; echo "*" > .gitignore'),
            block("python", "sys.path.append('package')\nfrom module import a"),
            block("python", "assert a == 3"),
        ]
    )
    run(text)
    assert capfd.readouterr().out.count("page.md: ") == 8


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("sh", "true\nfalse && true"),
        ("sh", "exit 0"),
        ("sh", "no-such-command --help"),
        ("sh", "python -m pip install --no-index ./no-such-folder"),
        ("sh", "python -m pip install --no-index no-such-project-in-any-index"),
        ("python", "import no_such_library"),
        ("python", "assert 1 == 2"),
        ("python", "raise SystemExit(0)"),
        ("sh", ": > left-behind"),
    ],
)
def test_a_failing_step_is_an_error(run, language, text):
    with pytest.raises(pages.Failed, match=text.splitlines()[-1].split()[-1].replace(")", r"\)").replace("(", r"\(")):
        run(block(language, text))


def test_pip_installs_the_wheel_in_a_clone_and_puts_the_kernels_into_the_sources(tmp_path, monkeypatch):
    wheel = tmp_path / "lstm_cy-0.1.0-py3-none-any.whl"
    record = "lstm_cy-0.1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lstm_cy/_kernels/isa/base.so", "kernels")
        archive.writestr(f"{record}/METADATA", "Metadata-Version: 2.1\nName: lstm_cy\nVersion: 0.1.0\n")
        archive.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{record}/RECORD", "")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "build_backend.py"):
        shutil.copy(pages.ROOT / name, source)
    for command in ("init -q .", "add .", "-c user.name=A -c user.email=a@b commit -q -m first"):
        subprocess.run(["git", *command.split()], cwd=source, check=True)
    monkeypatch.setattr(pages, "ROOT", source)
    monkeypatch.setattr(pages, "to_type", lambda page: [("sh", "python -m pip install .")])
    clone = pages.clone_of(tmp_path / "clone", "page.md", wheel)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--target", str(tmp_path / "site"), "."]
    subprocess.run(install, cwd=clone, check=True)
    for folder in (clone, tmp_path / "site"):
        assert (folder / "lstm_cy" / "_kernels" / "isa" / "base.so").read_text() == "kernels"
    assert not subprocess.run(
        ["git", "status", "--porcelain", "build_backend.py"], cwd=clone, capture_output=True
    ).stdout
    monkeypatch.setattr(pages, "to_type", lambda page: [("sh", 'pip install --no-build-isolation -e ".[dev]"')])
    clone = pages.clone_of(tmp_path / "editable", "page.md", wheel)
    assert (clone / "build_backend.py").read_text() == (source / "build_backend.py").read_text()


def test_a_step_that_takes_too_long_is_an_error(run, monkeypatch):
    monkeypatch.setattr(pages, "LIMIT", 1)
    old = pages.signal.signal(pages.signal.SIGALRM, pages.timed_out)
    try:
        with pytest.raises(pages.Failed, match="more than 1 seconds"):
            run(block("sh", "sleep 60"))
    finally:
        pages.signal.signal(pages.signal.SIGALRM, old)


def test_every_command_that_is_not_run_is_on_its_page():
    assert set(pages.NOT_RUN) <= set(pages.PAGES)
    for page, excused in pages.NOT_RUN.items():
        found = {pages.command(line) for _, line in pages.steps((pages.ROOT / page).read_text(), ("sh",))}
        assert set(excused) <= found, page
        assert all(excused.values())


def test_every_page_has_steps_that_are_run():
    for page in [*pages.PAGES, *pages.pages_that_install()]:
        assert pages.to_type(page)
    assert {"README.md", "CONTRIBUTING.md", "docs/tutorial.md", "examples/embedding/README.md"} <= set(pages.PAGES)
    assert any("pip install ." in typed for _, typed in pages.to_type("README.md"))
    assert sum(language == "python" for language, _ in pages.to_type("README.md")) == 3
