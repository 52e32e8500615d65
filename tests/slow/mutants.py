"""Plant small faults, one at a time, in a copy of the sources, and check whether the tests find each. By hand:

    python tests/slow/mutants.py build/mutants --count 200 --seed 1

Run it in the environment of the tests. Each mutant changes one comparison, sign, bound or constant, or drops one
statement; the tests named in TARGETS run until one fails. A crash counts as found, and so does a run that takes four
times as long as without a mutant. Mutants that do not compile are replaced by others. Results are appended to
FOLDER/results.jsonl, from which a stopped run continues; a summary with all survivors is printed at the end.
"""

import argparse
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tokenize
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
KERNELS = ("engines", "lstm", "stepper", "variants", "gradients", "quantize", "threads")
WEIGHTS = ("weights", "zip", "npz", "hostile", "round_trips", "pytorch")
#: {files: (share of the mutants, the tests that must find them, most likely first)}
TARGETS = {
    "lstm_cy/_kernels/isa/cell.pxi": (3, KERNELS),
    "lstm_cy/_kernels/isa/tiles.pxi": (3, KERNELS),
    "lstm_cy/_kernels/isa/step.pxi": (2, ("stepper", *KERNELS)),
    "lstm_cy/_kernels/isa/variants.pxi": (3, ("variants", *KERNELS)),
    "lstm_cy/_kernels/isa/narrow.pxi": (3, ("quantize", *KERNELS)),
    "lstm_cy/_kernels/forward.pyx": (4, ("lstm", "threads", *KERNELS)),
    "lstm_cy/_kernels/backward.pyx": (3, ("gradients", "threads", *KERNELS)),
    "lstm_cy/_kernels/ctc.pyx": (3, ("ctc",)),
    "lstm_cy/_kernels/isa/elements.pxi": (2, ("elements", "layers", "losses")),
    "lstm_cy/_kernels/elements.pyx": (2, ("elements", "losses", "layers")),
    "lstm_cy/_kernels/updates.pyx": (2, ("optimizers",)),
    "lstm_cy/layers/direct.pyx": (1, ("direct", "lstm")),
    "lstm_cy/_kernels/affine.pyx": (2, ("layers", "streams", "threads")),
    "lstm_cy/_kernels/network.pyx": (2, KERNELS),
    "lstm_cy/_kernels/stages.pyx": (2, ("stepper", "streams", "embed")),
    "lstm_cy/_kernels/runtime/memory.pyx": (1, ("memory", *KERNELS)),
    "lstm_cy/_kernels/pipeline.pxi": (2, ("threads",)),
    "lstm_cy/_kernels/team.pxi": (1, ("threads", "streams")),
    "lstm_cy/weights/native.py": (3, WEIGHTS),
    "lstm_cy/weights/containers/zip.py": (3, ("zip", "npz", *WEIGHTS)),
    "lstm_cy/weights/containers/npz.py": (1, ("npz", *WEIGHTS)),
    "lstm_cy/weights/containers/safetensors.py": (1, WEIGHTS),
    "lstm_cy/weights/files.py": (2, ("files", "npz", "weights")),
    "lstm_cy/weights/faults.py": (1, ("faults", *WEIGHTS)),
    "lstm_cy/weights/budget.py": (2, ("budget", "hostile", *WEIGHTS, "hdf5", "onnx_files")),
    "lstm_cy/weights/containers/hdf5.py": (4, ("hdf5", "keras")),
    "lstm_cy/weights/keras/*.py": (5, ("keras",)),
    "lstm_cy/weights/pytorch/*.py": (4, ("pytorch",)),
    "lstm_cy/weights/containers/torch_pickle.py": (4, ("torch_pickle", "pytorch")),
    "lstm_cy/weights/containers/pickles.py": (4, ("torch_pickle", "pytorch")),
    "lstm_cy/weights/audio/*.py": (2, ("audio",)),
    "lstm_cy/weights/descriptions.py": (1, ("cli_files", "onnx_files", "hostile", "keras", "pytorch")),
    "lstm_cy/weights/containers/protobuf.py": (1, ("onnx_files",)),
    "lstm_cy/weights/onnx/*.py": (5, ("onnx_lstm_nodes", "onnx_graphs", "onnx_files", "onnx_export", "onnx_operators")),
    "lstm_cy/weights/onnx/operators/*.py": (2, ("onnx_operators", "onnx_graphs")),
    "lstm_cy/decoding/sampling.py": (2, ("sampling", "language_model")),
    "lstm_cy/decoding/language_model.py": (1, ("language_model",)),
    "lstm_cy/decoding/beam.py": (3, ("beam", "ctc_decoding", "seq2seq")),
    "lstm_cy/decoding/ctc.py": (4, ("ctc_decoding", "ctc")),
    "lstm_cy/training/batches.py": (2, ("batches", "criterion", "fitting")),
    "lstm_cy/training/checkpoint.py": (3, ("checkpoint", "fitting")),
    "lstm_cy/training/criterion.py": (2, ("criterion", "fitting", "distributed")),
    "lstm_cy/training/fitting.py": (2, ("fitting", "checkpoint", "distributed", "cli_train")),
    "lstm_cy/training/history.py": (1, ("history", "fitting", "cli_train")),
    "lstm_cy/training/loop.py": (2, ("fitting", "criterion", "distributed")),
    "lstm_cy/training/optimizers.py": (3, ("optimizers", "fitting")),
}
#: mutants of every run: the file, the old text, the new text, and the only tests that run
NAMED = (
    ("lstm_cy/decoding/sampling.py", ">= top_p * cumulative", "> top_p * cumulative", ("sampling",)),
    ("lstm_cy/weights/containers/zip.py", "member.start < free", "member.start < 0", ("zip",)),
)
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
SIGNS = {"+": "-", "-": "+", "+=": "-=", "-=": "+="}
BOUNDS = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
#: a statement that begins with one of these is never dropped: the loss has no effect, or it is part of another one
KEPT = {
    "async",
    "assert",
    "break",
    "case",
    "cdef",
    "class",
    "continue",
    "cpdef",
    "ctypedef",
    "def",
    "del",
    "elif",
    "else",
}
KEPT |= {"except", "finally", "for", "from", "global", "if", "import", "include", "match", "nonlocal", "pass", "return"}
KEPT |= {"try", "while", "with", "yield"}
#: time limit for the tests of a mutant, as a multiple of their time without one
PATIENCE = 4


