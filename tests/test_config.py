"""The configuration chosen at import or forced by environment variables; each case runs in a new process."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from common import every_implementation

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
def test_environment_variables_force_a_configuration(isa, engine):
    code = "import lstm_cy; c = lstm_cy.show_config('dicts'); print(c['instruction set'], c['engine'], c['threads'])"
    done = run(code, LSTM_CY_ISA=isa, LSTM_CY_ENGINE=engine, LSTM_CY_NUM_THREADS="2")
    assert done.stdout.split() == [isa, engine, "2"], done.stderr


def test_the_widest_instruction_set_is_chosen():
    done = run("from lstm_cy import config; print(config.instruction_set(), config.available_instruction_sets()[-1])")
    chosen, widest = done.stdout.split()
    assert chosen == widest
    assert config.available_instruction_sets()[0] == "base"


def test_auto_is_blas_without_vector_kernels_else_packed():
    for isa in config.available_instruction_sets():
        done = run("from lstm_cy import config; print(config.engine())", LSTM_CY_ISA=isa)
        assert done.stdout.strip() == ("blas" if isa == "base" else "packed")


def in_use():
    return config.engine(), config.instruction_set()


@every_implementation
def test_using_chooses_for_layers_built_in_its_block(isa, engine):
    before, x = in_use(), np.random.default_rng(0).standard_normal((40, 3, 33), np.float32)
    code = "import sys, numpy as np, lstm_cy; x = np.random.default_rng(0).standard_normal((40, 3, 33), np.float32); "
    code += "sys.stdout.write(lstm_cy.LSTM(33, 17, seed=1)(x)[0].tobytes().hex())"
    with config.using(isa=isa, engine=engine):
        assert in_use() == (engine, isa)
        inside = lstm_cy.LSTM(33, 17, seed=1)
    assert in_use() == before
    # outside the block, the layer gives the same bits as in a process with these environment variables
    assert inside(x)[0].tobytes().hex() == run(code, LSTM_CY_ISA=isa, LSTM_CY_ENGINE=engine).stdout


def test_using_nests_keeps_other_choices_and_ends_after_an_error():
    before = in_use()
    with config.using(engine="blas"):
        assert in_use() == ("blas", before[1])
        with pytest.raises(ZeroDivisionError), config.using(isa="base"):
            assert in_use() == ("blas", "base")
            with config.using(engine="packed"):
                assert in_use() == ("packed", "base")
            assert in_use() == ("blas", "base")
            raise ZeroDivisionError
        assert in_use() == ("blas", before[1])
        with config.using():
            assert in_use() == ("blas", before[1])
    assert in_use() == before


def test_using_auto_takes_the_faster_engine_of_the_instruction_set():
    for isa in config.available_instruction_sets():
        with config.using(engine="auto", isa=isa):
            assert config.engine() == ("blas" if isa == "base" else "packed")
            assert lstm_cy.show_config("dicts")["engine"] == config.engine()
            assert lstm_cy.show_config("dicts")["instruction set"] == isa


def test_using_affects_only_its_thread():
    before, seen = in_use(), []
    with config.using(engine="blas", isa="base"):
        thread = threading.Thread(target=lambda: seen.append(in_use()))
        thread.start()
        thread.join()
    assert seen == [before]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    (
        (
            {"engine": "mkl"},
            ValueError,
            "engine: expected None or one of auto, blas, packed on this machine, got 'mkl'",
        ),
        ({"engine": 3}, TypeError, "engine: expected None or one of auto, blas, packed, got int"),
        ({"engine": ""}, ValueError, "engine: expected"),
        ({"isa": "avx1024"}, ValueError, "isa: expected None or one of base.*, got 'avx1024'"),
        ({"engine": "blas", "isa": ["base"]}, TypeError, "isa: expected None or one of base.*, got list"),
    ),
)
def test_using_refuses_unknown_names(options, error, message):
    before = in_use()
    with pytest.raises(error, match=message), config.using(**options):
        pytest.fail("the block was entered")
    assert in_use() == before


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    (
        ("LSTM_CY_ISA", "avx1024", "LSTM_CY_ISA: expected one of base"),
        ("LSTM_CY_ENGINE", "mkl", "LSTM_CY_ENGINE: expected auto, blas or packed, got 'mkl'"),
        ("LSTM_CY_NUM_THREADS", "0", "LSTM_CY_NUM_THREADS: expected a positive integer, got '0'"),
        ("LSTM_CY_NUM_THREADS", "two", "got 'two'"),
        ("LSTM_CY_NUM_THREADS", "", "LSTM_CY_NUM_THREADS: expected a positive integer, got ''"),
        ("LSTM_CY_NUM_THREADS", "-1", "got '-1'"),
        ("LSTM_CY_NUM_THREADS", "\u0664", "LSTM_CY_NUM_THREADS: expected a positive integer"),
        ("LSTM_CY_NUM_THREADS", "9" * 5000, "LSTM_CY_NUM_THREADS: expected a positive integer, got '99"),
        ("LSTM_CY_NUM_THREADS", "2147483648", "LSTM_CY_NUM_THREADS: expected at most 2147483647, got 2147483648"),
    ),
)
def test_wrong_environment_variables_are_refused(variable, value, message):
    done = run("from lstm_cy import LSTM; LSTM(2, 2)", **{variable: value})
    assert done.returncode == 1
    assert message in done.stderr


def test_a_packed_model_runs_without_scipy():
    code = "import sys; from lstm_cy import LSTM; LSTM(2, 3)([[1, 2]]); print('scipy' in sys.modules)"
    if "packed" in run("from lstm_cy import config; print(config.engine())").stdout:
        assert run(code).stdout == "False\n"
    assert run(code, LSTM_CY_ENGINE="blas").stdout == "True\n"


def test_importing_the_package_imports_no_large_module():
    names = "('scipy', 'lstm_cy.layers', 'json', 'tqdm')"
    done = run(f"import sys, lstm_cy; print([m for m in {names} if m in sys.modules])")
    assert "scipy" not in done.stdout
    assert "lstm_cy.layers" not in done.stdout


def test_set_num_threads_is_kept():
    before = lstm_cy.get_num_threads()
    try:
        lstm_cy.set_num_threads(2)
        assert lstm_cy.get_num_threads() == 2
        for wrong, error in (
            (0, ValueError),
            (2**31, ValueError),
            (10**5000, ValueError),
            (1.5, TypeError),
            (True, TypeError),
        ):
            with pytest.raises(error, match="n: expected"):
                lstm_cy.set_num_threads(wrong)
        assert lstm_cy.get_num_threads() == 2
        lstm_cy.set_num_threads(2**31 - 1)  # a call uses at most one per processor
        lstm = lstm_cy.LSTM(2, 3, seed=0)
        assert np.array_equal(lstm(np.ones((4, 5, 2)))[0], lstm(np.ones((4, 5, 2)), threads=1)[0])
        with pytest.raises(ValueError, match="threads: expected at most 2147483647, got 2147483648"):
            lstm(np.ones((4, 5, 2)), threads=2**31)
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


def test_bounds_checks_are_on_in_a_checked_build():
    found = lstm_cy.show_config("dicts")["bounds checks"]
    assert found is True if os.environ.get("LSTM_CY_CHECKS") else isinstance(found, bool)


def test_every_public_name_exists():
    for name in lstm_cy.__all__:
        assert getattr(lstm_cy, name) is not None
    assert set(lstm_cy.__all__) <= set(dir(lstm_cy))
    with pytest.raises(AttributeError, match="no attribute 'GRU'"):
        lstm_cy.GRU  # noqa: B018
