"""Benchmarks for asv (asv.conf.json), and scripts that compare and inspect."""
