"""`notebook_launcher` and `debug_launcher`: run a function on worker processes."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nbaccel import launch
from nbaccel.config import Resolved, call_layer, resolve
from nbaccel.config.layers import PARAMS, params_layer
from nbaccel.config.params import filled, names_of
from nbaccel.config.structured import as_mapping, is_structured, split_config
from nbaccel.errors import CallError, ConfigError, PlanError
from nbaccel.machine import probe
from nbaccel.notebook.announce import announce
from nbaccel.notebook.screen import current_shell, origin_screen_for, screen_for
from nbaccel.plan import settle


def notebook_launcher(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    num_processes: int | None = None,
    mixed_precision: str | None = None,
    use_port: int | str | None = None,
    master_addr: str | None = None,
    node_rank: int | None = None,
    num_nodes: int | None = None,
    rdzv_backend: str = "static",
    rdzv_endpoint: str = "",
    rdzv_conf: Mapping[str, Any] | None = None,
    rdzv_id: str = "none",
    max_restarts: int | None = None,
    monitor_interval: float = 0.1,
    log_line_prefix_template: str | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    return_all: bool = False,
    sync_models: bool | None = None,
    use_cpu: bool | None = None,
    gpu_ids: str | Sequence[int] | None = None,
    gradient_accumulation_steps: int | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    start_method: str | None = None,
    output: str | None = None,
    params: Any = None,
    config: Any = None,
    **settings: Any,
) -> Any:
    """Run a function on several worker processes, one per device, and return what rank 0 returns.

    Workers start warm in milliseconds, whatever the kernel did before. What they print and draw appears in the cell
    while they run; an interrupt stops them all. Modules among the arguments, or captured by the function, come back
    trained: rank 0's parameters and buffers are copied into the kernel's objects in place.

    Args:
        function: the training function.
        args: its positional arguments, a tuple.
        num_processes: workers over all machines; left out: one per device, else one per physical core up to 4.
        mixed_precision: `no`, `bf16` or `fp16`.
        use_port: port of machine 0, for several machines; one machine needs no port.
        master_addr: address of machine 0, for several machines.
        node_rank: which of the machines this one is.
        num_nodes: machines that train together; call this function in a notebook on each of them.
        rdzv_backend: `static` or `c10d`; both meet at machine 0's address.
        rdzv_endpoint: `host:port` of machine 0, instead of `master_addr` and `use_port`.
        rdzv_conf: accepted for Accelerate's sake; static meeting points have no options, so it must be empty.
        rdzv_id: accepted for Accelerate's sake; runs cannot meet by accident.
        max_restarts: how often a failed run is started again; `TORCHELASTIC_RESTART_COUNT` tells the attempt.
        monitor_interval: accepted for Accelerate's sake; the end of a worker is noticed at once, nothing is polled.
        log_line_prefix_template: prefix of other ranks' lines, with `${rank}`, `${local_rank}`, `${role_name}`.
        kwargs: keyword arguments of the function.
        return_all: return the values of all ranks, a list by rank.
        sync_models: copy trained weights back (the default) or not.
        use_cpu: train on the CPU even if there are other devices.
        gpu_ids: GPUs to use, as `"0,1"`, a list, or `"all"`.
        gradient_accumulation_steps: default for `Accelerator()` in the function.
        seed: seed of all generators in every worker; left out: workers start from the kernel's generators.
        timeout: seconds after which the run is stopped.
        start_method: `zygote` (the default), `spawn`, or `inline` (in the kernel, for debugging).
        output: whose text is shown: `auto` (rank 0, and what others print differently), `all`, `main`.
        params: parameters of the function, by name, as a mapping, an OmegaConf node, a pydantic model or a dataclass;
            each is checked against the function's annotation. `params:` of the project file fills in the others.
        config: the path of a configuration file, or an object that holds settings.
        settings: any other key of the configuration, a section as a mapping: `fsdp_config={"fsdp_version": 2}`.

    Returns:
        Rank 0's return value, or with `return_all` the list of all ranks' values (of this machine).

    Raises:
        ConfigError: an argument's value is not valid. PlanError: this machine cannot do it.
        CallError: the function does not take these arguments. ShipError: something that it needs cannot be sent.
        WorkerError: the function raised on a rank. WorkerDiedError: a worker was killed or crashed.
        RunTimeoutError: it took longer than `timeout`. StateError: called inside a worker.
    """
    launch.refuse_inside_worker(os.environ)
    host, port = _meeting_point(rdzv_backend, rdzv_endpoint, rdzv_conf, master_addr, use_port)
    machines = {
        "main_process_ip": host, "main_process_port": port, "machine_rank": node_rank, "num_machines": num_nodes
    }  # fmt: skip
    resolved = resolve_call(
        num_processes=num_processes, mixed_precision=mixed_precision, max_restarts=max_restarts,
        sync_models=sync_models, use_cpu=use_cpu, gpu_ids=gpu_ids,
        gradient_accumulation_steps=gradient_accumulation_steps, seed=seed, timeout=timeout,
        start_method=start_method, output=output, params=params, config=config,
        function=function, **_both(machines, settings),
    )  # fmt: skip
    shell = current_shell()
    plan = settle(resolved, probe(shell))
    named = filled(function, args, kwargs or {}, resolved)
    call = launch.function_call(
        function, args, named, launch.Wish(all_values=return_all, sync_models=resolved.config.sync_models)
    )
    announce(resolved, plan)
    name = f"{getattr(function, '__name__', type(function).__name__)}()"
    screen = screen_for(shell, resolved.config.monitor)
    values = launch.run(call, plan, resolved, screen, _labels(log_line_prefix_template), name)
    return launch.results_of(values, return_all=return_all)


def submit(
    function: Callable[..., Any],
    args: Sequence[Any] = (),
    num_processes: int | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    return_all: bool = False,
    screen: launch.Screen | None = None,
    **settings: Any,
) -> launch.Job:
    """Like `notebook_launcher`, but returns a handle at once; the output still goes to the cell that called it.

    Args:
        function: the training function.
        args: its positional arguments, a tuple.
        num_processes: how many workers.
        kwargs: keyword arguments of the function.
        return_all: the job's result is the list of all ranks' values.
        screen: where to show what the run prints and draws; left out: the cell that called.
        settings: any other key of the configuration, such as `mixed_precision="bf16"` or `timeout=60`; `params` and
            `config` as for `notebook_launcher`.

    Returns:
        A job with a Future's words: `result(timeout)`, `exception()`, `done()`, `cancel()`, `add_done_callback`,
        and `rank(i)`, `logs(rank)`.

    Raises:
        ConfigError, PlanError, CallError, ShipError, StateError: as `notebook_launcher`, before anything starts.
    """
    launch.refuse_inside_worker(os.environ)
    resolved = resolve_call(num_processes=num_processes, function=function, **settings)
    shell = current_shell()
    plan = settle(resolved, probe(shell))
    if plan.launcher == "inline":
        raise PlanError("submit with start_method='inline'", "it needs worker processes.", "Use zygote or spawn.")
    wish = launch.Wish(all_values=return_all, sync_models=resolved.config.sync_models)
    call = launch.function_call(function, args, filled(function, args, kwargs or {}, resolved), wish)
    screen = screen or origin_screen_for(shell, resolved.config.monitor)
    job = launch.start_job(
        call,
        plan,
        resolved,
        name=f"{getattr(function, '__name__', type(function).__name__)}()",
        colors=screen.colors,
        select=lambda values: launch.results_of(values, return_all=return_all),
    )
    launch.follow_in_background(job, screen)
    return job


def debug_launcher(function: Callable[..., Any], args: Sequence[Any] = (), num_processes: int = 2) -> None:
    """Run a function on worker processes on the CPU, to try distributed code without other devices.

    Args:
        function: the function.
        args: its arguments.
        num_processes: number of workers.
    """
    notebook_launcher(function, args, num_processes=num_processes, use_cpu=True)


_ARGUMENTS = {
    "main_process_ip": "master_addr",
    "main_process_port": "use_port",
    "machine_rank": "node_rank",
    "num_machines": "num_nodes",
}


def _both(machines: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings that go by Accelerate's names for arguments, and those by their keys. Raises CallError for one twice."""
    given = {key: value for key, value in machines.items() if value is not None}
    twice = next((key for key in given if settings.get(key) is not None), None)
    if twice is not None:
        raise CallError(
            f"{_ARGUMENTS[twice]}={given[twice]!r} and {twice}={settings[twice]!r} are one setting; give one."
        )
    return {**settings, **given}


