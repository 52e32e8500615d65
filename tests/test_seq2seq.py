"""Seq2Seq: gradients, padding, translation compared with calls of the whole model, training by fit, files."""

import copy
import json
import pickle
from fnmatch import fnmatch

import numpy as np
import pytest
from common import assert_close, bits, finite_difference

from lstm_cy import LSTM, Adam, Attention, Embedding, Linear, Seq2Seq, cross_entropy, fit, load, save
from lstm_cy.layers.activations import tanh
from lstm_cy.layers.attention import SCORES
from lstm_cy.seq2seq import teach
from lstm_cy.weights.containers.npz import write_npz

V = 7
SOURCES = [[3, 4, 5, 6], [2], [], [6, 6, 3]]
TARGETS = [[4], [5, 2, 3, 6, 4], [3, 3], []]


def small_model(**options):
    return Seq2Seq(V, **{"embedding_dim": 3, "hidden_size": 4, "dtype": "float64", "seed": 0, **options})


def sharp_model(**options):
    """Return a model with weights so large that every input changes the output."""
    model = small_model(hidden_size=16, **options)
    model.load_state_dict({name: 4 * array for name, array in model.parameters.items()})
    return model


@pytest.mark.parametrize(
    "options", ({}, {"score": "general"}, {"score": "dot"}, {"num_layers": 2, "dropout": 0.4}), ids=repr
)
def test_gradients(options):
    model = small_model(**options)
    pairs, target = teach(SOURCES, TARGETS, start=0, end=1)
    parameters = model.state_dict()

    def run():
        model.load_state_dict(parameters)
        logits, states, tape = model.forward(pairs, rng=9)
        assert states is None
        return *cross_entropy(logits, target), tape

    _, gradient, tape = run()
    got = model.backward(tape, gradient)
    assert got.x is None
    assert list(got.parameters) == list(model.parameters)
    for name, array in parameters.items():
        assert_close(got.parameters[name], finite_difference(lambda: run()[0], array), name)


@pytest.mark.parametrize("score", SCORES)
def test_a_pair_gives_the_same_result_in_any_batch(score):
    model = sharp_model(score=score, num_layers=2)
    pairs, _ = teach(SOURCES, TARGETS, start=0, end=1)
    logits, _ = model(pairs)
    assert logits.shape == (4, 6, V)
    assert bits(model.forward(pairs)[0]) == bits(logits)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        alone, _ = model(teach([source], [target], start=0, end=1)[0])
        steps = len(target) + 1
        assert np.abs(logits[row, :steps] - alone[0, :steps]).max() < 1e-12
        assert not logits[row, steps:].any()
    wider = np.pad(pairs, ((0, 0), (0, 0), (0, 3)), constant_values=-1)
    assert np.abs(model(wider)[0][:, :6] - logits).max() < 1e-12
    assert not model(wider)[0][:, 6:].any()
    _, _, tape = model.forward(wider)
    dy = np.random.default_rng(0).standard_normal((4, 9, V))
    expected = model.backward(tape, dy).parameters
    dy[:, 6:] = np.nan
    dy[1, 6:] = np.nan
    for name, array in model.backward(tape, dy).parameters.items():  # gradients of padding are not read
        assert np.array_equal(array, expected[name])


def greedy_by_the_whole_model(model, source, length):
    """Return the likeliest tokens, each from a call of the whole model."""
    tokens = []
    for _ in range(length):
        logits, _ = model(teach([source], [tokens], start=0, end=1)[0])
        logits[0, len(tokens), 1] = -np.inf
        tokens.append(int(logits[0, len(tokens)].argmax()))
    return tokens


@pytest.mark.parametrize("num_layers", (1, 2))
@pytest.mark.parametrize("score", SCORES)
def test_translate_agrees_with_the_whole_model(score, num_layers):
    model = sharp_model(score=score, num_layers=num_layers)
    bias = model.parameters["readout.bias"].copy()
    bias[1] = -np.inf  # never ends
    model.load_state_dict({"readout.bias": bias}, strict=False)
    scores = set()
    for source in ([2, 3, 4, 5, 6], [6, 5], [3] * 9):
        (best,) = model.translate(source, start=0, end=1, beam_width=1, max_length=12)
        assert best.tokens.tolist() == greedy_by_the_whole_model(model, source, 12)
        assert not best.ended
        scores.add(round(best.score, 6))
    assert len(scores) == 3


