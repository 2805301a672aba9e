"""The device mesh: the processes as a grid with named axes."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from nbaccel.errors import StateError
from nbaccel.runtime.groups import GroupRef, default_group
from nbaccel.runtime.world import World

Axes = tuple[tuple[str, int], ...]
"""Names and sizes of the mesh's axes, outermost first."""


class _Made:
    """Meshes of the present process group: several of one shape would each make process groups of their own."""

    group: GroupRef | None = None
    meshes: ClassVar[dict[tuple[str, Axes], Any]] = {}


def mesh_of(axes: Axes, world: World) -> DeviceMesh:
    """The mesh over all processes; the same object for the same axes. All ranks must ask together.

    Raises:
        StateError: the process group that exists cannot be cut into the mesh's groups.
    """
    group = default_group()
    assert group is not None, "a mesh is made after the world is joined"
    if _Made.group is None or _Made.group() is not group:
        _Made.group = weakref.ref(group)
        _Made.meshes.clear()
    key = (world.device.type, axes)
    if key not in _Made.meshes:
        _Made.meshes[key] = _make(axes, world)
    return _Made.meshes[key]


def _make(axes: Axes, world: World) -> DeviceMesh:
    names, sizes = tuple(name for name, _ in axes), tuple(size for _, size in axes)
    kind = world.device.type
    if world.group is None:
        return init_device_mesh(kind, sizes, mesh_dim_names=names)
    if len(axes) > 1:
        raise StateError(
            f"a mesh of {' x '.join(map(str, sizes))} processes on {kind} needs process groups that the present one, "
            "which your code has made, cannot give. Leave init_process_group() to Accelerator()."
        )
    return DeviceMesh.from_group(world.group, kind, mesh_dim_names=names)
