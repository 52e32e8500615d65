"""What the drivers run on: memory, threads, the processor, BLAS."""
