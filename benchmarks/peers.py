"""The peers: lstm_cy and other libraries that compute an LSTM on a CPU, each in a small class.

A peer is made with a number of threads and has three methods. Each takes a case of `common` and returns a Run with the
weights of the case's layer:

- `inference(case)`: whole sequences from given states
- `streaming(case)`: one step per call, with the state passed from call to call
- `training(case)`: a forward and a backward pass

A method is None if the peer does not support it. Each peer runs in its fastest form: arrays of its own type and layout
made beforehand, outputs bound where possible, its graph compiled. A library is imported when its peer is made.

Its attribute `precision` is that of its products; with "default" the library chooses it when the peer is made.
"""

import functools
import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lstm_cy import LSTM, config, set_num_threads

from .common import medians

#: our parameters of one direction, without the suffix
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Run(NamedTuple):
    """A function to be timed, and its results."""

    call: Callable
    arguments: list  # of tuples: the arguments of successive calls
    results: Callable  # () -> {name: ndarray}, by one call, or one for each of `arguments`


def whole(call, array=np.asarray):
    """Return a Run without arguments; `array` converts the values of its result {name: value} to NumPy."""
    return Run(call, [()], lambda: {name: array(value) for name, value in call().items()})


def stepping(call, arguments, array=np.asarray):
    """Return a Run of steps, each of which returns h."""
    return Run(call, arguments, lambda: {"y": np.stack([np.array(array(call(*these))) for these in arguments])})


def split(array, order):
    """Return one of our arrays, with gate rows i f g o, with the gates in another order.

    >>> split(np.arange(4), "iofg").tolist()
    [0, 3, 1, 2]
    """
    gates = dict(zip("ifgo", np.split(array, 4), strict=True))
    return np.concatenate([gates[name] for name in order])


def directions(lstm):
    """Return for each layer a list of suffixes, one for each direction."""
    return [[f"_l{layer}", f"_l{layer}_reverse"][: lstm.num_directions] for layer in range(lstm.num_layers)]


def weights_of(lstm, suffix):
    """Return weight_ih, weight_hh, bias_ih and bias_hh of one direction."""
    return [np.array(lstm.parameters[name + suffix]) for name in NAMES]


class Peer:
    """What all peers have."""

    title: str
    package: str
    needs: tuple = ()  # further packages
    precision = "float32"
    note = ""  # for the heading
    onednn = False  # its products are oneDNN's, which `held_to` holds to an instruction set
    inference = streaming = training = None


class Ours(Peer):
    """lstm_cy; a Stepper for streams if this version has one."""

    title = "lstm_cy"
    package = "lstm_cy"

    def __init__(self, threads):
        set_num_threads(threads)

    def layer(self, case):
        return case.lstm

    def inference(self, case):
        lstm = self.layer(case)

        def call():
            y, (h_n, c_n) = lstm(case.x, case.state)
            return {"y": y, "h_n": h_n, "c_n": c_n}

        return whole(call)

    def streaming(self, case):
        lstm = self.layer(case)
        if hasattr(lstm, "stepper"):
            stepper = lstm.stepper(case.shape.batch)
            stepper.state = case.state
            out = np.empty((case.shape.batch, case.shape.hidden), lstm.dtype)
            return stepping(stepper.step, [(x, out) for x in case.x])
        state = case.state

        def step(x):
            nonlocal state
            y, state = lstm(x, state)
            return y[0]

        return stepping(step, [(x[np.newaxis],) for x in case.x])

    def training(self, case):
        return whole(case.run)


class OursBfloat16(Ours):
    """lstm_cy with bfloat16 weights."""

    precision = "bf16"
    training = None

    def layer(self, case):
        if not hasattr(case.lstm, "quantize"):
            raise NotImplementedError("LSTM has no quantize")
        return case.lstm.quantize(self.precision)


class OursInt8(OursBfloat16):
    """lstm_cy with int8 weights."""

    precision = "int8"
    streaming = None


class NumPy(Peer):
    """reference.py; for streams the fastest step that NumPy allows."""

    title = "NumPy"
    package = "numpy"

    def __init__(self, threads):
        pass  # OPENBLAS_NUM_THREADS sets them

    def inference(self, case):
        return whole(lambda: case.plain.infer(case.x, case.state))

    def training(self, case):
        return whole(lambda: case.plain.train(case.x, case.state, case.dy))

    def streaming(self, case):
        states = zip(*case.state, strict=True)
        cells = [NumPyCell(layer[0].weights, h, c) for layer, (h, c) in zip(case.plain.layers, states, strict=True)]

        def step(x):
            for cell in cells:
                x = cell.step(x)
            return x

        return stepping(cells[0].step if len(cells) == 1 else step, [(x,) for x in case.x])


