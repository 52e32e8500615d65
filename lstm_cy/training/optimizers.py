"""Optimizers: compute new parameters from gradients, with the names and the semantics of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .._kernels import updates
from .._kernels.elements import power
from ..checks import flag, float_array, non_negative_int, number, shown
from .groups import checked_groups, checked_patterns, options_of
from .losses import sum_of_squares

if TYPE_CHECKING:
    from ..layers.base import Gradients, Layer
    from ..typing import Array, ArrayLike, Parameters

# Parameters that together have at most this many numbers are updated together: calls cost more than such an update.
_GROUPED = 1 << 14
# Adam converts the count to float64, which represents every integer up to this one.
_MOST_STEPS = 1 << 53


class Optimizer:
    """Base class of the optimizers: checks gradients, replaces all parameters at once, saves and loads its state.

    A subclass passes its options, including lr and weight_decay, to this constructor, and defines `_checked`, which
    checks them, `_slot_names`, the names of the arrays that it keeps for each parameter and that start at zero
    (`non_negative` names those that are never below zero), and `_update`.

    Parameters
    ----------
    model : Layer
        Its parameters are replaced by new arrays at each `step`. Arrays that several layers share are one parameter.
    options : dict
        The options of the subclass.
    groups : sequence of dict, optional
        Groups of parameters with options of their own: ``{"parameters": "0.*", "lr": 1e-4, "weight_decay": 0.0}``.
        "parameters" is a pattern, or a list of patterns, over the names of the model's parameters: ``*`` stands for
        any characters, dots included, ``?`` for one, ``[01]`` for one of those in brackets, as in the module fnmatch.
        A parameter belongs to the first group with a pattern that matches. The other keys are options of the
        constructor, which take their values from it where they are not given.
    frozen : str or sequence of str
        Patterns of parameters that are not trained: their gradients are ignored, their arrays stay the same objects,
        and no state is kept for them. They come before the groups. What a layer itself says is frozen
        (``Embedding(frozen=True)``) is so in any case.
    decay_biases : bool
        False: no `weight_decay` for parameters with less than two axes, which are biases, peepholes and the scales of
        normalizations.

    Attributes
    ----------
    model : Layer
        The layer whose parameters are replaced at each step.
    trained : tuple of str
        The names of the parameters that are not frozen.
    lr : float
        The learning rate of the next step, where a group has no lr of its own. Set it to follow a schedule: a finite
        number of at least 0.
    weight_decay : float
    steps : int
        Steps made so far.
    config : dict
        The constructor's arguments; does not follow later changes of `lr`. Without groups, frozen and decay_biases
        where these have their default values.

    Raises
    ------
    TypeError, ValueError
        An argument is not of the expected type or out of range; a pattern matches no parameter, or all are frozen.
    """

    non_negative: tuple[str, ...] = ()

    def __init__(
        self,
        model: Layer,
        options: dict[str, Any],
        groups: Sequence[Mapping[str, Any]] | None = None,
        frozen: str | Sequence[str] = (),
        decay_biases: bool = True,
    ) -> None:
        parameters = getattr(model, "parameters", None)
        if not isinstance(parameters, Mapping) or not callable(getattr(model, "replace_parameters", None)):
            raise TypeError(
                f"model: expected a layer such as an LSTM or a Sequential, got {shown(model)} ({type(model).__name__})"
            )
        for name, array in parameters.items():
            if array.dtype not in (np.float32, np.float64):
                raise TypeError(f"model: expected parameters of float32 or float64, {name} is of {array.dtype}")
        self._model, self._config = model, self._checked("", options)
        everywhere = self._config | {"decay_biases": flag("decay_biases", decay_biases)}
        own = checked_groups([] if groups is None else groups, everywhere, self._checked_with_biases)
        patterns = checked_patterns("frozen", frozen)
        chosen = options_of(dict(parameters), everywhere, own, patterns, getattr(model, "frozen_parameters", ()))
        self._config |= {"groups": own} if own else {}
        self._config |= {"frozen": patterns} if patterns else {}
        self._config |= {} if decay_biases else {"decay_biases": False}
        self.lr = self._config["lr"]
        self.steps = 0
        self.trained = tuple(chosen)
        self._frozen = frozenset(parameters) - set(chosen)
        self._groups = _grouped({name: parameters[name] for name in chosen}, chosen)
        slots = self._slot_names([everywhere, *({**everywhere, **group} for group in own)])
        self._slots = {slot: [np.zeros(group.size, group.dtype) for group in self._groups] for slot in slots}
        self._next_slots: dict[str, list[Array]] = {}

    def _checked_with_biases(self, where: str, options: dict[str, Any]) -> dict[str, Any]:
        decay_biases = flag(f"{where}decay_biases", options["decay_biases"])
        return self._checked(where, options) | {"decay_biases": decay_biases}

    def _checked(self, where: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return checked `options`, others left out; `where` is the beginning of the names in messages."""
        raise NotImplementedError

    def _slot_names(self, options: list[dict[str, Any]]) -> tuple[str, ...]:
        """Return the names of the arrays that are kept for each parameter; `options` are those of all groups."""
        raise NotImplementedError

    @property
    def model(self) -> Layer:
        """The layer whose parameters are replaced at each step."""
        return self._model

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments besides the model."""
        return dict(self._config)

    @property
    def weight_decay(self) -> float:
        """The multiple of each parameter by which it decays, where its group has none of its own."""
        return float(self._config["weight_decay"])

    @property
    def lr(self) -> float:
        """The learning rate of the next step, where a group has none of its own."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = number("lr", value, 0.0, open_high=True)

    @property
    def steps(self) -> int:
        """Steps made so far."""
        return self._steps

    @steps.setter
    def steps(self, value: int) -> None:
        self._steps = _count("steps", value)

    def step(self, grads: Gradients | Mapping[str, ArrayLike], *, factor: float = 1.0) -> None:
        """Make one step: replace the model's parameters by new arrays.

        Parameters
        ----------
        grads : Gradients or mapping of str to array_like
            The result of `backward`, or {name: gradient} with exactly the model's names and shapes; those of frozen
            parameters are ignored and may be missing. Not changed.
        factor : float
            The learning rates of all groups are multiplied by it in this step: the value of a schedule.

        Raises
        ------
        TypeError, ValueError
            Names or shapes differ from the model's; all differences are listed.
        FloatingPointError
            A gradient is NaN or infinite, or a parameter or this optimizer's state would become so.

        On any exception, model and optimizer stay as they were.
        """
        old, steps = self.model.parameters, self.steps
        factor = number("factor", factor, 0.0, open_high=True)
        grads = getattr(grads, "parameters", grads)
        if self._frozen:
            old, grads = self.without_frozen(old), self.without_frozen(_mapping("grads", grads))
        grads = _matching("grads", old, grads)
        new: Parameters = {}
        # Two sets of slots alternate, so that the current one is unchanged until the step is complete.
        slots = self._next_slots or {slot: list(map(np.empty_like, flat)) for slot, flat in self._slots.items()}
        self.steps += 1
        try:
            for i, group in enumerate(self._groups):
                states = [flat[i] for flat in (*slots.values(), *self._slots.values())]
                new |= self._step_group(group, group.joined(old), group.joined(grads), states, factor)
            self.model.replace_parameters(new)
        except BaseException:
            self.steps = steps
            raise
        self._slots, self._next_slots = slots, self._slots

    def without_frozen(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays without those of frozen parameters, for example to compute the norm of the gradients.

        Parameters
        ----------
        arrays : dict
            {name: array}, such as gradients.

        Returns
        -------
        dict
            The others, not copied.
        """
        return {name: array for name, array in arrays.items() if name not in self._frozen}

    def _step_group(self, group: _Group, old: Array, grad: Array, states: list[Array], factor: float) -> Parameters:
        """Return the new parameters of a group; `states` are its new slots, which are written, then its old ones."""
        arrays = {name: np.empty(shape, group.dtype) for name, shape in group.shapes.items()}
        new = group.joined(arrays) if len(arrays) == 1 else np.empty(group.size, group.dtype)
        lr = (self.lr if group.options["lr"] is None else group.options["lr"]) * factor
        if not self._update(group.options, lr, new, old, grad, *states):
            self._check_finite(group, lr, new, old, grad, states[: len(self._slots)])
        if len(arrays) > 1:  # for one array, `new` is a view of it
            for name, part in group.parts.items():
                arrays[name].reshape(-1)[:] = new[part]
        return arrays

    def _check_finite(self, group: _Group, lr: float, new: Array, old: Array, grad: Array, states: list[Array]) -> None:
        """Raise if a gradient is not finite, or the step turns finite numbers into NaN or infinity."""
        for name, part in group.parts.items():
            wrong = grad[part][~np.isfinite(grad[part])]
            if wrong.size:
                raise FloatingPointError(f"grads[{name!r}]: expected finite numbers, got {wrong[0]}")
            wrong = new[part][~np.isfinite(new[part]) & np.isfinite(old[part])]
            if wrong.size:
                raise FloatingPointError(f"parameters[{name!r}]: a step with lr = {lr} gives {wrong[0]}")
            if not all(np.isfinite(state[part]).all() for state in states):
                largest = np.abs(grad[part]).max()
                raise FloatingPointError(f"grads[{name!r}]: too large, up to {largest:.3g}, for {old.dtype}")

    def _update(self, options: dict[str, Any], lr: float, new: Array, old: Array, grad: Array, *states: Array) -> bool:
        """Write `new` and the first half of `states`, the new slots; return whether all numbers are finite."""
        raise NotImplementedError

    def state_dict(self) -> Parameters:
        """Return copies of everything that later steps depend on.

        Returns
        -------
        dict of str to ndarray
            The step count and the learning rate are the scalars ``"step"`` and ``"lr"``; the other arrays are
            named ``"<slot>.<parameter>"``.
        """
        state = {"step": np.array(self.steps, np.int64), "lr": np.array(self.lr, np.float64)}
        return state | {name: array.copy() for name, array in self._slot_arrays().items()}

    def _slot_arrays(self) -> Parameters:
        """Return {"<slot>.<parameter>": array}, all arrays kept for the parameters."""
        return {
            f"{slot}.{name}": array
            for slot, flat in self._slots.items()
            for group, vector in zip(self._groups, flat, strict=True)
            for name, array in group.split(vector).items()
        }

    def load_state_dict(self, mapping: Mapping[str, ArrayLike]) -> None:
        """Continue from a result of `state_dict`: the following steps are the same bit for bit.

        Parameters
        ----------
        mapping : mapping of str to array_like
            The arrays are copied.

        Raises
        ------
        TypeError, ValueError
            Names or shapes differ from this optimizer's (all differences are listed), or a number is not finite or
            out of range. Nothing is changed.
        """
        slots = self._slot_arrays()
        state = _matching("state_dict", {"step": np.zeros(()), "lr": np.zeros(()), **slots}, mapping)
        steps = _count("state_dict['step']", np.asarray(mapping["step"]).item())
        lr = number("state_dict['lr']", state["lr"].item(), 0.0, open_high=True)
        for name in slots:
            _check_slot(f"state_dict[{name!r}]", state[name], name.partition(".")[0] in self.non_negative)
        self.lr, self.steps = lr, steps
        self._slots = {
            slot: [
                group.joined({name: state[f"{slot}.{name}"] for name in group.parts}).copy() for group in self._groups
            ]
            for slot in self._slots
        }

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.config.items())
        return f"{type(self).__name__}({type(self.model).__name__}, {arguments})"


class SGD(Optimizer):
    """Stochastic gradient descent with optional momentum; the same algorithm as ``torch.optim.SGD``.

    With g the gradient plus `weight_decay` times the parameter (L2 regularisation: the decay is part of the
    gradient, and therefore of the momentum)::

        v = momentum * v + g
        parameter -= lr * (g + momentum * v  if nesterov else  v)

    Parameters
    ----------
    model : Layer
        Its parameters are replaced by new arrays at each `step`.
    lr : float
        Learning rate, at least 0; the attribute `lr` may be set between steps.
    momentum : float
        From 0 (no momentum) up to but not including 1 (B. T. Polyak, Some methods of speeding up the convergence
        of iteration methods, 1964).
    weight_decay : float
        At least 0.
    nesterov : bool
        Use Nesterov's momentum, in the form of I. Sutskever et al., On the importance of initialization and
        momentum in deep learning, 2013; needs a momentum.
    groups, frozen, decay_biases :
        As for `lstm_cy.optimizers.Optimizer`: options for parts of the model.

    Raises
    ------
    TypeError, ValueError
        An argument is not a number or out of range, nesterov is given without momentum, or a pattern matches no
        parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear, SGD
    >>> model = Linear(1, 1, bias=False)
    >>> model.load_state_dict({"weight": [[1.0]]})
    >>> SGD(model, lr=0.5).step({"weight": np.array([[0.5]])})
    >>> model.parameters["weight"].item()
    0.75
    """

    def __init__(
        self,
        model: Layer,
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        groups: Sequence[Mapping[str, Any]] | None = None,
        frozen: str | Sequence[str] = (),
        decay_biases: bool = True,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(model, options, groups, frozen, decay_biases)

    def _checked(self, where: str, options: dict[str, Any]) -> dict[str, Any]:
        checked = {
            "lr": _rate(where, options),
            "momentum": _fraction(where, options, "momentum"),
            "weight_decay": _decay(where, options),
            "nesterov": flag(f"{where}nesterov", options["nesterov"]),
        }
        if checked["nesterov"] and not checked["momentum"]:
            raise ValueError(f"{where}nesterov: expected a momentum above 0 with it, got momentum=0")
        return checked

    def _slot_names(self, options: list[dict[str, Any]]) -> tuple[str, ...]:
        return ("momentum_buffer",) if any(group["momentum"] for group in options) else ()

    @property
    def momentum(self) -> float:
        """The factor of the last step's direction in the next one."""
        return float(self._config["momentum"])

    @property
    def nesterov(self) -> bool:
        """Whether Nesterov's momentum is used."""
        return bool(self._config["nesterov"])

    def _update(self, options: dict[str, Any], lr: float, new: Array, old: Array, grad: Array, *states: Array) -> bool:
        decay, momentum = options["weight_decay"], options["momentum"]
        return updates.sgd(new, old, grad, states, decay, momentum, options["nesterov"], lr)


class Adam(Optimizer):
    """Adam (D. P. Kingma and J. Ba, Adam: A method for stochastic optimization, 2015, algorithm 1).

    The same algorithm as ``torch.optim.Adam``. With g the gradient plus `weight_decay` times the parameter (L2
    regularisation: the decay is part of the gradient, and therefore scaled with it; `AdamW` does it otherwise)::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        parameter -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

    Parameters
    ----------
    model : Layer
        Its parameters are replaced by new arrays at each `step`.
    lr : float
        Learning rate, at least 0; the attribute `lr` may be set between steps.
    betas : (float, float)
        Decay rates of the running means of g and of g**2; each from 0 up to but not including 1.
    eps : float
        Prevents a division by zero; at least 0.
    weight_decay : float
        At least 0.
    groups, frozen, decay_biases :
        As for `lstm_cy.optimizers.Optimizer`: options for parts of the model.

    Raises
    ------
    TypeError, ValueError
        An argument is not a number or out of range, or a pattern matches no parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Adam, Linear
    >>> model = Linear(1, 1, bias=False)
    >>> model.load_state_dict({"weight": [[1.0]]})
    >>> Adam(model, lr=0.25).step({"weight": np.array([[8.0]])})
    >>> round(model.parameters["weight"].item(), 6)  # the length of the first step is lr for any gradient
    0.75
    """

    non_negative = ("exp_avg_sq",)

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
        frozen: str | Sequence[str] = (),
        decay_biases: bool = True,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(model, options, groups, frozen, decay_biases)

    def _checked(self, where: str, options: dict[str, Any]) -> dict[str, Any]:
        betas = options["betas"]
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise TypeError(f"{where}betas: expected two numbers, got {shown(betas)}")
        return {
            "lr": _rate(where, options),
            "betas": tuple(
                number(f"{where}betas[{i}]", beta, 0.0, 1.0, open_high=True) for i, beta in enumerate(betas)
            ),
            "eps": _not_negative(where, options, "eps"),
            "weight_decay": _decay(where, options),
        }

    def _slot_names(self, options: list[dict[str, Any]]) -> tuple[str, ...]:
        return "exp_avg", "exp_avg_sq"

    @property
    def betas(self) -> tuple[float, float]:
        """The decay rates of the running means of g and of g**2."""
        first, second = self._config["betas"]
        return first, second

    @property
    def eps(self) -> float:
        """The term that prevents a division by zero."""
        return float(self._config["eps"])

    def _update(self, options: dict[str, Any], lr: float, new: Array, old: Array, grad: Array, *states: Array) -> bool:
        return self._adam(options, lr, options["weight_decay"], 1.0, new, old, grad, states)

    def _adam(
        self,
        options: dict[str, Any],
        lr: float,
        decay: float,
        shrink: float,
        new: Array,
        old: Array,
        grad: Array,
        states: tuple[Array, ...],
    ) -> bool:
        """Make the step, with `decay` times the parameter added to its gradient, from `shrink` times the parameter."""
        (beta1, beta2), steps = options["betas"], self.steps
        root, rate = math.sqrt(1 - power(beta2, steps)), lr / (1 - power(beta1, steps))
        return updates.adam(new, old, grad, states, decay, shrink, beta1, beta2, root, options["eps"], rate)


class AdamW(Adam):
    """Adam with decoupled weight decay (I. Loshchilov and F. Hutter, Decoupled weight decay regularization, 2019).

    The same algorithm as ``torch.optim.AdamW``: the step of `Adam` without weight decay, from a parameter that has
    been multiplied by ``1 - lr * weight_decay``. The decay is not scaled with the gradient.

    Parameters
    ----------
    model, lr, betas, eps :
        As for `Adam`.
    weight_decay : float
        At least 0.
    groups, frozen, decay_biases :
        As for `lstm_cy.optimizers.Optimizer`: options for parts of the model.

    Raises
    ------
    TypeError, ValueError
        As for `Adam`.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import AdamW, Linear
    >>> model = Linear(1, 1)
    >>> model.load_state_dict({"weight": [[1.0]], "bias": [1.0]})
    >>> AdamW(model, lr=0.5, weight_decay=0.5, decay_biases=False).step({"weight": [[0.0]], "bias": [0.0]})
    >>> model.parameters["weight"].item(), model.parameters["bias"].item()
    (0.75, 1.0)
    """

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        groups: Sequence[Mapping[str, Any]] | None = None,
        frozen: str | Sequence[str] = (),
        decay_biases: bool = True,
    ) -> None:
        super().__init__(model, lr, betas, eps, weight_decay, groups=groups, frozen=frozen, decay_biases=decay_biases)

    def _update(self, options: dict[str, Any], lr: float, new: Array, old: Array, grad: Array, *states: Array) -> bool:
        return self._adam(options, lr, 0.0, 1 - lr * options["weight_decay"], new, old, grad, states)


