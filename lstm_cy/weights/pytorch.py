"""Conversion of LSTMs from and to PyTorch: files, state dicts and live modules.

This library uses PyTorch's names and order of the gates, so nothing is reordered. This module does not import torch:
the caller passes tensors and modules.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..checks import file_path, flag, float_array
from ..layers.base import Layer
from ..layers.dropout import Dropout
from ..layers.embedding import Embedding
from ..layers.linear import Linear
from ..layers.lstm import LSTM
from ..layers.recurrent import Recurrent
from ..layers.sequential import Sequential
from ..printable import printable
from .containers import torch_pickle
from .containers.npz import read_npz_within
from .containers.safetensors import is_safetensors, read_safetensors
from .faults import check_finite, listed, naming, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import TypeVar

    from ..layers.base import Layer
    from ..typing import Array, FilePath, Parameters
    from .budget import Budget

    _L = TypeVar("_L", bound=Layer)

# The name of a tensor of nn.LSTM, or, without a layer's number, of nn.LSTMCell.
_TENSOR = re.compile(
    r"(?P<prefix>.*?)(?P<part>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>0|[1-9]\d{0,4})(?P<reverse>_reverse)?)?",
    re.DOTALL,
)
# Similar names, which must not be ignored, such as weights with a norm or a mask.
_SIMILAR = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)(?![a-z])|(?:^|\.)(?:peephole|layer_norm)_l\d+(?:_reverse)?$")
# Names of PyTorch's packed quantized weights.
_QUANTIZED = re.compile(r"(?:^|\.)(?:_all_weight_values\.\d+\.param|_packed_weight_(?:ih|hh))$")
_CONTAINERS = (dict, list, tuple, Mapping)
_PLAIN = (str, bytes, int, float, type(None))
_FLOATS = ("float32", "float64", "float16")
# Cost in objects of one layer of an LSTM.
_LSTM_COST = 300
# Options that torch.nn.LSTM does not have, and their defaults.
_OWN_OPTIONS = {
    "reverse": False,
    "peepholes": False,
    "coupled_gates": None,
    "layer_norm": False,
    "clip": None,
    "cell_clip": None,
    "proj_clip": None,
}


def read(path: FilePath) -> Any:
    """Read the arrays of a file by name, without PyTorch and without executing code from the file.

    Parameters
    ----------
    path : str or os.PathLike
        A .safetensors file, a .npz file, or, with any other suffix, a file of torch.save in its ZIP format (.pt, .pth,
        .ckpt, .bin).

    Returns
    -------
    dict, or another saved value
        Nested as saved: dicts (also for an OrderedDict), lists, tuples, numbers, strings, bytes, None; tensors as
        ndarrays, bfloat16 as float32; torch.Size as tuple; a device or a dtype as string, such as "cuda:0" or
        "torch.float16".
        Tensors that share memory in PyTorch share it here.

    Raises
    ------
    ValueError
        The file is truncated, damaged or of another kind, or holds other values, such as whole modules, quantized or
        sparse tensors. The message names the file and the refused value.
    ImportError
        The file is a .safetensors file and safetensors is not installed.
    OSError
        The file cannot be read.

    Notes
    -----
    The pickle in a file of torch.save may have up to 8 MiB and 400,000 steps, which is about 12,000 tensors. Keys of
    dicts are strings, integers, bools or None. Tensors may share bytes, but may together not take more than eight times
    the bytes of the file's tensors.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from lstm_cy import weights
    >>> path = os.path.join(tempfile.mkdtemp(), "model.npz")
    >>> np.savez(path, **{"rnn.weight_ih_l0": np.zeros((20, 3)), "rnn.weight_hh_l0": np.zeros((20, 5))})
    >>> {name: array.shape for name, array in weights.pytorch.read(path).items()}
    {'rnn.weight_ih_l0': (20, 3), 'rnn.weight_hh_l0': (20, 5)}
    """
    return _read(path)[0]


def _read(path: FilePath) -> tuple[Any, Budget]:
    """Return (result of `read`, rest of the file's budget)."""
    path = file_path("path", path)
    if is_safetensors(path):
        arrays, _, budget = read_safetensors(path)
        return arrays, budget
    if path.lower().endswith(".npz"):
        return read_npz_within(path)
    return torch_pickle.read(path)


def lstms(source: FilePath | Mapping[str, Any], *, batch_first: bool = False, strict: bool = False) -> dict[str, LSTM]:
    """Return every LSTM in a file, a state dict or a checkpoint, with options found from the tensors.

    Parameters
    ----------
    source : str, os.PathLike, or mapping
        A file that `read` takes; or a state dict: {name: ndarray, or a tensor of PyTorch or another library}. Nested
        dicts, lists and tuples are searched too, so a whole checkpoint is accepted under any key.
    batch_first : bool
        Option of the new layers; state dicts do not contain it.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    dict of str to LSTM
        By prefix, the part of the names before "weight_ih_l0": "encoder.rnn.", or "" for the state dict of a bare
        nn.LSTM. If several state dicts of a checkpoint have the same prefix, their keys in the checkpoint come before
        it: "ema/encoder.rnn.". The dtype is float64 if a weight is float64, else float32 (also for float16 and
        bfloat16). An nn.LSTMCell is an LSTM of one layer. Other tensors are ignored.

    Raises
    ------
    ValueError
        Tensors look like parts of an LSTM but do not form one: tensors are missing or have a wrong shape, or belong to
        a GRU or a plain RNN, or weights have a norm or a mask. All of them are named. Or the file cannot be read, see
        `read`.
    TypeError
        `source` is neither a path nor a mapping.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights; the tensors are named.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import weights
    >>> state_dict = {"rnn.weight_ih_l0": np.zeros((20, 3)), "rnn.weight_hh_l0": np.zeros((20, 5)),
    ...               "head.weight": np.zeros((2, 5))}
    >>> found = weights.pytorch.lstms(state_dict)
    >>> found["rnn."].hidden_size, found["rnn."].bias
    (5, False)
    """
    flag("batch_first", batch_first)
    if isinstance(source, Mapping):
        return _layers("source", _plan_or_raise("source", _locations(source)), strict, batch_first=batch_first)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a path or a mapping, got {type(source).__name__}")
    found = read_lstms(source)
    if found.problem:
        raise ValueError(f"{printable(found.path)}: {found.problem}. To read other tensors, pass lstms a dict of them")
    return found.layers(strict, batch_first=batch_first)


class Lstms(NamedTuple):
    """The LSTMs and other tensors of a file.

    Attributes
    ----------
    path : str
    tensors : dict of str to ndarray
        All tensors of the file; keys and indices of nested dicts and lists come before the names.
    own : dict of str to set of str
        For each prefix the names in `tensors` that belong to its LSTM.
    plans : dict
        For each prefix the plan of its LSTM.
    problem : str
        Describes tensors that look like an LSTM but do not form one; then `plans` is empty.
    budget : Budget
        Rest of the file's budget.
    """

    path: str
    tensors: Parameters
    own: dict[str, set[str]]
    plans: dict[str, _Plan]
    problem: str
    budget: Budget

    def layers(self, strict: bool, prefixes: Collection[str] | None = None, **options: Any) -> dict[str, LSTM]:
        """Make the LSTMs of all or some prefixes, {prefix: LSTM}; they may use the arrays of `tensors` uncopied."""
        plans = {prefix: plan for prefix, plan in self.plans.items() if prefixes is None or prefix in prefixes}
        for plan in plans.values():
            self.budget.objects(_LSTM_COST * plan.options["num_layers"], "its LSTMs")
        return _layers(self.path, plans, strict, copy=False, **options)

    def others(self, prefix: str | None = None) -> list[str]:
        """Return the tensors that belong to no LSTM, or not to that of `prefix`."""
        owned = self.own.values() if prefix is None else [self.own[prefix]]
        inside = set().union(*owned)
        return [name for name in self.tensors if name not in inside]


def read_lstms(path: FilePath) -> Lstms:
    """Return the LSTMs of a file, which are not made yet, and its other tensors."""
    path = file_path("path", path)
    value, budget = _read(path)
    locations = _locations(value)
    plans, problem = _plans(locations)
    tensors = {"/".join((*location, name)): tensor for location, found in locations for name, tensor in found.items()}
    own: dict[str, set[str]] = {prefix: set() for prefix in plans}
    of_tensor = {id(tensor): prefix for prefix, plan in plans.items() for tensor in plan.tensors.values()}
    for name, tensor in tensors.items():
        if id(tensor) in of_tensor:
            own[of_tensor[id(tensor)]].add(name)
    return Lstms(path, tensors, own, plans, problem, budget)


def read_model(path: FilePath, strict: bool, *, batch_first: bool = False) -> LSTM:
    """Return the LSTM of a file that holds one LSTM and nothing else; see `weights.load`."""
    found = read_lstms(path)
    if found.problem:
        raise ValueError(f"{printable(found.path)}: {found.problem}")
    if len(found.plans) != 1 or found.others():
        prefixes = listed(map(repr, found.plans)) or "none"
        raise ValueError(
            f"{found.path}: expected one LSTM under PyTorch's names and nothing else; its LSTMs: {prefixes}; its "
            f"tensors: {shapes_of(found.tensors)}. lstm_cy.weights.pytorch.lstms gives every LSTM in a file, .read "
            "every tensor"
        )
    (model,) = found.layers(strict, batch_first=batch_first).values()
    return model


def from_torch(module: Any) -> Any:
    """Convert a live PyTorch module to the layer or model that it is in evaluation; the weights are copied.

    Parameters
    ----------
    module : torch.nn.Module
        An LSTM, LSTMCell, Linear, Embedding or Dropout of torch.nn, or a Sequential of them, in which the layer after
        an LSTM takes the LSTM's output (in PyTorch it would get a tuple, and such a Sequential does not run).

    Returns
    -------
    LSTM, Linear, Embedding, Dropout or Sequential
        With the options of the module: batch_first, dropout, bidirectional, proj_size, bias. float16 and bfloat16
        become float32. An LSTMCell is an LSTM of one layer; nested Sequentials become one. An Embedding's options for
        training (padding_idx, scale_grad_by_freq, sparse) are left out: they do not change the output.

    Raises
    ------
    TypeError
        `module` is not a torch.nn.Module, or contains one of another type; all of them are named.
    ValueError
        An Embedding has max_norm, which changes its weights when it is called; a module has hooks, which may change the
        output; weights have a norm or a mask; or `Sequential` does not take the layers.

    Warns
    -----
    UserWarning
        NaN or infinity among the weights of an LSTM; the tensors are named.

    Examples
    --------
    ::

        lstm = lstm_cy.from_torch(torch.nn.LSTM(3, 5, num_layers=2, batch_first=True))
        model = lstm_cy.from_torch(torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.LSTM(4, 8)))
    """
    nn = getattr(sys.modules.get("torch"), "nn", None)
    if nn is None or not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    modules = dict(_flat_modules(nn, module, "module"))
    converters = {location: _converter(nn, part) for location, part in modules.items()}
    refused = [
        f"{location} ({type(modules[location]).__name__})" for location, found in converters.items() if found is None
    ]
    if refused:
        names = ", ".join(_CONVERTERS)
        raise TypeError(f"module: expected {names} of torch.nn, or a Sequential of them, got {', '.join(refused)}")
    hooked = [location for location, part in modules.items() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        raise ValueError(f"module: expected no forward hooks, because they may change the output; {', '.join(hooked)}")
    made: dict[int, Any] = {}  # a module that occurs several times becomes one layer
    for location, part in modules.items():
        if id(part) not in made:
            made[id(part)] = converters[location](location, part)  # type: ignore[misc]  # none is None
    layers = [made[id(part)] for part in modules.values()]
    return Sequential(*layers) if type(module) is nn.Sequential else layers[0]


def to_state_dict(model: Layer, prefix: str = "") -> Parameters:
    """Return the weights under the names of PyTorch's modules.

    Parameters
    ----------
    model : LSTM, Linear, Embedding or Sequential
        A Sequential gives the names of a torch.nn.Sequential of the same layers; a repeated layer has the names of each
        position.
    prefix : str
        Put before each name.

    Returns
    -------
    dict of str to ndarray
        Copies. load_state_dict takes ``{name: torch.from_numpy(array) for name, array in ...}``.

    Raises
    ------
    ValueError
        An LSTM has options that torch.nn.LSTM does not have; they are named.
    TypeError
        `model` is not a layer, or `prefix` is not a string.

    Examples
    --------
    >>> from lstm_cy import LSTM, weights
    >>> list(weights.pytorch.to_state_dict(LSTM(3, 5, bias=False), "rnn."))
    ['rnn.weight_ih_l0', 'rnn.weight_hh_l0']
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a layer, got {type(model).__name__}")
    if not isinstance(prefix, str):
        raise TypeError(f"prefix: expected a string, got {type(prefix).__name__}")
    unsupported = [f"{name}={getattr(layer, name)!r}" for layer in model.layers for name in _own_options(layer)]
    if unsupported:
        raise ValueError(f"model: expected only options of torch.nn.LSTM, got {', '.join(unsupported)}")
    if model.layers == (model,):
        return {prefix + name: array for name, array in model.state_dict().items()}
    return {
        f"{prefix}{index}.{name}": array
        for index, layer in enumerate(model.layers)
        for name, array in layer.state_dict().items()
    }


def _own_options(layer: Layer) -> Iterator[str]:
    """Yield the options of a layer that torch.nn does not have."""
    if not isinstance(layer, Recurrent):
        return
    for name, absent in _OWN_OPTIONS.items():
        if getattr(layer, name) != absent:
            yield name
    if any([name for name, *_ in triple] != ["sigmoid", "tanh", "tanh"] for triple in layer.activations):
        yield "activations"


def _flat_modules(nn: Any, module: Any, location: str) -> Iterator[tuple[str, Any]]:
    """Yield (location, module) of each part of a Sequential, or of a single module."""
    if type(module) is not nn.Sequential:
        yield location, module
        return
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"module: expected no forward hooks, because they may change the output; {location}")
    for name, part in module._modules.items():  # named_children leaves out repeated modules
        yield from _flat_modules(nn, part, f"{location}[{name}]")


def _converter(nn: Any, module: Any) -> Callable[[str, Any], Layer] | None:
    for name, converter in _CONVERTERS.items():
        if type(module) is getattr(nn, name):
            return converter
    return None


def _from_lstm(location: str, module: Any) -> LSTM:
    options = {name: getattr(module, name) for name in ("batch_first", "dropout") if hasattr(module, name)}
    (layer,) = _layers(location, _plan_or_raise(location, _locations(module.state_dict())), False, **options).values()
    return layer


def _from_linear(location: str, module: Any) -> Linear:
    return _filled(Linear, module, module.in_features, module.out_features, bias=module.bias is not None)


def _from_embedding(location: str, module: Any) -> Embedding:
    if module.max_norm is not None:
        raise ValueError(
            f"{location}: expected no max_norm, which changes the weights when called, got {module.max_norm}"
        )
    return _filled(Embedding, module, module.num_embeddings, module.embedding_dim)


def _filled(kind: type[_L], module: Any, *sizes: int, **options: Any) -> _L:
    arrays = {name: _array(tensor, name) for name, tensor in module.state_dict().items()}
    layer = kind.blank(*sizes, **options, dtype=_dtype(arrays.values()))
    layer.load_state_dict(arrays)
    return layer


def _from_dropout(location: str, module: Any) -> Dropout:
    return Dropout(module.p)


_CONVERTERS = {
    "LSTM": _from_lstm,
    "LSTMCell": _from_lstm,
    "Linear": _from_linear,
    "Embedding": _from_embedding,
    "Dropout": _from_dropout,
}


#: the keys and indices that lead to a dict or list, and the tensors in it
_Location = tuple[tuple[str, ...], dict[str, Any]]


class _Plan(NamedTuple):
    """The arguments of an LSTM, and its tensors under its parameters' names."""

    options: dict[str, Any]
    tensors: dict[Any, Any]


def _plan_or_raise(source: str, locations: list[_Location]) -> dict[str, _Plan]:
    """Return {prefix: _Plan} of the LSTMs in `locations`; raise for tensors that do not form one."""
    plans, problem = _plans(locations)
    _refuse(source, problem)
    return plans


def _refuse(source: str, problem: str) -> None:
    if problem:
        raise ValueError(f"{printable(source)}: {problem}. To read other tensors, pass lstms a dict of them")


def _plans(locations: list[_Location]) -> tuple[dict[str, _Plan], str]:
    """Return ({prefix: _Plan} of the LSTMs in `locations`, a text with all problems)."""
    groups: dict[Any, Any] = {}
    problems: list[str] = []
    for location, tensors in locations:
        for name, tensor in tensors.items():
            if match := _TENSOR.fullmatch(name):
                layer = None if match["layer"] is None else int(match["layer"])
                key = match["part"], layer, match["reverse"] is not None
                groups.setdefault((location, match["prefix"]), {})[key] = tensor
            elif _SIMILAR.search(name):
                problems.append(f"{name} looks like part of an LSTM, but is not one of PyTorch's tensors")
    plans, uses = {}, Counter(prefix for _, prefix in groups)
    for (location, prefix), tensors in groups.items():
        if uses[prefix] > 1:
            prefix = "/".join((*location, prefix))
        if prefix in plans:
            problems.append(f"two LSTMs would be called {prefix!r}")
        options, order, wrong = _fit(tensors)
        problems += [f"{prefix}{text}" for text in wrong]
        named = {_name(part, layer or 0, reverse): tensors[part, layer, reverse] for part, layer, reverse in order}
        plans[prefix] = _Plan(options, named)
    if problems:
        return {}, f"tensors that do not make up an LSTM of PyTorch's: {listed(problems, separator='; ')}"
    return plans, ""


def _locations(value: Any) -> list[_Location]:
    """Return [(location, {name: tensor}), ...] for each nested dict or list with tensors in it."""
    found: list[_Location] = []
    quantized: list[str] = []

    def visit(value: Any, location: tuple[str, ...]) -> None:
        inside: list[tuple[Any, Any]] = []
        tensors: Parameters = {}
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            if isinstance(part, _CONTAINERS):
                if part:
                    inside.append((key, part))
            elif isinstance(key, str) and _QUANTIZED.search(key):
                quantized.append(key)
            elif not isinstance(part, _PLAIN) and _is_tensor(part):
                tensors[str(key)] = part
        if tensors:
            found.append((location, tensors))
        for key, part in inside:
            visit(part, (*location, str(key)))

    if isinstance(value, _CONTAINERS):
        visit(value, ())
    if quantized:
        raise ValueError(
            f"the weights of a quantized LSTM, which are not read: {listed(quantized)}; take the state_dict() of the "
            "module that was quantized"
        )
    return found


def _is_tensor(value: object) -> bool:
    return hasattr(value, "__array__") and hasattr(value, "shape")


def _name(part: str, layer: int | None, reverse: bool) -> str:
    """Return PyTorch's name of a parameter, of an LSTMCell if `layer` is None."""
    return part if layer is None else f"{part}_l{layer}{'_reverse' * reverse}"


def _fit(tensors: dict[Any, Any]) -> tuple[dict[str, Any], list[Any], list[str]]:
    """Return (options of the LSTM with `tensors`, their keys in its order, problems); `tensors` as in `_plans`."""
    shapes = {key: tuple(int(size) for size in tensor.shape) for key, tensor in tensors.items()}
    layers = {layer for _, layer, _ in shapes}
    if None in layers and len(layers) > 1:
        return {}, [], ["weight_ih etc.: tensors of both an LSTM and an LSTMCell"]
    first = None if None in layers else 0
    keys = [(part, first, False) for part in ("weight_ih", "weight_hh", "weight_hr")]
    ih, hh, hr = (shapes.get(key, ()) for key in keys)
    wrong = [f"{_name(*key)} is missing" for key in keys[:2] if key not in shapes]
    wrong += [
        f"{_name(*key)} has shape {shapes[key]}, expected 2 axes"
        for key in keys
        if key in shapes and len(shapes[key]) != 2
    ]
    if wrong:
        return {}, [], wrong
    rows, P = hh
    H = hr[1] if hr else P
    if rows != 4 * H and not hr:
        kinds = {3 * H: "that of a GRU", H: "that of a plain RNN"}
        kind = kinds.get(rows, "expected (4 * hidden_size, hidden_size), or weight_hr with it")
        return {}, [], [f"{_name(*keys[1])} has shape {hh}, {kind}"]
    options = {
        "input_size": ih[1],
        "hidden_size": H,
        "num_layers": 1 + max(layer or 0 for layer in layers),
        "bias": any(part.startswith("bias") for part, _, _ in shapes),
        "bidirectional": any(reverse for _, _, reverse in shapes),
        "proj_size": P if hr else 0,
    }
    if len(layers) < options["num_layers"]:
        wrong.append(f"weight_ih_l{max(layers)} etc.: of the layers up to it only {sorted(layers)} exist")
    expected = _shapes(layers, options)
    wrong += [f"{_name(*key)} {shape} is missing" for key, shape in expected.items() if key not in shapes]
    wrong += [
        f"{_name(*key)} has shape {shape}, expected {expected.get(key, 'none')}"
        for key, shape in shapes.items()
        if shape != expected.get(key)
    ]
    return options, [] if wrong else list(expected), wrong


def _shapes(layers: Any, options: dict[str, Any]) -> dict[Any, tuple[int, ...]]:
    """Return {key: shape} of all tensors that these layers of an LSTM should have."""
    H, P = options["hidden_size"], options["proj_size"] or options["hidden_size"]
    directions = (False, True) if options["bidirectional"] else (False,)
    shapes: dict[Any, tuple[int, ...]] = {}
    for layer in sorted(layers, key=lambda layer: layer or 0):
        for reverse in directions:
            inputs = len(directions) * P if layer else options["input_size"]
            shapes["weight_ih", layer, reverse] = 4 * H, inputs
            shapes["weight_hh", layer, reverse] = 4 * H, P
            if options["bias"]:
                shapes["bias_ih", layer, reverse] = shapes["bias_hh", layer, reverse] = (4 * H,)
            if options["proj_size"]:
                shapes["weight_hr", layer, reverse] = P, H
    return shapes


def _layers(
    source: Any, plans: dict[str, _Plan], strict: bool, *, copy: bool = True, **options: Any
) -> dict[str, LSTM]:
    """Make the planned LSTMs, {prefix: LSTM}; without `copy` they may use the given arrays."""
    arrays = {
        prefix: {name: _array(tensor, f"{source}: {prefix}{name}") for name, tensor in plan.tensors.items()}
        for prefix, plan in plans.items()
    }
    named = {prefix + name: array for prefix, parts in arrays.items() for name, array in parts.items()}
    wrong = [f"{name} of {array.dtype}" for name, array in named.items() if array.dtype.name not in _FLOATS]
    if wrong:
        raise ValueError(f"{source}: expected weights of {', '.join(_FLOATS)} or bfloat16, got {listed(wrong)}")
    check_finite(source, named, strict)
    with naming(source):
        return {prefix: _layer(plans[prefix].options | options, parts, copy) for prefix, parts in arrays.items()}


def _array(tensor: Any, name: str) -> Array:
    """Return a tensor as an ndarray, which may share its memory; bfloat16, which NumPy does not have, as float32."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    try:
        result: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, without data
        raise ValueError(f"{name}: expected a dense tensor: {shortened(error, 200)}") from None
    return result


def _dtype(arrays: Collection[Array]) -> np.dtype[Any]:
    """Return the dtype of a layer with these weights."""
    return np.dtype("float64" if any(array.dtype.name == "float64" for array in arrays) else "float32")


def _layer(options: dict[str, Any], arrays: Parameters, copy: bool) -> LSTM:
    dtype = _dtype(arrays.values())
    own = {}
    for name, array in arrays.items():
        own[name] = float_array(name, array, dtype)
        part = (
            isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes
        )  # a view would keep the whole array alive
        if (copy or part) and np.may_share_memory(own[name], array):
            own[name] = own[name].copy()
    layer = LSTM.blank(**options, dtype=dtype)
    layer.restore(own, copy=False)
    return layer


def shapes_of(tensors: Mapping[str, Any]) -> str:
    """Return names and shapes for a message."""
    return listed(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "none"
