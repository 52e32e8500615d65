"""No test has a deadline for an example, because it would fail on a busy machine."""

import re
from pathlib import Path

from hypothesis import settings


def test_no_example_has_a_deadline():
    assert settings().deadline is None
    for path in Path(__file__).parent.rglob("*.py"):
        assert not re.search(r"\bdeadline[=]\s*(?!None\b)\S", path.read_text()), path.name
