"""Attention: comparison with finite differences and PyTorch, padding, shapes, errors."""

import numpy as np
import pytest
from common import DTYPES, assert_close, bits, finite_difference

from lstm_cy import Adam, Attention, load
from lstm_cy.layers.attention import SCORES
from lstm_cy.weights.native import read_model, write_model

T, S, B = 5, 7, 4
LENGTHS = [7, 1, 0, 4]


def attention_of(score, **options):
    """Return a layer of odd sizes, which are equal for "dot"."""
    sizes = (5, 5) if score == "dot" else (5, 3)
    units = {"units": 9} if score == "additive" else {}
    return Attention(*sizes, score=score, seed=0, **units, **{"dtype": "float64", **options})


def random_case(layer, seed=0, steps=T, memory_steps=S, rows=B):
    """Return random queries, memory, dcontext and dweights."""
    rng = np.random.default_rng(seed)
    shapes = (
        (steps, rows, layer.query_size),
        (memory_steps, rows, layer.memory_size),
        (steps, rows, layer.memory_size),
        (steps, rows, memory_steps),
    )
    arrays = [rng.standard_normal(shape).astype(layer.dtype) for shape in shapes]
    return [array.swapaxes(0, 1) for array in arrays] if layer.batch_first else arrays


def every_gradient(gradients):
    return {"queries": gradients.queries, "memory": gradients.memory, **gradients.parameters}


def in_torch(torch, layer, queries, memory, lengths, parameters):
    """Return (context, weights) by the papers' formulas, pair by pair; all tensors are (T, B, ...)."""
    contexts, weights = [], []
    for row in range(queries.shape[1]):
        length = memory.shape[0] if lengths is None else lengths[row]
        for query in queries[:, row]:
            scores = []
            for m in memory[:length, row]:
                if layer.score == "dot":
                    scores.append(query @ m)
                elif layer.score == "general":
                    scores.append(query @ parameters["weight"] @ m)
                else:
                    under = parameters["weight_query"] @ query + parameters["weight_memory"] @ m
                    scores.append(parameters["vector"] @ torch.tanh(under))
            share = torch.softmax(torch.stack(scores), 0) if scores else memory.new_zeros(0)
            contexts.append(share @ memory[:length, row])
            weights.append(torch.cat([share, memory.new_zeros(memory.shape[0] - length)]))
    steps = queries.shape[0]
    return (torch.stack(part).reshape(-1, steps, part[0].shape[0]).swapaxes(0, 1) for part in (contexts, weights))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("lengths", (None, LENGTHS), ids=repr)
@pytest.mark.parametrize("batch_first", (False, True))
def test_agrees_with_pytorch(score, lengths, batch_first):
    torch = pytest.importorskip("torch")
    layer = attention_of(score, batch_first=batch_first)
    queries, memory, dcontext, dweights = random_case(layer)
    (context, weights), tape = layer.forward(queries, memory, memory_lengths=lengths)
    got = every_gradient(layer.backward(tape, dcontext, dweights))

    def inner(array):
        return torch.tensor(array.swapaxes(0, 1) if batch_first else array)

    tensors = {"queries": inner(queries), "memory": inner(memory)}
    parameters = {name: torch.tensor(array) for name, array in layer.state_dict().items()}
    for tensor in (*tensors.values(), *parameters.values()):
        tensor.requires_grad_()
    expected = tuple(in_torch(torch, layer, *tensors.values(), lengths, parameters))
    ((expected[0] * inner(dcontext)).sum() + (expected[1] * inner(dweights)).sum()).backward()

    for array, tensor in zip((context, weights), expected, strict=True):
        assert np.abs(array - (tensor.swapaxes(0, 1) if batch_first else tensor).detach().numpy()).max() < 1e-11
    assert list(got) == [*tensors, *parameters]
    for name, tensor in (tensors | parameters).items():
        gradient = tensor.grad.swapaxes(0, 1) if batch_first and name in tensors else tensor.grad
        assert np.abs(got[name] - gradient.numpy()).max() < 1e-11, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", ((1, 1, 1, 1), (1, 9, 33, 2), (13, 1, 1, 3), (3, 127, 17, 1), (40, 31, 7, 5)))
