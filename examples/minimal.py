"""An LSTM in NumPy: forward pass, back-propagation through time, Adam, and a short text that it learns to write.

    python examples/minimal.py [--steps 200]

It needs NumPy only. tests/test_minimal.py checks that its loss, gradients and updated parameters are those of the
library. Names of sizes: T steps, B sequences, V characters, H hidden units. The four parts of an LSTM, in the order of
their rows in the weights: input gate i, forget gate f, cell candidate g, output gate o.
"""

import argparse

import numpy as np

TEXT = """\
A recurrent network reads one character after another. At each step it sees a new character and its own last output.
The cell is its memory: the forget gate keeps a part of it, and the input gate adds a part of the candidate.
The output gate decides how much of the cell is shown. All three gates are numbers between zero and one.
"""


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def make_parameters(V, H, seed=0):
    """Return random parameters by name; the LSTM has two biases, as in PyTorch."""
    rng = np.random.default_rng(seed)
    shapes = {
        "weight_ih": (4 * H, V),
        "weight_hh": (4 * H, H),
        "bias_ih": (4 * H,),
        "bias_hh": (4 * H,),
        "weight_out": (V, H),
        "bias_out": (V,),
    }
    parameters = {name: rng.uniform(-1, 1, shape) / np.sqrt(H) for name, shape in shapes.items()}
    parameters["bias_ih"][H : 2 * H] = 1  # forget gates that are open at first: the cell is kept
    parameters["bias_hh"][H : 2 * H] = 0
    return parameters


def lstm_forward(p, x, h, c):
    """Read x (T, B, V) from the state h, c (B, H). Return the outputs (T, B, H), the final state, and the tape: the
    values of each step that the backward pass needs."""
    outputs, tape = [], []
    for x_t in x:
        z = x_t @ p["weight_ih"].T + p["bias_ih"] + h @ p["weight_hh"].T + p["bias_hh"]
        i, f, g, o = np.split(z, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        h_before, c_before = h, c
        c = f * c_before + i * g
        tanh_c = np.tanh(c)
        h = o * tanh_c
        outputs.append(h)
        tape.append((x_t, h_before, c_before, i, f, g, o, tanh_c))
    return np.stack(outputs), (h, c), tape


def lstm_backward(p, tape, d_outputs):
    """Return the gradients of the LSTM's parameters, from the loss's gradient with respect to the outputs (T, B, H).

    The steps are visited from the last to the first. `dh` and `dc` are the gradients with respect to the state after a
    step. They have two sources: the output of the step itself, and the next step, which has read the state.
    """
    grads = {name: np.zeros_like(p[name]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    dh = dc = np.zeros_like(d_outputs[0])
    for (x_t, h_before, c_before, i, f, g, o, tanh_c), d_output in zip(tape[::-1], d_outputs[::-1], strict=True):
        dh = dh + d_output
        dc = dc + dh * o * (1 - tanh_c**2)  # h = o * tanh(c)
        di, df, dg, do = dc * g, dc * c_before, dc * i, dh * tanh_c  # c = f * c_before + i * g
        # through the activations: sigmoid' = s * (1 - s), tanh' = 1 - tanh**2
        dz = np.concatenate([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)], axis=1)
        grads["weight_ih"] += dz.T @ x_t
        grads["weight_hh"] += dz.T @ h_before
        grads["bias_ih"] += dz.sum(axis=0)
        grads["bias_hh"] += dz.sum(axis=0)
        dh, dc = dz @ p["weight_hh"], dc * f  # to the step before
    return grads


def cross_entropy(logits, y):
    """Return the mean of -log softmax(logits)[y], and its gradient with respect to the logits (T, B, V)."""
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax = exp / exp.sum(axis=-1, keepdims=True)
    one_hot = np.eye(logits.shape[-1])[y]
    loss = -np.log((softmax * one_hot).sum(axis=-1)).mean()
    return loss, (softmax - one_hot) / y.size


def loss_and_gradients(p, x, y):
    """Return the loss and the gradients of all parameters, for characters x and y, the next ones: integers (T, B)."""
    V, H = p["weight_out"].shape
    h = c = np.zeros((x.shape[1], H))
    outputs, _, tape = lstm_forward(p, np.eye(V)[x], h, c)
    loss, d_logits = cross_entropy(outputs @ p["weight_out"].T + p["bias_out"], y)
    grads = lstm_backward(p, tape, d_logits @ p["weight_out"])
    grads["weight_out"] = np.einsum("tbv,tbh->vh", d_logits, outputs)
    grads["bias_out"] = d_logits.sum(axis=(0, 1))
    return loss, grads


def adam_step(p, grads, state, lr=0.01, beta1=0.9, beta2=0.999, eps=1e-8):
    """Update the parameters; `state`, {} before the first step, keeps running means of each gradient and its square."""
    t = state["t"] = state.get("t", 0) + 1
    for name, grad in grads.items():
        m, v = state.get(name, (0, 0))
        m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad**2
        p[name] = p[name] - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        state[name] = m, v


def write(p, alphabet, begin, length):
    """Continue the text `begin` by `length` characters, each the most likely one."""
    V, H = p["weight_out"].shape
    h = c = np.zeros((1, H))
    text, unread = begin, begin
    while len(text) < len(begin) + length:
        x = np.eye(V)[[[alphabet.index(character)] for character in unread]]
        outputs, (h, c), _ = lstm_forward(p, x, h, c)
        unread = alphabet[(outputs[-1, 0] @ p["weight_out"].T + p["bias_out"]).argmax()]
        text += unread
    return text


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    steps = parser.parse_args(arguments).steps
    alphabet = "".join(sorted(set(TEXT)))
    tokens = np.array([alphabet.index(character) for character in TEXT])
    # sequences of 40 characters that begin at every 10th character: x, and y, which is one character later
    starts = np.arange(0, len(tokens) - 40, 10)
    x, y = (tokens[starts + np.arange(shift, 40 + shift)[:, np.newaxis]] for shift in (0, 1))
    p, state, losses = make_parameters(len(alphabet), H=48), {}, []
    for step in range(steps):
        loss, grads = loss_and_gradients(p, x, y)
        adam_step(p, grads, state)
        losses.append(loss)
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:3}: loss {loss:.3f}: {write(p, alphabet, 'A recurrent ', 50)!r}")
    return losses


if __name__ == "__main__":
    main()
