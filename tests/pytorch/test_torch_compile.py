"""The operator of lstm_cy.torch: its registration, torch.compile, torch.export."""

import copy
import shutil

import pytest

torch = pytest.importorskip("torch")

from torch import library, nn  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import lstm_cy.torch  # noqa: E402

# PyTorch's own, in its compiler
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")]


def arguments(packed=False, with_tape=True, **options):
    module = lstm_cy.torch.LSTM(5, 7, **options)
    directions = module.num_layers * (2 if module.bidirectional else 1)
    x, batch_sizes, order = torch.randn(6, 4, 5), None, None
    if packed:
        x, batch_sizes, order, _ = pack_padded_sequence(x, [2, 6, 1, 3], enforce_sorted=False)
    states = torch.randn(directions, 4, module.proj_size or 7), torch.randn(directions, 4, 7)
    x, h, c = (each.detach().requires_grad_() for each in (x, *states))
    sizes = module.num_layers, module.bias, module.bidirectional, module.proj_size, False, 1.0
    return x, h, c, list(module.parameters()), None, batch_sizes, order, *sizes, with_tape, False


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "proj_size": 3},
        {"packed": True, "num_layers": 2},
        {"with_tape": False},
    ],
)
def test_the_operator_is_registered_as_pytorch_expects(options):
    library.opcheck(torch.ops.lstm_cy.lstm, arguments(**options))


