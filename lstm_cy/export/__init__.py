"""Models as files for other languages.

`c99` writes a model as one C99 file, `wasm` as WebAssembly; `web` shows the gates of a model in a web page.
"""

from . import web
from .writing import c99, wasm

__all__ = ["c99", "wasm", "web"]
