"""Public calls with the types that mypy must infer. This file is not run: `mypy` checks it with the package.

A call that mypy must refuse has an ignore comment; mypy reports an ignore comment that is not needed.
"""

from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np

import lstm_cy
from lstm_cy import (
    LSTM,
    SGD,
    ActivationRegularization,
    Adam,
    AdamW,
    Attention,
    Dropout,
    Embedding,
    Linear,
    RMSprop,
    Sequential,
    StreamPool,
    reference,
    weights,
)
from lstm_cy.decoding import Hypothesis, beam_search, generate, negative_log_likelihood
from lstm_cy.layers.base import Gradients, Layer
from lstm_cy.layers.lstm import Tape
from lstm_cy.layers.quantized import QuantizedLSTM
from lstm_cy.streaming.stepper import Stepper
from lstm_cy.text import Bytes, Vocabulary, Words
from lstm_cy.trace import GateTrace
from lstm_cy.training import History
from lstm_cy.typing import Array, Ints, Parameters, State

x = np.zeros((7, 4, 3), np.float32)
tokens = np.zeros((7, 4), np.intp)


def an_lstm() -> None:
    lstm = LSTM(3, 5, 2, batch_first=True, coupled_gates="f=1-i", forget_bias=("chrono", 100), dtype="float64", seed=0)
    assert_type(lstm(x), tuple[Array, State])
    y, state = lstm(x, None, lengths=[7, 5, 1, 0], threads=2)
    assert_type(lstm([[0.0, 1.0, 2.0]], state), tuple[Array, State])
    y, (h_n, c_n) = lstm(x, (np.zeros((2, 4, 5)), [[[0.0]]]), mask=np.ones((7, 4), bool), reset=None)
    assert_type(h_n, Array)
    assert_type(lstm.forward(x, rng=0), tuple[Array, State, Tape])
    tape = lstm.forward(x, rng=np.random.default_rng(0))[2]
    assert_type(lstm.backward(tape, y, (None, c_n)), Gradients)
    assert_type(lstm.backward(tape, y).parameters, Parameters)
    assert_type(lstm.parameters, Parameters)
    assert_type(lstm.dtype, np.dtype[Any])
    assert_type(lstm.trace(x), GateTrace)
    assert_type(lstm.quantize("int8"), QuantizedLSTM)
    assert_type(lstm.quantize("bf16")(x), tuple[Array, State])
    assert_type(LSTM.from_gates(forget=(x, x), input=(x, x), candidate=(x, x), output=(x, x), clip=1.0), LSTM)
    lstm.load_state_dict({"weight_ih_l0": [[1.0]]}, strict=False)

    LSTM("3", 5)  # type: ignore[arg-type]
    LSTM(3, 5, num_layer=2)  # type: ignore[call-arg]
    LSTM(3, 5, coupled_gates="i")  # type: ignore[arg-type]
    lstm(x, threads="2")  # type: ignore[arg-type]
    lstm.quantize("int4")  # type: ignore[arg-type]
    lstm.backward(x)  # type: ignore[arg-type]


def a_stepper(stepper: Stepper) -> None:
    assert_type(LSTM(3, 5).stepper(batch_size=2), Stepper)
    assert_type(stepper.step([1.0, 2.0, 3.0]), Array)
    assert_type(stepper.copy(), Stepper)
    stepper.state = x, x
    stepper.reset([0])
    stepper.batch_size = 3  # type: ignore[misc]


def a_stream_pool(pool: StreamPool) -> None:
    assert_type(pool.join(), int)
    assert_type(pool.step([0], x[0, :1]), Array)
    assert_type(pool.ids, Ints)
    pool.leave("0")  # type: ignore[arg-type]


def other_layers() -> None:
    assert_type(Linear(3, 2)(x), Array)
    assert_type(Embedding(10, 3)(tokens), Array)
    assert_type(Dropout(0.5)(x), np.ndarray[tuple[int, int, int], np.dtype[np.float32]])
    assert_type(Attention(5, 5)(x, x, memory_lengths=[7, 5]), tuple[Array, Array])
    assert_type(Linear(3, 2).backward(Linear(3, 2).forward(x)[1], x), Gradients)


def a_model() -> Sequential:
    model = Sequential(Embedding(10, 4), LSTM(4, 8), Linear(8, 10))
    out, states = model(tokens, lengths=[7, 5, 1, 0])
    assert_type(states, list[State])
    out, states, tape = model.forward(tokens, states)
    assert_type(model.backward(tape, out), Gradients)
    assert_type(model.layers, tuple[Layer, ...])
    assert_type(model.quantize("bf16", sample=tokens), Sequential)
    Sequential([LSTM(3, 5)])  # type: ignore[arg-type]
    return model


