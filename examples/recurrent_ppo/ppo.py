"""Proximal policy optimisation with an LSTM: rollouts, advantages, the loss, and the update.

J. Schulman et al., Proximal policy optimization algorithms, 2017; J. Schulman et al., High-dimensional continuous
control using generalized advantage estimation, 2016. Arrays are (T, B, ...): step, environment.
"""

from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, Adam, Linear, Sequential, clip_grad_norm

GAMMA, LAMBDA = 0.99, 0.95
CLIP, VALUE_SHARE, ENTROPY_SHARE = 0.2, 0.5, 0.005
LARGEST_NORM = 0.5
SCALE = 1 / 100  # of rewards, so that values are of the size of 1


class Rollout(NamedTuple):
    x: np.ndarray  # (T, B, I) what the policy saw
    reset: np.ndarray  # (T, B) True at the first step of an episode
    state: list  # of the LSTM before the first step
    action: np.ndarray  # (T, B)
    log_probability: np.ndarray  # (T, B) of the action, when it was drawn
    advantage: np.ndarray  # (T, B)
    value: np.ndarray  # (T, B) target of the value

    def rows(self, chosen):
        """Return the rollout of some of the environments."""
        state = [(h[:, chosen], c[:, chosen]) for h, c in self.state]
        return Rollout(*(state if array is self.state else array[:, chosen] for array in self))


def build(inputs, actions, hidden, seed):
    """Return a network whose outputs are the scores of the actions, and the value."""
    return Sequential(LSTM(inputs, hidden, seed=seed), Linear(hidden, actions + 1, seed=seed + 1))


def log_softmax(scores):
    scores = scores - scores.max(axis=-1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))


def draw(scores, rng):
    """Return an action for each row, drawn by softmax(scores): the largest score plus Gumbel noise."""
    return (scores + rng.gumbel(size=scores.shape)).argmax(axis=-1)


def collect(environments, model, stepper, steps, rng):
    """Step the environments with the state of `stepper`; return a Rollout, and a Stepper with the state after it."""
    state = stepper.state
    stepper = model.stepper(stepper.batch_size)  # with the present weights
    stepper.state = state
    rows = []
    for _ in range(steps):
        x, reset = environments.x, environments.begins
        stepper.reset(rows=np.flatnonzero(reset))
        out = stepper.step(x)
        action = draw(out[:, :-1], rng)
        reward, ended, last_x = environments.step(action)
        reward, done = SCALE * reward, environments.begins
        if done.any():  # an episode that only ran out of time goes on in the value of its last observation
            reward += GAMMA * stepper.copy().step(last_x)[:, -1] * (done & ~ended)
        rows.append((x, reset, out, action, reward, done))
    x, reset, out, action, reward, done = map(np.stack, zip(*rows, strict=True))
    value = np.concatenate([out[..., -1], stepper.copy().step(environments.x)[None, :, -1]])
    logs = np.take_along_axis(log_softmax(out[..., :-1]), action[..., None], axis=-1)[..., 0]
    advantage = advantages(reward, done, value)
    return Rollout(x, reset, state, action, logs, advantage, advantage + value[:-1]), stepper


def advantages(reward, done, value):
    """Return generalised advantage estimates; value has one step more than reward."""
    result, following = np.zeros_like(value[:-1]), 0.0
    for t in reversed(range(len(reward))):
        delta = reward[t] + GAMMA * value[t + 1] * ~done[t] - value[t]
        result[t] = following = delta + GAMMA * LAMBDA * ~done[t] * following
    return result


def loss(out, rollout):
    """Return PPO's loss and its gradient with respect to the network's outputs (T, B, actions + 1)."""
    scores, value = out[..., :-1], out[..., -1]
    logs = log_softmax(scores)
    p = np.exp(logs)
    taken = np.arange(scores.shape[-1]) == rollout.action[..., None]
    ratio = np.exp(logs[taken].reshape(value.shape) - rollout.log_probability)
    advantage = (rollout.advantage - rollout.advantage.mean()) / (rollout.advantage.std() + 1e-8)
    free, clipped = ratio * advantage, np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage
    entropy = -(p * logs).sum(axis=-1, keepdims=True)
    error = value - rollout.value
    total = -np.minimum(free, clipped) + VALUE_SHARE * error**2 - ENTROPY_SHARE * entropy[..., 0]
    of_log = np.where(free <= clipped, -free, 0)[..., None]  # the gradient with respect to the action's log p
    gradient = np.empty_like(out)
    gradient[..., :-1] = of_log * (taken - p) + ENTROPY_SHARE * p * (logs + entropy)
    gradient[..., -1] = 2 * VALUE_SHARE * error
    return float(total.mean()), gradient / total.size


def update(model, optimizer, rollout):
    """Make one step of the optimizer on a rollout; return the loss before it."""
    out, _, tape = model.forward(rollout.x, rollout.state, reset=rollout.reset)
    value, gradient = loss(out, rollout)
    gradients = model.backward(tape, gradient).parameters
    clip_grad_norm(gradients, LARGEST_NORM)
    optimizer.step(gradients)
    return value


def train(environments, model, rng, updates, steps=64, epochs=10, parts=2, lr=3e-3):
    """Alternate rollouts and epochs of updates; each update is on a part of the environments."""
    optimizer, count = Adam(model, lr=lr), len(environments.x)
    stepper = model.stepper(count)
    for index in range(updates):
        optimizer.lr = lr * (1 - index / updates)
        rollout, stepper = collect(environments, model, stepper, steps, rng)
        for _ in range(epochs):
            for chosen in np.array_split(rng.permutation(count), parts):
                update(model, optimizer, rollout.rows(chosen))
