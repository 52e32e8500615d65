"""Graph.stepper: states go from outputs to inputs, are found by name or shape, and survive errors."""

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest

from lstm_cy import LSTM, AsyncStreamPool, Graph, StreamPool, from_onnx
from lstm_cy.weights.graph import Value

SINGLE = np.dtype(np.float32)


class Cell:
    """One step of an LSTM: x (B, 3), h and c (1, B, 4), scale () -> y (B, 4), new h and c."""

    name, op_type = "cell", "Cell"

    def __init__(self, inputs, outputs):
        self.inputs, self.outputs = inputs, outputs
        self.lstm = LSTM(3, 4, seed=0)

    def run(self, inputs):
        x, h, c, scale = inputs
        y, (h, c) = self.lstm((x * scale)[None], (h, c))
        return [y[0], h, c]

    def weights(self):
        return []


def graph_of(h=("h", "hn"), c=("c", "cn"), shape=(1, "B", 4), last="scale", x=("B", 3)):
    names = ("input", h[0], c[0], last), ("output", h[1], c[1])
    shapes = [x, shape, shape, ()], [(x[0], 4), shape, shape]
    inputs, outputs = (
        [Value(name, size, SINGLE) for name, size in zip(*ends, strict=True)]
        for ends in zip(names, shapes, strict=True)
    )
    return Graph(inputs, outputs, [Cell(*names)])


@pytest.mark.parametrize(
    ("h", "c", "states"),
    [
        (("h", "hn"), ("c", "cn"), None),
        (("stateN", "stateNN"), ("h_in", "h_out"), None),
        (("a", "p"), ("b", "q"), None),  # by shape, in their order
        (("a", "p"), ("c", "new_c"), None),
        (("a", "p"), ("b", "q"), {"b": "q", "a": "p"}),
    ],
)
def test_steps_are_those_of_the_sequence(h, c, states):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 3, 3)).astype("float32")
    graph = graph_of(h, c)
    stepper = graph.stepper(states, constants={"scale": 2}, batch_size=3)
    assert stepper.states == {h[0]: h[1], c[0]: c[1]}
    assert [value.name for value in (*stepper.inputs, *stepper.outputs)] == ["input", "output"]
    y, (h_n, c_n) = LSTM(3, 4, seed=0)(2 * x)
    found = [stepper.step(x_t) for x_t in x[:4]]
    others = [stepper.copy(), copy.deepcopy(stepper)]
    state = stepper.state
    found += [stepper.step(x_t) for x_t in x[4:]]
    assert np.array_equal(found, y)
    assert np.array_equal(stepper.state[h[0]], h_n) and np.array_equal(stepper.state[c[0]], c_n)
    for other in others:
        assert np.array_equal([other.step(x_t) for x_t in x[4:]], y[4:])
    stepper.state = state
    assert np.array_equal([stepper.step(x_t) for x_t in x[4:]], y[4:])
    stepper.reset()
    assert np.array_equal([stepper.step(x_t) for x_t in x], y)


