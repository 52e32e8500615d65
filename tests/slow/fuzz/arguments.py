"""Wrong arguments of every public function give a result, or an error that names the argument.

    python tests/slow/fuzz/arguments.py FOUND --count 100000

calls.py has a correct call of each function and method, except those of lstm_cy.reference. One to three of its
arguments are replaced by random values of nasty.py. Allowed are a result, which is then used, and TypeError,
ValueError, KeyError or IndexError that name an argument. Attributes of objects are replaced in the same way: setting
them may raise, and a call afterwards may not crash.
"""

import inspect
import os
import re

import numpy as np
from calls import CALLS, X, chain, lstm
from nasty import OnPurpose, value
from runner import Cases, Finding, folder_of_worker, main, only_user_warnings, origin_of

import lstm_cy
from lstm_cy import Sequential
from lstm_cy.layers.base import Layer

ALLOWED = (TypeError, ValueError, KeyError, IndexError, FloatingPointError, OSError, ImportError, RuntimeError)
#: larger values of these mean more work and are valid
WORK = {"epochs", "length", "max_length", "num_layers", "seconds", "count", "window"}
#: slow calls, which are left out most of the time
SLOW = ("LSTMF", "LSTMC", "LSTMR", "GateTrace.plot", "from_torch", "fit", "distributed")
#: not called: they take no argument, or another call of calls.py covers them
UNCALLED = {"get_num_threads", "reference", "weights", "GateTrace.half_life", "GateTrace.nan_source",
    "GateTrace.to_dict",
            "GateTrace.written", "Gradients", "SGD.load_state_dict", "Sequential.check_mask"}  # fmt: skip


class Arguments(Cases):
    seconds, bytes = 5.0, 2_000_000_000

    def __init__(self, options):
        super().__init__(options)
        os.chdir(folder_of_worker())
        self.names, self.text = list(CALLS), ""
        for name in self.names:
            function, arguments = CALLS[name]()
            if name != "from_keras":
                call(function, arguments)
        left = set(public()) - set(CALLS) - UNCALLED
        if left:
            raise ValueError(f"calls.py has no call of {', '.join(sorted(left))}")

    def run(self, rng, index):
        if rng.random() < 0.1:
            return self.attributes(rng)
        name = rng.choice(self.names)
        if name.startswith(SLOW) and rng.random() < 0.8:
            name = rng.choice(self.names)
        self.label = name
        function, arguments = CALLS[name]()
        arguments = dict(arguments)
        replaced = rng.sample(list(arguments), min(len(arguments), rng.choice((1, 1, 1, 2, 3))))
        for argument in replaced:
            original = arguments[argument]
            arguments[argument] = value(rng, original)
            if argument in WORK and _is_much(arguments[argument]):
                arguments[argument] = original
        self.text = f"{name} with " + ", ".join(f"{a}={_shown(arguments[a])}" for a in replaced)
        return self.checked(function, arguments, replaced)

    def checked(self, function, arguments, replaced):
        try:
            with only_user_warnings((UserWarning, RuntimeWarning)):
                use(call(function, arguments))
        except OnPurpose:
            return "raised by the argument"
        except MemoryError as error:
            if not any(_is_much(arguments[name]) for name in replaced):
                raise Finding("MemoryError", self.text) from error
            return "MemoryError"
        except ALLOWED as error:
            if not named(error, dict.fromkeys(inspect_names(function)) | arguments):
                raise Finding(
                    f"unnamed {type(error).__name__} @ {origin_of(error)}", f"{self.text}: {error}"[:400]
                ) from error
            return type(error).__name__
        except BaseException as error:
            error.args = (f"{self.text}: {error}",)
            raise
        finally:
            lstm_cy.set_num_threads(1)
        return "result"

    def attributes(self, rng):
        """Set an attribute of a model, and call the model."""
        model, feed = rng.choice(((lstm(), X), (chain(), np.ones((2, 3), int)), (lstm().quantize("int8"), X)))
        target = rng.choice(model.layers) if isinstance(model, Sequential) and rng.random() < 0.7 else model
        name = rng.choice([n for n in dir(target) if not n.startswith("__")])
        new_value = value(rng, getattr(target, name, None))
        self.label, self.text = (
            f"set {type(target).__name__}.{name}",
            f"{type(target).__name__}.{name} = {_shown(new_value)}",
        )
        try:
            setattr(target, name, new_value)
        except (AttributeError, *ALLOWED, OnPurpose):
            return "attribute refused"
        if name.startswith("_") or callable(getattr(type(target), name, None)):
            return "private attribute"
        try:
            model(feed)
        except BaseException as error:
            raise Finding(f"broken by {type(target).__name__}.{name}", f"{self.text}: {error!r}"[:400]) from error
        return "attribute written"

    def keep(self, folder, name):
        return self.text[:1000]


def public():
    """Yield all public names of lstm_cy and the methods of its classes, without aliases of methods."""
    for name in lstm_cy.__all__:
        item = getattr(lstm_cy, name)
        yield name
        if inspect.isclass(item):
            shared = dir(Layer) if issubclass(item, Layer) else ()
            methods = {m: f for m, f in vars(item).items() if callable(f) and m[0] != "_" and m not in shared}
            yield from (f"{name}.{m}" for m, f in methods.items() if getattr(f, "__name__", m) == m)


def call(function, arguments):
    arguments = dict(arguments)
    several = arguments.pop("*", ())
    return function(*several, **arguments)


def inspect_names(function):
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def use(result):
    """Check that the result of a call can be used."""
    if type(result) is lstm_cy.LSTM and max(result.input_size, result.hidden_size) < 10**4:
        y, _, tape = result.forward(np.ones((2, 1, result.input_size), "f4"))
        result.backward(tape, y)
    repr(result)


def named(error, arguments):
    """Return whether an error's message contains the name of an argument, a key of a dict, or a given path."""
    if isinstance(error, RecursionError | NotImplementedError):
        return False
    if (isinstance(error, OSError) and error.filename is not None) or "*" in arguments:
        return True
    if re.search(r"^[\w.\[\] ()'-]+: |expected", str(error)):  # our own wording: a name and what was expected
        return True
    words = set(arguments)
    for item in arguments.values():
        words |= {key for key in item if isinstance(key, str) and key} if isinstance(item, dict) else set()
        words |= {item} if isinstance(item, str) and item else set()
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", str(error)) for word in words)


def _is_much(item, depth=0):
    if isinstance(item, np.ndarray):
        return item.size > 1000 or any(map(_is_much, item.ravel()[:10]))
    if isinstance(item, list | tuple | dict | range):
        return len(item) > 1000 or (depth < 3 and any(_is_much(inner, depth + 1) for inner in list(item)[:10]))
    return isinstance(item, int | float | np.number) and not isinstance(item, bool) and not abs(item) < 100


def _shown(item):
    try:
        return f"{item!r:.200}" + (f" {item.dtype} {item.shape} {item.strides}" if isinstance(item, np.ndarray) else "")
    except Exception as error:
        return f"<{type(item).__name__}, whose repr raises {type(error).__name__}>"


if __name__ == "__main__":
    main(Arguments, __doc__)
