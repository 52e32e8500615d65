"""What is chosen at import, and what environment variables force; each case in a process of its own."""

import os
import subprocess
import sys

import pytest

import lstm_cy
from lstm_cy import config


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if not k.startswith("LSTM_CY_")}, **environment},
    )


@pytest.mark.parametrize("isa", config.available_instruction_sets())
@pytest.mark.parametrize("engine", config.ENGINES)
def test_environment_forces(isa, engine):
    code = "import lstm_cy; c = lstm_cy.show_config('dicts'); print(c['instruction set'], c['engine'], c['threads'])"
    done = run(code, LSTM_CY_ISA=isa, LSTM_CY_ENGINE=engine, LSTM_CY_NUM_THREADS="2")
    assert done.stdout.split() == [isa, engine, "2"], done.stderr


def test_the_widest_instruction_set_is_chosen():
    done = run("from lstm_cy import config; print(config.instruction_set(), config.available_instruction_sets()[-1])")
    chosen, widest = done.stdout.split()
    assert chosen == widest
    assert config.available_instruction_sets()[0] == "base"


def test_auto_is_blas_without_vector_kernels_and_packed_with():
    for isa in config.available_instruction_sets():
        done = run("from lstm_cy import config; print(config.engine())", LSTM_CY_ISA=isa)
        assert done.stdout.strip() == ("blas" if isa == "base" else "packed")


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    (
        ("LSTM_CY_ISA", "avx1024", "LSTM_CY_ISA: expected one of base"),
        ("LSTM_CY_ENGINE", "mkl", "LSTM_CY_ENGINE: expected auto, blas or packed, got 'mkl'"),
        ("LSTM_CY_NUM_THREADS", "0", "LSTM_CY_NUM_THREADS: expected a positive integer, got '0'"),
        ("LSTM_CY_NUM_THREADS", "two", "got 'two'"),
    ),
)
def test_wrong_variables(variable, value, message):
    done = run("from lstm_cy import LSTM; LSTM(2, 2)", **{variable: value})
    assert done.returncode == 1
    assert message in done.stderr


def test_a_packed_model_runs_without_scipy():
    code = "import sys; from lstm_cy import LSTM; LSTM(2, 3)([[1, 2]]); print('scipy' in sys.modules)"
    if "packed" in run("from lstm_cy import config; print(config.engine())").stdout:
        assert run(code).stdout == "False\n"
    assert run(code, LSTM_CY_ENGINE="blas").stdout == "True\n"


def test_importing_the_package_imports_nothing_heavy():
    done = run("import sys, lstm_cy; print([m for m in ('scipy', 'lstm_cy.lstm', 'json', 'tqdm') if m in sys.modules])")
    assert "scipy" not in done.stdout
    assert "lstm_cy.lstm" not in done.stdout


def test_threads_are_remembered():
    before = lstm_cy.get_num_threads()
    try:
        lstm_cy.set_num_threads(2)
        assert lstm_cy.get_num_threads() == 2
        for wrong, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
            with pytest.raises(error, match="n: expected"):
                lstm_cy.set_num_threads(wrong)
        assert lstm_cy.get_num_threads() == 2
    finally:
        lstm_cy.set_num_threads(before)


def test_show_config_prints_and_returns(capsys):
    found = lstm_cy.show_config("dicts")
    assert found["lstm_cy"] == lstm_cy.__version__
    assert isinstance(found["BLAS threads"], int | str)
    assert lstm_cy.show_config() is None
    printed = capsys.readouterr().out
    for name, value in found.items():
        assert name in printed
        assert str(value) in printed
    with pytest.raises(ValueError, match="mode"):
        lstm_cy.show_config("json")


def test_a_checked_build_is_one():
    found = lstm_cy.show_config("dicts")["bounds checks"]
    assert found is True if os.environ.get("LSTM_CY_CHECKS") else isinstance(found, bool)


def test_every_public_name_is_there():
    for name in lstm_cy.__all__:
        assert getattr(lstm_cy, name) is not None
    assert set(lstm_cy.__all__) <= set(dir(lstm_cy))
    with pytest.raises(AttributeError, match="no attribute 'GRU'"):
        lstm_cy.GRU  # noqa: B018
