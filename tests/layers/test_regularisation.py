"""Recurrent dropout, zoneout, weight drop, learned initial states and orthogonal recurrent weights."""

import copy
import pickle

import numpy as np
import pytest
from common import (
    TOLERANCE,
    bits,
    every_dtype,
    every_gradient,
    every_implementation,
    every_packed,
    finite_difference,
    largest_error,
    random_case,
    random_mask,
    random_resets,
    reference_lstm,
    with_large_weights,
)

import lstm_cy
from lstm_cy import (
    LSTM,
    ActivationRegularization,
    Adam,
    Embedding,
    Linear,
    Sequential,
    StreamPool,
    config,
    fit,
)
from lstm_cy.layers.batch import Batch
from lstm_cy.layers.masks import draw
from lstm_cy.weights import native

OPTIONS = (
    {"recurrent_dropout": 0.3},
    {"zoneout": (0.3, 0.0)},
    {"zoneout": (0.0, 0.4)},
    {"zoneout": (0.2, 0.4), "recurrent_dropout": 0.25},
    {"weight_drop": 0.4},
    {"learn_initial_state": True},
    {"recurrent_dropout": 0.2, "zoneout": (0.1, 0.3), "weight_drop": 0.3, "learn_initial_state": True},
)
NETS = (
    {},
    {"bidirectional": True, "num_layers": 2},
    {"reverse": True, "bias": False},
    {"proj_size": 2, "proj_clip": 0.3, "num_layers": 2, "batch_first": True},
    {"peepholes": True, "coupled_gates": "f=1-i"},
    {"layer_norm": True, "cell_clip": 0.5, "activations": ("hardsigmoid", "elu", "softsign"), "bidirectional": True},
)
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "+".join(options))
every_net = pytest.mark.parametrize("net", NETS, ids=lambda net: "+".join(net) or "plain")
every_steps = pytest.mark.parametrize("steps", ("all", "lengths", "mask", "reset", "reset and mask"))


def steps_of(lstm, T, B, steps):
    """Return the arguments of a call that choose valid steps and resets."""
    found = {}
    if steps == "lengths":
        found["lengths"] = [(2 * row) % (T + 1) for row in range(B)]
    if "mask" in steps:
        found["mask"] = random_mask(T, B, lstm.batch_first)
    if "reset" in steps:
        if lstm.bidirectional or lstm.reverse:
            pytest.skip("only a layer that runs forwards has resets")
        found["reset"] = random_resets(T, B, lstm.batch_first)
    return found


def masks_of(lstm, T, B, seed):
    """Return the masks that a forward pass draws from a generator with this seed."""
    return draw(lstm, Batch(T, B, True, lstm.batch_first), np.random.default_rng(seed))


@every_implementation
@every_dtype
@every_net
@every_option
def test_calls_and_forward_passes_agree_with_the_reference(chosen, dtype, net, options):
    lstm = with_large_weights(LSTM(5, 9, dtype=dtype, seed=0, **net, **options))
    T, B = 7, 5
    x, state = random_case(lstm, T, B)
    for steps, given in (("all", None), ("lengths", state), ("mask", None)):
        arguments = steps_of(lstm, T, B, steps)
        expected = reference_lstm(lstm, x, given, **arguments)
        y, final = lstm(x, given, **arguments)
        for array, exact in zip((y, *final), expected, strict=True):
            assert largest_error(array, exact) <= 20 * TOLERANCE[dtype]
        expected = reference_lstm(lstm, x, given, **arguments, masks=masks_of(lstm, T, B, 3))
        y, final, _ = lstm.forward(x, given, **arguments, rng=3)
        for array, exact in zip((y, *final), expected, strict=True):
            assert largest_error(array, exact) <= 20 * TOLERANCE[dtype]


@every_steps
@pytest.mark.parametrize(
    ("engine", "net", "options"),
    [
        *(("packed", {}, options) for options in OPTIONS[:-1]),
        *((engine, net, OPTIONS[-1]) for engine in ("packed", "blas") for net in NETS),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value) or "plain",
)
def test_gradients_against_finite_differences(engine, net, options, steps):
    with config.using(engine=engine):
        lstm = LSTM(2, 4, dtype="float64", seed=5, **net, **options)
    for given in (True, False):
        assert_gradients(lstm, steps, given)