def test_scores_of_a_beam_agree_with_the_whole_model():
    model = sharp_model()
    found = model.translate([2, 3, 4], start=0, end=1, beam_width=6, max_length=5)
    assert len(found) == 6
    for hypothesis in found:
        pairs, target = teach([[2, 3, 4]], [hypothesis.tokens], start=0, end=1)
        counted = len(hypothesis.tokens) + hypothesis.ended
        target[0, counted:] = -100
        mean, _ = cross_entropy(model(pairs)[0], target)
        assert -mean * counted == pytest.approx(hypothesis.log_probability, rel=1e-9)


def test_align_returns_the_attention_weights():
    model = sharp_model()
    weights = model.align([2, 3, 4], [5, 6], start=0)
    assert weights.shape == (3, 3)
    assert np.allclose(weights.sum(axis=1), 1)
    assert np.array_equal(model.align([2, 3, 4], [5], start=0), weights[:2])
    assert model.align([2, 3, 4], [], start=0).shape == (1, 3)


def test_fit_trains_and_resumes(tmp_path):
    rng = np.random.default_rng(0)
    words = [rng.integers(2, V, rng.integers(1, 5)).tolist() for _ in range(600)]
    data = teach(words, [word[::-1] for word in words], start=0, end=1)
    keywords = {"loss": cross_entropy, "progress": False, "clip_norm": 1.0}
    keywords["validation"] = tuple(part[:50] for part in data)

    def fresh():
        model = small_model(hidden_size=24, embedding_dim=8, dtype="float32")
        return model, Adam(model, lr=0.01)

    model, optimizer = fresh()
    history = fit(model, data, optimizer=optimizer, epochs=3, **keywords)
    assert history.validation[-1] < 0.6 * history.validation[0]

    path = tmp_path / "checkpoint.npz"
    first, optimizer = fresh()
    fit(first, data, optimizer=optimizer, epochs=1, checkpoint=path, **keywords)
    second, optimizer = fresh()
    resumed = fit(second, data, optimizer=optimizer, epochs=3, checkpoint=path, resume=True, **keywords)
    assert resumed.loss == history.loss
    assert bits(*second.parameters.values()) == bits(*model.parameters.values())

    save(model, tmp_path / "model.npz", metadata={"of": "words"})
    read = load(tmp_path / "model.npz", strict=True)
    assert read.metadata == {"of": "words"}
    assert read.config == model.config
    assert bits(read(data[0])[0]) == bits(model(data[0])[0])


def test_a_file_header_with_too_large_sizes_is_refused(tmp_path):
    model = small_model()
    model._config["hidden_size"] = 10**7
    save(model, tmp_path / "model.npz")
    with pytest.raises(ValueError, match="the architecture needs [0-9]{15,} weights"):
        load(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    (
        ({"num_tokens": None}, "num_embeddings"),
        ({"hidden_size": 1}, "hidden_size"),
        ({"hidden_size": "4"}, "unsupported operand"),
        ({"num_layers": 10**9}, "the architecture needs"),
        ({"score": "location"}, "score"),
        ({"dropout": "much"}, "dropout"),
        ({"weights": "int4"}, "weights: expected"),
        ({"weights": "int8"}, "missing: encoder.weight_ih_l0_scale|encoder.weight_ih_l0: expected int8"),
        ({"units": 3}, "unexpected keyword"),
        ("dtype", "dtype"),
    ),
    ids=repr,
)
def test_a_hostile_configuration_raises_one_error(change, message, tmp_path):
    model = small_model(dtype="float32")
    config = {"type": "Seq2Seq", **model.config}
    if isinstance(change, str):
        del config[change]
    else:
        config |= change
    header = json.dumps({"format": "lstm_cy", "version": 1, "model": config, "metadata": {}}).encode()
    write_npz(tmp_path / "model.npz", {"lstm_cy": np.frombuffer(header, np.uint8), **model.stored()})
    with pytest.raises(ValueError, match=f"model.npz: .*{message}"):
        load(tmp_path / "model.npz")


def test_initial_parameters_come_from_the_seed_and_config_rebuilds_the_model():
    assert bits(*small_model().parameters.values()) == bits(*small_model().parameters.values())
    assert bits(*small_model().parameters.values()) != bits(*small_model(seed=1).parameters.values())
    model = small_model(num_layers=2, score="general")
    twin = Seq2Seq(**model.config)
    assert {name: array.shape for name, array in twin.parameters.items()} == {
        name: array.shape for name, array in model.parameters.items()
    }
    assert list(model.parameters)[:2] == ["source.weight", "encoder.weight_ih_l0"]


