"""Models compiled when they are prepared."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from nbaccel.errors import CallError, ConfigError, PlanError
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.compiling import TorchCompiler, TorchDynamoPlugin, strip_compiled
from nbaccel.runtime.enums import DynamoBackend
from nbaccel.runtime.handlers import AutocastKwargs
from nbaccel.runtime.modules import has_compiled_regions, is_compiled_module
from nbaccel.runtime.precision.autocast import AutocastForward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),  # torch's compiler about itself
    pytest.mark.filterwarnings("ignore:.*torch.*:DeprecationWarning"),
]
BATCH = torch.linspace(-1, 1, 24).reshape(3, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.inner(x))


class Stack(nn.Module):
    def __init__(self, depth: int = 10) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return x + 1


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    torch.compiler.reset()


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts what reaches the compiler, which is torch's `eager` otherwise."""
    made = CompileCounter()
    compile_by_torch = torch.compile

    def counted(model: Any, **arguments: Any) -> Any:
        return compile_by_torch(model, **arguments | {"backend": made})

    monkeypatch.setattr(torch, "compile", counted)
    return made


def seeded(depth: int = 10) -> Stack:
    torch.manual_seed(1)
    return Stack(depth)


def step(accelerator: Accelerator, model: Any, optimizer: Any) -> float:
    loss = model(BATCH).pow(2).mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def losses(accelerator: Accelerator, own: nn.Module, steps: int = 3) -> list[float]:
    model, optimizer = accelerator.prepare(own, torch.optim.SGD(own.parameters(), lr=1e-3))
    return [step(accelerator, model, optimizer) for _ in range(steps)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager", DynamoBackend.AOT_EAGER, "EAGER"])
@pytest.mark.parametrize("regional", [False, True])
def test_same_numbers_as_not_compiled(backend: Any, regional: bool) -> None:
    bare = losses(Accelerator(), seeded())
    plugin = TorchDynamoPlugin(backend=backend, use_regional_compilation=regional)
    assert losses(Accelerator(dynamo_plugin=plugin), seeded()) == pytest.approx(bare, rel=1e-5)


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor() -> None:
    bare = losses(Accelerator(), seeded(2))
    accelerator = Accelerator(dynamo_plugin=TorchDynamoPlugin(mode="default"))
    assert accelerator.state.dynamo_plugin.backend is DynamoBackend.INDUCTOR
    assert "without a backend" in str(accelerator.config.explain("dynamo_config.dynamo_backend"))
    assert losses(accelerator, seeded(2)) == pytest.approx(bare, rel=1e-4)
    options = TorchDynamoPlugin(backend="inductor", options={"epilogue_fusion": False})
    assert losses(Accelerator(dynamo_plugin=options), seeded(2)) == pytest.approx(bare, rel=1e-4)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_one_graph_and_no_break(counter: CompileCounter, precision: str) -> None:
    plugin = TorchDynamoPlugin(backend="eager", fullgraph=True)
    model = Accelerator(mixed_precision=precision, dynamo_plugin=plugin).prepare(seeded())
    for _ in range(3):
        output = model(BATCH)
    assert output.dtype is torch.float32
    assert counter.frame_count == 1


def test_fullgraph_refuses_breaks() -> None:
    plugin = TorchDynamoPlugin(backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        Accelerator(dynamo_plugin=plugin).prepare(Broken())(BATCH)
    assert Accelerator(dynamo_backend="eager").prepare(Broken())(BATCH).equal(BATCH + 1)


def test_dynamic_shapes(counter: CompileCounter) -> None:
    def graphs(dynamic: bool | None) -> int:
        torch.compiler.reset()
        counter.clear()
        model = Accelerator(dynamo_plugin=TorchDynamoPlugin(backend="eager", dynamic=dynamic)).prepare(seeded())
        for rows in (3, 4, 5, 6):
            model(torch.ones(rows, 8))
        return int(counter.frame_count)

    assert (graphs(True), graphs(False)) == (1, 4)


def test_repeated_blocks_are_compiled_once(counter: CompileCounter) -> None:
    own = seeded(10)
    plugin = TorchDynamoPlugin(backend="eager", use_regional_compilation=True)
    model = Accelerator(dynamo_plugin=plugin).prepare(own)
    assert model is own
    with torch.no_grad():
        model(BATCH)
    assert counter.frame_count == 2  # a block, and the head
    assert counter.op_count == 4  # linear, relu, sum; linear
    assert "_orig_mod" not in "".join(model.state_dict())
    twin = copy.deepcopy(model)
    assert not has_compiled_regions(twin)
    assert twin(BATCH).equal(model(BATCH))


def test_many_kinds_of_modules_do_not_share_their_limit(counter: CompileCounter) -> None:
    kinds = [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, nn.ELU, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Mish]
    compiler = TorchCompiler(TorchDynamoPlugin(backend="eager"))
    with torch.no_grad():
        for kind in kinds:
            compiler.compile(kind(), in_place=True)(BATCH)
    assert counter.frame_count == len(kinds)


def test_what_is_around_the_users_module() -> None:
    accelerator = Accelerator(dynamo_backend="eager", mixed_precision="bf16")
    own = seeded()
    model = accelerator.prepare(own)
    assert is_compiled_module(model)
    assert accelerator.prepare(own) is model
    assert accelerator.prepare(model) is model
    assert accelerator.unwrap_model(model) is model
    assert accelerator.unwrap_model(model, keep_torch_compile=False) is own
    assert isinstance(own.__dict__["forward"], AutocastForward)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    assert "forward" not in own.__dict__


def test_states_have_the_names_of_the_users_module(tmp_path: Path) -> None:
    accelerator = Accelerator(dynamo_backend="aot_eager")
    own = seeded(2)
    names = own.state_dict().keys()
    model = accelerator.prepare(own)
    before = model(BATCH).detach()
    assert accelerator.get_state_dict(model).keys() == names
    accelerator.save_model(model, tmp_path / "weights")
    accelerator.save_state(tmp_path / "state")
    from safetensors.torch import load_file

    assert load_file(tmp_path / "weights" / "model.safetensors").keys() == names
    with torch.no_grad():
        own.head.weight.zero_()
    accelerator.load_state(tmp_path / "state")
    assert model(BATCH).equal(before)
    plain = Accelerator()
    other = plain.prepare(Stack(2))
    plain.load_state(tmp_path / "state")
    torch.testing.assert_close(other(BATCH), before)


def test_prepared_anew_by_others() -> None:
    own = seeded()
    compiled = Accelerator(dynamo_backend="eager").prepare(own)
    assert Accelerator().prepare(compiled) is own
    regional = TorchDynamoPlugin(backend="eager", use_regional_compilation=True)
    Accelerator(dynamo_plugin=regional).prepare(own)
    assert has_compiled_regions(own)
    assert Accelerator().prepare(own) is own
    assert not has_compiled_regions(own)
    strip_compiled(own)


def test_what_the_user_has_compiled_stays_so() -> None:
    own: Any = torch.compile(seeded(), backend="eager")
    assert Accelerator(dynamo_backend="eager").prepare(own) is own
    assert Accelerator().prepare(own) is own
    assert own(BATCH).shape == (3, 1)


def test_evaluation_only() -> None:
    accelerator = Accelerator(dynamo_backend="eager")
    assert is_compiled_module(accelerator.prepare_model(seeded(), evaluation_mode=True))


def test_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "aot_eager")
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_FULLGRAPH", "true")
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "reduce-overhead")
    found = Accelerator().state.dynamo_plugin
    assert (found.backend, found.fullgraph, found.mode) == (DynamoBackend.AOT_EAGER, True, "reduce-overhead")
    assert found.arguments() == {"backend": "aot_eager", "fullgraph": True, "dynamic": None, "mode": "reduce-overhead"}
    found = Accelerator(dynamo_plugin=TorchDynamoPlugin(mode="default", dynamic=True)).state.dynamo_plugin
    assert found.arguments() == {"backend": "aot_eager", "fullgraph": True, "dynamic": True}
    off = Accelerator(dynamo_plugin=TorchDynamoPlugin(backend="no")).state.dynamo_plugin
    assert off.backend is DynamoBackend.NO
    monkeypatch.setenv("ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION", "true")
    assert Accelerator().state.dynamo_plugin.use_regional_compilation


