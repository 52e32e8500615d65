"""The compiled half of lstm_cy: everything below the drivers runs without the GIL and without Python objects."""
