"""The order of the gates: i, f, g, o everywhere inside; every other order is converted here and nowhere else."""

import numpy as np

#: the gates' rows in every weight array of this library, by the names of `LSTM.from_gates`
ORDER = ("input", "forget", "candidate", "output")


def stack(gates):
    """One array of gate rows from {"input": array, "forget": array, "candidate": array, "output": array}."""
    return np.concatenate([gates[name] for name in ORDER])