def assert_gradients(lstm, steps, given):
    T, B = 4, 3
    rng = np.random.default_rng(1)
    start = {name: rng.normal(size=array.shape) for name, array in lstm.parameters.items() if "initial" in name}
    lstm.load_state_dict(lstm.state_dict() | start)
    x, state = random_case(lstm, T, B, seed=2)
    state = state if given else None
    arguments = steps_of(lstm, T, B, steps)
    y, final, tape = lstm.forward(x, state, **arguments, rng=11)
    dy, dh, dc = (rng.standard_normal(array.shape) for array in (y, *final))
    got = every_gradient(lstm.backward(tape, dy, (dh, dc)))
    parameters = lstm.state_dict()

    def loss():
        lstm.load_state_dict(parameters)
        y, (h_n, c_n), _ = lstm.forward(x, state, **arguments, rng=11)
        return (y * dy).sum() + (h_n * dh).sum() + (c_n * dc).sum()

    for name, array in {"x": x, **({"h0": state[0], "c0": state[1]} if given else {}), **parameters}.items():
        # a short step has rounding errors, a longer one may reach a kink of a function: one of the two must agree
        expected = [finite_difference(loss, array, size) for size in (1e-5, 1e-4)]
        closest = min(expected, key=lambda exact: np.abs(got[name] - exact).max())
        assert largest_error(got[name], closest) <= 1e-8 or np.abs(got[name] - closest).max() <= 1e-10, name


