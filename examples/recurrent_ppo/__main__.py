"""Balance a pole without seeing velocities: recurrent PPO on gymnasium's CartPole-v1.

    python -m examples.recurrent_ppo

The network sees the cart's position and the pole's angle, and must remember them to know how fast they change.
"""

import argparse
import os
import time

if __name__ == "__main__":  # before NumPy is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the products are small

import numpy as np

try:
    import gymnasium
except ImportError:
    raise SystemExit("this example needs gymnasium: pip install gymnasium") from None

from .ppo import build, train

SEEN = [0, 2]  # position and angle; 1 and 3 are their velocities
UNIT = np.array([2.4, 0.21], np.float32)  # where an episode ends
SOLVED = 475  # the reward threshold of CartPole-v1, a mean over 100 episodes


class Environments:
    """Several environments that step together, and begin a new episode when one ends."""

    def __init__(self, count, seed):
        self.each = [gymnasium.make("CartPole-v1") for _ in range(count)]
        self.x = np.stack([seen(one.reset(seed=seed + i)[0]) for i, one in enumerate(self.each)])
        self.begins = np.ones(count, bool)  # whether x is the first observation of an episode
        self.lengths, self.finished = np.zeros(count), []

    def step(self, actions):
        """Return rewards, whether an episode ended (other than by its time limit), and what was seen after the step."""
        results = [one.step(int(action)) for one, action in zip(self.each, actions, strict=True)]
        x, reward, ended, late = (np.array(column) for column in list(zip(*results, strict=True))[:4])
        self.begins, self.lengths = ended | late, self.lengths + 1
        last = seen(x)
        self.x = last.copy()
        for row in np.flatnonzero(self.begins):
            self.x[row] = seen(self.each[row].reset()[0])
            self.finished.append(self.lengths[row])
            self.lengths[row] = 0
        return reward, ended, last


def seen(x):
    """Return the part of an observation that the network sees."""
    return (np.asarray(x)[..., SEEN] / UNIT).astype(np.float32)


def evaluate(model, episodes, seed):
    """Return the returns of new episodes, with the action of the largest score at each step."""
    environments, stepper = Environments(episodes, seed), model.stepper(episodes)
    returns, running = np.zeros(episodes), np.ones(episodes, bool)
    while running.any():
        reward = environments.step(stepper.step(environments.x)[:, :-1].argmax(axis=-1))[0]
        returns += reward * running
        running &= ~environments.begins
    return returns


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200, help="rollouts of 16 environments and 64 steps")
    parser.add_argument("--hidden", type=int, default=64)
    options = parser.parse_args(arguments)
    means = []
    for seed in range(options.seeds):
        started = time.perf_counter()
        environments = Environments(16, seed=1000 * seed)
        model = build(len(SEEN), 2, options.hidden, seed)
        train(environments, model, np.random.default_rng(seed), options.updates)
        seconds, recent = time.perf_counter() - started, environments.finished[-100:]
        returns = evaluate(model, 100, seed=10**6 + seed)
        means.append(returns.mean())
        print(
            f"seed {seed}, {seconds:.0f} s: the last {len(recent)} episodes of training {np.mean(recent or [0]):.1f}, "
            f"100 new episodes {means[-1]:.1f}, the worst {returns.min():.0f}",
            flush=True,
        )
    print(f"solved with {sum(mean >= SOLVED for mean in means)} of {len(means)} seeds")
    return means


if __name__ == "__main__":
    main()