def test_odd_sizes_agree_with_the_formulas(sizes, dtype):
    steps, memory_steps, size, rows = sizes
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, memory_steps + 1, rows)
    for score in SCORES:
        layer = Attention(size, size, score=score, dtype=dtype, seed=0)
        queries, memory, *_ = random_case(layer, 1, steps, memory_steps, rows)
        context, weights = layer(queries, memory, memory_lengths=lengths)
        p = {name: array.astype(np.float64) for name, array in layer.parameters.items()}
        for t, row in np.ndindex(steps, rows):
            q, m = queries[t, row].astype(np.float64), memory[: lengths[row], row].astype(np.float64)
            if score == "additive":
                scores = [p["vector"] @ np.tanh(p["weight_query"] @ q + p["weight_memory"] @ one) for one in m]
            else:
                scores = [q @ (p["weight"] if score == "general" else np.eye(size)) @ one for one in m]
            shares = np.exp(scores) / np.exp(scores).sum()
            tolerance = 1e-11 if dtype == "float64" else 2e-5
            assert np.abs(weights[t, row, : lengths[row]] - shares).max(initial=0) < tolerance
            assert np.abs(context[t, row] - shares @ m).max() < tolerance


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("lengths", (None, LENGTHS), ids=repr)
@pytest.mark.parametrize("given", ("context", "weights", "both"))
def test_gradients_against_finite_differences(score, lengths, given):
    layer = attention_of(score)
    queries, memory, dcontext, dweights = random_case(layer)
    if given == "context":
        dweights = None
    if given == "weights":
        dcontext = None
    parameters = layer.state_dict()

    def loss():
        layer.load_state_dict(parameters)
        context, weights = layer(queries, memory, memory_lengths=lengths)
        return sum((a * d).sum() for a, d in ((context, dcontext), (weights, dweights)) if d is not None)

    _, tape = layer.forward(queries, memory, memory_lengths=lengths)
    got = every_gradient(layer.backward(tape, dcontext, dweights))
    for name, array in {"queries": queries, "memory": memory, **parameters}.items():
        assert_close(got[name], finite_difference(loss, array), name)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_contents_of_padding_have_no_effect(score, dtype):
    layer = attention_of(score, dtype=dtype)
    queries, memory, dcontext, dweights = random_case(layer)
    padding = np.arange(S)[:, np.newaxis] >= LENGTHS  # (S, B)
    results = []
    for filling in (0, 1e30, np.nan, np.inf):
        memory[padding] = filling
        dweights[:, padding.T] = filling
        (context, weights), tape = layer.forward(queries, memory, memory_lengths=LENGTHS)
        gradients = layer.backward(tape, dcontext, dweights)
        results.append(bits(context, weights, *every_gradient(gradients).values()))
        assert not weights[:, padding.T].any()
        assert not gradients.memory[padding].any()
        assert not context[:, 2].any()  # a row of length 0
        assert np.allclose(weights.sum(axis=2), [1, 1, 0, 1])
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("score", SCORES)
def test_nan_in_one_row_stays_there(score):
    layer = attention_of(score)
    queries, memory, dcontext, _ = random_case(layer)
    (expected, _), tape = layer.forward(queries, memory)
    gradients = layer.backward(tape, dcontext)
    queries[2, 1], memory[3, 3] = np.nan, np.inf
    (context, weights), tape = layer.forward(queries, memory)
    again = layer.backward(tape, dcontext)
    good = [0, 2]
    assert np.array_equal(context[:, good], expected[:, good])
    assert np.array_equal(again.memory[:, good], gradients.memory[:, good])
    assert np.isnan(weights[2, 1]).all()
    assert np.array_equal(np.delete(context[:, 1], 2, axis=0), np.delete(expected[:, 1], 2, axis=0))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_layouts_agree(score, dtype):
    layer, rows_first = attention_of(score, dtype=dtype), attention_of(score, dtype=dtype, batch_first=True)
    queries, memory, dcontext, dweights = random_case(layer)
    (context, weights), tape = layer.forward(queries, memory, memory_lengths=LENGTHS)
    gradients = layer.backward(tape, dcontext, dweights)
    assert {array.dtype for array in (context, weights, *every_gradient(gradients).values())} == {np.dtype(dtype)}
    tolerance = 1e-13 if dtype == "float64" else 2e-6

    turned = [array.swapaxes(0, 1) for array in (queries, memory, dcontext, dweights)]
    (context_b, weights_b), tape = rows_first.forward(*turned[:2], memory_lengths=LENGTHS)
    gradients_b = rows_first.backward(tape, *turned[2:])
    assert np.abs(context_b.swapaxes(0, 1) - context).max() < tolerance
    assert np.abs(weights_b.swapaxes(0, 1) - weights).max() < tolerance
    assert np.abs(gradients_b.memory.swapaxes(0, 1) - gradients.memory).max() < tolerance

    for each in (layer, rows_first):
        (one, shares), tape = each.forward(queries[:, 3], memory[:, 3], memory_lengths=4)
        of_one = each.backward(tape, dcontext[:, 3], dweights[:, 3])
        assert np.abs(one - context[:, 3]).max() < tolerance
        assert np.abs(shares - weights[:, 3]).max() < tolerance
        assert np.abs(of_one.queries - gradients.queries[:, 3]).max() < tolerance
        assert np.abs(of_one.memory - gradients.memory[:, 3]).max() < tolerance


