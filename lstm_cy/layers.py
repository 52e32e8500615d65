"""What stands round an LSTM: Linear, Embedding, Dropout, and Sequential, which makes one model of them."""

import numpy as np

from . import config
from ._kernels.affine import Affine
from .checks import dtype_of, expect_shape, flag, float_array, generator, int_array, number, positive_int
from .layer import Composite, Gradients, Layer
from .lstm import LARGEST_SIDE, LSTM


class Linear(Layer):
    """y = x W^T + b over the last axis.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Where the initial parameters, U(-1/sqrt(in), 1/sqrt(in)), come from.

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

    def __init__(self, in_features, out_features, *, bias=True, dtype="float32", seed=None):
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
        rng = generator("seed", seed)
        bound = 1 / np.sqrt(self.in_features)
        shapes = {"weight": (self.out_features, self.in_features)} | ({"bias": (self.out_features,)} if bias else {})
        self._parameters = {}
        self.replace_parameters(
            {name: rng.uniform(-bound, bound, shape).astype(self.dtype) for name, shape in shapes.items()}
        )

    def __call__(self, x):
        """Apply the layer.

        Parameters
        ----------
        x : array_like (..., in_features)

        Returns
        -------
        ndarray (..., out_features)
        """
        return self._applied(self._input(x))

    def forward(self, x, rng=None):
        """Apply the layer; returns (y, tape for `backward`). The tape keeps a copy of x; `rng` is not used."""
        x = self._input(x).copy()
        parameters = self._parameters
        return self._applied(x), (parameters, x)

    def _input(self, x):
        x = np.asarray(x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x: expected shape (..., in_features) with in_features = {self.in_features}, got {x.shape}"
            )
        return float_array("x", x, self.dtype)

    def _applied(self, x):
        y = np.empty((*x.shape[:-1], self.out_features), self.dtype)
        self._affine(x.reshape(-1, self.in_features), y.reshape(-1, self.out_features))
        return y

    def _packed(self, parameters):
        arrays = parameters["weight"], parameters.get("bias")
        return {"_affine": Affine(config.kernels(), config.blas(), self.dtype.itemsize, *arrays)}

    def backward(self, tape, dy):
        """The gradients for dy, in y's shape: Gradients with `x` and `parameters`."""
        parameters, x = tape
        self._check_fresh(parameters, self._parameters)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*x.shape[:-1], self.out_features), "the shape of y")
        rows = dy.reshape(-1, self.out_features)
        gradients = {"weight": rows.T @ x.reshape(-1, self.in_features)}
        if self.bias:
            gradients["bias"] = rows.sum(axis=0)
        return Gradients(dy @ parameters["weight"], None, gradients)


class Embedding(Layer):
    """A vector for each token.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        How many tokens there are, and the size of their vectors.
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        Where the initial vectors, N(0, 1), come from.

    Notes
    -----
    Parameter: ``weight`` (num_embeddings, embedding_dim).

    Examples
    --------
    >>> from lstm_cy import Embedding
    >>> Embedding(10, 3, seed=0)([[1, 2], [0, 9]]).shape
    (2, 2, 3)
    """

    def __init__(self, num_embeddings, embedding_dim, *, dtype="float32", seed=None):
        self.num_embeddings = positive_int("num_embeddings", num_embeddings)
        self.embedding_dim = positive_int("embedding_dim", embedding_dim)
        self.dtype = dtype_of(dtype)
        self.config = {
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "dtype": self.dtype.name,
        }
        shape = self.num_embeddings, self.embedding_dim
        self._parameters = {}
        self.replace_parameters({"weight": generator("seed", seed).standard_normal(shape).astype(self.dtype)})

    def __call__(self, tokens):
        """Look tokens up.

        Parameters
        ----------
        tokens : array_like of int, any shape
            0 to num_embeddings - 1.

        Returns
        -------
        ndarray (*tokens.shape, embedding_dim)
        """
        return self.forward(tokens)[0]

    def forward(self, tokens, rng=None):
        """Look tokens up; returns (y, tape for `backward`). The tape keeps a copy of the tokens; `rng` is not used."""
        tokens = np.array(int_array("tokens", tokens))
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.num_embeddings):
            wrong = tokens[(tokens < 0) | (tokens >= self.num_embeddings)][0]
            raise ValueError(f"tokens: expected 0 to num_embeddings - 1 = {self.num_embeddings - 1}, got {wrong}")
        parameters = self._parameters
        return parameters["weight"][tokens], (parameters, tokens)

    def backward(self, tape, dy):
        """The gradients for dy, in y's shape: Gradients with `parameters`; tokens have none."""
        parameters, tokens = tape
        self._check_fresh(parameters, self._parameters)
        dy = float_array("dy", dy, self.dtype)
        expect_shape("dy", dy, (*tokens.shape, self.embedding_dim), "the shape of y")
        gradient = np.zeros_like(parameters["weight"])
        if tokens.size:
            # Rows of one token side by side, then summed: much faster than adding them one at a time.
            order = np.argsort(tokens, axis=None, kind="stable")
            found, first = np.unique(tokens.ravel()[order], return_index=True)
            gradient[found] = np.add.reduceat(dy.reshape(-1, self.embedding_dim)[order], first)
        return Gradients(None, None, {"weight": gradient})