@every_dtype
@every_net
def test_masks_and_results_are_the_same_on_any_number_of_threads(dtype, net):
    lstm = with_large_weights(LSTM(5, 33, dtype=dtype, seed=0, **net, **OPTIONS[-1]))
    x, _ = random_case(lstm, 40, 6)
    results = []
    for threads in (1, 2, 3):
        y, final, tape = lstm.forward(x, lengths=[40, 3, 0, 17, 40, 33], rng=5, threads=threads)
        gradients = lstm.backward(tape, y, final)
        results.append(bits(y, *final, gradients.x, *gradients.state, *gradients.parameters.values()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("options", OPTIONS[-1:] + OPTIONS[:1])
def test_both_engines_draw_the_same_masks(options):
    results = []
    for engine in ("packed", "blas"):
        with config.using(engine=engine):
            lstm = LSTM(5, 9, 2, dropout=0.3, dtype="float64", seed=0, **options)
            x, _ = random_case(lstm, 12, 4)
            results.append(lstm.forward(x, rng=5)[0])
    assert largest_error(*results) <= 1e-13


def test_options_at_zero_change_no_bit_and_no_random_number():
    plain = LSTM(5, 9, 2, dropout=0.3, seed=0)
    zero = LSTM(5, 9, 2, dropout=0.3, seed=0, recurrent_dropout=0, zoneout=(0, 0), weight_drop=0)
    x, state = random_case(plain, 7, 3)
    assert plain.config == zero.config
    generators = np.random.default_rng(1), np.random.default_rng(1)
    results = [lstm.forward(x, state, rng=rng)[0] for lstm, rng in zip((plain, zero), generators, strict=True)]
    assert bits(results[0], generators[0].random()) == bits(results[1], generators[1].random())


def test_recurrent_dropout_changes_no_bit_of_inference():
    plain, dropped = (LSTM(5, 33, seed=0, **options) for options in ({}, {"recurrent_dropout": 0.5}))
    x, state = random_case(plain, 7, 3)
    assert bits(plain(x, state)[0]) == bits(dropped(x, state)[0])


def test_recurrent_dropout_has_one_mask_for_all_steps_and_its_own_for_each_row():
    lstm = LSTM(1, 64, recurrent_dropout=0.5, seed=0)
    ((recurrent, _, _),) = masks_of(lstm, 9, 5, 0).steps
    assert recurrent.shape == (1, 5, 64)
    assert len({row.tobytes() for row in recurrent[0]}) == 5
    assert 0.35 < recurrent.mean() < 0.65
    # with everything dropped the steps do not depend on each other
    cut = LSTM(3, 8, recurrent_dropout=1.0, seed=0)
    x, state = random_case(cut, 5, 2)
    _, _, tape = cut.forward(x, state, rng=0)
    gradients = cut.backward(tape, np.ones((5, 2, 8), "float32"))
    assert not gradients.parameters["weight_hh_l0"].any()
    assert not gradients.state[0].any()


def test_zoneout_of_one_keeps_the_state():
    lstm = LSTM(3, 8, zoneout=(1.0, 1.0), seed=0)
    x, (h0, c0) = random_case(lstm, 5, 2)
    for y, final in (lstm(x, (h0, c0)), lstm.forward(x, (h0, c0), rng=0)[:2]):
        assert np.array_equal(y, np.broadcast_to(h0, (5, 2, 8)))
        assert np.array_equal(final[1], c0)


def test_a_call_is_the_expectation_of_zoneout():
    lstm = LSTM(3, 8, zoneout=(0.3, 0.1), dtype="float64", seed=0)
    x, state = random_case(lstm, 1, 2)
    rng = np.random.default_rng(0)
    mean = np.mean([lstm.forward(x, state, rng=rng)[0] for _ in range(4000)], axis=0)
    assert np.abs(mean - lstm(x, state)[0]).max() < 0.05


@every_packed
@every_dtype
@every_net
def test_steps_streams_and_chunks_give_the_bits_of_a_call(chosen, dtype, net):
    lstm = with_large_weights(LSTM(5, 17, dtype=dtype, seed=0, zoneout=(0.2, 0.4), learn_initial_state=True, **net))
    x, _ = random_case(lstm, 9, 3)
    y, final = lstm(x)
    again, *_ = lstm(x, threads=3)
    assert bits(again) == bits(y)
    if lstm.batch_first:
        x, y = x.swapaxes(0, 1), y.swapaxes(0, 1)
    alone, _ = lstm(x[:, 1])
    assert bits(alone) == bits(y[:, 1])
    if lstm.bidirectional or lstm.reverse:
        return
    stepper = lstm.stepper(3)
    assert bits(*(stepper.step(x_t) for x_t in x)) == bits(*y)
    assert bits(*stepper.state) == bits(*final)
    pool = StreamPool(lstm)
    ids = [pool.join() for _ in range(3)]
    assert bits(*(pool.step(ids, x_t) for x_t in x)) == bits(*y)
    trace = lstm.trace(x.swapaxes(0, 1) if lstm.batch_first else x)
    hidden, cell = (part.swapaxes(0, 1) if lstm.batch_first else part for part in (trace.hidden, trace.cell))
    assert bits(hidden) == bits(y)
    assert bits(cell[-1]) == bits(final[1][-1])


def learned(**options):
    """Return a layer with an initial state that is not zero."""
    return with_large_weights(LSTM(3, 8, learn_initial_state=True, seed=0, **options))


def initial_of(lstm, B):
    """Return the initial state as a call takes it, from the parameters by their names."""
    suffixes = [name.removeprefix("initial_h") for name in lstm.parameters if name.startswith("initial_h")]
    parts = (np.stack([lstm.parameters[part + suffix] for suffix in suffixes]) for part in ("initial_h", "initial_c"))
    return tuple(np.repeat(part[:, None], B, axis=1) for part in parts)


@pytest.mark.parametrize("net", ({}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 3, "peepholes": True}))
def test_a_learned_initial_state_is_that_of_a_call_without_state(net):
    lstm = learned(**net)
    assert [name for name in lstm.parameters if "initial" in name][:2] == ["initial_h_l0", "initial_c_l0"]
    x, state = random_case(lstm, 5, 4)
    initial = initial_of(lstm, 4)
    y, final = lstm(x)
    expected, end = lstm(x, initial)
    assert bits(y, *final) == bits(expected, *end)
    assert bits(lstm(x[:, 0])[0]) == bits(expected[:, 0])
    # rows without steps keep it
    _, (h_n, c_n) = lstm(x, lengths=[5, 0, 2, 0])
    assert bits(h_n[:, 1], c_n[:, 3]) == bits(initial[0][:, 1], initial[1][:, 3])
    # its gradients are the sums over the rows, and there are none where a state is given
    _, _, tape = lstm.forward(x)
    gradients = lstm.backward(tape, np.ones_like(y))
    for part, total in zip(("initial_h", "initial_c"), gradients.state, strict=True):
        own = [array for name, array in gradients.parameters.items() if name.startswith(part)]
        assert largest_error(np.stack(own), total.sum(axis=1)) <= 1e-5
    _, _, tape = lstm.forward(x, state)
    parameters = lstm.backward(tape, np.ones_like(y)).parameters
    assert not any(array.any() for name, array in parameters.items() if name.startswith("initial"))


def test_resets_return_to_the_learned_initial_state():
    lstm = learned(num_layers=2)
    x, state = random_case(lstm, 6, 3)
    reset = np.zeros((6, 3), bool)
    reset[2, 1] = reset[5, 2] = True
    y, _ = lstm(x, state, reset=reset)
    assert bits(y[2:, 1]) == bits(lstm(x[2:, 1])[0])
    # a reset after the last valid step
    mask = np.ones((6, 3), bool)
    mask[4:, 2] = False
    _, (h_n, c_n) = lstm(x, state, reset=reset, mask=mask)
    assert bits(h_n[:, 2], c_n[:, 2]) == bits(*(part[:, 2] for part in initial_of(lstm, 3)))
    initial = initial_of(lstm, 2)
    stepper = lstm.stepper(2)
    assert bits(*stepper.state) == bits(*initial)
    stepper.step(x[0, :2])
    stepper.reset(1)
    assert bits(*(part[:, 1] for part in stepper.state)) == bits(*(part[:, 1] for part in initial))
    assert not np.array_equal(stepper.state[0][:, 0], initial[0][:, 0])
    stepper.reset()
    assert bits(*stepper.state) == bits(*initial)


def test_streams_begin_with_the_learned_initial_state_and_return_to_it():
    model = Sequential(learned(), Linear(8, 2, seed=0))
    pool = StreamPool(model)
    first, second = pool.join(), pool.join()
    initial = [part[:, 0] for part in initial_of(model.layers[0], 1)]
    assert bits(*pool.state(first)[0]) == bits(*initial)
    x = np.ones((2, 3), "float32")
    pool.step([first, second], x)
    pool.reset(first)
    assert bits(*pool.state(first)[0]) == bits(*initial)
    assert bits(*pool.state(second)[0]) != bits(*initial)
    pool.reset()
    pool.leave(first)
    third = pool.join()
    for stream in (second, third):
        assert bits(*pool.state(stream)[0]) == bits(*initial)
    for other in (pool.copy(), pickle.loads(pickle.dumps(pool))):
        assert bits(other.step([second], x[:1])) == bits(model(x[:1])[0])


@pytest.mark.parametrize("kind", ("bf16", "int8"))
def test_narrow_weights_keep_the_options(kind):
    lstm = learned(zoneout=(0.2, 0.3), num_layers=2)
    narrow = lstm.quantize(kind)
    x, _ = random_case(lstm, 9, 3)
    y, _ = narrow(x)
    wide = LSTM(3, 8, 2, learn_initial_state=True, zoneout=(0.2, 0.3))
    wide.load_state_dict(narrow.state_dict())
    assert largest_error(y, wide(x)[0]) <= (1e-2 if kind == "bf16" else 5e-2)
    stepper = narrow.stepper(3)
    assert bits(*(stepper.step(x_t) for x_t in x)) == bits(*y)


@pytest.mark.parametrize("suffix", (".npz", ".safetensors"))
@every_option
def test_files_pickles_and_copies_keep_options_and_parameters(tmp_path, options, suffix):
    lstm = with_large_weights(LSTM(3, 8, 2, seed=0, **options))
    path = tmp_path / f"model{suffix}"
    lstm_cy.save(lstm, path)
    x, _ = random_case(lstm, 5, 2)
    for other in (lstm_cy.load(path), pickle.loads(pickle.dumps(lstm)), copy.copy(lstm), copy.deepcopy(lstm)):
        assert other.config == lstm.config
        assert repr(other) == repr(lstm)
        assert bits(*other.parameters.values()) == bits(*lstm.parameters.values())
        assert bits(other.forward(x, rng=1)[0]) == bits(lstm.forward(x, rng=1)[0])
        for name, value in options.items():
            assert getattr(other, name) == value
            with pytest.raises(AttributeError, match=f"{name}: read-only"):
                setattr(other, name, value)


def test_files_of_layers_without_the_options_are_as_before():
    assert not {"recurrent_dropout", "zoneout", "weight_drop", "learn_initial_state"} & set(LSTM(3, 4).config)


@pytest.mark.parametrize("net", ({}, {"proj_size": 5, "num_layers": 2, "bidirectional": True}))
def test_orthogonal_recurrent_weights(net):
    lstm = LSTM(3, 9, recurrent_init="orthogonal", dtype="float64", seed=0, **net)
    width = lstm.proj_size or 9
    gates = [
        gate for name, array in lstm.parameters.items() if name.startswith("weight_hh") for gate in np.split(array, 4)
    ]
    for gate in gates:
        assert np.abs(gate.T @ gate - np.eye(width)).max() < 1e-14
    assert len({gate.tobytes() for gate in gates}) == len(gates)
    again = LSTM(3, 9, recurrent_init="orthogonal", dtype="float64", seed=0, **net)
    assert bits(*again.parameters.values()) == bits(*lstm.parameters.values())
    assert "recurrent_init" not in lstm.config


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recurrent_dropout": 1.5}, ValueError, r"recurrent_dropout: expected a number in \[0.0, 1.0\], got 1.5"),
        ({"recurrent_dropout": "0.5"}, TypeError, "recurrent_dropout: expected a number"),
        ({"zoneout": 0.1}, TypeError, r"zoneout: expected a pair \(for h, for c\), got float"),
        ({"zoneout": (0.1, -1)}, ValueError, "zoneout for c: expected a number"),
        ({"zoneout": (None, 0)}, TypeError, "zoneout for h: expected a number"),
        ({"weight_drop": np.nan}, ValueError, "weight_drop: expected a number"),
        ({"learn_initial_state": 1}, TypeError, "learn_initial_state: expected True or False"),
        ({"recurrent_init": "glorot"}, ValueError, "recurrent_init: expected"),
    ],
)
def test_constructor_errors(options, error, message):
    with pytest.raises(error, match=message):
        LSTM(3, 4, **options)


