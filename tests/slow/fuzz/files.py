"""Damaged model files give a model, or an error that names the file, within 1 s and 100 MB.

    python tests/slow/fuzz/files.py FOUND --count 1000000
    python tests/slow/fuzz/files.py FOUND --index 4711          # only that case again

Seeds are made at the start, in FOUND/seeds, by this library, PyTorch, Keras and ONNX (the extra `test` and PyTorch),
and damaged by mutations.py. `load` reads most damaged files, other readers the rest. Some of the loaded models are
run. A case is a number: FOUND/state.json holds the next one, where the next run continues.
"""

import os

import numpy as np
from mutations import damage
from runner import Cases, Finding, folder_of_worker, main, only_user_warnings
from seeds import checkpoint_of, make

#: most characters of an error
LONGEST = 20_000


class Files(Cases):
    def __init__(self, options):
        super().__init__(options)
        self.seeds = make(options.found / "seeds")
        self.names = list(self.seeds)
        self.families: dict[str, list[str]] = {}
        for name in self.names:
            self.families.setdefault(name.split("-")[0], []).append(name)
        self.folder, self.content = folder_of_worker(), b""
        for name in self.names:  # so that imports at first use are not counted as a file's cost
            self.load(name, self.seeds[name], 0.0)

    def run(self, rng, index):
        name = rng.choice(rng.choice(list(self.families.values())))
        content = damage(rng, self.seeds[name], name, lambda rng: self.seeds[rng.choice(self.names)])
        if rng.random() < 0.02:  # under another suffix
            name = rng.choice(self.names)
        return self.load(name, content, rng.random())

    def load(self, name, content, draw):
        self.content, self.name = content, "damaged-file" + os.path.splitext(name)[1]
        path = self.folder / self.name
        path.write_bytes(content)
        reader = self.reader(name, draw)
        self.label = f"{reader.__name__} {path.suffix}"
        try:
            with only_user_warnings():
                result = reader(path)
        except (ValueError, OSError, ImportError) as error:
            message = str(error)
            if self.name not in message and (not isinstance(error, OSError) or error.filename is None):
                raise
            if len(message) > LONGEST:
                raise Finding("long message", f"{len(message)} characters: {message[:200]}") from error
            return f"{path.suffix} {type(error).__name__}"
        if 0.5 < draw < 0.6 and hasattr(result, "config"):
            self.call(result)
        return f"{path.suffix} read"

    @staticmethod
    def reader(name, draw):
        """Return the function that reads the file: `load` most of the time."""
        import lstm_cy
        from lstm_cy import training, weights
        from lstm_cy.weights import inspect

        if name == "own-checkpoint.npz" and draw < 0.9:
            return _resume if draw < 0.5 else training.read_history
        if draw < 0.6:
            return lstm_cy.load
        if draw < 0.75:
            return inspect.describe
        if name.endswith((".pt", ".pth", ".safetensors")):
            return weights.pytorch.read if draw < 0.85 else weights.pytorch.lstms
        if name.endswith(".onnx"):
            return weights.onnx.lstms if draw < 0.85 else _run
        return lstm_cy.load

    @staticmethod
    def call(model):
        """Check that a call of a loaded model gives a result, a TypeError or a ValueError."""
        try:
            with only_user_warnings((UserWarning, RuntimeWarning)):
                model(np.zeros((2, 1, getattr(model, "input_size", 2)), "f4"))
        except (TypeError, ValueError):
            pass

    def allowance(self):
        return 2 * len(self.content)

    def keep(self, folder, name):
        path = folder / f"{name}{os.path.splitext(self.name)[1]}"
        path.write_bytes(self.content)
        return str(path)


def _resume(path):
    return checkpoint_of(path, resume=True)


def _run(path):
    import lstm_cy

    model = lstm_cy.from_onnx(path)
    feeds = {}
    for value in model.inputs:
        shape = [size if isinstance(size, int) and size < 100 else 2 for size in (value.shape or ())[:9]]
        feeds[value.name] = np.ones(shape, value.dtype)
    try:
        with only_user_warnings((UserWarning, RuntimeWarning)):
            model.run(feeds)
    except (TypeError, ValueError):
        pass


if __name__ == "__main__":
    main(Files, __doc__)
