"""A correct call of each public function and method, for arguments.py.

CALLS is {name: function without arguments that returns (callable, {argument: value})}; "*" stands for positional
arguments.
"""

from pathlib import Path

import numpy as np
from calls_layers import CHAIN, FULL, LAYERS, LENGTHS, MASK, STATE, TOKENS, X, chain, dict_of, lstm, x

import lstm_cy
from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    Embedding,
    Layer,
    Linear,
    Masking,
    Seq2Seq,
    Sequential,
    StreamPool,
    batches,
    config,
    decoding,
    distributed,
    mse,
    seq2seq,
    text,
    training,
    weights,
)  # fmt: skip
from lstm_cy.weights import gate_order, inspect, pytorch

SAMPLING = {"temperature": 0.7, "top_k": 3, "top_p": 0.9}
CTC = {"lengths": np.array([4, 3]), "blank": 0, "batch_first": False}
GATES = {gate: (x(3, 5), x(3)) for gate in ("forget", "input", "candidate", "output")}


def fitted(name):
    from lstm_cy import estimators

    model = getattr(estimators, name)(hidden_size=2, epochs=1, random_state=0, validation_fraction=0.0)
    return model.fit(x(8, 3, 2), np.array([0, 1] * 4))


def forecaster(fit=True):
    from lstm_cy import LSTMForecaster

    model = LSTMForecaster(2, 4, 2, epochs=1, random_state=0)
    return model.fit(np.sin(np.arange(60.0))) if fit else model


def saved(model, name="model.npz"):
    lstm_cy.save(model, name)
    return name


def _file(name, content):
    Path(name).write_bytes(content)
    return name


def _array_file():
    np.save("data.npy", X)
    return "data.npy"


def step(tokens, state):
    return x(len(tokens), 5) - 2, state


def trainable():
    model = Sequential(lstm(), Linear(3, 1, seed=0))
    return model, {
        "model": model, "data": (X, x(4, 2, 1)), "loss": mse, "optimizer": Adam(model, 0.01), "epochs": 2,
        "batch_size": 2,
        "validation": (X, x(4, 2, 1), LENGTHS), "bptt": 2, "clip_norm": 1.0, "patience": 3, "checkpoint": "c.npz",
        "resume": False,
        "seed": 0, "progress": False, "callbacks": (lambda history: None,), "parallel": None,
    }  # fmt: skip


def onnx_model():
    return lstm_cy.from_onnx(weights.onnx.to_onnx(lstm()))


def traced():
    return lstm().trace(X)


def pool():
    new_pool = StreamPool(lstm())
    new_pool.join()
    new_pool.join()
    return new_pool


