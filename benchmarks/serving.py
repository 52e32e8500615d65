"""How many streams an AsyncStreamPool and examples/serve serve on this machine, and how long they wait.

    python -m benchmarks.serving tasks       # 1000 sessions in one process, 31 steps a second each
    python -m benchmarks.serving sockets     # WebSockets on 127.0.0.1, messages of 8 steps, 256 ms apart

The model has about as many weights as Silero VAD: LSTM(512, 128) and Linear(128, 1), 330,000. A step's latency is from
its scheduled time to its result: what waits because the machine is late counts.
"""

import argparse
import asyncio
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

from lstm_cy import LSTM, AsyncStreamPool, Linear, Sequential, StreamPool, save

STEP = 0.032  # seconds of sound of one step
INPUTS = 512
MESSAGE = 8  # steps of a message


def model():
    return Sequential(LSTM(INPUTS, 128, seed=0), Linear(128, 1, seed=1))


def report(name, latencies, seconds, processor):
    low, high, worst = np.percentile(np.array(latencies) * 1e3, [50, 99, 100])
    print(
        f"{name}: {len(latencies)} results, p50 {low:.1f} ms, p99 {high:.1f} ms, longest {worst:.1f} ms, "
        f"{100 * processor / seconds:.0f} % of one core",
        flush=True,
    )
    return high


class Clock:
    """Wakes tasks at their times, by one timer of the event loop for all that are due in the same millisecond.

    A thousand calls of asyncio.sleep every 32 ms would take more of the processor than the pool that is measured.
    """

    TICK = 0.001

    def __init__(self):
        self._loop, self._waiting = asyncio.get_running_loop(), {}

    async def until(self, due):
        tick = int(due / self.TICK) + 1
        if tick not in self._waiting:
            self._waiting[tick] = []
            self._loop.call_at(tick * self.TICK, self._wake, tick)
        future = self._loop.create_future()
        self._waiting[tick].append(future)
        await future

    def _wake(self, tick):
        for future in self._waiting.pop(tick):
            future.set_result(None)


async def paced(count, seconds, period, act):
    """Call `act(number)` of each of `count` streams every `period` seconds; return the latencies."""
    loop, clock, latencies = asyncio.get_running_loop(), Clock(), []
    begin = loop.time() + 0.5

    async def stream(number):
        due = begin + period * number / count
        while due < begin + seconds:
            await clock.until(due)
            await act(number)
            latencies.append(loop.time() - due)
            due += period

    await asyncio.gather(*map(stream, range(count)))
    return latencies


async def tasks(count, seconds, threads):
    x = np.random.default_rng(0).standard_normal((count, INPUTS)).astype("float32")
    async with AsyncStreamPool(model(), threads=threads) as pool:
        sessions = [await pool.session().__aenter__() for _ in range(count)]
        used = time.process_time()
        latencies = await paced(count, seconds, STEP, lambda number: sessions[number].step(x[number]))
        report(f"{count} sessions, {threads} thread(s)", latencies, seconds, time.process_time() - used)


def alone(count):
    """Print the time of a StreamPool's step of all streams, without asyncio."""
    pool = StreamPool(model())
    ids = np.array([pool.join() for _ in range(count)])
    x = np.zeros((count, INPUTS), "float32")
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        pool.step(ids, x)
        times.append(time.perf_counter() - begin)
    share = 100 * np.median(times) / STEP
    print(f"a StreamPool's step of {count} streams: {1e3 * np.median(times):.2f} ms, {share:.0f} % of one core")


class Client:
    """A WebSocket client that costs little: messages of one length, without masks' arithmetic (a mask of zeros)."""

    async def open(self, port):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        headers += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        self.writer.write(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n".encode())
        assert b" 101 " in await self.reader.readuntil(b"\r\n\r\n")
        data = np.zeros((MESSAGE, INPUTS), "<f4").tobytes()
        self.message = struct.pack("!BBH4x", 0x82, 0xFE, len(data)) + data
        return self

    async def ask(self):
        self.writer.write(self.message)
        answer = await self.reader.readexactly(2 + MESSAGE * 4)
        assert answer[:2] == bytes([0x82, MESSAGE * 4]), answer


async def sockets(count, seconds, port, server):
    clients = [await Client().open(port) for _ in range(count)]
    used = processor_of(server)
    latencies = await paced(count, seconds, STEP * MESSAGE, lambda number: clients[number].ask())
    report(f"{count} WebSockets, server", latencies, seconds, processor_of(server) - used)
    for client in clients:
        client.writer.close()


def processor_of(process):
    """Return the processor time of a process, in seconds (Linux)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve_sockets(counts, seconds):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, 8192), limit))
    with tempfile.TemporaryDirectory() as folder:
        path, port = str(Path(folder) / "model.npz"), 8731
        save(model(), path)
        with subprocess.Popen([sys.executable, "-m", "examples.serve", path, f"--port={port}"]) as server:
            try:
                wait_for(port)
                for count in counts:
                    asyncio.run(sockets(count, seconds, port, server))
            finally:
                server.terminate()


def wait_for(port):
    for _ in range(200):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving")
    parser.add_argument("kind", choices=["tasks", "sockets"])
    parser.add_argument("--counts", type=int, nargs="+", help="numbers of streams")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    if options.kind == "tasks":
        for count in options.counts or [1000]:
            alone(count)
            asyncio.run(tasks(count, options.seconds, options.threads))
    else:
        serve_sockets(options.counts or [250, 500, 750, 1000], options.seconds)


if __name__ == "__main__":
    main()
