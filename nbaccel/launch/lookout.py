"""Finds out where a job stands, again and again."""

from __future__ import annotations

import time

from nbaccel.launch.job import Job
from nbaccel.launch.standing import RankStanding, Standing
from nbaccel.machine.usage import GpuGauge, GpuUse, ProcessGauge, ProcessUse

_PAUSE_S = 1.0
_DEAREST = 0.02
"""So much of its time, at most, a core spends on finding out what the ranks use."""


class Lookout:
    """Looks at one job. Its methods are for one thread at a time.

    Args:
        job: the job, running or over.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._processes = ProcessGauge()
        self._gpus: GpuGauge | None = None
        self._uses: dict[int, ProcessUse] = {}
        self._gpu_uses: dict[int, GpuUse] = {}
        self._peaks: dict[int, int] = {}
        self._gpu_peaks: dict[int, int] = {}
        self._next_s = 0.0

    def standing(self) -> Standing:
        """Where it stands now."""
        job, board = self._job, self._job.feed.board
        is_over = job.done()
        if is_over:
            board.finish_bars()
        elif time.monotonic() >= self._next_s:
            self._look()
        return Standing(
            number=job.number,
            name=job.name,
            state=job.state,
            elapsed_s=job.elapsed_s,
            ranks=tuple(map(self._rank, job.ranks)),
            device="" if job.plan is None else job.plan.device,
            progress=board.progress(),
            pace=board.pace(overall=is_over),
            bars=board.bars_text() if is_over else "",
            curves=dict(board.curves.by_name) if is_over else {},
        )

    def close(self) -> None:
        """Let the devices' library go."""
        if self._gpus is not None:
            self._gpus.close()

    def _rank(self, rank: int) -> RankStanding:
        return RankStanding(
            rank=rank,
            doing=self._job.doing(rank),
            use=self._uses.get(rank),
            gpu=self._gpu_uses.get(rank),
            peak_bytes=self._peaks.get(rank, 0),
            peak_gpu_bytes=self._gpu_peaks.get(rank, 0),
        )

    def _look(self) -> None:
        began = time.monotonic()
        pids = self._job.pids()
        seen = self._processes.read(pids.values())
        self._uses = {rank: seen[pid] for rank, pid in pids.items() if pid in seen}
        self._gpu_uses = self._read_gpus()
        for rank, use in self._uses.items():
            self._peaks[rank] = max(use.memory_bytes, self._peaks.get(rank, 0))
        for rank, gpu in self._gpu_uses.items():
            self._gpu_peaks[rank] = max(gpu.memory_bytes, self._gpu_peaks.get(rank, 0))
        now = time.monotonic()
        self._next_s = now + max(_PAUSE_S, (now - began) / _DEAREST)

    def _read_gpus(self) -> dict[int, GpuUse]:
        plan = self._job.plan
        if plan is None or plan.device != "cuda":
            return {}
        if self._gpus is None:
            self._gpus = GpuGauge.of_run(plan.visible_gpus, plan.local_world_size)
        by_place = {use.gpu.index: use for use in self._gpus.read()}
        places = {rank: rank % plan.local_world_size for rank in self._job.ranks}
        return {rank: by_place[place] for rank, place in places.items() if place in by_place}
