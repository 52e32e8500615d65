"""A call without Python gives what the general path gives, and leaves every other argument to it."""

import numpy as np
import pytest

from lstm_cy import LSTM, config
from lstm_cy.layers import direct

OPTIONS = (
    {},
    {"batch_first": True},
    {"num_layers": 3, "bidirectional": True, "proj_size": 2},
    {"num_layers": 2, "batch_first": True, "peepholes": True, "dtype": "float64"},
    {"reverse": True, "bias": False},
)


def numbers(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def arguments(lstm, T, B):
    """Return x and a state; B is None for one sequence without the axis of rows."""
    outer = (T,) if B is None else (B, T) if lstm.batch_first else (T, B)
    rows = () if B is None else (B,)
    parts = lstm.num_layers * lstm.num_directions
    widths = lstm.proj_size or lstm.hidden_size, lstm.hidden_size
    state = tuple(numbers((parts, *rows, width), lstm.dtype, seed) for seed, width in enumerate(widths, 1))
    return numbers((*outer, lstm.input_size), lstm.dtype), state


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("T", "B"), [(1, 1), (7, 5), (3, None), (40, 17)])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("engine", ["packed", "blas"])
def test_the_same_bits_as_the_general_path(options, T, B, with_state, engine):
    with config.using(engine=engine):
        lstm = LSTM(3, 5, seed=0, **options)
    x, state = arguments(lstm, T, B)
    state = state if with_state else None
    before = None if state is None else [part.copy() for part in state]
    found = direct.call(lstm._network, x, state, lstm.batch_first, 2)
    y, final, _ = lstm._run(x, state, (None, None, None), 2)
    for ours, general in zip((found[0], *found[1]), (y, *final), strict=True):
        assert ours.shape == general.shape
        assert ours.tobytes() == general.tobytes()
    if state is not None:
        assert all(np.array_equal(*pair) for pair in zip(state, before, strict=True))
        assert not any(np.shares_memory(*pair) for pair in zip(state, found[1], strict=True))


def test_read_only_arrays_are_used():
    lstm = LSTM(3, 5, seed=0)
    x, state = arguments(lstm, 4, 2)
    for array in (x, *state):
        array.flags.writeable = False
    assert direct.call(lstm._network, x, state, False, 1) is not None


def test_narrow_weights_are_used():
    narrow = LSTM(3, 5, seed=0).quantize("int8")
    x, state = arguments(narrow, 4, 2)
    y, _ = direct.call(narrow._network, x, state, False, 1)
    assert y.tobytes() == narrow._run(x, state, (None, None, None), 1)[0].tobytes()


def unfit():
    """Yield (name, x, state) that need a check or a conversion."""
    lstm = LSTM(3, 5)
    x, (h, c) = arguments(lstm, 4, 2)

    class Own(np.ndarray):
        pass

    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    yield from (
        (name, array, None)
        for name, array in {
            "list": x.tolist(),
            "other dtype": x.astype(np.float64),
            "other byte order": x.astype(x.dtype.newbyteorder()),
            "not contiguous": np.repeat(x, 2, axis=2)[:, :, ::2],
            "unaligned": unaligned,
            "subclass": x.view(Own),
            "masked": np.ma.masked_array(x),
            "no steps": x[:0],
            "no rows": x[:, :0],
            "other width": x[:, :, :2].copy(),
            "one axis": x[0, 0],
            "four axes": x[np.newaxis],
        }.items()
    )
    yield from (
        (f"state: {name}", x, state)
        for name, state in {
            "list": [h, c],
            "three": (h, c, c),
            "one None": (h, None),
            "other dtype": (h.astype(np.float64), c),
            "rows": (h, c[:, :1].copy()),
            "width": (h[:, :, :4].copy(), c),
            "parts": (h, np.concatenate([c, c])),
            "axes": (h[:, 0].copy(), c[:, 0].copy()),
            "masked": (np.ma.masked_array(h), c),
        }.items()
    )


@pytest.mark.parametrize(("x", "state"), [pytest.param(*case, id=name) for name, *case in unfit()])
def test_other_arguments_are_left_to_the_general_path(x, state):
    assert direct.call(LSTM(3, 5)._network, x, state, False, 1) is None
