"""Every example runs, in a small form, and gives the described results."""

import doctest
import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from common import assert_close, every_gradient, finite_difference, random_case
from scipy.io import wavfile

import lstm_cy
from lstm_cy import LSTM, Adam, Embedding, Linear, Readout, Sequential, ctc_greedy, mse, reference, save
from lstm_cy.text import Vocabulary, standard_library_text

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_of_the_gates(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    module = load("gates")
    vocabulary = Vocabulary.from_text(standard_library_text(3000))
    n = len(vocabulary)
    model = Sequential(Embedding(n, 4, seed=0), LSTM(4, 12, seed=1), Linear(12, n, seed=2))
    save(model, tmp_path / "text.npz", {"vocabulary": vocabulary.to_json()})
    arguments = ["--epochs=12", "--longest=5", f"--output={tmp_path}", f"--text-model={tmp_path / 'text.npz'}"]
    right = module.main(arguments)
    assert right > 0.9
    riddle = {f"gates-{name}{language}" for name in ("riddle", "memories", "gradient") for language in ("", ".zh")}
    assert {path.stem for path in tmp_path.glob("*.png")} == riddle | {"gates-source", "gates-long"}
    printed = capsys.readouterr().out
    assert f"{100 * right:.1f} % of the question marks answered correctly" in printed
    assert len(re.findall("the most salient units:", printed)) == 3


def test_the_plain_network_of_the_gates_has_the_right_gradients():
    module = load("gates")
    model = module.PlainRnn(6, 4, 5, seed=1)
    x = np.random.default_rng(0).integers(0, 6, (5, 2))

    def value():
        return model.forward(x)[0][4, :, 2].sum()

    logits, h = model.forward(x)
    dlogits = np.zeros_like(logits)
    dlogits[4, :, 2] = 1
    found, _ = model.backward(x, h, dlogits)
    for name, array in model.parameters.items():
        for at in list(np.ndindex(*array.shape))[::3]:
            ends = []
            for eps in (1e-6, -1e-6):
                array[at] += eps
                ends.append(value())
                array[at] -= eps
            assert abs(found[name][at] - (ends[0] - ends[1]) / 2e-6) < 1e-7
    lengths = module.plain_gradient(model, x[:, 0], 4, 2)
    assert lengths.shape == (5,) and np.isclose(lengths[4], np.linalg.norm(model.parameters["V"][:, 2]))


def test_forecast_beats_repeating_yesterday(capsys):
    error, yesterday = load("forecast").main(["--epochs", "12", "--rows", "96", "--hidden", "24"])
    assert error < 0.8 * yesterday
    assert "mean squared error" in capsys.readouterr().out


def with_one_blas_thread(module, arguments):
    """Return the output of a module's `main(arguments)`, run in its own process with one BLAS thread."""
    root = str(EXAMPLES.parent)
    code = f"import sys, lstm_cy; sys.path.insert(0, {root!r}); from {module} import main; main({arguments})"
    path = os.pathsep.join([str(Path(lstm_cy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def translation(monkeypatch):
    """Import the example's main module, which needs num2words and babel."""
    pytest.importorskip("num2words")
    pytest.importorskip("babel")
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    return importlib.import_module("examples.translation.__main__")


def test_translation_learns_numbers_it_has_not_seen(translation, tmp_path, capsys, monkeypatch):
    model = str(tmp_path / "model.npz")
    sizes = "--hidden 64 --embedding 32 --merges 60 --numbers 2000 --epochs 4 --steps 75 --batch-size 32 --lr 0.01"
    printed = with_one_blas_thread(
        "examples.translation.__main__",
        ["train", "--model", model, *sizes.split(), "--directions", "zh->en", "--each", "40", "--show", "0"],
    )
    (share,) = re.findall(r"^zh->en +([0-9.]+)% of 40$", printed, re.MULTILINE)
    assert float(share) > 30  # by chance not one in a million would be right

    translation.main(["translate", "zh-en", "七 ", "--model", model])
    assert capsys.readouterr().out == "seven\n"
    for weights in ("bf16", "int8"):
        translation.main(["translate", "zh-en", "七", "--model", model, "--weights", weights])
        assert capsys.readouterr().out == "seven\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("七十\nducks\n九百零一\n"))
    translation.main(["translate", "zh->en", "--model", model, "--all"])
    printed, errors = capsys.readouterr()
    assert "the model has never seen 'c', 'k'" in errors
    lines = printed.splitlines()
    assert len(lines) == 10
    assert sum("%" in line for line in lines) == 8

    for arguments, message in (
        (["zh->en", "七?"], r"the model has never seen '\?'; it knows .*七"),
        (["zh->en", "  "], "text: expected something to translate, got nothing"),
        (["fr->zh", "un"], "direction: expected one of zh->en, got 'fr->zh'"),
        (["zh->en", "一", "二", "--png", "x.png"], "--png: expected one TEXT with it, got 2"),
    ):
        with pytest.raises(SystemExit, match=message):
            translation.main(["translate", *arguments, "--model", model])
    with pytest.raises(
        SystemExit, match="error: --model: expected a .npz or .safetensors file in a folder that exists"
    ):
        translation.main(["train", "--model", str(tmp_path / "nowhere" / "model.npz")])
    with pytest.raises(SystemExit, match="error: .*nothing.npz"):
        translation.main(["evaluate", "--model", str(tmp_path / "nothing.npz")])

    pytest.importorskip("matplotlib")
    picture = tmp_path / "attention.png"
    translation.main(["translate", "zh->en", "二万零一", "--model", model, "--png", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_translation_holds_out_the_same_values_in_all_languages(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    learned = corpus.make_corpus(corpus.TAGS, 400, seed=0, held_out=False)
    held_out = corpus.make_corpus(corpus.TAGS, 400, seed=0, held_out=True)
    for tag in corpus.TAGS:
        ours, theirs = set(learned[tag]), set(held_out[tag])
        assert not {source for source, _ in ours} & {source for source, _ in theirs}
        assert not {target for _, target in ours} & {target for _, target in theirs}
    share = np.mean([corpus.is_held_out(value) for value in range(100_000)])
    assert 0.015 < share < 0.025
    assert not corpus.is_held_out(0)


def test_translation_writes_chinese_numbers(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    known = {
        0: "零",
        7: "七",
        10: "十",
        12: "十二",
        20: "二十",
        99: "九十九",
        100: "一百",
        101: "一百零一",
        110: "一百一十",
        111: "一百一十一",
        1000: "一千",
        1001: "一千零一",
        1010: "一千零一十",
        1100: "一千一百",
        2026: "二千零二十六",
        9999: "九千九百九十九",
        10_000: "一万",
        10_001: "一万零一",
        10_010: "一万零一十",
        10_100: "一万零一百",
        11_000: "一万一千",
        100_000: "十万",
        110_000: "十一万",
        100_101: "十万零一百零一",
        205_060: "二十万五千零六十",
        999_999: "九十九万九千九百九十九",
    }
    assert {value: corpus.number_in_words(value, "zh") for value in known} == known
    written = {corpus.number_in_chinese(value) for value in range(30_000)}
    assert len(written) == 30_000  # all are different


def test_translation_writes_the_words_of_other_languages(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    known = {
        ("en", 321_021): "three hundred and twenty-one thousand and twenty-one",
        ("fr", 81_080): "quatre-vingt-un mille quatre-vingts",
        ("de", 321_021): "dreihunderteinundzwanzigtausendeinundzwanzig",
        ("es", 321_021): "trescientos veintiún mil veintiuno",
        ("es", 31_101): "treinta y un mil ciento uno",
        ("es", 1001): "mil uno",
    }
    assert {(language, value): corpus.number_in_words(value, language) for language, value in known} == known


def test_translation_uses_all_formats_of_a_date(translation):
    corpus = importlib.import_module("examples.translation.corpus")
    pairs = corpus.make_corpus(["en->iso", "iso->en"], 400, seed=1, held_out=False)
    written = {source for source, target in pairs["en->iso"] if target.endswith("-03-09")}
    assert all("9" in text and "Mar" in text for text in written)
    assert any(text.startswith(("Monday", "Friday", "Sunday")) for text, _ in pairs["en->iso"])
    assert all(len(source) == 10 and target[-6:] == f", {source[:4]}" for source, target in pairs["iso->en"])


def test_translation_docstrings(translation):
    for name in ("corpus", "pieces", "picture"):
        results = doctest.testmod(importlib.import_module(f"examples.translation.{name}"))
        assert results.attempted
        assert not results.failed


@pytest.fixture
def speech(monkeypatch):
    """Import the example's modules; without espeak-ng each word is a rising tone."""
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    modules = SimpleNamespace(
        **{name: importlib.import_module(f"examples.speech.{name}") for name in ("audio", "recognizer", "voices")},
        main=importlib.import_module("examples.speech.__main__").main,
    )
    if not shutil.which("espeak-ng"):
        monkeypatch.setattr(modules.voices, "speak", speak_in_tones)
        monkeypatch.setattr(modules.voices, "check_speakers", lambda spoken: None)
    return modules


def speak_in_tones(utterance, path):
    from examples.speech.voices import WORDS

    times = np.arange(22050 * 40 // utterance.speed) / 22050
    higher = 1 + utterance.pitch / 500
    pieces = [np.zeros(2000)]
    for word in utterance.words:
        tone = 300 * higher * 1.3 ** WORDS.index(word)
        pieces += [np.hanning(len(times)) * np.sin(2 * np.pi * tone * times * (1 + times)), np.zeros(2000)]
    wavfile.write(path, 22050, (9000 * np.concatenate(pieces)).astype(np.int16))


def test_speech_recognises_new_voices_and_sentences(speech, tmp_path, capsys):
    folder = ["--cache", str(tmp_path), "--model", str(tmp_path / "listen.npz")]
    size = ["--words", "4", "--longest", "4", "--sentences", "200", "--hidden", "32", "--batch-size", "8"]
    rates = speech.main(["train", *folder, *size, "--test-sentences", "30", "--epochs", "8", "--lr", "0.01"])
    assert rates["20 dB"] < 0.2  # a random choice of four words is wrong three times in four
    assert "word error rate, 20 dB" in capsys.readouterr().out

    spoken = speech.voices.utterances(30, "test", speech.voices.WORDS[:4], 4)
    heard = [speech.main(["listen", str(tmp_path / one.file), *folder[2:]]).split() for one in spoken]
    errors = sum(map(speech.recognizer.word_errors, [one.words for one in spoken], heard))
    assert errors < 0.2 * sum(len(one.words) for one in spoken)


def test_speech_streams_the_same_words_as_a_whole_call(speech, tmp_path, capsys, monkeypatch):
    words, path = list(speech.voices.WORDS[:5]), tmp_path / "stream.npz"
    model = speech.recognizer.build(5, 16, streaming=True)
    model.load_state_dict({name: 4 * array for name, array in model.parameters.items()})  # to get many words
    save(model, path, metadata={"words": words, "longest": 3, "streaming": True})
    streamed = []
    for sound in speech.voices.synthesise(speech.voices.utterances(4, "train", words, 3), tmp_path):
        whole = model(speech.audio.features(speech.audio.read_wav(sound), streaming=True))[0]
        expected = [words[label - 1] for label in ctc_greedy(whole)]
        assert speech.main(["stream", str(sound), "--model", str(path)]) == expected
        assert f"{len(whole)} steps of 30 ms took" in capsys.readouterr().out
        streamed += expected
    assert len(set(streamed)) > 1

    piped = SimpleNamespace(buffer=io.BytesIO(np.rint(32768 * speech.audio.read_wav(sound)).astype("<i2").tobytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    assert speech.main(["stream", "-", "--model", str(path)]) == expected
    save(model, path, metadata={"words": words, "longest": 3, "streaming": False})
    with pytest.raises(SystemExit, match="is bidirectional"):
        speech.main(["stream", "-", "--model", str(path)])


def test_speech_synthesis_can_be_interrupted(speech, tmp_path, monkeypatch):
    spoken = speech.voices.utterances(12, "train", speech.voices.WORDS, 4)
    speak, said = speech.voices.speak, []

    def speak_until_interrupted(utterance, path):
        if len(said) == 5:
            path.write_bytes(b"RIFF, the beginning of a file")
            raise KeyboardInterrupt
        said.append(utterance)
        speak(utterance, path)

    with monkeypatch.context() as patch:
        patch.setattr(speech.voices, "speak", speak_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            speech.voices.synthesise(spoken, tmp_path)
    complete = sorted(path.name for path in tmp_path.iterdir())
    assert complete == sorted(utterance.file for utterance in said)

    def speak_the_rest(utterance, path):
        assert utterance not in said
        speak(utterance, path)

    monkeypatch.setattr(speech.voices, "speak", speak_the_rest)
    paths = speech.voices.synthesise(spoken, tmp_path)
    assert [path.name for path in paths] == [utterance.file for utterance in spoken]
    assert all(wavfile.read(path)[0] == speech.audio.RATE for path in paths)


def test_speech_holds_voices_and_sentences_out(speech):
    train, test = (speech.voices.utterances(500, split, speech.voices.WORDS, 4) for split in ("train", "test"))
    assert train == speech.voices.utterances(500, "train", speech.voices.WORDS, 4)
    assert not {one.words for one in train} & {one.words for one in test}
    speakers = [{one.voice.partition("+")[2] for one in split} for split in (train, test)]
    assert not speakers[0] & speakers[1]
    assert speakers[1] <= set(speech.voices.HELD_OUT)
    with pytest.raises(ValueError, match="too few sentences"):
        speech.voices.utterances(1, "train", speech.voices.WORDS[:3], 3)


def test_speech_reads_all_sample_types(speech, tmp_path):
    times = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 440 * times)
    kinds = {
        "int16": (32767 * tone).astype(np.int16),
        "int32": (2147483647 * tone).astype(np.int32),
        "uint8": (128 + 127 * tone).astype(np.uint8),
        "float": tone.astype(np.float32),
        "stereo": np.stack([tone * 1.5, tone * 0.5], axis=1),
    }
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    for name, samples in kinds.items():
        wavfile.write(tmp_path / f"{name}.wav", 8000, samples)
        got = speech.audio.read_wav(tmp_path / f"{name}.wav")
        assert got.dtype == np.float32
        np.testing.assert_allclose(got[100:-100], expected[100:-100], atol=0.02)


def test_speech_explains_errors(speech, tmp_path, monkeypatch):
    (tmp_path / "text.wav").write_text("this is no sound at all, but it is long enough to be a header")
    (tmp_path / "nothing.wav").write_bytes(b"")
    wavfile.write(tmp_path / "empty.wav", 16000, np.zeros(0, np.int16))
    wavfile.write(tmp_path / "short.wav", 16000, np.zeros(700, np.int16))
    wavfile.write(tmp_path / "nan.wav", 16000, np.full(9000, np.nan, np.float32))
    whole = tmp_path / "whole.wav"
    wavfile.write(whole, 16000, np.zeros(9000, np.int16))
    (tmp_path / "cut.wav").write_bytes(whole.read_bytes()[:20])
    for name, message in {
        "missing": "No such file",
        "text": "is not a WAV file",
        "nothing": "is not a WAV file",
        "cut": "is not a WAV file",
        "empty": "is empty",
        "short": "is too short: expected at least 45 ms",
        "nan": "not finite",
    }.items():
        with pytest.raises(ValueError, match=message):
            speech.audio.read_wav(tmp_path / f"{name}.wav")
    with pytest.raises(SystemExit, match="there is no model .* yet; make one: python -m examples.speech train$"):
        speech.main(["listen", str(whole), "--model", str(tmp_path / "no.npz")])
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install espeak-ng"):
        speech.voices.synthesise(speech.voices.utterances(1, "test", speech.voices.WORDS, 2), tmp_path)


def test_practitioners_compares_with_baselines(capsys):
    for library in ("sklearn", "statsmodels"):
        pytest.importorskip(library)
    table, (digits, _) = load("practitioners").main(["--epochs", "8", "--seeds", "1"])
    assert table["co2"]["LSTM"] < 0.8 * table["co2"]["season ago"]
    assert 0.5 < table["el nino"]["covered"] <= 1
    assert table["economy"]["LSTM"] < table["economy"]["season ago"]
    assert table["births"]["ridge"] < table["births"]["season ago"]
    assert digits > 0.8
    assert "logistic regression" in capsys.readouterr().out


@pytest.fixture
def recurrent_ppo(monkeypatch):
    """Import the example's two modules, which need gymnasium."""
    pytest.importorskip("gymnasium")
    monkeypatch.syspath_prepend(EXAMPLES.parent)
    return SimpleNamespace(
        main=importlib.import_module("examples.recurrent_ppo.__main__").main,
        cartpole=importlib.import_module("examples.recurrent_ppo.__main__"),
        ppo=importlib.import_module("examples.recurrent_ppo.ppo"),
    )


def test_recurrent_ppo_learns_to_balance(recurrent_ppo, capsys):
    (mean,) = recurrent_ppo.main(["--seeds", "1", "--updates", "20", "--hidden", "32"])
    assert mean > 50  # random actions reach 22
    assert "seed 0" in capsys.readouterr().out


def ppo_rollout(module, hidden=5):
    environments = module.cartpole.Environments(3, seed=0)
    model = module.ppo.build(2, 2, hidden, seed=0)
    return model, module.ppo.collect(environments, model, model.stepper(3), 60, np.random.default_rng(0))[0]


def test_recurrent_ppo_updates_on_the_outputs_of_the_rollout(recurrent_ppo):
    model, rollout = ppo_rollout(recurrent_ppo)
    assert rollout.reset[0].all() and rollout.reset[1:].any(axis=0).all()
    out = model.forward(rollout.x, rollout.state, reset=rollout.reset)[0]
    logs = recurrent_ppo.ppo.log_softmax(out[..., :-1])
    taken = np.take_along_axis(logs, rollout.action[..., None], axis=-1)[..., 0]
    np.testing.assert_array_equal(taken, rollout.log_probability)
    part = rollout.rows([2, 0])
    np.testing.assert_array_equal(model.forward(part.x, part.state, reset=part.reset)[0], out[:, [2, 0]])


def test_the_gradient_of_recurrent_ppo(recurrent_ppo):
    _, rollout = ppo_rollout(recurrent_ppo)
    rng = np.random.default_rng(1)
    out = rng.standard_normal((60, 3, 3))
    logs = np.take_along_axis(recurrent_ppo.ppo.log_softmax(out[..., :-1]), rollout.action[..., None], -1)[..., 0]
    rollout = rollout._replace(log_probability=logs + rng.normal(0, 0.3, logs.shape))  # some ratios are clipped
    _, gradient = recurrent_ppo.ppo.loss(out, rollout)
    for index in [(0, 0, 0), (7, 1, 1), (59, 2, 2), (30, 2, 0), (31, 0, 1)]:
        moved = [out.copy(), out.copy()]
        moved[0][index] += 1e-6
        moved[1][index] -= 1e-6
        low_high = [recurrent_ppo.ppo.loss(each, rollout)[0] for each in moved]
        np.testing.assert_allclose(gradient[index], (low_high[0] - low_high[1]) / 2e-6, rtol=1e-4, atol=1e-9)


def test_advantages_of_recurrent_ppo(recurrent_ppo):
    """They are sums of discounted errors of the value, up to the end of the episode."""
    ppo, rng = recurrent_ppo.ppo, np.random.default_rng(0)
    reward, done, value = rng.random((9, 2)), rng.random((9, 2)) < 0.3, rng.random((10, 2))
    got = ppo.advantages(reward, done, value)
    for row in range(2):
        for t in range(9):
            expected, factor = 0.0, 1.0
            for k in range(t, 9):
                after = 0.0 if done[k, row] else value[k + 1, row]
                expected += factor * (reward[k, row] + ppo.GAMMA * after - value[k, row])
                factor *= ppo.GAMMA * ppo.LAMBDA
                if done[k, row]:
                    break
            np.testing.assert_allclose(got[t, row], expected, rtol=1e-9)


def test_recurrent_ppo_has_the_losses_of_a_loop_over_steps_in_pytorch(recurrent_ppo, capsys):
    pytest.importorskip("torch")
    importlib.import_module("benchmarks.recurrent_ppo").main(["--repeat", "5"])  # compares the losses
    assert "the losses are equal" in capsys.readouterr().out


def test_recurrent_ppo_names_the_library_that_is_missing(recurrent_ppo, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "examples.recurrent_ppo.__main__")
    with pytest.raises(SystemExit, match="pip install gymnasium"):
        importlib.import_module("examples.recurrent_ppo.__main__")


MEMORY = ["--tasks", "recall", "--spans", "60", "--models", "rnn", "lstm-chrono-closed", "--seeds", "1"]


def test_an_lstm_remembers_longer_than_a_plain_network(tmp_path, monkeypatch, capsys):
    memory, path = load("memory"), tmp_path / "memory.json"
    arguments = [*MEMORY, "--steps", "300", "--threads", "1", "--results", str(path)]
    results = memory.main(arguments)
    assert results.get("recall", 60, "lstm-chrono-closed", 0)["solved"]
    assert results.get("recall", 60, "rnn", 0)["scores"][-1] < 0.3
    table = capsys.readouterr().out
    assert "LSTM" in table and "plain RNN" in table
    monkeypatch.setattr(memory, "run", None)  # nothing is left to run
    memory.main(arguments)
    assert capsys.readouterr().out == table
    with pytest.raises(SystemExit, match="choose another --results"):
        memory.main([*arguments, "--steps", "200"])
    path.write_text("{}")
    with pytest.raises(SystemExit, match="not results of this example"):
        memory.main(arguments)


def test_memory_continues_after_an_interruption(tmp_path, monkeypatch, capsys):
    memory, path = load("memory"), tmp_path / "memory.json"
    curve = {"distances": [0, 60], "gradient before": [1.0, 0.1], "gradient after": [1.0, 0.5]}
    result = {"solved": True, "steps": 50, "seconds": 1.0, "scores": [1.0], **curve}
    answers = [lambda: result, lambda: (_ for _ in ()).throw(KeyboardInterrupt)]
    monkeypatch.setattr(memory, "run", lambda *arguments: answers.pop(0)())
    arguments = [*MEMORY, "--results", str(path)]
    memory.main(arguments)
    assert "continues from" in capsys.readouterr().err
    assert list(json.loads(path.read_text())["runs"]) == ["recall/60/rnn/0"]
    answers[:] = [lambda: result]
    assert len(memory.main(arguments).runs) == 2
    pytest.importorskip("matplotlib")
    memory.main([*arguments, "--plot", str(tmp_path / "memory.png")])
    assert (tmp_path / "memory.png").stat().st_size > 10_000


def test_memory_skips_longer_spans_if_no_seed_solved_a_shorter_one(tmp_path, monkeypatch, capsys):
    memory, tried = load("memory"), []
    curve = {"distances": [0, 60], "gradient before": [1.0, 0.1], "gradient after": [1.0, 0.5]}

    def run(task, model, span, seed, steps, show):
        tried.append((span, model, seed))
        solved = model is memory.MODELS["lstm-chrono-closed"] or (span, seed) == (60, 1)
        return {"solved": solved, "steps": 50, "seconds": 1.0, "scores": [1.0], **curve}

    monkeypatch.setattr(memory, "run", run)
    arguments = [
        "--tasks",
        "recall",
        "--models",
        "rnn",
        "lstm-chrono-closed",
        "--seeds",
        "2",
        "--spans",
        "60",
        "120",
        "240",
    ]
    memory.main([*arguments, "--results", str(tmp_path / "memory.json")])
    plain = memory.MODELS["rnn"]
    assert [key[0] for key in tried if key[1] is plain] == [60, 60, 120, 120]  # one seed had solved 60, none 120
    assert len(tried) == 4 + 6
    memory.main([*arguments, "--results", str(tmp_path / "memory.json"), "--every-span"])
    assert [key[0] for key in tried[10:]] == [240, 240]


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (["--spans", "1"], "spans of at least 2"),
        (["--seeds", "0"], "at least one seed"),
        (["--tasks", "chess"], "invalid choice"),
        (["--plot", "nowhere/memory.png"], "no such folder"),
    ),
    ids=str,
)
def test_memory_refuses_wrong_arguments(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        load("memory").main(arguments)
    assert message in capsys.readouterr().err


def test_the_tasks_of_memory_have_the_right_targets():
    memory, rng = load("memory"), np.random.default_rng(0)
    x, target = memory.adding(20, 50, rng)
    assert (x[:10, :, 1].sum(axis=0) == 1).all() and (x[10:, :, 1].sum(axis=0) == 1).all()
    assert np.allclose((x[..., 0] * x[..., 1]).sum(axis=0), target[:, 0])
    x, target = memory.copying(20, 50, rng)
    letters = x.argmax(axis=-1)
    assert np.array_equal(target[-memory.COPIED :], letters[: memory.COPIED])
    assert (target[: -memory.COPIED] == memory.IGNORE_INDEX).all()
    assert (letters[memory.COPIED : -memory.COPIED] == memory.LETTERS).all() and len(x) == 20 + 2 * memory.COPIED
    x, target = memory.recall(20, 50, rng)
    letters = x.argmax(axis=-1)
    assert np.array_equal(letters[0], target) and len(x) == 21
    assert (letters[1:] >= memory.LETTERS).all()


@pytest.mark.parametrize("orthogonal", (False, True))
def test_an_lstm_with_constant_gates_is_a_tanh_rnn(orthogonal):
    """Results and all gradients equal those of torch.nn.RNN."""
    torch = pytest.importorskip("torch")
    layer = load("memory").tanh_rnn(3, 5, orthogonal=orthogonal, dtype="float64", seed=0)
    x, (h0, c0) = random_case(layer, 7, 4)
    candidate = slice(10, 15)
    twin = torch.nn.RNN(3, 5, dtype=torch.float64)
    twin.load_state_dict({name: torch.tensor(array[candidate]) for name, array in layer.parameters.items()})
    inputs = [torch.tensor(array, requires_grad=True) for array in (x, h0)]
    expected, _ = twin(*inputs)
    y, _, tape = layer.forward(x, (h0, c0))
    assert np.abs(y - expected.detach().numpy()).max() < 1e-14
    dy = np.random.default_rng(1).standard_normal(y.shape)
    expected.backward(torch.tensor(dy))
    got = layer.backward(tape, dy)
    for array, tensor in zip((got.x, got.state[0]), inputs, strict=True):
        assert np.abs(array - tensor.grad.numpy()).max() < 1e-13
    for name, parameter in twin.named_parameters():
        assert np.abs(got.parameters[name][candidate] - parameter.grad.numpy()).max() < 1e-13, name
    if orthogonal:
        U = layer.parameters["weight_hh_l0"][candidate]
        assert np.abs(U @ U.T - np.eye(5)).max() < 1e-14


def test_the_gradients_of_the_tanh_rnn():
    layer = load("memory").tanh_rnn(2, 3, dtype="float64", seed=0)
    x, (h0, c0) = random_case(layer, 5, 4)
    y, _, tape = layer.forward(x, (h0, c0))
    dy = np.random.default_rng(1).standard_normal(y.shape)
    got = every_gradient(layer.backward(tape, dy))
    parameters = layer.state_dict()

    def loss():
        layer.load_state_dict(parameters)
        return (layer(x, (h0, c0))[0] * dy).sum()

    for name, array in {"x": x, "h0": h0, "c0": c0, **parameters}.items():
        assert_close(got[name], finite_difference(loss, array), name)


def test_training_does_not_change_constant_gates():
    memory = load("memory")
    model = memory.build(memory.TASKS["adding"], memory.MODELS["rnn"], 10, 0)
    before, optimizer = model.parameters, Adam(model, lr=0.1)
    for seed in range(5):
        x, target = memory.adding(10, 8, np.random.default_rng(seed))
        prediction, _, tape = model.forward(x)
        optimizer.step(model.backward(tape, mse(prediction, target)[1]))
    H = memory.RECIPE["hidden"]
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        old, new = before[f"0.{name}"], model.parameters[f"0.{name}"]
        for gate, constant in ((0, True), (1, True), (2, False), (3, True)):
            rows = slice(gate * H, (gate + 1) * H)
            assert np.array_equal(old[rows], new[rows]) == constant, (name, gate)


def test_the_gradient_by_distance():
    """The shares equal those of the reference, run backward over only the last steps."""
    memory, span = load("memory"), 12
    lstm, linear = LSTM(2, 4, dtype="float64", seed=0), Linear(4, 1, dtype="float64", seed=1)
    x, target = memory.adding(span, 6, np.random.default_rng(2))
    distances, shares = memory.gradient_by_distance(Sequential(lstm, Readout(), linear), x, target, mse)
    assert distances == list(range(span + 1))
    weights = [lstm.parameters[f"weight_{part}_l0"] for part in ("ih", "hh")]
    bias = lstm.parameters["bias_ih_l0"] + lstm.parameters["bias_hh_l0"]
    zeros = np.zeros((6, 4))
    y, *_, (_, _, _, _, cells) = reference.forward_with_tape(x.astype(float), zeros, zeros, *weights, bias)
    hidden = np.concatenate([zeros[np.newaxis], y])
    dh = mse(linear(y[-1]), target)[1] @ linear.parameters["weight"]
    assert shares[0] == 1
    for distance, share in list(zip(distances, shares, strict=True))[1:]:
        state = hidden[span - distance], cells[span - distance]
        *_, tape = reference.forward_with_tape(x[span - distance :].astype(float), *state, *weights, bias)
        _, dh0, dc0, *_ = reference.backward(tape, np.zeros((distance, 6, 4)), dh, zeros, *weights)
        assert share == pytest.approx(np.sqrt((dh0**2).sum() + (dc0**2).sum()) / np.linalg.norm(dh), rel=1e-3)


def test_closed_lowers_the_bias_of_the_input_gates():
    memory = load("memory")
    open_ = LSTM(2, 8, forget_bias=("chrono", 100), seed=0)
    parameters = memory.closed(LSTM(2, 8, forget_bias=("chrono", 100), seed=0)).parameters
    for name, array in open_.parameters.items():
        expected = array.copy()
        if name == "bias_ih_l0":
            expected[:8] -= array[8:16]
        assert np.array_equal(parameters[name], expected), name
