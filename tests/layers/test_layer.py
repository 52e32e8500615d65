"""The base class of layers: read-only options, checks of parameters, and tapes that belong to one layer."""

import copy
import math
import pickle

import numpy as np
import pytest

from lstm_cy import (
    LSTM,
    Activation,
    Attention,
    Dropout,
    Embedding,
    Linear,
    Masking,
    Readout,
    Seq2Seq,
    Sequential,
    load,
    save,
)
from lstm_cy.layers.base import Layer, Tape
from lstm_cy.layers.quantized import QuantizedLSTM

MAKERS = {
    "LSTM": lambda: LSTM(3, 4, 2, proj_size=2, bidirectional=True, seed=0),
    "QuantizedLSTM": lambda: LSTM(3, 4, seed=0).quantize("int8"),
    "Linear": lambda: Linear(3, 4, seed=0),
    "Embedding": lambda: Embedding(5, 3, mask_zero=True, seed=0),
    "Dropout": lambda: Dropout(0.3),
    "Activation": lambda: Activation("hardsigmoid", alpha=0.25),
    "Masking": lambda: Masking(1.0),
    "Readout": lambda: Readout(bidirectional=True, merge_mode="sum"),
    "Attention": lambda: Attention(4, 3, score="additive", seed=0),
    "Sequential": lambda: Sequential(LSTM(3, 4, seed=0), Linear(4, 2, seed=1)),
    "Seq2Seq": lambda: Seq2Seq(7, embedding_dim=3, hidden_size=4, seed=0),
}
every_layer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
DERIVED = {"LSTM": ("num_directions", "output_size"), "Embedding": ("masks",), "Sequential": ("batch_first",)}


def attempts_to_write(layer, name):
    """Yield functions that try to change an attribute."""
    yield lambda: setattr(layer, name, 1)
    yield lambda: setattr(layer, name, getattr(layer, name))
    yield lambda: delattr(layer, name)


@every_layer
def test_sizes_and_options_cannot_be_written(make):
    layer = make()
    names = [*layer.config, "config", "dtype", "masks", "parameters", *DERIVED.get(type(layer).__name__, ())]
    kind = type(layer).__name__
    before = {name: getattr(layer, name) for name in names if name != "parameters"}
    for name in names:
        for write in attempts_to_write(layer, name):
            with pytest.raises(AttributeError, match=f"{name}: read-only, because this {kind} was built"):
                write()
    assert {name: getattr(layer, name) for name in before} == before


@every_layer
def test_every_option_can_be_read(make):
    layer = make()
    for name, value in layer.config.items():
        own = getattr(layer, name)
        if name == "dtype":
            assert own.name == value
        elif name not in ("activations", "layers"):
            assert own == value
    if "activations" in layer.config:
        assert [[list(entry) for entry in triple] for triple in layer.activations] == layer.config["activations"]


@every_layer
def test_attributes_set_by_a_constructor_are_read_only(make):
    layer = make()
    made = {*layer._read_only, *layer.config, "report"}
    assert vars(layer).keys() <= made
    for name in vars(layer).keys() - {"report"}:
        with pytest.raises(AttributeError, match=f"{name}: read-only"):
            setattr(layer, name, None)


@every_layer
def test_the_configuration_is_a_copy(make):
    layer = make()
    before = copy.deepcopy(layer.config)

    def spoil(value):
        if isinstance(value, dict):
            for name in list(value):
                spoil(value[name])
                value[name] = None
            value["other"] = 1
        elif isinstance(value, list):
            for item in value:
                spoil(item)
            value.append(3)

    spoil(layer.config)
    assert layer.config == before


@every_layer
def test_copies_are_read_only_too(make):
    layer = make()
    name = next(iter(layer.config))
    for other in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.config == layer.config
        with pytest.raises(AttributeError, match=f"{name}: read-only"):
            setattr(other, name, 1)


@every_layer
def test_building_twice_is_refused(make):
    layer = make()
    before = {name: array.copy() for name, array in layer.parameters.items()}
    arguments = layer.layers if isinstance(layer, Sequential) else ()
    with pytest.raises(AttributeError, match="read-only"):
        layer.__init__(*arguments, **({} if arguments else layer.config))
    for name, array in layer.parameters.items():
        assert np.array_equal(array, before[name])


