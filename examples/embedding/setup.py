"""Compile the callback. It needs only embed.pxd of lstm_cy, which Cython finds in the installed package."""

import importlib.util

from Cython.Build import cythonize
from setuptools import Extension, setup

if not importlib.util.find_spec("lstm_cy"):
    raise SystemExit("lstm_cy is not installed: install it first, then this with pip install --no-build-isolation .")

setup(ext_modules=cythonize([Extension("amplifier", ["amplifier.pyx"])], language_level=3))
