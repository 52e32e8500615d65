"""lstm_cy.torch.replace and restore: what they change, what they name, and models that several processes train."""

import copy
import subprocess
import sys
import textwrap
import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import lstm_cy.torch  # noqa: E402


class Own(nn.LSTM):
    pass


def test_replace_and_restore_change_classes_in_place():
    model = nn.ModuleDict(
        {"a": nn.LSTM(3, 5), "b": nn.Sequential(nn.LSTMCell(3, 5), nn.GRU(3, 5)), "c": nn.Linear(5, 5)}
    )
    model["again"] = model["a"]
    parts, weights = list(model.modules()), [(id(w), w.data_ptr()) for w in model.parameters()]
    seen = []
    model["a"].register_forward_hook(lambda *_: seen.append(1))
    assert lstm_cy.torch.replace(model) is model
    assert type(model["a"]) is lstm_cy.torch.LSTM and type(model["b"][0]) is lstm_cy.torch.LSTMCell
    assert [id(w) for w in model.parameters()] == [number for number, _ in weights]
    model["a"](torch.randn(2, 1, 3))
    assert seen == [1]
    lstm_cy.torch.replace(model)  # again: nothing to do
    assert lstm_cy.torch.restore(model) is model
    assert type(model["a"]) is nn.LSTM and type(model["b"][0]) is nn.LSTMCell
    assert [(id(w), w.data_ptr()) for w in model.parameters()] == weights
    assert all(one is other for one, other in zip(model.modules(), parts, strict=True))
    assert type(lstm_cy.torch.replace(nn.LSTM(3, 5))) is lstm_cy.torch.LSTM  # the module itself


def test_replace_names_what_it_leaves_alone():
    parametrized, pruned = nn.LSTM(3, 5), nn.LSTM(3, 5)
    nn.utils.parametrizations.weight_norm(parametrized, "weight_hh_l0")
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    normed = nn.LSTM(3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(normed, "weight_hh_l0")
        quantised = torch.ao.nn.quantized.dynamic.LSTM(3, 5)
        scripted = torch.jit.script(nn.LSTM(3, 5))
    model = nn.ModuleDict(
        {
            "own": Own(3, 5),
            "parametrized": parametrized,
            "pruned": pruned,
            "normed": normed,
            "narrow": nn.LSTM(3, 5).half(),
            "meta": nn.LSTM(3, 5, device="meta"),
            "quantised": quantised,
            "scripted": scripted,
            "plain": nn.LSTM(3, 5),
        }
    )
    kinds = {name: type(part) for name, part in model.items()}
    with pytest.warns(UserWarning, match="these stay with PyTorch") as raised:
        lstm_cy.torch.replace(model)
    assert len(raised) == 1
    text = str(raised[0].message)
    for name in kinds.keys() - {"plain"}:
        assert f"{name} (" in text
        assert type(model[name]) is kinds[name]
    for reason in ("a subclass, Own", "parametrized", "float16", "device meta", "quantised", "scripted", "a hook"):
        assert reason in text
    assert "plain (" not in text and type(model["plain"]) is lstm_cy.torch.LSTM


def test_restore_names_subclasses():
    class Mine(lstm_cy.torch.LSTM):
        pass

    model = nn.ModuleList([Mine(3, 5), lstm_cy.torch.LSTM(3, 5)])
    with pytest.warns(UserWarning, match=r"restore: these stay as they are: 0 \(a subclass, Mine\)"):
        lstm_cy.torch.restore(model)
    assert type(model[0]) is Mine and type(model[1]) is nn.LSTM


@pytest.mark.parametrize("change", [lstm_cy.torch.replace, lstm_cy.torch.restore])
def test_only_modules_are_taken(change):
    with pytest.raises(TypeError, match="module: expected a torch.nn.Module, got dict"):
        change({})


def test_training_goes_on_after_replace_with_the_same_optimizer():
    torch.manual_seed(0)
    plain = nn.LSTM(3, 5)
    ours = copy.deepcopy(plain)
    x = torch.randn(6, 4, 3)
    losses = []
    for module in (plain, ours):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
        losses.append([])
        for step in range(6):
            if step == 3 and module is ours:
                lstm_cy.torch.replace(module)
            optimizer.zero_grad()
            loss = module(x)[0].square().sum()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_importing_the_library_does_not_import_pytorch():
    code = "import sys, lstm_cy; lstm_cy.LSTM(3, 5); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_error_without_pytorch_names_the_package():
    code = textwrap.dedent("""
        import sys
        sys.modules["torch"] = None
        try:
            import lstm_cy.torch
        except ImportError as error:
            assert "pip install torch" in str(error), error
        else:
            raise AssertionError
    """)
    subprocess.run([sys.executable, "-c", code], check=True)


WORKER = """
import sys, warnings
import torch, torch.distributed as dist
from torch import nn
import lstm_cy.torch
warnings.simplefilter("ignore")
rank, where, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{where}", rank=rank, world_size=2)
torch.manual_seed(0)
module = lstm_cy.torch.replace(nn.LSTM(3, 5, num_layers=2))
model = nn.parallel.DistributedDataParallel(module)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x = torch.randn(6, 4, 3)
for _ in range(3):
    optimizer.zero_grad()
    model(x[:, 2 * rank : 2 * rank + 2])[0].square().sum().backward()
    optimizer.step()
torch.save(module.state_dict(), f"{result}.{rank}")
dist.destroy_process_group()
"""


def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    where, result = tmp_path / "store", tmp_path / "result"
    workers = [subprocess.Popen([sys.executable, str(script), str(rank), str(where), str(result)]) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    torch.manual_seed(0)
    plain = nn.LSTM(3, 5, num_layers=2)
    x = torch.randn(6, 4, 3)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (plain(x)[0].square().sum() / 2).backward()  # DistributedDataParallel takes the mean
        optimizer.step()
    for rank in range(2):
        found = torch.load(f"{result}.{rank}")
        for name, weight in plain.state_dict().items():
            torch.testing.assert_close(found[name], weight)
