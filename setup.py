"""Compiles the kernels.

One source, `_kernels/isa/kernels.pxi`, is compiled once for each instruction set of `VARIANTS`; the rest is compiled
once for any processor. The variant is selected when the library is imported. Variants of other processors are left
out. If a compiler lacks the flags of a variant, the others are built and a message is printed. The same happens without
POSIX threads: every call then runs on its caller's thread. Everything else about the package is in pyproject.toml.

LSTM_CY_CHECKS=1 compiles with Cython's bounds checks, for one pass of the tests, and with line numbers for debuggers.
"""

import functools
import os
import shlex
import sys
import tempfile
from pathlib import Path, PureWindowsPath

import numpy
import scipy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

import build_backend

KERNELS = "lstm_cy._kernels.isa."
CHECKS = bool(os.environ.get("LSTM_CY_CHECKS"))

# The flags of a variant are exactly the features that _kernels/runtime/cpu.pyx checks.
VARIANTS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl", "-mfma"],
}
VARIANTS["avx512vnni"] = [*VARIANTS["avx512"], "-mavx512vnni"]
VARIANTS["avx512bf16"] = [*VARIANTS["avx512vnni"], "-mavx512bf16"]
VARIANTS["neondotprod"] = ["-march=armv8.2-a+dotprod"]

# The variants of ARM's 64-bit processors. Apart from "base" the others are for x86.
ARM = {"neondotprod"}

# Without these gcc keeps details of C that vector code cannot have (errno, traps, the sign of zero). None of them lets
# it reorder sums. Contraction is off so that all kernels round in the same way: fma is written explicitly.
ARITHMETIC = [
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-ffp-contract=off",
]
# For the loops that compilers vectorise on their own: they would use half of the registers' width.
TUNING = {variant: ["-mprefer-vector-width=512"] for variant in ("avx512", "avx512vnni", "avx512bf16")}
OPTIMISE = ["-O3", "-g1" if CHECKS else "-g0"]
# Functions marked inline are compiled once for each constant they are called with, so that a tile's sums are in
# registers: compilers must not limit this for size.
INLINING = ["-DCYTHON_INLINE=inline __attribute__((always_inline))"]

# The functions that _kernels/runtime/threads.pyx needs. The test is linked too: without -pthread some linkers do not
# find them.
THREADS = """
#include <pthread.h>
#include <stdint.h>
static uint64_t job;
static void *work(void *argument) { return (void *)(uintptr_t)__atomic_add_fetch(&job, 1, __ATOMIC_SEQ_CST); }
int main(void) {
    pthread_t thread;
    return pthread_atfork(0, 0, 0) || pthread_create(&thread, 0, work, 0);
}
"""
# The compilers and processors for which _kernels/isa/vector.h has vectors
VECTORS = """
#if !(defined(__GNUC__) || defined(__clang__)) || !(defined(__SSE2__) || defined(__ARM_NEON))
#error "no vectors"
#endif
"""
POOL = "lstm_cy._kernels.runtime.threads"
WEB = "lstm_cy/export/web"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKS,
    "nonecheck": CHECKS,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}