class NumPyCell:
    """One layer, step by step: one product with [x, h, 1], one tanh for all four gates, no new arrays."""

    def __init__(self, weights, h, c):
        weight_ih, weight_hh, bias = (split(array, "ifog") for array in weights)
        B, H = h.shape
        matrix = np.concatenate([weight_ih.T, weight_hh.T, bias[np.newaxis]])
        matrix[:, : 3 * H] *= 0.5  # sigmoid(z) = (1 + tanh(z / 2)) / 2
        self.matrix = np.ascontiguousarray(matrix)
        inputs = weight_ih.shape[1]
        self.read = np.ones((B, inputs + H + 1), h.dtype)  # [x, h, 1]
        self.x, self.h = self.read[:, :inputs], self.read[:, inputs:-1]
        self.h[:] = h
        self.c = c.copy()
        self.z = np.empty((B, 4 * H), h.dtype)
        self.sigmoids = self.z[:, : 3 * H]
        self.i, self.f, self.o, self.g = (self.z[:, k * H : (k + 1) * H] for k in range(4))

    def step(self, x):
        self.x[:] = x
        np.matmul(self.read, self.matrix, self.z)
        np.tanh(self.z, self.z)
        self.sigmoids += 1
        self.sigmoids *= 0.5
        self.c *= self.f
        self.i *= self.g
        self.c += self.i
        np.tanh(self.c, self.g)
        np.multiply(self.o, self.g, self.h)
        return self.h


