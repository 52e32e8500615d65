"""``python -m lstm_cy``: the command line."""

import sys

from .cli import main

sys.exit(main())
