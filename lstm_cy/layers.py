"""The layers around an LSTM, such as Linear, Embedding and Dropout, and Sequential, which joins layers to a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from ._kernels.affine import Affine
from .activations import ARGUMENTS, DEFAULTS
from .checks import (
    LONGEST,
    check_lengths,
    dtype_of,
    expect_shape,
    flag,
    flag_array,
    float_array,
    generator,
    int_array,
    number,
    one_of,
    pair_of,
    positive_int,
    real_array,
    shown,
)
from .functions import ELEMENTWISE, VECTORWISE
from .layer import Composite, Gradients, Layer, Stage, Steps, or_unknown
from .lstm import LARGEST_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from .layer import Tape
    from .stepper import Stepper
    from .trace import GateTrace
    from .typing import Array, ArrayLike, Bools, DTypeLike, Ints, Narrow, Parameters, Seed, State, StateLike

    _T = TypeVar("_T")


class Linear(Layer):
    """The affine map y = x W^T + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial parameters, U(-1/sqrt(in), 1/sqrt(in)).

    Notes
    -----
    Parameters: ``weight`` (out, in), ``bias`` (out,).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear
    >>> Linear(3, 2, seed=0)(np.ones((7, 4, 3))).shape
    (7, 4, 2)
    """

    dtype: np.dtype[Any]
    _affine: Affine
    _read_only = (*Layer._read_only, "_affine")

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, dtype: DTypeLike = "float32", seed: Seed = None
    ) -> None:
        self.in_features = positive_int("in_features", in_features)
        self.out_features = positive_int("out_features", out_features)
        if max(self.in_features, self.out_features) > LARGEST_SIDE:
            raise ValueError(
                f"in_features, out_features: expected up to {LARGEST_SIDE}, "
                f"got {self.in_features} and {self.out_features}"
            )
        self.bias = flag("bias", bias)
        self.dtype = dtype_of(dtype)
        self.config = {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "dtype": self.dtype.name,
        }
        rng = self._generator(seed)
        bound = 1 / np.sqrt(self.in_features)
        shapes = {"weight": (self.out_features, self.in_features)} | ({"bias": (self.out_features,)} if bias else {})
        self._initialize(
            shapes,
            lambda: {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()},
        )

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the layer.

        Parameters
        ----------
        x : array_like (..., in_features)

        Returns
        -------
        ndarray (..., out_features)
        """
        return self._applied(self._affine, self._input(x))

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the layer, for training.

        Parameters
        ----------
        x : array_like (..., in_features)
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`, until the parameters change; it keeps a copy of x.
        """
        affine, x = self._affine, self._input(x).copy()
        return self._applied(affine, x), self._tape(x, made_with=affine)

    @property
    def _input_features(self) -> int:
        return self.in_features

    def _output_features(self, features: int | None) -> int:
        return self.out_features

    def _input(self, x: ArrayLike) -> Array:
        x = real_array("x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x: expected shape (..., in_features) with in_features = {self.in_features}, got {x.shape}"
            )
        return float_array("x", x, self.dtype)

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        return math.prod(
            positive_int(f"Linear: {name}", arguments.get(name)) for name in ("in_features", "out_features")
        )

    def stage(self) -> Stage:
        """Return how one step is run."""
        return Stage(self.in_features, self.out_features, self._affine)

    def _applied(self, affine: Affine, x: Array) -> Array:
        y = np.empty((*x.shape[:-1], self.out_features), self.dtype)
        affine(x.reshape(-1, self.in_features), y.reshape(-1, self.out_features))
        return y

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        arrays = parameters["weight"], parameters.get("bias")
        return {"_affine": Affine(config.kernels(), config.blas(), self.dtype.itemsize, *arrays)}

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x` and `parameters`.
        """
        affine = self._affine
        (x,) = self._content_of(tape, affine)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*x.shape[:-1], self.out_features), "the shape of y")
        dx, gradients = np.empty_like(x), {name: np.zeros_like(value) for name, value in self._parameters.items()}
        rows = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features), dx.reshape(-1, self.in_features)
        affine.backward(*rows, gradients["weight"], gradients.get("bias"))
        return Gradients(dx, None, gradients)


class Embedding(Layer):
    """A vector for each token.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        The number of tokens, and the size of their vectors.
    mask_zero : bool
        Token 0 is padding: in a Sequential the later layers get a mask that is False there.
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Seed or source of the initial vectors, N(0, 1).

    Notes
    -----
    Parameter: ``weight`` (num_embeddings, embedding_dim).

    Examples
    --------
    >>> from lstm_cy import Embedding
    >>> Embedding(10, 3, seed=0)([[1, 2], [0, 9]]).shape
    (2, 2, 3)
    """

    dtype: np.dtype[Any]

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        mask_zero: bool = False,
        dtype: DTypeLike = "float32",
        seed: Seed = None,
    ) -> None:
        self.num_embeddings = positive_int("num_embeddings", num_embeddings)
        self.embedding_dim = positive_int("embedding_dim", embedding_dim)
        self.masks = self.mask_zero = flag("mask_zero", mask_zero)
        self.dtype = dtype_of(dtype)
        self.config = {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "mask_zero": self.mask_zero,
            "dtype": self.dtype.name,
        }
        shape = self.num_embeddings, self.embedding_dim
        rng = self._generator(seed)
        self._initialize({"weight": shape}, lambda: {"weight": rng.standard_normal(shape).astype(self.dtype)})

    def __call__(self, tokens: ArrayLike) -> Array:
        """Return the vectors of tokens.

        Parameters
        ----------
        tokens : array_like of int, any shape
            0 to num_embeddings - 1.

        Returns
        -------
        ndarray (..., embedding_dim)
            The leading axes are those of the tokens.
        """
        return self.forward(tokens)[0]

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        sizes = ("num_embeddings", "embedding_dim")
        return math.prod(positive_int(f"Embedding: {name}", arguments.get(name)) for name in sizes)

    @property
    def vocabulary_size(self) -> int:  # type: ignore[override]  # its own
        """The number of tokens."""
        return self.num_embeddings

    def stage(self) -> Stage:
        """Return how one step is run; a ValueError says why the layer cannot run step by step."""
        if self.masks:
            return super().stage()
        return Stage(self.num_embeddings, self.embedding_dim, np.ascontiguousarray(self._parameters["weight"]))

    def valid(self, tokens: ArrayLike) -> Bools:
        """Return True where tokens are not 0: the mask that `mask_zero` makes.

        Parameters
        ----------
        tokens : array_like of int, any shape

        Returns
        -------
        ndarray of bool, in the tokens' shape
        """
        result: Bools = int_array("tokens", tokens) != 0
        return result

    def forward(self, tokens: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Return the vectors of tokens, for training.

        Parameters
        ----------
        tokens : array_like of int, any shape
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`, until the parameters change; it keeps a copy of the tokens.
        """
        tokens = int_array("tokens", tokens)
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_embeddings):
            wrong = tokens[(tokens < 0) | (tokens >= self.num_embeddings)][0]
            raise ValueError(f"tokens: expected 0 to num_embeddings - 1 = {self.num_embeddings - 1}, got {wrong}")
        parameters = self._parameters
        return parameters["weight"][tokens], self._tape(tokens, made_with=parameters)

    def _output_features(self, features: int | None) -> int:
        return self.embedding_dim

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `parameters`; tokens have none.
        """
        parameters = self._parameters
        (tokens,) = self._content_of(tape, parameters)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*tokens.shape, self.embedding_dim), "the shape of y")
        gradient = np.zeros_like(parameters["weight"])
        if tokens.size:
            # Sorting the rows by token and summing the runs is much faster than adding one row at a time.
            order = np.argsort(tokens, axis=None, kind="stable")
            found, first = np.unique(tokens.ravel()[order], return_index=True)
            gradient[found] = np.add.reduceat(dy.reshape(-1, self.embedding_dim)[order], first)
        return Gradients(None, None, {"weight": gradient})


class Dropout(Layer):
    """Zeroes elements with probability p and scales the others by 1 / (1 - p) in training; else returns x.

    Parameters
    ----------
    p : float

    Notes
    -----
    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014).

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Dropout
    >>> y, tape = Dropout(0.5).forward(np.ones(8), rng=0)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    dtype = None  # that of the input
    passes_on = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = number("p", p, 0.0, 1.0)
        self.config = {"p": self.p}
        self._initialize({}, dict)

    def __call__(self, x: _T) -> _T:
        """Return x itself.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray
        """
        real_array("x", x)
        return x

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Drop elements.

        Parameters
        ----------
        x : array_like
            Floats.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout mask; None for a new random seed.

        Returns
        -------
        y : ndarray
            In x's shape.
        tape :
            For `backward`.
        """
        x = real_array("x", x)
        if x.dtype.kind != "f":
            raise TypeError(f"x: expected an array of floats, got dtype {x.dtype}")
        keep = generator("rng", rng).random(x.shape, dtype=np.float32) >= self.p
        factors = keep * x.dtype.type(1 / (1 - self.p) if self.p < 1 else 0)
        return x * factors, self._tape(factors)

    def _output_features(self, features: int | None) -> int | None:
        return features

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x`.
        """
        (factors,) = self._content_of(tape)
        dy = float_array("dy", dy, factors.dtype)
        expect_shape("dy", dy, factors.shape, "the shape of y")
        return Gradients(dy * factors, None, {})


