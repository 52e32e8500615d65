"""Compile the C++ module: it needs only lstm_cy.h of the installed lstm_cy, not Cython."""

from setuptools import Extension, setup

import lstm_cy

flags = ["-std=c++11", "-pthread"]
module = Extension(
    "processor",
    ["processor.cpp"],
    include_dirs=[lstm_cy.get_include()],
    extra_compile_args=flags,
    extra_link_args=["-pthread"],
)
setup(name="processor", version="0", ext_modules=[module])
