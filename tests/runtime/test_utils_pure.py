"""Functions without side effects give what the installed Accelerate gives, where that is right."""

from __future__ import annotations

import enum
import os
import sys
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import accelerate.utils as theirs
    import accelerate.utils.operations as their_operations

import nbaccel.utils as ours
from nbaccel.errors import CallError, MissingExtraError, PlanError
from nbaccel.runtime import environment, imports, versions
from nbaccel.runtime.bigmodel.dispatch import best_device
from nbaccel.utils import operations

Point = namedtuple("Point", ["x", "y"])
ROWS = torch.arange(6).view(3, 2)
NESTED = {"a": ROWS, "b": [(ROWS.half(), "text"), Point(ROWS.bfloat16(), 3)], "c": OrderedDict(d=ROWS.double())}


@dataclass
class Output:
    logits: torch.Tensor


def same(one: Any, other: Any) -> bool:
    """Equality of nested data, with equal types and dtypes."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(one) is type(other) and list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


CALLS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "fp32": ("convert_to_fp32", (NESTED,), {}),
    "slice": ("slice_tensors", (NESTED, slice(0, 1)), {}),
    "concatenate": ("concatenate", ([{"a": ROWS}, {"a": ROWS}],), {}),
    "concatenate tuples": ("concatenate", ([(ROWS, [ROWS]), (ROWS, [ROWS])],), {}),
    "concatenate columns": ("concatenate", ([ROWS, ROWS],), {"dim": 1}),
    "batch size": ("find_batch_size", (NESTED,), {}),
    "no batch size": ("ignorant_find_batch_size", ("text",), {}),
    "nothing": ("ignorant_find_batch_size", ([],), {}),
    "device": ("find_device", (NESTED,), {}),
    "no device": ("find_device", ("text",), {}),
    "listify": ("listify", ({"a": ROWS, "b": (ROWS.float(), 3)},), {}),
    "namedtuple": ("is_namedtuple", (Point(1, 2),), {}),
    "no namedtuple": ("is_namedtuple", ((1, 2),), {}),
    "pad 3 for 2": ("pad_input_tensors", (ROWS, 3, 2), {}),
    "pad 3 for 4": ("pad_input_tensors", ({"a": ROWS}, 3, 4), {}),
    "pad 3 for 5": ("pad_input_tensors", (ROWS, 3, 5), {}),
    "pad 5 for 4": ("pad_input_tensors", (torch.arange(5), 5, 4), {}),
    "apply": ("recursively_apply", (lambda tensor, add: tensor + add, NESTED, 2), {}),
    "apply to ints": (
        "recursively_apply",
        (lambda x: x + 1, [1, {"s": 2}]),
        {"test_type": lambda x: isinstance(x, int)},
    ),
    "skip keys": ("send_to_device", ({"a": ROWS, "b": 1}, "cpu"), {"skip_keys": "a"}),
    "merge": ("merge_dicts", ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}, "c": 1}), {}),
    "getattr": ("recursive_getattr", (nn.Sequential(nn.Linear(1, 2)), "0.weight.shape"), {}),
    "pretty module": ("get_pretty_name", (nn.Linear(1, 1),), {}),
    "pretty class": ("get_pretty_name", (nn.Linear,), {}),
    "pretty function": ("get_pretty_name", (len,), {}),
    "versions": ("compare_versions", ("torch", ">=", "2.0"), {}),
    "torch": ("is_torch_version", ("<", "1.0"), {}),
    "libraries": ("are_libraries_initialized", ("torch", "no_such_library"), {}),
    "env lines": ("convert_dict_to_env_variables", ({"A": "b", "H": "x=y", "I": "3"},), {}),
    **{
        f"bytes {size}": ("convert_bytes", (size,), {})
        for size in (0, 1023, 1024, 1536, 10**6, 5 * 2**30, 2**50, 2**60)
    },
    **{
        f"size {size}": ("convert_file_size_to_int", (size,), {})
        for size in ("1GB", "2GiB", "3mb", "10kb", "5MIB", "1.5GB", "1Gb", 12, "1 GB", "1KIB")
    },
    **{
        f"dtype {dtype}": ("dtype_byte_size", (dtype,), {})
        for dtype in (torch.float32, torch.bool, torch.int64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64)
    },
    **{f"word {word}": ("str_to_bool", (word,), {}) for word in ("yes", "NO", "1", "0", "on", "off", "True", "f")},
}


@pytest.mark.parametrize("name", CALLS)
def test_like_accelerate(name: str) -> None:
    function, args, kwargs = CALLS[name]
    expected = (getattr(theirs, function, None) or getattr(their_operations, function))(*args, **kwargs)
    found = (getattr(ours, function, None) or getattr(operations, function))(*args, **kwargs)
    assert same(found, expected)


def test_walks_know_what_accelerate_does_not() -> None:
    output = Output(ROWS.half())
    assert ours.convert_to_fp32(output).logits.dtype == torch.float32
    assert ours.find_batch_size(output) == 3
    assert ours.concatenate([output, output]).logits.shape == (6, 2)
    padded = ours.pad_input_tensors(torch.ones(3, 2), 2, 4, dim=1)  # Accelerate raises here
    assert padded.shape == (3, 4)
    assert ours.pad_input_tensors(torch.tensor(3.0), 3, 2).shape == ()


def test_structures_come_back_as_tensors() -> None:
    described = ours.get_data_structure({"a": ROWS, "b": (ROWS, "text")})
    assert ours.is_tensor_information(described["a"])
    assert (described["a"].shape, described["a"].dtype) == (ROWS.shape, ROWS.dtype)
    made = ours.initialize_tensors(described)
    assert (made["b"][0].shape, made["b"][0].dtype, made["b"][1]) == (ROWS.shape, ROWS.dtype, "text")
    assert ours.honor_type(Point(1, 2), iter((3, 4))) == Point(3, 4)
    assert ours.honor_type((1, 2), iter((3, 4))) == (3, 4)


def test_outputs_as_float32_keep_the_functions_name() -> None:
    @ours.convert_outputs_to_fp32
    def halve(x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Doc."""
        return {"y": x.half()}

    class Model:
        @ours.convert_outputs_to_fp32
        def run(self, x: torch.Tensor) -> torch.Tensor:
            return x.bfloat16()

    assert halve(ROWS)["y"].dtype == torch.float32
    assert (halve.__name__, halve.__doc__) == ("halve", "Doc.")
    assert Model().run(ROWS).dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: ours.find_batch_size([]), "nothing in this list"),
        (lambda: ours.find_batch_size("text"), "a str has no batch size"),
        (lambda: ours.find_batch_size(torch.tensor(1.0)), "without dimensions"),
        (lambda: ours.concatenate([]), "the list is empty"),
        (lambda: ours.concatenate([{"a": ROWS, "s": "x"}] * 2), "there is a str"),
        (lambda: ours.concatenate([[ROWS], [ROWS, ROWS]]), "one batch has 1 leaves, another 2"),
        (lambda: ours.concatenate([{"a": ROWS}, {"b": ROWS}]), "different keys"),
        (lambda: ours.recursively_apply(len, [ROWS, "x"], error_on_other_type=True), "recursively_apply.len."),
        (lambda: ours.str_to_bool("maybe"), "'maybe' is no truth value"),
        (lambda: ours.compare_versions("torch", "~", "2"), "possible are > >= =="),
        (lambda: ours.convert_file_size_to_int("7"), "cannot be read"),
        (lambda: ours.convert_file_size_to_int("-1GB"), "cannot be read"),
        (lambda: ours.dtype_byte_size("float32"), "possible is a torch.dtype"),
        (lambda: ours.copy_tensor_to_devices(None), "no rank has a tensor"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[], Any], text: str) -> None:
    with pytest.raises(CallError, match=text):
        call()


