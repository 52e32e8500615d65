"""The command line as a process of its own: ``lstm-cy`` and ``python -m lstm_cy``."""

import os
import sys

# OpenBLAS looks when NumPy is loaded. Its threads wait for each other in a loop: where other processes use the cores, a
# training by them takes several times as long as by one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
    """Run the command line; Ctrl-C ends it with status 130 and one line, while it still imports as well."""
    try:
        from . import cli

        return cli.main()
    except KeyboardInterrupt:
        print("lstm-cy: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
