"""Where a run stands: what a monitor tells of it, as one frozen value, in words and as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nbaccel.errors import name_ranks
from nbaccel.launch.board import Pace, Progress
from nbaccel.look import sparkline
from nbaccel.look.curves import Curve
from nbaccel.machine.usage import GpuUse, ProcessUse

UNKNOWN = "\N{EN DASH}"


@dataclass(frozen=True)
class RankStanding:
    """Where one rank stands.

    Attributes:
        rank: which.
        doing: as `Job.doing` says it.
        use: of cores and memory; None while nobody knows.
        gpu: use of its GPU, if it has one.
        peak_bytes: the most memory that it was seen to use.
        peak_gpu_bytes: the same of its GPU's memory.
    """

    rank: int
    doing: str
    use: ProcessUse | None = None
    gpu: GpuUse | None = None
    peak_bytes: int = 0
    peak_gpu_bytes: int = 0


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        number: of the job.
        name: what runs.
        state: `running`, `stopping`, `done`, `failed` or `stopped`.
        elapsed_s: since it began.
        ranks: each of them.
        device: on what they compute.
        progress: of the rank that is farthest behind.
        pace: of the last seconds; of the whole run when it is over.
        bars: the progress bars, as text.
        curves: what was logged.
    """

    number: int
    name: str
    state: str
    elapsed_s: float
    ranks: tuple[RankStanding, ...]
    device: str = ""
    progress: Progress | None = None
    pace: Pace | None = None
    bars: str = ""
    curves: Mapping[str, Curve] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    @property
    def where(self) -> str:
        """On which ranks, and on what."""
        numbers = [rank.rank for rank in self.ranks]
        in_a_row = len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1))
        named = f"ranks {numbers[0]} to {numbers[-1]}" if in_a_row else name_ranks(numbers)
        return f"{named}, {self.device}" if self.device else named

    def figures(self) -> list[tuple[str, str]]:
        """The few numbers that tell most: what each is called, and its value. While it runs they keep their places."""
        memory, gpu_memory = self._memory()
        found = [("took" if self.is_over else "elapsed", clock(self.elapsed_s))]
        if not self.is_over:
            remaining = self.progress.remaining_s if self.progress is not None else None
            found.append(("remaining", clock(remaining) if remaining is not None else UNKNOWN))
        if self.progress is not None:
            found.append(("progress", f"{int(self.progress.fraction * 100)}%"))
        if self.pace is not None:
            found.append((f"{self.pace.unit}s/s", f"{self.pace.per_second:.3g}"))
        if memory:
            found.append(("peak memory" if self.is_over else "memory", size(memory)))
        if gpu_memory:
            found.append(("peak GPU memory" if self.is_over else "GPU memory", size(gpu_memory)))
        return found

    def _memory(self) -> tuple[int, int]:
        """Of all ranks together, and of their GPUs."""
        if self.is_over:
            return sum(rank.peak_bytes for rank in self.ranks), sum(rank.peak_gpu_bytes for rank in self.ranks)
        return (
            sum(rank.use.memory_bytes for rank in self.ranks if rank.use is not None),
            sum(rank.gpu.memory_bytes for rank in self.ranks if rank.gpu is not None),
        )

    def text(self) -> str:
        """As text, for terminals and for those who see no HTML."""
        said = ", ".join(f"{name} {value}" for name, value in self.figures())
        lines = [f"job {self.number}: {self.name} on {self.where}: {self.state}, {said}"]
        if self.bars:
            lines.append(self.bars)
        if self.curves:
            lines.append(sparkline.lines(self.curves))
        return "\n".join(lines)


def clock(seconds: float) -> str:
    """Seconds as `0:42`, `12:07` or `1:02:03`."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def size(num_bytes: float) -> str:
    """Bytes as `512 MB` or `1.5 GB`."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 999.5e6 else f"{num_bytes / 1e6:.0f} MB"
