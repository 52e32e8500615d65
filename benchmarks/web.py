"""Networks in WebAssembly, in Node: exported models and onnxruntime-web on one thread, with the same weights.

    npm install --prefix FOLDER onnxruntime-web
    python benchmarks/web.py FOLDER

Both take turns in one process, after their results and the library's have been compared; ratios are medians of pairs. A
compiler for WebAssembly is needed, and onnx. `--relaxed` measures the build with relaxed SIMD.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from lstm_cy import LSTM
from lstm_cy.export import wasm
from lstm_cy.weights.onnx import to_onnx

SIZES = (32, 64, 128, 256)
STEPS = 100
SCRIPT = """
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const { folder, modules, sizes, steps, seconds, relaxed } = JSON.parse(readFileSync(0, "utf8"));
const ort = await import(pathToFileURL(`${modules}/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs`));
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
const largest = (a, b) => a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0);

/** Return [microseconds of a call of ours, ratio of theirs to ours], medians of pairs. */
async function compared(ours, theirs, calls) {
  const times = [];
  const ratios = [];
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end || ratios.length < 11) {
    const start = performance.now();
    for (let n = 0; n < calls; n++) ours();
    const middle = performance.now();
    for (let n = 0; n < calls; n++) await theirs();
    const stop = performance.now();
    times.push(((middle - start) * 1000) / calls);
    ratios.push((stop - middle) / (middle - start));
  }
  return { us: median(times), ratio: median(ratios), pairs: ratios.length };
}

const provider = { executionProviders: ["wasm"] };
const result = {};
for (const size of sizes) {
  const { load } = await import(pathToFileURL(`${folder}/m${size}.js`));
  const model = await load(readFileSync(`${folder}/m${size}${relaxed ? ".relaxed" : ""}.wasm`));
  const floats = (name) => new Float32Array(new Uint8Array(readFileSync(`${folder}/${name}${size}.bin`)).buffer);
  const [x, y] = ["x", "y"].map(floats);
  const stream = model.stream();
  const whole = await ort.InferenceSession.create(readFileSync(`${folder}/m${size}.onnx`), provider);
  const input = { x: new ort.Tensor("float32", x, [1, steps, size]) };
  const found = (await whole.run(input)).y.data;
  const ours = () => {
    stream.reset();
    return stream.run(x);
  };
  result[size] = {
    difference: largest(stream.run(x), y),
    peers: largest(found, y),
    run: await compared(ours, () => whole.run(input), Math.ceil(2000 / size)),
  };
  const one = await ort.InferenceSession.create(readFileSync(`${folder}/s${size}.onnx`), provider);
  const zeros = () => new ort.Tensor("float32", new Float32Array(size), [1, 1, size]);
  const step = x.slice(0, size);
  const feeds = { x: new ort.Tensor("float32", step, [1, 1, size]), h0: zeros(), c0: zeros() };
  const theirs = async () => {
    const made = await one.run(feeds);
    feeds.h0 = made.h_n;
    feeds.c0 = made.c_n;
  };
  result[size].step = await compared(() => stream.step(step), theirs, 100);
}
process.stdout.write(JSON.stringify(result));
"""


def write_models(folder):
    """Write for each size the module, two ONNX graphs, an input and the library's output."""
    for size in SIZES:
        lstm = LSTM(size, size, batch_first=True, seed=0)
        x = np.random.default_rng(size).standard_normal((1, STEPS, size), dtype=np.float32)
        wasm(lstm, folder, name=f"m{size}")
        for letter, states in ("m", False), ("s", True):
            graph = to_onnx(lstm, states=states)
            (folder / f"{letter}{size}.onnx").write_bytes(graph.SerializeToString())
        x.tofile(folder / f"x{size}.bin")
        lstm(x)[0].tofile(folder / f"y{size}.bin")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", help="the folder in which onnxruntime-web is installed")
    parser.add_argument("--seconds", type=float, default=4, help="approximate time for each figure")
    parser.add_argument("--relaxed", action="store_true", help="measure the build with relaxed SIMD")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write_models(folder)
        (folder / "compare.mjs").write_text(SCRIPT)
        given = {"folder": path, "sizes": SIZES, "steps": STEPS} | vars(options)
        given["modules"] = str(Path(options.modules).resolve())
        flags = ["--experimental-wasm-relaxed-simd"] if options.relaxed else []
        command = ["node", *flags, str(folder / "compare.mjs")]
        done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
    print("| I, H | 100 steps, us | onnxruntime-web | one step, us | onnxruntime-web | largest difference, theirs |")
    print("|---|--:|--:|--:|--:|---|")
    for size, found in json.loads(done.stdout).items():
        run, step = found["run"], found["step"]
        times = f"{run['us']:.1f} | {run['ratio']:.2f} | {step['us']:.2f} | {step['ratio']:.1f}"
        print(f"| {size} | {times} | {found['difference']:.1e}, {found['peers']:.1e} |")


if __name__ == "__main__":
    main()
