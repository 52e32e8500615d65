"""Measure the machine's limits: multiply-adds per second, and bytes per second read from the cache that holds them.

Both are measured by a few lines of C; without a C compiler NumPy's products measure them, which is only a lower bound.
A call takes at least

    T max(8 H H B / multiply-adds, 16 H H / bytes)  +  8 I H B T / multiply-adds

for each direction of each layer in float32: a step waits for the previous one and reads all recurrent weights again;
the products of all inputs can be computed at once. Activations are not counted; narrow layers spend most of their time
on them.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SOURCE = """
#include <stddef.h>
#if defined(__AVX512F__)
enum { BYTES = 64 };
#elif defined(__AVX__)
enum { BYTES = 32 };
#else
enum { BYTES = 16 };
#endif
enum { LANES = BYTES / 4, CHAINS = 12 };
typedef float vector __attribute__((vector_size(BYTES)));
typedef int bits __attribute__((vector_size(BYTES)));

/* Run rounds of independent multiply-adds; return their number of floating-point operations. */
double multiply_add(size_t rounds, float *out) {
    vector sums[CHAINS], factor = (vector){0} + 0.5f, term = (vector){0} + 1.0f;
    for (int i = 0; i < CHAINS; i++) sums[i] = (vector){0} + (float)i;
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" : "+x"(factor), "+x"(term));
        #pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * factor + term;
    }
    for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];
    *out = sums[0][0];
    return 2.0 * LANES * CHAINS * (double)rounds;
}

/* Read an array, whose size is a multiple of 8 vectors, `rounds` times; return the bytes read. */
double read_all(size_t rounds, const bits *array, size_t bytes, int *out) {
    bits seen[8] = {0};
    for (size_t n = 0; n < rounds; n++) {
        __asm__ volatile("" ::: "memory");
        for (size_t k = 0; k < bytes / sizeof(bits); k += 8) {
            #pragma GCC unroll 8
            for (int i = 0; i < 8; i++) seen[i] |= array[k + i];
        }
    }
    for (int i = 1; i < 8; i++) seen[0] |= seen[i];
    *out = seen[0][0];
    return (double)bytes * (double)rounds;
}
"""

SECONDS = 0.02  # of one measurement; the best of TRIES counts
TRIES = 15
LEAST_BYTES = 4096


class Limits:
    """The machine's limits for a number of threads.

    Parameters
    ----------
    threads : int

    Attributes
    ----------
    how : str
        The method of measurement.
    """

    def __init__(self, threads=1):
        self.threads = threads
        self.kernel = _compiled()
        self.how = "a kernel in C" if self.kernel else "NumPy's products (no C compiler found): a lower bound"
        self.bandwidths = {}

    def __str__(self):
        """Return a line with all measured limits."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        read = ", ".join(
            f"{rate / 1e9:.0f} from {size / 1024:.0f} KiB" for size, rate in sorted(self.bandwidths.items())
        )
        return f"Limits of {threads}, measured by {self.how}: {self.flops / 1e9:.0f} GFLOP/s; GB/s read: {read or '-'}."

    def found(self):
        """Return the measured limits, for a JSON file."""
        return {"flops": self.flops, "bandwidth": dict(sorted(self.bandwidths.items())), "how": self.how}

    @functools.cached_property
    def flops(self):
        """float32 operations per second of all threads; a multiply-add counts as two."""
        if not self.kernel:
            side = 768
            a = np.ones((side, side), np.float32)
            return rate(lambda rounds: [a @ a for _ in range(rounds)] and 2.0 * side**3 * rounds, 1)

        def work(rounds):
            return self.kernel.multiply_add(rounds, ctypes.byref(ctypes.c_float()))

        return rate(work, self.threads)

    def bandwidth(self, size):
        """Return the bytes per second that all threads read, each repeatedly from its own share of `size` bytes."""
        if size not in self.bandwidths:
            self.bandwidths[size] = self._bandwidth(size)
        return self.bandwidths[size]

    def _bandwidth(self, size):
        share = max(-(-size // self.threads // 512) * 512, LEAST_BYTES)
        arrays = threading.local()

        def work(rounds):
            if not hasattr(arrays, "mine"):
                whole = np.zeros(share + 64, np.uint8)
                whole[:] = 1  # all unwritten pages would be the same physical page
                arrays.mine = whole[-whole.ctypes.data % 64 :][:share]
                arrays.floats = arrays.mine.view(np.float32)
            if self.kernel:
                return self.kernel.read_all(rounds, arrays.mine.ctypes.data, share, ctypes.byref(ctypes.c_int()))
            half = arrays.floats.size // 2
            first, second = arrays.floats[:half], arrays.floats[half : 2 * half]
            for _ in range(rounds):
                np.dot(first, second)
            return float(share * rounds)

        return rate(work, self.threads)

    def seconds(self, shape, kind="inference"):
        """Return the least time of a call.

        Parameters
        ----------
        shape : benchmarks.common.Shape
        kind : {"inference", "streaming", "training"}
            One step of a stream reads all weights of all layers again. Training takes twice the forward pass, the
            second time for the gradients of states and inputs, and the products for the gradients of the weights.

        Returns
        -------
        float
        """
        B, T, H, D = shape.batch, shape.steps, shape.hidden, shape.directions
        if kind == "streaming":
            weights = sum(16 * H * (width + H) for width in widths(shape))
            return max(weights / 2 * B / self.flops, weights / self.bandwidth(weights))
        recurrent = 16 * H * H
        step = max(8 * H * H * B / self.flops, recurrent / self.bandwidth(recurrent))
        total = 0.0
        for width in widths(shape):
            forward = T * step + 8 * width * H * B * T / self.flops
            products = 8 * (width + H) * H * B * T / self.flops
            total += D * (2 * forward + products if kind == "training" else forward)
        return total


def widths(shape):
    """Return the number of inputs of each layer."""
    return [shape.inputs, *[shape.directions * shape.hidden] * (shape.layers - 1)]


def rate(work, threads):
    """Return the amount of work per second, from the result of `work(rounds)`, of all threads: the best of TRIES."""
    rounds = 1
    while True:
        begin = time.perf_counter()
        work(rounds)
        if time.perf_counter() - begin > SECONDS:
            break
        rounds *= 2
    return max(_rate_once(work, rounds, threads) for _ in range(TRIES))


def _rate_once(work, rounds, threads):
    rates = []
    barrier = threading.Barrier(threads)

    def run():
        work(1)
        barrier.wait()
        begin = time.perf_counter()
        done = work(rounds)
        rates.append(done / (time.perf_counter() - begin))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)


@functools.cache
def _compiled():
    """Return the functions of SOURCE, or None if they cannot be compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "limits.so"
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        if subprocess.run(command, input=SOURCE, text=True, capture_output=True, check=False).returncode:
            return None
        kernel = ctypes.CDLL(str(library))
    for function, arguments in (
        (kernel.multiply_add, [ctypes.c_size_t, ctypes.c_void_p]),
        (kernel.read_all, [ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]),
    ):
        function.restype = ctypes.c_double
        function.argtypes = arguments
    return kernel
