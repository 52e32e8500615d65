"""lstm_cy.torch's LSTM and LSTMCell compared with torch.nn's: results, gradients, random numbers, errors, warnings."""

import copy
import gc
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence  # noqa: E402

import lstm_cy.torch  # noqa: E402
from lstm_cy import from_torch  # noqa: E402
from lstm_cy.torch import kernels, modules, packing  # noqa: E402

OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True, "dropout": 0.4},
    {"num_layers": 2, "proj_size": 3},
    {"num_layers": 3, "proj_size": 2, "bidirectional": True, "batch_first": True, "bias": False, "dropout": 0.5},
    {"num_layers": 2, "dropout": 1.0},
]
SIZES = [(1, 4, 1, 1), (5, 17, 3, 4), (33, 7, 9, 6)]  # I, H, T, B
# PyTorch says that oneDNN has no projections
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def pair(input_size, hidden_size, dtype=torch.float32, kind=nn.LSTM, seed=0, **options):
    """Return a module of torch.nn and its counterpart with parameters of its own."""
    torch.manual_seed(seed)
    plain = kind(input_size, hidden_size, dtype=dtype, **options)
    return plain, lstm_cy.torch.replace(copy.deepcopy(plain))


def states_of(module, B, dtype):
    directions = module.num_layers * (2 if module.bidirectional else 1)
    shapes = [(directions, *B, width) for width in (module.proj_size or module.hidden_size, module.hidden_size)]
    return tuple(torch.randn(shape, dtype=dtype) for shape in shapes)


def results(module, x, hx, loss_of_states=True, seed=1):
    """Return the output, the states, and all gradients of a loss; x is a tensor or a pair (tensor, lengths)."""
    x, lengths = x if isinstance(x, tuple) else (x, None)
    leaves = [each.detach().clone().requires_grad_() for each in (x, *(hx or ()))]
    given = leaves[0]
    if lengths is not None:
        given = pack_padded_sequence(given, lengths, batch_first=module.batch_first, enforce_sorted=False)
    module.zero_grad()
    torch.manual_seed(seed)
    y, (h, c) = module(given, tuple(leaves[1:]) or None)
    y = y.data if lengths is not None else y
    loss = y.sin().sum()
    if loss_of_states:
        loss = loss + (1.7 * h).cos().sum() + c.square().sum()
    loss.backward()
    return [y, h, c, *(leaf.grad for leaf in leaves), *(weight.grad for weight in module.parameters())]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype and one.shape == other.shape
        tolerance = 2e-5 if one.dtype is torch.float32 else 1e-11
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("options", OPTIONS)
def test_results_and_gradients_equal_pytorchs(options, sizes, dtype):
    I, H, T, B = sizes
    plain, ours = pair(I, H, dtype, **options)
    assert type(ours) is lstm_cy.torch.LSTM
    x = torch.randn(*((B, T) if plain.batch_first else (T, B)), I, dtype=dtype)
    hx = states_of(plain, (B,), dtype)
    for state in (None, hx):
        assert_close(results(ours, x, state), results(plain, x, state))
    assert_close(results(ours, x[0], None), results(plain, x[0], None))  # one sequence
    alone = states_of(plain, (), dtype)
    assert_close(results(ours, x[0], alone), results(plain, x[0], alone))
    lengths = torch.arange(B) % T + 1
    for state in (None, hx):
        assert_close(results(ours, (x, lengths), state), results(plain, (x, lengths), state))
    plain.eval(), ours.eval()
    assert_close(results(ours, x, hx), results(plain, x, hx))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            (y, state), (their_y, their_state) = ours(x, hx), plain(x, hx)
            assert_close([y, *state], [their_y, *their_state])
            assert not y.requires_grad and y.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (1,), (5,)])