class PyTorch(Peer):
    """nn.LSTM; nn.LSTMCell for streams."""

    title = "PyTorch"
    package = "torch"
    onednn = True

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        self.torch = torch

    def layer(self, case):
        lstm = case.lstm
        twin = self.torch.nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, bidirectional=lstm.bidirectional)
        twin.load_state_dict({name: self.torch.tensor(array) for name, array in lstm.parameters.items()})
        return twin

    @staticmethod
    def array(tensor):
        return tensor.detach().float().numpy()

    def tensors(self, *arrays):
        return [self.torch.tensor(array) for array in arrays]

    def inference(self, case):
        lstm = self.layer(case)
        x, *state = self.tensors(case.x, *case.state)

        @self.torch.inference_mode()
        def call():
            y, (h_n, c_n) = lstm(x, state)
            return {"y": y, "h_n": h_n, "c_n": c_n}

        return whole(call, self.array)

    def streaming(self, case):
        cells = []
        for (suffix,) in directions(case.lstm):
            weight_ih, weight_hh, bias_ih, bias_hh = self.tensors(*weights_of(case.lstm, suffix))
            cell = self.torch.nn.LSTMCell(weight_ih.shape[1], case.lstm.hidden_size, dtype=weight_ih.dtype)
            cell.load_state_dict(
                {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
            )
            cells.append(cell)
        states = list(zip(*self.tensors(*case.state), strict=True))

        @self.torch.inference_mode()
        def step(x):
            for index, cell in enumerate(cells):
                states[index] = cell(x, states[index])
                x = states[index][0]
            return x

        return stepping(step, [(x,) for x in self.tensors(*case.x)], self.array)

    def training(self, case):
        lstm = self.layer(case)
        x, dy, *state = self.tensors(case.x, case.dy, *case.state)
        leaves = {"x": x, "h0": state[0], "c0": state[1], **dict(lstm.named_parameters())}
        for leaf in leaves.values():
            leaf.requires_grad_()

        def call():
            for leaf in leaves.values():
                leaf.grad = None
            y, _ = lstm(x, state)
            y.backward(dy)
            return {"y": y, **{name: leaf.grad for name, leaf in leaves.items()}}

        return whole(call, self.array)


class PyTorchConverted(PyTorch):
    """Weights, inputs and states converted to bfloat16."""

    def layer(self, case):
        return super().layer(case).bfloat16()

    def tensors(self, *arrays):
        return [tensor.bfloat16() for tensor in super().tensors(*arrays)]


class PyTorchAutocast(PyTorch):
    """float32 weights, inputs and states, under autocast."""

    def lowered(self, call):
        return self.torch.autocast("cpu", dtype=self.torch.bfloat16)(call)

    def inference(self, case):
        return whole(self.lowered(super().inference(case).call), self.array)

    def streaming(self, case):
        call, arguments, _ = super().streaming(case)
        return stepping(self.lowered(call), arguments, self.array)


class PyTorchBfloat16(PyTorch):
    """In bfloat16: converted, or under autocast, whichever is faster at this shape."""

    precision = "bf16"
    training = None

    def __init__(self, threads):
        self.forms = PyTorchConverted(threads), PyTorchAutocast(threads)

    def inference(self, case):
        return fastest([form.inference for form in self.forms], case)

    def streaming(self, case):
        return fastest([form.streaming for form in self.forms], case)


def fastest(methods, case):
    """Return the Run of the method whose call is the fastest; one that raises RuntimeError is left out."""
    runs, errors = {}, []
    for method in methods:
        try:
            run = method(case)
            run.call(*run.arguments[0])
            runs[method] = run
        except RuntimeError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    times = medians([functools.partial(run.call, *run.arguments[0]) for run in runs.values()], seconds=0.05, least=3)
    _, method = min(zip(times, runs, strict=True), key=lambda pair: pair[0])
    return method(case)  # a new one: the calls changed the state of a stream


class PyTorchInt8(PyTorch):
    """nn.LSTM, dynamically quantised."""

    precision = "int8"
    streaming = training = None

    def layer(self, case):
        torch = self.torch
        wrapper = torch.nn.ModuleList([super().layer(case)])  # as the root module it would not be quantised
        quantised = torch.ao.quantization.quantize_dynamic(wrapper, {torch.nn.LSTM}, dtype=torch.qint8)[0]
        if type(quantised) is torch.nn.LSTM:
            raise NotImplementedError("this PyTorch quantises no LSTM")
        return quantised


class ONNXRuntime(Peer):
    """LSTM nodes; arrays are bound to inputs and outputs, and the final states to the next step's inputs."""

    title = "ONNX Runtime"
    package = "onnxruntime"
    needs = ("onnx",)

    def __init__(self, threads):
        import onnxruntime

        self.onnxruntime = onnxruntime
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1

    def session(self, model):
        return self.onnxruntime.InferenceSession(
            model.SerializeToString(), self.options, providers=["CPUExecutionProvider"]
        )

    def binding(self, session, arrays):
        """Bind every input and output of a session to the array of its name."""
        binding = session.io_binding()
        for bind, nodes in (
            (binding.bind_ortvalue_input, session.get_inputs()),
            (binding.bind_ortvalue_output, session.get_outputs()),
        ):
            for node in nodes:
                bind(node.name, self.onnxruntime.OrtValue.ortvalue_from_numpy(arrays[node.name]))
        return binding

    def inference(self, case):
        session = self.session(onnx_model(case.lstm, case.shape.steps, case.shape.batch))
        arrays = arrays_of(case, case.x)
        binding = self.binding(session, arrays)

        def call():
            session.run_with_iobinding(binding)
            return arrays

        return Run(call, [()], lambda: joined(case, call()))

    def streaming(self, case):
        session = self.session(onnx_model(case.lstm, 1, case.shape.batch))
        buffers = self.buffers = alternating_arrays(case)
        run = session.run_with_iobinding
        turns = itertools.cycle([(arrays["x"], arrays["y"][0], self.binding(session, arrays)) for arrays in buffers])

        def step(x):
            read, h, binding = next(turns)
            read[0] = x
            run(binding)
            return h

        return stepping(step, [(x,) for x in case.x])


class ONNXRuntimeInt8(ONNXRuntime):
    """DynamicQuantizeLSTM nodes."""

    precision = "int8"
    streaming = None

    def session(self, model):
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "quantised.onnx"
            # Without VNNI its sums of two products saturate at 16 bits; with 7-bit weights they cannot saturate.
            saturates = "avx512vnni" not in config.available_instruction_sets()
            quantize_dynamic(
                model, path, op_types_to_quantize=["LSTM"], weight_type=QuantType.QInt8, reduce_range=saturates
            )
            session = self.onnxruntime.InferenceSession(path, self.options, providers=["CPUExecutionProvider"])
        return session


class OpenVINO(Peer):
    """The same graph; tensors are set beforehand, and the final states are the next step's inputs."""

    title = "OpenVINO"
    package = "openvino"
    needs = ("onnx",)
    onednn = True

    def __init__(self, threads):
        import openvino

        self.openvino = openvino
        self.properties = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }

    def compiled(self, model):
        core = self.openvino.Core()
        return core.compile_model(core.read_model(model.SerializeToString()), "CPU", self.properties)

    def requests(self, model, buffers):
        """Return a request for each dict of arrays, by the names of inputs and outputs."""
        compiled = self.compiled(model)
        found = []
        for arrays in buffers:
            request = compiled.create_infer_request()
            for port in (*compiled.inputs, *compiled.outputs):
                tensor = self.openvino.Tensor(arrays[port.any_name], shared_memory=True)
                request.set_tensor(port, tensor)
            found.append(request)
        return found

    def inference(self, case):
        arrays = arrays_of(case, case.x)
        (request,) = self.requests(onnx_model(case.lstm, case.shape.steps, case.shape.batch), [arrays])

        def call():
            request.infer()
            return arrays

        return Run(call, [()], lambda: joined(case, call()))

    def streaming(self, case):
        buffers = self.buffers = alternating_arrays(case)
        requests = self.requests(onnx_model(case.lstm, 1, case.shape.batch), buffers)
        pairs = zip(buffers, requests, strict=True)
        turns = itertools.cycle([(arrays["x"], arrays["y"][0], request.infer) for arrays, request in pairs])

        def step(x):
            read, h, infer = next(turns)
            read[0] = x
            infer()
            return h

        return stepping(step, [(x,) for x in case.x])