def test_wrong_arguments_change_nothing():
    graph = graph_of()
    for arguments, message in [
        ({"states": {"h": "cm"}}, "states: expected different outputs"),
        ({"states": {"h": "hn", "c": "hn"}}, "states: expected different outputs"),
        ({"states": {"k": "hn"}}, "states: expected names of"),
        ({"states": {}}, "found none"),
        ({"states": {"input": "output", "h": "hn", "c": "cn", "scale": "output"}}, "different outputs"),
        ({"constants": {"s": 1}}, "constants: expected names of"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            graph.stepper(**arguments)
    with pytest.raises(TypeError, match="constants: expected a mapping"):
        graph.stepper(constants=1)
    with pytest.raises(ValueError, match="h: expected a state of known shape"):
        graph_of(shape=("L", "B", 4)).stepper()
    stepper = graph.stepper(constants={"scale": 1})
    before = stepper.state
    with pytest.raises(TypeError, match="x: expected 1"):
        stepper.step()
    with pytest.raises(ValueError, match="input: expected shape"):
        stepper.step(np.ones((1, 2)))
    for wrong in ({"h": before["h"]}, [1, 2], {"h": before["h"], "c": np.ones(3)}):
        with pytest.raises(ValueError, match="state"):
            stepper.state = wrong
    assert all(np.array_equal(array, before[name]) for name, array in stepper.state.items())


def test_a_file_with_states():
    """As a graph of ONNX: the pair is found by its names, and equal bits come from steps by hand."""
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    node = helper.make_node("Add", ["x", "s_in"], ["y"])
    again = helper.make_node("Identity", ["y"], ["s_out"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "s_in", "y", "s_out")]
    graph = helper.make_graph([node, again], "sum", values[:2], values[2:])
    stepper = from_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).stepper()
    assert stepper.states == {"s_in": "s_out"}
    assert [stepper.step([[k, 1]]).tolist() for k in range(3)] == [[[0, 1]], [[1, 2]], [[3, 3]]]


@pytest.mark.parametrize(
    ("shape", "x", "given"),
    [((1, "B", 4), ("B", 3), None), ((1, None, 4), (None, None), [3]), ((1, 1, 4), (1, 3), None)],
    ids=["named rows", "rows without a name", "one row"],
)
def test_streams_of_a_pool_are_steppers(shape, x, given):
    """Any streams, in any order and number, have the bits of a stepper of their own; they end, begin again and move."""
    rng, graph = np.random.default_rng(0), graph_of(shape=shape, x=x)
    pool = graph.pool(constants={"scale": 2}, input_shape=given)
    assert (pool.inputs, pool.outputs, pool.dtype, len(pool)) == (3, 4, SINGLE, 0)
    others = {pool.join(): graph.stepper(constants={"scale": 2}) for _ in range(150)}
    for turn in range(12):
        ids = rng.permutation([*others])[: rng.integers(1, len(others) + 1)]
        samples = rng.standard_normal((len(ids), 3)).astype("f4")
        out = np.empty((len(ids), 4), "f4")
        y = pool.step(ids, samples, out=out) if turn % 2 else pool.step(ids.tolist(), samples.tolist())
        assert y is out or not turn % 2
        assert np.array_equal(y, [others[id].step(row[None])[0] for id, row in zip(ids.tolist(), samples, strict=True)])
        left, reset, moved = ids[:1].item(), ids[len(ids) // 2].item(), ids[-1].item()
        if len({left, reset, moved}) == 3:
            pool.leave(left)
            del others[left]
            pool.reset(reset)
            others[reset].reset()
            other = pool.join(pool.state(moved))
            others[other] = others[moved].copy()
            pool.set_state(moved, {name: np.full_like(array, 0.5) for name, array in pool.state(moved).items()})
            others[moved].state = {name: np.full((1, 1, 4), 0.5) for name in "hc"}
            assert left not in pool and other in pool and sorted(pool.ids) == sorted(others)
        copied = [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
        pool = copied[turn % 4](pool) if turn % 4 < 3 else pool
    assert len(pool) == len(others) and pool.step([], np.empty((0, 3))).shape == (0, 4)

    async def serve():
        async with AsyncStreamPool(graph.pool(constants={"scale": 2}, input_shape=given)) as served:

            async def listen(samples):
                async with served.session() as session:
                    first = await session.step(samples[0])
                    return [first, *await session.run(samples[1:])]

            samples = rng.standard_normal((5, 9, 3)).astype("f4")
            return samples, await asyncio.gather(*map(listen, samples))

    samples, results = asyncio.run(serve())
    for row, found in zip(samples, results, strict=True):
        stepper = graph.stepper(constants={"scale": 2})
        assert np.array_equal(found, [stepper.step(x_t[None])[0] for x_t in row])


def test_a_pool_refuses_what_it_cannot_do():
    graph = graph_of()
    for arguments, message in [
        ({}, "pool: expected one input and one output besides states, got .'input', 'scale'."),
        ({"constants": {"s": 1}}, "constants"),
        ({"constants": {"scale": 1}, "input_shape": [4]}, "input_shape: expected that of one row of input"),
        ({"constants": {"scale": 1}, "states": {"h": "hn"}}, "one input and one output"),
    ]:
        with pytest.raises(ValueError, match=message):
            graph.pool(**arguments)
    with pytest.raises(ValueError, match="input_shape: expected the shape of one row of input"):
        graph_of(x=("B", None)).pool(constants={"scale": 1})
    with pytest.raises(ValueError, match="expected an axis of rows"):
        graph_of(x=(1, 3)).pool(constants={"scale": 1})
    with pytest.raises(ValueError, match="sequential: .*got input and scale; .*Graph.pool has streams"):
        StreamPool(graph)

    class Mean(Cell):
        def run(self, inputs):
            y, h, c = super().run(inputs)
            return [y - y.mean(axis=0), h, c]

    mixed = graph_of()
    step = mixed.steps[0]
    with pytest.raises(ValueError, match="output: expected rows that do not depend on each other"):
        Graph(mixed.inputs, mixed.outputs, [Mean(step.inputs, step.outputs)]).pool(constants={"scale": 1})
    pool = graph.pool(constants={"scale": 1})
    ids, x = [pool.join(), pool.join()], np.ones((2, 3), "f4")
    pool.step(ids, x)
    before = [pool.state(id) for id in ids]
    for arguments, error, message in [
        ((ids, x[:, :2]), ValueError, "x: expected shape"),
        (([ids[0], 7], x), KeyError, "7"),
        (([ids[0], ids[0]], x), ValueError, "ids: expected each stream once"),
        ((ids, x, np.empty((2, 5), "f4")), ValueError, "out: expected"),
        ((ids, [["a"] * 3] * 2), TypeError, "x: expected"),
    ]:
        with pytest.raises(error, match=message):
            pool.step(*arguments)
    for call in (pool.leave, pool.state, pool.reset):
        with pytest.raises(KeyError):
            call(9)
    for wrong in ({"h": x}, [1], {"h": np.ones((1, 4)), "c": np.ones(3)}):
        with pytest.raises(ValueError, match="state"):
            pool.set_state(ids[0], wrong)
    after = [pool.state(id) for id in ids]
    assert all(np.array_equal(a[name], b[name]) for a, b in zip(before, after, strict=True) for name in "hc")
    with pool._exclusive():
        errors = []

        def other():
            try:
                pool.step(ids, x)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(errors) == 1 and "another thread" in errors[0]
