"""Models as WebAssembly, in Node and in Chromium, compared with the library."""

import base64
import json
import shutil
import subprocess

import numpy as np
import pytest
from browser import opened
from exported import inputs, models

from lstm_cy import LSTM, Linear, Sequential, save
from lstm_cy.cli import main
from lstm_cy.export import wasm, webassembly

STEPS = 100
NODE = """
import { readFileSync } from "node:fs";
const given = JSON.parse(readFileSync(0, "utf8"));
const packed = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const result = {};
"""


@pytest.fixture(scope="module", autouse=True)
def compiler():
    if shutil.which("node") is None or webassembly.find_compiler() is None:
        pytest.skip("needs Node and a compiler for WebAssembly")


def in_node(folder, script, *flags, **given):
    """Run a script in a folder with modules; return its result."""
    path = folder / "script.mjs"
    path.write_text(NODE + script + "process.stdout.write(JSON.stringify(result));")
    done = subprocess.run(["node", *flags, path], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


RUN = """
for (const [name, xs] of Object.entries(given.xs)) {
  const { load } = await import(`./${name}.js`);
  const model = await load();
  const [first, second] = [model.stream(), model.stream()];
  const size = model.inputs || 1;
  const start = first.run(xs.slice(0, 37 * size));
  second.run(xs);
  const steps = [];
  for (let t = 37; t < 100; t++) {
    const x = model.tokens ? xs[t] : xs.slice(t * size, (t + 1) * size);
    steps.push(...first.step(x));
    second.step(x);
  }
  second.reset();
  result[name] = [Float32Array.from([...start, ...steps]), second.run(xs)].map(packed);
}
"""


@pytest.mark.parametrize("relaxed", [False, True])
def test_models_give_the_librarys_numbers(tmp_path, relaxed):
    names = ("words", "skip") if relaxed else ("variant", "narrow", "words")
    chosen = {name: model for name, model in models().items() if name in names}
    xs, expected = {}, {}
    for name, model in chosen.items():
        wasm(model, tmp_path, name=name)
        x, batch = inputs(model, STEPS)
        xs[name] = x.ravel().tolist()
        expected[name] = model(batch)[0].reshape(STEPS, -1)
    if relaxed:
        for name in names:
            (tmp_path / f"{name}.wasm").unlink()  # so that load() must take the other one
    flags = ["--experimental-wasm-relaxed-simd"] if relaxed else []
    found = in_node(tmp_path, RUN, *flags, xs=xs)
    for name, y in expected.items():
        for packed in found[name]:
            result = np.frombuffer(base64.b64decode(packed), "<f4").reshape(y.shape)
            assert np.allclose(result, y, rtol=2e-6, atol=2e-6, equal_nan=True), name


def test_it_is_small_and_its_errors_name_the_argument(tmp_path):
    model = Sequential(LSTM(2, 9, seed=0), Linear(9, 3, seed=0))
    wasm(model, tmp_path / "a" / "b", name="amp")
    folder = tmp_path / "a" / "b"
    assert sorted(path.name for path in folder.iterdir()) == ["amp.js", "amp.relaxed.wasm", "amp.wasm"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000
    script = """
    const stream = (await (await import("./amp.js")).load()).stream();
    const calls = [() => stream.step([1]), () => stream.step(5), () => stream.run([1, 2, 3])];
    const message = (call) => { try { call(); } catch (error) { return `${error.name}: ${error.message}`; } };
    result.messages = calls.map(message);
    result.empty = stream.run([]).length;
    """
    found = in_node(folder, script)
    assert found == {
        "messages": [
            "RangeError: x: expected 2 numbers, got 1",
            "RangeError: x: expected 2 numbers, got undefined",
            "RangeError: x: expected a multiple of 2 numbers, got 3",
        ],
        "empty": 0,
    }


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(LSTM(2, 9, seed=0), "amp.npz")
    assert main(["export", "amp.npz", "--wasm", "out", "--name", "amp"]) == 0
    written = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert written == ["out/amp.js", "out/amp.wasm", "out/amp.relaxed.wasm"]
    monkeypatch.setenv("LSTM_CY_WASM_CC", "false")
    assert main(["export", "amp.npz", "--wasm", "none"]) == 1
    assert (
        "install clang and lld (Debian: apt-get install clang lld), or `pip install ziglang`" in capsys.readouterr().err
    )
    assert not (tmp_path / "none").exists()
    for arguments, message in (
        ([], "expected --c FILE or --wasm DIR"),
        (["--wasm", "a", "--self-test"], "belong to --c"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["export", "amp.npz", *arguments])
        assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_in_chromium(tmp_path):
    model = Sequential(LSTM(2, 33, seed=0), Linear(33, 3, seed=0))
    wasm(model, tmp_path, name="amp")
    x, batch = inputs(model, STEPS)
    expected = model(batch)[0].ravel()
    builds = [base64.b64encode((tmp_path / f"amp{kind}.wasm").read_bytes()).decode() for kind in ("", ".relaxed")]
    script = (
        (tmp_path / "amp.js").read_text()
        + f"""
    const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const run = async (text) => Array.from((await load(bytes(text))).stream().run({x.ravel().tolist()}));
    document.title = JSON.stringify([await run("{builds[0]}"), await run("{builds[1]}")]);
    """
    )
    (tmp_path / "page.html").write_text(f'<!doctype html><title></title><script type="module">{script}</script>')
    browser = opened(tmp_path / "chromium")
    try:
        title = browser.open(
            (tmp_path / "page.html").as_uri(), "return document.title.startsWith('[[') && document.title"
        )
    finally:
        browser.driver.quit()
    results = json.loads(title)
    for result in results:
        assert np.abs(np.float32(result) - expected).max() <= 2e-6