class OpenVINODefault(OpenVINO):
    """The same at the precision that OpenVINO chooses for this processor."""

    precision = "default"
    note = "default"

    def __init__(self, threads):
        super().__init__(threads)
        del self.properties["INFERENCE_PRECISION_HINT"]
        compiled = self.compiled(onnx_model(LSTM(1, 1, seed=0), 1, 1))
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self.precision = {"f32": "float32", "f16": "float16"}.get(chosen, chosen)


class Tract(Peer):
    """The same graph in tract, which has one thread; a step's final states are the next step's inputs."""

    title = "tract"
    package = "tract"
    needs = ("onnx",)

    def __init__(self, threads):
        import tract

        self.tract, self.threads = tract, threads

    def runnable(self, model):
        if self.threads > 1:
            raise NotImplementedError("tract's Python package runs on one thread")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(model.SerializeToString())
            return self.tract.onnx().load(path).into_model().into_runnable()

    def tensors(self, arrays):
        return [self.tract.Tensor.from_numpy(array) for array in arrays]

    def inference(self, case):
        model = onnx_model(case.lstm, case.shape.steps, case.shape.batch)
        run = self.runnable(model).run
        arrays = arrays_of(case, case.x)
        inputs = self.tensors(arrays[name] for name in names_of(model.graph.input))

        def results():
            arrays = [tensor.to_numpy() for tensor in run(inputs)]
            return joined(case, dict(zip(names_of(model.graph.output), arrays, strict=True)))

        return Run(lambda: run(inputs), [()], results)

    def streaming(self, case):
        model = onnx_model(case.lstm, 1, case.shape.batch)
        run = self.runnable(model).run
        arrays = arrays_of(case, case.x[:1])
        _, *state = self.tensors(arrays[name] for name in names_of(model.graph.input))

        def step(x):
            y, *state[:] = run([x, *state])
            return y

        return stepping(step, [(x,) for x in self.tensors(case.x[:, np.newaxis])], lambda y: y.to_numpy()[0])


