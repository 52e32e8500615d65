"""Serve a model to streams over WebSockets.

    python -m examples.serve MODEL --port 8000

MODEL is any file that `lstm_cy.load` reads. /stream is the WebSocket, /health and /metrics are pages; `app.py`
describes the messages. Without --host only programs of this machine can connect: there is no encryption and no
password. Put a proxy that has both before it.
"""

import argparse
import os

if __name__ == "__main__":  # before NumPy is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import uvicorn

from lstm_cy import load

from .app import make_app

#: most bytes of a message: minutes of audio features
LARGEST_MESSAGE = 1 << 22


def main(arguments=None):
    options = vars(_parser().parse_args(arguments))
    model, host, port = (options.pop(name) for name in ("model", "host", "port"))
    try:
        app = make_app(load(model), **options)
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"{model}: {error}") from None
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        ws_max_size=LARGEST_MESSAGE,
        ws_per_message_deflate=False,  # numbers hardly become smaller, and compression costs more than the steps
        timeout_graceful_shutdown=5,
    )


def _parser():
    parser = argparse.ArgumentParser(prog="python -m examples.serve", description="Serve a model over WebSockets.")
    parser.add_argument("model", help="a file that lstm_cy.load reads")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine only)")
    parser.add_argument("--max-wait", type=float, default=0.005, metavar="SECONDS", help="wait for other streams")
    parser.add_argument("--max-sessions", type=int, default=4096, help="streams at a time")
    parser.add_argument("--max-queue", type=int, default=65536, help="steps that wait")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for the steps of a message")
    parser.add_argument("--idle-timeout", type=float, default=60.0, metavar="SECONDS", help="without a message")
    parser.add_argument("--send-timeout", type=float, default=5.0, metavar="SECONDS", help="without results being read")
    parser.add_argument("--threads", type=int, default=1, help="of a batch")
    return parser


if __name__ == "__main__":
    main()