class Mutant(NamedTuple):
    path: str
    line: int
    column: int
    old: str
    new: str
    kind: str

    def __str__(self):
        return f"{self.path}:{self.line}:{self.column} {self.kind}: {self.old.strip()} -> {self.new.strip()}"


def mutants(path):
    """Yield every mutant of a file."""
    text = (ROOT / path).read_text()
    lines = text.splitlines(keepends=True)
    logical = []  # the tokens of a statement
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            continue
        if token.type != tokenize.NEWLINE:
            logical.append(token)
            continue
        yield from of_statement(path, logical, lines)
        logical = []


def of_statement(path, tokens, lines):
    first = tokens[0]
    if first.string in ("import", "from", "cimport", "include", "@") or first.type == tokenize.STRING:
        return
    signature = first.string in ("def", "class") or (first.string in ("cdef", "cpdef") and tokens[-1].string == ":")
    if first.string != "raise" and not signature:
        yield from of_tokens(path, tokens)
    single = first.start[0] == tokens[-1].end[0] and tokens[-1].string != ":"
    if single and first.string not in KEPT and first.type == tokenize.NAME and len(tokens) > 1:
        row, column = first.start
        statement = lines[row - 1][column : tokens[-1].end[1]]
        if not re.fullmatch(r"[\w.]+: [\w.\[\], |]+", statement):  # a declaration
            yield Mutant(path, row, column, statement, "pass", "dropped statement")


def of_tokens(path, tokens):
    annotated = any(token.string == ":" for token in tokens[1:2])  # name: type = value
    for before, token in zip([None, *tokens], tokens, strict=False):
        if annotated and token.string != "=":
            continue
        annotated = False
        row, column = token.start
        for kind, table in (("comparison", COMPARISONS), ("sign", SIGNS), ("bound", BOUNDS)):
            if token.string in table and not (kind == "sign" and unary_or_star(before)):
                yield Mutant(path, row, column, token.string, table[token.string], kind)
        if token.type == tokenize.NUMBER and token.string.isdecimal():
            yield Mutant(path, row, column, token.string, str(int(token.string) + 1), "constant")


def unary_or_star(before):
    return before is None or before.string in ("(", "[", ",", "=", "return", "*", ":")


def named_mutant(path, old, new):
    """Return the mutant that changes the only occurrence of a text in a file."""
    (place,) = [
        (row, line.index(old)) for row, line in enumerate((ROOT / path).read_text().splitlines(), 1) if old in line
    ]
    return Mutant(path, *place, old, new, "named")