def test_cells_equal_pytorchs(lead, bias, dtype):
    plain, ours = pair(3, 17, dtype, nn.LSTMCell, bias=bias)
    assert type(ours) is lstm_cy.torch.LSTMCell

    def run(module, x, hx):
        leaves = [each.detach().clone().requires_grad_() for each in (x, *(hx or ()))]
        module.zero_grad()
        h, c = module(leaves[0], tuple(leaves[1:]) or None)
        h, c = module(leaves[0], (h, c))
        (h.sin().sum() + c.square().sum()).backward()
        return [h, c, *(leaf.grad for leaf in leaves), *(weight.grad for weight in module.parameters())]

    x = torch.randn(*lead, 3, dtype=dtype)
    hx = torch.randn(*lead, 17, dtype=dtype), torch.randn(*lead, 17, dtype=dtype)
    for state in (None, hx):
        assert_close(run(ours, x, state), run(plain, x, state))
        with torch.no_grad():
            assert_close(ours(x, state), plain(x, state))


def test_packed_sequences_keep_their_order_and_form():
    plain, ours = pair(3, 5, bidirectional=True, num_layers=2)
    x, lengths = torch.randn(6, 4, 3), torch.tensor([2, 6, 1, 3])
    for is_sorted in (False, True):
        given = lengths.sort(descending=True).values if is_sorted else lengths
        packed = pack_padded_sequence(x, given, enforce_sorted=is_sorted)
        (y, state), (their_y, their_state) = ours(packed), plain(packed)
        assert isinstance(y, PackedSequence)
        assert_close([y.data, *state], [their_y.data, *their_state])
        for one, other in zip(y[1:], their_y[1:], strict=True):
            assert one is other or torch.equal(one, other)


def test_a_contradictory_packed_sequence_is_pytorchs_error():
    _, ours = pair(3, 5)
    wrong = PackedSequence(torch.randn(4, 3), torch.tensor([3, 2]))
    with pytest.raises(RuntimeError):
        ours(wrong)
    order = torch.tensor([0, 1, 7]), torch.tensor([0, 1, 2])
    with pytest.raises((IndexError, RuntimeError)):
        ours(PackedSequence(torch.randn(5, 3), torch.tensor([3, 2]), *order), (torch.zeros(1, 3, 5),) * 2)


def test_layouts_and_views():
    plain, ours = pair(3, 5)
    x = torch.randn(4, 9, 6)[:, ::2, ::2].transpose(0, 1)
    hx = tuple(torch.randn(5, 4, 1).permute(2, 1, 0) for _ in range(2))
    before = [each.clone() for each in (x, *hx)]
    assert_close(results(ours, x, hx), results(plain, x, hx))
    assert_close([x, *hx], before)
    expanded = torch.randn(1, 1, 3).expand(5, 4, 3)
    assert_close(results(ours, expanded, None), results(plain, expanded, None))
    with torch.no_grad():
        ours.weight_hh_l0 = plain.weight_hh_l0 = nn.Parameter(torch.randn(5, 20).t())
    assert_close(results(ours, x, hx), results(plain, x, hx))


def test_weights_are_followed_however_they_change():
    plain, ours = pair(3, 5, num_layers=2)
    x = torch.randn(4, 2, 3)

    def check():
        with torch.no_grad():
            assert_close([ours(x)[0]], [plain(x)[0]])
        assert_close(results(ours, x, None), results(plain, x, None))

    check()
    for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
        results(plain, x, None)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = other.grad.clone()
        for module in (plain, ours):
            kind(module.parameters(), lr=0.1).step()
        check()
    changes = [
        lambda module: nn.init.orthogonal_(module.weight_hh_l1),
        lambda module: module.load_state_dict({name: 0.5 * w for name, w in module.state_dict().items()}),
        lambda module: setattr(module, "bias_ih_l0", nn.Parameter(torch.ones(20))),
        lambda module: setattr(module.weight_ih_l0, "data", torch.full((20, 3), 0.25)),
        lambda module: module.bias_hh_l1.data[5:10].fill_(1.0),
        lambda module: module.weight_hh_l0.data.mul_(0.5),
        lambda module: np.multiply(module.weight_ih_l1.detach().numpy(), 2, out=module.weight_ih_l1.detach().numpy()),
    ]
    for change in changes:
        torch.manual_seed(5)  # some of them draw numbers
        change(plain)
        torch.manual_seed(5)
        change(ours)
        check()


def test_one_changed_number_is_noticed_in_a_long_call():
    plain, ours = pair(64, 64)
    x = torch.randn(64, 1, 64)
    with torch.no_grad():
        ours(x)
        for module in (plain, ours):
            module.weight_hh_l0.data[101, 37] += 1
        assert_close([ours(x)[0]], [plain(x)[0]])


