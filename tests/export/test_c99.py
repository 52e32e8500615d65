"""Models as C99 files: compiled by the machine's C compiler, compared with Steppers."""

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import wave
import zlib
from pathlib import Path

import numpy as np
import pytest
from exported import inputs, models, with_functions, with_rows

from lstm_cy import LSTM, Activation, Conv1D, Dropout, Embedding, Linear, Pooling1D, Readout, Sequential, config, save
from lstm_cy.cli import main
from lstm_cy.export import c99

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
NATIVE = ["-march=native"] if sys.platform == "linux" else []
CC = shutil.which("cc")

pytestmark = pytest.mark.skipif(CC is None or os.name != "posix", reason="needs a C compiler called cc")


def compiled(folder, headers, *flags):
    """Compile headers into one library, with a function for the size of each state."""
    lines = [
        f'#define {name.upper()}_IMPLEMENTATION\n#include "{name}.h"\n'
        f"size_t {name}_size(void);\nsize_t {name}_size(void) {{ return sizeof({name}_state); }}\n"
        for name in headers
    ]
    (folder / "all.c").write_text("".join(lines))
    command = [CC, *STRICT, "-O1", *flags, "-shared", "-fPIC", "all.c", "-o", "all.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(folder / "all.so")


class Exported:
    """An exported model, loaded."""

    def __init__(self, library, name):
        size, self.call_init, self.call_run, self.call_reset = (
            getattr(library, f"{name}_{function}") for function in ("size", "init", "run", "reset")
        )
        size.restype = ctypes.c_size_t
        self.state = ctypes.create_string_buffer(size())

    def init(self, *weights):
        return self.call_init(self.state, *weights)

    def run(self, x, outputs):
        y = np.empty((len(x), outputs), np.float32)
        given = ctypes.c_size_t(len(x)), ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data)
        return self.call_run(self.state, *given), y


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c99")
    exported = models() | with_functions() | with_rows()
    for name, model in exported.items():
        c99(model, folder / f"{name}.h", name=name)
    return compiled(folder, exported, *NATIVE), exported


def same(result, expected):
    """Return whether results are equal to the bit, where the processor and the library have an fma, or nearly."""
    if NATIVE and config.engine() == "packed" and config.instruction_set() != "base":
        return np.array_equal(result, expected, equal_nan=True)
    return np.allclose(result, expected, rtol=2e-6, atol=2e-6, equal_nan=True)


def test_all_models_give_the_librarys_numbers(library):
    loaded, exported = library
    for name, model in exported.items():
        x, _ = inputs(model, 100)
        stepper = model.stepper()
        y = np.stack([stepper.step(x_t) for x_t in x])
        c = Exported(loaded, name)
        assert c.init() == 0, name
        error, first = c.run(x[:37], y.shape[1])
        assert error == 0, name
        _, second = c.run(x[37:], y.shape[1])
        assert same(np.concatenate([first, second]), y), name
        assert c.call_reset(c.state) == 0, name
        assert same(c.run(x, y.shape[1])[1], y), f"{name} after a reset"


def test_numbers_that_are_not_finite_and_very_small_ones(library):
    loaded, exported = library
    for name in ("plain", "narrow", "variant"):
        model = exported[name]
        x, _ = inputs(model, 12)
        x[2:6] *= np.float32(1e-38)
        x[7, 1] = np.inf
        x[8, 0] = np.nan
        stepper = model.stepper()
        c = Exported(loaded, name)
        c.init()
        expected = np.stack([stepper.step(row) for row in x])
        result = c.run(x, expected.shape[1])[1]
        assert np.array_equal(np.isnan(result), np.isnan(expected))
        assert same(np.nan_to_num(result), np.nan_to_num(expected)), name


def test_errors_of_calls(library):
    loaded, _ = library
    c = Exported(loaded, "words")
    assert loaded.words_init(None) == loaded.words_reset(None) == -1
    c.init()
    tokens = np.array([3, 30, 1], np.int32)
    y = np.full((3, 30), 7, np.float32)
    run = [c.state, ctypes.c_size_t(3), ctypes.c_void_p(tokens.ctypes.data), ctypes.c_void_p(y.ctypes.data)]
    assert loaded.words_run(*run) == -2
    tokens[1] = -1
    assert loaded.words_run(*run) == -2
    assert (y == 7).all()
    assert [loaded.words_run(*run[:at], None, *run[at + 1 :]) for at in (0, 2, 3)] == [-1] * 3


