"""Every example runs, in a small form, and does what it says."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
from common import every_gradient, random_case
from test_gradients import check, finite_difference

from lstm_cy import LSTM, Adam, Embedding, Linear, Readout, Sequential, mse, reference, save
from lstm_cy.text import Vocabulary, standard_library_text

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_of_the_gates(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    module = load("gates")
    vocabulary = Vocabulary.from_text(standard_library_text(3000))
    n = len(vocabulary)
    model = Sequential(Embedding(n, 4, seed=0), LSTM(4, 12, seed=1), Linear(12, n, seed=2))
    save(model, tmp_path / "text.npz", {"vocabulary": vocabulary.to_json()})
    arguments = ["--epochs=12", "--longest=5", f"--output={tmp_path}", f"--text-model={tmp_path / 'text.npz'}"]
    right = module.main(arguments)
    assert right > 0.9
    assert {path.stem for path in tmp_path.glob("*.png")} == {"gates-riddle", "gates-source", "gates-long"}
    printed = capsys.readouterr().out
    assert f"{100 * right:.1f} % of the question marks answered rightly" in printed
    assert len(re.findall("the most telling units:", printed)) == 3


def test_forecast_beats_repeating_yesterday(capsys):
    error, yesterday = load("forecast").main(["--epochs", "12", "--rows", "96", "--hidden", "24"])
    assert error < 0.8 * yesterday
    assert "mean squared error" in capsys.readouterr().out


MEMORY = ["--tasks", "recall", "--spans", "60", "--models", "rnn", "lstm-chrono-closed", "--seeds", "1"]


def test_memory_is_longer_with_gates(tmp_path, monkeypatch, capsys):
    memory, path = load("memory"), tmp_path / "memory.json"
    arguments = [*MEMORY, "--steps", "300", "--threads", "1", "--results", str(path)]
    results = memory.main(arguments)
    assert results.get("recall", 60, "lstm-chrono-closed", 0)["solved"]
    assert results.get("recall", 60, "rnn", 0)["scores"][-1] < 0.3
    table = capsys.readouterr().out
    assert "LSTM" in table and "tanh RNN" in table
    monkeypatch.setattr(memory, "run", None)  # nothing is left to run
    memory.main(arguments)
    assert capsys.readouterr().out == table
    with pytest.raises(SystemExit, match="choose another --results"):
        memory.main([*arguments, "--steps", "200"])
    path.write_text("{}")
    with pytest.raises(SystemExit, match="not results of this example"):
        memory.main(arguments)


def test_memory_goes_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    memory, path = load("memory"), tmp_path / "memory.json"
    curve = {"distances": [0, 60], "gradient before": [1.0, 0.1], "gradient after": [1.0, 0.5]}
    result = {"solved": True, "steps": 50, "seconds": 1.0, "scores": [1.0], **curve}
    answers = [lambda: result, lambda: (_ for _ in ()).throw(KeyboardInterrupt)]
    monkeypatch.setattr(memory, "run", lambda *arguments: answers.pop(0)())
    arguments = [*MEMORY, "--results", str(path)]
    memory.main(arguments)
    assert "goes on from" in capsys.readouterr().err
    assert list(json.loads(path.read_text())["runs"]) == ["recall/60/rnn/0"]
    answers[:] = [lambda: result]
    assert len(memory.main(arguments).runs) == 2
    pytest.importorskip("matplotlib")
    memory.main([*arguments, "--plot", str(tmp_path / "memory.png")])
    assert (tmp_path / "memory.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--spans", "1"], "spans of at least 2"),
        (["--seeds", "0"], "at least one seed"),
        (["--tasks", "chess"], "invalid choice"),
        (["--plot", "nowhere/memory.png"], "no such folder"),
    ),
    ids=str,
)
def test_memory_refuses(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        load("memory").main(arguments)
    assert message in capsys.readouterr().err


def test_the_tasks_of_memory():
    memory, rng = load("memory"), np.random.default_rng(0)
    x, target = memory.adding(20, 50, rng)
    assert (x[:10, :, 1].sum(axis=0) == 1).all() and (x[10:, :, 1].sum(axis=0) == 1).all()
    assert np.allclose((x[..., 0] * x[..., 1]).sum(axis=0), target[:, 0])
    x, target = memory.copying(20, 50, rng)
    letters = x.argmax(axis=-1)
    assert np.array_equal(target[-memory.COPIED :], letters[: memory.COPIED])
    assert (target[: -memory.COPIED] == memory.IGNORE_INDEX).all()
    assert (letters[memory.COPIED : -memory.COPIED] == memory.LETTERS).all() and len(x) == 20 + 2 * memory.COPIED
    x, target = memory.recall(20, 50, rng)
    letters = x.argmax(axis=-1)
    assert np.array_equal(letters[0], target) and len(x) == 21
    assert (letters[1:] >= memory.LETTERS).all()


@pytest.mark.parametrize("orthogonal", (False, True))
def test_an_lstm_with_stuck_gates_is_a_tanh_rnn(orthogonal):
    """torch.nn.RNN is the oracle, of results and of all gradients."""
    torch = pytest.importorskip("torch")
    layer = load("memory").tanh_rnn(3, 5, orthogonal=orthogonal, dtype="float64", seed=0)
    x, (h0, c0) = random_case(layer, 7, 4)
    candidate = slice(10, 15)
    twin = torch.nn.RNN(3, 5, dtype=torch.float64)
    twin.load_state_dict({name: torch.tensor(array[candidate]) for name, array in layer.parameters.items()})
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, h0)]
    expected, _ = twin(*inputs)
    y, _, tape = layer.forward(x, (h0, c0))
    assert np.abs(y - expected.detach().numpy()).max() < 1e-14
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    got = layer.backward(tape, dy)
    for array, tensor in zip((got.x, got.state[0]), inputs, strict=True):
        assert np.abs(array - tensor.grad.numpy()).max() < 1e-13
    for name, parameter in twin.named_parameters():
        assert np.abs(got.parameters[name][candidate] - parameter.grad.numpy()).max() < 1e-13, name
    if orthogonal:
        U = layer.parameters["weight_hh_l0"][candidate]
        assert np.abs(U @ U.T - np.eye(5)).max() < 1e-14


def test_the_gradients_of_the_tanh_rnn():
    layer = load("memory").tanh_rnn(2, 3, dtype="float64", seed=0)
    x, (h0, c0) = random_case(layer, 5, 4)
    y, _, tape = layer.forward(x, (h0, c0))
    dy = np.random.default_rng(1).standard_normal(y.shape)
    got = every_gradient(layer.backward(tape, dy))
    parameters = layer.state_dict()

    def loss():
        layer.load_state_dict(parameters)
        return (layer(x, (h0, c0))[0] * dy).sum()

    for name, array in {"x": x, "h0": h0, "c0": c0, **parameters}.items():
        check(got[name], finite_difference(loss, array), name)


def test_training_leaves_stuck_gates_where_they_are():
    memory = load("memory")
    model = memory.build(memory.TASKS["adding"], memory.MODELS["rnn"], 10, 0)
    before, optimizer = model.parameters, Adam(model, lr=0.1)
    for seed in range(5):
        x, target = memory.adding(10, 8, np.random.default_rng(seed))
        prediction, _, tape = model.forward(x)
        optimizer.step(model.backward(tape, mse(prediction, target)[1]))
    H = memory.RECIPE["hidden"]
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        old, new = before[f"0.{name}"], model.parameters[f"0.{name}"]
        for gate, stuck in ((0, True), (1, True), (2, False), (3, True)):
            rows = slice(gate * H, (gate + 1) * H)
            assert np.array_equal(old[rows], new[rows]) == stuck, (name, gate)


def test_the_gradient_by_distance():
    """The reference, backward over the last steps alone, is the oracle."""
    memory, span = load("memory"), 12
    lstm, linear = LSTM(2, 4, dtype="float64", seed=0), Linear(4, 1, dtype="float64", seed=1)
    x, target = memory.adding(span, 6, np.random.default_rng(2))
    distances, shares = memory.gradient_by_distance(Sequential(lstm, Readout(), linear), x, target, mse)
    assert distances == list(range(span + 1))
    weights = [lstm.parameters[f"weight_{part}_l0"] for part in ("ih", "hh")]
    bias = lstm.parameters["bias_ih_l0"] + lstm.parameters["bias_hh_l0"]
    zeros = np.zeros((6, 4))
    y, *_, (_, _, _, _, cells) = reference.forward_with_tape(x.astype(float), zeros, zeros, *weights, bias)
    hidden = np.concatenate([zeros[np.newaxis], y])
    dh = mse(linear(y[-1]), target)[1] @ linear.parameters["weight"]
    assert shares[0] == 1
    for distance, share in list(zip(distances, shares, strict=True))[1:]:
        state = hidden[span - distance], cells[span - distance]
        *_, tape = reference.forward_with_tape(x[span - distance :].astype(float), *state, *weights, bias)
        _, dh0, dc0, *_ = reference.backward(tape, np.zeros((distance, 6, 4)), dh, zeros, *weights)
        assert share == pytest.approx(np.sqrt((dh0**2).sum() + (dc0**2).sum()) / np.linalg.norm(dh), rel=1e-3)


def test_closed_input_gates():
    memory = load("memory")
    open_ = LSTM(2, 8, forget_bias=("chrono", 100), seed=0)
    parameters = memory.closed(LSTM(2, 8, forget_bias=("chrono", 100), seed=0)).parameters
    for name, array in open_.parameters.items():
        expected = array.copy()
        if name == "bias_ih_l0":
            expected[:8] -= array[8:16]
        assert np.array_equal(parameters[name], expected), name
