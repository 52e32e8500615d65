"""Derivatives of lstm_cy.torch: finite differences, second ones, batches of gradients, PyTorch's module database."""

import contextlib
import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.func import functional_call  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402

import lstm_cy.torch  # noqa: E402

OPTIONS = [
    {},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True},
    {"num_layers": 2, "dropout": 0.5, "bias": False},
]
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def case(options, seed=0, **more):
    """Return a module in float64 and (x, h, c) that need gradients."""
    torch.manual_seed(seed)
    module = lstm_cy.torch.LSTM(3, 4, dtype=torch.float64, **options, **more)
    directions = module.num_layers * (2 if module.bidirectional else 1)
    shapes = (2, 2, 3), (directions, 2, module.proj_size or 4), (directions, 2, 4)
    return module, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_first_and_second_derivatives(options, packed):
    module, inputs = case(options)
    names, weights = zip(*module.named_parameters(), strict=True)

    def run(x, h, c, *weights):
        torch.manual_seed(3)  # the masks of dropout
        given = pack_padded_sequence(x, [1, 2], module.batch_first, enforce_sorted=False) if packed else x
        y, states = functional_call(module, dict(zip(names, weights, strict=True)), (given, (h, c)))
        return (y.data if packed else y), *states

    assert gradcheck(run, (*inputs, *weights), check_batched_grad=not packed)
    assert gradgradcheck(run, (*inputs, *weights), fast_mode=True)


@pytest.mark.parametrize("shape", [(2, 3), (3,)])
def test_derivatives_of_cells(shape):
    torch.manual_seed(0)
    cell = lstm_cy.torch.LSTMCell(3, 4, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    hx = [torch.randn((*shape[:-1], 4), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert gradcheck(lambda x, h, c: cell(x, (h, c)), (x, *hx), fast_mode=True)
    assert gradgradcheck(lambda x, h, c: cell(x, (h, c)), (x, *hx), fast_mode=True)


def test_a_state_computed_from_the_input_adds_its_part_once():
    module, (x, _, _) = case({})
    plain = lstm_cy.torch.restore(copy.deepcopy(module))
    found = []
    for each in (module, plain):
        h = x.mean(0, keepdim=True)[..., :1].expand(1, 2, 4)
        y, _ = each(x, (h.contiguous(), h * 2))
        (first,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append([first, *torch.autograd.grad(first.square().sum(), [x, *each.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_penalties_on_gradients_in_float32():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 5)
    ours = lstm_cy.torch.replace(copy.deepcopy(plain))
    x = torch.randn(4, 2, 3, requires_grad=True)
    found = []
    for module, onednn in ((ours, True), (plain, False)):  # oneDNN's LSTM has no second derivative
        torch._C._set_mkldnn_enabled(onednn)
        try:
            (first,) = torch.autograd.grad(module(x)[0].sum(), x, create_graph=True)
            (first.norm() - 1).square().backward()
        finally:
            torch._C._set_mkldnn_enabled(True)
        found.append([weight.grad for weight in module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by PyTorch's forward mode
def test_transformations_of_torch_func_give_pytorchs_results():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 4, dtype=torch.float64)
    ours = lstm_cy.torch.replace(copy.deepcopy(plain))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    weights = {name: weight.detach() for name, weight in plain.named_parameters()}
    for transform in (
        lambda module: torch.func.grad(lambda w: functional_call(module, w, (x,))[0].sin().sum())(weights)[
            "bias_hh_l0"
        ],
        lambda module: torch.func.jacfwd(lambda x: module(x)[0])(x),
        lambda module: torch.func.jvp(lambda x: module(x)[0], (x,), (torch.ones_like(x),))[1],
        lambda module: torch.autograd.functional.jacobian(lambda x: module(x)[0], x),
        lambda module: torch.autograd.functional.hessian(lambda x: module(x)[0].sin().sum(), x),
    ):
        torch.testing.assert_close(transform(ours), transform(plain))


DATABASE = [info for info in module_db if info.name in ("nn.LSTM", "nn.LSTMCell")]
SAMPLES = [
    (info, dtype, training)
    for info in DATABASE
    for dtype in (torch.float32, torch.float64)
    for training in (True, False)
]


@pytest.mark.parametrize(("info", "dtype", "training"), SAMPLES, ids=lambda value: getattr(value, "name", str(value)))
def test_pytorchs_module_database(info, dtype, training):
    kind = getattr(lstm_cy.torch, info.name.removeprefix("nn."))
    assert len(DATABASE) == 2
    seen = 0
    for sample in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=True, training=training):
        made, given = sample.constructor_input, sample.forward_input
        torch.manual_seed(1)
        plain = info.module_cls(*made.args, **made.kwargs, dtype=dtype).train(training)
        torch.manual_seed(1)
        ours = kind(*made.args, **made.kwargs, dtype=dtype).train(training)
        found = []
        for module in (ours, plain):
            torch.manual_seed(2)
            result = module(*given.args, **given.kwargs)
            flat = torch.utils._pytree.tree_leaves(result)
            for each in module.parameters():
                each.grad = None
            sum(each.sin().sum() for each in flat).backward()
            found.append([*flat, *(weight.grad for weight in module.parameters())])
        torch.testing.assert_close(*found)
        seen += 1
        if dtype is torch.float64:
            with torch.random.fork_rng():
                assert _checked(ours, given)
    assert seen or not training


def _checked(module, given):
    """Check a module's gradients by finite differences with respect to its weights."""
    names, weights = zip(*module.named_parameters(), strict=True)

    def run(*weights):
        torch.manual_seed(2)
        result = functional_call(module, dict(zip(names, weights, strict=True)), given.args, given.kwargs)
        return tuple(torch.utils._pytree.tree_leaves(result))

    with contextlib.suppress(AttributeError):
        module.flatten_parameters()
    return gradcheck(run, weights, fast_mode=True)