def test_it_needs_nothing_but_copies_and_is_silent(tmp_path):
    for name, model in models().items():
        if name in ("variant", "words8", "zone", "act3"):
            c99(model, tmp_path / f"{name}.h")
            source = f'#define {name.upper()}_IMPLEMENTATION\n#include "{name}.h"\n'
            (tmp_path / "one.c").write_text(source)
            subprocess.run([CC, *STRICT, "-c", "one.c"], cwd=tmp_path, check=True)
            if shutil.which("nm"):
                symbols = subprocess.run(["nm", "-u", "one.o"], cwd=tmp_path, capture_output=True, text=True).stdout
                assert set(symbols.split()) - {"U"} <= {"memcpy", "memset", "memcmp", "__stack_chk_fail"}
            if shutil.which("c++"):
                strict = ["-std=c++11", *STRICT[1:]]
                subprocess.run(["c++", *strict, "-x", "c++", "-c", "one.c"], cwd=tmp_path, check=True)


def test_weights_apart(tmp_path):
    model = Sequential(LSTM(2, 9, seed=0), Linear(9, 3, seed=0)).quantize("int8")
    c99(model, tmp_path / "amp.h", weights=tmp_path / "amp.bin")
    content = (tmp_path / "amp.bin").read_bytes()
    loaded = compiled(tmp_path, ["amp"], *NATIVE)
    c = Exported(loaded, "amp")
    memory = ctypes.create_string_buffer(2 * len(content))
    start = -ctypes.addressof(memory) % 4

    def init(data, offset=0):
        at = ctypes.addressof(memory) + start + offset
        ctypes.memmove(at, data, len(data))
        return c.init(ctypes.c_void_p(at), ctypes.c_size_t(len(data)))

    assert init(content) == 0
    x, batch = inputs(model, 50)
    assert same(c.run(x, 3)[1], model(batch)[0][:, 0])
    assert c.init(None, ctypes.c_size_t(5)) == -1
    assert init(content, 1) == -3
    assert init(b"NOPE" + content[4:]) == -4
    assert init(content[:4] + content[7:3:-1] + content[8:]) == -5
    assert init(content[:8] + struct.pack("<I", 2) + content[12:]) == -6
    for at in (12, 16, 20):
        assert init(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]) == -7
    assert init(content[:-1]) == init(content[:20]) == init(b"") == init(content + b"0") == -8
    assert init(content[:-1] + bytes([content[-1] ^ 128])) == -9
    # other weights for the same layers fit, those of other sizes do not
    other = Sequential(LSTM(2, 9, seed=5), Linear(9, 3, seed=6)).quantize("int8")
    c99(other, tmp_path / "other.h", weights=tmp_path / "other.bin")
    assert init((tmp_path / "other.bin").read_bytes()) == 0
    assert same(c.run(x, 3)[1], other(batch)[0][:, 0])
    c99(Sequential(LSTM(2, 10, seed=5), Linear(10, 3)).quantize("int8"), tmp_path / "o.h", weights=tmp_path / "o.bin")
    assert init((tmp_path / "o.bin").read_bytes()) == -7


def run_self_test(folder, *arguments):
    """Compile amp.h as a program and run it."""
    flags = [*STRICT, *NATIVE, "-x", "c", "-DAMP_SELF_TEST", "amp.h", "-o", "amp"]
    subprocess.run([CC, *flags], cwd=folder, check=True)
    return subprocess.run(["./amp", *arguments], cwd=folder, capture_output=True, text=True)