class Activation(Layer):
    """A function of each element, or of the elements of the last axis.

    Parameters
    ----------
    name : str
        One of LSTM's activations (sigmoid, tanh, relu, affine, leakyrelu, thresholdedrelu, scaledtanh, hardsigmoid,
        elu, softsign, softplus), selu, silu, gelu, exp, or over the last axis softmax, logsoftmax; in upper or lower
        case.
    alpha, beta : float, optional
        As in ONNX, with its defaults: affine alpha * x + beta, hardsigmoid max(0, min(1, alpha * x + beta)), scaledtanh
        alpha * tanh(beta * x); alpha alone for leakyrelu, thresholdedrelu and elu.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Activation
    >>> Activation("softmax")(np.zeros((2, 4)))
    array([[0.25, 0.25, 0.25, 0.25],
           [0.25, 0.25, 0.25, 0.25]])
    """

    dtype = None  # that of the input

    def __init__(self, name: str, alpha: float | None = None, beta: float | None = None) -> None:
        self.name = name.lower() if isinstance(name, str) else name
        if not isinstance(name, str) or not (self.name in ELEMENTWISE or self.name in VECTORWISE):
            raise ValueError(f"name: expected one of {', '.join([*ELEMENTWISE, *VECTORWISE])}, got {shown(name)}")
        defaults = DEFAULTS.get(self.name, ())[: ARGUMENTS.get(self.name, 0)]
        options = {}
        for index, (option, value) in enumerate({"alpha": alpha, "beta": beta}.items()):
            if index < len(defaults):
                options[option] = defaults[index] if value is None else number(option, value)
            elif value is not None:
                raise ValueError(f"{option}: expected None, because {self.name} has none, got {shown(value)}")
        self.alpha, self.beta = options.get("alpha"), options.get("beta")
        self.config = {"name": self.name} | options
        self._initialize({}, dict)

    def __call__(self, x: ArrayLike) -> Array:
        """Apply the function, for inference.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        ndarray
            In x's shape and, for floats, its dtype.
        """
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Apply the function, for training.

        Parameters
        ----------
        x : array_like
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        x = real_array("x", x)
        x = np.array(x, x.dtype if x.dtype.kind == "f" else np.float32)
        if self.name in VECTORWISE:
            y = VECTORWISE[self.name][0](x)
        else:
            y = ELEMENTWISE[self.name][0](x, self.alpha, self.beta)
        return y, self._tape(x, y)

    def _output_features(self, features: int | None) -> int | None:
        return features

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x`.
        """
        x, y = self._content_of(tape)
        dy = float_array("dy", dy, y.dtype)
        expect_shape("dy", dy, y.shape, "the shape of y")
        if self.name in VECTORWISE:
            return Gradients(VECTORWISE[self.name][1](dy, y), None, {})
        slope = np.asarray(ELEMENTWISE[self.name][1](x, y, self.alpha, self.beta), y.dtype)
        return Gradients(dy * slope, None, {})


class Masking(Layer):
    """Treats steps whose features all equal `mask_value` as padding: zeroes them and masks them for later layers.

    Parameters
    ----------
    mask_value : float
    dtype : {"float32", "float64"}
        The dtype of x and y; `mask_value` is compared in it.

    Examples
    --------
    >>> from lstm_cy import Masking
    >>> Masking(-1.0)([[1.0, -1.0], [-1.0, -1.0]])
    array([[ 1., -1.],
           [ 0.,  0.]], dtype=float32)
    """

    masks = needs_steps = True
    dtype: np.dtype[Any]

    def __init__(self, mask_value: float = 0.0, *, dtype: DTypeLike = "float32") -> None:
        self.mask_value = number("mask_value", mask_value)
        self.dtype = dtype_of(dtype)
        float_array("mask_value", self.mask_value, self.dtype)
        self.config = {"mask_value": self.mask_value, "dtype": self.dtype.name}
        self._initialize({}, dict)

    def __call__(self, x: ArrayLike) -> Array:
        """Return x with zeros where a step is padding.

        Parameters
        ----------
        x : array_like (..., features)

        Returns
        -------
        ndarray
            In x's shape.
        """
        return self.forward(x)[0]

    def forward(self, x: ArrayLike, rng: Seed = None) -> tuple[Array, Tape]:
        """Return x with zeros where a step is padding, for training.

        Parameters
        ----------
        x : array_like (..., features)
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        y : ndarray
            As from a call.
        tape :
            For `backward`.
        """
        x = float_array("x", x, self.dtype)
        valid = self.valid(x)[..., None]
        return np.where(valid, x, 0), self._tape(valid, x.shape)

    def _output_features(self, features: int | None) -> int | None:
        return features

    def backward(self, tape: Tape, dy: ArrayLike) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in y's shape

        Returns
        -------
        Gradients
            `x`.
        """
        valid, shape = self._content_of(tape)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, shape, "the shape of y")
        return Gradients(np.where(valid, dy, 0), None, {})

    def valid(self, x: ArrayLike) -> Bools:
        """Return True where a step is not padding.

        Parameters
        ----------
        x : array_like (..., features)

        Returns
        -------
        ndarray of bool
            In x's shape without the features.
        """
        x = float_array("x", x, self.dtype)
        if x.ndim < 2:
            raise ValueError(f"x: expected shape (..., T, features), got {x.shape}")
        result: Bools = (x != self.dtype.type(self.mask_value)).any(axis=-1)
        return result


# For each merge mode: the function of both directions a and b, and the function that gives their gradients.
_MERGES: dict[str | None, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "concat": (lambda a, b: np.concatenate([a, b], axis=-1), lambda dy, a, b: np.split(dy, 2, axis=-1)),
    "sum": (lambda a, b: a + b, lambda dy, a, b: (dy, dy)),
    "mul": (lambda a, b: a * b, lambda dy, a, b: (dy * b, dy * a)),
    "ave": (lambda a, b: (a + b) / 2, lambda dy, a, b: (dy / 2, dy / 2)),
    None: (lambda a, b: (a, b), lambda dy, a, b: dy),
}


class Readout(Layer):
    """Selects the last valid step or all steps of an LSTM's y, and merges directions, as Keras does.

    Parameters
    ----------
    bidirectional : bool
        y is that of a bidirectional LSTM: each direction has its own last step, and `merge_mode` joins them.
    go_backwards : bool
        y is that of an LSTM with `reverse`: its last step is the first in time. All steps are returned in the order in
        which the LSTM computed them, reversed in time, as Keras does.
    return_sequences : bool
        Return every step, not only the last.
    zero_output_for_mask : bool
        Return zero for a masked step; else the last valid step before it, or zero before the first.
    merge_mode : {"concat", "sum", "mul", "ave", None}
        How two directions are joined; None returns a pair of arrays.
    batch_first : bool
        y is (B, T, D*H) rather than (T, B, D*H).

    Notes
    -----
    The options and their meaning are those of Keras: an LSTM followed by a Readout is one of Keras's LSTM or
    Bidirectional layers. In a Sequential it gets the same `lengths` and `mask` as the LSTMs.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Linear, Readout, Sequential
    >>> model = Sequential(LSTM(3, 5), Readout(), Linear(5, 2))
    >>> model(np.zeros((7, 4, 3)), lengths=[7, 5, 1, 0])[0].shape
    (4, 2)
    """

    dtype = None  # that of the input
    needs_steps = True
    _read_only = (*Layer._read_only, "passes_on", "gives_steps", "num_outputs", "input_directions")

    def __init__(
        self,
        *,
        bidirectional: bool = False,
        go_backwards: bool = False,
        return_sequences: bool = False,
        zero_output_for_mask: bool = False,
        merge_mode: str | None = "concat",
        batch_first: bool = False,
    ) -> None:
        self.bidirectional = flag("bidirectional", bidirectional)
        self.go_backwards = flag("go_backwards", go_backwards)
        self.return_sequences = flag("return_sequences", return_sequences)
        self.zero_output_for_mask = flag("zero_output_for_mask", zero_output_for_mask)
        self.merge_mode = one_of("merge_mode", merge_mode, _MERGES)
        self.batch_first = flag("batch_first", batch_first)
        if self.bidirectional and self.go_backwards:
            raise ValueError("go_backwards: expected False with bidirectional=True, which already has such a direction")
        self.passes_on = self.return_sequences and not self.go_backwards and merge_mode == "concat"
        self.gives_steps = self.return_sequences
        self.input_directions = 2 if self.bidirectional else 1
        self.num_outputs = 2 if self.bidirectional and merge_mode is None else 1
        self.config = {
            "bidirectional": self.bidirectional,
            "go_backwards": self.go_backwards,
            "return_sequences": self.return_sequences,
            "zero_output_for_mask": self.zero_output_for_mask,
            "merge_mode": self.merge_mode,
            "batch_first": self.batch_first,
        }
        self._initialize({}, dict)

    def __call__(self, y: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None) -> Any:
        """Apply the layer to an LSTM's y.

        Parameters
        ----------
        y : array_like (T, B, D*H), (B, T, D*H) with batch_first, or (T, D*H)
            The output of an LSTM.
        lengths, mask :
            The arguments that the LSTM got; not both.

        Returns
        -------
        ndarray, or two of them if `merge_mode` is None
            With return_sequences in the layout of y; else (B, D*H), or (D*H,) for one sequence. Merged directions have
            H features, except with "concat".
        """
        if self.passes_on and lengths is None and mask is None:
            return self._checked(y)
        return self.forward(y, lengths=lengths, mask=mask)[0]

    def forward(
        self, y: ArrayLike, *, lengths: ArrayLike | None = None, mask: ArrayLike | None = None, rng: Seed = None
    ) -> tuple[Any, Tape]:
        """Apply the layer to an LSTM's y, for training.

        Parameters
        ----------
        y, lengths, mask :
            As in a call.
        rng : None, int or numpy.random.Generator
            Not used.

        Returns
        -------
        out : ndarray, or two of them
            As from a call.
        tape :
            For `backward`.
        """
        y = self._checked(y)
        valid = self._valid(y, lengths, mask)
        y = self._swap_axes(y)
        if self.bidirectional:
            steps = [self._steps(valid, False), self._steps(valid, True)[..., ::-1]]  # both in the order of time
        else:
            steps = [self._steps(valid, self.go_backwards)]
        selected = [self._select(half, which) for half, which in zip(np.split(y, len(steps), -1), steps, strict=True)]
        out = _MERGES[self.merge_mode][0](*selected) if self.bidirectional else selected[0]
        return out, self._tape(y.shape, steps, selected)

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Any, list[State]]:
        """Call the layer as a part of a model."""
        return self(x, lengths=steps.lengths, mask=steps.mask), []

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Tape]:
        """Do what `run` does by `forward`, and return the tape too."""
        y, tape = self.forward(x, lengths=steps.lengths, mask=steps.mask)
        return y, [], tape

    def _output_features(self, features: int | None) -> int | None:
        if features is None or not self.bidirectional or self.merge_mode == "concat":
            return features
        return features // 2

    def backward(self, tape: Tape, dy: Any) -> Gradients:
        """Propagate a gradient back through the forward pass that made `tape`.

        Parameters
        ----------
        tape :
            From `forward`.
        dy : array_like in the shape of the output, or two of them

        Returns
        -------
        Gradients
            `x`, the gradient of y.
        """
        shape, steps, selected = self._content_of(tape)
        if self.bidirectional and self.merge_mode is None:
            dys: Any = [float_array("dy", half, selected[0].dtype) for half in pair_of("dy", dy, "of arrays")]
        else:
            dys = float_array("dy", dy, selected[0].dtype)
            merged = _MERGES[self.merge_mode][0](*selected) if self.bidirectional else selected[0]
            expect_shape("dy", dys, merged.shape, "the shape of the output")
            dys = _MERGES[self.merge_mode][1](dys, *selected) if self.bidirectional else [dys]
        for half, expected in zip(dys, selected, strict=True):
            expect_shape("dy", half, expected.shape, "the shape of the output")
        gradient = np.zeros((*shape[:-2], shape[-2] + 1, shape[-1]), selected[0].dtype)
        for half, part, which in zip(dys, np.split(gradient, len(steps), -1), steps, strict=True):
            rows = *np.indices(which.shape)[:-1], which
            np.add.at(part, rows, self._swap_axes(half) if self.return_sequences else half[..., None, :])
        return Gradients(self._swap_axes(gradient[..., 1:, :]), None, {})

    def _checked(self, y: ArrayLike) -> Array:
        array = real_array("y", y)
        if array.dtype.kind != "f" or array.ndim not in (2, 3) or (self.bidirectional and array.shape[-1] % 2):
            raise ValueError(
                f"y: expected floats (T, B, D*H) or (T, D*H) from an LSTM, got {array.dtype} {array.shape}"
            )
        return array

    def _swap_axes(self, y: Array) -> Array:
        """Convert y from its layout to (..., T, features), or back."""
        return y if self.batch_first or y.ndim == 2 else y.swapaxes(0, 1)

    def _valid(self, y: Array, lengths: ArrayLike | None, mask: ArrayLike | None) -> Bools:
        """Return True where a step is valid, (B, T) or (T,)."""
        if lengths is not None and mask is not None:
            raise ValueError("mask: expected None together with lengths, got both")
        if mask is not None:
            mask = flag_array("mask", mask)
            expect_shape("mask", mask, y.shape[:-1], "the shape of y without its features")
            return mask if self.batch_first or mask.ndim == 1 else mask.T
        *rows, steps, _ = self._swap_axes(y).shape
        if lengths is None:
            return np.ones((*rows, steps), bool)
        lengths = check_lengths(lengths, rows[0] if rows else None, steps)
        return np.arange(steps) < lengths[..., None]

    def _steps(self, valid: Bools, backwards: bool) -> Ints:
        """Return for each output step its step of y, counted from 1; 0 for an output of zeros."""
        order = np.arange(1, valid.shape[-1] + 1)
        steps = np.where(valid[..., ::-1] if backwards else valid, order, 0)  # in the order of computation
        if not self.zero_output_for_mask:
            steps = np.maximum.accumulate(steps, axis=-1)
        if not self.return_sequences:
            steps = np.concatenate([np.zeros((*valid.shape[:-1], 1), np.intp), steps], axis=-1)[..., -1:]
        return np.where(steps > 0, len(order) + 1 - steps, 0) if backwards else steps

    def _select(self, y: Array, steps: Ints) -> Array:
        """Return the steps of y with these numbers, counted from 1; zeros for 0."""
        padded = np.concatenate([np.zeros_like(y, shape=(*y.shape[:-2], 1, y.shape[-1])), y], axis=-2)
        selected = np.take_along_axis(padded, steps[..., None], axis=-2)
        return self._swap_axes(selected) if self.return_sequences else selected[..., 0, :]


class Sequential(Composite):
    """A model that applies layers one after the other.

    Parameters
    ----------
    *layers : LSTM, Linear, Embedding, Dropout, Activation, Masking or Readout
        All of one dtype; its LSTMs and Readouts all batch_first, or none of them.

    Notes
    -----
    Parameters are named after the layer's index: "0.weight", "1.weight_ih_l0", ...

    One layer may be used at several indices. Its parameters then appear once, named after the first index, and their
    gradients are sums over all uses; each use of an LSTM has its own state. `config` and files describe the later uses
    by {"type": "Shared", "layer": first index}.

    An Embedding with `mask_zero`, or a Masking, makes the mask of padding for the later layers.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(10, 4), LSTM(4, 8), Linear(8, 10))
    >>> logits, states = model(np.zeros((5, 2), int))
    >>> logits.shape, len(states)
    ((5, 2, 10), 1)
    """

    is_model = True
    dtype: np.dtype[Any]
    _in_chains = False
    _read_only = (*Composite._read_only, "batch_first", "_batch_first", "_num_states")

    def __init__(self, *layers: Layer) -> None:
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer) or not layer._in_chains:
                raise TypeError(f"layers: expected LSTM, Linear, Embedding or the like, got {shown(layer)} at {index}")
        dtypes = {layer.dtype for layer in layers if layer.dtype is not None}
        if len(dtypes) > 1:
            raise ValueError(f"layers: expected one dtype, got {', '.join(sorted(map(str, dtypes)))}")
        layouts = {layer.batch_first for layer in layers if layer.batch_first is not None}
        if len(layouts) > 1:
            raise ValueError("layers: expected every LSTM and Readout with batch_first or none, got both")
        _check_chain(layers)
        self._parts = {str(index): layer for index, layer in enumerate(layers)}
        self.dtype = dtypes.pop() if dtypes else np.dtype("float32")
        self._batch_first = layouts.pop() if layouts else True
        self._num_states = sum(layer.num_states for layer in layers)
        self.config = {"layers": self._described()}
        self._is_built = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _chained, (type(self), self.layers), self._extra_attributes()

    def _described(self) -> list[dict[str, Any]]:
        """Return each layer's configuration or, for a second use with parameters, the index of the first use."""
        owners, described = self._owners(), []
        for index, layer in enumerate(self.layers):
            first = int(owners[id(layer)])
            shared = first < index and layer._parameters
            described.append(
                {"type": "Shared", "layer": first} if shared else {"type": type(layer).__name__, **layer.config}
            )
        return described

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in order."""
        return tuple(self._parts.values())

    @property
    def num_states(self) -> int:  # type: ignore[override]  # as many as its layers have
        """The number of pairs (h, c) that a call takes and returns."""
        return self._num_states

    @property
    def is_causal(self) -> bool:  # type: ignore[override]  # as its layers are
        """Whether the output of a step depends on no later step."""
        return all(layer.is_causal for layer in self.layers)

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # as its first layer has it
        """The number of tokens, where the input is tokens; None where it is numbers."""
        return next((layer.vocabulary_size for layer in self.layers if not layer.passes_on), None)

    @property
    def _input_features(self) -> int | None:
        return next((size for size in (layer._input_features for layer in self.layers) if size), None)

    @property
    def batch_first(self) -> bool:
        """Whether the batch axis of x comes first, as in its LSTMs and Readouts; True if there are none."""
        return self._batch_first

    def quantize(self, kind: Narrow, sample: ArrayLike | None = None) -> Sequential:
        """Return a model with narrow weights in its LSTMs, which shares the other layers with this one.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            As for `LSTM.quantize`.
        sample : array_like, or None
            An input of the model: each LSTM is measured on its input in this model. None: each LSTM is measured on
            standard normal numbers.

        Returns
        -------
        Sequential
            Its `report` is {index of the LSTM: its report}.

        Raises
        ------
        ValueError
            As in `LSTM.quantize`; or there is no LSTM.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 10, seed=0))
        >>> narrow = model.quantize("int8", sample=[1, 2, 3])
        >>> narrow.report[1]["sample"]
        'given, (3, 4)'
        """
        from .quantize import quantize_model

        return quantize_model(self, kind, sample)

    def __call__(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> tuple[Any, list[State]]:
        """Run the model, for inference.

        Parameters
        ----------
        x : array_like
            Tokens or features: the input of the first layer.
        states : None or list of (h0, c0)
            One for each LSTM, or None for zeros.
        lengths, mask, reset, threads :
            Passed to each LSTM; `lengths` and `mask` also to each Readout. Neither of these two may be given if an
            Embedding with `mask_zero`, or a Masking, makes the mask.

        Returns
        -------
        out : ndarray
            A pair of them after a Readout that does not merge directions.
        states : list of (h_n, c_n)
            One for each LSTM.
        """
        states = self.pairs_of("states", states)
        self._check_mask(lengths, mask)
        x, finals, _ = run_layers(self.layers, x, states, Steps(lengths, mask, reset, threads))
        return x, finals

    def forward(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
        rng: Seed = None,
    ) -> tuple[Any, list[State], Tape]:
        """Run the model, for training: with dropout, and with a tape for `backward`.

        Parameters
        ----------
        x, states, lengths, mask, reset, threads :
            As in a call.
        rng : None, int or numpy.random.Generator
            Seed or source of the dropout masks; None for a new random seed.

        Returns
        -------
        out, states :
            As from a call.
        tape : Tape
            For `backward`, until the parameters change.
        """
        states = self.pairs_of("states", states)
        self._check_mask(lengths, mask)
        if rng is not None:  # else each layer with dropout makes its own generator
            rng = generator("rng", rng)
        steps = Steps(lengths, mask, reset, threads)
        finals: list[State] = []
        tapes: list[Any] = []
        for layer in self.layers:
            if layer.masks:
                steps = steps._replace(mask=layer.valid(x))
            given = states[len(finals) : len(finals) + layer.num_states]
            x, new, kept = layer.run_forward(x, given, steps, rng)
            finals += new
            tapes.append(kept)
        return x, finals, self._tape(*tapes)

    def backward(self, tape: Tape, dy: Any = None, dstates: Sequence[Any] | None = None) -> Gradients:
        """Propagate gradients back through the forward pass that made `tape`.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dy : array_like in the output's shape, or None
            None if only final states have gradients; the last layer must then be an LSTM.
        dstates : None or list of (dh_n, dc_n) or None
            One for each LSTM.

        Returns
        -------
        Gradients
            `x`, None if the model starts with an Embedding; `state`, a list of (dh0, dc0); `parameters` with the
            model's names.
        """
        tapes = self._content_of(tape)
        dstates = self.pairs_of("dstates", dstates)
        if dy is None and not self.layers[-1].num_states:
            last = type(self.layers[-1]).__name__
            raise ValueError(f"dy: expected an array, because the last layer is {last}, got None")
        parameters: list[tuple[str, Parameters]] = []
        initial: list[Any] = []
        for (part, layer), kept in reversed([*zip(self._parts.items(), tapes, strict=True)]):
            first = len(dstates) - layer.num_states
            gradients = layer.run_backward(kept, dy, dstates[first:])
            del dstates[first:]
            initial[:0] = gradients.state or []
            parameters.append((part, gradients.parameters))
            dy = gradients.x
        return Gradients(dy, initial, self._summed(parameters))

    def trace(
        self,
        x: ArrayLike,
        states: Sequence[StateLike | None] | None = None,
        lengths: ArrayLike | None = None,
        layer: int = -1,
        direction: int = 0,
        *,
        mask: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        threads: int | None = None,
    ) -> GateTrace:
        """Run the model over x, as a call does, and return the values of all gates of one layer of its LSTMs.

        Parameters
        ----------
        x, states, lengths :
            As in a call.
        layer : int
            Counts the layers of all LSTMs of the model, in order, from 0; a negative one counts from the last.
        direction : int
            0, or 1 for the second of a bidirectional LSTM.
        mask, reset, threads :
            As in a call.

        Returns
        -------
        GateTrace
            Its arrays are, to the bit, those that a call computes.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong; the message names it. Or there is no LSTM.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4), LSTM(4, 8, seed=0), Linear(8, 10))
        >>> model.trace([1, 2, 3]).forget.shape
        (3, 8)
        """
        from .trace import trace_model

        return trace_model(self, x, states, lengths, layer, direction, mask, reset, threads)

    def stepper(self, batch_size: int = 1) -> Stepper:
        """Return a Stepper, which runs this model step by step, with its present weights and states of zeros.

        Parameters
        ----------
        batch_size : int
            B, the number of streams that step together.

        Returns
        -------
        Stepper
            Its `state` is a list with one (h, c) for each LSTM.

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not a positive integer; an LSTM is bidirectional or reverse; an Embedding is not the first
            layer; the sizes of two successive layers differ.

        Examples
        --------
        >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
        >>> model = Sequential(Embedding(10, 4, seed=0), LSTM(4, 8, seed=0), Linear(8, 10, seed=0))
        >>> stepper = model.stepper()
        >>> token = 3
        >>> for _ in range(5):
        ...     token = int(stepper.step(token).argmax())
        """
        from .stepper import Stepper

        return Stepper(self, batch_size)

    def _check_mask(self, lengths: ArrayLike | None, mask: ArrayLike | None) -> None:
        """Raise if lengths or a mask is given and a layer makes the mask."""
        for index, layer in enumerate(self.layers):
            if layer.masks and (lengths is not None or mask is not None):
                name = type(layer).__name__
                raise ValueError(f"lengths, mask: expected None, because the {name} at {index} makes the mask")

    def _outputs(self) -> list[str]:
        axes: tuple[str, ...] = ("...",)
        if any(layer.batch_first is not None for layer in self.layers):
            axes = ("B", "T") if self.batch_first else ("T", "B")
        features, outputs = None, []
        for layer in self.layers:
            features = layer._output_features(layer._input_features or features)
            if not layer.gives_steps:
                axes = ("B",)
            outputs.append(f"({', '.join([*axes, or_unknown(features)])})")
        return outputs

    def __repr__(self) -> str:
        kind, layers = type(self).__name__, [repr(layer) for layer in self.layers]
        line = f"{kind}({', '.join(layers)})"
        return line if len(line) <= LONGEST else "\n".join([f"{kind}(", *(f"    {layer}," for layer in layers), ")"])


def _chained(kind: type[Sequential], layers: tuple[Layer, ...]) -> Sequential:
    """Make a model of this class from `layers`, without calling the class's own constructor."""
    model = kind.__new__(kind)
    Sequential.__init__(model, *layers)
    return model


def run_layers(
    layers: Sequence[Layer], x: Any, states: Sequence[StateLike | None], steps: Steps
) -> tuple[Any, list[State], Steps]:
    """Call layers one after the other; return the output, the new states, and `steps` with the layers' mask.

    `states` has a pair or None for each state of the layers, in order.
    """
    finals: list[State] = []
    for layer in layers:
        if layer.masks:
            steps = steps._replace(mask=layer.valid(x))
        x, new = layer.run(x, list(states[len(finals) : len(finals) + layer.num_states]), steps)
        finals += new
    return x, finals, steps


def _check_chain(layers: Sequence[Layer]) -> None:
    """Raise if the output of a layer does not fit the next layer."""
    sequences, features = True, None
    for index, layer in enumerate(layers):
        kind = type(layer).__name__
        if layer.needs_steps and not sequences:
            raise ValueError(f"layers: expected a sequence as input of {kind} at {index}, got one step")
        if layer.vocabulary_size is not None and not all(before.passes_on for before in layers[:index]):
            raise ValueError(f"layers: expected an {kind} to come first, got one at {index}")
        if layer.num_outputs > 1 and index < len(layers) - 1:
            raise ValueError(f"layers: expected a {kind} of two arrays to come last, got it at {index}")
        if (features or 0) % layer.input_directions:
            raise ValueError(f"layers: expected two directions as input of {kind} at {index}, got {features} units")
        if layer._input_features is not None and features not in (None, layer._input_features):
            raise ValueError(f"layers: expected {features} inputs of layer {index}, got {layer._input_features}")
        sequences = sequences and layer.gives_steps
        features = layer._output_features(features)
