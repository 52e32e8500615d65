// A network of lstm_cy in JavaScript: one stream, step by step, with every gate of every LSTM layer.
//
//     const network = await Network.create(description, { wasm });
//     const scores = network.step(token);          // or network.step([0.5, -1]), the numbers of one step
//     network.layers[0].forget[7];                 // the forget gate of unit 7 at this step
//     network.layers[0].hold("output", 7, 0);      // from now on its output gate is 0
//
// `description` is what lstm_cy.export.web.describe(model) returns, and `wasm` the bytes of lstm_cy.export.web.wasm().
// Without `wasm`, or where the host does not allow it, everything is computed in plain JavaScript, with the same
// interface. There each sum is rounded as the library's fma rounds it, so results are the library's to the last bit or
// nearly; WebAssembly multiplies and adds in two roundings. A network with int8 weights or layer_norm, where a
// difference in the last bit can become a large one, is always computed in plain JavaScript.

const FORMAT = 1;
const PANEL = 32; // the columns of a panel of weights
const UNIT = 8; // arrays are filled up to a multiple of this
const SEGMENT = 4096; // the factors of an int8 product that share a scale
const NAMES = ["input", "forget", "candidate", "output", "cell", "hidden"];

const f32 = Math.fround;
const padded = (size) => Math.ceil(size / UNIT) * UNIT;

/** Return a * b + c, rounded once to float32. */
const fma = (a, b, c) => f32(a * b + c);

// ---- functions, in the order of operations of the library's kernels ----

const LOG2E = f32(1.44269504088896341);
const LN2 = f32(0.693147182464599609375);
const LN2_REST = f32(-1.904654323148236e-9);
const ROUNDING = 12582912; // 1.5 * 2^23: what is added to it in float32 is rounded to a whole number
const SERIES = [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2].map(f32);

/** Return exp(times x) - 1 and exp(times x) + 1, where |times x| <= 40. */
function expAnd1(x, times) {
  const n = f32(fma(x, f32(times * LOG2E), ROUNDING) - ROUNDING);
  const near = fma(n, -LN2, f32(times * x));
  const rest = f32(n * -LN2_REST);
  const power = 2 ** n;
  const r = fma(rest, f32(near + 1), near);
  const square = f32(near * near);
  let series = fma(near, SERIES[0], SERIES[1]);
  series = fma(series, square, fma(near, SERIES[2], SERIES[3]));
  series = fma(series, square, fma(near, SERIES[4], SERIES[5]));
  const scaled = f32(power * square);
  const less = fma(scaled, series, fma(power, r, f32(power - 1)));
  return [less, fma(scaled, series, fma(power, r, f32(power + 1)))];
}

function sigmoid(z) {
  if (z > 20) return 1;
  if (z < -20) return 0;
  return f32(1 / expAnd1(z, -1)[1]);
}

function tanh(x) {
  if (x > 10) return 1;
  if (x < -10) return -1;
  const [less, more] = expAnd1(x, 2);
  return f32(less / more);
}

const SELU_SCALE = f32(1.0507009873554805);
const SELU_ALPHA = f32(1.6732632423543772);
const relu = (x) => (x < 0 ? 0 : x);

/** Return x / (1 + |x|); infinity, over which infinity would be NaN, counts as 1e30. */
function softsign(x) {
  x = bounded(x, -1e30, 1e30);
  return f32(x * f32(1 / f32(1 + Math.abs(x))));
}

/** The activations: functions of x, alpha and beta. */
const FUNCTIONS = {
  sigmoid,
  tanh,
  relu,
  affine: (x, alpha, beta) => fma(alpha, x, beta),
  leakyrelu: (x, alpha) => (x < 0 ? f32(alpha * x) : x),
  thresholdedrelu: (x, alpha) => (x <= alpha ? 0 : x),
  scaledtanh: (x, alpha, beta) => f32(alpha * tanh(f32(beta * x))),
  hardsigmoid: (x, alpha, beta) => bounded(fma(alpha, x, beta), 0, 1),
  elu: (x, alpha) => (x < 0 ? f32(alpha * f32(Math.expm1(x))) : x),
  selu: (x) => f32(SELU_SCALE * (x < 0 ? f32(SELU_ALPHA * f32(Math.expm1(x))) : x)),
  softsign,
  softplus: (x) => f32(relu(x) + Math.log1p(Math.exp(-Math.abs(x)))),
  silu: (x) => f32(x * sigmoid(x)),
  exp: (x) => f32(Math.exp(x)),
};