def test_the_self_test(tmp_path):
    model = Sequential(Embedding(7, 3, seed=0), LSTM(3, 9, seed=0), Linear(9, 3, seed=0))
    c99(model, tmp_path / "amp.h", self_test=True)
    passed = run_self_test(tmp_path)
    assert (passed.returncode, passed.stdout[:6]) == (0, "passed")
    text = (tmp_path / "amp.h").read_text()
    constant = text.split("/* Linear 9 -> 3 */\n")[1].split(",")[0].strip()
    (tmp_path / "amp.h").write_text(text.replace(constant, "0.7f"))
    failed = run_self_test(tmp_path)
    assert (failed.returncode, failed.stdout[:6]) == (1, "FAILED")


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(Sequential(LSTM(2, 9, seed=0), Linear(9, 3, seed=0)), "amp.npz", metadata={"name": '*/ " \\\n#error'})
    assert main(["export", "amp.npz", "--c", "amp.h", "--weights", "amp.bin", "--int8", "--self-test"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["amp.h", "amp.bin"]
    assert run_self_test(tmp_path, "amp.bin").returncode == 0
    content = (tmp_path / "amp.bin").read_bytes()
    (tmp_path / "amp.bin").write_bytes(content[:-1])
    assert run_self_test(tmp_path, "amp.bin").stdout == "the weights: error -8\n"
    assert zlib.crc32(content[32:]) == struct.unpack_from("<I", content, 24)[0]
    assert main(["export", "amp.npz", "--c", "amp.h", "--name", "2x"]) == 1
    assert "name: expected letters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "prefix"),
    [
        ('x *" \\\n#error.h', "x_error"),
        ("2 amp--lead.h", "m_2_amp_lead"),
        ("ÄÖ.h", "model"),
        ("__int__.c", "int"),
        ("lstm.h", "lstm"),
    ],
)
def test_names_from_the_files_name(tmp_path, file, prefix):
    c99(LSTM(1, 1, seed=0), tmp_path / file)
    text = (tmp_path / file).read_text("ascii")
    assert f"int {prefix}_step({prefix}_state *state, const float *x, float *y);" in text
    (tmp_path / "test.c").write_text(f"#define {prefix.upper()}_IMPLEMENTATION\n{text}")
    subprocess.run([CC, *STRICT, "-fsyntax-only", "test.c"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (LSTM(2, 3, bidirectional=True), ValueError, "model: expected an LSTM that runs forwards, got bidirectional"),
        (LSTM(2, 3, reverse=True), ValueError, "model: expected an LSTM that runs forwards, got reverse=True"),
        (LSTM(2, 3, dtype="float64"), ValueError, "model: expected a float32 model, got float64"),
        (LSTM(2, 3).quantize("bf16"), ValueError, "model: expected float32 or int8 weights, got bf16"),
        (
            Sequential(LSTM(2, 3), Readout(go_backwards=True)),
            ValueError,
            "model: expected a Readout in the order of time",
        ),
        (
            Sequential(LSTM(2, 3), Conv1D(3, 2, 3, padding="same")),
            ValueError,
            "model: expected padding .*, got a Conv1D",
        ),
        (Sequential(Linear(2, 3), Pooling1D("max", 2, padding="same")), ValueError, "model: .*, got Pooling1D"),
        (Sequential(Activation("tanh")), ValueError, "model: expected a first layer whose number of inputs is known"),
        (
            Sequential(LSTM(2, 3), Activation("affine", alpha=1e300)),
            ValueError,
            r"model: expected finite parameters, .* in layer 1, Activation\('affine'",
        ),
        (Sequential(Dropout(0.5)), ValueError, "model: expected a layer other than Dropout"),
        (Linear(2, 3), TypeError, "model: expected an LSTM or a Sequential, got Linear"),
        (None, TypeError, "model: expected an LSTM or a Sequential, got NoneType"),
    ],
)
def test_what_cannot_be_exported(tmp_path, model, error, message):
    with pytest.raises(error, match=message):
        c99(model, tmp_path / "a.h", weights=tmp_path / "a.bin")
    assert not any(tmp_path.iterdir())


def test_wrong_arguments(tmp_path):
    model = LSTM(2, 3, seed=0)
    for name in ("", "1a", "a b", "_a", "a__b", "a_", "ä", 3):
        with pytest.raises(ValueError, match="name: expected letters, digits and single underscores"):
            c99(model, tmp_path / "a.h", name=name)
    with pytest.raises(ValueError, match="weights: expected another file than path"):
        c99(model, tmp_path / "a.h", weights=tmp_path / "x" / ".." / "a.h")
    with pytest.raises(TypeError, match="self_test"):
        c99(model, tmp_path / "a.h", self_test=1)
    with pytest.raises(TypeError, match="path"):
        c99(model, 3)
    broken = LSTM(2, 3, seed=0)
    broken.load_state_dict(broken.state_dict() | {"bias_hh_l0": np.full(12, np.nan)})
    with pytest.raises(ValueError, match="model: expected finite parameters, got NaN or infinity in layer 0"):
        c99(broken, tmp_path / "a.h")
    assert not any(tmp_path.iterdir())


def test_the_example_plays_a_file(tmp_path):
    examples = Path(__file__).parents[2] / "examples" / "c99"
    rng = np.random.default_rng(0)
    model = Sequential(LSTM(1, 8, seed=0), Linear(8, 1, seed=0))
    c99(model, tmp_path / "amp.h")
    samples = rng.integers(-32768, 32768, 1000).astype("<i2")
    with wave.open(str(tmp_path / "in.wav"), "wb") as file:
        file.setparams((1, 2, 48000, 0, "NONE", None))
        file.writeframes(samples.tobytes())
    command = [CC, *STRICT, f"-I{tmp_path}", str(examples / "amplifier.c"), "-o", "amplifier"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["./amplifier", "in.wav", "out.wav"], cwd=tmp_path, check=True)
    with wave.open(str(tmp_path / "out.wav")) as file:
        played = np.frombuffer(file.readframes(1000), "<i2")
    y = model(np.float32(samples / 32768)[:, None, None])[0].ravel()
    assert np.abs(played - np.clip(y * 32767, -32768, 32767)).max() <= 1
