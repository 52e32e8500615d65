"""What the machine can do at most: multiply-adds in a second, and bytes read in a second from where they fit.

Both are measured by a few lines of C, where there is a C compiler; by NumPy's products where there is none, which is
only a lower bound. A call can then take no less than

    T max(8 H H B / multiply-adds, 16 H H / bytes)  +  8 I H B T / multiply-adds

for each direction of each layer in float32: a step waits for the one before, and needs all recurrent weights again; the
input's products can be made at once. Activations, which are not counted, are what short layers spend their time on.
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

/* Floating-point operations of so many rounds of independent multiply-adds. */
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

/* Bytes read by so many rounds over an array, whose size is a multiple of 8 vectors. */
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
    """The machine's limits with so many threads at once.

    Parameters
    ----------
    threads : int

    Attributes
    ----------
    how : str
        What measured it.
    """

    def __init__(self, threads=1):
        self.threads = threads
        self.kernel = _compiled()
        self.how = "a kernel in C" if self.kernel else "NumPy's products (no C compiler found): a lower bound"
        self.bandwidths = {}

    def __str__(self):
        """A line for each thing measured."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        read = ", ".join(
            f"{rate / 1e9:.0f} from {size / 1024:.0f} KiB" for size, rate in sorted(self.bandwidths.items())
        )
        return f"Limits of {threads}, measured by {self.how}: {self.flops / 1e9:.0f} GFLOP/s; GB/s read: {read or '-'}."

    def found(self):
        """What was measured, to be written down."""
        return {"flops": self.flops, "bandwidth": dict(sorted(self.bandwidths.items())), "how": self.how}

    @functools.cached_property
    def flops(self):
        """float32 operations in a second, two for each multiply-add, of all threads."""
        if not self.kernel:
            side = 768
            a = np.ones((side, side), np.float32)
            return rate(lambda rounds: [a @ a for _ in range(rounds)] and 2.0 * side**3 * rounds, 1)

        def work(rounds):
            return self.kernel.multiply_add(rounds, ctypes.byref(ctypes.c_float()))

        return rate(work, self.threads)

    def bandwidth(self, size):
        """Bytes in a second that all threads read, each over and over from its own share of `size` bytes."""
        if size not in self.bandwidths:
            self.bandwidths[size] = self._bandwidth(size)
        return self.bandwidths[size]

    def _bandwidth(self, size):
        share = max(-(-size // self.threads // 512) * 512, LEAST_BYTES)
        arrays = threading.local()

        def work(rounds):
            if not hasattr(arrays, "mine"):
                whole = np.zeros(share + 64, np.uint8)
                whole[:] = 1  # a page that was never written is the same one everywhere
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
        """The least time of a call.

        Parameters
        ----------
        shape : benchmarks.common.Shape
        kind : {"inference", "streaming", "training"}
            One step of a stream needs all weights of all layers again; training adds as much for the gradients of the
            states and the inputs as the forward pass takes, and once more the products for those of the weights.

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
    """The inputs of each layer."""
    return [shape.inputs, *[shape.directions * shape.hidden] * (shape.layers - 1)]


def rate(work, threads):
    """What `work(rounds)` says it did, in a second, by so many threads at once: the best of a few times."""
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
    """The functions of SOURCE, or None where they cannot be compiled."""
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