def test_metadata_report_and_user_attributes_are_writable(tmp_path):
    lstm = LSTM(3, 4, seed=0)
    lstm.metadata, lstm.report, lstm.note = {"a": 1}, {"b": 2}, ["mine"]
    for other in (copy.copy(lstm), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (other.metadata, other.report, other.note) == ({"a": 1}, {"b": 2}, ["mine"])
    save(lstm, tmp_path / "a.npz")
    assert load(tmp_path / "a.npz").metadata == {"a": 1}
    lstm.note = 3
    del lstm.note
    assert not hasattr(lstm, "note")


class Counting(LSTM):
    """An LSTM that counts its calls."""

    def __init__(self, *sizes, **options):
        self.begun = True
        super().__init__(*sizes, **options)
        self.calls = 0

    def __call__(self, *arguments, **keywords):
        self.calls += 1
        return super().__call__(*arguments, **keywords)


def test_a_subclass_may_have_more_attributes():
    lstm = Counting(3, 4, seed=0)
    x = np.ones((2, 3))
    expected = LSTM(3, 4, seed=0)(x)[0]
    assert np.array_equal(lstm(x)[0], expected)
    lstm.begun = False
    model = Sequential(lstm)
    assert np.array_equal(model(x)[0], expected)
    assert lstm.calls == 2
    for other in (copy.copy(lstm), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (other.calls, other.begun) == (2, False)
        assert np.array_equal(other(x)[0], expected)
    with pytest.raises(AttributeError, match="hidden_size: read-only, because this Counting was built with it"):
        lstm.hidden_size = 3


class Stack(Sequential):
    """A model whose constructor does not take layers."""

    def __init__(self, count):
        super().__init__(*(LSTM(3, 3, seed=seed) for seed in range(count)))
        self.count = count


def test_a_model_with_another_constructor_is_copied():
    model = Stack(2)
    x = np.ones((4, 3))
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(other) is Stack
        assert (other.count, len(other.layers)) == (2, 2)
        assert np.array_equal(other(x)[0], model(x)[0])
        assert other.stepper().step(x[0]).shape == (3,)
    assert repr(model) == "Stack(LSTM(3, 3), LSTM(3, 3))"


class Scale(Layer):
    """A layer that a user defines."""

    dtype = None

    def __init__(self, factor):
        self.config = {"factor": factor}
        self.factor = factor
        self._parameters = {}

    def __call__(self, x):
        return self.factor * np.asarray(x)

    def forward(self, x, rng=None):
        return self(x), None

    def backward(self, tape, dy):
        from lstm_cy.layers.base import Gradients

        return Gradients(self.factor * dy, None, {})


def test_a_user_defined_layer_works_in_a_model():
    model = Sequential(LSTM(3, 4, seed=0), Scale(2.0), Linear(4, 2, seed=1))
    y, _, tape = model.forward(np.ones((5, 2, 3)))
    assert np.array_equal(y, model(np.ones((5, 2, 3)))[0])
    assert model.backward(tape, np.ones_like(y)).parameters.keys() == model.parameters.keys()
    assert copy.copy(model).config == model.config
    assert model.config["layers"][1] == {"type": "Scale", "factor": 2.0}


# Parameters


@every_layer
def test_returned_parameters_are_read_only(make):
    layer = make()
    if isinstance(layer, QuantizedLSTM):
        return  # computed on each access
    for source in (layer.parameters, layer.stored()):
        for array in source.values():
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            with pytest.raises(ValueError, match="cannot set WRITEABLE flag"):
                array.flags.writeable = True


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    (
        ({"weight_hh_l0": np.ones((1, 1), "f4")}, ValueError, r"weight_hh_l0: expected \(12, 3\), got \(1, 1\)"),
        ({"weight_hh_l0": np.ones(36, "f4")}, ValueError, r"misshaped: .*weight_hh_l0"),
        (
            {"weight_hh_l0": np.ones((12, 3))},
            TypeError,
            "expected an array of dtype float32, got dtype float64",
        ),
        (
            {"weight_hh_l0": np.ones((12, 3), ">f4")},
            TypeError,
            "expected an array of dtype float32, got dtype >f4",
        ),
        (
            {"weight_hh_l0": np.ones((12, 3)).tolist()},
            TypeError,
            "expected an array of dtype float32, got list",
        ),
        ({"weight_hh_l0": None}, TypeError, "got NoneType"),
        ({"weight": np.ones((12, 3), "f4")}, KeyError, "unknown: weight"),
        ({3: np.ones((12, 3), "f4")}, KeyError, "unknown: 3"),
        ([np.ones((12, 3), "f4")], TypeError, "arrays: expected a mapping"),
        (None, TypeError, "arrays: expected a mapping"),
    ),
)
@pytest.mark.parametrize("inside", (False, True))
def test_replace_parameters_checks_its_arguments(arrays, error, message, inside):
    lstm = LSTM(2, 3, seed=0)
    layer = Sequential(lstm) if inside else lstm
    if inside and isinstance(arrays, dict):
        arrays = {f"0.{name}": array for name, array in arrays.items()}
        message = message.replace("unknown: ", "unknown: 0.")
    before, y = lstm.parameters, lstm(np.ones((4, 2)))[0]
    with pytest.raises(error, match=message):
        layer.replace_parameters(arrays)
    assert all(lstm.parameters[name] is array for name, array in before.items())
    assert np.array_equal(lstm(np.ones((4, 2)))[0], y)


def test_replace_parameters_takes_some_names_and_copies_arrays_it_cannot_own():
    lstm = LSTM(2, 3, seed=0)
    plain = np.full((12, 3), 0.1, "f4")
    lstm.replace_parameters({"weight_hh_l0": plain})
    assert np.shares_memory(plain, lstm.parameters["weight_hh_l0"])
    assert not plain.flags.writeable
    whole = np.full((24, 6), 0.1, "f4")
    unaligned = np.frombuffer(b"x" + plain.tobytes(), "f4", offset=1).reshape(12, 3)
    for array in (whole[:12, :3], whole.T[:3, :12].T, np.asfortranarray(plain), whole[::2, ::2], unaligned):
        lstm.replace_parameters({"weight_hh_l0": array})
        assert not np.shares_memory(array, lstm.parameters["weight_hh_l0"])
        assert lstm.parameters["weight_hh_l0"].flags.c_contiguous
    assert whole.flags.writeable
    expected = lstm(np.ones((4, 2)))[0]
    whole[:] = np.nan
    assert np.array_equal(lstm(np.ones((4, 2)))[0], expected)


@pytest.mark.parametrize("strict", ("False", 0, None, 1))
def test_strict_must_be_a_bool(strict):
    with pytest.raises(TypeError, match="strict: expected True or False"):
        LSTM(2, 3, seed=0).load_state_dict({}, strict=strict)


@pytest.mark.parametrize("mapping", (None, 3, [], "weights"))
def test_a_state_dict_must_be_a_mapping(mapping):
    with pytest.raises(TypeError, match=r"state_dict: expected a mapping \{name: array\}, got"):
        Linear(2, 3, seed=0).load_state_dict(mapping)


@pytest.mark.parametrize("value", (1e300, -1e300))
def test_a_number_too_large_for_the_dtype_is_refused(value):
    linear = Linear(1, 2, seed=0)
    before = linear.state_dict()
    with pytest.raises(ValueError, match="weight: expected numbers that float32 can hold, got"):
        linear.load_state_dict({**before, "weight": [[value], [1.0]]})
    assert np.array_equal(linear.parameters["weight"], before["weight"])
    linear.load_state_dict({**before, "weight": [[np.inf], [np.nan]]})  # some files have them
    assert np.isinf(linear.parameters["weight"][0, 0])
    double = Linear(1, 2, dtype="float64")
    double.load_state_dict({**before, "weight": np.array([[1e300], [1.0]])})
    assert double.parameters["weight"][0, 0] == 1e300


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda: LSTM(2, 3, forget_bias=1e300), "forget_bias: expected numbers that float32 can hold"),
        (
            lambda: LSTM(2, 3, forget_bias=("chrono", math.inf)),
            r"forget_bias: expected .* \[2, inf\), got inf",
        ),
        (
            lambda: LSTM(2, 3, activations=("sigmoid", ("leakyrelu", 1e300), "tanh")),
            "activations: expected a number in",
        ),
        (lambda: Masking(1e300), "mask_value: expected numbers that float32 can hold"),
    ),
)
def test_options_too_large_for_the_dtype_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_message_of_many_faults_has_limited_length():
    lstm = LSTM(1, 1, num_layers=2000, seed=0)
    with pytest.raises(KeyError, match="missing: weight_ih_l0 .*and 7000 more") as error:
        lstm.load_state_dict({})
    assert len(str(error.value)) < 100_000


