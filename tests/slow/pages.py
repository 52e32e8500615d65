"""Run what the pages for newcomers say: each command and each block of Python, as a reader would type them.

    python tests/slow/pages.py [--wheel FILE] [PAGE ...]

Each page has a virtual environment of its own and a clone of what is committed as its folder; its commands run in one
shell, its Python in one interpreter, and nothing is installed there but what the page has installed so far. `NOT_RUN`
has what is left out, with a reason each. Of the other pages in docs/, whose code tests/test_docs.py runs, the commands
that install something run here.

`pip install .` runs as it stands, but the clone's build backend hands out a wheel that was compiled once, and leaves
the kernels beside the sources, as setup.py does. Only an editable install compiles.
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
    "README.md": {
        'python -m pip install ".[test]" && pytest': "a step of .ci/run, in an environment of its own",
    },
    "CONTRIBUTING.md": {
        "pytest": "a step of .ci/run",
        "pytest tests/test_engines.py": "a part of the above",
        "python benchmarks/compare.py --quick": "measures",
        "asv machine --yes": "prepares a measurement",
        "asv check": "prepares a measurement",
        "asv run --quick --dry-run": "measures",
        "asv run --bench speedup_over_numpy --steps 8 FIRST..main": "a measurement of commits that the reader chooses",
        "asv publish && asv preview": "a server, of what was measured",
        "asv continuous --factor 1.1 --interleave-rounds -a rounds=6 -b Forward.time_forward main HEAD": "measures",
    },
}
#: in place of build_backend.py
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
    importlib.invalidate_caches()  # something may have been installed meanwhile
    exec(compile(json.loads(line), "the page", "exec"), names)
    print("{MARK} 0", flush=True)
"""


class Failed(Exception):
    """What was typed, and what came of it."""


def steps(text, languages=("sh", "python", "py")):
    """(language, what is typed) from top to bottom: each command of `sh` blocks, and each block of Python."""
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
    """A command without the comment behind it."""
    return re.sub(r"\s+#.*", "", line).strip()


def pages_that_install():
    """{page: commands} of the other pages in docs/; what more than one of them says runs once."""
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
    """A shell, and an interpreter when it is wanted, in `folder`, where `environment` is that of the shell."""

    def __init__(self, folder, environment):
        self._folder, self._environment, self._interpreter = folder, environment, None
        self._shell = self._start(["bash"])

    def type(self, language, text):
        if language == "sh":
            self._enter(self._shell, f"{{ {text}\n}} </dev/null\necho {MARK} $?\n", text)
            return
        if self._interpreter is None:  # the one that the shell would start
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
    """Type the steps of a page in its folder; afterwards git must know of nothing new there."""
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
        raise Failed("git should know of nothing new, or .gitignore name it:\n" + "\n".join(changed))


def timed_out(number, frame):
    raise Failed(f"it took more than {LIMIT} seconds")


def to_type(page):
    """The steps of a page that are run."""
    if page not in PAGES:
        return [("sh", line) for line in pages_that_install()[page]]
    excused = NOT_RUN.get(page, {})
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(language, typed) for language, typed in steps(text) if command(typed) not in excused]


def clone_of(folder, page, wheel):
    """A clone of what is committed; what a page there installs comes from the wheel, unless it is to be edited."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    if not any(re.search(r"pip install .*(-e|--editable) ", typed) for _, typed in to_type(page)):
        (folder / "build_backend.py").write_text(BACKEND.format(wheel=str(wheel)))
        subprocess.run(["git", "update-index", "--assume-unchanged", "build_backend.py"], cwd=folder, check=True)
    return folder


def compiled_wheel(folder):
    """The path of a wheel of what is committed."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."], cwd=folder, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(venv, home):
    """That of a new user: a virtual environment without anything in it, and an empty home."""
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True).stdout.strip()
    home.mkdir()
    unwanted = ("PYTHON", "VIRTUAL_ENV", "LSTM_CY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = os.pathsep.join([str(venv / "bin"), kept["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), **({"PIP_CACHE_DIR": cache} if cache else {})}


def main(arguments=None):
    every = [*PAGES, *pages_that_install()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=f"of {', '.join(every)}; all if none is given")
    parser.add_argument("--wheel", metavar="FILE", help="of what is committed, for this Python; else one is compiled")
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