def test_a_compiled_model_under_autocast_computes_in_bf16():
    module = lstm_cy.torch.LSTM(5, 7, num_layers=2)
    x = torch.randn(6, 4, 5)
    found = []
    for call in (module, torch.compile(module, backend="aot_eager", fullgraph=True)):
        module.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = call(x)[0]
        y.float().square().sum().backward()
        found.append([y.detach(), *(weight.grad for weight in module.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert not torch.equal(found[0][0], module(x)[0].bfloat16())


def test_first_and_second_derivatives_of_the_operator():
    x, h, c, weights, *rest = arguments(bidirectional=True)
    *options, _, bf16 = rest
    x, h, c, *weights = (each.detach().double().requires_grad_() for each in (x[:2, :2], h[:, :2], c[:, :2], *weights))
    for with_tape in (False, True):

        def run(x, h, c, *weights, with_tape=with_tape):
            return torch.ops.lstm_cy.lstm(x, h, c, weights, *options, with_tape, bf16)[:3]

        assert torch.autograd.gradcheck(run, (x, h, c, *weights), fast_mode=True)
        assert torch.autograd.gradgradcheck(
            run, (x, h, c, *weights[:1], *(w.detach() for w in weights[1:])), fast_mode=True
        )


class Model(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, batch_first=True, bidirectional=True, dropout=dropout)
        self.cell = nn.LSTMCell(14, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y, (h, c) = self.lstm(x)
        y, _ = self.lstm(x, (h, c))
        state = self.cell(y[:, 0])
        return self.head(self.cell(y[:, 1], state)[0])


def models(**options):
    torch.manual_seed(0)
    plain = Model(**options)
    return plain, lstm_cy.torch.replace(copy.deepcopy(plain))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_models_train_as_pytorchs(backend, monkeypatch, tmp_path):
    # what an earlier version of the operator left on disk has other sizes of the tape
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    if backend == "inductor" and not shutil.which("gcc"):
        pytest.skip("the compiler of inductor needs gcc")
    torch._dynamo.reset()
    plain, ours = models()
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    for B in (4, 3):
        x = torch.randn(B, 6, 5)
        for module in (plain, ours):
            module.zero_grad()
        found, expected = compiled(x), plain(x)
        torch.testing.assert_close(found, expected)
        found.square().sum().backward()
        expected.square().sum().backward()
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        with torch.no_grad():
            for weight in (*ours.parameters(), *plain.parameters()):
                weight.mul_(0.9)
            torch.testing.assert_close(compiled(x), plain(x))


def test_compiled_dropout_keeps_its_share():
    torch._dynamo.reset()
    _, ours = models(dropout=0.5)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 6, 5)
    assert not torch.equal(compiled(x), compiled(x))
    ours.eval()
    assert torch.equal(compiled(x), compiled(x))


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_take_any_number_of_rows_and_steps(strict, tmp_path):
    plain, ours = models()
    sizes = {0: torch.export.Dim("B", min=1, max=1000), 1: torch.export.Dim("T", min=2, max=1000)}
    program = torch.export.export(ours, (torch.randn(4, 6, 5),), dynamic_shapes=(sizes,), strict=strict)
    assert sum(node.target is torch.ops.lstm_cy.lstm.default for node in program.graph.nodes) == 4
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for B, T in ((2, 9), (7, 30), (1, 3)):
        x = torch.randn(B, T, 5)
        torch.testing.assert_close(loaded(x), plain(x))
    gradients = [torch.autograd.grad(each(x).sum(), each.get_parameter("head.weight"))[0] for each in (loaded, plain)]
    torch.testing.assert_close(*gradients)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 7, num_layers=2, bidirectional=True)

    def forward(self, *packed):
        y, (h, c) = self.lstm(PackedSequence(*packed))
        return y.data, h, c


def test_packed_sequences_of_any_size_in_compiled_and_exported_programs():
    torch.manual_seed(0)
    plain = Packed()
    ours = lstm_cy.torch.replace(copy.deepcopy(plain))
    first = pack_padded_sequence(torch.randn(6, 4, 5), [2, 6, 1, 3], enforce_sorted=False)
    rows, steps, batch = (torch.export.Dim(name, min=1, max=1000) for name in ("rows", "T", "B"))
    program = torch.export.export(ours, tuple(first), dynamic_shapes=(({0: rows}, {0: steps}, {0: batch}, {0: batch}),))
    torch._dynamo.reset()
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager", dynamic=True)
    for lengths in ([2, 6, 1, 3], [5, 5, 2], [1, 2, 3, 4, 5, 6]):
        x = torch.randn(max(lengths), len(lengths), 5)
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        for call in (program.module(), compiled):
            torch.testing.assert_close(call(*packed), plain(*packed))


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (0, torch.zeros(6, 4, 4)),
        (0, torch.zeros(6, 5)),
        (0, torch.zeros(6, 4, 5, dtype=torch.int64)),
        (1, torch.zeros(1, 3, 7)),
        (2, torch.zeros(1, 4, 7, dtype=torch.float64)),
        (3, []),
        (3, [torch.zeros(28, 5)]),
        (4, torch.ones(1, 6, 4, 7)),
    ],
)
def test_the_operator_refuses_what_the_kernels_cannot_read(place, wrong):
    given = list(arguments())
    given[place] = wrong
    with torch.no_grad(), pytest.raises(RuntimeError, match="expected"):
        torch.ops.lstm_cy.lstm(*given)


def test_the_operator_of_backward_refuses_what_the_kernels_cannot_read():
    x, h, c, weights, *others, _ = arguments()
    given = [torch.zeros(6, 4, 7), None, None, x, h, c, weights, torch.zeros(0), *others]
    torch.ops.lstm_cy.lstm_backward(*given)
    for place, wrong in ((0, torch.zeros(6, 4, 8)), (2, torch.zeros(1, 5, 7)), (7, torch.zeros(3))):
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.lstm_cy.lstm_backward(*given[:place], wrong, *given[place + 1 :])


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        module = lstm_cy.torch.LSTM(5, 7, proj_size=3)
        y, (h, c) = module(torch.empty(6, 4, 5))
        h_1, c_1 = lstm_cy.torch.LSTMCell(5, 7)(torch.empty(4, 5))
    assert (y.shape, h.shape, c.shape) == ((6, 4, 3), (1, 4, 3), (1, 4, 7))
    assert h_1.shape == c_1.shape == (4, 7)