PAIRS, _ = teach(SOURCES, TARGETS, start=0, end=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    (
        (lambda: small_model(hidden_size=5), ValueError, "hidden_size: expected an even number"),
        (lambda: small_model(hidden_size=0), ValueError, "hidden_size: expected at least 1"),
        (lambda: small_model(embedding_dim="a"), TypeError, "embedding_dim: expected an integer"),
        (lambda: small_model(score="location"), ValueError, "score: expected"),
        (lambda: small_model(dropout=2), ValueError, "dropout: expected"),
        (lambda: small_model(dtype="int8"), ValueError, "dtype: expected"),
        (lambda: small_model()(PAIRS[0]), ValueError, "pairs: expected shape \\(B, 2, N\\), got \\(2, 6\\)"),
        (lambda: small_model()(PAIRS * 1.0), TypeError, "pairs: expected integers"),
        (lambda: small_model()(PAIRS[..., ::-1]), ValueError, "pairs: expected padding, -1, only after the tokens"),
        (lambda: small_model()(PAIRS + 6 * (PAIRS > 0)), ValueError, "tokens: expected 0 to num_embeddings - 1 = 6"),
        (lambda: small_model()(PAIRS, lengths=[1] * 4), ValueError, "states, lengths: expected None"),
        (
            lambda: small_model().backward(small_model().forward(PAIRS)[2], np.zeros((4, 3, V))),
            ValueError,
            "dy: expected the shape of the logits, \\(4, N, 7\\), got \\(4, 3, 7\\)",
        ),
        (lambda: small_model().translate([[2]], start=0, end=1), ValueError, "source: expected shape \\(N,\\), got"),
        (lambda: small_model().translate([2], start=0, end=7), ValueError, "step: expected log-probabilities"),
        (lambda: small_model().align([2], [2.5], start=0), TypeError, "tokens: expected integers"),
        (lambda: small_model().align([2], [[2]], start=0), ValueError, "tokens: expected shape \\(N,\\), got"),
        (lambda: small_model().align([2], [2], start=0.5), TypeError, "start: expected an integer"),
        (lambda: small_model().align([2], [2], start=-1), ValueError, "start: expected at least 0"),
        (
            lambda: teach(None, [[1]], start=0, end=1),
            TypeError,
            "sources: expected a list of sequences",
        ),
        (
            lambda: teach([[1]], [2], start=0, end=1),
            TypeError,
            "targets: expected a list of sequences",
        ),
        (lambda: teach(["text"], [[1]], start=0, end=1), TypeError, r"sequences\[0\]: expected real numbers"),
        (lambda: teach([[1]], [], start=0, end=1), ValueError, "targets: expected 1, one for each source, got 0"),
        (lambda: teach([], [], start=0, end=1), ValueError, "sequences: expected at least one"),
        (lambda: teach([[0.5]], [[1]], start=0, end=1), TypeError, "tokens: expected integers"),
        (lambda: teach([[2]], [[1]], start=-1, end=1), ValueError, "start: expected at least 0"),
    ),
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_tape_is_refused_after_a_change_of_parameters():
    model = small_model()
    logits, _, tape = model.forward(PAIRS)
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="parameters have changed"):
        model.backward(tape, logits)


# Narrow weights, traces, frozen parameters


