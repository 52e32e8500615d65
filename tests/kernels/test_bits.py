"""Every instruction set with a fused multiply-add gives the bits of tests/data/bits.json, on one thread and on two."""

import json

import pytest
from frozen_bits import PATH, cases, digest, results

from lstm_cy import config

CASES = cases()
FROZEN = json.loads(PATH.read_text())


def fused():
    """Return the instruction sets with a fused multiply-add."""
    found = []
    for isa in config.available_instruction_sets():
        with config.using(isa=isa):
            found += [isa] if "fused" in config.show_config("dicts")["vectors"] else []
    return found


def test_the_file_has_every_case():
    assert list(FROZEN) == list(CASES)
    assert len(set(FROZEN.values())) == len(FROZEN)


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("isa", fused())
def test_bits_are_those_of_every_processor(isa, threads):
    with config.using(isa=isa, engine="packed"):
        found = {name: digest(results(*case, threads)) for name, case in CASES.items()}
    assert [name for name in CASES if found[name] != FROZEN[name]] == []
