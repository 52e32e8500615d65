"""Whole trainings give the bits of tests/data/fit_bits.json with every instruction set that has an fma."""

import json

import pytest
from frozen_fits import CASES, PATH, results
from test_bits import fused

from lstm_cy import config

FROZEN = json.loads(PATH.read_text())


def test_the_file_has_every_case():
    assert list(FROZEN) == list(CASES)
    assert len({found["parameters"] for found in FROZEN.values()}) == len(FROZEN)


@pytest.fixture(params=(1, 2))
def threads(request):
    before = config.get_num_threads()
    config.set_num_threads(request.param)
    yield request.param
    config.set_num_threads(before)


@pytest.mark.parametrize("isa", fused())
@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_every_processor(case, isa, threads):
    with config.using(isa=isa, engine="packed"):
        assert results(CASES[case]) == FROZEN[case]