@pytest.mark.parametrize(
    ("make", "error", "message"),
    (
        (lambda: LSTM(1, 1, num_layers=10**9), ValueError, "num_layers: expected 1 to 4096, got 1000000000"),
        (lambda: Seq2Seq(3, embedding_dim=2, hidden_size=2, num_layers=10**9), ValueError, "num_layers: expected 1 to"),
        (lambda: LSTM(3, 10**6, num_layers=100), MemoryError, "LSTM: no memory for its .* parameters"),
        (lambda: Linear(2**31 - 1, 2**31 - 1), ValueError, "Linear: expected parameters that fit in memory"),
        (lambda: Embedding(10**30, 3), ValueError, "num_embeddings: expected at most"),
        (lambda: Embedding(10**15, 3), MemoryError, "Embedding: no memory for its 3000000000000000 parameters"),
        (lambda: Attention(10**18, 30), ValueError, "Attention: expected parameters that fit in memory"),
        (lambda: LSTM.blank(3, 2**29 - 1, num_layers=4096), ValueError, "LSTM: expected parameters that fit in memory"),
    ),
)
def test_sizes_beyond_any_memory_are_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


# Tapes

X = np.random.default_rng(0).standard_normal((5, 2, 3)).astype("f4")
CASES = {
    "LSTM": (lambda **options: LSTM(3, 4, **options), (X,)),
    "Linear": (lambda **options: Linear(3, 4, **options), (X,)),
    "Embedding": (lambda **options: Embedding(5, 3, **options), ([[1, 4]],)),
    "Dropout": (lambda p=0.3: Dropout(p), (X,)),
    "Activation": (lambda name="relu": Activation(name), (X,)),
    "Masking": (lambda value=0.0: Masking(value), (X,)),
    "Readout": (lambda **options: Readout(**options), (X,)),
    "Attention": (lambda **options: Attention(3, 3, **options), (X, X)),
    "Sequential": (lambda **options: Sequential(LSTM(3, 4, **options)), (X,)),
    "Seq2Seq": (lambda **o: Seq2Seq(5, embedding_dim=2, hidden_size=2, **o), (np.full((1, 2, 3), 2),)),
}
with_parameters = ("LSTM", "Linear", "Embedding", "Attention", "Sequential", "Seq2Seq")


