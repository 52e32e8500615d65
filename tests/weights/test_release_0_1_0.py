"""Files, pickles and checkpoints that release 0.1.0 wrote still load, and give the same results."""

import importlib
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from lstm_cy import LSTM, Adam, Linear, Sequential, fit, load, mse

DATA = Path(__file__).parents[1] / "data" / "release_0_1_0"
TOLERANCE = {"rtol": 0, "atol": 2e-6}  # another instruction set may have written the results


@pytest.fixture(scope="module")
def expected():
    with np.load(DATA / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture(params=[2, 5])
def pickled(request):
    return pickle.loads((DATA / f"pickles-protocol-{request.param}.pkl").read_bytes())


@pytest.mark.parametrize("name", ["lstm", "int8", "model"])
def test_pickled_layers_give_the_same_results(pickled, expected, name):
    np.testing.assert_allclose(pickled[name](expected["x"])[0], expected[f"y_{name}"], **TOLERANCE)


def test_pickled_layers_in_bf16_give_results_some_roundings_away(pickled, expected):
    """Since then x and h are rounded to 8 bits too, in sums of a few numbers."""
    np.testing.assert_allclose(pickled["bf16"](expected["x"])[0], expected["y_bf16"], rtol=0, atol=2**-10)


def test_pickled_models_of_tokens_load(pickled, expected):
    np.testing.assert_allclose(pickled["tokens"]([1, 2, 3])[0], expected["y_tokens"], **TOLERANCE)
    assert pickled["seq2seq"].num_tokens == 6
    assert pickled["attention"].query_size == 4


def test_files_load(expected):
    model = load(DATA / "model.npz")
    assert model.metadata == {"made": "by 0.1.0"}
    np.testing.assert_allclose(model(expected["x"])[0], expected["y_model"], **TOLERANCE)
    np.testing.assert_allclose(load(DATA / "int8.npz")(expected["x"])[0], expected["y_int8"], **TOLERANCE)


def test_a_checkpoint_is_resumed(tmp_path, expected):
    path = tmp_path / "checkpoint.npz"
    shutil.copy(DATA / "checkpoint.npz", path)
    model = Sequential(LSTM(3, 4, seed=5), Linear(4, 2, seed=6))
    history = fit(
        model,
        (expected["x"], np.zeros((4, 2, 2), "f4")),
        loss=mse,
        optimizer=Adam(model, 0.01),
        epochs=2,
        checkpoint=path,
        resume=True,
        progress=False,
        seed=0,
    )
    assert len(history.loss) == 2  # all of it was done before
    for name, array in model.parameters.items():
        np.testing.assert_array_equal(array, expected[f"fitted_{name}"])


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("activations", ["DEFAULTS", "normalized"]),
        ("attention", ["Attention", "AttentionGradients"]),
        ("batches", ["pad"]),
        ("functions", ["ELEMENTWISE", "VECTORWISE"]),
        ("layer", ["Layer", "Gradients", "Tape", "_rebuilt"]),
        ("layers", ["Linear", "Embedding", "Dropout", "Activation", "Masking", "Readout", "Sequential"]),
        ("losses", ["cross_entropy", "mse", "ctc", "IGNORE_INDEX", "NothingToCount"]),
        ("lstm", ["LSTM", "Tape"]),
        ("optimizers", ["Optimizer", "SGD", "Adam", "clip_grad_norm", "_Group"]),
        ("stepper", ["Stepper"]),
        ("streams", ["StreamPool"]),
        ("weights.archive", ["members", "Member"]),
        ("weights.conversion", ["read", "write"]),
        ("weights.hdf5", ["read"]),
        ("weights.report", ["describe"]),
        ("weights.torch_pickle", ["read"]),
        ("quantize", ["QuantizedLSTM", "quantize", "to_bf16", "to_int8", "widened"]),
        ("training", ["fit", "History", "read_history", "Team"]),
    ],
)
def test_former_paths_of_modules_can_be_imported(path, names):
    module = importlib.import_module(f"lstm_cy.{path}")
    assert all(hasattr(module, name) for name in names)
