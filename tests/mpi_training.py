"""Trainings that test_distributed.py runs in one process, and in several with mpirun.

    mpirun -n 2 python tests/mpi_training.py TASK FOLDER

writes the results of each rank to FOLDER.
"""

import contextlib
import functools
import io
import json
import sys
from pathlib import Path

import numpy as np

from lstm_cy import (
    LSTM,
    SGD,
    Adam,
    Dropout,
    Embedding,
    Linear,
    Readout,
    Seq2Seq,
    Sequential,
    accuracy,
    cross_entropy,
    fit,
    mse,
)
from lstm_cy.seq2seq import teach

ROWS, STEPS = 13, 7
LENGTHS = np.array([7, 3, 0, 7, 5, 1, 7, 2, 7, 6, 0, 0, 4])
RNG = functools.partial(np.random.default_rng, 5)


def series(batch_first=False):
    """Return x (T, B, 2) and y (T, B, 3), or rows first."""
    rng = RNG()
    x, y = rng.normal(size=(STEPS, ROWS, 2)), rng.normal(size=(STEPS, ROWS, 3))
    return (x.swapaxes(0, 1), y.swapaxes(0, 1)) if batch_first else (x, y)


def tokens(ignored=()):
    """Return x and y (T, B) of seven tokens; all targets of the rows in `ignored` are ignored."""
    x, y = RNG().integers(7, size=(2, STEPS, ROWS))
    y[:, list(ignored)] = -100
    y[2, :5] = -100
    return x, y


def regressor(seed, *, batch_first=False, dropout=0.0, dtype="float64"):
    lstm = LSTM(2, 5, 2, batch_first=batch_first, dropout=dropout, dtype=dtype, seed=seed)
    return Sequential(lstm, Dropout(dropout), Linear(5, 3, dtype=dtype, seed=seed))


def tagger(seed, dropout=0.0):
    layers = Embedding(7, 4, dtype="float64", seed=seed), LSTM(4, 5, dtype="float64", seed=seed)
    return Sequential(*layers, Dropout(dropout), Linear(5, 7, dtype="float64", seed=seed))


def per_row(seed):
    return Sequential(
        LSTM(2, 5, dtype="float64", seed=seed), Readout(), Dropout(0.4), Linear(5, 3, dtype="float64", seed=seed)
    )


def square(seed):
    return Sequential(LSTM(2, 5, dtype="float64", seed=seed), Readout(), Linear(5, STEPS, dtype="float64", seed=seed))


def own_cross_entropy(prediction, target):
    """A user-defined loss whose weights fit does not know; raises NothingToCount as cross_entropy does."""
    return cross_entropy(prediction, target)


def halves(prediction, target):
    """A user-defined loss that counts only elements whose target starts above zero."""
    counted = target[..., :1] > 0
    difference = np.where(counted, prediction - target, 0)
    return float((difference**2).sum() / counted.sum()), 2 * difference / counted.sum()


def absolute(prediction, target, *, sample_weight):
    """A metric: the weighted mean of the absolute errors."""
    weights = np.broadcast_to(sample_weight[..., None], target.shape)
    return (np.abs(prediction - target) * weights).sum() / weights.sum()


def count_halves(target, **keywords):
    assert not keywords
    return (target[..., :1] > 0).sum()


def batches(epoch):
    """Yield batches of different sizes, one with fewer rows than four ranks."""
    x, y = series()
    for rows in (slice(0, 6), slice(6, 8), slice(8, 13)):
        yield x[:, rows] + epoch, y[:, rows]


def case(make, data, loss=mse, count=None, optimizer=Adam, **options):
    """Return the arguments of one training, from which each process makes its own; `make` takes a seed."""
    return {"make": make, "data": data, "loss": loss, "count": count, "optimizer": optimizer, "options": options}