def made(kind):
    """Return (a layer, its tape, a gradient of its result)."""
    make, inputs = CASES[kind]
    layer = make()
    out, *_, tape = layer.forward(*inputs)
    return layer, tape, np.ones_like(out[0] if isinstance(out, tuple) else out)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("wrong", (None, (), (1, 2), [], 3, "tape", {}))
def test_objects_other_than_tapes_are_refused(kind, wrong):
    layer, _, dy = made(kind)
    with pytest.raises(TypeError, match=f"tape: expected a tape of {kind}.forward, got {type(wrong).__name__}"):
        layer.backward(wrong, dy)


@pytest.mark.parametrize("kind", CASES)
def test_the_tape_of_another_type_is_refused(kind):
    layer, _, dy = made(kind)
    for other in CASES:
        if other != kind:
            with pytest.raises(TypeError, match=f"tape: expected a tape of {kind}.forward, got one of {other}"):
                layer.backward(made(other)[1], dy)


@pytest.mark.parametrize("kind", with_parameters)
def test_the_tape_of_another_layer_is_refused(kind):
    make, _ = CASES[kind]
    _, tape, dy = made(kind)
    with pytest.raises(ValueError, match="tape: expected a tape of this .*, got one of another"):
        make().backward(tape, dy)


@pytest.mark.parametrize(
    ("one", "other"),
    (
        (Dropout(0.3), Dropout(0.5)),
        (Activation("relu"), Activation("tanh")),
        (Masking(0.0), Masking(1.0)),
        (Readout(), Readout(return_sequences=True)),
        (Embedding(5, 3, seed=0), Embedding(2, 3, seed=0)),
        (Linear(3, 4, seed=0), Linear(3, 5, seed=0)),
        (LSTM(3, 4, seed=0), LSTM(3, 4, 2, seed=0)),
    ),
    ids=lambda layer: repr(layer)[:30],
)
def test_the_tape_of_a_layer_with_other_options_is_refused(one, other):
    out, *_, tape = one.forward([[1, 4]] if isinstance(one, Embedding) else X)
    with pytest.raises(ValueError, match="tape: expected a tape of this .*, got one of another"):
        other.backward(tape, np.ones_like(out))