/** Return x within two bounds; NaN stays NaN. */
function bounded(x, lowest, highest) {
  return x > highest ? highest : x < lowest ? lowest : x;
}

/** Return exp(x / temperature) / sum(exp(x / temperature)), the probabilities of scores. */
export function softmax(scores, temperature = 1) {
  let highest = -Infinity;
  for (const score of scores) if (score > highest) highest = score;
  const powers = Float64Array.from(scores, (score) => Math.exp((score - highest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return Float32Array.from(powers, (power) => power / sum);
}

// ---- memory: blocks of float32, in one buffer that WebAssembly can read ----

/** A block: `at` is its address in bytes, `view` its numbers once the memory exists. */
class Block {
  constructor(at, count, values) {
    Object.assign(this, { at, count, values, view: null });
  }
}

class Memory {
  constructor(start) {
    this.end = Math.ceil(start / 32) * 32;
    this.blocks = [];
  }

  /** Return a block of `count` numbers, filled up to whole units, with these values or zeros. */
  block(count, values = null) {
    const made = new Block(this.end, padded(count), values);
    this.blocks.push(made);
    this.end += 4 * made.count;
    return made;
  }

  open(buffer) {
    for (const block of this.blocks) {
      block.view = new Float32Array(buffer, block.at, block.count);
      if (block.values) block.view.set(block.values);
      block.values = null;
    }
  }
}

/** Return an affine map of some inputs in panels of 32 columns: the biases, then each input's weights.
 *
 * `rowOf(column)` is the row of the bias and the matrices that a column has, or -1 for one of zeros. */
function panels(columns, rowOf, bias, ...matrices) {
  const inputs = matrices.reduce((sum, matrix) => sum + matrix.inputs, 0);
  const result = new Float32Array(columns * (1 + inputs));
  let at = 0;
  for (let first = 0; first < columns; first += PANEL) {
    const rows = [];
    for (let n = first; n < Math.min(first + PANEL, columns); n++) rows.push(rowOf(n));
    for (const row of rows) result[at++] = bias && row >= 0 ? bias[row] : 0;
    for (const { inputs, values } of matrices)
      for (let k = 0; k < inputs; k++) for (const row of rows) result[at++] = row < 0 ? 0 : values[row * inputs + k];
  }
  return result;
}

// ---- the two engines ----

/** Everything in JavaScript. */
const PLAIN = {
  name: "javascript",

  /** y = bias + a W_a^T + b W_b^T, of `columns` sums; b may be null. */
  linear(columns, weights, sizeA, a, sizeB, b, y) {
    const w = weights.view;
    const sums = y.view;
    let at = 0;
    for (let first = 0; first < columns; first += PANEL) {
      const end = Math.min(first + PANEL, columns);
      for (let n = first; n < end; n++) sums[n] = w[at++];
      for (let k = 0; k < sizeA + sizeB; k++) {
        const factor = k < sizeA ? a.view[k] : b.view[k - sizeA];
        for (let n = first; n < end; n++) sums[n] += factor * w[at++]; // stored as float32: one rounding
      }
    }
  },

  apply([name, alpha, beta], count, block, first = 0) {
    const values = block.view;
    const activation = FUNCTIONS[name];
    for (let n = first; n < first + count; n++) values[n] = activation(values[n], f32(alpha), f32(beta));
  },
};

/** Products, sigmoid and tanh in WebAssembly. */
class Wasm {
  name = "wasm";

  constructor(functions) {
    this.functions = functions;
  }

  linear(columns, weights, sizeA, a, sizeB, b, y) {
    this.functions.linear(columns, weights.at, sizeA, a.at, sizeB, b ? b.at : 0, y.at);
  }

  apply(activation, count, block, first = 0) {
    const compiled = this.functions[activation[0]];
    if (compiled) compiled(count, block.at + 4 * first);
    else PLAIN.apply(activation, count, block, first);
  }
}

/** Return the engine and its memory, of `end` bytes. */
async function opened(wasm, memory) {
  if (wasm) {
    const pages = new WebAssembly.Memory({ initial: Math.ceil(memory.end / 65536) });
    const module = wasm instanceof WebAssembly.Module ? wasm : await WebAssembly.compile(wasm);
    const instance = await WebAssembly.instantiate(module, { env: { memory: pages } });
    memory.open(pages.buffer);
    return new Wasm(instance.exports);
  }
  memory.open(new ArrayBuffer(memory.end));
  return PLAIN;
}

// ---- the parts of a network ----

/** The vector of a token. */
class Lookup {
  constructor(part, arrays, memory) {
    this.outputs = part.outputs;
    this.table = arrays(part.table);
    this.y = memory.block(this.outputs);
  }

  step(engine, token) {
    const first = token * this.outputs;
    this.y.view.set(this.table.subarray(first, first + this.outputs));
  }
}

class Linear {
  constructor(part, arrays, memory) {
    this.columns = padded(part.outputs);
    this.inputs = part.inputs;
    const rowOf = (column) => (column < part.outputs ? column : -1);
    const weight = { inputs: part.inputs, values: arrays(part.weight) };
    this.weights = memory.block(this.columns * (1 + part.inputs), panels(this.columns, rowOf, arrays(part.bias), weight));
    this.y = memory.block(part.outputs);
  }

  step(engine, x) {
    engine.linear(this.columns, this.weights, this.inputs, x, 0, null, this.y);
  }
}

/** The sum with the input of an earlier part. */
class Add {
  constructor(part, arrays, memory) {
    this.first = part.first;
    this.y = memory.block(part.outputs);
    this.count = part.outputs;
  }

  step(engine, x, inputs) {
    const other = inputs[this.first].view;
    for (let n = 0; n < this.count; n++) this.y.view[n] = x.view[n] + other[n];
  }
}

class Activation {
  constructor(part, arrays, memory) {
    this.count = part.size;
    this.activation = [part.name, part.alpha, part.beta];
    this.y = memory.block(part.size);
  }

  step(engine, x) {
    this.y.view.set(x.view.subarray(0, this.count));
    if (this.activation[0] === "softmax") this.y.view.set(softmax(this.y.view.subarray(0, this.count)));
    else engine.apply(this.activation, this.count, this.y);
  }
}

/** The sums of a cell's gates from int8 weights: the factors are rounded to whole numbers times a scale. */
class Int8Product {
  constructor({ values, scale, inputs }, arrays, rowOf, columns) {
    const source = arrays(values);
    const scales = arrays(scale);
    this.inputs = inputs;
    this.columns = columns;
    this.scales = Float32Array.from({ length: columns }, (_, n) => (rowOf(n) < 0 ? 0 : scales[rowOf(n)]));
    this.weights = new Int8Array(inputs * columns);
    for (let k = 0; k < inputs; k++)
      for (let n = 0; n < columns; n++)
        if (rowOf(n) >= 0) this.weights[k * columns + n] = source[rowOf(n) * inputs + k];
    this.sums = new Int32Array(columns);
  }

  addTo(z, x) {
    for (let first = 0; first < this.inputs; first += SEGMENT) {
      this.addSegment(z, x, first, Math.min(first + SEGMENT, this.inputs));
    }
  }

  addSegment(z, x, first, end) {
    let largest = 0;
    for (let k = first; k < end; k++) {
      const size = Math.abs(x[k]);
      if (!(size <= largest)) largest = size;
      if (size !== size) break; // NaN
    }
    let scale = f32(largest / 127);
    this.sums.fill(0);
    if (!(largest < Infinity)) scale = NaN;
    else if (largest < 2 ** -100) scale = 0;
    else {
      const inverse = f32(127 / largest);
      for (let k = first; k < end; k++) {
        const factor = f32(f32(x[k] * inverse) + ROUNDING) - ROUNDING;
        const row = k * this.columns;
        if (factor) for (let n = 0; n < this.columns; n++) this.sums[n] += factor * this.weights[row + n];
      }
    }
    for (let n = 0; n < this.columns; n++) z[n] += f32(this.sums[n] * f32(scale * this.scales[n]));
  }
}

/** Normalise `count` numbers of z from `at`, scale them, and add the bias if there is one. */
function normalize(z, at, count, scale, bias, first) {
  const sumOf = (add) => {
    const sums = new Float32Array(32); // in 32 sums, as the library adds them
    for (let k = 0; k < count; k++) sums[k % 32] = add(z[at + k], sums[k % 32]);
    return sums.reduce((total, sum) => f32(total + sum), 0);
  };
  const mean = f32(sumOf((x, sum) => x + sum) / count);
  for (let k = 0; k < count; k++) z[at + k] -= mean;
  const root = f32(1 / f32(Math.sqrt(f32(f32(sumOf((x, sum) => x * x + sum) / count) + f32(1e-8)))));
  for (let k = 0; k < count; k++) {
    const scaled = f32(f32(z[at + k] * root) * scale[first + k]);
    z[at + k] = bias ? scaled + bias[first + k] : scaled;
  }
}

/** Return what zoneout expects: share old + (1 - share) next. */
const mixed = (share, old, next) => f32(f32(share * old) + (1 - share) * next);

/** A layer of an LSTM.
 *
 * `input`, `forget`, `candidate` and `output` are its gates at the last step, after their activations, `cell` and
 * `hidden` its state after it: Float32Arrays of `units` numbers, `outputs` for `hidden`. They are views, whose numbers
 * change with every step; `cell` and `hidden` may be written between steps, which changes the state. */
export class Layer {
  constructor(part, arrays, memory) {
    const { units, outputs, inputs } = part;
    Object.assign(this, { units, outputs, inputs });
    this._part = part;
    this._width = padded(units);
    this._held = Object.fromEntries(NAMES.map((name) => [name, new Map()]));
    const columns = 4 * this._width;
    const rowOf = (column) => {
      const unit = column % this._width;
      return unit < units ? Math.floor(column / this._width) * units + unit : -1;
    };
    this._norm = arrays(part.norm);
    this._bias = arrays(part.bias);
    this._peepholes = arrays(part.peepholes);
    const bias = this._norm ? null : this._bias; // else it is added after normalising
    if (part.ih.scale) {
      this._products = [part.ih, part.hh].map((weight) => new Int8Product(weight, arrays, rowOf, columns));
      this._start = Float32Array.from({ length: columns }, (_, n) => (bias && rowOf(n) >= 0 ? bias[rowOf(n)] : 0));
    } else {
      const matrices = [part.ih, part.hh].map((weight) => ({ ...weight, values: arrays(weight.values) }));
      this._weights = memory.block(columns * (1 + inputs + outputs), panels(columns, rowOf, bias, ...matrices));
    }
    this._z = memory.block(columns);
    this._c = memory.block(units);
    this._h = memory.block(outputs);
    this._tanh = memory.block(units);
    if (part.hr) {
      this._projected = padded(outputs);
      const hr = { inputs: units, values: arrays(part.hr) };
      const row = (column) => (column < outputs ? column : -1);
      this._projection = memory.block(this._projected * (1 + units), panels(this._projected, row, null, hr));
    }
    this._initial = part.initial && { h: arrays(part.initial.h), c: arrays(part.initial.c) };
    this.y = this._h;
  }

  /** Make the views, once the memory exists. */
  open() {
    NAMES.slice(0, 4).forEach((name, gate) => {
      this[name] = this._z.view.subarray(gate * this._width, gate * this._width + this.units);
    });
    this.cell = this._c.view.subarray(0, this.units);
    this.hidden = this._h.view.subarray(0, this.outputs);
  }

  /** Hold a gate, the cell or the hidden state of a unit at a value, at every step from the next on.
   *
   * A held gate is what the cell is computed with, and what coupled gates follow. A held cell is what the output and
   * the next step read; a hidden state held at 0 switches the unit off. */
  hold(name, unit, value) {
    this._check(name, unit);
    if (typeof value !== "number" || !Number.isFinite(value)) throw new TypeError(`value: expected a finite number, got ${value}`);
    this._held[name].set(unit, f32(value));
  }

  /** Compute again what was held: one unit's, all units' (without `unit`), or everything. */
  release(name = undefined, unit = undefined) {
    if (name === undefined) NAMES.forEach((each) => this._held[each].clear());
    else {
      this._check(name, unit ?? 0);
      if (unit === undefined) this._held[name].clear();
      else this._held[name].delete(unit);
    }
  }

  /** Return what is held: [{name, unit, value}, ...]. */
  get held() {
    return NAMES.flatMap((name) => Array.from(this._held[name], ([unit, value]) => ({ name, unit, value })));
  }

  _check(name, unit) {
    if (!NAMES.includes(name)) throw new RangeError(`name: expected one of ${NAMES.join(", ")}, got ${name}`);
    const count = name === "hidden" ? this.outputs : this.units;
    if (!Number.isInteger(unit) || unit < 0 || unit >= count)
      throw new RangeError(`unit: expected an integer from 0 to ${count - 1}, got ${unit}`);
  }

  _set(name) {
    for (const [unit, value] of this._held[name]) this[name][unit] = value;
  }

  reset() {
    this._z.view.fill(0);
    this._c.view.fill(0);
    this._h.view.fill(0);
    if (this._initial) {
      this.cell.set(this._initial.c);
      this.hidden.set(this._initial.h);
    }
  }

  step(engine, x) {
    const { zoneout, coupling, activations } = this._part;
    const old = zoneout.some(Boolean) ? { c: this.cell.slice(), h: this.hidden.slice() } : null;
    this._sums(engine, x);
    if (coupling !== "i=1-f") this._gate(engine, "input", activations[0]);
    if (coupling !== "f=1-i") this._gate(engine, "forget", activations[0]);
    this._gate(engine, "candidate", activations[1]);
    if (coupling) this._couple(coupling);
    this._update();
    this._gate(engine, "output", activations[0]);
    this._output(engine, activations[2]);
    if (old) {
      for (let n = 0; n < this.outputs; n++) this.hidden[n] = mixed(f32(zoneout[0]), old.h[n], this.hidden[n]);
      for (let n = 0; n < this.units; n++) this.cell[n] = mixed(f32(zoneout[1]), old.c[n], this.cell[n]);
      this._set("cell");
    }
    this._set("hidden");
  }

  _sums(engine, x) {
    if (this._products) {
      this._z.view.set(this._start);
      this._products[0].addTo(this._z.view, x.view);
      this._products[1].addTo(this._z.view, this._h.view);
    } else {
      engine.linear(4 * this._width, this._weights, this.inputs, x, this.outputs, this._h, this._z);
    }
  }

  /** Compute a gate from its sums; `output` looks at the new cell through its peepholes. */
  _gate(engine, name, activation) {
    const gate = NAMES.indexOf(name);
    const first = gate * this._width;
    const z = this._z.view;
    const { units } = this;
    if (this._peepholes && name !== "candidate") {
      const at = ["input", "forget", "output"].indexOf(name) * units;
      for (let n = 0; n < units; n++) z[first + n] = fma(this._peepholes[at + n], this.cell[n], z[first + n]);
    }
    if (this._norm) normalize(z, first, units, this._norm, this._bias, gate * units);
    this._clip(this[name], this._part.clip);
    engine.apply(activation, units, this._z, first);
    this._set(name);
  }

  _clip(values, bound) {
    if (bound === null) return;
    for (let n = 0; n < values.length; n++) values[n] = bounded(values[n], f32(-bound), f32(bound));
  }

  _couple(coupling) {
    const [from, to] = coupling === "f=1-i" ? ["input", "forget"] : ["forget", "input"];
    for (let n = 0; n < this.units; n++) this[to][n] = 1 - this[from][n];
    this._set(to);
  }

  _update() {
    const { input, forget, candidate, cell } = this;
    for (let n = 0; n < this.units; n++) cell[n] = fma(forget[n], cell[n], f32(input[n] * candidate[n]));
    this._clip(cell, this._part.cell_clip);
    this._set("cell");
  }

  _output(engine, activation) {
    this._tanh.view.set(this._c.view);
    engine.apply(activation, this.units, this._tanh);
    const target = this._projection ? this._tanh.view : this._h.view;
    for (let n = 0; n < this.units; n++) target[n] = this.output[n] * this._tanh.view[n];
    if (this._projection) {
      engine.linear(this._projected, this._projection, this.units, this._tanh, 0, null, this._h);
      this._clip(this.hidden, this._part.proj_clip);
    }
  }
}

const PARTS = { lookup: Lookup, linear: Linear, add: Add, function: Activation, lstm: Layer };

// ---- a network ----

/** Whether a difference in the last bit can become a large one. */
const isSensitive = (part) => part.kind === "lstm" && Boolean(part.ih.scale || part.norm);

export class Network {
  /** Return a network in its initial state.
   *
   * `wasm`: the bytes of the WebAssembly module or a compiled WebAssembly.Module; null for plain JavaScript. If it
   * cannot be used, the network computes in plain JavaScript and `reason` says why. */
  static async create(description, { wasm = null } = {}) {
    if (description?.format !== FORMAT)
      throw new TypeError(`description: expected one of format ${FORMAT}, got format ${description?.format}`);
    const network = new Network();
    if (wasm && description.parts.some(isSensitive)) {
      wasm = null;
      network.reason = "int8 weights and layer_norm need an exact fma";
    }
    try {
      await network._open(description, wasm);
    } catch (error) {
      if (!wasm) throw error;
      network.reason = String(error);
      await network._open(description, null);
    }
    return network;
  }

  async _open(description, wasm) {
    const bytes = Uint8Array.from(atob(description.weights), (character) => character.charCodeAt(0));
    const arrays = (array) => {
      if (!array) return null;
      const type = array.type === "int8" ? Int8Array : Float32Array;
      return new type(bytes.buffer, array.offset, array.count);
    };
    const memory = new Memory(65536); // below it: the stack and constants of the WebAssembly module
    Object.assign(this, { inputs: description.inputs, tokens: description.tokens, outputs: description.outputs });
    this._x = memory.block(this.inputs);
    this._parts = description.parts.map((part) => new PARTS[part.kind](part, arrays, memory));
    this.layers = this._parts.filter((part) => part instanceof Layer);
    this._engine = await opened(wasm, memory);
    this.layers.forEach((layer) => layer.open());
    this.reset();
  }

  /** "wasm" or "javascript". */
  get engine() {
    return this._engine.name;
  }

  /** Set all states to the initial ones; what is held stays so. */
  reset() {
    this.layers.forEach((layer) => layer.reset());
  }

  /** Compute one step from a token, or an array of `inputs` numbers; return the outputs, which the next step changes. */
  step(x) {
    if (this.tokens) {
      if (!Number.isInteger(x) || x < 0 || x >= this.tokens)
        throw new RangeError(`x: expected a token from 0 to ${this.tokens - 1}, got ${x}`);
    } else {
      if (x?.length !== this.inputs) throw new RangeError(`x: expected ${this.inputs} numbers, got ${x?.length}`);
      this._x.view.set(x);
    }
    let output = this.tokens ? x : this._x;
    const inputs = [];
    for (const part of this._parts) {
      inputs.push(output);
      part.step(this._engine, output, inputs);
      output = part.y;
    }
    return output.view.subarray(0, this.outputs);
  }

  /** Compute many steps, from an array of tokens, or of steps * `inputs` numbers.
   *
   * Return `outputs`, (steps, outputs) in one Float32Array, and `layers`: for each an object with the arrays
   * input, forget, candidate, output, cell and hidden, (steps, units). */
  run(xs) {
    const size = this.tokens ? 1 : this.inputs;
    const steps = xs.length / size;
    if (!Number.isInteger(steps)) throw new RangeError(`xs: expected a multiple of ${size} numbers, got ${xs.length}`);
    const outputs = new Float32Array(steps * this.outputs);
    const layers = this.layers.map((layer) =>
      Object.fromEntries(NAMES.map((name) => [name, new Float32Array(steps * layer[name].length)])),
    );
    for (let t = 0; t < steps; t++) {
      outputs.set(this.step(this.tokens ? xs[t] : xs.slice(t * size, (t + 1) * size)), t * this.outputs);
      layers.forEach((arrays, index) => {
        for (const name of NAMES) arrays[name].set(this.layers[index][name], t * this.layers[index][name].length);
      });
    }
    return { outputs, layers };
  }

  /** Return a copy of the state, for `setState`. */
  getState() {
    return this.layers.map((layer) => ({ cell: layer.cell.slice(), hidden: layer.hidden.slice() }));
  }

  /** Continue from a state that `getState` returned. */
  setState(state) {
    this.layers.forEach((layer, index) => {
      layer.cell.set(state[index].cell);
      layer.hidden.set(state[index].hidden);
    });
  }
}