@pytest.mark.parametrize("off", [{"dynamo_backend": "no"}, {"dynamo_plugin": TorchDynamoPlugin("eager", disable=True)}])
def test_switched_off(off: dict[str, Any]) -> None:
    own = seeded()
    assert Accelerator(**off).prepare(own) is own
    assert not has_compiled_regions(own)


def test_wrong_words() -> None:
    with pytest.raises(CallError, match=r"TorchDynamoPlugin\(backend='indctor'\).*inductor"):
        TorchDynamoPlugin(backend="indctor")
    with pytest.raises(ConfigError, match="indctor"):
        Accelerator(dynamo_backend="indctor")
    with pytest.raises(PlanError, match=r"nvprims_nvfuser.*Possible here: eager, aot_eager"):
        Accelerator(dynamo_backend="nvprims_nvfuser")
    with pytest.raises(CallError, match="a mode is a set of options"):
        TorchDynamoPlugin(backend="inductor", mode="max-autotune", options={"epilogue_fusion": False})
    with pytest.raises(CallError, match="both say what compiles"):
        Accelerator(dynamo_backend="eager", dynamo_plugin=TorchDynamoPlugin("eager"))
    with pytest.raises(CallError, match="possible is a TorchDynamoPlugin"):
        Accelerator(dynamo_plugin=AutocastKwargs())  # type: ignore[arg-type]