def test_one_changed_number_is_noticed_after_some_short_calls():
    plain, ours = pair(256, 200)
    x = torch.randn(1, 1, 256)
    with torch.no_grad():
        ours(x)
        for module in (plain, ours):
            module.weight_ih_l0.data[799, 255] += 1  # the last number
        expected = plain(x)[0]
        assert any(torch.allclose(ours(x)[0], expected, atol=1e-5) for _ in range(5))


def test_new_memory_at_an_old_address_is_packed_again():
    module = lstm_cy.torch.LSTM(40, 40)
    x = torch.randn(1, 1, 40)
    for seed in range(20):
        torch.manual_seed(seed)
        weights = {name: torch.randn_like(w) for name, w in module.named_parameters()}
        ours = torch.func.functional_call(module, weights, (x,))[0]
        theirs = torch.func.functional_call(nn.LSTM(40, 40), weights, (x,))[0]
        assert_close([ours], [theirs])
        del weights


def test_networks_of_deleted_modules_are_removed():
    _, ours = pair(3, 5)
    ours(torch.randn(2, 1, 3))
    before = set(packing._entries)
    del ours
    gc.collect()
    _, other = pair(4, 6)
    other(torch.randn(2, 1, 4))
    expired = [entry for entry in packing._entries.values() if not entry.is_alive()]
    assert not expired and len(packing._entries) <= len(before) + 1


def test_conversions_may_swap_the_tensors():
    plain, ours = pair(3, 5)
    x = torch.randn(2, 2, 3)
    ours(x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        for module in (plain, ours):
            module.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert_close([ours(x.double())[0]], [plain(x.double())[0]])


def test_weights_made_in_inference_mode():
    with torch.inference_mode():
        plain, ours = pair(3, 5)
        x = torch.randn(4, 2, 3)
        assert_close([ours(x)[0]], [plain(x)[0]])
        for module in (plain, ours):
            module.weight_hh_l0.mul_(0.5)
        assert_close([ours(x)[0]], [plain(x)[0]])


def test_frozen_parameters_get_no_gradient():
    plain, ours = pair(3, 5)
    for module in (plain, ours):
        module.weight_ih_l0.requires_grad_(False)
        module(torch.ones(4, 2, 3))[0].sum().backward()
        assert module.weight_ih_l0.grad is None
    assert_close([ours.weight_hh_l0.grad, ours.bias_hh_l0.grad], [plain.weight_hh_l0.grad, plain.bias_hh_l0.grad])
    ours.requires_grad_(False)
    assert not ours(torch.ones(4, 2, 3))[0].requires_grad
    x = torch.ones(4, 2, 3, requires_grad=True)
    plain.requires_grad_(False)
    assert_close(*([torch.autograd.grad(module(x)[1][1].sum(), x)[0]] for module in (ours, plain)))


@pytest.mark.parametrize("T", [4, 1100])  # 1100: sums in parts
def test_only_requested_gradients_are_computed(T):
    plain, ours = pair(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    x = torch.randn(T, 2, 3, requires_grad=True)
    weights = [list(module.parameters()) for module in (ours, plain)]
    for chosen in ([], [0], [1, 12], [2], [3, 8], range(4, 20), [19]):
        found = []
        for module, own in zip((ours, plain), weights, strict=True):
            y = module(x)[0]
            found.append(torch.autograd.grad(y.sin().mean(), [*(own[k] for k in chosen), x][: len(chosen) or 1]))
        assert_close(*found)


def test_gradients_in_any_form():
    plain, ours = pair(3, 5)
    x = torch.randn(4, 2, 3)
    found = []
    for module in (ours, plain):
        found.append([])
        for gradient in (
            torch._neg_view(torch.ones(4, 2, 5)),
            torch.ones(1).expand(4, 2, 5),
            torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0)).permute(2, 1, 0),
        ):
            module.zero_grad()
            module(x)[0].backward(gradient)
            found[-1] += [weight.grad for weight in module.parameters()]
    assert_close(*found)


