"""Vocabularies, and texts for training."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lstm_cy.text import (
    LEVELS,
    Bytes,
    Vocabulary,
    Words,
    columns,
    corpus,
    read_bytes,
    read_text,
    standard_library_text,
    unigram_entropy,
    vocabulary_from_json,
)

any_text = st.text(st.characters(codec=None), max_size=50)  # with lone surrogates and NUL


@given(any_text, any_text, st.integers(1, 3))
@example("a\ufffdb\ufffd", "\ufffe", 1)  # the unknown symbol itself
def test_tokens_equal_those_of_a_dict(text, other, min_count):
    counts = Counter(text)
    known = sorted(c for c, n in counts.items() if n >= min_count and c != "\ufffd")
    token = {c: 1 + i for i, c in enumerate(known)}

    vocabulary = Vocabulary.from_text(text, min_count)

    assert len(vocabulary) == 1 + len(known)
    assert vocabulary.characters == "".join(known)
    tokens = vocabulary.encode(text + other)
    assert tokens.dtype == np.intp
    assert tokens.tolist() == [token.get(c, 0) for c in text + other]
    assert vocabulary.decode(tokens) == "".join(c if c in token else "\ufffd" for c in text + other)


@given(any_text)
def test_a_vocabulary_round_trips_through_json(text):
    vocabulary = Vocabulary(text)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again.encode(text).tolist() == vocabulary.encode(text).tolist()


def test_order_and_repetition_do_not_matter():
    assert Vocabulary("cabac") == Vocabulary("abc") != Vocabulary("ab")
    assert Vocabulary("abc") != "abc"


def test_empty_vocabularies_texts_and_tokens():
    assert Vocabulary("").encode("ab").tolist() == [0, 0]
    assert Vocabulary("ab").encode("").shape == (0,)
    assert Vocabulary("ab").decode([]) == ""


@pytest.mark.parametrize("tokens", [[3], [-1], [0, 1, 2, 99]])
def test_tokens_out_of_range_are_refused(tokens):
    with pytest.raises(ValueError, match=r"tokens: expected 0 to 2, got"):
        Vocabulary("ab").decode(tokens)


def test_vocabulary_refuses_wrong_types():
    with pytest.raises(TypeError, match="characters: expected a str, got list"):
        Vocabulary(["a"])
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        Vocabulary.from_text(b"a")
    with pytest.raises(TypeError, match="text: expected a str, got int"):
        Vocabulary("a").encode(1)
    with pytest.raises(TypeError, match="tokens: expected integers"):
        Vocabulary("a").decode([0.5])
    with pytest.raises(ValueError, match="min_count: expected at least 1, got 0"):
        Vocabulary.from_text("a", 0)


@pytest.mark.parametrize("value", [None, "abc", {}, {"characters": ["a"]}])
def test_json_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match="vocabulary: expected"):
        Vocabulary.from_json(value)


def test_the_most_frequent_characters_are_known():
    text = "ccccbbbaad\ufffd\ufffd\ufffd\ufffd\ufffd"
    assert Vocabulary.from_text(text, size=3) == Vocabulary("bc")
    assert Vocabulary.from_text(text, min_count=2, size=9) == Vocabulary("abc")
    assert len(Vocabulary.from_text(text, size=1)) == 1
    with pytest.raises(ValueError, match="size: expected at least 1, got 0"):
        Vocabulary.from_text(text, size=0)


def test_words_are_cut_as_documented():
    assert Words.split("def f(x_1):\n    return x_1  + 2\n\n\nend ") == [
        *("def", " f", "(", "x_1", ")", ":"),
        *("\n   ", " return", " x_1", " ", " +", " 2"),
        *("\n\n", "\n", "end", " "),
    ]
    assert Words.split("Grüße, Welt!") == ["Grüße", ",", " Welt", "!"]
    assert Words.split("我爱AI 和 カナ。") == ["我", "爱", "AI", " 和", " カ", "ナ", "。"]
    assert Words.split("") == []


@given(any_text | st.text("ab1_ \n\t.,中\x85\u2003", max_size=60))
def test_the_symbols_of_a_text_joined_are_the_text(text):
    words = Words.split(text)
    assert "".join(words) == text
    assert all(words)
    assert Words.split("".join(words)) == words
    assert "".join(Vocabulary.split(text)) == text


@given(st.text("ab \n.\ufffd", max_size=60), st.text("abc \n.", max_size=20))
def test_words_round_trip(text, other):
    vocabulary = Words.from_text(text, size=None)
    again = vocabulary_from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert again == vocabulary
    assert hash(again) == hash(vocabulary)
    assert again.words == sorted(set(Words.split(text)) - {"\ufffd"})

    tokens = again.encode(text + other)
    assert tokens.dtype == np.intp
    expected = "".join(word if word in vocabulary.words else "\ufffd" for word in Words.split(text + other))
    assert again.decode(tokens) == "".join(again.pieces(tokens.tolist())) == expected
    assert again.decode(again.encode(text)) == text


def test_the_most_frequent_words_are_known():
    text = "x y z y z z w \ufffd\ufffd\ufffd\ufffd"
    assert Words.from_text(text, size=3).words == [" y", " z"]
    assert Words.from_text(text, size=4).words == [" y", " z", "x"]  # of words that occur once, the first
    assert Words.from_text(text, min_count=2).words == [" y", " z"]
    assert len(Words.from_text(" ".join(map(str, range(20_000))))) == 10_000


@given(st.binary(max_size=60))
@example(b"\xff\xfe\x00\xc3")
@example("né 中\U0001f600".encode())
def test_bytes_round_trip(data):
    vocabulary = vocabulary_from_json(json.loads(json.dumps(Bytes().to_json())))
    assert (vocabulary, len(vocabulary), hash(vocabulary)) == (Bytes(), 256, hash(Bytes()))
    tokens = vocabulary.encode(data)
    assert tokens.dtype == np.intp
    assert tokens.tolist() == list(data)
    text = vocabulary.decode(tokens)
    assert text.encode("utf-8", "surrogateescape") == data
    assert vocabulary.encode(text).tolist() == list(data)
    assert "".join(vocabulary.pieces(data)) == text
    assert vocabulary.missing(data) == []


def test_a_character_is_yielded_after_its_last_byte():
    passed = []

    def tokens():
        for token in "aé中\U0001f600".encode() + b"\xe4z\xc3":
            passed.append(token)
            yield token

    seen = [(piece, len(passed)) for piece in Bytes().pieces(tokens())]
    assert seen == [
        *(("a", 1), ("é", 3), ("中", 6), ("\U0001f600", 10)),
        *(("\udce4z", 12), ("\udcc3", 13)),
    ]


def test_missing_returns_the_symbols_outside_the_vocabulary():
    assert Vocabulary("abc").missing("xaybxcz") == ["x", "y", "z"]
    assert Words(["a", " b"]).missing("a b c d c") == [" c", " d"]
    assert Vocabulary("abc").missing("cab") == Words(["a"]).missing("a") == []


def test_words_and_bytes_refuse_wrong_types_and_tokens():
    with pytest.raises(TypeError, match="words: expected a str, got int"):
        Words([1])
    with pytest.raises(TypeError, match="text: expected a str, got bytes"):
        Words.from_text(b"a")
    with pytest.raises(TypeError, match="text: expected a str, got int"):
        Bytes().encode(1)
    with pytest.raises(ValueError, match="tokens: expected 0 to 255, got 256 to 256"):
        Bytes().decode([256])
    with pytest.raises(ValueError, match="tokens: expected 0 to 1, got -1 to -1"):
        Words(["a"]).decode([-1])
    assert Words("ab") != Vocabulary("ab") != Bytes() != Words("ab")


@pytest.mark.parametrize("value", [None, "words", [], {}, {"words": "ab"}, {"words": [1]}, {"bytes": 8}])
def test_json_of_an_unknown_level_is_refused(value):
    with pytest.raises(ValueError, match="vocabulary: expected"):
        vocabulary_from_json(value)
    for kind in LEVELS.values():
        with pytest.raises(ValueError, match="vocabulary: expected"):
            kind.from_json(value)


def test_vocabularies_from_files_of_versions_without_levels():
    assert vocabulary_from_json({"characters": "abc"}) == Vocabulary("abc")


def test_read_text(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffÄpfel\n".encode())
    assert read_text(path) == "Äpfel\n"
    path.write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=rf"{path}: not UTF-8 text: .* at byte 3"):
        read_text(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path}: the file is empty"):
        read_text(path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "missing")


def test_read_bytes(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(b"\xff\x00\r\n")
    assert read_bytes(path) == b"\xff\x00\r\n"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path}: the file is empty"):
        read_bytes(path)


def test_standard_library_text_is_the_same_source_each_time():
    text = standard_library_text(300_000)
    assert len(text) == 300_000
    assert text == standard_library_text(300_000)
    assert text.startswith(standard_library_text(1000))
    with open(corpus.sysconfig.get_path("stdlib") + "/abc.py", encoding="utf-8") as file:
        assert file.read() in text


def test_standard_library_text_leaves_out_tests_and_files_that_are_not_utf8(tmp_path, monkeypatch):
    files = {"b.py": b"two\n", "a.py": b"one\n", "_c.py": b"no\n", "d.py": b"\xff", "e.txt": b"no\n"}
    files |= {"json/z.py": b"three\n", "json/test/t.py": b"no\n", "site-packages/s.py": b"no\n"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    assert standard_library_text() == "one\ntwo\nthree\n"
    assert standard_library_text(5) == "one\nt"


def test_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no sources of the standard library"):
        standard_library_text()


@given(st.integers(2, 40), st.integers(1, 12))
def test_each_column_continues_where_the_one_before_ends(n, batch_size):
    tokens = np.arange(n) * 7
    steps = (n - 1) // batch_size
    if steps == 0:
        with pytest.raises(ValueError, match=f"tokens: {n} are too few for {batch_size} columns"):
            columns(tokens, batch_size)
        return
    x, y = columns(tokens, batch_size)
    assert x.shape == y.shape == (steps, batch_size)
    assert x.flags.c_contiguous or batch_size == 1
    for t in range(steps):
        for b in range(batch_size):
            assert x[t, b] == tokens[b * steps + t]
            assert y[t, b] == tokens[b * steps + t + 1]
    x[:] = y[:] = 0
    assert tokens.tolist() == [7 * i for i in range(n)]


def test_unigram_entropy():
    assert unigram_entropy([5, 5, 5]) == 0
    assert unigram_entropy([0, 1, 2, 3]) == pytest.approx(math.log(4), rel=1e-15)
    # three of four: 3/4 log(4/3) + 1/4 log 4
    expected = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    assert unigram_entropy([9, 2, 9, 9]) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("function", [unigram_entropy, lambda tokens: columns(tokens, 2)])
def test_tokens_must_be_integers_on_one_axis(function):
    with pytest.raises(ValueError, match=r"tokens: expected shape \(N,\), got \(2, 2\)"):
        function([[1, 2], [3, 4]])
    with pytest.raises(TypeError, match="tokens: expected integers"):
        function([0.5, 1.5, 2.5])


def test_unigram_entropy_needs_a_token():
    with pytest.raises(ValueError, match="tokens: expected at least one"):
        unigram_entropy([])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Words(3), TypeError, "words: expected an iterable, got 3"),
        (lambda: Words(["a"]).decode(1), ValueError, r"tokens: expected shape \(N,\), got \(\)"),
        (lambda: Words(["a"]).decode([[0], [1]]), ValueError, r"tokens: expected shape \(N,\), got \(2, 1\)"),
        (lambda: list(Bytes().pieces(1.5)), TypeError, "tokens: expected an iterable, got 1.5"),
        (lambda: list(Bytes().pieces([256])), ValueError, "tokens: expected 0 to 255, got 256"),
        (lambda: list(Bytes().pieces([-1])), ValueError, "tokens: expected 0 to 255, got -1"),
        (lambda: list(Vocabulary("a").pieces(None)), TypeError, "tokens: expected an iterable, got None"),
        (lambda: Bytes().encode("a\ud800"), ValueError, r"text: expected characters or bytes, got '\\ud800' at 1"),
        (lambda: read_text(b"a.txt"), TypeError, "path: expected a str or an os.PathLike"),
        (lambda: read_bytes("a\0.txt"), ValueError, "path: expected a path without a null character"),
        (lambda: Vocabulary.from_json(10**5000), ValueError, "vocabulary: expected {'characters': str}, got int"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