@pytest.mark.parametrize("kind", with_parameters)
def test_a_tape_is_out_of_date_when_the_parameters_change(kind):
    layer, tape, dy = made(kind)
    shallow = copy.copy(layer)
    for _ in range(2):
        layer.backward(tape, dy)
        shallow.backward(tape, dy)  # the same weights
    layer.load_state_dict(layer.parameters)
    with pytest.raises(RuntimeError, match="tape: the parameters have changed since the forward pass"):
        layer.backward(tape, dy)
    shallow.backward(tape, dy)


@pytest.mark.parametrize("kind", CASES)
def test_a_tape_cannot_be_changed(kind):
    _, tape, _ = made(kind)
    assert isinstance(tape, Tape)
    for name in ("saved", "batch", "network", "threads", "_held", "other"):
        with pytest.raises(AttributeError, match=f"{name}: a tape cannot be changed"):
            setattr(tape, name, None)
        with pytest.raises(AttributeError, match=f"{name}: a tape cannot be changed"):
            delattr(tape, name)


@pytest.mark.parametrize("kind", CASES)
def test_a_tape_is_copied_by_reference_and_not_pickled(kind):
    _, tape, _ = made(kind)
    assert copy.copy(tape) is tape
    assert copy.deepcopy(tape) is tape
    with pytest.raises(TypeError, match="tape: it cannot be pickled, because it belongs to a layer"):
        pickle.dumps(tape)


def test_saved_arrays_of_a_tape_are_copies():
    lstm = LSTM(3, 4, seed=0)
    y, _, tape = lstm.forward(X)
    expected = lstm.backward(tape, np.ones_like(y)).x
    for array in tape.saved[0]:
        if array is not None:
            array[...] = np.nan
    assert np.array_equal(lstm.backward(tape, np.ones_like(y)).x, expected)


@pytest.mark.parametrize(
    ("kind", "dy"),
    [
        (kind, dy)
        for kind in CASES
        for dy in (None, "1", object(), 1j, np.ones((9, 9, 9)), np.ones((5, 2, 4), complex), np.ones(()), [[1], [2, 3]])
    ],
)
def test_invalid_gradients_are_refused(kind, dy):
    layer, tape, _ = made(kind)
    with pytest.raises((TypeError, ValueError), match="dy|dcontext"):
        layer.backward(tape, dy)


def test_masking_refuses_a_gradient_of_another_shape():
    layer, tape, dy = made("Masking")
    with pytest.raises(ValueError, match=r"dy: expected shape the shape of y = \(5, 2, 3\), got \(5, 2, 1\)"):
        layer.backward(tape, dy[..., :1])


def test_a_readout_of_two_arrays_takes_two_gradients():
    layer = Readout(bidirectional=True, merge_mode=None)
    out, tape = layer.forward(np.ones((5, 2, 4), "f4"))
    assert layer.backward(tape, out).x.shape == (5, 2, 4)
    for dy in (None, 3, out[0], (*out, out[0])):
        with pytest.raises((TypeError, ValueError), match="dy: expected"):
            layer.backward(tape, dy)


# Repr and summary


