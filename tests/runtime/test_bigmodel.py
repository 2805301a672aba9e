"""Models larger than a device: sizes, maps, offloading, hooks, loading; beside the installed Accelerate."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import accelerate.utils as theirs

from nbaccel import utils as ours
from nbaccel.accelerator import Accelerator
from nbaccel.big_modeling import (
    attach_layerwise_casting_hooks,
    cpu_offload,
    cpu_offload_with_hook,
    disk_offload,
    dispatch_model,
    init_empty_weights,
    init_on_device,
    load_checkpoint_and_dispatch,
)
from nbaccel.errors import CallError, ConfigFileError, PlanError, StateError
from nbaccel.hooks import (
    AlignDevicesHook,
    ModelHook,
    SequentialHook,
    UserCpuOffloadHook,
    add_hook_to_module,
    attach_align_device_hook_on_blocks,
    remove_hook_from_module,
    remove_hook_from_submodules,
)
from nbaccel.runtime.bigmodel import placing
from nbaccel.runtime.bigmodel.loading import get_state_dict_offloaded_model
from nbaccel.runtime.bigmodel.placing import clean_device_map
from nbaccel.runtime.bigmodel.sizes import compute_module_total_buffer_size
from nbaccel.utils.modeling import (
    check_tied_parameters_in_config,
    get_max_layer_size,
    load_checkpoint_in_model,
    load_offloaded_weights,
)


class Block(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(x))) * self.scale + x


class Model(nn.Module):
    def __init__(self, width: int = 4, blocks: int = 3, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width, bias=False)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, width, bias=False)
        self.register_buffer("shift", torch.ones(width))
        self.register_buffer("passing", torch.ones(width), persistent=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: torch.Tensor, *, names: Any = None) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x) + self.shift * self.passing


@pytest.fixture
def model() -> Model:
    return Model().eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 4)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # Accelerate says of each GPU that there is none
    yield
    logging.disable(logging.NOTSET)


# Sizes and maps


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"dtype": torch.float16},
        {"dtype": "int8"},
        {"special_dtypes": {"embed.weight": torch.float16}},
        {"buffers_only": True},
        {"dtype": ours.CustomDtype.INT4},
    ],
)
def test_sizes_like_accelerate(model: Model, kwargs: dict[str, Any]) -> None:
    reference = dict(kwargs)
    if reference.get("dtype") is ours.CustomDtype.INT4:
        reference["dtype"] = theirs.CustomDtype.INT4
    if reference.get("dtype") == "int8":
        reference["dtype"] = torch.int8
    assert ours.compute_module_sizes(model, **kwargs) == theirs.compute_module_sizes(model, **reference)


def test_other_sizes_like_accelerate(model: Model) -> None:
    sizes = ours.compute_module_sizes(model)
    children = list(model.named_children())
    for whole in ([], ["Block"]):
        assert get_max_layer_size(children, sizes, whole) == theirs.get_max_layer_size(children, sizes, whole)
    assert ours.calculate_maximum_sizes(model) == theirs.calculate_maximum_sizes(model)
    assert compute_module_total_buffer_size(model) == ours.compute_module_sizes(model, buffers_only=True)[""]
    for kwargs in ({}, {"recurse": True}, {"remove_non_persistent": True}, {"include_buffers": False}):
        mine = [name for name, _ in ours.named_module_tensors(model, **kwargs)]
        assert mine == [name for name, _ in theirs.named_module_tensors(model, **kwargs)]
    assert ours.find_tied_parameters(model) == theirs.find_tied_parameters(model) == [["embed.weight", "head.weight"]]


def random_case(seed: int) -> tuple[Model, dict[Any, int], dict[str, Any]]:
    draw = random.Random(seed)
    made = Model(draw.choice([2, 4, 7]), draw.choice([1, 2, 4]), tied=False)
    size = ours.compute_module_sizes(made)[""]
    memory: dict[Any, int] = {gpu: int(size * draw.uniform(0.3, 0.9)) for gpu in range(draw.randint(1, 3))}
    memory["cpu"] = int(size * draw.uniform(1, 2))
    whole = draw.choice([None, ["Block"]])
    options = {"no_split_module_classes": whole, "dtype": draw.choice([None, torch.float16]), "offload_buffers": True}
    return made, memory, options


@pytest.mark.parametrize("seed", range(40))
def test_maps_like_accelerate(seed: int) -> None:
    made, memory, options = random_case(seed)
    mine = ours.infer_auto_device_map(made, memory, clean_result=False, **options)
    reference = theirs.infer_auto_device_map(made, dict(memory), clean_result=False, **options)
    names = [name for name, _ in made.named_parameters()]

    def placed(device_map: Any) -> dict[str, Any]:
        return {name: device_map[max((key for key in device_map if name.startswith(key)), key=len)] for name in names}

    assert placed(mine) == placed(reference)


@pytest.mark.parametrize("seed", range(100))
def test_maps_keep_to_the_limits(seed: int) -> None:
    made, memory, options = random_case(seed)
    made.head.weight = made.embed.weight
    chosen = ours.infer_auto_device_map(made, memory, fallback_allocation=seed % 2 == 0, **options)
    ours.check_device_map(made, chosen)
    sizes = ours.compute_module_sizes(made, options["dtype"])
    for device, limit in memory.items():
        assert sum(sizes[name] for name, place in chosen.items() if place == device) <= limit
    assert ours.check_tied_parameters_on_same_device([["embed.weight", "head.weight"]], chosen)
    if options["no_split_module_classes"]:
        assert not any(name.startswith("blocks.0.") for name in chosen)


def test_tied_parts_that_accelerate_cannot_place() -> None:
    made = Model(2, 2)
    memory = {0: 340, 1: 618, "cpu": 1044}
    chosen = ours.infer_auto_device_map(made, memory, dtype=torch.float16)
    ours.check_device_map(made, chosen)


def test_fallback_gives_an_empty_gpu_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    made = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 1))
    memory = {0: 300, "cpu": 10_000}
    assert dict(ours.infer_auto_device_map(made, memory)) == {"": "cpu"}
    chosen = ours.infer_auto_device_map(made, memory, fallback_allocation=True, verbose=True)
    assert dict(chosen) == {"1": 0, "0": "cpu"}
    assert "goes to" in capsys.readouterr().out


@pytest.mark.parametrize("low_zero", [False, True])
@pytest.mark.parametrize("whole", [None, "Block"])
def test_balanced_memory_like_accelerate(model: Model, low_zero: bool, whole: str | None) -> None:
    for memory in ({0: 1000, 1: 1000, "cpu": 9999}, {0: 2000, 1: 2000, 2: 2000}, {"cpu": 99}, {0: 500}):
        reference = theirs.get_balanced_memory(model, dict(memory), [whole] if whole else [], low_zero=low_zero)
        if len(memory) > 1 or not low_zero:
            assert ours.get_balanced_memory(model, memory, whole, low_zero=low_zero) == reference


@pytest.mark.parametrize("given", [None, {0: 1000, "cpu": 9999}])
def test_a_gpu_alone_is_not_filled_to_the_brim(given: Any, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (placing, theirs.modeling):  # what a machine with one GPU finds
        monkeypatch.setattr(module, "get_max_memory", lambda given: {0: 1000, "cpu": 9999})
    limits = ours.get_balanced_memory(model, given)
    assert limits == theirs.get_balanced_memory(model, given)
    assert limits[0] == (900 if given is None else 1000)


def test_memory_in_words() -> None:
    assert ours.get_max_memory({"cpu": "1GB", 1: "10MB", 0: 5}) == {0: 5, 1: 10**7, "cpu": 10**9}
    assert list(ours.get_max_memory({"cpu": "1GB", 1: "10MB", 0: 5})) == [0, 1, "cpu"]
    assert ours.get_max_memory()


def test_buffers_without_room_are_warned_of() -> None:
    made = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(1000, affine=False))
    with pytest.warns(UserWarning, match="offload_buffers=True"):
        ours.infer_auto_device_map(made, {0: 100, "cpu": 10**6}, no_split_module_classes=["Linear"])


def test_maps_are_cleaned() -> None:
    device_map = {"a.x": 0, "a.y": 0, "b": 1, "c.d.e": 2, "c.d.f": 3}
    assert clean_device_map(device_map) == {"a": 0, "b": 1, "c.d.e": 2, "c.d.f": 3}
    assert clean_device_map({"a.x": 0, "b": 0}) == {"": 0}


def test_incomplete_maps_are_refused(model: Model) -> None:
    with pytest.raises(CallError, match=r"gives no device to .*head.weight"):
        ours.check_device_map(model, {"embed": 0, "blocks": 1, "shift": 0})
    with pytest.warns(UserWarning, match="names tail"):
        ours.check_device_map(model, {"": 0, "tail": 1})


# Single weights


def test_weights_are_put_in_place(model: Model) -> None:
    empty = empty_model()
    ours.set_module_tensor_to_device(empty, "embed.weight", "cpu", value=torch.ones(4, 4).half())
    assert (empty.embed.weight.dtype, empty.embed.weight.device.type) == (torch.float32, "cpu")
    assert isinstance(empty.embed.weight, nn.Parameter)
    ours.set_module_tensor_to_device(empty, "embed.weight", "cpu", value=torch.ones(4, 4), dtype="bfloat16")
    assert empty.embed.weight.dtype == torch.bfloat16
    ours.set_module_tensor_to_device(empty, "embed.weight", "meta")
    assert empty.embed.weight.device.type == "meta"
    ours.set_module_tensor_to_device(empty, "shift", "cpu", value=torch.zeros(4))
    assert torch.equal(empty.shift, torch.zeros(4))
    before = model.embed.weight
    ours.set_module_tensor_to_device(model, "embed.weight", "cpu")
    assert model.embed.weight is before


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("embed.weight", None, "no value that could be moved"),
        ("embed.weight", torch.ones(2), "has the shape .2,."),
        ("embed.foo", None, "Linear has no parameter or buffer 'foo'. Possible: weight"),
    ],
)
def test_weights_that_cannot_be_put(name: str, value: torch.Tensor | None, text: str) -> None:
    with pytest.raises(CallError, match=text):
        ours.set_module_tensor_to_device(empty_model(), name, "cpu", value=value)


def test_unknown_dtypes_are_refused(model: Model) -> None:
    with pytest.raises(CallError, match="torch has none of this name"):
        ours.compute_module_sizes(model, dtype="float17")


# Models without memory


def empty_model() -> Model:
    with init_empty_weights():
        return Model()


def test_empty_models_have_no_memory_and_stay_tied() -> None:
    empty = empty_model()
    assert {parameter.device.type for parameter in empty.parameters()} == {"meta"}
    assert empty.shift.device.type == "cpu"
    assert empty.head.weight is empty.embed.weight  # Accelerate: two
    assert Model().embed.weight.device.type == "cpu"
    with init_empty_weights(include_buffers=True):
        assert Model().shift.device.type == "meta"
        assert torch.zeros(1).device.type == "meta"


def test_the_variable_for_buffers_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_INIT_INCLUDE_BUFFERS", "true")
    assert empty_model().shift.device.type == "meta"
    with init_on_device("cpu"):
        assert Model().embed.weight.device.type == "cpu"


# Hooks


class Counting(ModelHook):
    def __init__(self, added: float = 0.0) -> None:
        self.added, self.calls = added, 0

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return (args[0] + self.added,), kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output + self.added


def test_hooks_stand_around_the_forward_pass(x: torch.Tensor) -> None:
    layer = nn.Linear(4, 4)
    plain = layer(x)
    hook = Counting(1.0)
    assert add_hook_to_module(layer, hook) is layer
    assert torch.equal(layer(x), nn.functional.linear(x + 1, layer.weight, layer.bias) + 1)
    add_hook_to_module(layer, Counting(2.0))  # takes its place
    assert torch.equal(layer(x), nn.functional.linear(x + 2, layer.weight, layer.bias) + 2)
    add_hook_to_module(layer, hook, append=True)
    assert isinstance(layer._hf_hook, SequentialHook)
    assert torch.allclose(layer(x), nn.functional.linear(x + 3, layer.weight, layer.bias) + 3)
    assert remove_hook_from_module(layer) is layer
    assert torch.equal(layer(x), plain)
    assert not {"forward", "_hf_hook", "_old_forward"} & set(vars(layer))


def test_a_replaced_forward_comes_back(x: torch.Tensor) -> None:
    layer = nn.Linear(4, 4)
    layer.forward = lambda x: x * 2  # type: ignore[method-assign]
    add_hook_to_module(layer, ModelHook())
    remove_hook_from_submodules(layer)
    assert torch.equal(layer(x), x * 2)


def test_hooked_modules_are_copied_whole(x: torch.Tensor) -> None:
    layer = add_hook_to_module(nn.Linear(4, 4), ModelHook())
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight.zero_()
        twin.bias.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(twin(x), torch.zeros(3, 4))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_no_grad_hooks(x: torch.Tensor) -> None:
    class Silent(ModelHook):
        no_grad = True

    assert not add_hook_to_module(nn.Linear(4, 4), Silent())(x).requires_grad
    assert add_hook_to_module(nn.Linear(4, 4), ModelHook())(x).requires_grad


def test_layers_are_cast_for_their_forward_pass(x: torch.Tensor) -> None:
    model = Model(tied=False).eval()
    attach_layerwise_casting_hooks(
        model, torch.bfloat16, torch.float32, skip_modules_pattern="head", skip_modules_classes=(nn.BatchNorm1d,)
    )
    assert model.embed.weight.dtype == model.blocks[0].first.weight.dtype == torch.bfloat16
    assert model.head.weight.dtype == model.blocks[0].norm.weight.dtype == torch.float32
    assert model(x).dtype == torch.float32
    assert model.embed.weight.dtype == torch.bfloat16


# Offloading


MIXED = dict.fromkeys(("embed", "head", "shift", "passing", "blocks.1"), "cpu") | {
    "blocks.0": "disk",
    "blocks.2": "disk",
}
OFFLOADS: dict[str, Callable[[Model, Path], Any]] = {
    "cpu": lambda model, folder: cpu_offload(model),
    "cpu with buffers": lambda model, folder: cpu_offload(model, torch.device("cpu"), offload_buffers=True),
    "disk": lambda model, folder: disk_offload(model, folder),
    "disk, whole blocks": lambda model, folder: disk_offload(model, folder, preload_module_classes=["Block"]),
    "disk map": lambda model, folder: dispatch_model(model, {"": "disk"}, offload_dir=folder),
    "mixed map": lambda model, folder: dispatch_model(
        model,
        MIXED,
        offload_dir=folder,
        offload_buffers=True,
    ),
    "forced hooks": lambda model, folder: dispatch_model(model, {"": "cpu"}, force_hooks=True),
}  # fmt: skip


@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloaded_models_compute_the_same(kind: str, model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    before, weights = model(x), {name: weight.clone() for name, weight in model.state_dict().items()}
    offloaded = OFFLOADS[kind](model, tmp_path)
    assert offloaded is model
    for _ in range(2):
        assert torch.equal(offloaded(x), before)
        away = kind not in ("forced hooks",)
        assert (offloaded.blocks[0].first.weight.device.type == "meta") is away
        holder = offloaded.blocks[0] if "whole" in kind else offloaded.blocks[0].first
        assert ours.has_offloaded_params(holder) is away
    whole = get_state_dict_offloaded_model(offloaded)
    assert all(torch.equal(whole[name], weights[name]) for name in weights)
    remove_hook_from_submodules(offloaded)
    assert torch.equal(offloaded(x), before)


@pytest.mark.parametrize("kind", OFFLOADS)
def test_offloaded_models_are_saved(kind: str, model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    before = model(x)
    Accelerator(cpu=True).save_model(OFFLOADS[kind](model, tmp_path / "away"), tmp_path / "saved")
    other = Model().eval()
    load_checkpoint_in_model(other, tmp_path / "saved")
    assert torch.equal(other(x), before)


def test_a_single_offloaded_layer_is_saved(x: torch.Tensor, tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    before = layer(x)
    Accelerator(cpu=True).save_model(cpu_offload(layer), tmp_path)
    other = nn.Linear(4, 4)
    load_checkpoint_in_model(other, tmp_path)
    assert torch.equal(other(x), before)


def test_the_model_itself_computes_on_the_main_device(model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    spread = dispatch_model(model, MIXED, main_device=torch.device("cpu"), offload_dir=tmp_path)
    assert spread._hf_hook.execution_device == torch.device("cpu")
    assert spread._hf_hook.io_same_device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_inputs_used_beside_the_blocks_reach_the_gpu(x: torch.Tensor) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.scale = Block(), Block(), nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) * self.scale + x

    whole = Residual().eval()
    before = whole(x)
    after = dispatch_model(whole, {"first": 0, "second": "cpu", "scale": 0})(x)
    assert after.device.type == "cpu"
    assert torch.allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("away", [("shift",), ("shift", "blocks"), ("shift", "embed", "head")])
def test_weights_of_the_model_itself_can_come_from_the_disk(
    away: tuple[str, ...], model: Model, x: torch.Tensor, tmp_path: Path
) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    places = dict.fromkeys(("embed", "blocks", "head", "shift", "passing"), "cpu") | dict.fromkeys(away, "disk")
    empty = empty_model().eval()
    spread = load_checkpoint_and_dispatch(empty, checkpoint, places, offload_folder=tmp_path, offload_buffers=True)
    assert torch.equal(spread(x), model(x))


def test_one_device_for_all_blocks(model: Model, x: torch.Tensor) -> None:
    before = model(x)
    attach_align_device_hook_on_blocks(
        model, "cpu", {"embed": False, "blocks.0": True, "head": False}, weights_map=dict(model.state_dict())
    )
    assert model.blocks[0].first.weight.device.type == "meta"
    assert model.blocks[1].first.weight.device.type == "cpu"
    assert torch.equal(model(x), before)


def test_files_mapped_at_one_address_are_not_mistaken(tmp_path: Path) -> None:
    """Weights that are cast leave their mapping, and the next file may come to lie there."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64, bias=False) for _ in range(4)]
    tied = nn.Linear(64, 64, bias=False)
    tied.weight = layers[0].weight
    model = nn.Sequential(nn.Sequential(*layers), tied)
    x = torch.randn(2, 64, dtype=torch.bfloat16)
    ours.offload_state_dict(tmp_path, model.state_dict())
    before = model.to(torch.bfloat16)(x)
    offloaded = disk_offload(model, tmp_path, preload_module_classes=["Sequential"])
    assert torch.equal(offloaded(x), before)


