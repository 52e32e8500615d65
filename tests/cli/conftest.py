"""Fixtures of the tests of the command line."""

import pytest
from running import SMALL, TEXT

from lstm_cy import cli, config


@pytest.fixture(autouse=True)
def restored_threads(monkeypatch):
    monkeypatch.setattr(config, "_num_threads", config.get_num_threads())


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT[:8000])
    return path


@pytest.fixture
def train(tmp_path, text, capsys):
    """Train a small model in this process; return its path and the output."""

    def run(*arguments, output="model.npz"):
        path = tmp_path / output
        assert cli.main(["train", f"--text={text}", f"--output={path}", *SMALL, *arguments]) == 0
        return path, capsys.readouterr().out

    return run


@pytest.fixture
def binary(tmp_path, text):
    """A text with two bytes that are not UTF-8 in each line."""
    text.write_bytes(TEXT[:6000].encode("latin-1").replace(b"green", b"gr\xfc\xdfn"))
    return text
