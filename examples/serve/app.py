"""The application: a WebSocket for each stream, and pages about the server's health and its counters.

A client sends binary messages, each with the numbers of one or more successive steps, in the model's dtype, little
endian: T * I numbers, or T tokens as int32. Each is answered by a binary message of T * P numbers. The page /health has
I, P and the dtype. A connection that cannot go on is closed with one of the codes of `CODES` and the reason in words.
"""

import asyncio
import contextlib

import numpy as np
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from lstm_cy import AsyncStreamPool
from lstm_cy.streaming.serving import PoolClosedError, QueueFullError, SessionClosedError, SessionLimitError


class SilentClientError(Exception):
    """A client sends nothing."""


class SlowClientError(Exception):
    """A client does not read its results."""


#: the code of RFC 6455 for each fault
CODES = {
    TypeError: 1003,  # text instead of numbers
    ValueError: 1007,  # a wrong number of bytes, or a token that does not exist
    SilentClientError: 1008,
    SlowClientError: 1008,
    QueueFullError: 1013,  # try again later
    SessionLimitError: 1013,
    TimeoutError: 1013,
    SessionClosedError: 1001,  # the server ends
    PoolClosedError: 1001,
}
FAULTS = tuple(CODES)


def make_app(model, send_timeout=5.0, idle_timeout=60.0, **options):
    """Return the application.

    Parameters
    ----------
    model : LSTM or Sequential
    send_timeout : float
        Seconds in which a client must have read enough of its earlier results for the next one to be sent.
    idle_timeout : float
        Seconds in which a client must send its next message.
    **options
        As for `AsyncStreamPool`.
    """
    pool = AsyncStreamPool(model, **options)
    number_type = np.dtype("int32" if pool.takes_tokens else pool.dtype).newbyteorder("<")

    async def stream(websocket):
        await websocket.accept()
        try:
            async with pool.session() as session:
                while True:
                    x = array_of(await receive(websocket))
                    await send((await session.run(x)).astype(pool.dtype.newbyteorder("<")).tobytes(), websocket)
        except WebSocketDisconnect:
            pass
        except FAULTS as fault:
            code = next(code for kind, code in CODES.items() if isinstance(fault, kind))
            with contextlib.suppress(TimeoutError, WebSocketDisconnect):  # a client that does not read gets no code
                async with asyncio.timeout(send_timeout):
                    await websocket.close(code, str(fault)[:100])

    async def receive(websocket):
        try:
            async with asyncio.timeout(idle_timeout):
                return await websocket.receive()
        except TimeoutError:
            raise SilentClientError(f"client: expected a message within {idle_timeout} s") from None

    def array_of(message):
        """Return the numbers of a message, (T, I) or tokens (T,)."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        data = message.get("bytes")
        if data is None:
            raise TypeError("message: expected bytes, got text")
        row = number_type.itemsize * (1 if pool.takes_tokens else pool.inputs)
        if len(data) % row:
            raise ValueError(f"message: expected a multiple of {row} bytes, got {len(data)}")
        numbers = np.frombuffer(data, number_type)
        return numbers if pool.takes_tokens else numbers.reshape(-1, pool.inputs)

    async def send(data, websocket):
        try:
            async with asyncio.timeout(send_timeout):
                await websocket.send_bytes(data)
        except TimeoutError:
            raise SlowClientError(f"client: expected results to be read within {send_timeout} s") from None

    async def health(request):
        sizes = {"inputs": pool.inputs, "outputs": pool.outputs, "dtype": pool.dtype.name, "tokens": pool.takes_tokens}
        return JSONResponse({"status": "ok", "sessions": len(pool), **sizes})

    async def metrics(request):
        return PlainTextResponse(pool.metrics(), media_type="text/plain; version=0.0.4")

    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with pool:
            yield

    routes = [Route("/health", health), Route("/metrics", metrics), WebSocketRoute("/stream", stream)]
    return Starlette(routes=routes, lifespan=lifespan)
