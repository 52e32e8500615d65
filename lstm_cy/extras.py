"""How to install the libraries that only a part of lstm_cy needs."""

from __future__ import annotations

#: what `pip install` is given for each extra of pyproject.toml: the libraries' own names, for another project may have
#: the name lstm_cy on an index; in double quotes where a shell would read brackets or signs as its own
PACKAGES = {
    "safetensors": "safetensors",
    "onnx": "onnx",
    "plot": "matplotlib",
    "sklearn": '"scikit-learn>=1.6"',
    "dask": '"dask[array,distributed]"',
    "mpi": "mpi4py",
}


def pip_install(extra: str) -> str:
    """Return the command that installs what an extra needs."""
    return f"pip install {PACKAGES[extra]}"