CALLS = LAYERS | {
    "LSTM.from_gates": lambda: (LSTM.from_gates, {**GATES, "batch_first": True, "dtype": "float64"}),
    "LSTM.quantize": lambda: (lstm().quantize, {"kind": "int8", "sample": X}),
    "LSTM.stepper": lambda: (lstm().stepper, {"batch_size": 2}),
    "LSTM.trace": lambda: (lstm().trace, {**FULL, "layer": -1, "direction": 0}),
    "Sequential.quantize": lambda: (chain().quantize, {"kind": "bf16", "sample": TOKENS}),
    "Sequential.stepper": lambda: (chain().stepper, {"batch_size": 2}),
    "Sequential.trace": lambda: (chain().trace, {**CHAIN, "layer": -1, "direction": 0}),
    "Stepper.step": lambda: (lstm().stepper(2).step, {"x_t": x(2, 2), "out": np.empty((2, 3), "f4")}),
    "Stepper.reset": lambda: (lstm().stepper(2).reset, {"rows": [1]}),
    "Stepper.state": lambda: (lambda state: setattr(lstm().stepper(2), "state", state), {"state": STATE}),
    "StreamPool.join": lambda: (pool().join, {"state": (x(1, 3), x(1, 3))}),
    "Layer": lambda: (Layer, {"parameters": {"a": x(2)}, "config": {"size": 3}}),
    "StreamPool.copy": lambda: (pool().copy, {}),
    "StreamPool.leave": lambda: (pool().leave, {"id": 0}),
    "StreamPool.state": lambda: (pool().state, {"id": 0}),
    "StreamPool.set_state": lambda: (pool().set_state, {"id": 0, "state": (x(1, 3), x(1, 3))}),
    "StreamPool.reset": lambda: (pool().reset, {"ids": [0]}),
    "StreamPool.__contains__": lambda: (pool().__contains__, {"*": [0]}),
    "StreamPool.step": lambda: (pool().step, {"ids": np.array([0, 1]), "x": x(2, 2), "out": np.empty((2, 3), "f4"),
        "threads": 1}),
    "Embedding.valid": lambda: (Embedding(5, 2, mask_zero=True).valid, {"tokens": TOKENS}),
    "Masking.valid": lambda: (Masking().valid, {"x": X}),
    "Seq2Seq.translate": lambda: (Seq2Seq(5, embedding_dim=2, hidden_size=4).translate, {
        "source": np.array([1, 2]), "start": 1, "end": 2, "beam_width": 3, "max_length": 4, "length_penalty": 0.5}),
    "Seq2Seq.align": lambda: (Seq2Seq(5, embedding_dim=2, hidden_size=4).align, {
        "source": np.array([1, 2]), "tokens": np.array([1, 3]), "start": 1}),
    "seq2seq.teach": lambda: (seq2seq.teach, {"sources": [[1, 2], [3]], "targets": [[1], [2, 3]], "start": 1,
    "end": 2}),
    "cross_entropy": lambda: (lstm_cy.cross_entropy, {"prediction": x(4, 2, 5), "target": np.ones((4, 2), int),
        "lengths": LENGTHS,
                                                     "batch_first": False, "ignore_index": 2, "weight": np.ones(5)}),
    "mse": lambda: (mse, {"prediction": x(4, 2, 5), "target": x(4, 2, 5), "lengths": LENGTHS, "batch_first": False}),
    "ctc": lambda: (lstm_cy.ctc, {"prediction": x(4, 2, 5), "target": np.array([[1, 2], [3, 0]]),
        "target_lengths": np.array([2, 1]),
                                 "zero_infinity": True, **CTC}),
    "ctc_greedy": lambda: (lstm_cy.ctc_greedy, {"scores": x(4, 2, 5), **CTC}),
    "ctc_beam": lambda: (lstm_cy.ctc_beam, {"scores": x(4, 2, 5), **CTC, "beam_width": 3,
        "language_model": lambda prefix, label: -1.0}),
    "clip_grad_norm": lambda: (lstm_cy.clip_grad_norm, {"grads": dict_of(lstm()), "max_norm": 0.5}),
    "SGD.step": lambda: (lambda model: (SGD(model, 0.1).step, {"grads": dict_of(model)}))(lstm()),
    "Adam.step": lambda: (lambda model: (Adam(model).step, {"grads": dict_of(model)}))(lstm()),
    "Adam.load_state_dict": lambda: (lambda o: (o.load_state_dict, {"mapping": dict_of(o)}))(Adam(lstm())),
    "Adam.lr": lambda: (lambda lr: _with_rate(lr), {"lr": 0.1}),
    "fit": lambda: (lstm_cy.fit, trainable()[1]),
    "training.read_history": lambda: (training.read_history, {"checkpoint": "c.npz"}),
    "training.History": lambda: (training.History, {"loss": [1.0], "validation": [1.0], "seconds": [1.0]}),
    "pad": lambda: (batches.pad, {"sequences": [x(3, 2), x(1, 2)], "batch_first": True}),
    "sample": lambda: (lstm_cy.sample, {"logits": x(2, 5), **SAMPLING, "rng": 0}),
    "decoding.generate": lambda: (_written, {"model": chain(), "vocabulary": text.Vocabulary("abcd"), "prompt": "ab",
        "length": 5,
                                             **SAMPLING, "seed": 0}),
    "decoding.negative_log_likelihood": lambda: (decoding.negative_log_likelihood, {"model": chain(),
        "tokens": np.array([1, 2, 3]), "chunk": 2, "progress": False}),
    "decoding.Hypothesis": lambda: (decoding.Hypothesis, {"tokens": TOKENS, "score": 1.0, "log_probability": 1.0,
        "ended": True}),
    "beam_search": lambda: (lstm_cy.beam_search, {"step": step, "state": (x(1, 1, 3), x(1, 1, 3)), "start": 1,
        "end": 2, "beam_width": 2,
        "max_length": 4,
                                                 "length_penalty": 0.5, "row_axis": 1}),
    "save": lambda: (lstm_cy.save, {"model": chain(), "path": "saved.npz", "metadata": {"a": [1, {"b": None}]}}),
    "load": lambda: (lstm_cy.load, {"path": saved(lstm()), "strict": False}),
    "from_torch": lambda: (lstm_cy.from_torch, {"module": __import__("torch").nn.LSTM(2, 3)}),
    "from_keras": lambda: (lstm_cy.from_keras, {"model": None}),
    "from_onnx": lambda: (lstm_cy.from_onnx, {"model": weights.onnx.to_onnx(lstm()), "strict": True}),
    "onnx.lstms": lambda: (weights.onnx.lstms, {"model": weights.onnx.to_onnx(lstm())}),
    "onnx.to_onnx": lambda: (weights.onnx.to_onnx, {"model": chain(), "states": True, "lengths": True,
        "metadata": {"a": 1}}),
    "OnnxModel.run": lambda: (onnx_model().run, {"inputs": {"x": X}, "outputs": ["y"]}),
    "pytorch.read": lambda: (pytorch.read, {"path": saved(lstm(), "model.safetensors")}),
    "pytorch.lstms": lambda: (pytorch.lstms, {"source": dict_of(lstm()), "batch_first": True, "strict": True}),
    "pytorch.to_state_dict": lambda: (pytorch.to_state_dict, {"model": lstm(), "prefix": "a."}),
    "inspect.describe": lambda: (inspect.describe, {"path": saved(lstm())}),
    "gate_order.reorder": lambda: (gate_order.reorder, {"rows": x(12, 2), "source": ["input", "forget", "candidate",
        "output"],
                                                       "target": ("output", "forget", "candidate", "input")}),
    "gate_order.stack": lambda: (gate_order.stack, {"gates": {gate: x(3, 2) for gate in GATES}}),
    "set_num_threads": lambda: (lstm_cy.set_num_threads, {"n": 2}),
    "show_config": lambda: (lstm_cy.show_config, {"mode": "dicts"}),
    "GateTrace": lambda: (lstm_cy.GateTrace, {**{n: x(4, 2, 3) for n in ("forget", "input", "candidate", "output",
        "cell", "hidden")},
                          "initial_cell": x(2, 3), "valid": MASK, "reset": ~MASK, "batch_first": False,
                          "reverse": False}),
    "GateTrace.retention": lambda: (traced().retention, {"t0": 0, "t1": 2}),
    "GateTrace.contribution": lambda: (traced().contribution, {"t": 2}),
    "GateTrace.salience": lambda: (traced().salience, {"row": 0}),
    "GateTrace.report": lambda: (traced().report, {"tokens": list("abcd"), "row": 0, "units": 2}),
    "GateTrace.plot": lambda: (_closed(traced().plot), {"tokens": list("abcd"), "row": 0, "units": [0, 1], "lines": 2,
        "steps": (0, 3),
                                                       "title": "t"}),
    "GateTrace.to_npz": lambda: (traced().to_npz, {"path": "trace.npz"}),
    "Vocabulary.from_text": lambda: (text.Vocabulary.from_text, {"text": "abca", "min_count": 1, "size": 3}),
    "Vocabulary.encode": lambda: (text.Vocabulary("abc").encode, {"text": "ab"}),
    "Vocabulary.decode": lambda: (text.Vocabulary("abc").decode, {"tokens": np.array([1, 2])}),
    "Vocabulary.missing": lambda: (text.Vocabulary("abc").missing, {"text": "abx"}),
    "Vocabulary.pieces": lambda: (lambda tokens: list(text.Vocabulary("abc").pieces(tokens)), {"tokens": [1, 2]}),
    "Vocabulary.from_json": lambda: (text.Vocabulary.from_json, {"value": text.Vocabulary("abc").to_json()}),
    "Words.from_text": lambda: (text.Words.from_text, {"text": "a b c", "min_count": 1, "size": 3}),
    "Words.encode": lambda: (text.Words(["a", "b"]).encode, {"text": "a b"}),
    "Words.decode": lambda: (text.Words(["a", "b"]).decode, {"tokens": np.array([0, 1])}),
    "Words.from_json": lambda: (text.Words.from_json, {"value": text.Words(["a"]).to_json()}),
    "Bytes.encode": lambda: (text.Bytes().encode, {"text": "ab"}),
    "Bytes.decode": lambda: (text.Bytes().decode, {"tokens": np.array([65, 200])}),
    "Bytes.pieces": lambda: (lambda tokens: list(text.Bytes().pieces(tokens)), {"tokens": [65, 200]}),
    "text.vocabulary_from_json": lambda: (text.vocabulary_from_json, {"value": text.Bytes().to_json()}),
    "text.read_text": lambda: (text.read_text, {"path": _file("a.txt", b"text")}),
    "text.columns": lambda: (text.columns, {"tokens": np.arange(9), "batch_size": 2}),
    "text.unigram_entropy": lambda: (text.unigram_entropy, {"tokens": np.arange(9)}),
    "distributed.predict": lambda: (distributed.predict, {"model": lstm(), "data": _array_file(), "lengths": LENGTHS,
        "out": "o.npy", "threads": 1,
                                                         "progress": False}),
    "config.engine": lambda: (config.engine, {}),
    "LSTMClassifier": lambda: (lambda **options: _fit_with("LSTMClassifier", options), {
        "hidden_size": 2, "num_layers": 1, "bidirectional": True, "dropout": 0.1, "lr": 0.1, "epochs": 1,
        "batch_size": 4, "clip_norm": 1.0,
        "patience": 1, "validation_fraction": 0.3, "class_weight": "balanced", "random_state": 0, "verbose": False}),
    "LSTMClassifier.fit": lambda: (_new("LSTMClassifier").fit, {"X": x(8, 3, 2), "y": np.array([0, 1] * 4)}),
    "LSTMRegressor.fit": lambda: (_new("LSTMRegressor").fit, {"X": [x(3, 2), x(2, 2), x(1, 2)], "y": x(3)}),
    "LSTMClassifier.predict": lambda: (fitted("LSTMClassifier").predict, {"X": x(2, 3, 2)}),
    "LSTMRegressor.predict": lambda: (fitted("LSTMRegressor").predict, {"X": x(2, 3, 2)}),
    "LSTMForecaster": lambda: (_forecast, {"horizon": 2, "window": 4, "hidden_size": 2, "num_layers": 1,
        "dropout": 0.0, "lr": 0.1,
                                          "epochs": 1, "calibration_fraction": 0.2}),
    "LSTMForecaster.fit": lambda: (forecaster(False).fit, {"y": np.sin(np.arange(60.0))}),
    "LSTMForecaster.predict": lambda: (forecaster().predict, {"horizon": 2, "y": np.sin(np.arange(30.0))}),
    "LSTMForecaster.predict_interval": lambda: (forecaster().predict_interval, {"horizon": 2, "coverage": 0.8}),
}  # fmt: skip


def _with_rate(lr):
    model = lstm()
    optimizer = Adam(model)
    optimizer.lr = lr
    optimizer.step(dict_of(model))


def _written(**arguments):
    return "".join(decoding.generate(**arguments))


def _closed(plot):
    def call(**arguments):
        import matplotlib.pyplot

        plot(**arguments)
        matplotlib.pyplot.close("all")

    return call


def _new(name):
    from lstm_cy import estimators

    return getattr(estimators, name)(hidden_size=2, epochs=1, random_state=0)


def _fit_with(name, options):
    from lstm_cy import estimators

    return getattr(estimators, name)(**options).fit(x(8, 3, 2), np.array([0, 1] * 4))


def _forecast(**options):
    from lstm_cy import LSTMForecaster

    return LSTMForecaster(**options).fit(np.sin(np.arange(60.0)))
