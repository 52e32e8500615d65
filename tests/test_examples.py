"""Every example runs, in a small form, and does what it says."""

import importlib.util
import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import wavfile

from lstm_cy import ctc_greedy, save

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_forecast_beats_repeating_yesterday(capsys):
    error, yesterday = load("forecast").main(["--epochs", "12", "--rows", "96", "--hidden", "24"])
    assert error < 0.8 * yesterday
    assert "mean squared error" in capsys.readouterr().out


@pytest.fixture
def speech(monkeypatch):
    """The example's modules; without espeak-ng each word is two tones, the second a little higher."""
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


def test_speech_understands_voices_and_sentences_it_never_heard(speech, tmp_path, capsys):
    folder = ["--cache", str(tmp_path), "--model", str(tmp_path / "listen.npz")]
    size = ["--words", "4", "--longest", "4", "--sentences", "200", "--hidden", "32", "--batch-size", "8"]
    rates = speech.main(["train", *folder, *size, "--test-sentences", "30", "--epochs", "8", "--lr", "0.01"])
    assert rates["20 dB"] < 0.2  # with four words, guessing is wrong three times in four
    assert "word error rate, 20 dB" in capsys.readouterr().out

    spoken = speech.voices.utterances(30, "test", speech.voices.WORDS[:4], 4)
    heard = [speech.main(["listen", str(tmp_path / one.file), *folder[2:]]).split() for one in spoken]
    errors = sum(map(speech.recognizer.word_errors, [one.words for one in spoken], heard))
    assert errors < 0.2 * sum(len(one.words) for one in spoken)


def test_speech_streams_what_the_model_says_of_the_whole(speech, tmp_path, capsys, monkeypatch):
    words, path = list(speech.voices.WORDS[:5]), tmp_path / "stream.npz"
    model = speech.recognizer.build(5, 16, streaming=True)
    model.load_state_dict({name: 4 * array for name, array in model.parameters.items()})  # so that it talks a lot
    save(model, path, metadata={"words": words, "longest": 3, "streaming": True})
    told = []
    for sound in speech.voices.synthesise(speech.voices.utterances(4, "train", words, 3), tmp_path):
        whole = model(speech.audio.features(speech.audio.read_wav(sound), streaming=True))[0]
        expected = [words[label - 1] for label in ctc_greedy(whole)]
        assert speech.main(["stream", str(sound), "--model", str(path)]) == expected
        assert f"{len(whole)} steps of 30 ms took" in capsys.readouterr().out
        told += expected
    assert len(set(told)) > 1

    piped = SimpleNamespace(buffer=io.BytesIO(np.rint(32768 * speech.audio.read_wav(sound)).astype("<i2").tobytes()))
    monkeypatch.setattr(sys, "stdin", piped)
    assert speech.main(["stream", "-", "--model", str(path)]) == expected
    save(model, path, metadata={"words": words, "longest": 3, "streaming": False})
    with pytest.raises(SystemExit, match="reads both ways"):
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


def test_speech_reads_sound_of_any_kind(speech, tmp_path):
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


def test_speech_says_what_is_wrong(speech, tmp_path, monkeypatch):
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
