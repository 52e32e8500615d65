"""replace and restore: the LSTMs inside a module of PyTorch, in place."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..checks import warn
from .modules import LSTM, LSTMCell
from .packing import DTYPES

_COUNTERPARTS = {each.plain: each for each in (LSTM, LSTMCell)}


def replace(module: nn.Module) -> nn.Module:
    """Let every torch.nn.LSTM and LSTMCell in a module, itself included, run in the kernels of lstm_cy.

    It changes the class of these modules and nothing else: they are the same objects with the same parameters, hooks
    and state dicts, so that optimizers and other references to them stay valid.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    TypeError
        `module` is not a torch.nn.Module.

    Warns
    -----
    UserWarning
        One for all LSTMs that stay with PyTorch, each with its name and the reason: subclasses, parametrized and
        weight-normed, pruned, quantised and scripted ones, other dtypes than float32 and float64, other devices.

    Examples
    --------
    ::

        model = lstm_cy.torch.replace(model)
    """
    left = []
    for name, part in _modules(module):
        counterpart = _COUNTERPARTS.get(type(part))
        reason = _reason_against(part) if counterpart else _reason_if_lstm(part)
        if reason is not None:
            left.append(f"{name or 'module'} ({reason})")
        elif counterpart is not None:
            part.__class__ = counterpart
    if left:
        warn(f"replace: these stay with PyTorch: {', '.join(left)}")
    return module


def restore(module: nn.Module) -> nn.Module:
    """Let every LSTM and LSTMCell of this package in a module be one of torch.nn again, in place.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    torch.nn.Module
        `module`.

    Raises
    ------
    TypeError
        `module` is not a torch.nn.Module.

    Warns
    -----
    UserWarning
        Subclasses of this package's classes, parametrized ones among them, stay as they are; they are named.

    Examples
    --------
    ::

        torch.onnx.export(lstm_cy.torch.restore(model), (x,), "model.onnx")
    """
    left = []
    for name, part in _modules(module):
        if type(part) in (LSTM, LSTMCell):
            part.__class__ = part.plain
        elif isinstance(part, LSTM | LSTMCell):
            left.append(f"{name or 'module'} (a subclass, {type(part).__name__})")
    if left:
        warn(f"restore: these stay as they are: {', '.join(left)}")
    return module


def _modules(module: Any) -> list[tuple[str, Any]]:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module: expected a torch.nn.Module, got {type(module).__name__}")
    return list(module.named_modules())


def _reason_against(part: Any) -> str | None:
    """Return why a torch.nn.LSTM or LSTMCell must stay as it is, or None."""
    names = getattr(part, "_flat_weights_names", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
    weights = [part._parameters[name] for name in names if name in part._parameters]
    if len(weights) < len(names):
        return "its weights are computed by a hook, as by weight_norm or pruning"
    for weight in weights:
        if weight is not None and weight.device.type != "cpu":
            return f"on device {weight.device}"
        if weight is not None and weight.dtype not in DTYPES:
            return f"weights of {weight.dtype}"
    return None


def _reason_if_lstm(part: Any) -> str | None:
    """Return why a module of another class stays as it is, if it is an LSTM at all, or None."""
    if isinstance(part, LSTM | LSTMCell):
        return None
    if isinstance(part, tuple(_COUNTERPARTS)):
        return "parametrized" if hasattr(part, "parametrizations") else f"a subclass, {type(part).__name__}"
    home, name = type(part).__module__, type(part).__name__
    if home.startswith("torch.ao.") and name in ("LSTM", "LSTMCell"):
        return "quantised"
    if getattr(part, "original_name", None) in ("LSTM", "LSTMCell"):
        return "scripted"
    return None