def test_backward_twice_and_changes_in_place():
    _, ours = pair(3, 5)
    x = torch.randn(4, 2, 3, requires_grad=True)
    y, _ = ours(x)
    (first,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (second,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y.sum(), x)
    y, _ = ours(x)
    with torch.no_grad():
        ours.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y, (h, _) = ours(x)
    y *= 2  # an output may be changed in place
    h += 1
    y.sum().backward()


def test_hooks_copies_pickles_and_state_dicts(tmp_path):
    plain, ours = pair(3, 5, num_layers=2, proj_size=2)
    x = torch.randn(4, 2, 3)
    expected = plain(x)[0]
    seen = []
    handles = [
        ours.register_forward_hook(lambda module, args, result: seen.append("forward")),
        ours.register_forward_pre_hook(lambda module, args: seen.append("before")),
        ours.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append("backward")),
    ]
    inputs = x.clone().requires_grad_()
    ours(inputs)[0].sum().backward()
    assert seen == ["before", "forward", "backward"]
    for handle in handles:
        handle.remove()
    torch.save(ours, tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), loaded):
        assert type(other) is lstm_cy.torch.LSTM
        assert_close([other(x)[0]], [expected])
        with torch.no_grad():
            other.weight_hh_l0.zero_()
    assert_close([ours(x)[0]], [expected])
    fresh = lstm_cy.torch.LSTM(3, 5, num_layers=2, proj_size=2)
    assert list(fresh.state_dict()) == list(plain.state_dict())
    fresh.load_state_dict(plain.state_dict())
    nn.LSTM(3, 5, num_layers=2, proj_size=2).load_state_dict(fresh.state_dict())
    assert_close([fresh(x)[0]], [expected])
    assert repr(fresh) == repr(plain)


def test_saved_tensor_hooks_and_checkpointing():
    plain, ours = pair(3, 5, num_layers=2)
    x = torch.randn(4, 2, 3, requires_grad=True)
    expected = results(plain, x, None)
    assert_close(results(ours, x, None), expected)
    with torch.autograd.graph.save_on_cpu():
        assert_close(results(ours, x, None), expected)
    ours.zero_grad()
    y, (h, c) = torch.utils.checkpoint.checkpoint(ours, x, use_reentrant=False)
    (y.sin().sum() + (1.7 * h).cos().sum() + c.square().sum()).backward()
    assert_close([w.grad for w in ours.parameters()], expected[4:])


def test_parametrizations_pruning_and_functional_calls():
    for change in (
        lambda module: nn.utils.parametrizations.weight_norm(module, "weight_hh_l0"),
        lambda module: nn.utils.parametrizations.spectral_norm(module, "weight_hh_l0"),
        lambda module: prune.l1_unstructured(module, "weight_hh_l0", 0.5),
    ):
        plain, ours = pair(3, 5)
        for module in (plain, ours):
            torch.manual_seed(3)
            change(module)
            module.eval()
        assert isinstance(ours, lstm_cy.torch.LSTM)
        x = torch.randn(4, 2, 3)
        assert_close(results(ours, x, None), results(plain, x, None))
    plain, ours = pair(3, 5)
    weights = {name: torch.randn_like(weight).requires_grad_() for name, weight in plain.named_parameters()}
    found = []
    for module in (ours, plain):
        y, _ = torch.func.functional_call(module, weights, (x,))
        found.append([y, *torch.autograd.grad(y.sin().sum(), list(weights.values()))])
    assert_close(*found)


AUTOCAST = [
    (x, state, dtype)
    for x in (torch.float32, torch.bfloat16, torch.float16)
    for state in (None, torch.float32, torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float16)
]


