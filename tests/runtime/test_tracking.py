"""Trackers: what they are given, and what they make of it."""

from __future__ import annotations

import sys
import types
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nbaccel.errors import CallError, MissingExtraError
from nbaccel.look.curves import MOST_POINTS, Curve, Curves, measured
from nbaccel.look.sparkline import lines, sparkline
from nbaccel.look.svg import MOST_PANELS, draw
from nbaccel.look.ticks import short, ticks
from nbaccel.runtime.tracking import choosing
from nbaccel.runtime.tracking.base import GeneralTracker, on_main_process
from nbaccel.runtime.tracking.display import Display, ShellDisplay, find_display
from nbaccel.runtime.tracking.notebook import NotebookTracker
from nbaccel.runtime.tracking.plain import numbers, plain
from nbaccel.runtime.tracking.trackers import Trackers

SERVICES = ["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio", "wandb"]


class Own(GeneralTracker):
    name = "own"

    def __init__(self, run_name: str = "", **kwargs: Any) -> None:
        super().__init__()
        self.run_name, self.kwargs = run_name, kwargs
        self.calls: list[Any] = []

    def start(self) -> None:
        self.calls.append("start")

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self.calls.append(dict(values))

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.calls.append((dict(values), step, kwargs))

    def finish(self) -> None:
        self.calls.append("finish")

    @property
    def tracker(self) -> Any:
        return "inside"


class Everywhere(Own):
    name = "everywhere"
    main_process_only = False


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_registered", {})


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, calls: list[Any]) -> types.ModuleType:
    """A package that notes how it is used."""

    class Anything:
        def __init__(self, path: str) -> None:
            self.__dict__["path"] = path

        def __getattr__(self, attribute: str) -> Any:
            return Anything(f"{self.path}.{attribute}")

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append((self.path, args, kwargs))
            return None if self.path.endswith("current_task") else Anything(f"{self.path}()")

        def __setattr__(self, attribute: str, value: Any) -> None:
            calls.append((f"{self.path}.{attribute}=", (value,), {}))

        def __setitem__(self, key: str, value: Any) -> None:
            calls.append((f"{self.path}[]", (key, value), {}))

    module = types.ModuleType(name)
    module.__getattr__ = lambda attribute: Anything(attribute)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_values_become_plain() -> None:
    import numpy as np

    given = {"a": torch.tensor(1.5), "b": np.float32(2), "c": np.array([3]), "d": "x", "e": {"f": torch.tensor([4])}}
    assert plain(given) == {"a": 1.5, "b": 2.0, "c": 3, "d": "x", "e": {"f": 4}}
    several = torch.ones(2)
    assert plain({"g": several})["g"] is several
    assert numbers(plain(given)) == {"a": 1.5, "b": 2.0, "c": 3.0, "e/f": 4.0}


def test_a_tracker_of_ones_own_gets_everything() -> None:
    own = Own()
    trackers = Trackers(own)
    trackers.start("project", {"lr": torch.tensor(0.5)})
    trackers.log({"loss": torch.tensor(2.0)}, step=3, log_kwargs={"own": {"x": 1}})
    assert trackers.get("own") is own
    assert trackers.get("own", unwrap=True) == "inside"
    trackers.finish()
    trackers.finish()
    assert own.calls == ["start", {"lr": 0.5}, ({"loss": 2.0}, 3, {"x": 1}), "finish"]


def test_logging_without_beginning_begins() -> None:
    own = Own()
    trackers = Trackers([own])
    trackers.log({"loss": 1})
    assert own.calls == ["start", ({"loss": 1}, None, {})]


def test_without_trackers_nothing_happens() -> None:
    trackers = Trackers(None)
    trackers.log({"loss": 1})
    trackers.finish()
    assert trackers.running == []


@pytest.mark.usefixtures("registry")
def test_only_the_main_process_logs_unless_a_tracker_wants_it() -> None:
    own, everywhere = Own(), Everywhere()
    trackers = Trackers([own, everywhere], is_main=False)
    trackers.log({"loss": 1})
    assert own.calls == []
    assert everywhere.calls == ["start", ({"loss": 1}, None, {})]
    silent = trackers.get("own")
    silent.log({"loss": 1})
    silent.start()
    silent.store_init_configuration({})
    silent.finish()
    assert silent.tracker is None
    assert trackers.get("own", unwrap=True) is None
    Trackers([Own()], is_main=False).log({"loss": 1})


