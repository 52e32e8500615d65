"""Compiles the callback; lstm_cy is only asked for its embed.pxd, which Cython finds where Python finds the package."""

import importlib.util

from Cython.Build import cythonize
from setuptools import Extension, setup

if not importlib.util.find_spec("lstm_cy"):
    raise SystemExit("lstm_cy is not here: install it first, then this by pip install --no-build-isolation .")

setup(ext_modules=cythonize([Extension("amplifier", ["amplifier.pyx"])], language_level=3))
