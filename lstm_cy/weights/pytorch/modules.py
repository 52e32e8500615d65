"""Conversion of live modules of PyTorch to layers, and of layers to state dicts. The caller has imported torch."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from ...layers.base import Layer
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.linear import Linear
from ...layers.lstm import LSTM
from ...layers.recurrent import Recurrent
from ...layers.sequential import Sequential
from .tensors import array_of, dtype_of, layers_of, locations_of, plans_or_raise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from ...typing import Parameters

    _L = TypeVar("_L", bound=Layer)

# Options that torch.nn.LSTM does not have, and their defaults.
_OWN_OPTIONS = {
    "reverse": False,
    "peepholes": False,
    "coupled_gates": None,
    "layer_norm": False,
    "clip": None,
    "cell_clip": None,
    "proj_clip": None,
    "zoneout": (0.0, 0.0),
    "learn_initial_state": False,
}


def from_torch(module: Any) -> Any:
    """Convert a live PyTorch module to the layer or model that it is in evaluation; the weights are copied.

    Parameters
    ----------
    module : torch.nn.Module
        An LSTM, LSTMCell, Linear, Embedding or Dropout of torch.nn, or a Sequential of them, in which the layer after
        an LSTM takes the LSTM's output (in PyTorch it would get a tuple, and such a Sequential does not run). Those of
        `lstm_cy.torch` are taken like PyTorch's.

    Returns
    -------
    LSTM, Linear, Embedding, Dropout or Sequential
        With the options of the module: batch_first, dropout, bidirectional, proj_size, bias. float16 and bfloat16
        become float32. An LSTMCell is an LSTM of one layer; nested Sequentials become one, and a Linear that has the
        weight of an Embedding is tied to it. An Embedding's options scale_grad_by_freq and sparse are left out: they do
        not change the output.

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
    tables: dict[int, Any] = {}  # the Embedding that has a weight, which a Linear may have too
    for location, part in modules.items():
        weight = id(getattr(part, "weight", None))
        if id(part) in made:
            continue
        if weight in tables and converters[location] is _from_linear:
            made[id(part)] = _tied(part, tables[weight])
            continue
        layer = made[id(part)] = converters[location](location, part)  # type: ignore[misc]  # none is None
        if layer.vocabulary_size is not None:
            tables[weight] = layer
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
        for name, array in _state_dict_of(layer).items()
    }


def _state_dict_of(layer: Layer) -> Parameters:
    """Return a layer's tensors; PyTorch names a tied weight in both modules."""
    tied = {} if layer.tied is None else {"weight": layer.tied.state_dict()["weight"]}
    return tied | layer.state_dict()


@functools.singledispatch
def _own_options(layer: Layer) -> list[str]:
    """Return the options of a layer that torch.nn does not have."""
    return []


@_own_options.register(Recurrent)
def _own_options_of_lstm(layer: Recurrent) -> list[str]:
    found = [name for name, absent in _OWN_OPTIONS.items() if getattr(layer, name) != absent]
    plain = all([name for name, *_ in triple] == ["sigmoid", "tanh", "tanh"] for triple in layer.activations)
    return found if plain else [*found, "activations"]


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
    kind = vars(type(module)).get("plain", type(module))  # lstm_cy.torch's classes name torch.nn's
    for name, converter in _CONVERTERS.items():
        if kind is getattr(nn, name):
            return converter
    return None


def _from_lstm(location: str, module: Any) -> LSTM:
    options = {name: getattr(module, name) for name in ("batch_first", "dropout") if hasattr(module, name)}
    plans = plans_or_raise(location, locations_of(module.state_dict()))
    (layer,) = layers_of(location, plans, False, **options).values()
    return layer


def _from_linear(location: str, module: Any) -> Linear:
    return _filled(Linear, module, module.in_features, module.out_features, bias=module.bias is not None)


def _tied(module: Any, embedding: Layer) -> Linear:
    """Return a Linear whose weight is that of an Embedding, as in PyTorch."""
    sizes = module.in_features, module.out_features
    layer = Linear.blank(*sizes, bias=module.bias is not None, tied=embedding, dtype=embedding.dtype)
    layer.load_state_dict({} if module.bias is None else {"bias": array_of(module.bias, "bias")})
    return layer


def _from_embedding(location: str, module: Any) -> Embedding:
    if module.max_norm is not None:
        raise ValueError(
            f"{location}: expected no max_norm, which changes the weights when called, got {module.max_norm}"
        )
    return _filled(Embedding, module, module.num_embeddings, module.embedding_dim, padding_idx=module.padding_idx)


def _filled(kind: type[_L], module: Any, *sizes: int, **options: Any) -> _L:
    arrays = {name: array_of(tensor, name) for name, tensor in module.state_dict().items()}
    layer = kind.blank(*sizes, **options, dtype=dtype_of(arrays.values()))
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
