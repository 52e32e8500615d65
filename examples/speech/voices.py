"""Sentences, voices, and espeak-ng, which synthesises them as WAV files."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.io import wavfile

from .audio import RATE, read_wav

WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("yes", "no", "start", "stop", "go", "back", "next", "open", "close", "call"),
    *("turn", "on", "off", "up", "down", "left", "right", "light", "door", "music"),
)

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029", "en-us-nyc")
# espeak-ng's speakers, in alphabetical order; the first of each six is used in the test only.
SPEAKERS = (
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky"),
    *("Lee", "Marco", "Mario", "Michael", "Mike", "Nguyen", "Storm", "adam", "anika", "antonio", "aunty", "belinda"),
    *("benjamin", "boris", "caleb", "croak", "david", "ed", "edward", "edward2", "f1", "f2", "f3", "f4", "f5"),
    *("grandma", "grandpa", "gustave", "iven", "iven2", "iven3", "iven4", "john", "kaukovalta", "klatt", "klatt2"),
    *("klatt3", "klatt4", "linda", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "marcelo", "max", "michel"),
    *("miguel", "norbert", "pablo", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph2"),
    *("steph3", "travis", "victor", "zac"),
)
HELD_OUT = SPEAKERS[::6]

INSTALL = "espeak-ng, which synthesises the sentences, is missing: apt-get install espeak-ng (dnf, brew: espeak-ng)"


@dataclass(frozen=True)
class Utterance:
    """A sentence with its voice, its speed in words per minute, and its pitch from 0 to 99."""

    words: tuple[str, ...]
    voice: str
    speed: int
    pitch: int

    @property
    def file(self):
        key = f"{self.voice} {self.speed} {self.pitch} {' '.join(self.words)}"
        return hashlib.sha256(key.encode()).hexdigest()[:16] + ".wav"


def utterances(count, split, words, longest):
    """Return `count` utterances of up to `longest` of these words, always the same.

    The splits "train" and "test" share neither voices nor sentences.
    """
    if len(words) ** longest < 100:
        raise ValueError(f"{len(words)} words, at most {longest} in a sentence: too few sentences to hold some out")
    rng = np.random.default_rng([len(words), longest, split == "test"])
    speakers = [name for name in SPEAKERS if (name in HELD_OUT) == (split == "test")]
    found = []
    while len(found) < count:
        sentence = tuple(str(word) for word in rng.choice(words, rng.integers(1, longest + 1)))
        voice = f"{rng.choice(ACCENTS)}+{rng.choice(speakers)}"
        utterance = Utterance(sentence, voice, int(rng.integers(120, 221)), int(rng.integers(15, 86)))
        if held_out(sentence) == (split == "test"):
            found.append(utterance)
    return found


def held_out(sentence):
    """Return whether a sentence belongs to the test: about one in ten, for all voices."""
    return zlib.crc32(" ".join(sentence).encode()) % 10 == 0


def check_speakers(spoken):
    """Raise unless espeak-ng is installed and has every voice: it would silently use another one."""
    if not shutil.which("espeak-ng"):
        raise SystemExit(INSTALL)
    accents = {line.split()[1] for line in _listed("en")}
    speakers = {line.rsplit("!v/", 1)[1].split()[0] for line in _listed("variant") if "!v/" in line}
    known = {f"{accent}+{speaker}" for accent in accents for speaker in speakers}
    missing = {utterance.voice for utterance in spoken} - known
    if missing:
        raise SystemExit(f"this espeak-ng lacks the voices {', '.join(sorted(missing))}; version 1.51 has them")


def _listed(kind):
    answer = subprocess.run(["espeak-ng", f"--voices={kind}"], capture_output=True, text=True)
    return answer.stdout.splitlines()[1:]


def speak(utterance, path):
    """Synthesise an utterance with espeak-ng as a WAV file."""
    voice = ["-v", utterance.voice, "-s", str(utterance.speed), "-p", str(utterance.pitch)]
    command = ["espeak-ng", *voice, "-w", str(path), " ".join(utterance.words)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(INSTALL) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"espeak-ng cannot speak with the voice {utterance.voice}: {error.stderr.strip()}") from None


def synthesise(spoken, folder):
    """Make the WAV files of utterances, at `RATE`, in `folder`; keep existing ones; return the paths.

    It can be interrupted at any time: a file is either complete or does not exist.
    """
    check_speakers(spoken)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / utterance.file for utterance in spoken]
    missing = [(utterance, path) for utterance, path in zip(spoken, paths, strict=True) if not path.exists()]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(_record, utterance, path) for utterance, path in missing]
        try:
            for job in progress(as_completed(jobs), len(jobs), f"speaking into {folder}"):
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
    return paths


def _record(utterance, path):
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "spoken.wav"
        speak(utterance, spoken)
        samples = read_wav(spoken)
    temporary = path.with_suffix(f".{threading.get_ident()}")
    wavfile.write(temporary, RATE, np.rint(32767 * np.clip(samples, -1, 1)).astype(np.int16))
    temporary.replace(path)


def progress(steps, total, label):
    """Yield `steps` with a progress bar of tqdm if it is installed, else print a line at the end."""
    if total == 0:
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield from steps
        print(f"{label}: {total}", file=sys.stderr)
        return
    yield from tqdm(steps, label, total, file=sys.stderr)
