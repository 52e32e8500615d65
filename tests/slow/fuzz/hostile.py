"""Files made to cost much are read or refused within 1 s and 100 MB beyond twice their size.

    python tests/slow/fuzz/hostile.py FOUND --count 300 --seed 1

Case i is of the kind i modulo the number of kinds (`--index I` runs one); its size is random: small in many cases and
large in some. hostile_files.py makes the files.
"""

import os

from hostile_files import KINDS
from runner import Cases, Finding, folder_of_worker, main, only_user_warnings

import lstm_cy
from lstm_cy import training, weights
from lstm_cy.weights import inspect


class Hostile(Cases):
    def __init__(self, options):
        super().__init__(options)
        self.folder, self.path = folder_of_worker(), None
        self.readers = {"load": lstm_cy.load, "describe": inspect.describe}
        for module in ("onnx", "onnx.numpy_helper", "safetensors.numpy"):
            __import__(module)
        assert weights.onnx and weights.keras and weights.pytorch  # imported before the measurements

    def run(self, rng, index):
        kind = list(KINDS)[index % len(KINDS)]
        suffix, content = KINDS[kind](rng, rng.choice((10, 300, 10_000, 300_000)))
        self.path = self.folder / f"hostile{suffix}"
        self.path.unlink(missing_ok=True)
        if isinstance(content, int):  # a sparse file of so many zeros
            with open(self.path, "wb") as file:
                file.truncate(content)
        else:
            self.path.write_bytes(content)
        self.content = content
        reader = "load" if rng.random() < 0.7 else "describe"
        self.label = f"{reader} {kind}"
        del content
        self.mark()
        try:
            with only_user_warnings():
                (training.read_history if kind.startswith("checkpoint") else self.readers[reader])(self.path)
        except (ValueError, OSError, ImportError) as error:
            if self.path.name not in str(error):
                raise
            if len(str(error)) > 20_000:
                raise Finding("long message", f"{len(str(error))} characters: {str(error)[:200]}") from error
            return f"{kind}: {type(error).__name__}"
        return f"{kind}: read"

    def allowance(self):
        return 2 * (self.path.stat().st_blocks * 512)

    def keep(self, folder, name):
        path = folder / f"{name}{self.path.suffix}"
        if isinstance(self.content, bytes) and len(self.content) < 2_000_000:
            path.write_bytes(self.content)
            return str(path)
        return f"{os.path.getsize(self.path)} bytes"


if __name__ == "__main__":
    main(Hostile, __doc__)