def parts_of(model):
    """Return layers with the parameters of a Seq2Seq, by name."""
    V, E, H, L = model.num_tokens, model.embedding_dim, model.hidden_size, model.num_layers
    layers = {
        "source": Embedding(V, E),
        "encoder": LSTM(E, H // 2, L, bidirectional=True),
        "target": Embedding(V, E),
        "decoder": LSTM(E, H, L),
        "attention": Attention(H, H, score=model.score),
        "combine": Linear(2 * H, H),
        "readout": Linear(H, V),
    }
    for name, layer in layers.items():
        own = {key.partition(".")[2]: a for key, a in model.parameters.items() if key.partition(".")[0] == name}
        layer.load_state_dict(own)
    return layers


def sides(pairs):
    """Return tokens (T, B) without padding of all rows, and lengths, of the source and of the decoder's input."""
    lengths = (pairs >= 0).sum(axis=2)
    return [(np.maximum(pairs[:, side, : lengths[:, side].max()], 0).T, lengths[:, side]) for side in (0, 1)]


def joined(state):
    return tuple(np.concatenate([part[0::2], part[1::2]], axis=2) for part in state)


def logits_of(layers, pairs):
    """Run the layers of a Seq2Seq as its docstring says, for rows padded to their length."""
    (source, S), (target, T) = sides(pairs)
    memory, state = layers["encoder"](layers["source"](source), lengths=S)
    output, _ = layers["decoder"](layers["target"](target), joined(state), lengths=T)
    context, _ = layers["attention"](output, memory, memory_lengths=S)
    combined = layers["combine"](np.concatenate([context, output], axis=2))
    logits = layers["readout"](tanh(combined)).swapaxes(0, 1)
    return np.where((np.arange(logits.shape[1]) < T[:, None])[..., None], logits, 0)


@pytest.mark.parametrize("kind", ("bf16", "int8"))
def test_narrow_weights(kind, tmp_path):
    model = sharp_model(dtype="float32", num_layers=2)
    model.metadata = {"of": "words"}
    narrow = model.quantize(kind, sample=PAIRS)
    layers = parts_of(model)
    for lstm, embedding, (tokens, _) in zip(("encoder", "decoder"), ("source", "target"), sides(PAIRS), strict=True):
        layers[lstm] = layers[lstm].quantize(kind, layers[embedding](tokens))
        assert narrow.report[lstm] == layers[lstm].report
    assert model.quantize(kind).report["decoder"]["sample"].startswith("standard normal")
    logits, _ = narrow(PAIRS)
    assert bits(logits) == bits(logits_of(layers, PAIRS))
    exact = model(PAIRS)[0]
    assert 0 < np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()
    for found in narrow.translate(SOURCES[0], start=0, end=1):
        pairs, target = teach([SOURCES[0]], [found.tokens], start=0, end=1)
        loss = cross_entropy(narrow(pairs)[0], target)[0] * (len(found.tokens) + 1)
        assert found.log_probability == pytest.approx(-loss, rel=1e-5)
    assert narrow.align(SOURCES[0], [2, 3], start=0).shape == (3, 4)
    assert bits(narrow.predict(PAIRS, 2)) == bits(logits)
    assert narrow.metadata == model.metadata and narrow.metadata is not model.metadata
    assert "weights" not in model.config and model.weights is None

    save(narrow, tmp_path / "narrow.npz")
    save(model, tmp_path / "wide.npz")
    assert (tmp_path / "narrow.npz").stat().st_size < 0.75 * (tmp_path / "wide.npz").stat().st_size
    read = load(tmp_path / "narrow.npz", strict=True)
    again = pickle.loads(pickle.dumps(narrow))
    assert again.report == narrow.report
    for other in (read, again, copy.copy(narrow), copy.deepcopy(narrow)):
        assert other.weights == kind and other.config == narrow.config
        assert bits(other(PAIRS)[0]) == bits(logits)
        with pytest.raises(AttributeError, match="weights: read-only"):
            other.weights = None

    before = bits(*narrow.stored().values())
    for attempt in (
        lambda: narrow.forward(PAIRS),
        lambda: narrow.load_state_dict(narrow.state_dict()),
        lambda: Adam(narrow).step(narrow.state_dict()),
    ):
        with pytest.raises(TypeError, match="narrow weights are read-only; train the float32 layer and quantize again"):
            attempt()
    assert bits(*narrow.stored().values()) == before
    wide = small_model(dtype="float32", num_layers=2, hidden_size=16)
    wide.load_state_dict(narrow.state_dict())
    assert bits(*wide.parameters.values()) == bits(*narrow.parameters.values())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    (
        (lambda m: m.quantize("int4"), ValueError, "kind: expected 'bf16' or 'int8', got 'int4'"),
        (lambda m: small_model().quantize("int8"), ValueError, "quantize: expected a float32 layer, got float64"),
        (
            lambda m: m.quantize("bf16").quantize("int8"),
            TypeError,
            "expected an LSTM with float32 weights, got one with",
        ),
        (lambda m: m.quantize("int8", PAIRS[0]), ValueError, r"sample: expected shape \(B, 2, N\), got \(2, 6\)"),
        (lambda m: m.quantize("int8", PAIRS * 1.0), TypeError, "sample: expected integers"),
        (lambda m: m.quantize("int8", PAIRS[..., ::-1]), ValueError, "sample: expected padding, -1, only after"),
        (lambda m: m.quantize("int8", PAIRS[:0]), ValueError, "sample: expected shape .*, not empty"),
        (lambda m: small_model(weights="int4"), ValueError, "weights: expected 'bf16' or 'int8', got 'int4'"),
        (lambda m: small_model(weights="int8"), ValueError, "dtype: expected 'float32' with narrow weights"),
        (lambda m: m.trace(PAIRS, 2), ValueError, "layer: expected -2 to 1, got 2"),
        (lambda m: m.trace(PAIRS, 1, 1), ValueError, "direction: expected 0"),
        (lambda m: m.trace(PAIRS[0]), ValueError, r"pairs: expected shape \(B, 2, N\)"),
    ),
)
def test_errors_of_quantize_and_trace(call, error, message):
    with pytest.raises(error, match=message):
        call(small_model(dtype="float32"))


