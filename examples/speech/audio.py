"""Read WAV files, add noise, and compute log-mel energies."""

import struct
import warnings
from pathlib import Path

import numpy as np
from scipy import fft, signal, sparse
from scipy.io import wavfile

RATE = 16000  # samples a second
WINDOW, HOP = 400, 160  # 25 ms of sound in a frame, one every 10 ms
BANDS, STACK = 40, 3  # numbers in a frame, frames in a step of the model: one every 30 ms
STEP = STACK * HOP
INPUTS = BANDS * STACK
SHORTEST = STEP + WINDOW - HOP  # samples of the first step


def read_wav(path):
    """Read a WAV file of any rate, width and number of channels, as float32 in [-1, 1] at `RATE`."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # about chunks without sound
            rate, samples = wavfile.read(path)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (ValueError, EOFError, struct.error, IndexError, TypeError) as error:
        raise ValueError(
            f"{path} is not a WAV file, or not readable ({error}); try: ffmpeg -i FILE {path.stem}.wav"
        ) from None
    return resampled(mono(samples), rate, path)


def mono(samples):
    """Convert samples of any type, (n,) or (n, channels), to float32 (n,) in [-1, 1]."""
    if samples.dtype == np.uint8:
        samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    samples = samples.astype(np.float32, copy=False)
    return samples if samples.ndim == 1 else samples.mean(axis=1)


def resampled(samples, rate, name):
    if len(samples) == 0:
        raise ValueError(f"{name} is empty: it has no samples")
    if not np.isfinite(samples).all():
        raise ValueError(f"{name} has samples that are not finite")
    if rate != RATE:
        common = np.gcd(rate, RATE)
        samples = signal.resample_poly(samples, RATE // common, rate // common)
    if len(samples) < SHORTEST:
        raise ValueError(f"{name} is too short: expected at least {1000 * SHORTEST // RATE} ms of sound")
    return samples


def log_mel(samples):
    """Return (steps, INPUTS) float32: in each step `STACK` frames of the log energies in `BANDS` bands."""
    count = (len(samples) - WINDOW) // HOP + 1
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[: count * HOP : HOP]
    power = np.abs(fft.rfft(frames * _WINDOW, 512)) ** 2
    steps = count // STACK
    logarithms = np.log((_MEL @ power.T).T + 1e-4) / 2  # the floor is the noise of a quiet room
    return logarithms[: steps * STACK].reshape(steps, INPUTS).astype(np.float32)


def features(samples, streaming):
    """Return the model's input: `log_mel` minus its mean, so that loudness and microphone matter little."""
    steps = log_mel(samples)
    return RunningMean().subtract(steps) if streaming else steps - steps.mean(axis=0)


class RunningMean:
    """The mean of all steps so far, later of about the last 4 seconds, for streams whose whole mean is unknown."""

    def __init__(self):
        self.mean, self.count = np.float32(0), 0

    def subtract(self, steps):
        """Update the mean with each step; return the steps minus the mean at that step."""
        centred = np.empty_like(steps)
        for place, step in enumerate(steps):
            self.count = min(self.count + 1, 128)
            self.mean = self.mean + (step - self.mean) / np.float32(self.count)
            centred[place] = step - self.mean
        return centred


def _mel_filters():
    """Return a sparse (BANDS, 257): half-overlapping triangles, equally wide on the mel scale, 60 to 7600 Hz."""
    mel = np.linspace(*(2595 * np.log10(1 + np.array([60, 7600]) / 700)), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.linspace(0, RATE / 2, 257)[:, np.newaxis]
    rising, falling = (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
    return sparse.csr_array(np.maximum(np.minimum(rising, falling), 0).astype(np.float32).T)


_WINDOW = signal.get_window("hann", WINDOW).astype(np.float32)
_MEL = _mel_filters()


def varied(samples, rng):
    """Simulate another speaker and microphone: change the speed, and filter."""
    places = np.arange(0, len(samples) - 1, rng.uniform(0.85, 1.18))
    played = np.interp(places, np.arange(len(samples)), samples)
    return signal.lfilter([1, rng.uniform(-0.6, 0.6)], [1], played).astype(np.float32)


def disturbed(samples, rng, snr=(5, 35), gain=(-20, 0)):
    """Add silence around the sound and coloured noise `snr` dB below it, and change the level."""
    silence = rng.integers(RATE // 10, RATE // 2, 2)
    speech = np.concatenate([np.zeros(silence[0], np.float32), samples, np.zeros(silence[1], np.float32)])
    # Each sample of noise keeps a share of the last one: from white noise to low-frequency noise.
    noise = signal.lfilter([1], [1, -rng.uniform(0, 0.97)], rng.standard_normal(len(speech), dtype=np.float32))
    noise *= _rms(samples) / _rms(noise) * 10 ** (-rng.uniform(*snr) / 20)
    mixed = (speech + noise).astype(np.float32)
    return mixed * np.float32(10 ** (rng.uniform(*gain) / 20) / np.abs(mixed).max())


def _rms(samples):
    return np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