class Mnn(Peer):
    """The same graph, converted for MNN with its operator for an LSTM, which was faster than the loop it prefers."""

    title = "MNN"
    package = "MNN"
    needs = ("onnx",)

    def __init__(self, threads):
        # The documented module MNN.tools.mnnconvert runs "pip install" when it is imported, and reports its use.
        import _tools
        import MNN.expr
        import MNN.nn

        self.expr, self.nn, self.convert, self.threads = MNN.expr, MNN.nn, _tools.mnnconvert, threads

    def module(self, model):
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "model.onnx", Path(folder) / "model.mnn"
            source.write_bytes(model.SerializeToString())
            options = ["--modelFile", str(source), "--MNNModel", str(target), "--useOriginRNNImpl"]
            self.convert(["mnnconvert", "-f", "ONNX", *options, "--bizCode", "none"])
            names = names_of(model.graph.input), names_of(model.graph.output)
            precision = self.expr.PrecisionMode.High
            return self.nn.load_module_from_file(
                str(target), *map(list, names), precision_mode=precision, thread_num=self.threads
            )

    def variables(self, arrays):
        return [
            self.expr.const(array, list(array.shape), self.expr.data_format.NCHW, self.expr.dtype.float)
            for array in arrays
        ]

    def inference(self, case):
        model = onnx_model(case.lstm, case.shape.steps, case.shape.batch)
        forward = self.module(model).forward
        arrays = arrays_of(case, case.x)
        inputs = self.variables(arrays[name] for name in names_of(model.graph.input))

        def call():
            outputs = [variable.read() for variable in forward(inputs)]
            return dict(zip(names_of(model.graph.output), outputs, strict=True))

        return Run(call, [()], lambda: joined(case, call()))

    def streaming(self, case):
        model = onnx_model(case.lstm, 1, case.shape.batch)
        forward = self.module(model).forward
        arrays = arrays_of(case, case.x[:1])
        _, *state = self.variables(arrays[name] for name in names_of(model.graph.input))

        def step(x):
            y, *state[:] = forward([x, *state])
            return y.read()

        return stepping(step, [(x,) for x in self.variables(case.x[:, np.newaxis])], lambda y: y[0])


class Ncnn(Peer):
    """LSTM layers of ncnn, which take one row; gate rows i, f, o, g."""

    title = "ncnn"
    package = "ncnn"

    def __init__(self, threads):
        import ncnn

        self.ncnn, self.threads = ncnn, threads

    def net(self, lstm):
        """Return a Net: x, h0_0, c0_0, ... -> y_0, hn_0, cn_0, ..., with arrays (steps or directions, units)."""
        H, D = lstm.hidden_size, lstm.num_directions
        lines, weights = ["Input x 0 1 x"], []
        read = "x"
        for layer, suffixes in enumerate(directions(lstm)):
            state, final = (f"h{end}_{layer} c{end}_{layer}" for end in "0n")
            lines += [f"Input {name} 0 1 {name}" for name in state.split()]
            arrays = [[split(array, "ifog") for array in weights_of(lstm, suffix)] for suffix in suffixes]
            size = sum(weight_ih.size for weight_ih, _, _, _ in arrays)
            lines.append(
                f"LSTM lstm_{layer} 3 3 {read} {state} y_{layer} {final} 0={H} 1={size} 2={2 if D == 2 else 0}"
            )
            read = f"y_{layer}"
            for parts in zip(*((ih, b_ih + b_hh, hh) for ih, hh, b_ih, b_hh in arrays), strict=True):
                weights += [bytes(4), *(np.ascontiguousarray(part).tobytes() for part in parts)]  # 0: float32 follows
        net = self.ncnn.Net()
        net.opt.num_threads = self.threads
        net.opt.use_vulkan_compute = False
        for narrow in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(net.opt, narrow, False)
        blobs = 1 + 5 * lstm.num_layers
        with tempfile.TemporaryDirectory() as folder:
            structure, values = Path(folder) / "lstm.param", Path(folder) / "lstm.bin"
            structure.write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
            values.write_bytes(b"".join(weights))
            if net.load_param(str(structure)) or net.load_model(str(values)):
                raise RuntimeError("ncnn refuses its files")
        return net

    def calling(self, case):
        """Return x -> {name: Mat}, which passes the states given as `state`, and the arrays that these share."""
        if case.shape.batch > 1:
            raise NotImplementedError("ncnn's LSTM takes one row")
        net = self.net(case.lstm)
        names = [f"{name}{{}}_{layer}" for layer in range(case.shape.layers) for name in "hc"]
        y = f"y_{case.shape.layers - 1}"

        def call(x, state):
            extractor = net.create_extractor()
            extractor.input("x", x)
            for name, part in zip(names, state, strict=True):
                extractor.input(name.format(0), part)
            found = [extractor.extract(name.format("n"))[1] for name in names]
            return extractor.extract(y)[1], found

        arrays = arrays_of(case, case.x)
        self.state = [np.ascontiguousarray(arrays[name.format(0)][:, 0]) for name in names]  # a Mat keeps no reference
        return call, [self.ncnn.Mat(array) for array in self.state]

    def inference(self, case):
        call, state = self.calling(case)
        self.x = case.x[:, 0].copy()
        x = self.ncnn.Mat(self.x)

        def results():
            y, final = call(x, state)
            h, c = (np.concatenate([np.array(part) for part in final[index::2]])[:, np.newaxis] for index in range(2))
            return {"y": np.array(y)[:, np.newaxis], "h_n": h, "c_n": c}

        return Run(call, [(x, state)], results)

    def streaming(self, case):
        call, state = self.calling(case)
        self.x = [x.copy() for x in case.x]

        def step(x):
            y, state[:] = call(x, state)
            return y

        return stepping(step, [(self.ncnn.Mat(x),) for x in self.x])