@pytest.mark.usefixtures("registry")
def test_registered_classes_have_names() -> None:
    choosing.register_tracker_class(Own)
    trackers = Trackers(["own", "own"])
    trackers.start("project", init_kwargs={"own": {"mode": "x"}})
    (own,) = trackers.running
    assert (own.run_name, own.kwargs) == ("project", {"mode": "x"})
    assert "own" in choosing.installed()
    with pytest.warns(UserWarning, match="log_with='own' now means Own"):
        choosing.register_tracker_class(Own)


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_registered() -> None:
    with pytest.raises(CallError, match="give a subclass of"):
        choosing.register_tracker_class(int)
    with pytest.raises(CallError, match=r"Nameless\): it has no name"):
        choosing.register_tracker_class(type("Nameless", (GeneralTracker,), {}))


def test_all_means_what_is_installed(tmp_path: Path) -> None:
    assert choosing.choose("all", None) == [NotebookTracker]
    assert NotebookTracker in choosing.choose(choosing.LoggerType.ALL, str(tmp_path))
    assert str(choosing.LoggerType.COMETML) == "comet_ml"
    assert {kind.value for kind in choosing.LoggerType} == {"all", *choosing._CLASSES}


@pytest.mark.parametrize("name", SERVICES)
def test_a_missing_package_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=f"pip install {name}"):
        choosing.choose(name, str(tmp_path))


def test_a_package_that_vanished_is_named() -> None:
    from nbaccel.runtime.tracking.services.runs import WandBTracker

    with pytest.raises(MissingExtraError, match="pip install wandb"):
        WandBTracker("project").start()


def test_wrong_names_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match="Did you mean 'wandb'"):
        Trackers("wandbb")
    fake_module(monkeypatch, "aim", [])
    with pytest.raises(CallError, match="knows no folder"):
        Trackers("aim")
    trackers = Trackers(Own())
    with pytest.raises(CallError, match=r"names 'owm', and log_with means own\. Did you mean 'own'"):
        trackers.start(init_kwargs={"owm": {}})
    with pytest.raises(CallError, match=r"log\(log_kwargs"):
        trackers.log({}, log_kwargs={"wandb": {}})
    with pytest.raises(CallError, match="Possible: own"):
        trackers.get("wandb")
    with pytest.raises(CallError, match="Call init_trackers"):
        Trackers(None).get("wandb")


def test_a_tracker_without_images_says_so() -> None:
    with pytest.raises(CallError, match="own: log_images"):
        Own().log_images({})
    with pytest.raises(CallError, match="own: log_table"):
        Own().log_table("t")