def planted(folder, mutant):
    path = folder / mutant.path
    lines = (ROOT / mutant.path).read_text().splitlines(keepends=True)
    line = lines[mutant.line - 1]
    end = mutant.column + len(mutant.old)
    assert line[mutant.column : end] == mutant.old, mutant
    lines[mutant.line - 1] = line[: mutant.column] + mutant.new + line[end:]
    path.write_text("".join(lines))


def chosen(count, seed, files):
    """Yield (tests, number of mutants, candidates) of the targets whose names begin with one of `files`.

    Spare candidates replace those that do not compile.
    """
    rng = random.Random(seed)
    shares = sum(share for share, _ in TARGETS.values())
    for pattern, (share, tests) in TARGETS.items():
        paths = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))
        found = [mutant for path in paths for mutant in mutants(path)]
        number = -(-count * share // shares)
        drawn = rng.sample(found, min(len(found), 3 * number))
        if pattern.startswith(tuple(files)):
            yield tests, number, drawn


def copied(folder):
    """Copy the sources and compile them, with only the instruction set that this machine chooses."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    command = [sys.executable, "-P", "-c", "import lstm_cy.config as c; print(c.instruction_set())"]
    used = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    for name in ("base", "avx2", "avx512", "avx512vnni", "avx512bf16", "neondotprod"):
        if name != used:
            (folder / "lstm_cy" / "_kernels" / "isa" / f"{name}.pyx").unlink()
    if not compiles(folder):
        raise SystemExit("the sources do not compile")


def repaired(folder):
    """Restore a file in which a killed run has left a mutant."""
    for path in chain.from_iterable(ROOT.glob(pattern) for pattern in TARGETS):
        copy = folder / path.relative_to(ROOT)
        if copy.read_bytes() != path.read_bytes():
            shutil.copy(path, copy)


def compiles(folder):
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True).returncode == 0


def environment(folder):
    return os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def outcome(folder, tests, patience):
    """Run the tests; return "survived" or the test or event that found the mutant, and the seconds."""
    files = [path for name in dict.fromkeys(tests) for path in (folder / "tests").rglob(f"test_{name}.py")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    begin = time.monotonic()
    try:
        ended = subprocess.run(
            command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=patience
        )
    except subprocess.TimeoutExpired:
        return "a hang", time.monotonic() - begin
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", ended.stdout, re.MULTILINE)
    found = failed[1] if failed else f"status {ended.returncode}"
    return ("survived" if ended.returncode == 0 else found), time.monotonic() - begin


def tried(folder, mutant, tests, patience):
    """Return the result of one mutant, or None if it does not compile; the sources are restored."""
    compiled = not mutant.path.endswith(".py")
    planted(folder, mutant)
    try:
        if compiled and not compiles(folder):
            return None
        found, seconds = outcome(folder, tests, patience)
    finally:
        shutil.copy(ROOT / mutant.path, folder / mutant.path)
        if compiled:
            (folder / mutant.path).touch()
    return {"mutant": str(mutant), "found by": found, "seconds": round(seconds, 1)}


def run(folder, count, seed, files):
    results = folder / "results.jsonl"
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    known = {result["mutant"]: result for result in done}
    copy = folder / "source"
    if copy.exists():
        repaired(copy)
    else:
        copy.mkdir(parents=True)
        copied(copy)
    named = [(tests, 1, [named_mutant(path, old, new)]) for path, old, new, tests in NAMED]
    for tests, number, drawn in chain(named, chosen(count - len(named), seed, files)):
        patience, made = None, 0
        for mutant in drawn:
            if made == number:
                break
            if str(mutant) not in known:
                if patience is None:
                    compiles(copy)
                    found, seconds = outcome(copy, tests, None)
                    if found != "survived":
                        raise SystemExit(f"without a mutant the tests fail: {found}")
                    patience = PATIENCE * seconds
                result = tried(copy, mutant, tests, patience) or {"mutant": str(mutant), "found by": None}
                known[str(mutant)] = result
                with results.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(result["mutant"], "|", result["found by"], flush=True)
            made += known[str(mutant)]["found by"] is not None
    return [result for result in known.values() if result["found by"] is not None]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", nargs="+", default=[""], help="only targets whose names begin so")
    options = parser.parse_args()
    results = run(options.folder.resolve(), options.count, options.seed, options.files)
    survivors = [result["mutant"] for result in results if result["found by"] == "survived"]
    print(f"{len(results)} mutants, {len(results) - len(survivors)} found; survivors:", *survivors, sep="\n")


if __name__ == "__main__":
    main()