@pytest.mark.parametrize(("x_dtype", "state_dtype", "autocast_dtype"), AUTOCAST)
@pytest.mark.parametrize("form", ["LSTM", "cell", "packed", "projected"])
def test_dtypes_under_autocast_are_pytorchs(form, x_dtype, state_dtype, autocast_dtype):
    plain, ours = pair(3, 5, kind=nn.LSTMCell) if form == "cell" else pair(3, 5, proj_size=2 * (form == "projected"))
    x = torch.randn((2, 3) if form == "cell" else (4, 2, 3)).to(x_dtype).requires_grad_()
    hx = None
    if state_dtype is not None:
        widths = (2 if form == "projected" else 5), 5
        hx = tuple(torch.randn((2, w) if form == "cell" else (1, 2, w)).to(state_dtype) for w in widths)

    given = pack_padded_sequence(x, [4, 3]) if form == "packed" else x

    def run(module):
        found = module(given, hx)
        if form == "cell":
            return found
        return found[0].data if form == "packed" else found[0], *found[1]

    with torch.autocast("cpu", dtype=autocast_dtype):
        found = run(ours)
        try:
            expected = run(plain)
        except RuntimeError:  # no LSTM of this dtype in oneDNN on this processor, or mixed float16 and bfloat16
            expected = None
    found[0].float().sum().backward()
    assert x.grad.dtype is x_dtype and all(weight.grad is not None for weight in ours.parameters())
    if expected is not None:
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.float(), other.float(), rtol=0.1, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "proj_size": 3}])
def test_autocast_to_bfloat16_computes_in_bf16(options):
    plain, ours = pair(7, 33, **options)
    x = torch.randn(9, 5, 7).bfloat16()
    dy = torch.randn(9, 5, 2 * 3 if options else 33).bfloat16()
    found = results_under_autocast(ours, x.float(), dy)
    layer = from_torch(plain)
    y, (h_n, _), tape = layer.forward(x.float().numpy(), precision="bf16")
    gradients = layer.backward(tape, dy.float().numpy())
    expected = [torch.from_numpy(each) for each in (y, h_n, gradients.x, *gradients.parameters.values())]
    expected[:2] = [each.bfloat16() for each in expected[:2]]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is other.dtype and torch.equal(one, other)
    x.requires_grad_()
    plain(x.float())[0].backward(dy.float())
    torch.testing.assert_close(found[2], x.grad.float(), rtol=0.05, atol=0.02)
    for one, weight in zip(found[3:], plain.parameters(), strict=True):
        torch.testing.assert_close(one, weight.grad, rtol=0.05, atol=0.05 * float(weight.grad.abs().max()))
    # float32 and bf16 in turns: both networks are kept
    y32 = ours(x.detach().float())[0]
    assert_close([y32], [plain(x.detach().float())[0]])
    assert not torch.equal(y32, found[0].float())
    again = results_under_autocast(ours, x.detach().float(), dy)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def results_under_autocast(module, x, dy):
    x = x.detach().clone().requires_grad_()
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, (h, _) = module(x)
    y.backward(dy)
    return [y.detach(), h.detach(), x.grad, *(weight.grad for weight in module.parameters())]


def test_a_cell_under_autocast_to_bfloat16_makes_the_steps_of_the_lstm():
    _, lstm = pair(6, 19)
    cell = lstm_cy.torch.LSTMCell(6, 19)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
    x, states = torch.randn(3, 4, 6), None
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        y, _ = lstm(x)
        first = cell(x[0])[0]
        for step in x:
            states = cell(step, states)
    assert torch.equal(y[0].float(), first.bfloat16().float())
    torch.testing.assert_close(states[0].float(), y[-1].float(), rtol=0, atol=0.02)


