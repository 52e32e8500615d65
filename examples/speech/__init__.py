"""Speech recognition; `python -m examples.speech --help` says what it can do."""

import os

# NumPy's products here are small: threads would wait for each other longer than they compute. lstm_cy's threads remain.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