class RMSprop(Optimizer):
    """RMSprop (T. Tieleman and G. Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012).

    The same algorithm as ``torch.optim.RMSprop``. With g the gradient plus `weight_decay` times the parameter::

        s = alpha * s + (1 - alpha) * g**2
        u = alpha * u + (1 - alpha) * g                  # only if centered
        g = g / (sqrt(s - u**2  if centered  else  s) + eps)
        v = momentum * v + g                             # only with momentum
        parameter -= lr * (v  if momentum  else  g)

    Parameters
    ----------
    model : Layer
        Its parameters are replaced by new arrays at each `step`.
    lr : float
        Learning rate, at least 0; the attribute `lr` may be set between steps.
    alpha : float
        Decay rate of the running means; from 0 up to but not including 1.
    eps : float
        Prevents a division by zero; at least 0.
    weight_decay : float
        At least 0.
    momentum : float
        From 0 (no momentum) up to but not including 1.
    centered : bool
        Divide by the standard deviation of g rather than by the root of the mean of its square (A. Graves, Generating
        sequences with recurrent neural networks, 2013).
    groups, frozen, decay_biases :
        As for `lstm_cy.optimizers.Optimizer`: options for parts of the model.

    Raises
    ------
    TypeError, ValueError
        An argument is not a number or out of range, or a pattern matches no parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear, RMSprop
    >>> model = Linear(1, 1, bias=False)
    >>> model.load_state_dict({"weight": [[1.0]]})
    >>> RMSprop(model, lr=0.125, alpha=0.75).step({"weight": np.array([[8.0]])})
    >>> round(model.parameters["weight"].item(), 6)  # lr / sqrt(1 - alpha) for any gradient
    0.75
    """

    non_negative = ("square_avg",)

    def __init__(
        self,
        model: Layer,
        lr: float = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        groups: Sequence[Mapping[str, Any]] | None = None,
        frozen: str | Sequence[str] = (),
        decay_biases: bool = True,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(model, options | {"centered": centered}, groups, frozen, decay_biases)

    def _checked(self, where: str, options: dict[str, Any]) -> dict[str, Any]:
        return {
            "lr": _rate(where, options),
            "alpha": _fraction(where, options, "alpha"),
            "eps": _not_negative(where, options, "eps"),
            "weight_decay": _decay(where, options),
            "momentum": _fraction(where, options, "momentum"),
            "centered": flag(f"{where}centered", options["centered"]),
        }

    def _slot_names(self, options: list[dict[str, Any]]) -> tuple[str, ...]:
        velocity = ("momentum_buffer",) if any(group["momentum"] for group in options) else ()
        mean = ("grad_avg",) if any(group["centered"] for group in options) else ()
        return "square_avg", *velocity, *mean

    def _update(self, options: dict[str, Any], lr: float, new: Array, old: Array, grad: Array, *states: Array) -> bool:
        its = [
            dict(zip(self._slots, half, strict=True))
            for half in (states[: len(self._slots)], states[len(self._slots) :])
        ]
        slots = tuple(half.get(name) for half in its for name in ("square_avg", "momentum_buffer", "grad_avg"))
        decay, alpha, eps = options["weight_decay"], options["alpha"], options["eps"]
        return updates.rmsprop(new, old, grad, slots, decay, alpha, eps, options["momentum"], options["centered"], lr)


def _rate(where: str, options: dict[str, Any]) -> float:
    return _not_negative(where, options, "lr")


def _decay(where: str, options: dict[str, Any]) -> float:
    return _not_negative(where, options, "weight_decay")


def _not_negative(where: str, options: dict[str, Any], name: str) -> float:
    """Return the option `name`, a finite number of at least 0."""
    return number(where + name, options[name], 0.0, open_high=True)


def _fraction(where: str, options: dict[str, Any], name: str) -> float:
    """Return the option `name`, a number from 0 up to but not including 1."""
    return number(where + name, options[name], 0.0, 1.0, open_high=True)


def clip_grad_norm(grads: Gradients | Mapping[str, Array], max_norm: float) -> float:
    """Scale all gradients together so that their norm is at most `max_norm`.

    R. Pascanu, T. Mikolov and Y. Bengio, On the difficulty of training recurrent neural networks, 2013.

    Parameters
    ----------
    grads : Gradients or mapping of str to ndarray
        The result of `backward`, or {name: gradient}. The gradients of the parameters are scaled **in place** if
        their norm is above `max_norm`, and left unchanged if it is not, or if it is NaN or infinite.
    max_norm : float
        Above 0; with infinity the norm is only computed.

    Returns
    -------
    float
        The Euclidean norm of all gradients taken as one vector, before scaling, accumulated in float64. Not
        finite if a gradient is not: check it before `step`.

    Raises
    ------
    TypeError, ValueError
        max_norm is not a number above 0, or a gradient is not a writable float array; nothing is changed.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import clip_grad_norm
    >>> grads = {"weight": np.array([3.0, 4.0])}
    >>> clip_grad_norm(grads, 1.0)
    5.0
    >>> grads["weight"].round(3).tolist()
    [0.6, 0.8]
    """
    max_norm = number("max_norm", max_norm, 0.0, open_low=True)
    arrays = _writable(grads)
    total = 0.0
    for array in arrays.values():  # not `sum`, which newer versions of Python round in another way
        total += sum_of_squares(np.asarray(array))
    norm = math.sqrt(total)
    if max_norm < norm < np.inf:
        for array in arrays.values():
            array *= max_norm / norm
    return norm


def clip_grad_value(grads: Gradients | Mapping[str, Array], max_value: float) -> None:
    """Limit each gradient to the range from -`max_value` to `max_value`.

    Parameters
    ----------
    grads : Gradients or mapping of str to ndarray
        The result of `backward`, or {name: gradient}. The gradients of the parameters are limited **in place**; those
        that are NaN or infinite stay so, and `step` refuses them.
    max_value : float
        Above 0.

    Raises
    ------
    TypeError, ValueError
        max_value is not a number above 0, or a gradient is not a writable float array; nothing is changed.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import clip_grad_value
    >>> grads = {"weight": np.array([3.0, -4.0, 0.5])}
    >>> clip_grad_value(grads, 1.0)
    >>> grads["weight"].tolist()
    [1.0, -1.0, 0.5]
    """
    max_value = number("max_value", max_value, 0.0, open_low=True)
    for array in _writable(grads).values():
        np.clip(array, -max_value, max_value, out=array, where=np.isfinite(array))


def _writable(grads: Any) -> Mapping[str, Any]:
    """Return the gradients of the parameters, {name: array}; raise unless all are writable arrays of floats."""
    arrays = _mapping("grads", getattr(grads, "parameters", grads))
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.dtype.itemsize > 8:
            raise TypeError(f"grads[{name!r}]: expected an array of floats, got {shown(array)}")
        if not array.flags.writeable:
            raise ValueError(f"grads[{name!r}]: expected a writable array, got a read-only one")
    return arrays


def _count(name: str, value: object) -> int:
    """Return `value` as a count of steps."""
    steps = non_negative_int(name, value)
    if steps > _MOST_STEPS:
        raise ValueError(f"{name}: expected at most {_MOST_STEPS}, got {shown(value)}")
    return steps


class _Group:
    """Parameters of one dtype and the same options that are updated together as one vector.

    They are several small ones, or one of any size.
    """

    def __init__(self, parameters: Parameters, options: dict[str, Any]) -> None:
        self.options = options
        self.shapes = {name: array.shape for name, array in parameters.items()}
        (self.dtype,) = {array.dtype for array in parameters.values()}
        ends = list(accumulate(array.size for array in parameters.values()))
        self.size = ends[-1]
        self.parts = {name: slice(*ends) for name, ends in zip(parameters, pairwise([0, *ends]), strict=True)}

    def joined(self, arrays: Mapping[str, Array]) -> Array:
        """Return the group's arrays as one C-contiguous vector: a view if it is one such array, else a copy."""
        flat = [float_array(name, arrays[name], self.dtype).reshape(-1) for name in self.parts]
        return flat[0] if len(flat) == 1 else np.concatenate(flat)

    def split(self, vector: Array) -> Parameters:
        """Return {name: array} from the vector: a view if the group is one array, else copies."""
        if len(self.parts) == 1:
            return {name: vector.reshape(shape) for name, shape in self.shapes.items()}
        return {name: vector[part].reshape(self.shapes[name]).copy() for name, part in self.parts.items()}


def _grouped(parameters: Mapping[str, Array], options: Mapping[str, dict[str, Any]]) -> list[_Group]:
    """Group neighbouring parameters of one dtype and the same `options`, {name: options}, up to `_GROUPED` numbers."""
    runs: list[Parameters] = []
    for name, array in parameters.items():
        run = runs[-1] if runs else {}
        fits = sum(other.size for other in run.values()) + array.size <= _GROUPED
        first = next(iter(run), name)
        if not run or not fits or run[first].dtype != array.dtype or options[first] != options[name]:
            runs.append(run := {})
        run[name] = array
    return [_Group(run, options[next(iter(run))]) for run in runs]


def _check_slot(name: str, array: Array, non_negative: bool) -> None:
    """Raise unless a slot's array is finite, and at least 0 if it is a mean of squares."""
    fine = np.isfinite(array)
    if non_negative:
        fine &= array >= 0
    if not fine.all():
        least = " of at least 0" if non_negative else ""
        raise ValueError(f"{name}: expected finite numbers{least}, got {array[~fine][0]}")


def _mapping(argument: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument}: expected a mapping {{name: array}}, got {type(value).__name__}")
    return value


def _matching(argument: str, expected: Parameters, given: Any) -> Parameters:
    """Return `given` in the dtypes of `expected`, {name: array}; a ValueError lists all differences."""
    _mapping(argument, given)
    arrays = {
        name: float_array(f"{argument}[{name!r}]", given[name], array.dtype)
        for name, array in expected.items()
        if name in given
    }
    differences = [f"missing: {name} {array.shape}" for name, array in expected.items() if name not in given]
    differences += [f"unknown: {name}" for name in given if name not in expected]
    differences += [
        f"misshaped: {name}: expected {expected[name].shape}, got {array.shape}"
        for name, array in arrays.items()
        if array.shape != expected[name].shape
    ]
    if differences:
        raise ValueError(f"{argument}: does not fit the model: " + "; ".join(differences))
    return arrays
