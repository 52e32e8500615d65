"""LSTMs and other tensors in files of PyTorch and in state dicts; torch is not imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...checks import flag
from ...printable import printable
from ..containers import torch_pickle
from ..containers.npz import read_npz_within
from ..containers.safetensors import read_safetensors
from ..faults import listed, naming, shortened
from ..inputs import Input, input_of
from ..marks import kind_of
from .tensors import layers_of, locations_of, plans_of, plans_or_raise, shapes_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from ...layers.lstm import LSTM
    from ...typing import FileSource, Parameters
    from ..budget import Budget
    from .tensors import Plan

# Cost in objects of one layer of an LSTM.
_LSTM_COST = 300


def read(path: FileSource) -> Any:
    """Read the arrays of a file by name, without PyTorch and without executing code from the file.

    Parameters
    ----------
    path : str, os.PathLike, bytes or binary file
        A file of torch.save, in its ZIP format or that before version 1.6, an archive of TorchScript, a pickle, a
        .safetensors file or a .npz file: its path, its content, or the file, open for reading. The content decides
        which it is.

    Returns
    -------
    dict, or another saved value
        Nested as saved: dicts (also for an OrderedDict), lists, tuples, sets, numbers, strings, bytes, None; arrays
        and numbers of NumPy; tensors as ndarrays, bfloat16 and quantized ones as float32; torch.Size as tuple; a
        device or a dtype as string, such as "cuda:0" or "torch.float16". All other objects, and classes, as `Opaque`
        values, which have their names and content; nothing is executed.
        Tensors that share memory in PyTorch share it here.

    Raises
    ------
    ValueError
        The file is truncated, damaged or of another kind, or holds tensors of float8. The message names the file and
        the refused value.
    ImportError
        The file is a .safetensors file and safetensors is not installed.
    OSError
        The file cannot be read.

    Notes
    -----
    The pickle in a file of torch.save may have up to 8 MiB and 400,000 steps, which is about 12,000 tensors. Keys of
    dicts are strings, bytes, integers, bools or None, and up to 2000 floats and short tuples. Tensors may share bytes,
    but may together not take more than eight times the bytes of the file's tensors.

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
    return _read(input_of(path))[0]


def _read(path: Input) -> tuple[Any, Budget]:
    """Return (result of `read`, rest of the file's budget)."""
    kind = kind_of(path) or os.path.splitext(path.name)[1].lower().removeprefix(".")
    if kind == "safetensors":
        arrays, _, budget = read_safetensors(path)
        return arrays, budget
    return read_npz_within(path) if kind == "npz" else torch_pickle.read(path)


def lstms(
    source: FileSource | Mapping[str, Any], *, batch_first: bool = False, strict: bool = False
) -> dict[str, LSTM]:
    """Return every LSTM in a file, a state dict or a checkpoint, with options found from the tensors.

    Parameters
    ----------
    source : str, os.PathLike, bytes, binary file, or mapping
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
        return layers_of("source", plans_or_raise("source", locations_of(source)), strict, batch_first=batch_first)
    found = read_lstms(Input(source, "source", also="a mapping, "))
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
    value : object
        All contents, as `read` returns them.
    """

    path: str
    tensors: Parameters
    own: dict[str, set[str]]
    plans: dict[str, Plan]
    problem: str
    budget: Budget
    value: Any

    def layers(self, strict: bool, prefixes: Collection[str] | None = None, **options: Any) -> dict[str, LSTM]:
        """Make the LSTMs of all or some prefixes, {prefix: LSTM}; they may use the arrays of `tensors` uncopied."""
        plans = {prefix: plan for prefix, plan in self.plans.items() if prefixes is None or prefix in prefixes}
        for plan in plans.values():
            self.budget.objects(_LSTM_COST * plan.options["num_layers"], "its LSTMs")
        return layers_of(self.path, plans, strict, copy=False, **options)

    def others(self, prefix: str | None = None) -> list[str]:
        """Return the tensors that belong to no LSTM, or not to that of `prefix`."""
        owned = self.own.values() if prefix is None else [self.own[prefix]]
        inside = set().union(*owned)
        return [name for name in self.tensors if name not in inside]


def read_lstms(path: FileSource | Input) -> Lstms:
    """Return the LSTMs of a file, which are not made yet, and its other tensors."""
    path = input_of(path)
    value, budget = _read(path)
    with naming(path):
        locations = locations_of(value)
    plans, problem = plans_of(locations)
    tensors = {"/".join((*location, name)): tensor for location, found in locations for name, tensor in found.items()}
    own: dict[str, set[str]] = {prefix: set() for prefix in plans}
    of_tensor = {id(tensor): prefix for prefix, plan in plans.items() for tensor in plan.tensors.values()}
    for name, tensor in tensors.items():
        if id(tensor) in of_tensor:
            own[of_tensor[id(tensor)]].add(name)
    return Lstms(str(path), tensors, own, plans, problem, budget, value)


def read_model(path: FileSource | Input, strict: bool, *, batch_first: bool = False) -> LSTM:
    """Return the LSTM of a file that holds one LSTM and nothing else; see `weights.load`."""
    found = read_lstms(path)
    if found.problem:
        raise ValueError(f"{printable(found.path)}: {found.problem}")
    if len(found.plans) != 1 or found.others():
        prefixes = listed(map(repr, found.plans)) or "none"
        name = shortened(repr(next(iter(found.plans), "PREFIX")), 200)
        raise ValueError(
            f"{printable(found.path)}: expected one LSTM under PyTorch's names and nothing else; its LSTMs: "
            f"{prefixes}; its tensors: {shapes_of(found.tensors)}. lstm_cy.weights.pytorch.lstms gives every LSTM in a "
            f"file, .read every tensor; on the command line, lstm-cy convert with --name {name} --partial takes one"
        )
    (model,) = found.layers(strict, batch_first=batch_first).values()
    return model
