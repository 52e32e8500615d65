"""The build with compilers that refuse options (scripts that only make empty files), and the contents of packages."""

import email
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from lstm_cy import config
from lstm_cy.export import webassembly

ROOT = Path(__file__).parents[1]

pytest.importorskip("Cython")
pytest.importorskip("setuptools")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the compilers are shell scripts")

COMPILER = """#!/bin/sh
case "$*" in {refused}) echo "unknown option among $*" >&2; exit 1;; esac
echo "$*" >> {log}
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then echo made > "$2"; fi
    shift
done
"""
VARIANTS = {"base", "avx2", "avx512", "avx512vnni", "avx512bf16"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the sources, with what a build has made of the Cython files; the first one makes the rest."""
    folder = tmp_path_factory.mktemp("source")
    if (ROOT / "build" / "lstm_cy").is_dir():
        shutil.copytree(ROOT / "build" / "lstm_cy", folder / "build" / "lstm_cy", ignore=is_not_c)
    for name in ("build_backend.py", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("*.so", "*.wasm", "__pycache__")
    for name in ("lstm_cy", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def is_not_c(folder, names):
    return [name for name in names if not name.endswith(".c") and not Path(folder, name).is_dir()]


@pytest.fixture
def run(source, tmp_path):
    """Return a function that runs setup.py with a compiler that refuses options, a pattern of the shell's `case`."""

    def run(refused, *command):
        compiler = tmp_path / "cc"
        if refused:
            compiler.write_text(COMPILER.format(refused=refused, log=tmp_path / "log"))
            compiler.chmod(0o755)
        return subprocess.run(
            [sys.executable, "setup.py", *command],
            cwd=source,
            capture_output=True,
            text=True,
            env={**os.environ, "CC": str(compiler), "LDSHARED": str(compiler)},
        )

    return run


@pytest.fixture
def build(run, tmp_path):
    """Return a function that builds; it returns the process, the modules, and the compiler's calls for threads.c."""

    def build(refused):
        done = run(refused, "build_ext", "--build-lib", str(tmp_path / "lib"))
        built = {path.name.split(".")[0] for path in (tmp_path / "lib").rglob("*.so")}
        log = tmp_path / "log"
        return (
            done,
            built,
            [call for call in log.read_text().splitlines() if "/threads." in call] if log.exists() else [],
        )

    return build


def test_a_compiler_without_avx512_builds_the_others_with_a_message(build):
    done, built, _ = build("*-mavx512f*")
    assert done.returncode == 0, done.stderr
    assert "lstm_cy: this compiler cannot build the avx512 kernels; going on without them" in done.stderr
    assert {"base", "avx2", "blas", "forward"} <= built
    assert "avx512" not in built


def test_a_compiler_for_another_processor_builds_only_base_with_a_message(build):
    done, built, _ = build("*-mavx*|*-mfma*|*-mtune*")
    assert done.returncode == 0, done.stderr
    for variant in VARIANTS - {"base"}:
        assert f"cannot build the {variant} kernels; going on" in done.stderr
    assert built & VARIANTS == {"base"}
    assert {"forward", "threads", "stepper"} <= built


def test_a_compiler_without_tuning_flags_builds_everything(build):
    done, built, _ = build("*-mmove-max*")
    assert done.returncode == 0, done.stderr
    assert built >= VARIANTS
    assert "neondotprod" not in built or platform.machine() not in ("x86_64", "AMD64")
    assert "going on" not in done.stderr


def test_threads_are_compiled_and_linked_if_available(build):
    done, _, calls = build("nothing")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2  # compiled and linked
    assert all("-pthread" in call and "LSTM_CY_NO_THREADS" not in call for call in calls)


@pytest.mark.parametrize("refused", ("*-pthread*", r"*/try\ -pthread*"), ids=("unknown option", "not linkable"))
def test_a_system_without_threads_builds_everything_with_a_message(build, refused):
    done, built, calls = build(refused)
    assert done.returncode == 0, done.stderr
    assert "lstm_cy: no POSIX threads here; going on without them" in done.stderr
    assert VARIANTS | {"threads"} <= built
    assert not any("-pthread" in call for call in calls)
    assert "-DLSTM_CY_NO_THREADS" in calls[0]


@pytest.mark.parametrize("refused", ("*-c*", None), ids=("broken", "missing"))
def test_a_missing_compiler_is_an_error_without_a_traceback(build, refused):
    done, _, _ = build(refused)
    assert done.returncode == 1
    assert "needs a working C compiler and Python's headers" in done.stderr
    assert "apt-get install gcc python3-dev" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("compiler", ("false", None), ids=("none", "any"))
def test_the_module_for_web_pages_is_built_where_it_can_be(source, build, monkeypatch, tmp_path, compiler):
    if compiler:
        monkeypatch.setenv("LSTM_CY_WASM_CC", compiler)
    elif webassembly.find_compiler() is None:
        pytest.skip("needs a compiler for WebAssembly")
    done, _, _ = build("nothing")
    assert done.returncode == 0, done.stderr
    for message in ("lstm_cy: no compiler for WebAssembly; web pages will", "apt-get install clang lld"):
        assert (message in done.stderr) == bool(compiler)
    for folder in (source, tmp_path / "lib"):
        module = folder / "lstm_cy" / "export" / "web" / "network.wasm"
        assert module.exists() != bool(compiler)
        assert compiler or (module.read_bytes()[:4] == b"\0asm" and module.stat().st_size < 60_000)


# The options of other compilers


@pytest.fixture(scope="module")
def setup_script():
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    script = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        spec.loader.exec_module(script)
    return script


class MicrosoftCompiler:
    """What setup.py uses of setuptools' class on Windows."""

    compiler_type, initialized = "msvc", False

    def initialize(self):
        self.initialized, self.cc = True, "cl.exe"
        self.compile_options = ["/nologo", "/O2", "/W3", "/GL", "/DNDEBUG", "/MD"]


CLANG_CL = r"C:\Program Files\LLVM\bin\clang-cl.exe"


@pytest.mark.parametrize(
    ("command", "style"),
    [("", "msvc"), ("cl", "msvc"), ("clang", "msvc"), ("clang-cl", "clang-cl"), (CLANG_CL, "clang-cl")],
)
def test_on_windows_cc_selects_clang_cl_and_nothing_else(setup_script, command, style):
    compiler = MicrosoftCompiler()
    assert setup_script.select_compiler(compiler, command) == style
    if style == "clang-cl":
        assert compiler.cc == command
        assert compiler.compile_options == ["/nologo", "/O2", "/W3", "/DNDEBUG", "/MD"]
    else:
        assert not compiler.initialized  # setuptools does this later


def test_elsewhere_the_options_are_those_of_gcc(setup_script):
    compiler = type("UnixCompiler", (), {"compiler_type": "unix"})()
    assert setup_script.select_compiler(compiler, "clang-cl") == "gcc"
    arguments = setup_script.arguments_of("avx2", "gcc", lambda option: True)
    assert arguments[:2] == ["-mavx2", "-mfma"] and "-ffp-contract=off" in arguments
    assert not any(argument.startswith("/") for argument in arguments)


@pytest.mark.parametrize("variant", (None, *sorted(VARIANTS)))
def test_the_options_of_clang_cl_are_those_of_gcc_handed_on(setup_script, variant):
    refused = {"-fno-trapping-math"}
    expected = setup_script.arguments_of(variant, "gcc", lambda option: option not in refused)
    handed = setup_script.arguments_of(
        variant, "clang-cl", lambda option: option.removeprefix("/clang:") not in refused
    )
    assert handed == [f"/clang:{option}" for option in expected]
    assert "/clang:-fno-trapping-math" not in handed and "/clang:-ffp-contract=off" in handed
    assert any("always_inline" in option for option in handed) == (variant is not None)


def test_microsofts_compiler_builds_only_the_plain_loops(setup_script):
    def accepts(option):
        raise AssertionError(f"{option}: not an option of this compiler")

    found = {variant: setup_script.arguments_of(variant, "msvc", accepts) for variant in (None, *VARIANTS)}
    assert found == {None: ["/O2"], "base": ["/O2"]} | dict.fromkeys(VARIANTS - {"base"})


def test_a_variant_is_left_out_without_one_of_its_options(setup_script):
    for style in ("gcc", "clang-cl"):
        assert setup_script.arguments_of("avx512bf16", style, lambda option: "bf16" not in option) is None
        assert setup_script.arguments_of("avx512vnni", style, lambda option: "bf16" not in option)


@pytest.mark.parametrize(
    ("variant", "bytes_"), [("base", 16), ("avx2", 32), ("avx512", 64), ("avx512vnni", 64), ("avx512bf16", 64)]
)
def test_clang_cl_has_every_option_and_vectors_of_the_full_width(setup_script, tmp_path, variant, bytes_):
    """clang in its mode for Windows, without the headers of a C library: one function of vector.h is compiled."""
    clang = next(filter(shutil.which, ("clang", "clang-19", "clang-16", "clang-14")), None)
    if clang is None:
        pytest.skip("needs clang")
    (tmp_path / "string.h").write_text("void *memcpy(void *, const void *, unsigned long long);\n")
    source = tmp_path / "try.c"
    command = [clang, "--driver-mode=cl", "--target=x86_64-pc-windows-msvc", "/nologo", "/O2", "/W3", "/c", source]
    command += ["/o", tmp_path / "try.obj", f"/I{tmp_path}", f"/I{ROOT / 'lstm_cy' / '_kernels' / 'isa'}"]

    def compiles(code, *arguments):
        source.write_text(code)
        return subprocess.run([*command, "/clang:-Werror", *arguments], capture_output=True, text=True)

    arguments = setup_script.arguments_of(
        variant, "clang-cl", lambda option: compiles("extern int n;", option).returncode == 0
    )
    assert len(arguments) >= len(setup_script.VARIANTS[variant]) + 6
    code = f"""
#include "vector.h"
_Static_assert(LSTM_CY_VECTOR_BYTES == {bytes_} && LSTM_CY_FMA == {int(variant != "base")}, "width");
lstm_cy_v32 product(lstm_cy_v32 a, lstm_cy_v32 b) {{ return a * b; }}
float sum(float a, float b, float c) {{ return lstm_cy_fma_float(a, b, c); }}
"""
    done = compiles(code, *arguments, "/clang:-ffreestanding")
    assert done.returncode == 0, done.stderr
    assert compiles(setup_script.VECTORS).returncode == 0


# Errors before anything is downloaded, generated or compiled


@pytest.fixture
def untouched(source, tmp_path):
    """Return a copy of the sources without any build."""
    return shutil.copytree(source, tmp_path / "untouched", ignore=shutil.ignore_patterns("build", "*.egg-info"))


def without_a_compiler(folder, *command):
    """Run a command that must fail; return its output, with both streams in order."""
    compiler = folder.parent / "no-compiler"
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "CC": str(compiler)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode != 0, done.stdout
    return done.stdout


LAST = 'Windows           the "Build Tools for Visual Studio"'


def sources_in(folder):
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("isolation", ([], ["--no-build-isolation"]), ids=("isolated", "not isolated"))
@pytest.mark.parametrize("kind", ([], ["--editable"]), ids=("wheel", "editable"))
def test_pip_reports_a_missing_compiler_before_any_download(untouched, kind, isolation):
    pytest.importorskip("pip")
    before = sources_in(untouched)
    options = ["--no-index", "--dry-run", *isolation, *kind]  # without an index all downloads would fail
    output = without_a_compiler(untouched, "-m", "pip", "install", *options, ".")
    assert "Collecting" not in output and "Could not find" not in output
    of_the_build, _, _ = output.partition("[end of output]")
    assert of_the_build.rstrip().endswith(LAST), output
    assert "needs a working C compiler" in of_the_build and "Traceback" not in of_the_build
    assert sources_in(untouched) == before


def test_setup_py_ends_with_this_message_before_it_generates_files(untouched):
    before = set(untouched.rglob("*.c"))
    output = without_a_compiler(untouched, "setup.py", "build_ext")
    assert output.rstrip().endswith(LAST), output
    assert set(untouched.rglob("*.c")) == before


def test_other_commands_of_setup_py_need_no_compiler_and_generate_nothing(untouched):
    without = {**os.environ, "CC": "no-compiler"}
    subprocess.run([sys.executable, "setup.py", "-q", "sdist"], cwd=untouched, env=without, check=True)
    assert list(untouched.glob("dist/*.tar.gz"))
    assert not (untouched / "build").exists()


def test_the_backend_checks_the_compiler_before_it_lists_its_requirements(untouched):
    """Requirements in pyproject.toml would be downloaded before the backend is called."""
    build = tomllib.loads((untouched / "pyproject.toml").read_text())["build-system"]
    assert (build["requires"], build["build-backend"], build["backend-path"]) == ([], "build_backend", ["."])
    program = "import build_backend; print(*build_backend.get_requires_for_build_wheel())"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=untouched, capture_output=True, text=True)
    assert {re.match(r"\w+", word)[0] for word in done.stdout.split()} == {"setuptools", "Cython", "numpy", "scipy"}