class BuildKernels(build_ext):
    """build_ext that gives each extension the flags that this compiler understands."""

    def finalize_options(self):
        super().finalize_options()
        # this process may be restricted to some of the machine's processors
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.parallel = self.parallel or usable

    def build_extensions(self):
        self._style = select_compiler(self.compiler, os.environ.get("CC", ""))
        self._require_compiler()
        self._generate()
        self._accepts = functools.cache(self._accepts)
        self.extensions = [extension for extension in self.extensions if self._set_flags(extension)]
        super().build_extensions()

    def run(self):
        super().run()
        if not self.inplace:
            # In a flat layout Python started in the source folder finds the sources first on sys.path; with the
            # compiled kernels in the same folder `import lstm_cy` works there too.
            self.copy_extensions_to_source()
        self._build_wasm()

    def _build_wasm(self):
        """Compile the module for web pages, which needs no particular compiler of C, but one for WebAssembly."""
        folders = {Path(WEB)} if self.inplace else {Path(WEB), Path(self.build_lib) / WEB}
        content = wasm_module()
        for folder in folders:
            target = folder / "network.wasm"
            if content is None:
                target.unlink(missing_ok=True)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)

    def _require_compiler(self):
        try:
            self._try("#include <Python.h>\n")
        except (CCompilerError, ExecError, PlatformError, OSError) as error:
            build_backend.missing_compiler(error)

    def _generate(self):
        """Compile the extensions' Cython to C; only here, because other commands of setup.py do not need it."""
        generated = Path("build")
        write_blas_int(generated)
        made = cythonize(
            self.extensions,
            compiler_directives=DIRECTIVES,
            build_dir=str(generated),
            include_path=[".", str(generated)],
        )
        found = {extension.name: extension for extension in made}
        for extension in self.extensions:
            extension.sources, extension.depends = found[extension.name].sources, found[extension.name].depends

    def _set_flags(self, extension):
        """Set the extension's flags; return False if it is a variant that this compiler cannot build."""
        variant = extension.name.removeprefix(KERNELS)
        variant = variant if variant in VARIANTS else None
        if variant not in (None, "base") and (variant in ARM) != self.plat_name.endswith(("aarch64", "arm64")):
            return False
        arguments = arguments_of(variant, self._style, self._accepts)
        if arguments is None:
            say(f"this compiler cannot build the {variant} kernels; going on without them")
            return False
        if variant == "base" and not self._compiles(VECTORS, []):
            say("this compiler has no vectors for this processor; the kernels are plain loops, right but slow")
        extension.extra_compile_args = arguments
        if extension.name == POOL:
            self._set_threads(extension)
        return True

    def _set_threads(self, extension):
        if os.name == "posix" and self._compiles(THREADS, ["-pthread"], link=True):
            extension.extra_compile_args.append("-pthread")
            extension.extra_link_args.append("-pthread")
        else:
            say("no POSIX threads here; going on without them, each call on its caller's thread")
            extension.define_macros.append(("LSTM_CY_NO_THREADS", None))

    def _accepts(self, flag):
        return self._compiles("extern int nothing;\n", [*written(["-Werror"], self._style), flag])

    def _compiles(self, code, flags, link=False):
        try:
            self._try(code, flags, link)
        except CCompilerError:
            return False
        return True

    def _try(self, code, flags=(), link=False):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "try.c"
            source.write_text(code)
            objects = self.compiler.compile(
                [str(source)], output_dir=folder, include_dirs=self.include_dirs, extra_postargs=list(flags)
            )
            if link:  # with the flags that setuptools gives to the linker of the extensions
                flags = [*flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
                self.compiler.link_executable(objects, "try", output_dir=folder, extra_postargs=flags)


def select_compiler(compiler, command):
    """Return how this compiler's options are written: "gcc" (clang's too), "msvc" or "clang-cl".

    On Windows setuptools ignores CC, the command; of its values only clang-cl is understood.
    """
    if compiler.compiler_type != "msvc":
        return "gcc"
    if PureWindowsPath(command).stem.lower() != "clang-cl":
        return "msvc"
    if not compiler.initialized:
        compiler.initialize()  # finds Microsoft's headers, libraries and linker
    compiler.cc = command
    # its objects could be optimised once more by Microsoft's linker only if Microsoft's compiler had made them
    compiler.compile_options = [option for option in compiler.compile_options if option != "/GL"]
    return "clang-cl"


def arguments_of(variant, style, accepts):
    """Return the compiler's arguments for a variant, or for a module compiled once; None if a variant's are refused.

    accepts(argument) says whether the compiler has it.
    """
    required = written(VARIANTS.get(variant, []), style)
    if style == "msvc":
        return None if required else ["/O2"]
    if not all(map(accepts, required)):
        return None
    optional = OPTIMISE + ARITHMETIC + TUNING.get(variant, []) + (INLINING if variant else [])
    return required + list(filter(accepts, written(optional, style)))


def written(options, style):
    """Return gcc's options as the compiler takes them: clang-cl hands those after /clang: to clang."""
    return [f"/clang:{option}" for option in options] if style == "clang-cl" else list(options)


def say(message):
    sys.stderr.write(f"lstm_cy: {message}\n")


def wasm_module():
    """Return the WebAssembly module for web pages, or None with a message."""
    sys.path.append("lstm_cy/export")  # not the package, which needs its compiled modules
    try:
        import webassembly
        from templates import web
    finally:
        sys.path.remove("lstm_cy/export")
    compiler = webassembly.find_compiler()
    if compiler is None:
        say("no compiler for WebAssembly; web pages will compute in JavaScript. To have it, " + webassembly.INSTALL)
        return None
    return webassembly.compiled(web.source(), compiler, "-Wl,--import-memory")


def write_blas_int(folder):
    """Write the integer type of SciPy's BLAS for blas.pyx: newer versions name it, in older ones it is int."""
    declarations = Path(scipy.__file__).with_name("linalg") / "cython_blas.pxd"
    named = "blas_int" in declarations.read_text()
    line = "from scipy.linalg.cython_blas cimport blas_int" if named else "ctypedef int blas_int"
    target = folder / "blas_int.pxi"
    if not target.exists() or target.read_text() != line + "\n":  # an unchanged file causes no recompilation
        folder.mkdir(exist_ok=True)
        target.write_text(line + "\n")


def extensions():
    # Modules that read NumPy arrays directly, not through the buffer protocol, are compiled with NumPy's headers.
    numpy_options = {
        "include_dirs": [numpy.get_include(), "lstm_cy"],
        "define_macros": [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    }
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [path.as_posix()],
            depends=[header.as_posix() for header in path.parent.rglob("*.h")],
            **{"include_dirs": [path.parent.as_posix()]} if "_kernels" in path.parts else numpy_options,
        )
        for path in sorted(Path("lstm_cy").rglob("*.pyx"))
    ]


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels})