ragged = (*series(), LENGTHS)
stopping = {"epochs": 6, "patience": 1, "validation": (series()[0][:, 3:], -series()[1][:, 3:])}
CASES = {
    "plain": case(regressor, series(), batch_size=4),
    "ragged, clipped, windows": case(regressor, ragged, batch_size=5, bptt=3, clip_norm=0.05, validation=ragged),
    "rows first": case(
        functools.partial(regressor, batch_first=True), (*series(True), LENGTHS), batch_size=6, optimizer=SGD
    ),
    "dropout": case(functools.partial(regressor, dropout=0.3), ragged, batch_size=3),
    "dropout, rows first, windows": case(
        functools.partial(regressor, dropout=0.3, batch_first=True), series(True), batch_size=7, bptt=3
    ),
    "a target per row": case(per_row, (series()[0], series()[1][0]), batch_size=5),
    "early stopping": case(regressor, series(), batch_size=4, **stopping),
    "a callable": case(regressor, batches),
    "ignored": case(
        tagger, tokens(ignored=(0, 3, 4, 12)), cross_entropy, batch_size=5, clip_norm=0.1, validation=tokens()
    ),
    "ignored, ragged, weighted": case(
        tagger, (*tokens(), LENGTHS), functools.partial(cross_entropy, weight=np.arange(7.0)), batch_size=6
    ),
    "a user-defined loss": case(regressor, series(), halves, count_halves, batch_size=13),
    "rows of length 0, a target per row": case(per_row, (series()[0], series()[1][0], LENGTHS), batch_size=3),
    "as many targets per row as steps and rows": case(
        square, (series()[0][:, :STEPS], series()[0][..., 0].T[:STEPS].copy()), batch_size=STEPS
    ),
    "batches with nothing to count": case(
        tagger, tokens(ignored=range(8)), cross_entropy, batch_size=2, validation=tokens(ignored=range(12)), bptt=3
    ),
    "a user-defined loss with nothing to count": case(
        tagger, tokens(ignored=range(8)), own_cross_entropy, batch_size=1, validation=tokens(ignored=range(12))
    ),
    "masks, weights and metrics": case(
        functools.partial(regressor, dropout=0.3),
        {"x": series()[0], "y": series()[1], "mask": RNG().random((STEPS, ROWS)) < 0.7},
        batch_size=5,
        sample_weight=RNG().random(ROWS).round(1),
        validation={"x": series()[0], "y": series()[1], "sample_weight": RNG().random((STEPS, ROWS))},
        metrics={"absolute": absolute},
        accumulate=2,
    ),
    "frozen, classes, read ahead": case(
        functools.partial(tagger, dropout=0.3),
        tokens(ignored=(0, 3)),
        cross_entropy,
        optimizer=functools.partial(Adam, frozen=["0.*", "1.*"]),
        batch_size=3,
        class_weight=np.arange(7.0),
        metrics=[accuracy],
        prefetch=3,
        clip_norm=0.1,
    ),
    "float32": case(functools.partial(regressor, dtype="float32"), ragged, batch_size=5, clip_norm=0.05),
}


def run(name, parallel=None, rank=0, **more):
    """Return {"loss": ..., "validation": ..., parameter: array} of a training; each rank starts with its own model."""
    chosen = CASES[name]
    model = chosen["make"](rank)
    optimizer = chosen["optimizer"](model, 0.1 if chosen["optimizer"] is SGD else 0.02)
    optimizer.lr /= 1 + rank
    options = {"epochs": 3, "seed": 3} | chosen["options"] | more
    if parallel and chosen["count"]:
        parallel = type(parallel)(count=chosen["count"])
    history = fit(
        model,
        chosen["data"],
        loss=chosen["loss"],
        optimizer=optimizer,
        parallel=parallel,
        **options,
    )
    numbers = {"loss": history.loss, "validation": history.validation, **history.metrics}
    return {**{name: np.array(values) for name, values in numbers.items()}, **model.parameters}


def stopped(parallel, rank):
    """The last rank stops the training after two epochs."""
    last = rank == parallel.comm.size - 1
    return run("plain", parallel, rank, callbacks=[lambda history: last and len(history.loss) == 2], epochs=9)


def another_kind_of_model(parallel, rank):
    sources = RNG().integers(2, 6, (9, 3)).tolist()
    model = Seq2Seq(6, embedding_dim=4, hidden_size=8, dropout=0.2, num_layers=2, dtype="float64", seed=rank)
    data = teach(sources, [source[:2] for source in sources], start=0, end=1)
    history = fit(model, data, loss=cross_entropy, optimizer=Adam(model), epochs=2, batch_size=6, parallel=parallel)
    return {"loss": np.array(history.loss), **model.parameters}


MORE = {"stopped": stopped, "another kind of model": another_kind_of_model}


def main(task, folder):
    from mpi4py import MPI

    from lstm_cy.distributed import DataParallel

    rank, size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
    folder = Path(folder)

    def keep(name, found):
        np.savez(folder / f"{name}.{size}.{rank}.npz", **found)

    if task == "cases":
        for name in (*CASES, *MORE):
            with contextlib.redirect_stderr(io.StringIO()) as printed:
                found = (MORE.get(name) or functools.partial(run, name))(DataParallel(), rank)
            keep(name, found | {"printed": np.array(len(printed.getvalue()))})
    elif task == "resume":  # the folders of the other ranks do not exist
        checkpoint = folder / "checkpoint.npz" if rank == 0 else folder / "nowhere" / "checkpoint.npz"
        epochs = json.loads((folder / "epochs.json").read_text())
        keep("resume", run("dropout", DataParallel(), rank, checkpoint=checkpoint, resume=True, epochs=epochs))
    elif task == "settings":
        run("plain", DataParallel(), rank, batch_size=4 + rank)
    elif task == "failure":

        def loss(prediction, target):
            if rank == 1:
                raise OSError("the disk of rank 1 is gone")
            return mse(prediction, target)

        model = regressor(0)
        fit(model, series(), loss=loss, optimizer=Adam(model), epochs=3, progress=False, parallel=DataParallel())


if __name__ == "__main__":
    main(*sys.argv[1:])