OLD_SETUPTOOLS = """
import importlib.metadata as metadata, types
metadata.distributions = lambda name: [types.SimpleNamespace(name=name, version='65.5.0')]"""


@pytest.mark.parametrize(
    ("change", "message"),
    [(OLD_SETUPTOOLS, "setuptools 65.5.0 is too old"), ("sys.modules['Cython'] = None", "Cython")],
)
def test_a_build_without_isolation_lists_missing_requirements(untouched, change, message):
    """Python 3.11's venv has setuptools 65, which cannot read the licence in pyproject.toml."""
    program = f"import setuptools, sys\n{change}\nimport build_backend; build_backend.build_wheel('.')"
    done = subprocess.run([sys.executable, "-c", program], cwd=untouched, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.rstrip().endswith(
        'python -m pip install --upgrade "setuptools>=77.0.1" "Cython>=3.1,<4" "numpy>=2" "scipy>=1.11"'
    )


def test_files_of_an_earlier_build_are_not_taken_for_setuptools(untouched):
    """pip 25 and newer answer questions for any distribution with those next to the backend, such as an .egg-info."""
    information = untouched / "lstm_cy.egg-info"
    information.mkdir()
    (information / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: lstm_cy\nVersion: 0.1.0\n")
    program = """
import importlib.metadata as metadata, sys
class Finder(metadata.DistributionFinder):
    def find_spec(self, *arguments): return None
    def find_distributions(self, context=None):
        return metadata.MetadataPathFinder.find_distributions(metadata.DistributionFinder.Context(path=["."]))
sys.meta_path.insert(0, Finder())
assert metadata.version("setuptools") == "0.1.0"
import build_backend
build_backend.check_requirements()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=untouched, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_threads_a_call_runs_on_its_callers_thread(source, build, tmp_path):
    """A real compiler builds it in a copy of the package, where it replaces the module with threads."""
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    code = source / "build" / "lstm_cy" / "_kernels" / "runtime" / "threads.c"
    if not code.exists():
        build("nothing")
    package = Path(config.__file__).parent
    shutil.copytree(package, tmp_path / "lstm_cy", ignore=shutil.ignore_patterns("__pycache__", "threads.*.so"))
    target = tmp_path / "lstm_cy" / "_kernels" / "runtime" / f"threads{sysconfig.get_config_var('EXT_SUFFIX')}"
    headers = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    flags = ["-shared", "-fPIC", "-DLSTM_CY_NO_THREADS", "-Wall", "-Werror=implicit-function-declaration"]
    subprocess.run(["cc", *flags, *headers, str(code), "-o", str(target)], check=True)
    program = """
import numpy as np
from lstm_cy import LSTM
from lstm_cy._kernels.runtime import threads
lstm, x = LSTM(64, 256, seed=0), np.random.default_rng(0).standard_normal((100, 8, 64))
assert np.array_equal(lstm(x, threads=4)[0], lstm(x, threads=1)[0])
print(threads.__file__, *threads.statistics())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == f"{target} 0 0\n", done.stderr


# The contents of packages


def is_foreign(name):
    """Return whether a file holds an instruction set of the other family of processors."""
    x86 = platform.machine() in ("x86_64", "AMD64")
    return Path(name).name.startswith("neon" if x86 else "avx")


def test_the_wheel_has_the_package_and_its_cython_declarations(run, source, tmp_path):
    done = run("nothing", "bdist_wheel", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (wheel.read(name) for name in names if name.endswith(".dist-info/METADATA"))
    expected = {
        name for name in in_tree() if name.endswith((".py", ".pyi", ".pxd", ".js", ".css", ".json", "py.typed"))
    }
    expected.add("lstm_cy/include/lstm_cy.h")
    if webassembly.find_compiler():
        expected.add("lstm_cy/export/web/network.wasm")
    package = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert {name for name in package if not name.endswith(".so")} == expected
    assert {name.partition(".")[0] for name in package if name.endswith(".so")} == {
        name.partition(".")[0] for name in in_tree() if name.endswith(".pyx") and not is_foreign(name)
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    required = email.message_from_bytes(metadata).get_all("Requires-Dist")
    always = [line for line in required if "extra ==" not in line]
    assert sorted(re.match("[a-z]+", line)[0] for line in always) == ["numpy", "scipy"]


def test_the_source_distribution_has_the_sources_and_no_generated_files(run, source, tmp_path):
    done = run("nothing", "sdist", "--dist-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert not [name for name in names if name.endswith((".c", ".so", ".o", ".wasm")) or name.startswith("build/")]
    assert {name for name in names if name.startswith("lstm_cy/")} == set(in_tree())
    assert {
        "build_backend.py",
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "tests/common.py",
        "tests/fast.txt",
    } <= names
    assert {f"tests/slow/{path.name}" for path in (ROOT / "tests" / "slow").iterdir() if path.is_file()} <= names


def in_tree():
    """Return the package's source files, without generated ones."""
    kinds = (".py", ".pyi", ".pxd", ".pxi", ".pyx", ".h", ".js", ".css", ".json", "py.typed")
    return [path.relative_to(ROOT).as_posix() for path in (ROOT / "lstm_cy").rglob("*") if path.name.endswith(kinds)]