@pytest.mark.parametrize(
    "name", ["PrecisionType", "RNGType", "DDPCommunicationHookType", "DynamoBackend", "ComputeEnvironment",
             "SageMakerDistributedType", "CustomDtype", "LoggerType"]
)  # fmt: skip
def test_enums_hold_accelerates_words(name: str) -> None:
    mine, reference = getattr(ours, name), getattr(theirs, name)
    assert {word.name: word.value for word in mine}.items() >= {word.name: word.value for word in reference}.items()


def test_enums_are_words() -> None:
    kind: Any = ours.PrecisionType
    assert "bf16" in kind
    assert kind.BF16 in kind
    assert "fp17" not in kind
    assert kind.list() == ["no", "fp8", "fp16", "bf16"]
    assert (str(kind.BF16), f"{kind.BF16}", kind.BF16 == "bf16", kind("fp8")) == ("bf16", "bf16", True, kind.FP8)
    assert issubclass(kind, enum.Enum)


def test_constants_hold_accelerates_values() -> None:
    import accelerate.utils.constants as reference

    import nbaccel.utils.constants as mine

    names = [name for name in dir(reference) if name.isupper() and name != "STR_OPERATION_TO_FUNC"]
    assert {name: getattr(mine, name) for name in names} == {name: getattr(reference, name) for name in names}