def test_methods_for_the_main_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(Own):
        @on_main_process
        def count(self) -> int:
            return 1

    class Open(Guarded):
        main_process_only = False

    assert Guarded().count() == 1
    monkeypatch.setattr(
        "nbaccel.runtime.tracking.base.PartialState", lambda: types.SimpleNamespace(is_main_process=False)
    )
    assert Guarded().count() is None
    assert Open().count() == 1


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_told_everything(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    fake_module(monkeypatch, name, calls)
    trackers = Trackers(name, str(tmp_path))
    trackers.start("project", {"lr": 0.5})
    trackers.log({"loss": torch.tensor(2.0), "eval_acc": 0.25, "word": "x", "many": {"a": 1}}, step=3)
    assert trackers.get(name, unwrap=True) is not None
    trackers.log({"loss": 1.0})
    trackers.finish()
    told = repr(calls)
    assert all(word in told for word in ("lr", "0.5", "loss", "2.0", "acc", "0.25", "3")), told
    assert any(word in calls[-1][0] for word in ("finish", "end", "close")), calls[-1]
    if name not in ("dvclive", "mlflow"):
        assert "project" in told


def test_images_and_tables_of_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("wandb", "swanlab", "aim", "clearml", "dvclive"):
        calls: list[Any] = []
        fake_module(monkeypatch, name, calls)
        trackers = Trackers(name, str(tmp_path))
        trackers.start("project")
        trackers.get(name).log_images({"picture": ["image"]}, step=1)
        assert "picture" in repr(calls)
        if name in ("wandb", "clearml"):
            trackers.get(name).log_table("table", columns=["a"], data=[[1]], step=1)
            assert "table" in calls[-1][0].lower() or "table" in repr(calls[-1])
    trackers = Trackers("clearml")
    trackers.start()
    with pytest.raises(CallError, match="nothing to show"):
        trackers.get("clearml").log_table("table")


def test_artifacts_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    fake_module(monkeypatch, "mlflow", calls)
    trackers = Trackers("mlflow")
    trackers.start("project", {"long": "x" * 900})
    tracker = trackers.get("mlflow")
    tracker.log_figure("figure", "a.png")
    tracker.log_artifact("file")
    tracker.log_artifacts("folder")
    assert [call[0] for call in calls[-3:]] == ["log_figure", "log_artifact", "log_artifacts"]
    assert len(next(call for call in calls if call[0] == "log_params")[1][0]["long"]) == 500


def test_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    fake_module(monkeypatch, "tensorboard", calls)
    fake_module(monkeypatch, "torch.utils.tensorboard", calls)
    trackers = Trackers("tensorboard", str(tmp_path))
    trackers.start("run", {"lr": 0.5, "kind": object})
    trackers.log({"loss": 1.0, "word": "x", "many": {"a": 1.0}}, step=2)
    trackers.get("tensorboard").log_images({"picture": torch.zeros(1, 3, 2, 2)})
    trackers.finish()
    names = [call[0].rpartition(".")[2] for call in calls]
    assert names == ["SummaryWriter", "add_hparams", "flush", "add_scalar", "add_text", "add_scalars", "flush",
                     "add_images", "close"]  # fmt: skip
    assert calls[0][1] == (str(tmp_path / "run"),)


def test_tensorboard_by_its_other_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[Any] = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fake_module(monkeypatch, "tensorboardX", calls)
    Trackers("tensorboard", str(tmp_path)).start("run")
    assert calls[0][0] == "SummaryWriter"


# Curves


class Board(Display):
    is_there = True

    def __init__(self) -> None:
        self.shown: list[Mapping[str, str]] = []
        self.cell_ends: Any = None

    def show(self, data: Mapping[str, str]) -> None:
        self.shown.append(data)

    def when_cells_end(self, call: Any) -> None:
        self.cell_ends = call


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def board() -> tuple[NotebookTracker, Board, Clock]:
    board, clock = Board(), Clock()
    tracker = NotebookTracker("run", find=lambda: board, clock=clock)
    tracker.start()
    return tracker, board, clock


def test_curves_are_drawn_twice_a_second_and_at_the_end(board: tuple[NotebookTracker, Board, Clock]) -> None:
    tracker, place, clock = board
    for step in range(100):
        clock.now += 0.125
        tracker.log({"loss": 1 / (step + 1), "word": "x"}, step=step)
    assert len(place.shown) == 25
    assert all(set(data) == {"image/svg+xml"} for data in place.shown)
    place.cell_ends()
    place.cell_ends()
    assert len(place.shown) == 26
    tracker.finish()
    tracker.finish()
    assert len(place.shown) == 27
    assert "loss" in place.shown[-1]["text/plain"]
    assert "100 values" in place.shown[-1]["text/plain"]
    assert tracker.tracker.by_name["loss"].last == 0.01


def test_without_a_notebook_the_end_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    tracker = NotebookTracker(find=Display)
    tracker.start()
    tracker.log({"word": "x"})
    tracker.log({"loss": 2.0})
    tracker.log({"loss": 1.0})
    tracker.finish()
    assert capsys.readouterr().out == "loss  █▁  2 → 1  (min 1, max 2, 2 values)\n"
    NotebookTracker(find=Display).finish()
    Display().show({})


def test_a_display_is_updated_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Any] = []
    events: list[Any] = []
    shell = types.SimpleNamespace(
        display_pub=types.SimpleNamespace(publish=lambda **kwargs: published.append(kwargs)),
        events=types.SimpleNamespace(register=lambda name, call: events.append((name, call))),
    )
    monkeypatch.setitem(sys.modules, "IPython.core.getipython", types.SimpleNamespace(get_ipython=lambda: shell))
    found = find_display()
    assert isinstance(found, ShellDisplay)
    found.show({"text/plain": "a"})
    found.show({"text/plain": "b"})
    assert [one["update"] for one in published] == [False, True]
    assert published[0]["transient"] == published[1]["transient"]
    calls: list[int] = []
    found.when_cells_end(lambda: calls.append(1))
    events[0][1](None)
    assert (events[0][0], calls) == ("post_run_cell", [1])


