"""The JavaScript module and its WebAssembly in Node, compared with Steppers, calls and traces."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
from exported import inputs, models, with_functions

from lstm_cy import LSTM, Activation, Conv1D, Embedding, GlobalPooling1D, Linear, Masking, Sequential
from lstm_cy.export import web

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")

GATES = ("input", "forget", "candidate", "output", "cell", "hidden")
STEPS = 100
#: what scripts begin and end with; arrays are passed as base64 of float32
BEGIN = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const wasm = given.wasm ? Uint8Array.from(atob(given.wasm), (character) => character.charCodeAt(0)) : null;
const packed = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const result = {};
"""
END = "process.stdout.write(JSON.stringify(result));"


def in_node(folder, script, **given):
    """Run a script behind the module, with `given`, `wasm` and an empty `result` as variables; return the result."""
    path = folder / "script.mjs"
    path.write_text("\n".join([web.module(), BEGIN, script, END]))
    content = web.wasm()
    given["wasm"] = content and base64.b64encode(content).decode()
    done = subprocess.run(["node", path], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def array(packed, *shape):
    return np.frombuffer(base64.b64decode(packed), "<f4").reshape(shape)


RUN_ALL = """
for (const [name, [description, xs]] of Object.entries(given.models)) {
  result[name] = [];
  for (const bytes of wasm ? [null, wasm] : [null]) {
    const network = await Network.create(description, { wasm: bytes });
    const first = network.run(xs);
    network.reset();
    const again = network.run(xs);
    const equal = first.outputs.every((value, k) => Object.is(value, again.outputs[k]));
    result[name].push({ engine: network.engine, reason: network.reason ?? null, equal, y: packed(first.outputs) });
  }
}
"""


def test_all_models_give_the_librarys_numbers(tmp_path):
    given, expected = {}, {}
    for name, model in (models() | with_functions()).items():
        x, batch = inputs(model, STEPS)
        given[name] = [web.describe(model), x.ravel().tolist()]
        expected[name] = model(batch)[0].reshape(STEPS, -1)
    found = in_node(tmp_path, RUN_ALL, models=given)
    for name, y in expected.items():
        plain, *others = found[name]
        assert plain["engine"] == "javascript"
        for run in found[name]:
            assert run["equal"], name
            result = array(run["y"], *y.shape)
            assert np.allclose(result, y, rtol=2e-6, atol=2e-6, equal_nan=True), (name, run["engine"])
        sensitive = name in ("variant", "norm", "narrow", "words8", "variant8")
        assert all(run["engine"] == ("javascript" if sensitive else "wasm") for run in others), name


COMPARE_GATES = """
for (const bytes of wasm ? [null, wasm] : [null]) {
  const network = await Network.create(given.model, { wasm: bytes });
  const run = network.run(given.xs);
  result[network.engine] = run.layers.map((layer) => Object.values(layer).map(packed));
}
"""


@pytest.mark.parametrize(
    "options", [{}, {"coupled_gates": "i=1-f", "peepholes": True, "proj_size": 5, "zoneout": (0.1, 0.2)}]
)
def test_gates_are_those_of_a_trace(tmp_path, options):
    model = Sequential(Embedding(11, 5, seed=0), LSTM(5, 17, num_layers=2, seed=0, **options))
    x, batch = inputs(model, STEPS)
    found = in_node(tmp_path, COMPARE_GATES, model=web.describe(model), xs=x.tolist())
    assert "javascript" in found
    for engine, layers in found.items():
        for index, layer in enumerate(layers):
            trace = model.trace(batch, layer=index)
            for name, packed in zip(GATES, layer, strict=True):
                expected = getattr(trace, name)[:, 0]
                assert np.abs(array(packed, *expected.shape) - expected).max() <= 2e-6, (engine, index, name)


HOLD = """
const seen = (network) => ({
  y: packed(network.run(given.xs).outputs.slice()),
  c: packed(network.layers[0].cell.slice()),
  h: packed(network.layers[0].hidden.slice()),
  held: network.layers[0].held,
});
for (const bytes of wasm ? [null, wasm] : [null]) {
  const network = await Network.create(given.model, { wasm: bytes });
  const [layer] = network.layers;
  const free = seen(network);
  result[network.engine] = { free };
  for (const name of ["input", "forget", "candidate", "output", "cell", "hidden"]) {
    network.reset();
    layer.hold(name, 3, 0.25);
    layer.hold(name, 6, -0.5);
    result[network.engine][name] = seen(network);
    layer.release(name, 6);
    network.reset();
    result[network.engine][`${name}, one`] = seen(network);
    layer.release(name);
  }
  layer.hold("cell", 0, 1);
  layer.release();
  network.reset();
  result[network.engine].released = seen(network);
  network.reset();
  const start = network.getState();
  layer.cell[2] = 1.5;
  layer.hidden[4] = -0.75;
  const edited = network.getState();
  result[network.engine].edited = seen(network);
  network.setState(start);
  result[network.engine].restored = seen(network);
  network.setState(edited);
  result[network.engine]["edited again"] = seen(network);
}
"""


def with_held(lstm, xs, held, edited=()):
    """Return (y, c, h) of steps in which some units' gates or states are held; `held` is {unit: value}, and a name."""
    name, units = held
    weights = [
        np.float64(lstm.state_dict()[key]) for key in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    ih, hh, *biases = weights
    h, c = np.zeros(lstm.hidden_size), np.zeros(lstm.hidden_size)
    for part, unit, value in edited:
        {"cell": c, "hidden": h}[part][unit] = value
    outputs = []

    def hold(array, part):
        for unit, value in units.items() if part == name else ():
            array[unit] = value
        return array

    for x in xs:
        sums = np.split(ih @ x + hh @ h + sum(biases), 4)
        i, f, o = (1 / (1 + np.exp(-sums[k])) for k in (0, 1, 3))
        g = np.tanh(sums[2])
        for array_, part in ((i, "input"), (f, "forget"), (g, "candidate"), (o, "output")):
            hold(array_, part)
        c = hold(f * c + i * g, "cell")
        h = hold(o * np.tanh(c), "hidden")
        outputs.append(h)
    return np.array(outputs), c, h


def test_what_is_held_and_written_acts_on_all_later_steps(tmp_path):
    lstm = LSTM(3, 9, seed=2)
    x, _ = inputs(lstm, 40)
    found = in_node(tmp_path, HOLD, model=web.describe(lstm), xs=x.ravel().tolist())
    cases = {name: ((name, {3: 0.25, 6: -0.5}), ()) for name in GATES}
    cases |= {f"{name}, one": ((name, {3: 0.25}), ()) for name in GATES}
    cases |= dict.fromkeys(("free", "released", "restored"), (("", {}), ()))
    cases |= dict.fromkeys(("edited", "edited again"), (("", {}), (("cell", 2, 1.5), ("hidden", 4, -0.75))))
    for engine, results in found.items():
        assert set(results) == set(cases), engine
        for case, (held, edited) in cases.items():
            expected = with_held(lstm, np.float64(x), held, edited)
            for key, value in zip("ych", expected, strict=True):
                assert np.abs(array(results[case][key], *value.shape) - value).max() <= 2e-6, (engine, case, key)
            name, units = held
            assert results[case]["held"] == [{"name": name, "unit": u, "value": v} for u, v in units.items()], case


ERRORS = """
const network = await Network.create(given.words, { wasm });
const numbers = await Network.create(given.numbers);
const [layer] = numbers.layers;
const calls = {
  format: () => Network.create({ ...given.words, format: 99 }),
  nothing: () => Network.create(null),
  high: () => network.step(7),
  low: () => network.step(-1),
  half: () => network.step(0.5),
  many: () => numbers.step([1, 2, 3]),
  none: () => numbers.step(5),
  odd: () => numbers.run([1, 2, 3]),
  name: () => layer.hold("gate", 0, 1),
  unit: () => layer.hold("cell", 9, 1),
  hidden: () => layer.hold("hidden", 4, 1),
  value: () => layer.hold("cell", 0, NaN),
  release: () => layer.release("cell", 1.5),
};
for (const [name, call] of Object.entries(calls)) {
  try {
    await call();
  } catch (error) {
    result[name] = `${error.name}: ${error.message}`;
  }
}
result.held = layer.held;
const broken = await Network.create(given.words, { wasm: new Uint8Array([0, 1, 2]) });
const plain = await Network.create(given.words);
result.broken = [broken.engine, broken.reason, packed(broken.step(3)) === packed(plain.step(3))];
const odds = softmax(new Float32Array([1, 2, 1000]), 2);
result.softmax = [Array.from(odds), Array.from(softmax([0, Math.log(3)]))];
"""


def test_errors_and_a_module_that_cannot_be_used(tmp_path):
    words = Sequential(Embedding(7, 3, seed=0), LSTM(3, 9, seed=0), Linear(9, 7, seed=0))
    numbers = LSTM(2, 9, proj_size=4, seed=0)
    found = in_node(tmp_path, ERRORS, words=web.describe(words), numbers=web.describe(numbers))
    held, broken, odds = (found.pop(name) for name in ("held", "broken", "softmax"))
    assert found == {
        "format": "TypeError: description: expected one of format 1, got format 99",
        "nothing": "TypeError: description: expected one of format 1, got format undefined",
        "high": "RangeError: x: expected a token from 0 to 6, got 7",
        "low": "RangeError: x: expected a token from 0 to 6, got -1",
        "half": "RangeError: x: expected a token from 0 to 6, got 0.5",
        "many": "RangeError: x: expected 2 numbers, got 3",
        "none": "RangeError: x: expected 2 numbers, got undefined",
        "odd": "RangeError: xs: expected a multiple of 2 numbers, got 3",
        "name": f"RangeError: name: expected one of {', '.join(GATES)}, got gate",
        "unit": "RangeError: unit: expected an integer from 0 to 8, got 9",
        "hidden": "RangeError: unit: expected an integer from 0 to 3, got 4",
        "value": "TypeError: value: expected a finite number, got NaN",
        "release": "RangeError: unit: expected an integer from 0 to 8, got 1.5",
    }
    assert held == []
    engine, reason, equal = broken
    assert (engine, equal) == ("javascript", True)
    assert "CompileError" in reason
    assert odds[0] == [0, 0, 1]
    assert np.allclose(odds[1], [0.25, 0.75])


def test_a_long_int8_product_has_a_scale_for_each_segment(tmp_path):
    model = LSTM(4100, 5, seed=0).quantize("int8")
    x, batch = inputs(model, 3)
    found = in_node(tmp_path, RUN_ALL, models={"long": [web.describe(model), x.ravel().tolist()]})
    y = model(batch)[0].reshape(3, -1)
    assert np.abs(array(found["long"][0]["y"], *y.shape) - y).max() <= 2e-6


def test_the_description(tmp_path):
    model = Sequential(Embedding(7, 3, seed=0), LSTM(3, 9, seed=0), Linear(9, 7, seed=0), Activation("softmax"))
    found = web.describe(model)
    assert (found["tokens"], found["inputs"], found["outputs"]) == (7, 0, 7)
    assert json.loads(json.dumps(found)).keys() == found.keys()
    weights = base64.b64decode(found["weights"])
    table = found["parts"][0]["table"]
    assert (
        np.frombuffer(weights, "<f4", table["count"], table["offset"]) == model.state_dict()["0.weight"].ravel()
    ).all()
    for layer in (Conv1D(3, 2, 2, padding="causal"), Masking(), Activation("gelu"), GlobalPooling1D("max")):
        with pytest.raises(ValueError, match=f"model: layer 1, {type(layer).__name__}.*cannot be described"):
            web.describe(Sequential(LSTM(2, 3), layer))
    with pytest.raises(ValueError, match="model: expected an LSTM that runs forwards"):
        web.describe(LSTM(2, 3, reverse=True))
    with pytest.raises(TypeError, match="model: expected an LSTM or a Sequential, got int"):
        web.describe(3)


def test_the_modules_are_small():
    assert len(web.module()) + len(web.wasm() or b"") <= 100_000
    assert "import " not in web.module().replace("// ", "").split("export ", 1)[1]