@pytest.mark.parametrize(
    ("layer", "expected"),
    (
        (LSTM(3, 5, seed=0), "LSTM(3, 5)"),
        (LSTM(3, 5, 2, batch_first=True, dropout=0.5), "LSTM(3, 5, num_layers=2, batch_first=True, dropout=0.5)"),
        (LSTM(3, 5, bidirectional=True, dtype="float64"), "LSTM(3, 5, bidirectional=True, dtype='float64')"),
        (LSTM(3, 5).quantize("bf16"), "QuantizedLSTM(3, 5, weights='bf16')"),
        (Linear(3, 2), "Linear(3, 2)"),
        (Linear(3, 2, bias=False), "Linear(3, 2, bias=False)"),
        (Embedding(7, 3, mask_zero=True), "Embedding(7, 3, mask_zero=True)"),
        (Dropout(), "Dropout()"),
        (Dropout(0.25), "Dropout(p=0.25)"),
        (Activation("leakyrelu"), "Activation('leakyrelu')"),
        (Activation("leakyrelu", 0.5), "Activation('leakyrelu', alpha=0.5)"),
        (Masking(-1), "Masking(mask_value=-1.0)"),
        (Readout(return_sequences=True), "Readout(return_sequences=True)"),
        (Attention(4, 3), "Attention(4, 3)"),
        (Seq2Seq(7, embedding_dim=3, hidden_size=4), "Seq2Seq(7, embedding_dim=3, hidden_size=4)"),
        (Sequential(LSTM(3, 5), Linear(5, 2)), "Sequential(LSTM(3, 5), Linear(5, 2))"),
        (Counting(3, 4), "Counting(input_size=3, "),
        (Scale(2.0), "Scale(2.0)"),
    ),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_repr_is_the_call_that_makes_the_layer(layer, expected):
    assert repr(layer).startswith(expected)
    if type(layer).__module__.startswith("lstm_cy"):
        assert repr(layer) == expected
        assert eval(expected, vars(pytest.importorskip("lstm_cy.layers.quantized")) | globals()).config == layer.config


def test_repr_of_many_layers_has_a_line_for_each():
    model = Sequential(*(LSTM(8, 8) for _ in range(10)))
    assert repr(model).splitlines() == ["Sequential(", *["    LSTM(8, 8),"] * 10, ")"]
    assert eval(repr(model)).config == model.config


@pytest.mark.parametrize("activations", ("relu", ("hardsigmoid", 0.3), "tanh"), ids=lambda value: str(value))
def test_repr_of_activations_can_be_evaluated(activations):
    lstm = LSTM(3, 5, activations=("sigmoid", activations, "tanh"), clip=2.0)
    assert eval(repr(lstm)).config == lstm.config


def test_summary_counts_each_parameter_once(capsys):
    shared = LSTM(8, 8, seed=0)
    model = Sequential(Embedding(10, 8), shared, Dropout(), shared, Readout(), Linear(8, 10))
    assert model.summary() is None
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["layer", "output", "parameters", "bytes"]
    assert [line[-5:-2] for line in lines[1:-1]] == [
        ["(T,", "B,", "8)"],
        ["(T,", "B,", "8)"],
        ["(T,", "B,", "8)"],
        ["(T,", "B,", "8)"],
        ["Readout()", "(B,", "8)"],
        ["10)", "(B,", "10)"],
    ]
    assert lines[4][1:3] == ["as", "1"]
    numbers = sum(array.size for array in model.parameters.values())
    assert lines[-1] == ["total", f"{numbers:,}", f"{4 * numbers:,}"]
    assert sum(int(line[-2].replace(",", "")) for line in lines[1:-1]) == numbers


@pytest.mark.parametrize(
    ("make", "output", "numbers", "size"),
    (
        (lambda: LSTM(3, 5), "(T, B, 5)", 200, 800),
        (lambda: LSTM(3, 5, bidirectional=True, batch_first=True, dtype="float64"), "(B, T, 10)", 400, 3200),
        (lambda: LSTM(3, 5).quantize("int8"), "(T, B, 5)", 200, 160 + 40 * 4 + 40 * 4),
        (lambda: LSTM(3, 5).quantize("bf16"), "(T, B, 5)", 200, 320 + 160),
        (lambda: Linear(3, 2), "(..., 2)", 8, 32),
        (lambda: Dropout(), "(..., ?)", 0, 0),
        (lambda: Sequential(Linear(3, 2), Activation("tanh")), "(..., 2)", 8, 32),
        (lambda: Seq2Seq(7, embedding_dim=3, hidden_size=4), "(T, B, 7)", None, None),
    ),
)
def test_summary_of_any_layer(make, output, numbers, size, capsys):
    layer = make()
    layer.summary()
    lines = capsys.readouterr().out.splitlines()
    assert output in lines[-2]
    if numbers is None:
        numbers = sum(array.size for array in layer.parameters.values())
        size = 4 * numbers
    assert lines[-1].split() == ["total", f"{numbers:,}", f"{size:,}"]


class WithMarkupInRepr(Scale):
    def __repr__(self):
        return "<b>\x1b[31m</b>"


def test_html_and_summary_are_escaped(capsys):
    model = Sequential(LSTM(3, 4), WithMarkupInRepr(2.0))
    page = model._repr_html_()
    assert page.startswith("<table><caption>Sequential</caption>")
    assert "LSTM(3, 4)" in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    model.summary()
    assert "\x1b" not in page + capsys.readouterr().out
    assert "<td>LSTM(3, 4)</td><td>(T, B, 4)</td>" in LSTM(3, 4)._repr_html_()


# Warnings and errors


@pytest.mark.parametrize(
    "make",
    (
        lambda: LSTM(3, 4, dropout=0.5),
        lambda: Seq2Seq(7, embedding_dim=3, hidden_size=4, dropout=0.5),
        lambda: Counting(3, 4, dropout=0.5),
    ),
)
def test_dropout_in_a_single_layer_is_a_warning(make, tmp_path):
    message = "dropout: it acts between layers, so 0.5 has no effect with num_layers=1"
    with pytest.warns(UserWarning, match=message) as caught:
        layer = make()
    assert [warning.filename for warning in caught] == [__file__]  # one warning, at the line that makes the layer
    again = pickle.loads(pickle.dumps(layer))  # warnings are errors here
    assert copy.deepcopy(layer).config == copy.copy(layer).config == again.config
    assert layer.dropout == 0.5
    if not isinstance(layer, Counting):
        save(layer, tmp_path / "a.npz")
        assert load(tmp_path / "a.npz").dropout == 0.5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    (
        (
            lambda: Sequential(LSTM(3, 4), Attention(4, 4)),
            TypeError,
            r"layers: expected LSTM.*, got Attention\(4, 4\) at 1",
        ),
        (lambda: Sequential(Seq2Seq(5, embedding_dim=2, hidden_size=2)), TypeError, "layers: expected LSTM"),
        (lambda: Sequential(LSTM), TypeError, "layers: expected LSTM"),
        (lambda: Sequential([LSTM(3, 4)]), TypeError, r"layers: expected LSTM.*, got \[LSTM\(3, 4\)\] at 0"),
        (lambda: Sequential(None), TypeError, "layers: expected LSTM.*, got None at 0"),
        (lambda: Sequential(), ValueError, "layers: expected at least one"),
        (lambda: Sequential(LSTM(3, 4), LSTM(5, 6)), ValueError, "layers: expected 4 inputs of layer 1, got 5"),
        (lambda: Sequential(LSTM(3, 4, bidirectional=True), Linear(4, 2)), ValueError, "8 inputs of layer 1, got 4"),
        (lambda: Sequential(LSTM(3, 4, proj_size=2), Linear(4, 2)), ValueError, "2 inputs of layer 1, got 4"),
        (lambda: Sequential(Embedding(5, 3), Dropout(), Linear(4, 2)), ValueError, "3 inputs of layer 2, got 4"),
        (
            lambda: Sequential(Linear(3, 2), Activation("relu"), Masking(), LSTM(3, 2)),
            ValueError,
            "2 inputs of layer 3",
        ),
        (
            lambda: Sequential(
                LSTM(3, 4, bidirectional=True), Readout(bidirectional=True, merge_mode="sum"), Linear(8, 2)
            ),
            ValueError,
            "4 inputs of layer 2, got 8",
        ),
        (
            lambda: Sequential(LSTM(3, 5), Readout(bidirectional=True)),
            ValueError,
            "two directions as input of Readout at 1",
        ),
        (lambda: Sequential(Linear(3, 4), Embedding(5, 3)), ValueError, "an Embedding to come first, got one at 1"),
        (lambda: Sequential(*[LSTM(3, 3)] * 2, Linear(2, 3)), ValueError, "3 inputs of layer 2, got 2"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), "0"), TypeError, r"state: expected a pair \(h, c\), got str"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), [None, 0.0]), TypeError, "state: expected both h and c"),
        (
            lambda: LSTM(2, 3)(np.ones((3, 2)), (np.ones((1, 2)), np.ones((1, 3)))),
            ValueError,
            "state h: expected shape",
        ),
        (lambda: LSTM(2, 3)(None), TypeError, "x: expected real numbers"),
        (lambda: LSTM(2, 3)("x"), TypeError, "x: expected real numbers"),
        (lambda: LSTM(2, 3)([[1, 2], [3]]), ValueError, "x: expected an array"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), threads=0), ValueError, "threads: expected at least 1"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), threads=True), TypeError, "threads: expected an integer"),
        (lambda: LSTM(2, 3)(np.ones(2)), ValueError, "x: expected shape"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), lengths=2.0), TypeError, "lengths: expected integers"),
        (lambda: LSTM(2, 3)(np.ones((3, 2)), mask=[1, 1, 1]), TypeError, "mask: expected bools"),
        (lambda: LSTM(2, 3).forward(np.ones((3, 2)), rng="seed"), TypeError, "rng: expected None"),
        (lambda: LSTM(2, 3, dtype="(,)f4"), ValueError, "dtype: expected 'float32' or 'float64'"),
        (lambda: LSTM(2, 3, coupled_gates=["f=1-i"]), ValueError, "coupled_gates: expected None"),
        (lambda: Attention(2, 3, score=["dot"]), ValueError, "score: expected 'general'"),
        (lambda: Activation(["relu"]), ValueError, "name: expected one of"),
        (lambda: Readout(merge_mode=["sum"]), ValueError, "merge_mode: expected 'concat'"),
        (lambda: LSTM(2, 3).quantize(["int8"]), ValueError, "kind: expected 'bf16' or 'int8'"),
        (lambda: LSTM(2, 3).quantize(np.ones(2)), ValueError, "kind: expected 'bf16' or 'int8'"),
        (lambda: LSTM(2, 3, coupled_gates=np.ones(2)), ValueError, "coupled_gates: expected None, 'f=1-i' or 'i=1-f'"),
        (lambda: Attention(2, 3, score=np.ones(2)), ValueError, "score: expected 'general', 'dot' or 'additive'"),
        (lambda: Dropout()(object()), TypeError, "x: expected real numbers"),
        (lambda: Dropout()("text"), TypeError, "x: expected real numbers"),
        (lambda: LSTM(2, 3).backward(LSTM(2, 3).forward(np.ones((3, 2)))[2], None, 3), ValueError, "tape: expected"),
    ),
)
def test_error_messages_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("dstate", (3, "no", (None,), (1, 2, 3)))
def test_a_gradient_of_the_state_must_be_a_pair(dstate):
    lstm = LSTM(2, 3, seed=0)
    _, _, tape = lstm.forward(np.ones((3, 2)))
    with pytest.raises(TypeError, match=r"dstate: expected a pair \(dh_n, dc_n\), got"):
        lstm.backward(tape, None, dstate)


