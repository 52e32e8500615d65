"""LSTMs from PyTorch and back: files, state dicts and live modules.

Names and the order of the gates are PyTorch's here too, so nothing is reordered. Nothing in this module imports torch:
tensors and modules are those that the caller has.
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
from ..layer import Layer
from ..layers import Dropout, Embedding, Linear, Sequential
from ..lstm import LSTM
from ..printable import printable
from ..quantize import widened
from . import archive, native, torch_pickle
from .budget import listed, shortened

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import TypeVar

    from ..layer import Layer
    from ..typing import Array, FilePath, Parameters
    from .budget import Budget

    _L = TypeVar("_L", bound=Layer)

# A tensor of nn.LSTM, or, without a layer's number, of nn.LSTMCell.
_TENSOR = re.compile(
    r"(?P<prefix>.*?)(?P<part>weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)"
    r"(?:_l(?P<layer>0|[1-9]\d{0,4})(?P<reverse>_reverse)?)?",
    re.DOTALL,
)
# What is named much like one, and must not be passed over: weights with a norm or a mask of their own, and the like.
_SIMILAR = re.compile(r"(?:weight|bias)_(?:ih|hh|hr)(?![a-z])|(?:^|\.)(?:peephole|layer_norm)_l\d+(?:_reverse)?$")
# Where PyTorch keeps what it has quantized, packed in an object of its own.
_QUANTIZED = re.compile(r"(?:^|\.)(?:_all_weight_values\.\d+\.param|_packed_weight_(?:ih|hh))$")
_CONTAINERS = (dict, list, tuple, Mapping)
_PLAIN = (str, bytes, int, float, type(None))
_FLOATS = ("float32", "float64", "float16")
# What safetensors hands to NumPy; bfloat16, which NumPy does not know, is read here.
_SAFETENSORS = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL")
# Objects that one layer of an LSTM is drawn as.
_LSTM_COST = 300
# Options that torch.nn.LSTM does not have, and what they are without.
_OURS = {
    "reverse": False,
    "peepholes": False,
    "coupled_gates": None,
    "layer_norm": False,
    "clip": None,
    "cell_clip": None,
    "proj_clip": None,
}


def read(path: FilePath) -> Any:
    """The arrays of a file of tensors, by name, without PyTorch and without executing anything in the file.

    Parameters
    ----------
    path : str or os.PathLike
        A .safetensors file, a .npz file, or, with any other suffix, one that torch.save wrote in its ZIP format (.pt,
        .pth, .ckpt, .bin).

    Returns
    -------
    dict, or what was saved
        Nested as saved: dicts (an OrderedDict too), lists, tuples, numbers, strings, bytes, None; tensors as ndarrays,
        bfloat16 as float32; torch.Size as tuple; a device or a dtype as string, such as "cuda:0", "torch.float16".
        Tensors that share memory in PyTorch share it here.

    Raises
    ------
    ValueError
        The file is truncated, damaged or of another kind, or holds anything but such values: whole modules, quantized
        or sparse tensors. The message names the file and what is refused.
    ImportError
        A .safetensors file, and safetensors is not installed.
    OSError
        The file cannot be read.

    Notes
    -----
    Of a file by torch.save, the pickle may have up to 8 MiB and 400,000 steps, which is some 12,000 tensors; keys of
    dicts are strings, integers, bools or None; tensors may share their bytes, but not take more than eight times what
    the file holds.

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
    """(what `read` gives, what is left of the file's budget)."""
    path = file_path("path", path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".safetensors":
        return _read_safetensors(path)
    if suffix == ".npz":
        return native.read_npz_within(path)
    return torch_pickle.read(path)


def lstms(source: FilePath | Mapping[str, Any], *, batch_first: bool = False, strict: bool = False) -> dict[str, LSTM]:
    """Every LSTM in a file, a state dict or a checkpoint: layers, directions, projection and bias from the tensors.

    Parameters
    ----------
    source : str, os.PathLike, or mapping
        A file that `read` takes; or a state dict: {name: ndarray, or a tensor of PyTorch or another library}. Dicts,
        lists and tuples in it are searched too, so that a whole checkpoint will do, whatever its state dict is called.
    batch_first : bool
        For the layers that are made; state dicts do not tell.
    strict : bool
        If True, NaN or infinity among the weights is an error instead of a warning.

    Returns
    -------
    dict of str to LSTM
        By prefix, the part of the names before "weight_ih_l0": "encoder.rnn.", or "" for the state dict of a bare
        nn.LSTM. Where state dicts in different places of a checkpoint have the same prefix, the place stands before it:
        "ema/encoder.rnn.". The dtype is float64 if a weight is, else float32 (float16 and bfloat16 too). An
        nn.LSTMCell is an LSTM of one layer. Other tensors are passed over.

    Raises
    ------
    ValueError
        Tensors that look like parts of an LSTM and do not make up one: missing or misshaped ones, those of a GRU or a
        plain RNN, weights under a norm or a mask. All of them are named. Or the file cannot be read, see `read`.
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
        return _layers("source", _planned("source", _places(source)), strict, batch_first=batch_first)
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source: expected a path or a mapping, got {type(source).__name__}")
    found = read_lstms(source)
    if found.problem:
        raise ValueError(
            f"{printable(found.path)}: {found.problem}. Where others are meant, give lstms a dict of those"
        )
    return found.layers(strict, batch_first=batch_first)


class Lstms(NamedTuple):
    """What is found in a file of tensors.

    Attributes
    ----------
    path : str
    tensors : dict of str to ndarray
        All that the file holds, with the places in its dicts and lists before the names.
    own : dict of str to set of str
        For each prefix the names, in `tensors`, of those that make up an LSTM.
    plans : dict
        For each prefix how its LSTM is made.
    problem : str
        What does not make up an LSTM, though it looks like one; then there are no plans.
    budget : Budget
        What is left.
    """

    path: str
    tensors: Parameters
    own: dict[str, set[str]]
    plans: dict[str, _Plan]
    problem: str
    budget: Budget

    def layers(self, strict: bool, prefixes: Collection[str] | None = None, **options: Any) -> dict[str, LSTM]:
        """{prefix: LSTM}, of all or of some prefixes; they may take the tensors over."""
        plans = {prefix: plan for prefix, plan in self.plans.items() if prefixes is None or prefix in prefixes}
        for plan in plans.values():
            self.budget.objects(_LSTM_COST * plan.options["num_layers"], "its LSTMs")
        return _layers(self.path, plans, strict, copy=False, **options)

    def others(self, prefix: str | None = None) -> list[str]:
        """The tensors that belong to no LSTM, or not to that of `prefix`."""
        owned = self.own.values() if prefix is None else [self.own[prefix]]
        inside = set().union(*owned)
        return [name for name in self.tensors if name not in inside]


def read_lstms(path: FilePath) -> Lstms:
    """The LSTMs in a file of tensors, which are yet to be made, and what else is there."""
    path = file_path("path", path)
    value, budget = _read(path)
    places = _places(value)
    plans, problem = _plans(places)
    tensors = {"/".join((*place, name)): tensor for place, found in places for name, tensor in found.items()}
    own: dict[str, set[str]] = {prefix: set() for prefix in plans}
    of_tensor = {id(tensor): prefix for prefix, plan in plans.items() for tensor in plan.tensors.values()}
    for name, tensor in tensors.items():
        if id(tensor) in of_tensor:
            own[of_tensor[id(tensor)]].add(name)
    return Lstms(path, tensors, own, plans, problem, budget)


def read_model(path: FilePath, strict: bool, *, batch_first: bool = False) -> LSTM:
    """The LSTM in a file of tensors that holds one and nothing else; see `weights.load`."""
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
    """The layer or model that a live PyTorch module is in evaluation; the weights are copied.

    Parameters
    ----------
    module : torch.nn.Module
        An LSTM, LSTMCell, Linear, Embedding or Dropout of torch.nn, or a Sequential of them, in which a layer behind an
        LSTM takes the LSTM's output (in PyTorch it would get a tuple, and such a Sequential does not run).

    Returns
    -------
    LSTM, Linear, Embedding, Dropout or Sequential
        With the options of the module: batch_first, dropout, bidirectional, proj_size, bias. float16 and bfloat16
        become float32. An LSTMCell is an LSTM of one layer; a Sequential in a Sequential is one with it. What an
        Embedding has for training (padding_idx, scale_grad_by_freq, sparse) is left behind: it does not change what
        comes out.

    Raises
    ------
    TypeError
        `module` is no torch.nn.Module, or one of another type is in it; all of them are named.
    ValueError
        An Embedding with max_norm, which changes its weights when it is called; hooks, which may change anything;
        weights under a norm or a mask; a Sequential that `Sequential` does not take.

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
    modules = dict(_flat(nn, module, "module"))
    converters = {place: _converter(nn, part) for place, part in modules.items()}
    refused = [f"{place} ({type(modules[place]).__name__})" for place, found in converters.items() if found is None]
    if refused:
        names = ", ".join(_CONVERTERS)
        raise TypeError(f"module: expected {names} of torch.nn, or a Sequential of them, got {', '.join(refused)}")
    hooked = [place for place, part in modules.items() if part._forward_hooks or part._forward_pre_hooks]
    if hooked:
        raise ValueError(f"module: expected no forward hooks, for they may change what comes out; {', '.join(hooked)}")
    made: dict[int, Any] = {}  # a module at several places becomes one layer at them all
    for place, part in modules.items():
        if id(part) not in made:
            made[id(part)] = converters[place](place, part)  # type: ignore[misc]  # none is None
    layers = [made[id(part)] for part in modules.values()]
    return Sequential(*layers) if type(module) is nn.Sequential else layers[0]


def to_state_dict(model: Layer, prefix: str = "") -> Parameters:
    """The weights under the names that PyTorch's modules take.

    Parameters
    ----------
    model : LSTM, Linear, Embedding or Sequential
        A Sequential gives the names of a torch.nn.Sequential of the same layers, of all places of a layer with several.
    prefix : str
        Put before each name.

    Returns
    -------
    dict of str to ndarray
        Copies. ``{name: torch.from_numpy(array) for name, array in ...}`` is what load_state_dict takes.

    Raises
    ------
    ValueError
        An LSTM has options that torch.nn.LSTM does not have; they are named.
    TypeError
        `model` is no layer, or `prefix` no string.

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
    layers = model.layers if isinstance(model, Sequential) else [model]
    ours = [f"{name}={getattr(layer, name)!r}" for layer in layers for name in _options_of_ours(layer)]
    if ours:
        raise ValueError(f"model: expected what torch.nn.LSTM has too, got {', '.join(ours)}")
    if not isinstance(model, Sequential):
        return {prefix + name: array for name, array in model.state_dict().items()}
    return {
        f"{prefix}{place}.{name}": array
        for place, layer in enumerate(model.layers)
        for name, array in layer.state_dict().items()
    }


def _options_of_ours(layer: Layer) -> Iterator[str]:
    """The options of a layer that torch.nn has not."""
    if not isinstance(layer, LSTM):
        return
    for name, absent in _OURS.items():
        if getattr(layer, name) != absent:
            yield name
    if any([name for name, *_ in triple] != ["sigmoid", "tanh", "tanh"] for triple in layer.activations):
        yield "activations"


def _flat(nn: Any, module: Any, place: str) -> Iterator[tuple[str, Any]]:
    """(place, module) of each part of a Sequential, or of the one module there is."""
    if type(module) is not nn.Sequential:
        yield place, module
        return
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"module: expected no forward hooks, for they may change what comes out; {place}")
    for name, part in module._modules.items():  # named_children leaves out what has been there
        yield from _flat(nn, part, f"{place}[{name}]")


def _converter(nn: Any, module: Any) -> Callable[[str, Any], Layer] | None:
    for name, converter in _CONVERTERS.items():
        if type(module) is getattr(nn, name):
            return converter
    return None


def _from_lstm(place: str, module: Any) -> LSTM:
    options = {name: getattr(module, name) for name in ("batch_first", "dropout") if hasattr(module, name)}
    (layer,) = _layers(place, _planned(place, _places(module.state_dict())), False, **options).values()
    return layer


def _from_linear(place: str, module: Any) -> Linear:
    return _filled(Linear, module, module.in_features, module.out_features, bias=module.bias is not None)


def _from_embedding(place: str, module: Any) -> Embedding:
    if module.max_norm is not None:
        raise ValueError(f"{place}: expected no max_norm, which changes the weights when called, got {module.max_norm}")
    return _filled(Embedding, module, module.num_embeddings, module.embedding_dim)


def _filled(kind: type[_L], module: Any, *sizes: int, **options: Any) -> _L:
    arrays = {name: _array(tensor, name) for name, tensor in module.state_dict().items()}
    layer = kind.blank(*sizes, **options, dtype=_dtype(arrays.values()))
    layer.load_state_dict(arrays)
    return layer


def _from_dropout(place: str, module: Any) -> Dropout:
    return Dropout(module.p)


_CONVERTERS = {
    "LSTM": _from_lstm,
    "LSTMCell": _from_lstm,
    "Linear": _from_linear,
    "Embedding": _from_embedding,
    "Dropout": _from_dropout,
}


#: the place of a dict or list, and the tensors in it
_Found = tuple[tuple[str, ...], dict[str, Any]]


class _Plan(NamedTuple):
    """An LSTM that is to be made: the arguments, and the tensors under its parameters' names."""

    options: dict[str, Any]
    tensors: dict[Any, Any]


def _planned(source: str, places: list[_Found]) -> dict[str, _Plan]:
    """{prefix: _Plan} of the LSTMs among `places`; raises for what does not make up one."""
    plans, problem = _plans(places)
    _refuse(source, problem)
    return plans


def _refuse(source: str, problem: str) -> None:
    if problem:
        raise ValueError(f"{printable(source)}: {problem}. Where others are meant, give lstms a dict of those")


def _plans(places: list[_Found]) -> tuple[dict[str, _Plan], str]:
    """({prefix: _Plan} of the LSTMs among `places`, all that does not fit)."""
    groups: dict[Any, Any] = {}
    problems: list[str] = []
    for place, tensors in places:
        for name, tensor in tensors.items():
            if match := _TENSOR.fullmatch(name):
                layer = None if match["layer"] is None else int(match["layer"])
                key = match["part"], layer, match["reverse"] is not None
                groups.setdefault((place, match["prefix"]), {})[key] = tensor
            elif _SIMILAR.search(name):
                problems.append(f"{name} looks like part of an LSTM, but is not one of PyTorch's tensors")
    plans, uses = {}, Counter(prefix for _, prefix in groups)
    for (place, prefix), tensors in groups.items():
        if uses[prefix] > 1:
            prefix = "/".join((*place, prefix))
        if prefix in plans:
            problems.append(f"two LSTMs would be called {prefix!r}")
        options, order, wrong = _fit(tensors)
        problems += [f"{prefix}{text}" for text in wrong]
        named = {_name(part, layer or 0, reverse): tensors[part, layer, reverse] for part, layer, reverse in order}
        plans[prefix] = _Plan(options, named)
    if problems:
        return {}, f"tensors that do not make up an LSTM of PyTorch's: {listed(problems, separator='; ')}"
    return plans, ""


def _places(value: Any) -> list[_Found]:
    """[(place, {name: tensor}), ...] of each dict or list with tensors in it, however deep."""
    found: list[_Found] = []
    quantized: list[str] = []

    def visit(value: Any, place: tuple[str, ...]) -> None:
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
            found.append((place, tensors))
        for key, part in inside:
            visit(part, (*place, str(key)))

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
    """PyTorch's name of a parameter; of an LSTMCell's if `layer` is None."""
    return part if layer is None else f"{part}_l{layer}{'_reverse' * reverse}"


def _fit(tensors: dict[Any, Any]) -> tuple[dict[str, Any], list[Any], list[str]]:
    """(options of the LSTM that has `tensors`, their keys in its order, what is wrong); `tensors` as in `_plans`."""
    shapes = {key: tuple(int(size) for size in tensor.shape) for key, tensor in tensors.items()}
    layers = {layer for _, layer, _ in shapes}
    if None in layers and len(layers) > 1:
        return {}, [], ["weight_ih and the like: both those of an LSTM and those of an LSTMCell"]
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
        wrong.append(f"weight_ih_l{max(layers)} and the like: of the layers up to it only {sorted(layers)} are there")
    expected = _shapes(layers, options)
    wrong += [f"{_name(*key)} {shape} is missing" for key, shape in expected.items() if key not in shapes]
    wrong += [
        f"{_name(*key)} has shape {shape}, expected {expected.get(key, 'none')}"
        for key, shape in shapes.items()
        if shape != expected.get(key)
    ]
    return options, [] if wrong else list(expected), wrong


def _shapes(layers: Any, options: dict[str, Any]) -> dict[Any, tuple[int, ...]]:
    """{key: shape} of all tensors that these layers of an LSTM should have."""
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
    """{prefix: LSTM} as planned; without `copy` the layers may take arrays over."""
    arrays = {
        prefix: {name: _array(tensor, f"{source}: {prefix}{name}") for name, tensor in plan.tensors.items()}
        for prefix, plan in plans.items()
    }
    named = {prefix + name: array for prefix, parts in arrays.items() for name, array in parts.items()}
    wrong = [f"{name} of {array.dtype}" for name, array in named.items() if array.dtype.name not in _FLOATS]
    if wrong:
        raise ValueError(f"{source}: expected weights of {', '.join(_FLOATS)} or bfloat16, got {listed(wrong)}")
    native.check_finite(source, named, strict)
    with archive.naming(source):
        return {prefix: _layer(plans[prefix].options | options, parts, copy) for prefix, parts in arrays.items()}


def _array(tensor: Any, name: str) -> Array:
    """A tensor as an ndarray, which may share its memory; bfloat16, which NumPy does not know, as float32."""
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    try:
        result: Array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    except (TypeError, RuntimeError) as error:  # sparse, quantized, without data
        raise ValueError(f"{name}: expected a dense tensor: {shortened(error, 200)}") from None
    return result


def _dtype(arrays: Collection[Array]) -> np.dtype[Any]:
    """Of the layer that holds these."""
    return np.dtype("float64" if any(array.dtype.name == "float64" for array in arrays) else "float32")


def _layer(options: dict[str, Any], arrays: Parameters, copy: bool) -> LSTM:
    dtype = _dtype(arrays.values())
    own = {}
    for name, array in arrays.items():
        own[name] = float_array(name, array, dtype)
        part = isinstance(array.base, np.ndarray) and array.base.nbytes > array.nbytes  # which would keep the whole
        if (copy or part) and np.may_share_memory(own[name], array):
            own[name] = own[name].copy()
    layer = LSTM.blank(**options, dtype=dtype)
    layer.restore(own, copy=False)
    return layer


def shapes_of(tensors: Mapping[str, Any]) -> str:
    """Names and shapes for a message."""
    return listed(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "none"


def _read_safetensors(path: FilePath) -> tuple[Parameters, Budget]:
    with native.safetensors_file(path) as file:
        arrays = {}
        for name, entry in file.entries.items():
            if entry["dtype"] == "BF16":
                arrays[name] = _read_bfloat16(path, entry, file.start)
            elif entry["dtype"] in _SAFETENSORS:
                arrays[name] = file.library.get_tensor(name)
            else:
                kinds, kind = ", ".join(_SAFETENSORS), shortened(entry["dtype"], 200)
                raise ValueError(f"{path}: {shortened(name, 200)}: expected one of {kinds} or BF16, got {kind}")
        return arrays, file.budget


def _read_bfloat16(path: FilePath, entry: Any, start: int) -> Array:
    """A float32 array; the file is one that safetensors has found to be whole."""
    array = np.empty(entry["shape"], "<u2")
    with open(path, "rb") as file:
        file.seek(start + entry["data_offsets"][0])
        file.readinto(array.data)
    return widened(array)
