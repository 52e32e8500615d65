"""The build backend: setuptools', with a test of the C compiler before anything is downloaded, generated or compiled.

pyproject.toml lists no requirements of the build itself, since they would be downloaded before the backend is called;
`REQUIREMENTS` has them. Until they are installed only the standard library can be used.
"""

import importlib.metadata
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

# SciPy and NumPy are needed to compile: cython_blas.pxd declares the BLAS that the kernels call, and modules compiled
# with the headers of NumPy 2 run with NumPy 1.26 too.
REQUIREMENTS = ["setuptools>=77.0.1", "Cython>=3.1,<4", "numpy>=2", "scipy>=1.11"]

MISSING_COMPILER = """
lstm_cy compiles its kernels and needs a working C compiler and Python's headers; the test of the compiler failed:

    {error}

Install one and try again:
    Debian, Ubuntu    apt-get install gcc python3-dev
    Fedora            dnf install gcc python3-devel
    macOS             xcode-select --install
    Windows           the "Build Tools for Visual Studio"
"""
MISSING_REQUIREMENTS = """
Compiling lstm_cy here, outside an environment that pip makes for it, failed:

    {error}

It needs:
    python -m pip install --upgrade {requirements}
"""


def get_requires_for_build_sdist(config_settings=None):
    return REQUIREMENTS


def get_requires_for_build_wheel(config_settings=None):
    try_compiler()
    return REQUIREMENTS


def get_requires_for_build_editable(config_settings=None):
    try_compiler()
    return REQUIREMENTS


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    try_compiler()  # in a build without isolation this is the first call
    return setuptools_backend().prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    try_compiler()
    return setuptools_backend().prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    return setuptools_backend().build_sdist(sdist_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    return setuptools_backend().build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    return setuptools_backend().build_editable(wheel_directory, config_settings, metadata_directory)


def setuptools_backend():
    check_requirements()
    from setuptools import build_meta

    return build_meta


def check_requirements():
    """End the build with a message if it is not isolated and lacks a requirement."""
    try:
        import Cython  # noqa: F401
        import numpy  # noqa: F401
        import scipy  # noqa: F401
        import setuptools  # noqa: F401
    except ImportError as error:
        missing_requirements(error)
    version = setuptools_version()
    if tuple(map(int, version.split(".")[:2])) < (77, 0):
        missing_requirements(f"setuptools {version} is too old")


def setuptools_version():
    """Return the version of the installed setuptools.

    Not setuptools.__version__: while pip calls this backend, its finder answers every question for a distribution with
    those in this folder, and if lstm_cy.egg-info is here setuptools takes the version of lstm_cy for its own.
    """
    found = importlib.metadata.distributions(name="setuptools")
    return next(distribution.version for distribution in found if distribution.name == "setuptools")


def missing_requirements(error):
    requirements = " ".join(f'"{requirement}"' for requirement in REQUIREMENTS)
    stop(MISSING_REQUIREMENTS.format(error=error, requirements=requirements))


def try_compiler():
    """End the build with a message if the C compiler that setuptools would call does not work.

    On macOS and Windows setuptools looks for a compiler itself, and setup.py tests it.
    """
    if os.name != "posix" or sys.platform == "darwin":
        return
    flags = [flag for name in ("CFLAGS", "CPPFLAGS") for flag in shlex.split(os.environ.get(name, ""))]
    flags += [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    command = [*shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"), *flags]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "try.c"
        source.write_text("#include <Python.h>\n")
        try:
            subprocess.run([*command, "-c", str(source), "-o", str(source.with_suffix(".o"))], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            missing_compiler(error)


def missing_compiler(error):
    stop(MISSING_COMPILER.format(error=error))


def stop(message):
    """End the process with a message, after everything that was printed before."""
    sys.stdout.flush()
    raise SystemExit(message)
