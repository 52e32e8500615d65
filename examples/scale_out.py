"""Train and score with several processes: a model learns the running mean of its inputs.

    python examples/scale_out.py make x.npy y.npy --rows 20000
    mpirun -n 2 python examples/scale_out.py train x.npy y.npy model.npz
    python examples/scale_out.py score model.npz x.npy output.npy --workers 2

The files are mapped into memory: a process reads only the rows it works on, so they may be larger than memory.
"""

import argparse

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Sequential, fit, load, mse, save
from lstm_cy.distributed import DataParallel, predict

STEPS, BLOCK = 50, 1000


def make(options):
    """Write noise, and its running mean."""
    rng = np.random.default_rng(0)
    shape = options.rows, STEPS, 1
    x, y = (np.lib.format.open_memmap(path, "w+", "float32", shape) for path in (options.x, options.y))
    for start in range(0, options.rows, BLOCK):
        rows = slice(start, start + BLOCK)
        x[rows] = rng.standard_normal(x[rows].shape)
        y[rows] = x[rows].cumsum(axis=1) / np.arange(1, STEPS + 1)[:, np.newaxis]


def train(options):
    """Train with mpirun, or in one process: the model is the same."""
    x, y = (np.load(path, mmap_mode="r") for path in (options.x, options.y))
    model = Sequential(LSTM(1, options.hidden, batch_first=True, seed=1), Linear(options.hidden, 1, seed=2))
    ranks = DataParallel()
    history = fit(
        model,
        (x, y),
        loss=mse,
        optimizer=Adam(model, lr=0.01),
        epochs=options.epochs,
        batch_size=128,
        clip_norm=1.0,
        parallel=ranks,
    )
    if ranks.first:
        save(model, options.model)
        print(f"mean squared error by epoch: {' '.join(f'{loss:.6f}' for loss in history.loss)}")


def score(options):
    """Score on local worker processes; to use a cluster, give its address to Client."""
    from distributed import Client

    with Client(n_workers=options.workers, threads_per_worker=1, dashboard_address=None) as client:
        output = predict(load(options.model), options.x, out=options.output)
        print(f"{output.shape} by {len(client.scheduler_info()['workers'])} workers, in {options.output}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    for command, names in ((make, ("x", "y")), (train, ("x", "y", "model")), (score, ("model", "x", "output"))):
        subparser = commands.add_parser(command.__name__, help=command.__doc__.partition("\n")[0])
        subparser.set_defaults(run=command)
        for name in names:
            subparser.add_argument(name)
    commands.choices["make"].add_argument("--rows", type=int, default=20000)
    commands.choices["train"].add_argument("--hidden", type=int, default=32)
    commands.choices["train"].add_argument("--epochs", type=int, default=3)
    commands.choices["score"].add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
