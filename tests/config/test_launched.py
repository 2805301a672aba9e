"""What a launch decides once is the same in all of its workers, whenever they ask."""

from __future__ import annotations

import time

import pytest
from projects import Project, given

from nbaccel.config import Resolved
from nbaccel.config.launched import LAUNCHED, as_variable, resolve_in_worker, variables_of

CONTENT = """\
project_dir: out
log_dir: ${run_dir}/logs
main_process_port: ${free_port}
params: {port: "${free_port}", url: "tcp://here:${params.port}", written: '\\${run_dir}'}
"""


@pytest.fixture
def launched(project: Project) -> Resolved:
    pytest.importorskip("omegaconf")
    return project.resolve(config_file=project.write("named.yaml", CONTENT))


@pytest.fixture
def later(launched: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers ask when the clock shows something else."""
    monkeypatch.setattr(time, "strftime", lambda _: "later")


def environ_of(launched: Resolved) -> dict[str, str]:
    return {**variables_of(launched), LAUNCHED: as_variable(launched)}


@pytest.mark.usefixtures("later")
def test_workers_agree_on_the_runs_folder_and_on_ports(launched: Resolved) -> None:
    workers = [resolve_in_worker(environ=environ_of(launched)) for _ in range(3)]
    for worker in workers:
        assert worker.run_dir == launched.run_dir
        assert worker.config == launched.config
        assert worker.origin("log_dir") == launched.origin("log_dir")
    assert launched.config.params["url"] == f"tcp://here:{launched.config.main_process_port}"
    assert launched.config.params["written"] == "${run_dir}"


@pytest.mark.usefixtures("later")
def test_the_constructor_may_name_them_and_move_the_folder(launched: Resolved) -> None:
    above = given("constructor", project_dir="elsewhere", rdzv_conf="port=${free_port}")
    worker = resolve_in_worker(above, environ=environ_of(launched))
    assert worker.config.log_dir == f"{launched.run_dir.replace('out', 'elsewhere')}/logs"
    assert worker.config.rdzv_conf == f"port={launched.free_port}"


@pytest.mark.usefixtures("later")
def test_what_is_given_later_leaves_them_as_they_are(launched: Resolved) -> None:
    more = launched.with_settings({"params.lr": 1}, "the flag {}".format)
    assert (more.run_dir, more.free_port) == (launched.run_dir, launched.free_port)
    assert more.config.params == {**launched.config.params, "lr": 1}
    assert launched.with_setting("log_dir", "${run_dir}", "a flag") == launched.run_dir


def test_no_port_is_taken_where_nothing_names_one(project: Project) -> None:
    assert project.resolve(given("call", log_dir="here")).free_port is None
