"""An exported network as a WebAssembly module: the functions behind the C file, and the JavaScript that calls them."""

#: behind the C file; the names of the functions do not depend on the network's
EXPORTS = r"""
#define LSTM_EXPORT(name) __attribute__((export_name(#name)))

LSTM_EXPORT(size)
size_t lstm_wasm_size(void);
size_t lstm_wasm_size(void)
{
    return sizeof(lstm_state);
}

LSTM_EXPORT(init)
int lstm_wasm_init(lstm_state *state);
int lstm_wasm_init(lstm_state *state)
{
    return lstm_init(state);
}

LSTM_EXPORT(reset)
int lstm_wasm_reset(lstm_state *state);
int lstm_wasm_reset(lstm_state *state)
{
    return lstm_reset(state);
}

LSTM_EXPORT(run)
int lstm_wasm_run(lstm_state *state, size_t steps, const @X_ELEMENT@ *x, float *y);
int lstm_wasm_run(lstm_state *state, size_t steps, const @X_ELEMENT@ *x, float *y)
{
    return lstm_run(state, steps, x, y);
}
"""

#: what detects relaxed SIMD: a module with one function, which is f32x4.relaxed_madd of its arguments
JAVASCRIPT = r"""// A network of lstm_cy in WebAssembly, with its weights: @TITLE@
//
//     import { load } from "./@NAME@.js";
//     const model = await load();
//     const stream = model.stream();               // as many as there are streams; each has a state
//     const y = stream.step(@X_SAMPLE@);
//     const ys = stream.run(xs);                   // many steps: steps * outputs numbers
//     stream.reset();
//
// It was written by lstm_cy @VERSION@, with two modules that have the weights: @NAME@.wasm for browsers since 2023, and
// @NAME@.relaxed.wasm, which multiplies and adds in one instruction where the browser has relaxed SIMD.

const INPUTS = @JS_INPUTS@; // numbers of a step's input; 0 for a token
const TOKENS = @JS_TOKENS@;
const OUTPUTS = @OUTPUTS@;
const PAGE = 65536;
// a function with f32x4.relaxed_madd
const RELAXED = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 8, 1, 96, 3, 123, 123, 123, 1, 123, 3, 2, 1, 0, 10, 13, 1, 11, 0, 32, 0, 32, 1, 32,
  2, 253, 133, 2, 11,
]);

/** Return the model. `source`: the bytes of one of the .wasm files, a WebAssembly.Module, or nothing for the file
 * next to this one that is the faster one here. */
export async function load(source = undefined) {
  const module = source instanceof WebAssembly.Module ? source : await WebAssembly.compile(source ?? (await fetched()));
  return new Model((await WebAssembly.instantiate(module)).exports);
}

async function fetched() {
  const name = WebAssembly.validate(RELAXED) ? "@NAME@.relaxed.wasm" : "@NAME@.wasm";
  const url = new URL(name, import.meta.url);
  if (url.protocol === "file:") return (await import("node:fs/promises")).readFile(url);
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response.arrayBuffer();
}

export class Model {
  inputs = INPUTS;
  tokens = TOKENS;
  outputs = OUTPUTS;

  constructor(functions) {
    this._functions = functions;
    this._end = functions.__heap_base.value;
    this._steps = 0; // for how many the arrays of inputs and outputs are large enough
    this._reserve(1);
  }

  /** Return a stream in the initial state. */
  stream() {
    const at = this._allocate(this._functions.size());
    this._functions.init(at);
    return new Stream(this, at);
  }

  _allocate(bytes) {
    const at = Math.ceil(this._end / 32) * 32;
    const { memory } = this._functions;
    this._end = at + bytes;
    if (this._end > memory.buffer.byteLength) memory.grow(Math.ceil((this._end - memory.buffer.byteLength) / PAGE));
    return at;
  }

  /** Make room for the inputs and outputs of so many steps. */
  _reserve(steps) {
    if (steps > this._steps) {
      this._steps = Math.max(steps, 2 * this._steps);
      this._x = this._allocate(4 * this._steps * (TOKENS ? 1 : INPUTS));
      this._y = this._allocate(4 * this._steps * OUTPUTS);
    }
    if (this._buffer !== this._functions.memory.buffer) {
      this._buffer = this._functions.memory.buffer; // another one once the memory has grown
      this._floats = new Float32Array(this._buffer);
      this._integers = new Int32Array(this._buffer);
    }
  }

  /** Compute steps; return the view of their outputs. */
  _run(at, steps, xs) {
    this._reserve(steps);
    (TOKENS ? this._integers : this._floats).set(xs, this._x / 4);
    this._functions.run(at, steps, this._x, this._y);
    return this._floats.subarray(this._y / 4, this._y / 4 + steps * OUTPUTS);
  }
}

/** One stream of a model. */
class Stream {
  constructor(model, at) {
    this._model = model;
    this._at = at;
  }

  /** Compute one step, from @JS_X@; return a Float32Array that the next step of any stream overwrites. */
  step(x) {
    return this._model._run(this._at, 1, this._checked(TOKENS ? [x] : x, true));
  }

  /** Compute many steps, from an array of tokens or of steps * INPUTS numbers; return steps * OUTPUTS numbers. */
  run(xs) {
    this._checked(xs, false);
    return this._model._run(this._at, xs.length / (INPUTS || 1), xs).slice();
  }

  /** Set the state to the initial one. */
  reset() {
    this._model._functions.reset(this._at);
  }

  _checked(xs, one) {
    const size = INPUTS || 1;
    if (one ? xs?.length !== size : !Number.isInteger(xs?.length / size))
      throw new RangeError(`x: expected ${one ? "" : "a multiple of "}${size} numbers, got ${xs?.length}`);
    for (const token of TOKENS ? xs : [])
      if (!Number.isInteger(token) || token < 0 || token >= TOKENS)
        throw new RangeError(`x: expected tokens from 0 to ${TOKENS - 1}, got ${token}`);
    return xs;
  }
}
"""
