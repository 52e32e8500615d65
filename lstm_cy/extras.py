"""Install commands for the libraries that only a part of lstm_cy needs."""

from __future__ import annotations

#: the arguments of `pip install` for each extra of pyproject.toml: the libraries' own names, because another project on
#: an index may have the name lstm_cy; in double quotes if they have brackets or signs with a meaning in a shell
PACKAGES = {
    "safetensors": "safetensors",
    "onnx": "onnx",
    "plot": "matplotlib",
    "sklearn": '"scikit-learn>=1.6"',
    "dask": '"dask[array,distributed]"',
    "mpi": "mpi4py",
    "torch": "torch",
}


def pip_install(extra: str) -> str:
    """Return the command that installs the libraries of an extra."""
    return f"pip install {PACKAGES[extra]}"