class Dropout(Layer):
    """In training, zeroes elements with probability p and scales the others by 1 / (1 - p); else passes x on.

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

    dtype = None  # whatever comes in

    def __init__(self, p=0.5):
        self.p = number("p", p, 0.0, 1.0)
        self.config = {"p": self.p}
        self._parameters = {}

    def __call__(self, x):
        """x itself."""
        return x

    def forward(self, x, rng=None):
        """Drop elements; returns (y, tape for `backward`). `rng`: None, int or numpy.random.Generator."""
        x = np.asarray(x)
        if x.dtype.kind != "f":
            raise TypeError(f"x: expected an array of floats, got dtype {x.dtype}")
        keep = generator("rng", rng).random(x.shape, dtype=np.float32) >= self.p
        factors = keep * x.dtype.type(1 / (1 - self.p) if self.p < 1 else 0)
        return x * factors, factors

    def backward(self, tape, dy):
        """The gradients for dy, in y's shape: Gradients with `x`."""
        dy = np.asarray(dy)
        expect_shape("dy", dy, tape.shape, "the shape of y")
        return Gradients(dy * tape, None, {})


class Sequential(Composite):
    """Layers one after the other, as one model.

    Parameters
    ----------
    *layers : LSTM, Linear, Embedding or Dropout
        All of one dtype; its LSTMs all batch_first, or none of them.

    Notes
    -----
    Parameters are named after the layer's place: "0.weight", "1.weight_ih_l0", ...

    Examples
    --------
    >>> import numpy as np
    >>> from lstm_cy import LSTM, Embedding, Linear, Sequential
    >>> model = Sequential(Embedding(10, 4), LSTM(4, 8), Linear(8, 10))
    >>> logits, states = model(np.zeros((5, 2), int))
    >>> logits.shape, len(states)
    ((5, 2, 10), 1)
    """

    def __init__(self, *layers):
        if not layers:
            raise ValueError("layers: expected at least one, got none")
        for index, layer in enumerate(layers):
            if not isinstance(layer, Layer) or isinstance(layer, Composite):
                raise TypeError(f"layers: expected LSTM, Linear, Embedding or Dropout, got {layer!r} at {index}")
        dtypes = {layer.dtype for layer in layers if layer.dtype is not None}
        if len(dtypes) > 1:
            raise ValueError(f"layers: expected one dtype, got {', '.join(sorted(map(str, dtypes)))}")
        layouts = {layer.batch_first for layer in layers if isinstance(layer, LSTM)}
        if len(layouts) > 1:
            raise ValueError("layers: expected every LSTM with batch_first or none, got both")
        self.layers = layers
        self._parts = {str(index): layer for index, layer in enumerate(layers)}
        self.dtype = dtypes.pop() if dtypes else np.dtype("float32")
        self._batch_first = layouts.pop() if layouts else True
        self.config = {"layers": [{"type": type(layer).__name__, **layer.config} for layer in layers]}

    @property
    def batch_first(self):
        """Whether the batch axis of x comes first: as its LSTMs have it; True where there is none."""
        return self._batch_first

    def quantize(self, kind, sample=None):
        """This model with the weights of its LSTMs narrow; the other layers are shared.

        Parameters
        ----------
        kind : {"bf16", "int8"}
            As for `LSTM.quantize`.
        sample : array_like, or None
            An input of the model: each LSTM is measured on what reaches it in this model. None: each LSTM on standard
            normal numbers.

        Returns
        -------
        Sequential
            Its `report` is {place of the LSTM: its report}.

        Raises
        ------
        ValueError
            As `LSTM.quantize`; or there is no LSTM.

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

    def __call__(self, x, states=None, *, lengths=None, mask=None, reset=None, threads=None):
        """Run the model, for inference.

        Parameters
        ----------
        x : array_like
            Tokens or features, as the first layer takes them.
        states : None or list of (h0, c0)
            One for each LSTM, or None for zeros.
        lengths, mask, reset, threads :
            Passed to each LSTM.

        Returns
        -------
        out : ndarray
        states : list of (h_n, c_n)
            One for each LSTM.
        """
        states = self._check_states("states", states)
        finals = []
        for layer in self.layers:
            if isinstance(layer, LSTM):
                state = states[len(finals)]
                x, state = layer(x, state, lengths=lengths, mask=mask, reset=reset, threads=threads)
                finals.append(state)
            else:
                x = layer(x)
        return x, finals

    def forward(self, x, states=None, *, lengths=None, mask=None, reset=None, threads=None, rng=None):
        """Run the model, for training: with dropout, and with a tape for `backward`.

        Returns
        -------
        out, states :
            As from a call.
        tape : list
            For `backward`, until the parameters change.
        """
        states = self._check_states("states", states)
        rng = generator("rng", rng)
        finals, tape = [], []
        for layer in self.layers:
            if isinstance(layer, LSTM):
                steps = {"lengths": lengths, "mask": mask, "reset": reset}
                x, state, kept = layer.forward(x, states[len(finals)], **steps, threads=threads, rng=rng)
                finals.append(state)
            else:
                x, kept = layer.forward(x, rng=rng)
            tape.append(kept)
        return x, finals, tape

    def backward(self, tape, dy=None, dstates=None):
        """Propagate gradients back through the forward pass that made `tape`.

        Parameters
        ----------
        tape : list
            From `forward`.
        dy : array_like in the output's shape, or None
            None where only final states have gradients: then the last layer must be an LSTM.
        dstates : None or list of (dh_n, dc_n) or None
            One for each LSTM.

        Returns
        -------
        Gradients
            `x`, None behind an Embedding; `state`, a list of (dh0, dc0); `parameters` with the model's names.
        """
        if not isinstance(tape, list) or len(tape) != len(self.layers):
            raise TypeError(f"tape: expected what Sequential.forward returned, got {type(tape).__name__}")
        dstates = list(self._check_states("dstates", dstates))
        if dy is None and not isinstance(self.layers[-1], LSTM):
            raise ValueError(f"dy: expected an array, for the last layer is {type(self.layers[-1]).__name__}, got None")
        parameters, initial = {}, []
        for index in reversed(range(len(self.layers))):
            layer = self.layers[index]
            if isinstance(layer, LSTM):
                gradients = layer.backward(tape[index], dy, dstates.pop())
                initial.append(gradients.state)
            else:
                gradients = layer.backward(tape[index], dy)
            parameters |= {f"{index}.{name}": array for name, array in gradients.parameters.items()}
            dy = gradients.x
        return Gradients(dy, initial[::-1], {name: parameters[name] for name in self._parameters})

    def stepper(self, batch_size=1):
        """What runs this model one step at a time, with the weights it has now and states of zeros.

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
            `batch_size` is not a positive integer; an LSTM is bidirectional or reverse; an Embedding does not come
            first; a layer does not take what the one before it gives.

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

    def _check_states(self, name, states):
        """One entry for each LSTM."""
        lstms = sum(isinstance(layer, LSTM) for layer in self.layers)
        if states is None:
            return [None] * lstms
        if not isinstance(states, list | tuple) or len(states) != lstms:
            raise ValueError(f"{name}: expected a list of {lstms}, one for each LSTM, got {states!r:.80}")
        return states

    def __repr__(self):
        return f"Sequential({', '.join(map(repr, self.layers))})"