@pytest.mark.parametrize("name", ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_hr_l0"))
def test_weights_of_other_shapes_are_refused(name):
    lstm = LSTM(2, 4, proj_size=3, seed=0)
    state = lstm.state_dict()
    for shape in ((1, 1), (16, 400), (0,), (), (4, 4, 4)):
        with pytest.raises(ValueError, match=rf"misshaped: {name}: expected \(.*\), got \("):
            lstm.load_state_dict({**state, name: np.ones(shape)})
        with pytest.raises(ValueError, match=rf"misshaped: {name}: expected \(.*\), got \("):
            lstm.replace_parameters({name: np.ones(shape, "f4")})


def test_a_tensor_that_requires_grad_is_refused_with_advice():
    torch = pytest.importorskip("torch")
    x = torch.zeros(3, 2, requires_grad=True)
    for call in (LSTM(2, 3), Linear(2, 3), Dropout(), Activation("relu"), Masking(), Sequential(LSTM(2, 3))):
        with pytest.raises(TypeError, match=r"(?s)x: expected .*detach\(\)"):
            call(x)
    assert LSTM(2, 3)(x.detach())[0].shape == (3, 3)
    layer = Linear(2, 3)
    with pytest.raises(TypeError, match=r"(?s)weight: expected .*detach\(\)"):
        layer.load_state_dict({"weight": torch.zeros(3, 2, requires_grad=True), "bias": np.zeros(3)})