def test_available_packages_are_those_that_accelerate_finds() -> None:
    names = [name for name in dir(theirs) if name.startswith("is_") and name.endswith("_available")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: bool(getattr(theirs, name)()) for name in names}
    assert {name: getattr(ours, name)() for name in names} == expected


def test_availability_of_devices_and_versions() -> None:
    assert imports.is_bnb_available("0.1") == imports.is_bnb_available()
    assert imports.is_numpy_available("1.0")
    assert not imports.is_numpy_available("99.0")
    assert not imports.is_habana_gaudi1()
    assert not imports._has("no_such_package.inside")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(MissingExtraError, match="pip install deepspeed"):
        imports.deepspeed_required(len)([])
    monkeypatch.setitem(sys.modules, "deepspeed", os)
    assert imports.deepspeed_required(len)([]) == 0


def test_versions_can_be_given_parsed() -> None:
    assert ours.compare_versions(versions.parse("2.1"), "<", "2.10")


def test_environment_is_patched_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMER", "1")
    with ours.patch_environment(former=2, fresh="x"):
        assert (os.environ["FORMER"], os.environ["FRESH"]) == ("2", "x")
    assert os.environ["FORMER"] == "1"
    assert "FRESH" not in os.environ
    with ours.clear_environment():
        assert not os.environ
        os.environ["FRESH"] = "1"
    assert os.environ["FORMER"] == "1"
    assert "FRESH" not in os.environ


def test_purging_takes_what_was_set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_FORMER", "1")

    def change() -> None:
        os.environ["ACCELERATE_FORMER"] = "2"
        os.environ["ACCELERATE_FRESH"] = "2"

    class Tests:
        def test_one(self) -> None:
            change()

        async def test_two(self) -> None:
            change()

    ours.purge_accelerate_environment(change)()
    purged = ours.purge_accelerate_environment(Tests)()
    purged.test_one()
    with pytest.raises(StopIteration):
        purged.test_two().send(None)
    assert os.environ["ACCELERATE_FORMER"] == "1"
    assert "ACCELERATE_FRESH" not in os.environ


def test_reading_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAG", "On")
    monkeypatch.setenv("NUMBER", "3")
    monkeypatch.setenv("BELOW", "-3")
    assert ours.parse_flag_from_env("FLAG")
    assert ours.parse_flag_from_env("NO_FLAG", True)
    assert ours.parse_choice_from_env("FLAG") == "On"
    assert ours.parse_choice_from_env("NO_FLAG") == "no"
    assert ours.get_int_from_env(["BELOW", "NUMBER"], 5) == 3
    assert ours.get_int_from_env("NUMBER", 5) == 3
    assert ours.get_int_from_env(["NOTHING"], 5) == 5
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    place = ours.get_cpu_distributed_information()
    assert (place.rank, place.world_size, place.local_rank) == (2, 4, 2)


def test_lines_that_cannot_be_are_left_out_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="C D=x is left out"):
        assert ours.convert_dict_to_env_variables({"A": "b", "C D": "x"}) == ["A=b\n"]