def test_what_the_kernels_cannot_take_runs_in_pytorch_with_one_warning(monkeypatch):
    monkeypatch.setattr(modules, "_warned", set())

    class Own(torch.Tensor):
        pass

    x = torch.randn(4, 2, 3, dtype=torch.bfloat16)
    with pytest.warns(UserWarning, match="a tensor of torch.bfloat16 runs in PyTorch's own LSTM"):
        lstm_cy.torch.LSTM(3, 5, dtype=torch.bfloat16, proj_size=2)(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lstm_cy.torch.LSTMCell(3, 5, dtype=torch.bfloat16)(x[0])
    plain, ours = pair(3, 5)
    x = torch.randn(4, 2, 3)
    with pytest.warns(UserWarning, match="a tensor of type Own runs in PyTorch's own LSTM"):
        y, _ = ours(x.as_subclass(Own))
    assert type(y) is Own
    assert_close([y.as_subclass(torch.Tensor)], [plain(x)[0]])
    on_meta = ours.to("meta")(x.to("meta"))[0]
    assert on_meta.device.type == "meta" and on_meta.shape == (4, 2, 5)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_script_may_set_pytorchs_classes_to_ours(monkeypatch):
    plain, ours = pair(3, 5)
    plain_cell, cell = pair(3, 5, kind=nn.LSTMCell)
    x = torch.randn(4, 2, 3)
    monkeypatch.setattr(nn, "LSTM", lstm_cy.torch.LSTM)
    monkeypatch.setattr(nn, "LSTMCell", lstm_cy.torch.LSTMCell)
    assert type(nn.LSTM(3, 5)) is lstm_cy.torch.LSTM and isinstance(ours, nn.LSTM)
    for wrong in (x[..., :2], x[0, 0], x[:0]):
        with pytest.raises((ValueError, RuntimeError)) as expected:
            plain(wrong)
        with pytest.raises(expected.type, match=re.escape(str(expected.value))):
            ours(wrong)
    assert_close([ours(x[:, :0])[0]], [plain(x[:, :0])[0]])
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        assert_close(cell(x[0]), plain_cell(x[0]))
    scripted = torch.jit.script(nn.ModuleList([ours, cell]))
    assert_close([scripted[0](x)[0], *scripted[1](x[0])], [plain(x)[0], *plain_cell(x[0])])
    model = nn.Sequential(plain, plain_cell)
    assert {type(part) for part in lstm_cy.torch.replace(model)} == {nn.LSTM, nn.LSTMCell}
    assert {type(part) for part in lstm_cy.torch.restore(model)} == {modules.LSTM.plain, modules.LSTMCell.plain}


ERRORS = {
    "dims": lambda x, h: (x[None], None),
    "one dim": lambda x, h: (x[0, 0], None),
    "inputs": lambda x, h: (x[..., :2], None),
    "hidden": lambda x, h: (x, (h[:, :1], h)),
    "cell": lambda x, h: (x, (h, h[..., :3])),
    "2-D state": lambda x, h: (x, (h[0], h[0])),
    "3-D state": lambda x, h: (x[:, 0], (h, h)),
    "dtype": lambda x, h: (x.double(), None),
    "integers": lambda x, h: (x.long(), None),
    "state's dtype": lambda x, h: (x, (h.double(), h.double())),
    "no steps": lambda x, h: (x[:0], None),
    "array": lambda x, h: (x.numpy(), None),
    "one state": lambda x, h: (x, (h,)),
    "no pair": lambda x, h: (x, h),
    "packed state": lambda x, h: (pack_padded_sequence(x, [3, 2]), (h[:, :1], h[:, :1])),
    "packed inputs": lambda x, h: (pack_padded_sequence(x[..., :1], [3, 2]), None),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_pytorchs(name):
    plain, ours = pair(3, 5)
    x, hx = ERRORS[name](torch.randn(4, 2, 3), torch.zeros(1, 2, 5))
    with pytest.raises(Exception) as theirs:
        plain(x, hx)
    with pytest.raises(type(theirs.value)) as raised:
        ours(x, hx)
    assert str(raised.value) == str(theirs.value)


@pytest.mark.parametrize("name", ["dims", "inputs", "hidden", "cell", "dtype", "array", "one state"])
def test_errors_of_cells_are_pytorchs(name):
    plain, ours = pair(3, 5, kind=nn.LSTMCell)
    cases = {
        "dims": (torch.randn(1, 2, 3), None),
        "inputs": (torch.randn(2, 2), None),
        "hidden": (torch.randn(2, 3), (torch.zeros(3, 5), torch.zeros(2, 5))),
        "cell": (torch.randn(2, 3), (torch.zeros(2, 5), torch.zeros(2, 4))),
        "dtype": (torch.randn(2, 3).double(), None),
        "array": (np.zeros((2, 3)), None),
        "one state": (torch.randn(2, 3), (torch.zeros(2, 5),)),
    }
    with pytest.raises(Exception) as theirs:
        plain(*cases[name])
    with pytest.raises(type(theirs.value)) as raised:
        ours(*cases[name])
    assert str(raised.value) == str(theirs.value)


def test_constructors_refuse_what_pytorchs_refuse():
    for arguments in ({"hidden_size": 0}, {"proj_size": 5}, {"dropout": 1.5}, {"num_layers": 0}, {"bias": 1}):
        options = {"input_size": 3, "hidden_size": 5} | arguments
        with pytest.raises(Exception) as theirs:
            nn.LSTM(**options)
        with pytest.raises(type(theirs.value), match=re.escape(str(theirs.value))):
            lstm_cy.torch.LSTM(**options)
    with pytest.warns(UserWarning, match="dropout"):
        lstm_cy.torch.LSTM(3, 5, dropout=0.5)


def test_empty_batches():
    plain, ours = pair(3, 5)
    x = torch.zeros(4, 0, 3)
    (y, state), (their_y, their_state) = ours(x), plain(x)
    assert_close([y, *state], [their_y, *their_state])


def test_threads_follow_pytorch_and_change_nothing():
    _, ours = pair(64, 64, num_layers=2, bidirectional=True)
    x = torch.randn(50, 8, 64)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(results(ours, x, None))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


ON_OPENMP = """
import os
import torch
import lstm_cy.torch
from lstm_cy import config
from lstm_cy._kernels.runtime.threads import share_always, statistics

config.processors = lambda: 2
share_always(True)
torch.manual_seed(0)
module = lstm_cy.torch.LSTM(24, 64, 2)
x = torch.randn(20, 16, 24)
results = []
for count in (1, 2):
    torch.set_num_threads(count)
    module.zero_grad()
    y, (h, c) = module(x)
    y.sum().backward()
    results.append([y, h, c, *(weight.grad for weight in module.parameters())])
assert all(torch.equal(one, other) for one, other in zip(*results))
for _ in range(300):  # on a busy machine the caller may have done all before another thread runs
    if not statistics()[1]:
        module(x)
workers, joined = statistics()
assert workers == 0 and joined > 0, (workers, joined)
child = os.fork()
with torch.no_grad():
    same = torch.equal(module(x)[0], results[0][0])
if not child:
    os._exit(0 if same and statistics()[0] else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""


def test_calls_run_on_the_threads_of_pytorch_and_in_a_fork_on_their_own():
    if kernels._find_openmp() is None:
        pytest.skip("PyTorch does not use GNU's OpenMP")
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", ON_OPENMP], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_conversion_to_a_layer():
    _, ours = pair(3, 5, num_layers=2, batch_first=True)
    x = torch.randn(2, 4, 3)
    layer = from_torch(ours)
    assert layer.batch_first
    np.testing.assert_allclose(layer(x.numpy())[0], ours(x)[0].detach().numpy(), atol=1e-6)
    cell = lstm_cy.torch.LSTMCell(3, 5)
    np.testing.assert_allclose(
        from_torch(cell)(x[:, :1].numpy().swapaxes(0, 1))[0][0], cell(x[:, 0])[0].detach(), atol=1e-6
    )


@pytest.mark.filterwarnings("ignore")
def test_scripts_traces_and_onnx_style_traces_use_pytorchs_operator():
    _, ours = pair(3, 5)
    _, cell = pair(5, 5, kind=nn.LSTMCell)
    x = torch.randn(4, 2, 3)
    traced = torch.jit.trace(ours, (x,))
    assert "aten::lstm" in str(traced.inlined_graph)
    assert_close([traced(x)[0]], [ours(x)[0]])
    model = nn.ModuleList([ours, cell])
    scripted = torch.jit.script(model)
    assert_close(
        [scripted[0](x)[0], *scripted[1](x[0, :, [0, 1, 2, 0, 1]])], [ours(x)[0], *cell(x[0][:, [0, 1, 2, 0, 1]])]
    )
    with torch.no_grad():
        ours.weight_hh_l0.mul_(2)  # one parameter of both
    assert_close([scripted[0](x)[0]], [ours(x)[0]])


def test_graphs_of_fx_have_one_node_for_a_module():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.cell = pair(3, 5)[1], pair(5, 5, kind=nn.LSTMCell)[1]

        def forward(self, x, state):
            return self.cell(self.lstm(x, state)[0][0])[0] * 2

    model = Model()
    graph = torch.fx.symbolic_trace(model)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["lstm", "cell"]
    arguments = torch.randn(4, 2, 3), (torch.randn(1, 2, 5), torch.randn(1, 2, 5))
    assert_close([graph(*arguments)], [model(*arguments)])
