"""Many asyncio tasks over one StreamPool: the steps that arrive within a short time are computed as one batch.

Everything but the computation runs in the event loop's thread. A batch is computed in a thread of its own; nothing else
uses the StreamPool meanwhile: streams join, leave and are read between two batches.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..checks import expect_shape, float_array, int_array, number, positive_int
from .metrics import Histogram, text_of
from .pool import StreamPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from ..typing import Array, ArrayLike

#: most steps of one session in a batch: the others wait for the next batch, so that a long run delays no other session
_MOST_STEPS = 32
#: upper bounds of the histograms' buckets: rows, and seconds
_SIZES = [2**power for power in range(13)]
_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]


class ServingError(RuntimeError):
    """The base of the errors of an AsyncStreamPool that are no fault of an argument."""


class QueueFullError(ServingError):
    """The queue has no room for the steps; none was computed."""


class SessionLimitError(ServingError):
    """There are as many sessions as the pool allows."""


class SessionClosedError(ServingError):
    """The session has ended: it was closed, or dropped because it was idle."""


class PoolClosedError(ServingError):
    """The pool was closed; steps that waited were not computed."""


class _Request:
    """Successive steps of a session, which wait or are computed."""

    __slots__ = ("arrival", "future", "results", "session", "steps", "x")

    def __init__(self, session: Session, x: Array, steps: int, future: asyncio.Future[Array], arrival: float) -> None:
        self.session, self.future, self.arrival = session, future, arrival
        self.x, self.steps = x, steps  # the numbers of the steps that are not computed, in one dimension
        self.results: list[Array] | None = None  # of the first steps of a run that is longer than a batch takes

    def __enter__(self) -> asyncio.Future[Array]:
        return self.future

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        pool = self.session._pool
        if error is not None:
            pool._forget(self, error)
        pool._end(self)


class Session:
    """One stream of an AsyncStreamPool, which makes it; ``async with`` begins and ends the stream.

    Attributes
    ----------
    steps : int
        Steps that have been computed. A step that is cancelled or times out is computed nevertheless if its batch had
        begun.
    """

    steps: int

    def __init__(self, pool: AsyncStreamPool, state: Any) -> None:
        self._pool, self._initial = pool, state
        self._id: int | None = None
        self._request: _Request | None = None
        self._used = 0.0
        self._ended = "it has not begun: use it in `async with`"
        self.steps = 0

    async def __aenter__(self) -> Self:
        self._pool._open(self)
        try:
            await self._pool._exclusive(self._join)
            self._check_open()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the stream; a step that waits raises SessionClosedError. Nothing happens if it has ended."""
        self._pool._drop(self, "it was closed")

    async def step(self, x: ArrayLike) -> Array:
        """Compute one step in the next batch.

        Parameters
        ----------
        x : array_like (I,), or a token
            It is copied.

        Returns
        -------
        ndarray (P,)
            A new array.

        Raises
        ------
        TypeError, ValueError
            x has a wrong type or shape.
        QueueFullError, SessionClosedError, PoolClosedError
            Nothing was computed.
        TimeoutError
            The pool's `timeout` has passed.
        RuntimeError
            Another step of this session is not finished.
        """
        pool = self._pool
        with pool._submit(self, pool._row(x), 1) as result:
            return (await result)[0]  # type: ignore[no-any-return]

    async def run(self, x: ArrayLike) -> Array:
        """Compute successive steps; the same bits as one by one.

        Parameters
        ----------
        x : array_like (T, I), or tokens (T,)
            They are copied. T may be 0, and at most the pool's `max_queue`.

        Returns
        -------
        ndarray (T, P)
            A new array.

        Raises
        ------
        TypeError, ValueError, QueueFullError, SessionClosedError, PoolClosedError, TimeoutError, RuntimeError
            As `step`. After PoolClosedError and TimeoutError the first steps may have been computed: see `steps`.
        """
        pool = self._pool
        numbers, steps = pool._rows(x)
        if not steps:
            pool._check_session(self)
            return np.empty((0, pool.outputs), pool.dtype)
        with pool._submit(self, numbers, steps) as result:
            return await result

    async def state(self) -> Any:
        """Return a copy of the stream's state, as `StreamPool.state` does; raise as `step` does.

        Returns
        -------
        state
        """
        return await self._when_idle(self._pool._streams.state)

    async def set_state(self, state: Any) -> None:
        """Set the stream's state, as `StreamPool.set_state` does; raise as `step` does.

        Parameters
        ----------
        state :
            As `state` returns it.
        """
        await self._when_idle(self._pool._streams.set_state, state)

    async def reset(self) -> None:
        """Set the state to the initial one of the model; raise as `step` does."""
        await self._when_idle(self._pool._streams.reset)

    async def _when_idle(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of a method of the StreamPool for this stream."""

        def call() -> Any:
            self._check_open()  # it may have ended meanwhile
            return method(self._id, *arguments)

        self._pool._check_session(self)
        return await self._pool._exclusive(call)

    def _check_open(self) -> None:
        if self._ended:
            raise SessionClosedError(f"session: expected an open one, but {self._ended}")

    def _join(self) -> None:
        if not self._ended:
            self._id = self._pool._streams.join(self._initial)
            self._initial = None

    def _leave(self) -> None:
        if self._id is not None:
            self._pool._streams.leave(self._id)
            self._id = None


class AsyncStreamPool:
    """Independent streams over one model, for asyncio: steps that arrive within a short time are one batch.

    It is a StreamPool whose steps are awaited. A batch is computed outside the event loop's thread as soon as its first
    step has waited for `max_wait`, every session has a step waiting, or `max_batch` sessions have.

    Parameters
    ----------
    model : LSTM, Sequential, Graph or GraphPool
        Any model for which a `StreamPool` can be made; its present weights are used. Or the `Graph.pool()` of a graph
        with states, which nothing else may use from then on.
    max_wait : float
        Seconds that a step waits for those of other sessions. An event loop's timer has a resolution of about 1 ms.
    max_batch : int
        Most sessions of a batch.
    max_queue : int
        Most steps that wait; further ones raise QueueFullError.
    max_sessions : int
        Most sessions at a time; further ones raise SessionLimitError.
    timeout : None or float
        Seconds after which a step, or a run of steps, raises TimeoutError.
    idle_timeout : None or float
        Seconds after which a session that does nothing is dropped: its next step raises SessionClosedError.
    threads : None or int
        As for `StreamPool.step`.

    Raises
    ------
    TypeError, ValueError
        The model cannot go step by step, or an argument has a wrong type or value.

    Notes
    -----
    A step that is cancelled (also by `asyncio.timeout`) while it waits is not computed, and leaves nothing behind. One
    whose batch has begun is computed, and its result is discarded; `Session.steps` counts it.

    With engine "packed" a stream gets the same bits as from a Stepper of its own, whatever the batches are. A stream of
    a GraphPool can differ by rounding, where operators of the graph round differently in other batches.

    A pool belongs to the event loop in which its first session is opened.

    Examples
    --------
    >>> import asyncio
    >>> import numpy as np
    >>> from lstm_cy import LSTM, AsyncStreamPool
    >>> async def listen(pool, samples):
    ...     async with pool.session() as session:
    ...         for x in samples:
    ...             h = await session.step(x)
    ...         return h
    >>> async def main():
    ...     async with AsyncStreamPool(LSTM(3, 5, seed=0)) as pool:
    ...         return await asyncio.gather(*(listen(pool, np.ones((7, 3)) * k) for k in range(4)))
    >>> [h.shape for h in asyncio.run(main())]
    [(5,), (5,), (5,), (5,)]
    """

    def __init__(
        self,
        model: Any,
        *,
        max_wait: float = 0.002,
        max_batch: int = 4096,
        max_queue: int = 65536,
        max_sessions: int = 65536,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        threads: int | None = None,
    ) -> None:
        self._max_wait = number("max_wait", max_wait, 0.0)
        self._max_batch, self._max_queue = positive_int("max_batch", max_batch), positive_int("max_queue", max_queue)
        self._max_sessions = positive_int("max_sessions", max_sessions)
        self._timeout = None if timeout is None else number("timeout", timeout, 0.0)
        self._idle_timeout = None if idle_timeout is None else number("idle_timeout", idle_timeout, 0.0)
        config.threads_of(threads)
        self._threads = threads
        self._streams = model if hasattr(model, "join") else StreamPool(model)
        self._number_type = np.dtype(np.intp) if self._streams.takes_tokens else self._streams.dtype
        self._row_shape = () if self._streams.takes_tokens else (self._streams.inputs,)
        self._width = 1 if self._streams.takes_tokens else self._streams.inputs  # numbers of a step in a request's x
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0  # the loop's
        self._executor = ThreadPoolExecutor(1, "lstm_cy")
        self._sessions: OrderedDict[Session, None] = OrderedDict()  # the one that was used last is the last
        self._queue: dict[_Request, None] = {}  # in the order of arrival
        self._queued = 0  # steps in the queue
        self._batch: list[_Request] = []  # that is being computed, by
        self._running: asyncio.Future[list[Array]] | None = None
        self._operations: list[tuple[Callable[[], Any], asyncio.Future[Any] | None]] = []  # for the end of the batch
        self._unfinished: dict[_Request, None] = {}  # with a time-out, in the order of arrival
        self._batch_timer: asyncio.TimerHandle | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._counts = dict.fromkeys(("steps", "refused", "timeouts", "cancelled", "opened", "dropped"), 0)
        self._sizes, self._waits, self._durations = Histogram(_SIZES), Histogram(_SECONDS), Histogram(_SECONDS)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of x and of the results."""
        return self._streams.dtype

    @property
    def inputs(self) -> int:
        """I, the numbers that a step takes; of a model that takes tokens their number."""
        return self._streams.inputs

    @property
    def outputs(self) -> int:
        """P, the numbers that a step gives."""
        return self._streams.outputs

    @property
    def takes_tokens(self) -> bool:
        """Whether the model begins with an Embedding."""
        return self._streams.takes_tokens

    async def __aenter__(self) -> Self:
        self._check_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __len__(self) -> int:
        """Return the number of sessions."""
        return len(self._sessions)

    def __repr__(self) -> str:
        return f"<AsyncStreamPool of {len(self)} sessions, {self._queued} steps waiting>"

    def session(self, state: Any = None) -> Session:
        """Return a new session, for ``async with``.

        Parameters
        ----------
        state : None, (h, c) or a mapping
            Its initial state, as for `StreamPool.join` or `GraphPool.join`; it is copied when the session begins.

        Returns
        -------
        Session
            Entering it raises SessionLimitError, PoolClosedError, or what `StreamPool.join` raises.
        """
        return Session(self, state)

    async def close(self) -> None:
        """End all sessions: steps that wait raise PoolClosedError; a batch that is computed is finished first."""
        self._closed = True
        for timer in (self._batch_timer, self._expiry_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()
        for request in self._queue:
            _fail(request.future, PoolClosedError("pool: it was closed before this step was computed"))
        self._queue.clear()
        self._queued = 0
        for session in list(self._sessions):
            self._drop(session, "the pool was closed", of_pool=True)
        self._executor.shutdown(wait=False)
        if self._running is not None:
            await asyncio.wait([self._running])

    def metrics(self) -> str:
        """Return counters in Prometheus' text format.

        Returns
        -------
        str
            Sessions, waiting steps; how many steps were computed, refused, cancelled, timed out; how many sessions
            were opened and dropped; histograms of the batches' sizes, of the seconds that steps waited for their batch,
            and of the seconds that batches took.

        Examples
        --------
        >>> from lstm_cy import LSTM, AsyncStreamPool
        >>> AsyncStreamPool(LSTM(3, 5)).metrics().splitlines()[:3]
        ['# HELP lstm_cy_sessions Open sessions.', '# TYPE lstm_cy_sessions gauge', 'lstm_cy_sessions 0']
        """
        counts = self._counts
        return text_of(
            [
                ("lstm_cy_sessions", "gauge", "Open sessions.", len(self)),
                ("lstm_cy_waiting_steps", "gauge", "Steps that wait for a batch.", self._queued),
                ("lstm_cy_steps_total", "counter", "Steps computed.", counts["steps"]),
                ("lstm_cy_refused_total", "counter", "Requests refused by a full queue.", counts["refused"]),
                ("lstm_cy_timeouts_total", "counter", "Requests that timed out.", counts["timeouts"]),
                ("lstm_cy_cancelled_total", "counter", "Requests that were cancelled.", counts["cancelled"]),
                ("lstm_cy_sessions_opened_total", "counter", "Sessions opened.", counts["opened"]),
                ("lstm_cy_sessions_dropped_total", "counter", "Sessions dropped when idle.", counts["dropped"]),
                ("lstm_cy_batch_size", "histogram", "Sessions of a batch.", self._sizes),
                ("lstm_cy_wait_seconds", "histogram", "From a request to its first batch.", self._waits),
                ("lstm_cy_batch_seconds", "histogram", "Duration of a batch.", self._durations),
            ]
        )

    # Arguments

    def _row(self, x: ArrayLike) -> Array:
        """Return a copy of one step's x as (I,), or (1,) of tokens."""
        if type(x) is np.ndarray and x.dtype is self._number_type and x.shape == self._row_shape != ():
            return x.copy()  # the usual case
        if self._streams.takes_tokens:
            tokens = int_array("x", x)
            expect_shape("x", tokens, (), "(), one token,")
            return self._checked_tokens(tokens.reshape(1))
        array = float_array("x", x, self._streams.dtype)
        expect_shape("x", array, self._row_shape, "(I,)")
        return np.array(array)

    def _rows(self, x: ArrayLike) -> tuple[Array, int]:
        """Return a copy of the x of a run as (T * I,), or (T,) of tokens, and T."""
        if self._streams.takes_tokens:
            tokens = int_array("x", x)
            expect_shape("x", tokens, (tokens.size,), "(T,), tokens,")
            return self._checked_tokens(tokens), len(tokens)
        array = float_array("x", x, self._streams.dtype)
        expect_shape("x", array, (len(array) if array.ndim else 0, self._streams.inputs), "(T, I)")
        return np.array(array).reshape(-1), len(array)

    def _checked_tokens(self, tokens: Array) -> Array:
        outside = (tokens < 0) | (tokens >= self._streams.inputs)
        if outside.any():
            raise ValueError(
                f"x: expected 0 to num_embeddings - 1 = {self._streams.inputs - 1}, got {tokens[outside][0]}"
            )
        return np.array(tokens, np.intp)

    def _check_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; raise if the pool is closed or belongs to another one."""
        loop = asyncio.get_running_loop()
        if self._closed:
            raise PoolClosedError("pool: expected an open one, but it was closed")
        if self._loop is None:
            self._loop, self._thread = loop, threading.get_ident()
        if self._loop is not loop:
            raise RuntimeError("pool: expected the event loop of its first session; make a pool for each loop")
        return loop

    def _check_session(self, session: Session) -> asyncio.AbstractEventLoop:
        """Return the event loop as `_check_loop` does; raise if a session has ended or its last step is not finished.

        The session counts as used.
        """
        loop = self._loop  # not asyncio.get_running_loop(), a system call in Python 3.11
        if loop is None or self._closed or threading.get_ident() != self._thread or not loop.is_running():
            loop = self._check_loop()
        if session._ended:
            session._check_open()
        if session._request is not None:
            raise RuntimeError("session: expected one step at a time; await the last one first")
        self._touch(session)
        return loop

    # Sessions

    def _open(self, session: Session) -> None:
        """Register a session, whose stream has not begun."""
        loop = self._check_loop()
        if session._used or session in self._sessions:
            raise RuntimeError("session: expected a new one; a session can be entered only once")
        if len(self._sessions) >= self._max_sessions:
            raise SessionLimitError(f"pool: expected at most {self._max_sessions} sessions")
        session._ended = ""
        session._used = loop.time()
        self._sessions[session] = None
        self._counts["opened"] += 1
        if self._idle_timeout is not None and self._idle_timer is None:
            self._idle_timer = loop.call_later(self._idle_timeout, self._drop_idle)

    def _touch(self, session: Session) -> None:
        """Note that a session was used."""
        if self._idle_timeout is not None:
            assert self._loop is not None
            session._used = self._loop.time()
            self._sessions.move_to_end(session)

    def _drop(self, session: Session, reason: str, of_pool: bool = False) -> None:
        """End a session; nothing happens if it has ended."""
        if session._ended:
            return
        session._ended = reason
        del self._sessions[session]
        if session._request is not None and not of_pool:  # those of a closed pool that are computed end well
            _fail(session._request.future, SessionClosedError(f"session: {reason} before this step was computed"))
        self._do_when_idle(session._leave)

    def _drop_idle(self) -> None:
        """Drop the sessions that have not been used for too long."""
        assert self._loop is not None and self._idle_timeout is not None
        now = self._loop.time()
        for session in list(self._sessions):
            if session._request is not None:
                self._touch(session)
            elif session._used + self._idle_timeout > now:
                break
            else:
                self._counts["dropped"] += 1
                self._drop(session, f"it was dropped after {self._idle_timeout} s without a step")
        self._idle_timer = None
        if self._sessions:
            oldest = next(iter(self._sessions))
            self._idle_timer = self._loop.call_at(oldest._used + self._idle_timeout, self._drop_idle)

    async def _exclusive(self, operation: Callable[[], Any]) -> Any:
        """Return the result of an operation on the StreamPool, done while no batch is computed."""
        loop = self._check_loop()
        if self._running is None:
            return operation()
        future = loop.create_future()
        self._operations.append((operation, future))
        return await future

    def _do_when_idle(self, operation: Callable[[], Any]) -> None:
        """Do an operation on the StreamPool now, or after the batch that is being computed."""
        if self._running is None:
            operation()
        else:
            self._operations.append((operation, None))

    def _do_operations(self) -> None:
        """Do the operations that waited for the end of a batch."""
        operations, self._operations = self._operations, []
        for operation, future in operations:
            if future is None:
                operation()
            elif not future.done():
                try:
                    future.set_result(operation())
                except Exception as error:
                    future.set_exception(error)

    # Batches

    def _submit(self, session: Session, x: Array, steps: int) -> _Request:
        """Return a request for steps, which waits for a batch; its owner awaits its future inside `with`."""
        loop = self._check_session(session)
        if self._queued + steps > self._max_queue:
            self._counts["refused"] += 1
            raise QueueFullError(f"queue: expected at most {self._max_queue} waiting steps, got {steps} more")
        request = _Request(session, x, steps, loop.create_future(), loop.time())
        session._request = request
        self._queue[request] = None
        self._queued += steps
        if self._timeout is not None:
            self._unfinished[request] = None
            self._watch()
        self._schedule()
        return request

    def _forget(self, request: _Request, error: BaseException) -> None:
        """Remove a request that has no result for its owner."""
        if request in self._queue:
            del self._queue[request]
            self._queued -= request.steps
        if request.future.done() and not request.future.cancelled():
            request.future.exception()  # else asyncio reports one that a cancelled task did not read
        if isinstance(error, asyncio.CancelledError):
            self._counts["cancelled"] += 1

    def _end(self, request: _Request) -> None:
        """Let the session of a request take the next one."""
        session = request.session
        session._request = None
        if self._timeout is not None:
            del self._unfinished[request]
        if not session._ended:
            self._touch(session)

    def _watch(self) -> None:
        """Set the timer for the request that arrived first; later ones expire later."""
        assert self._loop is not None and self._timeout is not None
        if self._expiry_timer is None and self._unfinished:
            first = next(iter(self._unfinished))
            self._expiry_timer = self._loop.call_at(first.arrival + self._timeout, self._expire)

    def _expire(self) -> None:
        """End the requests that take too long."""
        assert self._loop is not None and self._timeout is not None
        self._expiry_timer = None
        latest = self._loop.time() - self._timeout
        for request in self._unfinished:
            if request.arrival > latest:
                break
            if _fail(request.future, TimeoutError(f"step: no result after {self._timeout} s")):
                self._counts["timeouts"] += 1
        self._watch()

    def _schedule(self) -> None:
        """Begin a batch, now or when its first step has waited for long enough."""
        if self._running is not None or not self._queue:
            return
        assert self._loop is not None
        if len(self._queue) >= min(self._max_batch, len(self._sessions)):
            self._begin()
        elif self._batch_timer is None:
            first = next(iter(self._queue))
            self._batch_timer = self._loop.call_at(first.arrival + self._max_wait, self._begin)

    def _begin(self) -> None:
        """Take a batch from the queue and have it computed."""
        assert self._loop is not None
        if self._batch_timer is not None:
            self._batch_timer.cancel()
            self._batch_timer = None
        if len(self._queue) <= self._max_batch:
            taken, self._queue, self._queued = list(self._queue), {}, 0
        else:
            taken = list(islice(self._queue, self._max_batch))
            for request in taken:
                del self._queue[request]
                self._queued -= request.steps
        batch = [request for request in taken if not request.future.done()]
        if not batch:
            return
        now = self._loop.time()
        self._sizes.add([len(batch)])
        self._waits.add([now - request.arrival for request in batch if request.results is None])
        self._batch = batch
        self._running = self._loop.run_in_executor(self._executor, self._compute, batch)
        self._running.add_done_callback(lambda running: self._deliver(running, now))

    def _compute(self, batch: list[_Request]) -> list[Array]:
        """Return the results of at most `_MOST_STEPS` steps of each request; in the worker's thread."""
        counts = np.minimum([request.steps for request in batch], _MOST_STEPS)
        if counts.max() > 1:
            batch.sort(key=lambda request: request.steps, reverse=True)  # as StreamPool expects
            counts[::-1].sort()
        ids = np.array([request.session._id for request in batch], np.intp)
        y = np.empty((counts.sum(), self._streams.outputs), self._streams.dtype)
        self._streams._run(ids, counts, [request.x for request in batch], y, self._threads)
        if len(y) == len(batch):
            return list(y[:, np.newaxis])
        ends = counts.cumsum().tolist()
        return [y[end - count : end] for end, count in zip(ends, counts.tolist(), strict=True)]

    def _deliver(self, running: asyncio.Future[list[Array]], began: float) -> None:
        """Give the results of a batch to those who wait for them, and begin the next batch."""
        assert self._loop is not None
        batch, self._batch, self._running = self._batch, [], None
        self._durations.add([self._loop.time() - began])
        error = running.exception()
        if error is None:
            results = running.result()
            self._counts["steps"] += sum(map(len, results))
            for request, y in zip(batch, results, strict=True):
                self._finish(request, y)
        else:
            for request in batch:
                _fail(request.future, error)
        self._do_operations()
        self._schedule()

    def _finish(self, request: _Request, y: Array) -> None:
        """Keep the results of some steps of a request; it waits again if it has more."""
        count = len(y)
        request.session.steps += count
        if request.future.done():
            return
        request.steps -= count
        if request.results is None and not request.steps:  # the usual case
            request.future.set_result(y)
            return
        if request.results is None:
            request.results = []
        request.results.append(y)
        if not request.steps:
            request.future.set_result(np.concatenate(request.results))
        elif self._closed:
            _fail(request.future, PoolClosedError("pool: it was closed before all steps were computed"))
        else:
            request.x = request.x[-request.steps * self._width :]
            self._queue[request] = None
            self._queued += request.steps


def _fail(future: asyncio.Future[Any], error: BaseException) -> bool:
    """Set the exception of a future, unless it has ended; return whether it had not."""
    if future.done():
        return False
    future.set_exception(error)
    return True