def test_a_spread_model_cannot_be_moved(model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    spread = dispatch_model(model, {"": "disk"}, offload_dir=tmp_path)
    assert spread.hf_device_map == {"": "disk"}
    for move in (lambda: spread.to("cpu"), lambda: spread.cuda()):
        with pytest.raises(StateError, match="remove_hook_from_submodules"):
            move()
    remove_hook_from_submodules(spread)
    spread.to("cpu")


def test_one_device_needs_no_hooks(model: Model) -> None:
    assert not hasattr(dispatch_model(model, {"": "cpu"}), "_hf_hook")


def test_maps_that_cannot_be_followed(model: Model) -> None:
    with pytest.raises(CallError, match="Give dispatch_model a folder"):
        dispatch_model(model, {"": "disk"})
    with pytest.raises(CallError, match="gives no device"):
        dispatch_model(model, {"embed": "cpu"})


def test_parted_ties_are_warned_of(model: Model, tmp_path: Path) -> None:
    places = {"embed": "cpu", "blocks": "cpu", "head": "disk", "shift": "cpu", "passing": "cpu"}
    with pytest.warns(UserWarning, match="would make them differ"):
        dispatch_model(model, places, offload_dir=tmp_path)


def test_other_devices_get_inputs_and_weights(x: torch.Tensor) -> None:
    """The meta device stands for a GPU: a layer there computes there, and its input is brought."""
    seen: list[str] = []

    class Looking(nn.Module):
        def forward(self, x: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
            seen.extend((x.device.type, kept.device.type))
            return x

    layer = Looking()
    add_hook_to_module(layer, AlignDevicesHook("meta", io_same_device=False, skip_keys="kept"))
    assert layer(x, kept=x).device.type == "meta"
    assert seen == ["meta", "cpu"]
    assert "execution_device=meta" in repr(layer._hf_hook)


def test_models_that_run_in_turn(x: torch.Tensor) -> None:
    first, first_hook = cpu_offload_with_hook(nn.Linear(4, 4), "cpu")
    second, second_hook = cpu_offload_with_hook(nn.Linear(4, 4), "cpu", prev_module_hook=first_hook)
    assert second(first(x)).shape == (3, 4)
    second_hook.offload()
    second_hook.remove()
    assert not hasattr(second, "_hf_hook")


class Called(UserCpuOffloadHook):
    times = 0

    def offload(self) -> None:
        self.times += 1


def test_the_model_before_is_sent_back_from_the_device_alone(x: torch.Tensor) -> None:
    """The meta device stands for a GPU."""
    first, hook = cpu_offload_with_hook(nn.Linear(4, 4), "meta")
    called = Called(first, hook.hook)
    second, _ = cpu_offload_with_hook(nn.Linear(4, 4), "meta", prev_module_hook=called)
    second(x)
    assert called.times == 0, "the model before is in main memory"
    first(x)
    second(x)
    assert called.times == 1, "it is on the device, as is the second"


def test_align_module_device(model: Model, x: torch.Tensor) -> None:
    disk_like = cpu_offload(model)
    layer = disk_like.blocks[0].first
    with ours.align_module_device(layer):
        assert layer.weight.device.type == "cpu"
    assert layer.weight.device.type == "meta"
    plain = nn.Linear(4, 4)
    with ours.align_module_device(plain, torch.device("cpu")):
        assert plain.weight.device.type == "cpu"


def test_hooks_come_off_with_the_weights(model: Model, x: torch.Tensor) -> None:
    before = model(x)
    add_hook_to_module(model, AlignDevicesHook("cpu", offload=True, place_submodules=True, offload_buffers=True))
    assert model.embed.weight.device.type == "meta"
    assert torch.equal(model(x), before)
    remove_hook_from_module(model)
    assert model.embed.weight.device.type == "cpu"
    assert torch.equal(model(x), before)


# Files


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 2)])
def test_weights_in_files_are_accelerates(dtype: torch.dtype, shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = torch.ones(shape).to(dtype)
    index = ours.offload_weight(weight, "w", tmp_path, {})
    again = ours.load_offloaded_weight(tmp_path / "w.dat", index["w"])
    assert again.dtype == dtype
    assert torch.equal(again, weight)
    if 0 not in shape:
        assert torch.equal(theirs.load_offloaded_weight(str(tmp_path / "w.dat"), index["w"]), weight)
        reference = theirs.offload_weight(weight, "t", str(tmp_path), {})
        assert torch.equal(ours.load_offloaded_weight(tmp_path / "t.dat", reference["t"]), weight)


def test_a_folder_of_weights(tmp_path: Path) -> None:
    state = {"a.w": torch.ones(2), "b.w": torch.zeros(3), "ab.w": torch.ones(1)}
    ours.offload_state_dict(tmp_path, {"a.w": state["a.w"]})
    ours.save_offload_index({"x": {"dtype": "float32", "shape": []}}, tmp_path)
    assert set(json.loads((tmp_path / "index.json").read_text())) == {"a.w", "x"}
    loader = ours.OffloadedWeightsLoader({"b.w": state["b.w"]}, save_folder=tmp_path)
    assert (list(loader), len(loader)) == (["b.w", "a.w", "x"], 3)
    assert torch.equal(loader["a.w"], state["a.w"])
    inner = ours.PrefixedDataset(loader, "a.")
    assert (list(inner), len(inner), inner["w"].tolist()) == (["w"], 1, [1.0, 1.0])
    assert list(ours.extract_submodules_state_dict(state, ["a"])) == ["a.w"]
    layer = nn.Sequential(nn.Linear(1, 1))
    index = ours.offload_weight(torch.full((1, 1), 7.0), "0.weight", tmp_path)
    load_offloaded_weights(layer, index, tmp_path)
    assert layer[0].weight.item() == 7.0
    with pytest.raises(CallError, match="nothing to load"):
        ours.OffloadedWeightsLoader()


def test_weights_are_read_out_of_safetensors(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "m.safetensors")
    index = {"a": {"safetensors_file": str(tmp_path / "m.safetensors"), "weight_name": "w", "dtype": "float16"}}
    loader = ours.OffloadedWeightsLoader(index=index)
    assert loader["a"].dtype == torch.float16


# Loading


def written(model: Model, folder: Path, kind: str) -> Path:
    state = {name: weight for name, weight in model.state_dict().items() if name != "head.weight"}
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors")
        return folder / "model.safetensors"
    if kind == "torch":
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    names = sorted(state)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, inside in parts.items():
        save_file({name: state[name] for name in inside}, folder / file)
    index = {"weight_map": {name: file for file, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder / "model.safetensors.index.json" if kind == "index" else folder


def test_a_model_with_memory_is_filled_where_it_is(model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    for load in (load_checkpoint_in_model, load_checkpoint_and_dispatch):
        other = Model().eval()
        held = dict(other.named_parameters(remove_duplicate=False)) | dict(other.named_buffers())
        load(other, checkpoint)
        now = dict(other.named_parameters(remove_duplicate=False)) | dict(other.named_buffers())
        assert all(now[name] is held[name] for name in held)
        assert torch.equal(other(x), model(x))


def test_a_buffer_that_is_one_number_many_times_is_filled(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.register_buffer("mask", torch.ones(1).expand(4))
    torch.save({"mask": torch.arange(4.0)}, tmp_path / "mask.bin")
    load_checkpoint_in_model(model, tmp_path / "mask.bin")
    assert torch.equal(model.mask, torch.arange(4.0))


@pytest.mark.parametrize("kind", ["safetensors", "torch", "index", "folder"])
@pytest.mark.parametrize("device_map", [None, "auto", "sequential", {"": "disk"}])
def test_checkpoints_fill_empty_models(
    kind: str, device_map: Any, model: Model, x: torch.Tensor, tmp_path: Path
) -> None:
    checkpoint = written(model, tmp_path, kind)
    empty = empty_model().eval()
    loaded = load_checkpoint_and_dispatch(empty, checkpoint, device_map, offload_folder=tmp_path / "away", strict=True)
    assert torch.equal(loaded(x), model(x))


def test_dtypes_of_parts_on_the_disk(model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    loaded = load_checkpoint_and_dispatch(
        empty_model().eval(), checkpoint, MIXED, offload_folder=tmp_path, dtype=torch.bfloat16
    )
    assert loaded.blocks[0].first.weight.dtype == torch.bfloat16
    model.to(torch.bfloat16).passing = torch.ones(4)
    assert torch.equal(loaded(x.bfloat16()), model(x.bfloat16()))


def test_tied_weights_on_the_disk_stay_tied_in_another_dtype(model: Model, x: torch.Tensor, tmp_path: Path) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    empty = empty_model().eval()
    load_checkpoint_in_model(empty, checkpoint, {"": "disk"}, tmp_path, torch.bfloat16)
    assert empty.head.weight is empty.embed.weight
    assert empty.head.weight.dtype == torch.bfloat16
    spread = dispatch_model(empty, {"": "disk"}, offload_dir=tmp_path)
    model.to(torch.bfloat16).passing = torch.ones(4)
    assert torch.equal(spread(x.bfloat16()), model(x.bfloat16()))


def test_dtypes_on_loading(model: Model, tmp_path: Path) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    empty = empty_model()
    load_checkpoint_in_model(
        empty, checkpoint, dtype=torch.bfloat16, keep_in_fp32_modules=["norm", "0.first", "second.weight"]
    )
    assert empty.embed.weight.dtype == torch.bfloat16
    assert empty.blocks[0].norm.weight.dtype == torch.float32
    assert empty.blocks[0].first.bias.dtype == torch.float32
    assert empty.blocks[1].first.bias.dtype == torch.bfloat16
    assert [empty.blocks[1].second.weight.dtype, empty.blocks[1].second.bias.dtype] == [torch.float32, torch.bfloat16]
    assert empty.blocks[0].norm.num_batches_tracked.dtype == torch.int64


def test_maps_for_single_files(model: Model, tmp_path: Path) -> None:
    checkpoint = written(model, tmp_path, "safetensors")
    loaded = ours.load_state_dict(checkpoint, {"": "cpu", "blocks": "meta", "embed": "disk"})
    assert loaded["blocks.0.scale"].device.type == "meta"
    assert loaded["embed.weight"].device.type == "cpu"


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda m, d: load_checkpoint_in_model(m, d / "nowhere"), CallError, "there is no checkpoint"),
        (lambda m, d: load_checkpoint_in_model(m, d, {"": "disk"}), CallError, "offload_folder="),
        (lambda m, d: load_checkpoint_in_model(m, d, full_state_dict=False), PlanError, "full_state_dict=False"),
        (lambda m, d: load_checkpoint_in_model(m, d, broadcast_from_rank0=True), PlanError, "broadcast_from_rank0"),
        (lambda m, d: load_checkpoint_in_model(m, d, offload_8bit_bnb=True), PlanError, "offload_8bit_bnb"),
        (lambda m, d: load_checkpoint_and_dispatch(m, d, "best"), CallError, "'auto', 'balanced'"),
        (lambda m, d: get_state_dict_offloaded_model(m), CallError, "no hook knows their values"),
        (lambda m, d: ours.load_state_dict(d / "broken.safetensors"), ConfigFileError, "not a readable safetensors"),
    ],
)
def test_what_cannot_be_loaded(call: Any, error: type[Exception], text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_text("nothing")
    with pytest.raises(error, match=text):
        call(empty_model(), tmp_path)


def test_strict_loading_names_what_differs(model: Model, tmp_path: Path) -> None:
    save_file({"embed.weight": torch.ones(4, 4), "tail": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"has no 'tail', which .* 1 of its 2 weights were not loaded"):
        load_checkpoint_in_model(model, tmp_path)
    with pytest.raises(CallError, match=r"lacks \['blocks.*has \['tail'\]"):
        load_checkpoint_in_model(model, tmp_path, strict=True)


def test_a_checkpoint_that_fits_nothing_is_warned_of(model: Model, tmp_path: Path) -> None:
    save_file(
        {f"module.{name}": weight for name, weight in Block().state_dict().items()}, tmp_path / "model.safetensors"
    )
    with pytest.warns(UserWarning, match=r"'module.first.bias', .* and 7 more, .* 10 of its 10 weights") as caught:
        load_checkpoint_in_model(model, tmp_path)
    assert caught[0].filename == __file__


def test_ties_in_configurations() -> None:
    class Config:
        tie_word_embeddings = True

    made = nn.Linear(1, 1)
    assert not check_tied_parameters_in_config(made)
    made.config = Config()  # type: ignore[assignment]
    assert check_tied_parameters_in_config(made)
    assert ours.id_tensor_storage(made.weight) == ours.id_tensor_storage(made.weight.t())
