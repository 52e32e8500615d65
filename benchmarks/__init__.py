"""What asv measures (asv.conf.json), and scripts that compare and inspect.

Everything is measured on one thread. OpenBLAS and OpenMP read how many they may use when they are loaded, and
asv imports this file before anything that loads them.
"""

import os

os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1", LSTM_CY_NUM_THREADS="1")