def resolve_call(*, config: Any = None, function: Callable[..., Any] | None = None, **given: Any) -> Resolved:
    """Resolve the configuration with the arguments that were given; None means not given.

    Args:
        config: the path of a file, or an object that holds settings.
        function: what will be called; the user's own variables may set its parameters.
        given: settings by key; a section, and `params`, may be any object that holds a configuration.
    """
    called = lambda key: f"the argument {_ARGUMENTS.get(key, key)}="  # noqa: E731
    values = {
        key: as_mapping(value, called(key)) if is_structured(value) else value
        for key, value in given.items()
        if value is not None
    }
    below, file = split_config(config, "the argument config=")
    names = names_of(function) if function is not None else ()
    return resolve(call_layer(values, called), below, config_file=file, params=names)


def filled_in_session(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], resolved: Resolved
) -> Mapping[str, Any]:
    """The keyword arguments of a call in a session, with parameters of its configuration where the call gives none.

    Of what was given for the session a function need not take all: it may be for another one.

    Args:
        function: what is called; the user's own variables may set its parameters.
        args: its positional arguments.
        kwargs: its keyword arguments.
        resolved: the session's configuration.

    Raises:
        ConfigError: a parameter does not fit the annotation.
    """
    names = names_of(function)
    if not names:
        return kwargs
    open_ones = [name for name in names if name not in resolved.config.params]
    own = params_layer(open_ones, {**resolved.dotenv, **os.environ})
    if own:
        resolved = resolved.with_settings({key: own[key].value for key in own}, lambda key: own[key].place)
    others = {key for key in resolved.chain if key.startswith(f"{PARAMS}.") and key.split(".")[1] not in names}
    chain = {key: settings for key, settings in resolved.chain.items() if key not in others}
    return filled(function, args, kwargs, replace(resolved, chain=chain))


def _meeting_point(
    backend: str, endpoint: str, conf: Mapping[str, Any] | None, host: str | None, port: int | str | None
) -> tuple[str | None, int | str | None]:
    if backend not in ("static", "c10d"):
        raise ConfigError(f"rdzv_backend={backend!r}", "from the argument rdzv_backend=", "static, c10d")
    if conf:
        raise ConfigError(f"rdzv_conf={dict(conf)!r}", "from the argument rdzv_conf=", "nothing: it has no options")
    if not endpoint:
        return host, port
    name, _, number = endpoint.rpartition(":")
    if not name or not number.isdecimal():
        raise ConfigError(f"rdzv_endpoint={endpoint!r}", "from the argument rdzv_endpoint=", "host:port")
    return name, int(number)


def _labels(template: str | None) -> Callable[[int], str] | None:
    if template is None:
        return None
    filled = string.Template(template)
    return lambda rank: filled.safe_substitute(rank=rank, local_rank=rank, role_name="default")