def test_questions_about_gpus_have_answers_without_any() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert ours.get_gpu_info() == ([], 0)  # Accelerate: FileNotFoundError
    assert ours.check_cuda_p2p_ib_support()
    assert not ours.check_cuda_fp8_capability()  # Accelerate: AssertionError
    assert environment.get_driver_version() is None
    assert ours.get_current_device_type() in (("cpu", "MULTI_CPU"), ("mps", "MULTI_MPS"))  # Accelerate: cuda
    assert best_device().type == ours.get_current_device_type()[0]
    ours.set_numa_affinity(0)
    assert environment._parsed_cores("0-2,5\n") == {0, 1, 2, 5}


def test_a_torch_without_torch_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ours.get_current_device_type()
    monkeypatch.delattr(torch, "accelerator")
    assert ours.get_current_device_type() == expected


def test_the_kernels_age_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("Linux")
    ours.check_os_kernel()
    monkeypatch.setattr(os, "uname", lambda: type("U", (), {"release": "4.15.0-1"})())
    with pytest.warns(UserWarning, match="older than 5.5"):
        ours.check_os_kernel()


def test_ports() -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert ours.is_port_in_use(listener.getsockname()[1])
    from nbaccel.utils.other import get_free_port

    assert not ours.is_port_in_use(get_free_port())


def test_what_is_not_there_says_so_when_it_is_used() -> None:
    assert not isinstance(3, ours.MegatronLMPlugin)
    with pytest.raises(PlanError, match=r"MegatronLMPlugin.*does not support Megatron-LM"):
        ours.MegatronLMPlugin(tp_degree=2)
    from nbaccel.inference import prepare_pippy

    with pytest.raises(PlanError, match=r"come next.*dispatch_model"):
        prepare_pippy(nn.Linear(1, 1))


def test_single_process_collectives_hand_back_what_they_got() -> None:
    assert ours.gather(NESTED) is NESTED
    assert ours.broadcast(NESTED) is NESTED
    assert ours.gather_object([3]) == [3]
    assert ours.copy_tensor_to_devices(ROWS) is ROWS
    ours.wait_for_everyone()


def test_saving_and_loading(tmp_path: Any) -> None:
    weight = torch.ones(2, 2)
    ours.save({"a": weight}, tmp_path / "x.bin")
    assert torch.equal(ours.load(tmp_path / "x.bin")["a"], weight)
    single = ours.clean_state_dict_for_safetensors({"a": weight, "b": weight, "c": torch.ones(4, 3).t()})
    assert list(single) == ["a", "c"]
    assert single["c"].is_contiguous()


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.head = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_regions_are_compiled_and_share_weights() -> None:
    model = Repeated()
    assert not ours.has_compiled_regions(model)
    compiled = ours.compile_regions(model, backend="eager")
    assert ours.has_compiled_regions(compiled)
    assert not ours.has_compiled_regions(model)
    assert all(ours.is_compiled_module(layer) for layer in compiled.layers)
    with torch.no_grad():  # else torch warns of itself
        assert torch.equal(compiled(torch.ones(1, 2)), model(torch.ones(1, 2)))
    assert compiled.layers[0]._orig_mod.weight is model.layers[0].weight
    assert ours.is_compiled_module(ours.compile_regions(nn.Linear(1, 1), backend="eager"))
    in_place = Repeated()
    assert ours.compile_regions_fsdp2(in_place, backend="eager") is in_place
    assert in_place.layers[0]._compiled_call_impl is not None


def test_questions_about_modules() -> None:
    model = Repeated()
    mine, reference = ours.get_module_children_bottom_up(model), theirs.get_module_children_bottom_up(model)
    assert set(map(id, mine)) == set(map(id, reference))
    assert mine[-1] is model
    assert ours.get_module_children_bottom_up(model, return_fqns=True)[0][0] == "layers.0"
    assert not ours.model_has_dtensor(model)
    assert not ours.is_peft_model(model)
    assert ours.get_model_tp_size(model) is None
    assert not ours.has_4bit_bnb_layers(model)
    assert not ours.has_ao_layers(model)
    assert not ours.has_transformer_engine_layers(model)
    with ours.GatheredParameters(model.parameters()):
        pass