@pytest.mark.parametrize("kind", (None, "bf16", "int8"))
def test_a_trace_has_the_gates_of_each_layer_and_direction(kind):
    model = sharp_model(dtype="float32", num_layers=2)
    layers = parts_of(model)
    if kind:
        model = model.quantize(kind)
        layers |= {name: layers[name].quantize(kind) for name in ("encoder", "decoder")}
    (source, S), (target, T) = sides(PAIRS)
    x = layers["source"](source)
    state = joined(layers["encoder"](x, lengths=S)[1])
    for layer, direction in ((0, 0), (0, 1), (1, 1), (2, 0), (-1, 0)):
        made = model.trace(PAIRS, layer, direction)
        if 0 <= layer < 2:
            expected = layers["encoder"].trace(x, None, S, layer, direction)
        else:
            expected = layers["decoder"].trace(layers["target"](target), state, T, layer % 2)
        for name in ("input", "forget", "candidate", "output", "cell", "hidden", "valid", "initial_cell"):
            assert bits(getattr(made, name)) == bits(getattr(expected, name))
    if kind is None:
        assert made.gradient(of=(3, 1)).cell.shape == made.cell.shape


@pytest.mark.parametrize(
    ("trained", "run"),
    (
        (["readout.*"], "readout"),
        (["combine.bias"], "readout combine"),
        (["attention.vector"], "readout combine attention"),
        (["decoder.bias_ih_l0"], "readout combine attention decoder"),
        (["target.weight"], "readout combine attention decoder target"),
        (["encoder.weight_hh_l0", "readout.bias"], "readout combine attention decoder encoder"),
        (["source.weight"], "readout combine attention decoder encoder source"),
        (["*"], "readout combine attention decoder target encoder source"),
    ),
)
def test_parts_that_frozen_parameters_do_not_need_are_not_run_backward(trained, run, monkeypatch):
    model = small_model(num_layers=2)
    frozen = [name for name in model.parameters if not any(fnmatch(name, pattern) for pattern in trained)]
    optimizer = Adam(model, 0.1, frozen=frozen)
    target = teach(SOURCES, TARGETS, start=0, end=1)[1]
    logits, _, tape = model.forward(PAIRS)
    dy = np.random.default_rng(0).standard_normal(logits.shape)
    every = model.backward(tape, dy).parameters
    calls, names = [], {id(layer): name for name, layer in model._parts.items()}

    def noted(kind, method):
        actual = getattr(kind, method)

        def counted(self, *arguments):
            calls.append(names[id(self)])
            found = actual(self, *arguments)
            held = {f"{names[id(self)]}.{name}" for name in found.parameters}
            if kind in (LSTM, Linear):  # these leave out what is frozen
                assert held <= set(optimizer.trained)
            return found

        monkeypatch.setattr(kind, method, counted)

    for kind, method in (
        (LSTM, "_propagated"),
        (Linear, "_propagated"),
        (Attention, "backward"),
        (Embedding, "backward"),
    ):
        noted(kind, method)
    some = model.parameter_gradients(tape, dy, optimizer.trained)
    assert " ".join(calls) == run
    assert list(some) == [name for name in every if name in optimizer.trained]
    assert bits(*some.values()) == bits(*(every[name] for name in some))
    before = model.parameters
    fit(model, (PAIRS, target), loss=cross_entropy, optimizer=optimizer, epochs=1, progress=False)
    assert [name for name, array in model.parameters.items() if array is not before[name]] == list(optimizer.trained)
    assert model.parameter_gradients(model.forward(PAIRS)[2], dy, []) == {}
