"""Compiles the callback; lstm_cy is only asked for its embed.pxd, which Cython finds where Python finds the package."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(ext_modules=cythonize([Extension("amplifier", ["amplifier.pyx"])], language_level=3))
