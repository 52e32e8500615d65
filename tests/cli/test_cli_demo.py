"""The command demo."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from running import TEXT, ticking

from lstm_cy import bench, cli, reference
from lstm_cy.cli.demo import _QUICK
from lstm_cy.text import Vocabulary


@pytest.fixture
def small_demo(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "medians", lambda calls, seconds: {"lstm_cy": 2e-3, "NumPy": 3e-3})
    return ["demo", "--quick", f"--text={text}"]


def test_demo_trains_saves_and_measures(small_demo, capsys):
    assert cli.main(small_demo) == 0
    out = capsys.readouterr().out
    before, after = (
        out.index("before training, the model writes"),
        out.index("after training, the model writes"),
    )
    assert before < after < out.index("held-out loss") < out.index("unigram entropy")

    losses = [float(line.split()[2]) for line in out.splitlines() if line.startswith(("held-out", "unigram"))]
    assert losses[0] < losses[1]

    rows = [line.split() for line in out.splitlines() if "row(s)" in line]
    assert [row[:4] for row in rows] == [
        [steps, "step(s),", batch, "row(s)"] for steps, batch in [("1", "1"), ("100", "1"), ("50", "32")]
    ]
    assert [row[4:9] for row in rows] == 3 * [["3000", "us", "2000", "us", "1.5x"]]
    assert all(0 < float(row[9]) <= 1e-4 for row in rows)

    assert "saved to lstm_cy-demo.npz" in out
    assert cli.main(["generate", "lstm_cy-demo.npz", "--length=5"]) == 0


def test_demo_reads_the_text_in_order_while_the_rate_falls(small_demo, monkeypatch):
    def fit(model, data, *, optimizer, epochs, **keywords):
        for epoch in range(epochs):
            pieces, rates = [], []
            for x, y in data(epoch):
                pieces.append((x, y))
                rates.append(optimizer.lr)
            seen.append((pieces, rates))
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr("lstm_cy.cli.demo._QUICK", _QUICK._replace(characters=6000, bptt=1))
    monkeypatch.setattr("lstm_cy.cli.demo.time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr("lstm_cy.cli.demo.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        cli.main(small_demo)

    # 5700 characters are 178 steps of 32 columns; ten parts of 18 steps, the last of which starts from the beginning
    tokens = Vocabulary.from_text(TEXT[:5700], 5).encode(TEXT[:5700])
    columns = tokens[: 178 * 32].reshape(32, 178).T
    assert len(seen) == 10
    read = np.concatenate([x for pieces, _ in seen[:9] for x, _ in pieces])
    following = np.concatenate([y for pieces, _ in seen[:9] for _, y in pieces])
    assert read.tolist() == columns[:162].tolist()
    assert following[:161].tolist() == columns[1:162].tolist()
    assert [len(x) for x, _ in seen[0][0]] == [8, 8, 2]
    assert [len(x) for x, _ in seen[9][0]] == [8, 8, 2]

    rates = [rates[0] for _, rates in seen]
    assert rates[0] == _QUICK.lr
    assert rates == sorted(set(rates), reverse=True)
    assert 0 < rates[-1] < 0.1 * rates[0]


def test_demo_shows_no_ratio_where_the_outputs_differ(small_demo, capsys, monkeypatch):
    forward = reference.forward

    def wrong(*arguments):
        y, *state = forward(*arguments)
        return y + np.float32(2e-3), *state

    monkeypatch.setattr(reference, "forward", wrong)
    assert cli.main([*small_demo, "--output=other.npz"]) == 1
    captured = capsys.readouterr()
    assert "1.5x" not in captured.out
    assert "1 step(s), 1 row(s): the results of lstm_cy and NumPy are 2.0e-03 apart" in captured.err
    assert Path("other.npz").exists()


def test_demo_stops_when_its_time_is_up(small_demo, capsys, monkeypatch):
    monkeypatch.setattr("lstm_cy.cli.demo.time", ticking())
    assert cli.main(small_demo) == 0
    out = capsys.readouterr().out
    # a part is one piece here: the clock is read before it, after it and by the callback
    assert "time was up in part 3 of 10" in out
    assert "held-out loss" in out


def test_demo_stops_within_a_part_too(small_demo, monkeypatch):
    def fit(model, data, *, callbacks, **keywords):
        pieces.extend(data(0))
        assert callbacks[0](None) is True
        raise KeyboardInterrupt

    pieces = []
    monkeypatch.setattr("lstm_cy.cli.demo._QUICK", _QUICK._replace(bptt=1, seconds=5))
    monkeypatch.setattr("lstm_cy.cli.demo.time", ticking())
    monkeypatch.setattr("lstm_cy.cli.demo.fit", fit)
    with pytest.raises(KeyboardInterrupt):
        cli.main(small_demo)
    assert len(pieces) == 3  # of thirty: the clock is read before and after each