def training(model: Sequential) -> None:
    optimizer = Adam(model, lr=1e-3, betas=(0.9, 0.99))
    history = lstm_cy.fit(model, (tokens, tokens), loss=lstm_cy.cross_entropy, optimizer=optimizer, epochs=2)
    assert_type(history, History)
    assert_type(history.best_epoch, int | None)

    def batches(epoch: int) -> Iterator[tuple[Array, Array]]:
        yield x, x

    lstm_cy.fit(model, batches, loss=lstm_cy.mse, optimizer=SGD(model, 0.1), epochs=1, callbacks=[lambda history: True])
    assert_type(lstm_cy.cross_entropy(x, tokens), tuple[float, Array])
    assert_type(lstm_cy.ctc(x, [[1], [2]]), tuple[float, Array])
    assert_type(lstm_cy.clip_grad_norm({"weight": x}, 1.0), float)
    assert_type(lstm_cy.pad([[1, 2], [3]]), tuple[Array, Ints])
    lstm_cy.fit(model, (x, x), loss=lstm_cy.mse, optimizer="adam", epochs=2)  # type: ignore[arg-type]
    optimizer.step(x)  # type: ignore[arg-type]


def options_of_training(model: Sequential) -> None:
    embedding = Embedding(10, 4, padding_idx=-1, frozen=True)
    lstm = LSTM(4, 4, recurrent_dropout=0.1, zoneout=(0.1, 0.2), weight_drop=0.3, learn_initial_state=True)
    LSTM(4, 4, recurrent_init="orthogonal")
    penalties = ActivationRegularization(ar=1.0, tar=2.0, batch_first=False)
    assert_type(penalties.penalty(x, mask=np.ones((7, 4), bool)), float)
    assert_type(Sequential(embedding, lstm, penalties, Linear(4, 10, tied=embedding)), Sequential)
    groups = [{"parameters": ["0.*"], "lr": 1e-4}]
    optimizer = AdamW(model, 1e-3, weight_decay=0.1, groups=groups, frozen="1.*", decay_biases=False)
    assert_type(optimizer.trained, tuple[str, ...])
    RMSprop(model, alpha=0.9, centered=True, momentum=0.5)
    assert_type(model.parameter_gradients(model.forward(tokens)[2], x, optimizer.trained), Parameters)
    history = lstm_cy.fit(
        model,
        {"x": tokens, "y": tokens, "mask": np.ones((7, 4), bool)},
        loss=lstm_cy.cross_entropy,
        optimizer=optimizer,
        epochs=2,
        validation_split=0.25,
        shuffle=False,
        sample_weight=[1.0, 2.0, 0.0, 1.0],
        class_weight={3: 2.0},
        gaps=True,
        prefetch=2,
        metrics=[lstm_cy.accuracy],
        clip_value=1.0,
        accumulate=2,
        schedule=lstm_cy.schedules.CosineWithWarmup(100, warmup=10),
    )
    assert_type(history.metrics, dict[str, list[float]])
    assert_type(lstm_cy.accuracy(x, tokens), float)
    LSTM(4, 4, zoneout=0.1)  # type: ignore[arg-type]
    AdamW(model, groups=[1])  # type: ignore[list-item]
    Embedding(10, 4, padding_idx="0")  # type: ignore[arg-type]


def text(model: Sequential, vocabulary: Vocabulary | Words | Bytes) -> None:
    assert_type(vocabulary.encode("abc"), Ints)
    assert_type(generate(model, vocabulary, "abc", temperature=0.5), Iterator[str])
    assert_type(negative_log_likelihood(model, tokens), float)

    def step(tokens: Ints, state: Any) -> tuple[Array, Any]:
        return x, state

    assert_type(beam_search(step, x, start=0, end=1), list[Hypothesis])


def files(model: Sequential) -> None:
    lstm_cy.save(model, "model.npz", metadata={"vocabulary": "abc"})
    assert_type(weights.pytorch.lstms("model.pt"), dict[str, LSTM])
    lstm_cy.save({"weight": x}, "model.npz")  # type: ignore[arg-type]


def the_rest() -> None:
    assert_type(reference.sigmoid(x), Array)
    assert_type(lstm_cy.show_config("dicts"), dict[str, Any])
    lstm_cy.show_config()
    assert_type(lstm_cy.get_num_threads(), int)
    lstm_cy.set_num_threads("all")  # type: ignore[arg-type]
    print(lstm_cy.GRU)  # type: ignore[attr-defined]