def test_a_terminal_is_no_place_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = type("TerminalInteractiveShell", (), {})()
    for shell in (None, terminal):
        module = types.SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython.core.getipython", module)
        assert not find_display().is_there


def test_panels_hold_what_measures_the_same() -> None:
    curves = Curves()
    curves.add({"train/loss": 1.0, "eval_loss": 2.0, "lr": 0.1, "train": 1.0}, None)
    curves.add({"train/loss": 1.0}, None)
    assert {title: list(found) for title, found in curves.panels().items()} == {
        "loss": ["train/loss", "eval_loss"], "lr": ["lr"], "train": ["train"],
    }  # fmt: skip
    assert curves.by_name["train/loss"].points() == [(0, 1.0), (1, 1.0)]
    assert measured("val.top-1 accuracy") == "top-1 accuracy"


def test_long_curves_keep_their_spikes() -> None:
    curve = Curve()
    for step in range(50_000):
        curve.add(step, 100.0 if step == 7777 else float("nan") if step == 5 else step % 3)
    points = curve.points()
    steps = [step for step, _ in points]
    assert MOST_POINTS / 4 < len(points) <= MOST_POINTS + 1
    assert 100.0 in [value for _, value in points]
    assert steps == sorted(steps)
    assert max(b - a for a, b in pairwise(steps)) < 500
    assert (steps[0], steps[-1], curve.count) == (0, 49_999, 50_000)


def parsed(svg: str) -> Any:
    return ElementTree.fromstring(svg)


def test_the_picture_is_well_formed_and_escaped() -> None:
    curve = Curve()
    for step, value in enumerate([3.0, float("nan"), float("inf"), 1.0]):
        curve.add(step, value)
    name = "<script>\"&'" + "long" * 20
    svg = draw({name: {name: curve}, "one": {"one": Curve([(1, 2.0)])}, "none": {"none": Curve([(1, float("nan"))])}})
    assert "<script>" not in svg
    assert "nan," not in svg
    root = parsed(svg)
    assert root.attrib["viewBox"].startswith("0 0 720 ")
    assert len(root.findall(".//{*}polyline")) == 2
    assert len(root.findall(".//{*}circle")) == 1


def test_too_many_panels_are_counted() -> None:
    panels = {str(number): {str(number): Curve([(0, 0.0), (1, 0.0)])} for number in range(MOST_PANELS + 3)}
    assert "and 3 more" in draw(panels)
    many = {"loss": {f"curve number {number}": Curve([(0, 1.0), (1, 2.0)]) for number in range(9)}}
    assert parsed(draw(many)).attrib["viewBox"].startswith("0 0 600 ")


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (3, 3, [3]),
        (1e-5, 4e-5, [1e-5, 2e-5, 3e-5, 4e-5]),
    ],
)
def test_ticks_are_round(low: float, high: float, found: list[float]) -> None:
    assert ticks(low, high, 5) == pytest.approx(found)


def test_ticks_are_few() -> None:
    for high in (1.0, 7.3, 99.0, 1234.5, 1e-7, 3e12):
        for low in (0.0, -high, high / 3):
            assert 1 <= len(ticks(low, high, 5)) <= 5


def test_numbers_are_short() -> None:
    assert [short(value) for value in (0.0, 1e-5, 0.12345, 1234.0, 12_345, 2.5e6, 3e9, float("nan"))] == [
        "0", "1e-05", "0.1235", "1234", "12.35k", "2.5M", "3G", "nan",
    ]  # fmt: skip


def test_lines_of_text() -> None:
    assert sparkline([0.0, 1.0]) == "▁█"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) == 40
    assert "no finite value among 1" in lines({"x": Curve([(0, float("nan"))])})


def test_choosing_imports_no_service() -> None:
    import subprocess

    code = (
        "import sys; from nbaccel.runtime.tracking.choosing import choose; choose('notebook', None)\n"
        "print([n for n in sys.modules if n.startswith('nbaccel.runtime.tracking.services.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_public_module() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import nbaccel.tracking as public
    assert all(getattr(public, name) is not None for name in public.__all__)
