"""How a run's standing looks: pure HTML, the same while it runs and when it is over, where it needs nothing to be seen.

What matters for the layout stands in inline styles, and curves are images: some viewers of finished notebooks take
sheets of style and inline SVG away.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from nbaccel.launch.standing import UNKNOWN, RankStanding, Standing, size
from nbaccel.look import Html, Mood, badge, bold, div, in_mood, joined, quiet, region, table, told
from nbaccel.look.curves import Curve
from nbaccel.look.svg import draw

_MOODS: Mapping[str, Mood] = {
    "starting": "quiet",
    "running": "accent",
    "stopping": "warn",
    "done": "good",
    "failed": "bad",
    "stopped": "warn",
}
_MOST_NAMED = 3


def title(standing: Standing) -> Html:
    """What runs, how it is, and on what."""
    state = div(badge(standing.state, _MOODS[standing.state]), "min-width:6.2em")
    where = quiet(f"job {standing.number} on {standing.where}")
    return div(
        joined([state, bold(standing.name), where]),
        "display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline;line-height:28px",
    )


def figures(standing: Standing) -> Html:
    """The few numbers that tell most, each below its name."""
    cells = [
        div(
            joined(
                [div(quiet(name), "font-size:.86em;line-height:1.3"), div(value, "font-size:1.25em;line-height:1.4")]
            )
        )
        for name, value in standing.figures()
    ]
    wide = [div(cell, "min-width:5.4em") for cell in cells]
    return div(joined(wide), "display:flex;flex-wrap:wrap;gap:4px 16px;padding:4px 0")


def ranks(standing: Standing) -> Html:
    """What each rank is at and uses; nothing once there is nothing to be told."""
    uses = any(rank.use is not None or rank.peak_bytes for rank in standing.ranks)
    gpus = any(rank.gpu is not None or rank.peak_gpu_bytes for rank in standing.ranks)
    if standing.is_over:
        heads = ["rank", "state", *(["peak memory"] if uses else []), *(["peak GPU memory"] if gpus else [])]
    else:
        heads = ["rank", "state", "cores", "memory", *(["GPU", "GPU memory"] if gpus else [])]
    rows = [_over(rank, uses, gpus) if standing.is_over else _running(rank, gpus) for rank in standing.ranks]
    made = table(heads, rows, numbers=range(2, len(heads)))
    return div(made, "max-height:16em;overflow:auto")


def _running(rank: RankStanding, gpus: bool) -> list[str]:
    cores = UNKNOWN if rank.use is None or rank.use.cpu_percent is None else f"{rank.use.cpu_percent / 100:.1f}"
    memory = UNKNOWN if rank.use is None else size(rank.use.memory_bytes)
    cells: list[str] = [str(rank.rank), _state(rank), cores, memory]
    if gpus and rank.gpu is None:
        cells += [UNKNOWN, UNKNOWN]
    elif gpus and rank.gpu is not None:
        percent = UNKNOWN if rank.gpu.percent is None else f"{rank.gpu.percent:.0f}%"
        cells += [percent, f"{size(rank.gpu.memory_bytes)} of {size(rank.gpu.total_bytes)}"]
    return cells


def _over(rank: RankStanding, uses: bool, gpus: bool) -> list[str]:
    memory = [size(rank.peak_bytes) if rank.peak_bytes else UNKNOWN] if uses else []
    gpu_memory = [size(rank.peak_gpu_bytes) if rank.peak_gpu_bytes else UNKNOWN] if gpus else []
    return [str(rank.rank), _state(rank), *memory, *gpu_memory]


def _state(rank: RankStanding) -> Html:
    return in_mood(rank.doing, _MOODS[rank.doing])


def curves(panels: Mapping[str, Mapping[str, Curve]]) -> Html:
    """Curves as an image; nothing without any."""
    if not panels:
        return Html("")
    picture = draw(panels)
    names = [name for curves in panels.values() for name in curves]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    alt = told(f"curves of {', '.join(names[:_MOST_NAMED])}{more}")
    data = base64.b64encode(picture.encode()).decode()
    return Html(
        f'<div style="padding:4px 0"><img alt="{alt}" src="data:image/svg+xml;base64,{data}" '
        'style="display:block;max-width:100%;height:auto;margin:0"></div>'
    )


def summary(standing: Standing, bars: Html, panels: Mapping[str, Mapping[str, Curve]]) -> Html:
    """All of a run in one piece, with its style.

    Args:
        standing: where it stands.
        bars: its progress bars.
        panels: what was logged, by what it measures.
    """
    details = ranks(standing) if len(standing.ranks) > 1 else Html("")
    parts = [title(standing), figures(standing), bars, curves(panels), details]
    return region(joined(part for part in parts if part), label=f"summary of job {standing.number}")