def names_of(values):
    """Return the names of a graph's inputs or outputs."""
    return [value.name for value in values]


def arrays_of(case, x):
    """Return arrays for the inputs and outputs of `onnx_model`, with the inputs filled."""
    B, _, _, H, L, D = case.shape
    arrays = {"x": x.copy(), "y": np.empty((len(x), B, D * H), np.float32)}
    for name, part in zip("hc", case.state, strict=True):
        for layer in range(L):
            arrays[f"{name}0_{layer}"] = part[layer * D : (layer + 1) * D].copy()
            arrays[f"{name}n_{layer}"] = np.empty((D, B, H), np.float32)
    return arrays


def alternating_arrays(case):
    """Return arrays for two steps of `onnx_model`, each of which reads the states that the other writes.

    The caller must keep a reference while they are in use: ONNX Runtime and OpenVINO do not.
    """
    even = arrays_of(case, case.x[:1])
    odd = {name: array.copy() for name, array in even.items()}
    for one, other in ((even, odd), (odd, even)):
        for name in "hc":
            for layer in range(case.shape.layers):
                one[f"{name}n_{layer}"] = other[f"{name}0_{layer}"]
    return even, odd


def joined(case, arrays):
    """Return the outputs of `onnx_model` under our names."""
    results = {"y": arrays["y"].copy()}
    for name in "hc":
        results[f"{name}_n"] = np.concatenate([arrays[f"{name}n_{layer}"] for layer in range(case.shape.layers)])
    return results


