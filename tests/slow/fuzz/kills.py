"""kill -9 in fit and in save at random times leaves a complete file, old or new, and no temporary files.

    python tests/slow/fuzz/kills.py FOUND --count 300

A child process repeatedly saves a model to one path, whose weights are all equal to the number of the save; or it
trains with a checkpoint after each epoch. It is killed at a random moment. Then the file must load and contain one
complete save, and after one more save the folder must contain one file. A resumed training must give the same bits as
one that was not killed.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
from runner import Cases, Finding, folder_of_worker, main

import lstm_cy
from lstm_cy import LSTM, Adam, Linear, Sequential, fit, mse, training

WRITER = """
import sys, lstm_cy, numpy as np
model = lstm_cy.LSTM(20, 60, seed=0)
print("ready", flush=True)
for number in range(1, 10**9):
    model.load_state_dict({n: np.full(a.shape, number) for n, a in model.parameters.items()})
    lstm_cy.save(model, sys.argv[1], {"number": number})
"""
TRAINER = """
import sys; sys.path.insert(0, sys.argv[2])
import kills
print("ready", flush=True)
kills.train(sys.argv[1], True)
"""
HERE = os.path.dirname(os.path.abspath(__file__))


def train(path, resume=False, epochs=40):
    model = Sequential(LSTM(2, 20, seed=1), Linear(20, 1, seed=2))
    x = np.arange(240, dtype="f4").reshape(10, 12, 2) / 240
    fit(model, (x, x.sum(2, keepdims=True)), loss=mse, optimizer=Adam(model, 0.01), epochs=epochs, batch_size=4,
        checkpoint=path,
        resume=resume, progress=False)  # fmt: skip
    return {name: array.tobytes() for name, array in model.parameters.items()}


class Kills(Cases):
    seconds = 60.0
    label = ""

    def __init__(self, options):
        super().__init__(options)
        self.folder = folder_of_worker() / "kills"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.right = train(self.folder / "whole.npz")

    def run(self, rng, index):
        self.label = rng.choice(("save .npz", "save .npz", "save .safetensors", "save .onnx", "fit"))
        folder = self.folder / str(index)
        folder.mkdir()
        path = folder / f"model{self.label[4:].strip() or '.npz'}"
        try:
            self.kill(TRAINER if self.label == "fit" else WRITER, path, rng.random() * 1.5)
            result = self.check_resumed(path) if self.label == "fit" else self.check_saved(path)
            left = sorted(os.listdir(folder))
            if left != [path.name]:
                raise Finding("temporary files left", f"{left} after one more save")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return f"{self.label}: {result}"

    @staticmethod
    def kill(program, path, seconds):
        process = subprocess.Popen([sys.executable, "-c", program, path, HERE], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def check_saved(self, path):
        if not path.exists():
            lstm_cy.save(LSTM(20, 60), path)
            return "no file yet"
        model = lstm_cy.load(path)
        if path.suffix != ".onnx":
            numbers = {float(v) for array in model.parameters.values() for v in (array.min(), array.max())}
            if numbers != {float(model.metadata["number"])}:
                raise Finding("mixed", f"numbers {numbers}, metadata {model.metadata}")
        lstm_cy.save(LSTM(20, 60), path)
        return "whole"

    def check_resumed(self, path):
        epochs = len(training.read_history(path).loss)
        if train(path, resume=True) != self.right:
            raise Finding("other weights", f"resumed after {epochs} epochs")
        return "no file yet" if not epochs else "resumed" if epochs < 40 else "finished"


if __name__ == "__main__":
    main(Kills, __doc__)
