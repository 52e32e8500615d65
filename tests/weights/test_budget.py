"""The limits for a file: bytes, objects and depth are counted before memory is allocated."""

import json

import pytest

from lstm_cy.weights import budget
from lstm_cy.weights.budget import Budget, LimitExceeded


def test_the_limit_of_bytes_is_the_files_size_and_a_reserve():
    account = Budget("a.npz", 1000)
    account.bytes(1000 + budget.SPARE_BYTES)
    with pytest.raises(LimitExceeded, match=r"^a\.npz: the tensors: would take more than .* bytes .* of 1000 bytes$"):
        account.bytes(1, "the tensors")


def test_another_file_extends_the_limit_of_bytes():
    account = Budget("a.onnx", 1000, times=6)
    account.extend(50)
    account.bytes(6 * 1050 + budget.SPARE_BYTES)
    with pytest.raises(LimitExceeded, match=rf"more than {6 * 1050 + budget.SPARE_BYTES} bytes .* of 1050 bytes$"):
        account.bytes(1)


@pytest.mark.parametrize(("size", "most"), [(0, 50_000), (1000, 58_000), (10**6, 800_000), (10**12, 800_000)])
def test_the_limit_of_objects_grows_with_the_file_up_to_a_maximum(size, most):
    account = Budget("a.npz", size)
    account.objects(most)
    with pytest.raises(LimitExceeded, match=f"a.npz: nodes: would take more than {most} objects"):
        account.objects(1, "nodes")


def test_objects_are_charged_as_bytes_too():
    account = Budget("a.npz", 0)
    account.bytes(budget.SPARE_BYTES - 2 * budget.OBJECT_BYTES)
    account.objects(2)
    with pytest.raises(LimitExceeded, match="bytes of memory"):
        account.objects()


def test_depth_is_limited_and_restored():
    account = Budget("a.onnx", 10)

    def descend(levels):
        if levels:
            with account.nested("graphs"):
                descend(levels - 1)

    descend(budget.LARGEST_DEPTH)
    with pytest.raises(LimitExceeded, match=r"^a\.onnx: graphs: nested deeper than 64 levels"):
        descend(budget.LARGEST_DEPTH + 1)
    descend(budget.LARGEST_DEPTH)


def test_the_name_of_a_file_is_safe_in_messages():
    with pytest.raises(LimitExceeded) as caught:
        Budget("a\x1b[31m.npz", 0).bytes(2**62)
    assert "\x1b" not in str(caught.value)


VALUES = [
    None,
    "text, with [brackets] {and} : colons",
    'quotes " and \\ backslashes \\" in "turn',
    "\\",
    {"a": [1, 2, {"b": "é中😀"}], "\\": '"', "c": {}},
    [[], [[]], [1.5, -2e300, True]],
]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_is_read_and_counted(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    account = Budget("a", 0)
    assert account.json(text) == account.json(text.encode()) == value
    objects, depth, width = budget._json_cost(text.encode())

    def inner(part):
        return [*part.values()] if isinstance(part, dict) else part if isinstance(part, list) else None

    def cost(part):
        values, keys = inner(part), len(part) if isinstance(part, dict) else 0
        return 0 if values is None else 1 + max(1, len(values)) + keys + sum(map(cost, values))

    def depth_of(part):
        return 0 if inner(part) is None else 1 + max(map(depth_of, inner(part)), default=0)

    assert (objects, depth) == (1 + cost(value), depth_of(value))
    assert width == (4 if "中" in str(value) else 1)


def test_json_is_counted_across_chunks(monkeypatch):
    text = json.dumps(VALUES).encode()
    whole = budget._json_cost(text)
    for size in range(1, 20):
        monkeypatch.setattr(budget, "_CHUNK", size)
        assert budget._json_cost(text) == whole


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 921 + "]" * 921, '{"a":' * 2000 + "1" + "}" * 2000])
def test_deep_json_is_refused_before_it_is_parsed(text):
    with pytest.raises(LimitExceeded, match=r"^a: its header: nested deeper than 920 levels"):
        Budget("a", len(text)).json(text)


def test_the_deepest_json(monkeypatch):
    monkeypatch.setattr(budget, "LARGEST_JSON_DEPTH", 3)
    assert Budget("a", 0).json("[[[]]]") == [[[]]]
    with pytest.raises(LimitExceeded, match=r"^a: its header: nested deeper than 3 levels"):
        Budget("a", 0).json("[[[[]]]]")


def test_json_that_is_too_deep_for_the_stack_of_the_caller(monkeypatch):
    def loads(text):
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(json, "loads", loads)
    with pytest.raises(LimitExceeded, match=r"^a: its header: nested too deep to be read here$"):
        Budget("a", 0).json("[]")


@pytest.mark.parametrize("part", ["[]", "{}", '"ab"', "1", '{"":[]}'])
def test_json_with_too_many_values_is_refused_before_it_is_parsed(part, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was read"))
    text = "[" + ",".join([part] * 900_000) + "]"
    with pytest.raises(LimitExceeded, match="more than 800000 objects"):
        Budget("a", len(text)).json(text)


def test_text_that_is_not_json_is_an_error():
    with pytest.raises(ValueError, match="its header is not JSON"):
        Budget("a", 0).json(b"{")
