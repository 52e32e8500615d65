"""Compare the update of examples/recurrent_ppo with PyTorch, where nn.LSTM runs step by step to reset its state.

    python -m benchmarks.recurrent_ppo

The loop is that of stable-baselines3-contrib: before each step the states are multiplied by 0 where an episode begins.
Both sides start from the same weights and train on the same rollout. Their losses must be equal. They are timed in
turns, on one thread.
"""

import argparse
import os
import time

if __name__ == "__main__":  # before NumPy is loaded
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from lstm_cy import Adam


def converted(model):
    """Return PyTorch's LSTM and Linear with the weights of `model`."""
    import torch

    lstm, linear = model.layers
    modules = (
        torch.nn.LSTM(lstm.input_size, lstm.hidden_size),
        torch.nn.Linear(lstm.hidden_size, len(linear.parameters["bias"])),
    )
    for ours, module in zip(model.layers, modules, strict=True):
        module.load_state_dict({name: torch.tensor(array) for name, array in ours.parameters.items()})
    return torch.nn.ModuleList(modules)


def outputs(modules, rollout):
    """Run the modules step by step; the state is zero where an episode begins."""
    import torch

    lstm, linear = modules
    state, kept, results = rollout.state[0], 1.0 - rollout.reset.float(), []
    for x_t, kept_t in zip(rollout.x, kept, strict=True):
        state = tuple(part * kept_t[None, :, None] for part in state)
        out, state = lstm(x_t[None], state)
        results.append(out)
    return linear(torch.cat(results))


def update(ppo, modules, optimizer, rollout):
    """Make one step of the optimizer, as `update` of the example."""
    import torch

    out = outputs(modules, rollout)
    logs, advantage = torch.log_softmax(out[..., :-1], -1), rollout.advantage
    ratio = (logs.gather(-1, rollout.action[..., None])[..., 0] - rollout.log_probability).exp()
    advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
    policy = torch.minimum(ratio * advantage, ratio.clamp(1 - ppo.CLIP, 1 + ppo.CLIP) * advantage)
    entropy = -(logs.exp() * logs).sum(-1)
    error = (out[..., -1] - rollout.value) ** 2
    loss = (-policy + ppo.VALUE_SHARE * error - ppo.ENTROPY_SHARE * entropy).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(modules.parameters(), ppo.LARGEST_NORM)
    optimizer.step()
    return loss.item()


def main(arguments=None):
    import torch

    from examples.recurrent_ppo import __main__ as cartpole
    from examples.recurrent_ppo import ppo

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--environments", type=int, default=8, help="half of those of the example: one of its updates")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count = options.environments
    environments, model = cartpole.Environments(count, seed=0), ppo.build(2, 2, 64, seed=0)
    rollout, _ = ppo.collect(environments, model, model.stepper(count), 64, np.random.default_rng(0))
    tensors = rollout._replace(
        state=[tuple(map(torch.tensor, pair)) for pair in rollout.state],
        **{name: torch.tensor(part) for name, part in rollout._asdict().items() if name != "state"},
    )
    ours, modules = Adam(model, lr=3e-3), converted(model)
    theirs = torch.optim.Adam(modules.parameters(), lr=3e-3)
    losses, seconds = [], []
    for _ in range(options.repeat):
        begin = time.perf_counter()
        loss = ppo.update(model, ours, rollout)
        middle = time.perf_counter()
        losses.append((loss, update(ppo, modules, theirs, tensors)))
        seconds.append((middle - begin, time.perf_counter() - middle))
    losses, seconds = np.array(losses), np.array(seconds)
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-3, atol=1e-5)
    ratio = np.median(seconds[:, 1] / seconds[:, 0])
    ours, theirs = 1e3 * np.median(seconds, axis=0)
    print(f"{len(losses)} updates, the losses are equal: {ours:.2f} ms, PyTorch {theirs:.2f} ms, ratio {ratio:.1f}")
    return ratio


if __name__ == "__main__":
    main()