def test_an_example_computed_by_hand():
    layer = Attention(2, 2, score="dot", dtype="float64")
    memory = np.array([[np.log(3.0), 0.0], [0.0, 1.0], [9.0, 9.0]])
    context, weights = layer([[1.0, 0.0], [0.0, 0.0]], memory, memory_lengths=2)
    assert np.allclose(weights, [[0.75, 0.25, 0], [0.5, 0.5, 0]])
    assert np.allclose(context, [[0.75 * np.log(3), 0.25], [0.5 * np.log(3), 0.5]])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("empty", ("queries", "memory", "rows"))
def test_empty_queries_memory_and_batches(score, empty):
    sizes = {"queries": {"steps": 0}, "memory": {"memory_steps": 0}, "rows": {"rows": 0}}[empty]
    layer = attention_of(score)
    queries, memory, dcontext, dweights = random_case(layer, **sizes)
    (context, weights), tape = layer.forward(queries, memory)
    assert (context.shape, weights.shape) == (dcontext.shape, dweights.shape)
    assert not context.any()
    for name, gradient in every_gradient(layer.backward(tape, dcontext, dweights)).items():
        assert not gradient.any() or (empty == "queries" and name == "memory"), name


@pytest.mark.parametrize("score", SCORES)
def test_large_scores_do_not_overflow(score):
    layer = attention_of(score, dtype="float32")
    queries, memory, *_ = random_case(layer)
    context, weights = layer(1e15 * queries, 1e15 * memory, memory_lengths=LENGTHS)
    assert np.isfinite(context).all()
    assert np.allclose(weights.sum(axis=2), [1, 1, 0, 1])


def test_a_tape_copies_its_input_and_is_refused_after_a_change_of_parameters():
    layer = attention_of("general")
    queries, memory, dcontext, _ = random_case(layer)
    before = bits(queries, memory)
    (context, weights), tape = layer.forward(queries, memory, memory_lengths=LENGTHS)
    assert bits(queries, memory) == before
    expected = bits(*every_gradient(layer.backward(tape, dcontext)).values())
    for array in (queries, memory, context, weights):  # the caller may change all of them
        array[:] = 0
    assert bits(*every_gradient(layer.backward(tape, dcontext)).values()) == expected
    Adam(layer).step({"weight": np.ones((5, 3))})
    with pytest.raises(RuntimeError, match="parameters have changed"):
        layer.backward(tape, dcontext)


@pytest.mark.parametrize("score", SCORES)
def test_config_and_files_rebuild_the_layer(score, tmp_path):
    layer = attention_of(score, dtype="float32")
    twin = type(layer)(**layer.config)
    twin.load_state_dict(layer.state_dict())
    write_model(layer, tmp_path / "a.npz", {})
    read, _ = read_model(tmp_path / "a.npz", True)
    queries, memory, *_ = random_case(layer)
    for other in (twin, read):
        assert other.config == layer.config
        assert bits(*other(queries, memory)) == bits(*layer(queries, memory))


