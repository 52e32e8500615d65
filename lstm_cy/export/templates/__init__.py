"""The C of an exported network, one module for each concern.

The names in it begin with ``lstm_`` and ``LSTM_``; a file has its own prefix in their place.
"""
