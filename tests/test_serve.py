"""examples/serve: a real server on this machine, real clients, and each code with which it closes a connection."""

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from lstm_cy import LSTM, Embedding, Linear, Sequential, save

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
connect = pytest.importorskip("websockets.asyncio.client").connect
ConnectionClosed = pytest.importorskip("websockets.exceptions").ConnectionClosed

ROOT = Path(__file__).parents[1]
PATIENCE = 60


def make_app(model, **options):
    sys.path.insert(0, str(ROOT))
    try:
        from examples.serve.app import make_app
    finally:
        sys.path.remove(str(ROOT))
    return make_app(model, **options)


@contextlib.asynccontextmanager
async def serving(app):
    """Serve an application on a free port of this machine; yield the port."""
    settings = uvicorn.Config(app, log_level="error", ws_per_message_deflate=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(settings)
    server.install_signal_handlers = lambda: None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await task


async def page(port, name):
    url = f"http://127.0.0.1:{port}/{name}"
    return await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=PATIENCE).read().decode())


def run(coroutine):
    async def limited():
        async with asyncio.timeout(PATIENCE):
            await coroutine

    asyncio.run(limited())


async def assert_closed(client, code, reason):
    with pytest.raises(ConnectionClosed) as raised:
        while True:
            await client.recv()
    assert raised.value.rcvd.code == code
    assert re.search(reason, raised.value.rcvd.reason)


def test_streams_get_the_bits_of_a_stepper_and_pages_answer():
    model = Sequential(LSTM(3, 17, seed=0), Linear(17, 2, seed=1))

    async def main():
        async with serving(make_app(model)) as port:
            url = f"ws://127.0.0.1:{port}/stream"

            async def talk(seed):
                x = np.random.default_rng(seed).standard_normal((20, 3)).astype("<f4")
                stepper = model.stepper()
                async with connect(url) as client:
                    for part in (x[:1], x[1:9], x[9:9], x[9:]):
                        await client.send(part.tobytes())
                        y = np.frombuffer(await client.recv(), "<f4").reshape(-1, 2)
                        assert len(y) == len(part)
                        assert all(np.array_equal(y_t, stepper.step(x_t)) for x_t, y_t in zip(part, y, strict=True))

            await asyncio.gather(*map(talk, range(5)))
            while json.loads(health := await page(port, "health"))["sessions"]:
                pass
            expected = {"inputs": 3, "outputs": 2, "dtype": "float32", "tokens": False}
            assert json.loads(health) == {"status": "ok", "sessions": 0, **expected}
            assert "lstm_cy_steps_total 100\n" in await page(port, "metrics")

    run(main())


def test_each_fault_has_its_code():
    model = Sequential(Embedding(5, 3, seed=0), LSTM(3, 4, seed=0))

    async def main():
        app = make_app(model, max_sessions=2, max_queue=40, idle_timeout=0.3)
        async with serving(app) as port:
            url = f"ws://127.0.0.1:{port}/stream"
            tokens = np.array([1, 4], "<i4")
            for message, code, reason in [
                ("text", 1003, "expected bytes, got text"),
                (b"123", 1007, "expected a multiple of 4 bytes, got 3"),
                (np.array([5], "<i4").tobytes(), 1007, "expected 0 to num_embeddings - 1 = 4, got 5"),
                (np.zeros(41, "<i4").tobytes(), 1013, "at most 40 waiting steps"),
                (tokens.tobytes(), 1008, "expected a message within 0.3 s"),  # and then nothing
            ]:
                async with connect(url) as client:
                    await client.send(message)
                    await assert_closed(client, code, reason)
            async with connect(url) as one, connect(url) as two:
                for client in (one, two):
                    await client.send(tokens.tobytes())
                    assert len(await client.recv()) == 2 * 4 * 4
                async with connect(url) as three:
                    await assert_closed(three, 1013, "at most 2 sessions")

    run(main())


def test_a_slow_client_is_closed():
    """Each result that is sent waits for ever, as on a connection whose buffers are full."""
    app = make_app(Sequential(Linear(1, 3, seed=0)), send_timeout=0.05)
    sent = []

    async def send(message):
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()
        sent.append(message)

    async def main():
        received = [{"type": "websocket.connect"}, {"type": "websocket.receive", "bytes": b"\0" * 4}]

        async def receive():
            return received.pop(0)

        await app({"type": "websocket", "path": "/stream", "headers": [], "query_string": b""}, receive, send)

    run(main())
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == 1008 and "results to be read within 0.05 s" in sent[1]["reason"]


def test_the_command_serves_this_machine_only(tmp_path):
    """Run it as the page says, on a free port; a file that is no model ends it with one line."""
    save(LSTM(3, 4, seed=0), tmp_path / "model.npz")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "examples.serve", str(tmp_path / "model.npz"), f"--port={port}"]
    with subprocess.Popen(command, cwd=ROOT) as server:
        try:
            while server.poll() is None:
                with contextlib.suppress(OSError):
                    found = urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).read()
                    break
            assert json.loads(found)["inputs"] == 3
            sockets = Path(f"/proc/{server.pid}/net/tcp")
            if sockets.exists():  # 127.0.0.1, in the byte order of this machine, state LISTEN
                lines = [line.split() for line in sockets.read_text().splitlines()[1:]]
                ours = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port:04X}")]
                assert ours == [f"0100007F:{port:04X}"]
        finally:
            server.terminate()
    (tmp_path / "no.npz").write_text("no model")
    command[3] = str(tmp_path / "no.npz")
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.count("\n") == 1 and "no.npz" in ended.stderr


def test_the_image_has_no_compiler_and_what_the_example_needs():
    """The text of the Dockerfile: it was not run with Docker."""
    text = (ROOT / "examples" / "serve" / "Dockerfile").read_text()
    build, final = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    assert "gcc" in build and build.splitlines()[0] == "python:3.13-slim AS build"
    assert final.splitlines()[0] == "python:3.13-slim"
    assert "gcc" not in final and "apt-get" not in final and "/source" not in final
    assert "COPY --from=build /wheels" in final and "COPY examples/serve /app/examples/serve" in final
    assert re.search("^USER server$", final, re.MULTILINE)
    command = json.loads(re.search(r"^CMD (\[.*\])$", final, re.MULTILINE)[1])
    assert command[:3] == ["python", "-m", "examples.serve"] and command[-2:] == ["--host", "0.0.0.0"]
    for needed in ("starlette", "uvicorn", "websockets"):
        assert f'"{needed}>=' in final
