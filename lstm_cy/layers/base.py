"""The base class of layers: named parameters, which callers get read-only and which are replaced as a whole."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._kernels.rowwise import RowPart
from ..checks import DTYPES, flag, float_array, generator, real_array, shown
from ..notebook import html_table
from ..printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from typing import NoReturn, Self

    from ..typing import Array, ArrayLike, Bools, DTypeLike, Narrow, Parameters, Seed, State, StateLike

#: Above this number of parameter bytes an allocation is tried before any parameter is drawn.
_LARGE = 1 << 30
#: the header of a summary
_COLUMNS = ("", "layer", "output", "parameters", "bytes")
#: the largest number of state dict faults that one message lists
_MOST_LISTED = 1000


class Gradients(NamedTuple):
    """The result of a backward pass.

    Attributes
    ----------
    x : ndarray or None
        Gradient with respect to the input, in its shape; None where the input is not differentiable (tokens).
    state : tuple, list or None
        (dh0, dc0) of an LSTM; a list with one such pair for each LSTM of a Sequential; else None.
    parameters : dict
        One array for each parameter, under its name.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import Linear
    >>> y, tape = (linear := Linear(3, 2, seed=0)).forward(np.ones((5, 3)))
    >>> gradients = linear.backward(tape, np.ones((5, 2)))
    >>> gradients.x.shape, sorted(gradients.parameters)
    ((5, 3), ['bias', 'weight'])
    """

    x: Array | None
    state: Any
    parameters: Parameters


class Steps(NamedTuple):
    """What a model passes to each of its layers besides the input.

    Attributes
    ----------
    lengths, mask, reset :
        As in a call of an LSTM. A layer with `masks` sets the mask of the layers that follow it.
    threads : int or None
    """

    lengths: ArrayLike | None = None
    mask: ArrayLike | None = None
    reset: ArrayLike | None = None
    threads: int | None = None


class Stage(NamedTuple):
    """How a layer is run step by step.

    Attributes
    ----------
    inputs, outputs : int
        Numbers of a row that the step takes and gives; the inputs of a stage that takes tokens are their number.
    kernel : Network, Affine, Skip, RowPart or ndarray
        What runs the step: the kernels of an LSTM or a Linear, the skip of a Residual, a layer without recurrent
        weights, or the table of an Embedding.
    """

    inputs: int
    outputs: int
    kernel: Any


class Tape:
    """The arrays that a forward pass keeps for the `backward` of the same layer; it cannot be changed."""

    __slots__ = ("_held",)

    _held: tuple[type[Layer], dict[str, Any], object, tuple[Any, ...]]

    def __init__(self, layer: Layer, made_with: object, content: tuple[Any, ...]) -> None:
        object.__setattr__(self, "_held", (type(layer), layer._config, made_with, content))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name}: a tape cannot be changed; run forward again")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: a tape cannot be changed; run forward again")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "tape: it cannot be pickled, because it belongs to a layer of this process; run forward again there"
        )


class Layer:
    """A layer: named parameters, and a configuration from which the layer can be rebuilt.

    The parameters are one snapshot, which is replaced as a whole and never written to. A call that runs while they are
    replaced uses the old ones to its end, and a stale tape can be recognised.

    Sizes and options are read-only after the constructor has ended. A subclass may have attributes of its own. A
    subclass whose constructor takes other arguments overrides the property `config`.

    Parameters
    ----------
    parameters : mapping of str to array_like
        The initial parameters, all of float32 or all of float64, which becomes the layer's dtype; they are copied. None
        for a layer without parameters, which takes input of any dtype.
    config : mapping of str to object
        The arguments of the subclass's constructor, in types that JSON can hold: files and pickles rebuild the layer
        from them. Each becomes a read-only attribute.

    Raises
    ------
    TypeError
        The parameters are not all of float32 or all of float64.

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Gradients, Layer, Sequential
    >>> class Double(Layer):
    ...     def __call__(self, x):
    ...         return 2 * x
    ...
    ...     def forward(self, x, rng=None):
    ...         return 2 * x, None
    ...
    ...     def backward(self, tape, dy):
    ...         return Gradients(2 * dy, None, {})
    >>> lstm = LSTM(3, 4, seed=0)
    >>> x = np.ones((5, 3))
    >>> np.array_equal(Sequential(lstm, Double())(x)[0], 2 * lstm(x)[0])
    True
    """

    # What a Sequential, fit, stepping, saving, quantising, tracing and scoring ask a layer. A subclass overrides what
    # differs.
    #: whether it has one input, so that it can be in a Sequential
    in_chains = True
    #: whether it is a model of its own: a call takes states, lengths and threads too, and returns (output, states)
    is_model = False
    #: the number of pairs (h, c) that a call takes and returns
    num_states = 0
    #: the number of layers whose gates `trace` can show
    num_traced = 0
    #: the layout of its sequences: True for (B, T, ...), False for (T, B, ...), None for any
    batch_first: Any = None
    #: the number of tokens, where the input is tokens; None where it is numbers with an axis of features
    vocabulary_size: int | None = None
    #: whether the input needs an axis of steps, and whether the output still has one
    needs_steps, gives_steps = False, True
    #: whether the output has an axis of steps that the input need not have
    begins_steps = False
    #: the number of directions side by side in the features of the input, and the number of arrays of the output
    input_directions, num_outputs = 1, 1
    #: whether an inference call returns its input
    passes_on = False
    #: whether its input is added to the output of its parts, by `plus_input`
    adds_input = False
    #: the name, alpha and beta of the function that it is, as an Activation has them; None for any other layer
    function: tuple[str, float | None, float | None] | None = None
    #: whether the output of a step depends on no later step
    is_causal = True
    #: whether `valid`, called with the layer's input, marks the steps that are not padding
    masks = False
    #: the names of parameters that optimizers leave as they are; `backward` need not return their gradients
    frozen_parameters: Collection[str] = ()
    #: the layer whose weight this one uses as its own, or None
    tied: Layer | None = None
    dtype: np.dtype[Any] | None
    _config: dict[str, Any]
    _parameters: Parameters = {}  # noqa: RUF012 (never written to)
    _is_blank = False
    _is_built = False
    #: read-only attributes besides those that `config` names
    _read_only: tuple[str, ...] = ("config", "dtype", "masks", "parameters", "_config", "_parameters", "_is_built")
    #: the file's metadata, set by `load`, and the measured errors, set by `quantize`; not every layer has them
    metadata: dict[str, Any]
    report: dict[Any, Any] | None

    if TYPE_CHECKING:  # every layer has these methods, with its own arguments and results

        def __call__(self, *args: Any, **keywords: Any) -> Any: ...
        def forward(self, *args: Any, **keywords: Any) -> Any: ...
        def backward(self, *args: Any, **keywords: Any) -> Any: ...
        def valid(self, x: ArrayLike) -> Bools: ...
        def trace(self, *args: Any, **keywords: Any) -> Any: ...
        def plus_input(self, *args: Any, **keywords: Any) -> Any: ...

    def __init__(
        self,
        parameters: Mapping[str, ArrayLike] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        arrays = {name: real_array(f"parameters[{name!r}]", array) for name, array in (parameters or {}).items()}
        dtypes = {array.dtype for array in arrays.values()}
        if len(dtypes) > 1 or not dtypes <= set(map(np.dtype, DTYPES)):
            found = ", ".join(sorted(map(str, dtypes)))
            raise TypeError(f"parameters: expected all of float32 or all of float64, got {found}")
        self.dtype = dtypes.pop() if dtypes else None
        self.config = _copied(dict(config or {}))
        for name, value in self._config.items():
            setattr(self, name, value)
        shapes = {name: array.shape for name, array in arrays.items()}
        self._initialize(shapes, lambda: {name: np.array(array, order="C") for name, array in arrays.items()})

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that run one after the other: of a Sequential those it is made of, else the layer itself."""
        return (self,)

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layers that this layer is made of, in order; none if it is not made of layers."""
        return ()

    @classmethod
    def least_size(cls, arguments: dict[str, Any]) -> int:
        """Return the least number of weights of a layer with these arguments, from a file, without making it."""
        return 0

    @classmethod
    def cost(cls, arguments: dict[str, Any]) -> int:
        """Return the number of objects that a layer with these arguments, from a file, is made of, roughly."""
        return 24

    def steps_of(self, x: Any, steps: Steps) -> Steps:
        """Return the arguments for this layer and those after it in a model, in which x is this layer's input."""
        return steps._replace(mask=self.valid(x)) if self.masks else steps

    def run(self, x: Any, states: list[StateLike | None], steps: Steps) -> tuple[Any, list[State]]:
        """Call the layer as a part of a model.

        Parameters
        ----------
        x : array_like
            The output of the layer before.
        states : list of (h0, c0) or None
            One entry for each of `num_states`, None for zeros.
        steps : Steps
            The arguments lengths, mask, reset and threads of the model's call.

        Returns
        -------
        y : ndarray
        states : list of (h_n, c_n)
        """
        return self(x), []

    def run_forward(
        self, x: Any, states: list[StateLike | None], steps: Steps, rng: Seed
    ) -> tuple[Any, list[State], Any]:
        """Call `forward` as a part of a model.

        Parameters
        ----------
        x, states, steps :
            As for `run`.
        rng : None, int or numpy.random.Generator
            As for `forward`.

        Returns
        -------
        y, states :
            As from `run`.
        tape : object
            For `run_backward`.
        """
        y, tape = self.forward(x, rng=rng)
        return y, [], tape

    def run_backward(self, tape: Any, dy: Any, dstates: list[Any]) -> Gradients:
        """Call `backward` as a part of a model.

        Parameters
        ----------
        tape : object
            From `run_forward`.
        dy : ndarray or None
            The gradient of the loss with respect to y.
        dstates : list of (dh_n, dc_n) or None
            One entry for each of `num_states`.

        Returns
        -------
        Gradients
            Its `state` is a list of (dh0, dc0), or None for a layer without states.
        """
        gradients: Gradients = self.backward(tape, dy)
        return gradients

    def partial_backward(self, tape: Any, dy: Any, names: Collection[str]) -> Gradients:
        """Propagate a gradient back as a part of a model of which not all parameters are trained.

        Parameters
        ----------
        tape : object
            From `run_forward`.
        dy : ndarray
        names : collection of str
            Names of parameters of this layer. The gradients of others may be left out.

        Returns
        -------
        Gradients
            As from `run_backward`; its `state` may be None.
        """
        return self.run_backward(tape, dy, [None] * self.num_states)

    def parameter_gradients(self, tape: Any, dy: Any, names: Collection[str]) -> Parameters:
        """Return the gradients of some parameters, without those of the input and the states.

        In a Sequential the layers before the first that has one of these parameters are not run, and the gradient of
        the input of that layer is not computed. Of the layers after it, LSTM, Linear and Conv1D compute only the
        gradients of the weights that are requested.

        Parameters
        ----------
        tape : object
            From `forward`.
        dy : array_like in the output's shape
        names : collection of str
            Names of parameters, such as `Optimizer.trained`.

        Returns
        -------
        dict of str to ndarray
            The same bits as from `backward`.

        Examples
        --------
        >>> import numpy as np
        >>> from lstm_cy import LSTM, Adam, Linear, Sequential
        >>> model = Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=0))
        >>> optimizer = Adam(model, frozen="0.*")
        >>> y, _, tape = model.forward(np.ones((5, 1, 3)))
        >>> sorted(model.parameter_gradients(tape, np.ones_like(y), optimizer.trained))
        ['1.bias', '1.weight']
        """
        gradients = self.partial_backward(tape, dy, names)
        return {name: array for name, array in gradients.parameters.items() if name in names}

    def _goes_back_as(self, kind: type[Layer]) -> bool:
        """Return whether `backward` is that of `kind`, and no method of a subclass or of a user."""
        return getattr(self.backward, "__func__", None) is kind.backward

    def stage(self) -> Stage:
        """Return how one step is run.

        Returns
        -------
        Stage
            The stage of an LSTM, a Linear or an Embedding, which a layer of one's own may use as its own.

        Raises
        ------
        ValueError
            The layer cannot run step by step.
        """
        raise ValueError(f"expected LSTM, Linear, Residual, Dropout or Embedding without mask_zero, got {self!r}")

    def stages(self) -> list[Stage]:
        """Return how one step is run, in several stages one after the other; raise as `stage` does."""
        return [self.stage()]

    def stages_for(self, features: int | None, masked: bool) -> list[Stage]:
        """Return how one step of rows with this number of features is run; raise as `stage` does.

        Parameters
        ----------
        features : int or None
            Numbers of a row; None where unknown.
        masked : bool
            Whether a layer before marks steps as padding.

        Returns
        -------
        list of Stage
            Those of `stages`; none if a step passes unchanged.
        """
        return [] if self.passes_on else self.stages()

    def quantized(self, kind: Narrow, sample: ArrayLike | None) -> Layer:
        """Return this layer with narrow weights, measured on `sample`; itself where it has none to make narrow."""
        return self

    def take_metadata(self, other: Layer) -> None:
        """Take a copy of the metadata of `other`, if it has any."""
        if hasattr(other, "metadata"):
            self.metadata = dict(other.metadata)

    def pairs_of(self, name: str, states: Any) -> list[Any]:
        """Check the argument `name`, the states of a call, and return one entry for each pair, None for zeros."""
        if states is None:
            return [None] * self.num_states
        if not isinstance(states, list | tuple) or len(states) != self.num_states:
            raise ValueError(f"{name}: expected a list of {self.num_states}, one for each LSTM, got {shown(states)}")
        return list(states)

    def states_of(self, pairs: list[Any]) -> Any:
        """Return the states of a call from one entry for each pair."""
        return pairs

    def __setattr__(self, name: str, value: object) -> None:
        self._check_assignable(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_assignable(name)
        super().__delattr__(name)

    def _check_assignable(self, name: str) -> None:
        """Raise if `name` is an attribute with which the weights and the kernels were made."""
        if self._is_built and (name in self._read_only or name in self._config):
            kind = type(self).__name__
            raise AttributeError(
                f"{name}: read-only, because this {kind} was built with it; build a new {kind} instead"
            )

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments, in types that JSON can hold; a new copy on each access."""
        config: dict[str, Any] = _copied(self._config)
        return config

    @config.setter
    def config(self, config: dict[str, Any]) -> None:
        self._config = config

    @classmethod
    def blank(cls, *sizes: Any, **options: Any) -> Self:
        """Make a layer without drawing or packing parameters; `load_state_dict` or `restore` must set all of them.

        Until then it has their names, shapes and dtypes, and cannot be called.
        """
        layer = cls.__new__(cls)
        layer._is_blank = True
        layer.__init__(*sizes, **options)  # type: ignore[misc]  # a subclass may have other arguments
        del layer._is_blank
        return layer

    def _generator(self, seed: Seed) -> Any:
        """Return the generator that draws the initial parameters; None for a blank layer, which needs no import."""
        return None if self._is_blank else generator("seed", seed)

    def _initialize(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        draw: Callable[[], Parameters],
        dtypes: Mapping[str, DTypeLike] | None = None,
    ) -> None:
        """Set the initial parameters, {name: array} from `draw` or, for a blank layer, only `shapes`; end building.

        `dtypes`, {name: dtype}, has the entries that differ from the layer's dtype.
        """
        self._check_sizes(shapes)
        if self._is_blank:
            self._parameters = {
                name: np.broadcast_to(np.zeros((), (dtypes or {}).get(name, self.dtype)), shape)
                for name, shape in shapes.items()
            }
        else:
            self._adopt(draw())
        self._is_built = True

    def _check_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise at once if there cannot be memory for parameters of these shapes."""
        numbers = sum(math.prod(shape) for shape in shapes.values())
        itemsize = 0 if self.dtype is None else self.dtype.itemsize
        kind, size = type(self).__name__, numbers * itemsize
        if size > sys.maxsize:
            raise ValueError(f"{kind}: expected parameters that fit in memory, got sizes for {numbers} numbers")
        if size > _LARGE and not self._is_blank:
            try:
                np.empty(size, np.uint8)  # never written to: the allocation alone shows if it fits
            except MemoryError:
                raise MemoryError(f"{kind}: no memory for its {numbers} parameters, {size} bytes") from None

    @property
    def parameters(self) -> Parameters:
        """The current parameters, {name: read-only array}. Change them with `load_state_dict`."""
        return dict(self._parameters)

    def state_dict(self) -> Parameters:
        """Return copies of the parameters, under PyTorch's names.

        Returns
        -------
        dict of str to ndarray
            The caller may change them.
        """
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, mapping: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Replace the parameters by those in `mapping`.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Arrays in the parameters' shapes; they are copied and converted to the layer's dtype.
        strict : bool
            If False, missing and unknown names are ignored. Shapes are always checked.

        Raises
        ------
        KeyError
            Names are missing or unknown; all of them, and all wrong shapes, are listed.
        TypeError
            `mapping` is not a mapping, or an array does not hold real numbers.
        ValueError
            Shapes are wrong; all of them are listed. Or a finite number is too large for the layer's dtype.

        After any error the layer is unchanged.
        """
        strict = flag("strict", strict)
        self._check_writable()
        self._adopt({name: array.copy() for name, array in self._fitting(mapping, self._parameters, strict).items()})

    def _fitting(self, mapping: Mapping[str, ArrayLike], current: Parameters, strict: bool) -> Parameters:
        """Return the arrays of `mapping` whose names `current` has, in its dtypes; raise as `load_state_dict` does."""
        if not isinstance(mapping, Mapping):
            raise TypeError(f"state_dict: expected a mapping {{name: array}}, got {type(mapping).__name__}")
        names = [name for name in current if name in mapping]
        given = {name: float_array(name, mapping[name], current[name].dtype) for name in names}
        names = [f"missing: {name} {array.shape}" for name, array in current.items() if name not in given]
        names += [f"unknown: {name}" for name in mapping if name not in current]
        shapes = _misshaped(given, current)
        if strict and names:
            raise KeyError(f"state_dict does not fit {type(self).__name__}: {_listed(names + shapes)}")
        if shapes:
            raise ValueError(f"state_dict does not fit {type(self).__name__}: {_listed(shapes)}")
        return given

    def replace_parameters(self, arrays: Mapping[str, Array]) -> None:
        """Replace parameters by the given arrays, without a copy if that is safe; for optimizers.

        Parameters
        ----------
        arrays : mapping of str to ndarray
            In the parameters' shapes and dtype; they become read-only and belong to the layer. Arrays that do not own
            their memory, or are not C-contiguous, are copied. The other parameters stay.

        Raises
        ------
        KeyError
            A name is unknown.
        TypeError
            `arrays` is not a mapping, or one of them is not an array or has another dtype.
        ValueError
            Shapes are wrong; all of them are listed.

        After any error the layer is unchanged.
        """
        self._check_writable()
        if not isinstance(arrays, Mapping):
            raise TypeError(f"arrays: expected a mapping {{name: array}}, got {type(arrays).__name__}")
        current, given = self._parameters, {}
        unknown = [str(name) for name in arrays if name not in current]
        if unknown:
            raise KeyError(f"arrays do not fit {type(self).__name__}: unknown: {_listed(unknown)}")
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype != current[name].dtype:
                got = f"dtype {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"{name}: expected an array of dtype {current[name].dtype}, got {got}")
            given[name] = array
        shapes = _misshaped(given, current)  # before an array of a wrong size is copied
        if shapes:
            raise ValueError(f"arrays do not fit {type(self).__name__}: {_listed(shapes)}")
        for name, array in given.items():
            if type(array) is not np.ndarray or not (array.flags.owndata and array.flags.carray):  # most do
                given[name] = np.require(float_array(name, array, array.dtype), requirements=["C", "A", "O"])
        self._adopt(given)

    def stored(self) -> Parameters:
        """Return the arrays that a file holds, {name: read-only array}; narrow weights are in their narrow form."""
        return dict(self._parameters)

    def restore(self, arrays: Parameters, copy: bool = True) -> None:
        """Set the arrays that `stored` returns; raise as `load_state_dict` does, and for another kind of dtype.

        Without `copy` they belong to the layer from then on, and nothing else may write to them.
        """
        current = self.stored()
        wrong = [
            f"{name}: expected {current[name].dtype}, got {array.dtype}"
            for name, array in arrays.items()
            if name in current and array.dtype.kind != current[name].dtype.kind
        ]
        if wrong:
            raise ValueError(f"arrays do not fit {type(self).__name__}: " + "; ".join(wrong))
        arrays = self._fitting(arrays, current, True)
        self._adopt({name: array.copy() for name, array in arrays.items()} if copy else arrays)

    @property
    def input_features(self) -> int | None:
        """The number of input features; None if any number fits."""
        return None

    def output_features(self, features: int | None) -> int | None:
        """Return the number of output features for this number of input features; None where unknown."""
        return None

    def _check_writable(self) -> None:
        """Raise if the parameters cannot be changed."""

    def _adopt(self, arrays: Parameters) -> None:
        """Set parameters to arrays that have been checked; they become read-only."""
        views = {}
        for name, array in arrays.items():
            array.flags.writeable = False
            views[name] = array.view()  # a view cannot be made writable, because its base is not
        parameters = {**self._parameters, **views}
        # One operation, so that a thread that copies the layer meanwhile gets matching parameters and packed weights.
        self.__dict__.update(_parameters=parameters, **self._packed(parameters))

    def _packed(self, parameters: Parameters) -> dict[str, Any]:
        """Return the attributes that the kernels need and that are made from the parameters, such as packed weights."""
        return {}

    def _tape(self, *content: Any, made_with: object = None) -> Tape:
        """Return a tape; `made_with` is an object that the layer replaces when its parameters change."""
        return Tape(self, made_with, content)

    def _content_of(self, tape: Tape, current: object = None) -> tuple[Any, ...]:
        """Return a tape's content; raise unless this layer made it with `current`, the layer's present `made_with`."""
        name = type(self).__name__
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a tape of {name}.forward, got {type(tape).__name__}")
        kind, config, made_with, content = tape._held
        if kind is not type(self):
            raise TypeError(f"tape: expected a tape of {name}.forward, got one of {kind.__name__}.forward")
        if made_with is not current and config is self._config:
            raise RuntimeError(
                "tape: the parameters have changed since the forward pass that made it; run forward again"
            )
        if made_with is not current or config != self._config:
            raise ValueError(f"tape: expected a tape of this {name}, got one of another {name}")
        return content

    def __copy__(self) -> Self:
        """Return a layer that shares this one's parameters until those of one of the two are replaced."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle or deep-copy: the layer is rebuilt, and its weights are packed for the machine that loads it."""
        return _rebuilt, (type(self), self.config, self.stored()), self._extra_attributes()

    def _extra_attributes(self) -> dict[str, Any]:
        """The attributes that our constructors do not make: metadata, report, and those of a subclass or of users."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in self._read_only and name not in self._config
        }

    def arguments(self) -> dict[str, Any]:
        """Return the constructor arguments, {name: value}, that have no default or differ from it."""
        config, required = self.config, set(self._required())
        try:
            usual = type(self).blank(**{name: config[name] for name in required}).config
        except (KeyError, TypeError, ValueError):  # a subclass whose constructor has other arguments
            return config
        return {name: value for name, value in config.items() if name in required or value != usual.get(name)}

    def _required(self) -> dict[str, bool]:
        """Return the constructor's arguments without defaults, {name: whether it may be positional}."""
        from inspect import Parameter, signature

        kinds = {Parameter.POSITIONAL_ONLY: True, Parameter.POSITIONAL_OR_KEYWORD: True, Parameter.KEYWORD_ONLY: False}
        found = signature(type(self)).parameters.values()
        return {one.name: kinds[one.kind] for one in found if one.default is one.empty and one.kind in kinds}

    def __repr__(self) -> str:
        if "_config" not in vars(self):  # the constructor has not ended
            return super().__repr__()
        required = self._required()
        given = [repr(value) if required.get(name) else f"{name}={value!r}" for name, value in self.arguments().items()]
        return f"{type(self).__name__}({', '.join(given)})"

    def summary(self) -> None:
        """Print a table of the layers: output shape, number of parameters and their bytes.

        T steps, B rows; S source steps of a Seq2Seq. The second and later uses of a layer count no parameters. A
        notebook shows the same table for a model at the end of a cell.
        """
        lines = [_COLUMNS, *self._summary_rows()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = [
                cell.rjust(width) if column > 2 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            print("  ".join(cells).rstrip())

    def _repr_html_(self) -> str:
        return html_table(type(self).__name__, self._summary_rows(), _COLUMNS)

    def _summary_rows(self) -> list[tuple[str, ...]]:
        """Return the lines of `summary` below its header; the totals come last."""
        rows = self._layer_rows()
        rows.append(("", "total", "", sum(row[3] for row in rows), sum(row[4] for row in rows)))
        return [(*map(printable, row[:3]), *(f"{number:,}" for number in row[3:])) for row in rows]

    def _layer_rows(self) -> list[tuple[str, str, str, int, int]]:
        """Return (name, layer, output, parameters, bytes) for each layer inside this one."""
        features = self.output_features(self.input_features)
        return [("", repr(self), f"(..., {or_unknown(features)})", *self._size())]

    def _size(self) -> tuple[int, int]:
        """Return the number of parameters and their bytes."""
        arrays = self.stored().values()
        return sum(array.size for array in arrays), sum(array.nbytes for array in arrays)


class Composite(Layer):
    """A layer made of layers, whose parameters it has under the names "<part>.<parameter>".

    One layer may be several of the parts; its parameters then appear once, under the name of its first use. A subclass
    sets `_parts`, {name: layer}, before it uses any method of this class.
    """

    _parts: dict[str, Layer]
    in_chains = False
    _read_only = (*Layer._read_only, "_parts")

    def _owners(self) -> dict[int, str]:
        """Return {id of a layer: the name of its first use}, in order."""
        owners: dict[int, str] = {}
        for part, layer in self._parts.items():
            owners.setdefault(id(layer), part)
        return owners

    @property
    def _parameters(self) -> Parameters:  # type: ignore[override]  # the parts hold them
        return self._named(lambda layer: layer.parameters)

    @property
    def frozen_parameters(self) -> list[str]:  # type: ignore[override]  # those of the parts
        """The names of parameters that optimizers leave as they are."""
        owners = self._owners().values()
        return [f"{part}.{name}" for part in owners for name in self._parts[part].frozen_parameters]

    def stored(self) -> Parameters:
        """Return the arrays that a file holds, {name: read-only array}; narrow weights are in their narrow form."""
        return self._named(lambda layer: layer.stored())

    def _named(self, arrays_of: Callable[[Layer], Parameters]) -> Parameters:
        """Return the arrays that `arrays_of` returns for each layer, under the model's names."""
        return {
            f"{part}.{name}": array
            for part in self._owners().values()
            for name, array in arrays_of(self._parts[part]).items()
        }

    def _names_of(self, part: str, owners: dict[int, str], names: Collection[str]) -> list[str]:
        """Return which parameters of this part, or of the layer to which it is tied, are in `names`, by own names."""
        layer = self._parts[part]
        return [
            name
            for owner in (layer, layer.tied)
            if owner is not None
            for name in owner._parameters
            if f"{owners[id(owner)]}.{name}" in names
        ]

    def _summed(self, gradients: Iterable[tuple[str, Parameters]]) -> Parameters:
        """Return the gradients of all parts under the model's names, summed over the uses of each layer."""
        owners, total = self._owners(), dict.fromkeys(self._parameters)
        for part, own in gradients:
            layer = self._parts[part]
            for name, array in own.items():
                owner = layer if name in layer._parameters else layer.tied
                name = f"{owners[id(owner)]}.{name}"
                so_far = total[name]
                if so_far is not None:
                    with np.errstate(over="ignore", invalid="ignore"):  # the sum itself shows infinity and NaN
                        array = so_far + array
                total[name] = array
        return {name: array for name, array in total.items() if array is not None}

    def _check_writable(self) -> None:
        for layer in self._parts.values():
            layer._check_writable()

    def _adopt(self, arrays: Parameters) -> None:
        """Set the parameters of each part to its arrays."""
        own: dict[str, Parameters] = {}
        for name, array in arrays.items():
            part, _, inside = name.partition(".")
            own.setdefault(part, {})[inside] = array
        for part in self._owners().values():
            if part in own:
                self._parts[part]._adopt(own[part])

    def _layer_rows(self) -> list[tuple[str, str, str, int, int]]:
        owners, rows = self._owners(), []
        for (part, layer), output in zip(self._parts.items(), self._outputs(), strict=True):
            first = owners[id(layer)]
            own = first == part or not layer._parameters
            rows.append((part, repr(layer) if own else f"as {first}", output, *(layer._size() if own else (0, 0))))
        return rows

    def _outputs(self) -> list[str]:
        """Return the output shapes of the parts, for `summary`."""
        raise NotImplementedError

    def __copy__(self) -> Self:
        other = super().__copy__()
        copies = {id(layer): copy(layer) for layer in self._parts.values()}
        for layer in copies.values():
            if layer.tied is not None:
                vars(layer)["tied"] = copies[id(layer.tied)]
        vars(other)["_parts"] = {part: copies[id(layer)] for part, layer in self._parts.items()}
        return other


def run_layers(
    layers: Sequence[Layer], x: Any, states: Sequence[StateLike | None], steps: Steps
) -> tuple[Any, list[State], Steps]:
    """Call layers one after the other; return the output, the new states, and `steps` with the layers' mask.

    `states` has a pair or None for each state of the layers, in order.
    """
    finals: list[State] = []
    for layer in layers:
        steps = layer.steps_of(x, steps)
        x, new = layer.run(x, list(states[len(finals) : len(finals) + layer.num_states]), steps)
        finals += new
    return x, finals, steps


def stages_of(layers: Sequence[Layer], features: int | None = None, masked: bool = False) -> list[Stage]:
    """Return the stages of layers that run one after the other; raise ValueError if they cannot run step by step.

    `features` and `masked` are as for `stages_for`, of the first layer.
    """
    return [stage for _, own in stages_by_layer(layers, features, masked) for stage in own]


def stages_by_layer(
    layers: Sequence[Layer], features: int | None = None, masked: bool = False
) -> list[tuple[int, list[Stage]]]:
    """Return what `stages_of` does, for each layer that has stages with its index."""
    found: list[tuple[int, list[Stage]]] = []
    features = features or next((size for size in (layer.input_features for layer in layers) if size), None)
    for index, layer in enumerate(layers):
        if found and layer.vocabulary_size is not None:
            raise ValueError(f"expected an Embedding to come first, got one at {index}")
        try:
            own = layer.stages_for(features, masked)
        except (TypeError, ValueError) as error:
            can = f"; layers 0 to {index - 1} can run step by step" if found else ""
            raise type(error)(f"{error}{can}") from None
        masked = masked or layer.masks
        if not own:
            continue
        if found and own[0].inputs != features:
            raise ValueError(f"expected {features} inputs of layer {index}, got {own[0].inputs}")
        found.append((index, own))
        features = own[-1].outputs
    return found


def row_stage(kind: str, features: int | None, outputs: int | None = None, **options: Any) -> list[Stage]:
    """Return the stage of a layer without recurrent weights, as `RowPart` computes it.

    Raises
    ------
    ValueError
        The number of features is not known.
    """
    if features is None:
        raise ValueError("expected a first layer whose number of inputs is known, such as an LSTM or a Linear")
    outputs = features if outputs is None else outputs
    return [Stage(features, outputs, RowPart(kind, features, outputs, **options))]


def _misshaped(given: Parameters, current: Parameters) -> list[str]:
    """Describe each array of `given` whose shape differs from that of the same name in `current`."""
    return [
        f"misshaped: {name}: expected {current[name].shape}, got {array.shape}"
        for name, array in given.items()
        if array.shape != current[name].shape
    ]


def _listed(faults: list[str]) -> str:
    """Join faults to one text of limited length."""
    more = len(faults) - _MOST_LISTED
    return "; ".join(faults[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def or_unknown(features: int | None) -> str:
    """Return a number of features as text, "?" for None."""
    return "?" if features is None else str(features)


def _copied(value: Any) -> Any:
    """Return a deep copy of a value that JSON can hold."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _rebuilt(kind: type[Layer], config: dict[str, Any], arrays: Parameters) -> Layer:
    """Make a layer of this class and configuration with copies of `arrays`."""
    layer = kind.blank(**config)
    layer.restore(arrays)
    return layer
