"""Threads fork, load, save, step, train and call at the same time: results are right, no deadlock, children end.

    python tests/slow/fuzz/threads.py FOUND --count 200
    LSTM_CY_ENGINE=blas python tests/slow/fuzz/threads.py FOUND2 --count 200

In each case four threads run twelve random actions each on shared layers.
"""

import os
import threading
import time

import numpy as np
from runner import Cases, Finding, folder_of_worker, main, origin_of

import lstm_cy
from lstm_cy import LSTM, Adam, Linear, Sequential, StreamPool, mse

X = np.linspace(-1, 1, 960, dtype="f4").reshape(20, 8, 6)


class Threads(Cases):
    seconds, bytes = 60.0, 2_000_000_000
    label = text = ""

    def __init__(self, options):
        super().__init__(options)
        os.chdir(folder_of_worker())
        self.lstm, self.large = LSTM(6, 24, 2, seed=0), LSTM(6, 96, bidirectional=True, seed=0)
        self.packed = lstm_cy.config.engine() == "packed"
        self.right = {id(lstm): lstm(X)[0] for lstm in (self.lstm, self.large)}
        self.gradient = self.gradients(1)

    def gradients(self, threads):
        y, _, tape = self.large.forward(X, threads=threads)
        return self.large.backward(tape, y).parameters["weight_hh_l0"]

    def run(self, rng, index):
        self.faults, self.done = [], 0
        plans = [[rng.choice(ACTIONS) for _ in range(12)] for _ in range(4)]
        self.text = str(plans)
        pool = StreamPool(self.lstm)
        threads = [threading.Thread(target=self.work, args=(plan, n, pool)) for n, plan in enumerate(plans)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.faults:
            raise Finding(*self.faults[0])
        return f"{threading.active_count()} threads in the end"

    def work(self, plan, number, pool):
        for action in plan:
            try:
                getattr(self, action)(number, pool)
            except Finding as finding:
                self.faults.append(finding.args)
            except BaseException as error:
                self.faults.append((f"{action}: {type(error).__name__} @ {origin_of(error)}", str(error)))

    def same(self, got, right, what):
        if got.tobytes() != right.tobytes() if self.packed else np.abs(got - right).max(initial=0) > 1e-5:
            raise Finding(f"wrong {what}", f"largest difference {np.abs(got - right).max()}")

    def call(self, number, pool):
        for lstm in (self.lstm, self.large):
            self.same(lstm(X, threads=1 + number)[0], self.right[id(lstm)], "call")

    def back(self, number, pool):
        self.same(self.gradients(1 + number % 2), self.gradient, "gradient")

    def fork(self, number, pool):
        """Fork a child that makes a call on two threads and must end within a minute."""
        child = os.fork()
        if not child:
            try:
                self.call(1, pool)
                os._exit(0)
            except BaseException:
                os._exit(1)
        for _ in range(6000):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                if status:
                    raise Finding(f"a child ended with {status}", "")
                return
            time.sleep(0.01)
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise Finding("a child hangs", "")

    def keep_file(self, number, pool):
        path = f"{number}.npz"
        lstm_cy.save(self.lstm, path)
        self.same(lstm_cy.load(path)(X)[0], self.right[id(self.lstm)], "loaded model")

    def one_file(self, number, pool):
        """All threads write to one path: files that are read are complete."""
        lstm_cy.save(self.lstm, "shared.npz")
        self.same(lstm_cy.load("shared.npz")(X)[0], self.right[id(self.lstm)], "loaded model")

    def step(self, number, pool):
        stepper = self.lstm.stepper(8)
        self.same(np.array([stepper.step(x) for x in X]), self.right[id(self.lstm)], "steps")

    def stream(self, number, pool):
        ids = [pool.join() for _ in range(8)]
        try:
            for x, right in zip(X, self.right[id(self.lstm)], strict=True):
                while True:
                    try:
                        self.same(pool.step(ids, x), right, "step of a pool")
                        break
                    except RuntimeError:  # another thread is using the pool
                        time.sleep(0)
        finally:
            for each in ids:
                pool.leave(each)

    def train(self, number, pool):
        model = Sequential(LSTM(6, 8, seed=number), Linear(8, 1, seed=number))
        optimizer = Adam(model, 0.01)
        for _ in range(3):
            y, _, tape = model.forward(X, threads=2)
            optimizer.step(model.backward(tape, mse(y, X[..., :1])[1]))
        if not all(np.isfinite(array).all() for array in model.parameters.values()):
            raise Finding("training gives NaN", "")

    def count(self, number, pool):
        lstm_cy.set_num_threads(1 + number)

    def keep(self, folder, name):
        return self.text


ACTIONS = ("call", "call", "back", "fork", "keep_file", "one_file", "step", "stream", "train", "count")

if __name__ == "__main__":
    main(Threads, __doc__)