def onnx_model(lstm, steps, batch):
    """Return a graph with an LSTM node per layer: x, h0_0, c0_0, ... -> y, hn_0, cn_0, ...; gate rows i, o, f, g."""
    from onnx import TensorProto, checker, helper, numpy_helper

    H, D = lstm.hidden_size, lstm.num_directions
    inputs, outputs = {"x": (steps, batch, lstm.input_size)}, {"y": (steps, batch, D * H)}
    nodes, constants = [], {"output shape": np.array([steps, batch, D * H])}
    output = "x"
    for layer, suffixes in enumerate(directions(lstm)):
        weights = [[split(array, "iofg") for array in weights_of(lstm, suffix)] for suffix in suffixes]
        constants[f"W_{layer}"] = np.stack([weight_ih for weight_ih, _, _, _ in weights])
        constants[f"R_{layer}"] = np.stack([weight_hh for _, weight_hh, _, _ in weights])
        constants[f"B_{layer}"] = np.stack([np.concatenate(biases) for _, _, *biases in weights])
        state, final = ([f"{name}{end}_{layer}" for name in "hc"] for end in "0n")
        inputs |= dict.fromkeys(state, (D, batch, H))
        outputs |= dict.fromkeys(final, (D, batch, H))
        read = [output, f"W_{layer}", f"R_{layer}", f"B_{layer}", "", *state]
        direction = "bidirectional" if D == 2 else "forward"
        separate, output = f"separate_{layer}", "y" if layer == lstm.num_layers - 1 else f"y_{layer}"
        nodes.append(helper.make_node("LSTM", read, [separate, *final], hidden_size=H, direction=direction))
        if D == 2:  # it is (T, D, B, H)
            nodes.append(helper.make_node("Transpose", [separate], [f"rows_{layer}"], perm=[0, 2, 1, 3]))
            separate = f"rows_{layer}"
        nodes.append(helper.make_node("Reshape", [separate, "output shape"], [output]))
    graph = helper.make_graph(
        nodes,
        "lstm",
        *(
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
            for values in (inputs, outputs)
        ),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model


class TensorFlow(Peer):
    """Keras LSTM layers, compiled by XLA, which was faster than without XLA."""

    title = "TensorFlow"
    package = "tensorflow"
    needs = ("keras",)

    def __init__(self, threads):
        os.environ["KERAS_BACKEND"] = "tensorflow"
        import keras
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        self.keras, self.tensorflow = keras, tensorflow

    def layers(self, lstm):
        """Return layers that read (B, T, I)."""
        layers = []
        for suffixes in directions(lstm):
            weights = [keras_weights(lstm, suffix) for suffix in suffixes]
            layer = self.keras.layers.LSTM(lstm.hidden_size, return_sequences=True, return_state=True)
            if lstm.bidirectional:
                layer = self.keras.layers.Bidirectional(layer)
            layer.build((None, None, weights[0][0].shape[0]))
            layer.set_weights([array for arrays in weights for array in arrays])
            layers.append(layer)
        return layers

    def function(self, layers):
        """Return (x, h, c) -> y, h, c, with our layout of states, and x and y (B, T, ...)."""
        tensorflow = self.tensorflow

        def call(x, h, c):
            count = len(h) // len(layers)
            finals = []
            for index, layer in enumerate(layers):
                mine = slice(index * count, (index + 1) * count)
                pairs = zip(tensorflow.unstack(h[mine]), tensorflow.unstack(c[mine]), strict=True)
                x, *final = layer(x, initial_state=[part for pair in pairs for part in pair])
                finals += final
            return x, tensorflow.stack(finals[::2]), tensorflow.stack(finals[1::2])

        return call

    def compiled(self, function, *tensors):
        return self.tensorflow.function(function, jit_compile=True).get_concrete_function(*tensors)

    def tensors(self, case, x):
        return [self.tensorflow.constant(array) for array in (batch_first(x), *case.state)]

    def inference(self, case):
        tensors = self.tensors(case, case.x)
        function = self.compiled(self.function(self.layers(case.lstm)), *tensors)

        def results():
            y, h_n, c_n = (tensor.numpy() for tensor in function(*tensors))
            return {"y": batch_first(y), "h_n": h_n, "c_n": c_n}

        return Run(function, [tuple(tensors)], results)

    def streaming(self, case):
        _, *state = self.tensors(case, case.x)
        steps = [self.tensorflow.constant(x[:, np.newaxis]) for x in case.x]
        function = self.compiled(self.function(self.layers(case.lstm)), steps[0], *state)

        def step(x):
            y, *state[:] = function(x, *state)
            return y

        return stepping(step, [(x,) for x in steps], lambda y: y.numpy()[:, 0])

    def training(self, case):
        tensorflow = self.tensorflow
        layers = self.layers(case.lstm)
        forward = self.function(layers)
        variables = [variable.value for layer in layers for variable in layer.trainable_variables]

        def both(x, h, c, dy):
            with tensorflow.GradientTape() as tape:
                tape.watch((x, h, c))
                y, _, _ = forward(x, h, c)
            return y, tape.gradient(y, [x, h, c, *variables], output_gradients=dy)

        tensors = [*self.tensors(case, case.x), tensorflow.constant(batch_first(case.dy))]
        function = self.compiled(both, *tensors)

        def results():
            y, gradients = function(*tensors)
            x, h0, c0, *weights = (tensor.numpy() for tensor in gradients)
            found = {"y": batch_first(y.numpy()), "x": batch_first(x), "h0": h0, "c0": c0}
            suffixes = itertools.chain(*directions(case.lstm))
            for suffix, kernel, recurrent, bias in zip(suffixes, *(weights[k::3] for k in range(3)), strict=True):
                found["weight_ih" + suffix], found["weight_hh" + suffix] = kernel.T, recurrent.T
                found["bias_ih" + suffix] = found["bias_hh" + suffix] = bias
            return found

        return Run(function, [tuple(tensors)], results)


def keras_weights(lstm, suffix):
    """Return kernel, recurrent kernel and bias of one direction; Keras has the gates in our order."""
    weight_ih, weight_hh, bias_ih, bias_hh = weights_of(lstm, suffix)
    return [weight_ih.T, weight_hh.T, bias_ih + bias_hh]


def batch_first(array):
    """Swap the first two axes: (T, B, ...) to (B, T, ...), or back."""
    return np.ascontiguousarray(np.swapaxes(array, 0, 1))


class JAX(Peer):
    """lax.scan over steps, after one product for all inputs; compiled."""

    title = "JAX"
    package = "jax"

    def __init__(self, threads):
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax = jax

    def function(self, lstm):
        """Return (weights, x, h, c) -> y, h, c, with weights {our name: array} and our layout of states."""
        jax, suffixes = self.jax, directions(lstm)
        numpy, nn = jax.numpy, jax.nn

        def direction(weights, suffix, x, h, c, backwards):
            weight_ih, weight_hh, bias_ih, bias_hh = (weights[name + suffix] for name in NAMES)

            def step(state, z):
                h, c = state
                i, f, g, o = numpy.split(z + h @ weight_hh.T, 4, axis=-1)
                c = nn.sigmoid(f) * c + nn.sigmoid(i) * numpy.tanh(g)
                h = nn.sigmoid(o) * numpy.tanh(c)
                return (h, c), h

            return jax.lax.scan(step, (h, c), x @ weight_ih.T + (bias_ih + bias_hh), reverse=backwards)

        def call(weights, x, h, c):
            states, index = [], 0
            for layer in suffixes:
                outputs = []
                for backwards, suffix in enumerate(layer):
                    state, y = direction(weights, suffix, x, h[index], c[index], bool(backwards))
                    index += 1
                    outputs.append(y)
                    states.append(state)
                x = numpy.concatenate(outputs, axis=-1)
            h, c = (numpy.stack(part) for part in zip(*states, strict=True))
            return x, h, c

        return call

    def weights(self, lstm):
        return {name: self.jax.numpy.asarray(array) for name, array in lstm.parameters.items()}

    def arrays(self, *arrays):
        return [self.jax.numpy.asarray(array) for array in arrays]

    def inference(self, case):
        function = self.jax.jit(self.function(case.lstm))
        arguments = self.weights(case.lstm), *self.arrays(case.x, *case.state)
        wait = self.jax.block_until_ready
        return whole(lambda: dict(zip(("y", "h_n", "c_n"), wait(function(*arguments)), strict=True)))

    def streaming(self, case):
        function = self.jax.jit(self.function(case.lstm))
        weights = self.weights(case.lstm)
        state = self.arrays(*case.state)
        wait = self.jax.block_until_ready

        def step(x):
            y, *state[:] = wait(function(weights, x, *state))
            return y

        return stepping(step, [(x,) for x in self.arrays(*case.x[:, np.newaxis])], lambda y: np.asarray(y)[0])

    def training(self, case):
        forward = self.function(case.lstm)

        @self.jax.jit
        def both(weights, x, h, c, dy):
            y, back = self.jax.vjp(lambda *arguments: forward(*arguments)[0], weights, x, h, c)
            gradients, x, h0, c0 = back(dy)
            return {"y": y, "x": x, "h0": h0, "c0": c0, **gradients}

        arguments = self.weights(case.lstm), *self.arrays(case.x, *case.state, case.dy)
        wait = self.jax.block_until_ready
        return whole(lambda: wait(both(*arguments)))


#: float32 peers by the names of --peers, in the order of the tables' columns; ours is the first
PEERS = {
    "lstm_cy": Ours,
    "numpy": NumPy,
    "torch": PyTorch,
    "onnxruntime": ONNXRuntime,
    "openvino": OpenVINO,
    "tensorflow": TensorFlow,
    "jax": JAX,
    "ncnn": Ncnn,
    "tract": Tract,
    "mnn": Mnn,
}
#: further precisions of these peers: a name of PEERS, and another word
NARROW = {
    "openvino default": OpenVINODefault,
    "lstm_cy bf16": OursBfloat16,
    "torch bf16": PyTorchBfloat16,
    "lstm_cy int8": OursInt8,
    "torch int8": PyTorchInt8,
    "onnxruntime int8": ONNXRuntimeInt8,
}
EVERY = PEERS | NARROW
#: peers whose threads cannot be controlled well enough in a shared process: they get their own, even with one thread
APART = ("tensorflow", "jax")

#: the instruction sets to which peers can be held, by the name that oneDNN has for them: PyTorch's own and MKL's names
HELD = {"SSE41": ("default", "SSE4_2"), "AVX2": ("avx2", "AVX2"), "AVX512_CORE": ("avx512", "AVX512")}


def held_to(isa):
    """Return the environment variables that hold the peers with `onednn` to an instruction set."""
    torch, mkl = HELD[isa]
    return {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": torch, "MKL_ENABLE_INSTRUCTIONS": mkl}


def installed(name):
    """Return whether a peer's libraries are installed."""
    peer = EVERY[name]
    return all(importlib.util.find_spec(package) for package in (peer.package, *peer.needs))
