"""How a worker process begins: its place in the system, its streams, then what its specification says."""

from __future__ import annotations

import atexit
import ctypes
import faulthandler
import gc
import io
import logging
import multiprocessing.util
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import multiprocess.util

from nbaccel.wire.channel import Channel
from nbaccel.wire.ends import STACKS_SIGNAL, WorkerEnds
from nbaccel.wire.messages import RandomState, Start, WorkerSpec
from nbaccel.worker.guardian import end_with_parent
from nbaccel.worker.interrupts import InterruptGate
from nbaccel.worker.monitor import Connections, Monitor
from nbaccel.worker.streams import flush_streams, open_streams

_TRACKERS_GRACE_S = 0.5
_WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def run_worker(ends: WorkerEnds, parent: int) -> None:
    """Be a worker until told to exit; never returns.

    Args:
        ends: what the worker is born with.
        parent: process id of the zygote, whose end is this worker's end.
    """
    gate, connections = InterruptGate(), Connections()
    _take_place(gate, parent)
    # the main thread alone: it gets the signal, and other threads go on while their frames are read, which can crash
    faulthandler.register(STACKS_SIGNAL, file=ends.stacks, all_threads=False)
    _open_streams(ends.stdout, ends.stderr)
    code = 1
    end = socket.socket(fileno=ends.channel)
    try:
        _serve(Channel(end), socket.socket(fileno=ends.monitor), gate, connections)
        code = 0
    except (EOFError, BrokenPipeError):
        code = 0  # the kernel side is gone
    except BaseException:  # noqa: BLE001 - the last resort of a process without a caller
        sys.excepthook(*sys.exc_info())
    finally:
        _leave(code, end)


def _serve(channel: Channel, monitored: socket.socket, gate: InterruptGate, connections: Connections) -> None:
    start, descriptors = channel.receive()
    assert isinstance(start, Start), "the first message to a worker is its specification"
    from nbaccel.worker.regroup import Group
    from nbaccel.worker.serve import Server

    _apply(start.spec)
    group = Group(start.spec, connections)
    group.serve_store(descriptors)
    Monitor(Channel(monitored), gate, connections, start.spec.hang_after_s).start()
    gc.enable()  # the process that this one comes from does without while it imports
    Server(channel, gate, start.spec, group).serve()


def _take_place(gate: InterruptGate, parent: int) -> None:
    end_with_parent(signal.SIGKILL, parent)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    gate.install()
    atexit.register(logging.shutdown)
    for util in (multiprocess.util, multiprocessing.util):
        atexit.register(util._exit_function)


def _open_streams(stdout: int, stderr: int) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - lives as long as the process
    open_streams()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "stdout"):  # C code's last lines must be seen even if the rank is killed
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 1, 0)


def _apply(spec: WorkerSpec) -> None:
    """Make this process look as if the kernel had started it just now."""
    for name in os.environ.keys() - spec.environ.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in spec.environ.items() if os.environ.get(name) != value})
    if spec.environ.get("ACCELERATE_CPU_AFFINITY") == "true":
        _take_own_cpus(spec.environ)
    os.chdir(spec.cwd)
    sys.path[:] = spec.sys_path
    sys.argv[:] = spec.argv
    _set_threads(spec.threads)
    _set_random(spec.random, spec.seed)


def _take_own_cpus(environ: Mapping[str, str]) -> None:
    from nbaccel.machine.cpu import affine_cpus, own_cpus

    if hasattr(os, "sched_setaffinity"):
        place = int(environ["LOCAL_RANK"]), int(environ["LOCAL_WORLD_SIZE"])
        os.sched_setaffinity(0, own_cpus(Path("/"), affine_cpus(), *place))


def _set_threads(threads: int) -> None:
    import torch
    from torch import distributed

    torch.set_num_threads(threads)
    if distributed.is_available():
        distributed.set_debug_level_from_env()  # type: ignore[attr-defined]


def _set_random(state: RandomState, seed: int | None) -> None:
    import torch

    numpy = sys.modules.get("numpy")
    if seed is None:
        random.setstate(state.python)
    else:
        random.seed(seed)
    if numpy is not None:
        if seed is None and state.numpy is not None:
            numpy.random.set_state(state.numpy)
        else:
            numpy.random.seed((state.fresh if seed is None else seed) % 2**32)
    if seed is None and state.torch is not None:
        torch.set_rng_state(torch.frombuffer(bytearray(state.torch), dtype=torch.uint8))
    elif seed is None and not torch.backends.cuda.is_built():
        torch.default_generator.manual_seed(state.fresh)  # 3 ms less than going through all kinds of devices
    else:
        torch.manual_seed(state.fresh if seed is None else seed)


def _leave(code: int, end: socket.socket) -> None:
    """End as an interpreter does: executors and threads but daemons finish, exit handlers run, files are written.

    The kernel takes the end of the channel as the end of the worker: it need not wait for the system to tear down its
    memory, which takes longer than many a run.
    """
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        _write_open_files()
        _see_trackers_out()
        flush_streams()
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    finally:
        os._exit(code)


def _write_open_files() -> None:
    """What was written to files that are still open must not be lost, as it would be by `os._exit`."""
    for thing in gc.get_objects():
        if issubclass(type(thing), _WRITERS):  # isinstance would ask the object, and some answer with a warning
            with suppress(OSError, ValueError):  # closed, or its reader is gone
                thing.flush()


def _see_trackers_out() -> None:
    """Let what unlinks forgotten shared memory do so: it works after our end, and the group is killed then."""
    deadline = time.monotonic() + _TRACKERS_GRACE_S
    for package in ("multiprocessing", "multiprocess"):
        module = sys.modules.get(f"{package}.resource_tracker")
        tracker: Any = getattr(module, "_resource_tracker", None)
        if getattr(tracker, "_fd", None) is None or getattr(tracker, "_pid", None) is None:
            continue
        with suppress(OSError):
            os.close(tracker._fd)
            while os.waitpid(tracker._pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.002)