def test_initial_parameters_come_from_the_seed():
    one, same, other = (Attention(4, 6, score="additive", seed=seed) for seed in (1, 1, 2))
    assert one.units == 6
    assert {name: array.shape for name, array in one.parameters.items()} == {
        "weight_query": (6, 4),
        "weight_memory": (6, 6),
        "vector": (6,),
    }
    for name, array in one.parameters.items():
        assert np.array_equal(array, same.parameters[name])
        assert not np.array_equal(array, other.parameters[name])
        assert 0.5 < np.abs(array).max() * np.sqrt(array.shape[-1]) <= 1.001
    assert Attention(4, 4, score="dot").parameters == {}


Z = np.zeros


@pytest.mark.parametrize(
    ("call", "error", "message"),
    (
        (lambda a: Attention(0, 3), ValueError, "query_size: expected at least 1"),
        (lambda a: Attention(3, 2.0), TypeError, "memory_size: expected an integer"),
        (lambda a: Attention(3, 3, score="luong"), ValueError, "score: expected 'general', 'dot' or 'additive', got"),
        (lambda a: Attention(3, 2, score="dot"), ValueError, "expected equal ones with score='dot', got 3 and 2"),
        (lambda a: Attention(3, 2, units=4), ValueError, "units: expected None with score='general', got 4"),
        (lambda a: Attention(3, 2, score="additive", units=0), ValueError, "units: expected at least 1"),
        (lambda a: Attention(3, 2, dtype="int8"), ValueError, "dtype: expected"),
        (
            lambda a: a(Z((5, 4, 4)), Z((7, 4, 3))),
            ValueError,
            "queries: expected shape \\(T, B, 5\\) or \\(T, 5\\), got",
        ),
        (
            lambda a: a(Z((5, 4, 5)), Z((7, 4, 4))),
            ValueError,
            "memory: expected shape \\(S, B, 3\\) or \\(S, 3\\), got",
        ),
        (lambda a: a(Z((5, 4, 5)), Z((7, 2, 3))), ValueError, "memory: expected as many rows as queries \\(5, 4, 5\\)"),
        (lambda a: a(Z((5, 4, 5)), Z((7, 3))), ValueError, "memory: expected as many rows as queries"),
        (lambda a: a(Z((5, 4, 5), complex), Z((7, 4, 3))), TypeError, "queries: expected real numbers"),
        (
            lambda a: a(Z((5, 4, 5)), Z((7, 4, 3)), memory_lengths=[1, 2, 8, 3]),
            ValueError,
            "^memory_lengths: expected 0 to T = 7, got 8 at row 2",
        ),
        (
            lambda a: a(Z((5, 4, 5)), Z((7, 4, 3)), memory_lengths=[1.0] * 4),
            TypeError,
            "^memory_lengths: expected integers",
        ),
        (
            lambda a: a.backward(a.forward(Z((5, 4, 5)), Z((7, 4, 3)))[1]),
            ValueError,
            "dcontext, dweights: expected at least one",
        ),
        (
            lambda a: a.backward(a.forward(Z((5, 4, 5)), Z((7, 4, 3)))[1], Z((5, 4, 5))),
            ValueError,
            "dcontext: expected shape the shape of context = \\(5, 4, 3\\), got \\(5, 4, 5\\)",
        ),
        (
            lambda a: a.backward(a.forward(Z((5, 4, 5)), Z((7, 4, 3)))[1], None, Z((5, 4, 6))),
            ValueError,
            "dweights: expected shape the shape of weights = \\(5, 4, 7\\)",
        ),
    ),
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(attention_of("general"))


def test_a_file_header_with_too_large_sizes_is_refused(tmp_path):
    layer = attention_of("additive", dtype="float32")
    layer._config["units"] = 10**12
    write_model(layer, tmp_path / "a.npz", {})
    with pytest.raises(ValueError, match="the architecture needs 8000000000000 weights"):
        load(tmp_path / "a.npz")
