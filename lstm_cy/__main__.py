"""The entry point of the command line: ``lstm-cy`` and ``python -m lstm_cy``."""

import os
import sys

# OpenBLAS reads this when NumPy is loaded. Its threads wait for each other in a busy loop: if other processes use the
# cores, training with several threads takes several times as long as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
    """Run the command line; Ctrl-C, also during the imports, ends it with status 130 and one line."""
    try:
        from . import cli

        return cli.main()
    except KeyboardInterrupt:
        print("lstm-cy: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
