"""The kernels, compiled once for each instruction set."""
