"""Run the pages for newcomers: each command and each block of Python, as a reader would type them.

    python tests/slow/pages.py [--wheel FILE] [PAGE ...]

Each page has its own virtual environment and a clone of the last commit as its folder; its commands run in one shell,
its Python in one interpreter, and only packages that the page has installed are available. `NOT_RUN` lists the commands
that are left out, with reasons. Of the other pages in docs/, whose code tests/test_docs.py runs, only the commands that
install something run here.

`pip install .` runs as it stands, but the clone's build backend returns a wheel that was compiled once, and writes the
kernels into the sources, as setup.py does. Only an editable install compiles.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "docs/tutorial.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("examples/*/README.md"))
INSTALLS = re.compile(r"(python -m )?pip install ")
#: page: {a command without its comment: why it is not run here}
NOT_RUN = {
    "examples/recurrent_ppo/README.md": {
        "python -m benchmarks.recurrent_ppo": "measures, with PyTorch",
    },
    "README.md": {
        'python -m pip install ".[test]" && pytest': "a step of .ci/run, in an environment of its own",
    },
    "CONTRIBUTING.md": {
        "pytest": "a step of .ci/run",
        "pytest tests/kernels/test_engines.py": "a part of the previous command",
        "python benchmarks/compare.py --quick": "measures",
        "python benchmarks/machine.py": "writes to the home folder",
        "asv check": "prepares a measurement",
        "asv run --quick --dry-run": "measures",
        "asv run --bench speedup_over_numpy --steps 8 FIRST..main": "measures commits that the reader chooses",
        "asv publish && asv preview": "starts a server of results",
        "asv continuous --factor 1.1 --interleave-rounds -a rounds=6 -b Forward.time_forward main HEAD": "measures",
    },
}
#: replaces build_backend.py
BACKEND = """
import shutil, zipfile
from pathlib import Path


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile({wheel!r}) as wheel:
        wheel.extractall(members=[name for name in wheel.namelist() if name.endswith(".so")])
    return Path(shutil.copy({wheel!r}, wheel_directory)).name
"""
#: tracked files that commands may write
WRITTEN = ("docs/images/",)
#: seconds that a command may take
LIMIT = 1200

MARK = "the end of what was typed:"
INTERPRETER = f"""
import importlib, json, sys
names = {{"__name__": "__main__"}}
for line in sys.stdin:
    importlib.invalidate_caches()  # a command may have installed something
    exec(compile(json.loads(line), "the page", "exec"), names)
    print("{MARK} 0", flush=True)