@every_option
def test_fit_trains_and_repeats_itself(options):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 16, 3)).astype("float32")
    data = x, x.cumsum(axis=0)[..., :2]

    def trained():
        model = Sequential(LSTM(3, 8, seed=0, **options), Linear(8, 2, seed=1))
        history = fit(model, data, loss=lstm_cy.mse, optimizer=Adam(model, 0.01), epochs=3, batch_size=8, seed=4)
        return history.loss, model.parameters

    (loss, parameters), (again, others) = trained(), trained()
    assert loss == again
    assert loss[-1] < loss[0]
    assert bits(*parameters.values()) == bits(*others.values())
    for name in parameters:
        if "initial" in name:
            assert parameters[name].any()


def test_backward_refuses_a_tape_of_other_parameters():
    lstm = LSTM(3, 4, weight_drop=0.5, seed=0)
    x, _ = random_case(lstm, 5, 2)
    y, _, tape = lstm.forward(x, rng=0)
    lstm.load_state_dict(lstm.state_dict())
    with pytest.raises(RuntimeError, match="the parameters have changed"):
        lstm.backward(tape, y)


def keras_forward(keras, layer, x, masks):
    """Call a Keras LSTM in training with these factors of h, in the order of its cells, the same for all four gates."""
    cells = [layer.forward_layer.cell, layer.backward_layer.cell] if hasattr(layer, "forward_layer") else [layer.cell]
    for cell, factors in zip(cells, masks, strict=True):
        cell.get_recurrent_dropout_mask = lambda h, factors=factors: [keras.ops.convert_to_tensor(factors)] * 4
    return keras.ops.convert_to_numpy(layer(x, training=True))


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("bidirectional", (False, True))
def test_recurrent_dropout_agrees_with_keras(bidirectional, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras has another backend")
    inner = keras.layers.LSTM(6, return_sequences=True, recurrent_dropout=0.4)
    model = keras.Sequential(
        [keras.layers.Input((7, 3)), keras.layers.Bidirectional(inner) if bidirectional else inner]
    )
    lstm = lstm_cy.from_keras(model).layers[0]
    assert lstm.recurrent_dropout == 0.4
    x, _ = random_case(lstm, 7, 5)
    ((recurrent, _, _),) = masks_of(lstm, 7, 5, 3).steps
    factors = np.split(recurrent[:, 0] / np.float32(0.6), lstm.num_directions, axis=1)
    expected = keras_forward(keras, model.layers[-1], x, factors)
    assert largest_error(lstm.forward(x, rng=3)[0], expected) <= 1e-5


def tied_model(dtype="float32", bias=True, **options):
    embedding = Embedding(11, 6, dtype=dtype, seed=0)
    lstm = LSTM(6, 6, dtype=dtype, seed=1, **options)
    return Sequential(embedding, lstm, Linear(6, 11, tied=embedding, bias=bias, dtype=dtype, seed=2))


def untied(model):
    """Return a model with the same numbers whose Linear has its own weight."""
    embedding, lstm, linear = model.layers
    other = Linear(6, 11, bias=linear.bias, dtype=linear.dtype)
    other.load_state_dict({"weight": embedding.parameters["weight"], **linear.parameters})
    return Sequential(embedding, lstm, other)


@every_implementation
@every_dtype
@pytest.mark.parametrize("bias", (True, False))
def test_a_tied_model_is_that_of_equal_weights(chosen, dtype, bias):
    model = tied_model(dtype, bias)
    twin = untied(model)
    assert [name for name in model.parameters if "_l0" not in name] == ["0.weight", "2.bias"][: 1 + bias]
    tokens = np.random.default_rng(0).integers(0, 11, (7, 3))
    y, _, tape = model.forward(tokens)
    expected, _, other = twin.forward(tokens)
    assert bits(y, model(tokens)[0]) == bits(expected, expected)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    got, parts = (one.backward(kept, dy).parameters for one, kept in ((model, tape), (twin, other)))
    assert list(got) == list(model.parameters)
    assert bits(got["0.weight"]) == bits(parts["2.weight"] + parts["0.weight"])
    for name in set(got) - {"0.weight"}:
        assert bits(got[name]) == bits(parts[name])


def test_gradient_of_a_tied_weight_against_finite_differences():
    model = tied_model("float64")
    tokens = np.random.default_rng(0).integers(0, 11, (5, 2))
    y, _, tape = model.forward(tokens)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    got = model.backward(tape, dy).parameters
    parameters = model.state_dict()

    def loss():
        model.load_state_dict(parameters)
        return (model(tokens)[0] * dy).sum()

    for name, array in parameters.items():
        assert largest_error(got[name], finite_difference(loss, array, 1e-5)) <= 1e-8, name


@pytest.mark.parametrize("optimizer", (lstm_cy.SGD, Adam))
def test_optimizers_and_norms_count_a_tied_weight_once(optimizer):
    model = tied_model()
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    y, _, tape = model.forward(tokens)
    gradients = model.backward(tape, np.ones_like(y)).parameters
    norm = np.sqrt(sum(np.square(array.astype("float64")).sum() for array in gradients.values()))
    assert abs(lstm_cy.clip_grad_norm(dict(gradients), 1e9) - norm) <= 1e-5 * norm
    before = model(tokens)[0]
    optimizer(model, 0.1).step(gradients)
    embedding, _, linear = model.layers
    assert linear.weight is embedding._parameters["weight"]
    assert not np.array_equal(model(tokens)[0], before)
    assert bits(model(tokens)[0]) == bits(untied(model)(tokens)[0])
    with pytest.raises(RuntimeError, match="the parameters have changed"):
        model.backward(tape, np.ones_like(y))


def torch_twin(torch, model, padding_idx):
    """Return PyTorch's modules with the weights of a tied model, and their parameters under the model's names."""
    sizes = {"dtype": torch.float64}
    first, recurrent = torch.nn.Embedding(11, 6, padding_idx, **sizes), torch.nn.LSTM(6, 6, **sizes)
    modules = first, recurrent, torch.nn.Linear(6, 11, **sizes)
    modules[2].weight = modules[0].weight
    named = {f"{i}.{name}": one for i, part in enumerate(modules) for name, one in part.named_parameters()}
    named = {name: named[name] for name in model.parameters}
    with torch.no_grad():
        for name, array in model.parameters.items():
            named[name].copy_(torch.tensor(array))
    return modules, named


@pytest.mark.parametrize("case", ("decay", "groups and norm", "padding"))
def test_training_of_a_tied_weight_is_that_of_pytorch(case):
    torch = pytest.importorskip("torch")
    padding_idx = 3 if case == "padding" else None
    embedding = Embedding(11, 6, dtype="float64", seed=0, padding_idx=padding_idx)
    lstm = LSTM(6, 6, dtype="float64", seed=1)
    model = Sequential(embedding, lstm, Linear(6, 11, tied=embedding, dtype="float64", seed=2))
    (first, recurrent, last), named = torch_twin(torch, model, padding_idx)
    biases = [one for one in named.values() if one.ndim < 2]
    matrices = [one for name, one in named.items() if one.ndim > 1 and name != "0.weight"]
    table = {"params": [named["0.weight"]]}
    ours = {"weight_decay": 0.3, "decay_biases": False}
    if case == "groups and norm":
        ours["groups"] = [{"parameters": "0.*", "lr": 0.05, "weight_decay": 0.1}]
        table |= {"lr": 0.05, "weight_decay": 0.1}
    theirs = torch.optim.AdamW(
        [table, {"params": matrices}, {"params": biases, "weight_decay": 0.0}], lr=0.01, weight_decay=0.3
    )
    tokens, target = np.random.default_rng(0).integers(0, 11, (2, 6, 4))
    norm = 0.1 if case == "groups and norm" else np.inf
    fit(
        model,
        (tokens, target),
        loss=lstm_cy.cross_entropy,
        optimizer=lstm_cy.AdamW(model, 0.01, **ours),
        epochs=5,
        shuffle=False,
        clip_norm=norm,
        progress=False,
    )
    for _ in range(5):
        theirs.zero_grad()
        scores = last(recurrent(first(torch.tensor(tokens)))[0])
        torch.nn.functional.cross_entropy(scores.reshape(-1, 11), torch.tensor(target).reshape(-1)).backward()
        whole = np.sqrt(sum(float(one.grad.square().sum()) for one in named.values()))
        for one in named.values():
            one.grad *= min(1.0, norm / whole)
        theirs.step()
    for name, array in model.parameters.items():
        assert largest_error(array, named[name].detach().numpy()) <= 1e-12, name


@pytest.mark.parametrize("how", ("pattern", "layer"))
def test_a_frozen_tied_weight_stays(how):
    embedding = Embedding(11, 6, seed=0, frozen=how == "layer")
    model = Sequential(embedding, LSTM(6, 6, seed=1), Linear(6, 11, tied=embedding, seed=2))
    before = model.parameters
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    optimizer = Adam(model, 0.1, frozen="0.*" if how == "pattern" else ())
    fit(model, (tokens, tokens), loss=lstm_cy.cross_entropy, optimizer=optimizer, epochs=2, progress=False)
    assert model.layers[2].weight is model.parameters["0.weight"] is before["0.weight"]
    assert all(array is not before[name] for name, array in model.parameters.items() if name != "0.weight")


@pytest.mark.parametrize("kind", ("bf16", "int8"))
def test_a_tied_model_with_narrow_weights_keeps_the_tie(kind, tmp_path):
    model = tied_model()
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    narrow = model.quantize(kind)
    lstm_cy.save(narrow, tmp_path / "narrow.npz")
    for one in (narrow, lstm_cy.load(tmp_path / "narrow.npz")):
        assert one.layers[2].tied is one.layers[0]
        assert bits(one(tokens)[0]) == bits(narrow(tokens)[0])
    assert largest_error(narrow(tokens)[0], model(tokens)[0]) < 0.05


@pytest.mark.parametrize("bias", (True, False))
def test_a_tied_weight_of_pytorch_is_tied(bias):
    torch = pytest.importorskip("torch")
    parts = torch.nn.Embedding(11, 6, padding_idx=2), torch.nn.LSTM(6, 6), torch.nn.Linear(6, 11, bias=bias)
    parts[2].weight = parts[0].weight
    model = lstm_cy.from_torch(torch.nn.Sequential(*parts))
    assert model.layers[2].tied is model.layers[0]
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    with torch.no_grad():
        expected = parts[2](parts[1](parts[0](torch.tensor(tokens)))[0]).numpy()
    assert largest_error(model(tokens)[0], expected) <= TOLERANCE["float32"] * 10


@pytest.mark.parametrize("suffix", (".npz", ".safetensors"))
def test_files_pickles_and_copies_keep_the_tie(tmp_path, suffix):
    model = tied_model()
    path = tmp_path / f"model{suffix}"
    lstm_cy.save(model, path)
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    expected = model(tokens)[0]
    stepper = model.stepper(4)
    for other in (lstm_cy.load(path), pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert other.layers[2].tied is other.layers[0]
        assert other.layers[0] is not model.layers[0]
        assert other.config == model.config
        assert list(other.parameters) == list(model.parameters)
        assert bits(other(tokens)[0]) == bits(expected)
        other.load_state_dict({name: array + 1 for name, array in other.parameters.items()})
        assert bits(other(tokens)[0]) == bits(untied(other)(tokens)[0])
    assert bits(model(tokens)[0]) == bits(expected)
    model.load_state_dict({name: array + 1 for name, array in model.parameters.items()})
    assert bits(*(stepper.step(step) for step in tokens)) == bits(*expected)


def test_a_tied_model_in_other_formats(tmp_path):
    model = tied_model()
    state = lstm_cy.weights.pytorch.to_state_dict(model)
    assert bits(state["2.weight"]) == bits(state["0.weight"])
    pytest.importorskip("onnx")
    lstm_cy.save(model, tmp_path / "model.onnx")
    tokens = np.random.default_rng(0).integers(0, 11, (6, 4))
    read = lstm_cy.load(tmp_path / "model.onnx").run({"tokens": tokens}, ["y"])[0]
    assert np.abs(read - model(tokens)[0]).max() < 1e-5


def test_errors_of_tied_layers():
    embedding = Embedding(11, 6, seed=0)
    with pytest.raises(TypeError, match="tied: expected an Embedding, got 3"):
        Linear(6, 11, tied=3)
    with pytest.raises(TypeError, match="tied: expected an Embedding, got Linear"):
        Linear(6, 11, tied=Linear(6, 11))
    with pytest.raises(
        ValueError, match=r"tied: expected an Embedding of out_features vectors of in_features, \(11, 5\)"
    ):
        Linear(5, 11, tied=embedding)
    with pytest.raises(ValueError, match="tied: expected an Embedding of dtype float64, got float32"):
        Linear(6, 11, tied=embedding, dtype="float64")
    linear = Linear(6, 11, tied=embedding, seed=0)
    with pytest.raises(ValueError, match="layers: expected the Embedding too"):
        Sequential(Embedding(11, 6), LSTM(6, 6), linear)
    with pytest.raises(AttributeError, match="tied: read-only"):
        linear.tied = None
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        linear.other  # noqa: B018
    assert "tied=Embedding(11, 6)" in repr(linear)


@pytest.mark.parametrize("tied", (1, -1, True, "0", [0]))
def test_files_with_a_wrong_tie_are_refused(tied):
    described = tied_model().config["layers"]
    described[2]["tied"] = tied
    with pytest.raises((TypeError, ValueError), match="tied: expected"):
        native.build({"type": "Sequential", "layers": described})


def slow_penalty(layer, x, valid, reset):
    """Return the penalties by their definition; all arrays have the time axis first."""
    T, B, _ = x.shape
    sizes, changes = [], []
    for row in range(B):
        last = None
        for t in range(T):
            if reset[t, row]:
                last = None
            if valid[t, row]:
                sizes.append(x[t, row] ** 2)
                if last is not None:
                    changes.append((x[t, row] - last) ** 2)
                last = x[t, row]
    return layer.ar * np.mean(sizes) + layer.tar * np.mean(changes)


@pytest.mark.parametrize("batch_first", (False, True))
@pytest.mark.parametrize("steps", ("all", "lengths", "mask", "reset", "reset and mask"))
def test_activation_regularisation_by_its_definition(steps, batch_first):
    layer = ActivationRegularization(2.0, 1.5, batch_first=batch_first)
    T, B = 6, 5
    x = np.random.default_rng(0).standard_normal((T, B, 3))
    valid, reset, arguments = np.ones((T, B), bool), np.zeros((T, B), bool), {}
    if steps == "lengths":
        arguments["lengths"] = [6, 0, 3, 1, 5]
        valid = np.arange(T)[:, None] < np.array(arguments["lengths"])
    if "mask" in steps:
        valid = random_mask(T, B)
        arguments["mask"] = valid.T if batch_first else valid
    if "reset" in steps:
        reset = random_resets(T, B)
        arguments["reset"] = reset.T if batch_first else reset
    given = x.swapaxes(0, 1).copy() if batch_first else x
    expected = slow_penalty(layer, x, valid, reset)
    assert abs(layer.penalty(given, **arguments) - expected) <= 1e-12
    assert layer(given) is given
    y, tape = layer.forward(given, **arguments)
    assert bits(y) == bits(given)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    got = layer.backward(tape, dy).x - dy
    exact = finite_difference(lambda: layer.penalty(given, **arguments), given, 1e-4)
    assert np.abs(got - exact).max() <= 1e-9


def test_activation_regularisation_in_a_model(tmp_path):
    model = Sequential(LSTM(3, 8, seed=0), ActivationRegularization(ar=2.0, tar=1.0), Linear(8, 2, seed=1))
    plain = Sequential(model.layers[0], model.layers[2])
    x, _ = random_case(model.layers[0], 7, 3)
    lengths = [7, 0, 4]
    assert bits(model(x)[0]) == bits(plain(x)[0])
    y, _, tape = model.forward(x, lengths=lengths)
    gradients = model.backward(tape, np.zeros_like(y))
    _, tape = model.layers[1].forward(model.layers[0](x, lengths=lengths)[0], lengths=lengths)
    _, _, own = model.layers[0].forward(x, lengths=lengths)
    expected = model.layers[0].backward(own, model.layers[1].backward(tape, np.zeros((7, 3, 8), "float32")).x)
    assert gradients.parameters["0.weight_hh_l0"].any()
    assert bits(gradients.parameters["0.weight_hh_l0"]) == bits(expected.parameters["weight_hh_l0"])
    stepper = model.stepper(3)
    assert bits(*(stepper.step(x_t) for x_t in x)) == bits(*model(x)[0])
    lstm_cy.save(model, tmp_path / "model.npz")
    assert lstm_cy.load(tmp_path / "model.npz").config == model.config
    assert np.isfinite(lstm_cy.mse(y, y)[0])
    assert lstm_cy.ActivationRegularization(1.0).penalty(x[:, :0]) == 0
    with pytest.raises(ValueError, match="every LSTM and Readout with batch_first or none"):
        Sequential(LSTM(3, 8), ActivationRegularization(1.0, batch_first=True))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ar": -1}, ValueError, "ar: expected a number"),
        ({"tar": np.inf}, ValueError, "tar: expected a number"),
        ({"tar": None}, TypeError, "tar: expected a number"),
        ({"batch_first": 1}, TypeError, "batch_first: expected True or False"),
    ],
)
def test_errors_of_activation_regularisation(options, error, message):
    with pytest.raises(error, match=message):
        ActivationRegularization(**options)
    layer = ActivationRegularization(1.0)
    with pytest.raises(TypeError, match="x: expected floats with two or three axes"):
        layer.forward([[1, 2]])
    with pytest.raises(ValueError, match="mask: expected shape"):
        layer.forward(np.ones((4, 3, 2)), mask=np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="mask: expected None together with lengths, got both"):
        layer.penalty(np.ones((4, 3, 2)), mask=np.ones((4, 3), bool), lengths=[1, 2, 3])
    with pytest.raises(ValueError, match=r"reset: expected shape \(T, B\)"):
        layer.penalty(np.ones((4, 3, 2)), reset=np.ones((3, 4), bool))
    assert layer.penalty(np.ones((0, 3, 2))) == layer.penalty(np.ones((0, 2))) == 0