"""


class Failed(Exception):
    """A step that failed, with its output."""


def steps(text, languages=("sh", "python", "py")):
    """Yield (language, text) from top to bottom: each command of `sh` blocks, and each block of Python."""
    for language, block in re.findall(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if language not in languages:
            continue
        if language != "sh":
            yield "python", block
            continue
        for line in re.findall(r"(?:[^\n]*\\\n)*[^\n]+", block):
            if not line.lstrip().startswith("#"):
                yield "sh", line


def command(line):
    """Return a command without its comment."""
    return re.sub(r"\s+#.*", "", line).strip()


def pages_that_install():
    """Return {page: commands} of the other pages in docs/; a command on several pages runs once."""
    found, seen = {}, set()
    for path in sorted((ROOT / "docs").rglob("*.md")):
        page = path.relative_to(ROOT).as_posix()
        lines = [line for _, line in steps(path.read_text(encoding="utf-8"), ("sh",)) if INSTALLS.match(line)]
        lines = [line for line in lines if command(line) not in seen]
        if lines and page not in PAGES:
            found[page] = lines
            seen |= set(map(command, lines))
    return found


class Reader:
    """A shell in `folder` with the variables of `environment`, and an interpreter for the blocks of Python."""

    def __init__(self, folder, environment):
        self._folder, self._environment, self._interpreter = folder, environment, None
        self._shell = self._start(["bash"])

    def type(self, language, text):
        if language == "sh":
            self._enter(self._shell, f"{{ {text}\n}} </dev/null\necho {MARK} $?\n", text)
            return
        if self._interpreter is None:  # start the python of the shell
            python = self._enter(self._shell, f"command -v python\necho {MARK} $?\n", "command -v python").strip()
            self._interpreter = self._start([python, "-u", "-c", INTERPRETER])
        self._enter(self._interpreter, json.dumps(text) + "\n", text)

    def close(self):
        for process in filter(None, (self._shell, self._interpreter)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it has started
            process.communicate()

    def _start(self, arguments):
        return subprocess.Popen(
            arguments,
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    @staticmethod
    def _enter(process, typed, text):
        process.stdin.write(typed)
        process.stdin.flush()
        printed, status = [], None
        for line in process.stdout:
            before, mark, status = line.partition(MARK)
            printed.append(before)
            if mark:
                break
        if status is None or status.strip() != "0":
            raise Failed(f"{text.rstrip()}\n\n{''.join(printed)}")
        return "".join(printed)


def run_page(page, typed, clone, environment):
    """Type the steps of a page in its folder; afterwards git must find no changes there."""
    path = Path(page)
    reader = Reader(clone / path.parent if path.name == "README.md" else clone, environment)
    try:
        for language, text in typed:
            begin = time.monotonic()
            signal.alarm(LIMIT)
            reader.type(language, text)
            signal.alarm(0)
            print(f"{page}: {time.monotonic() - begin:5.1f} s  {command(text.splitlines()[0])}", flush=True)
    finally:
        reader.close()
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, cwd=clone, check=True, capture_output=True, text=True).stdout.splitlines()
    if changed := [line for line in changed if not line[3:].startswith(WRITTEN)]:
        raise Failed("expected no new files, or files that .gitignore lists, got:\n" + "\n".join(changed))


def timed_out(number, frame):
    raise Failed(f"it took more than {LIMIT} seconds")


def to_type(page):
    """Return the steps of a page that are run."""
    if page not in PAGES:
        return [("sh", line) for line in pages_that_install()[page]]
    excused = NOT_RUN.get(page, {})
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(language, typed) for language, typed in steps(text) if command(typed) not in excused]


def clone_of(folder, page, wheel):
    """Clone the last commit; `pip install` there uses the wheel, unless the page makes an editable install."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    if not any(re.search(r"pip install .*(-e|--editable) ", typed) for _, typed in to_type(page)):
        (folder / "build_backend.py").write_text(BACKEND.format(wheel=str(wheel)))
        subprocess.run(["git", "update-index", "--assume-unchanged", "build_backend.py"], cwd=folder, check=True)
    return folder


def compiled_wheel(folder):
    """Compile a wheel of the last commit; return its path."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."], cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(venv, home):
    """Return the variables for a new user: with an empty virtual environment, and an empty home."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    home.mkdir()
    removed = ("PYTHON", "VIRTUAL_ENV", "LSTM_CY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(removed)}
    path = os.pathsep.join([str(venv / "bin"), kept["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), **({"PIP_CACHE_DIR": cache} if cache else {})}


def main(arguments=None):
    every = [*PAGES, *pages_that_install()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"one of {', '.join(every)}; default: all")
    parser.add_argument("--wheel", metavar="FILE", help="a wheel of the last commit; default: compile one")
    options = parser.parse_args(arguments)
    chosen = options.pages or every
    if unknown := set(chosen) - set(every):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(every)}")
    signal.signal(signal.SIGALRM, timed_out)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel = Path(options.wheel).resolve() if options.wheel else compiled_wheel(work / "compiled")
        for number, page in enumerate(chosen):
            clone = clone_of(work / f"clone-{number}", page, wheel)
            try:
                run_page(page, to_type(page), clone, environment(work / f"venv-{number}", work / f"home-{number}"))
            except Failed as error:
                failed += 1
                print(f"{page}: FAILED: {error}", flush=True)
            for name in ("clone", "venv", "home"):
                shutil.rmtree(work / f"{name}-{number}")
    print(f"pages: {len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
