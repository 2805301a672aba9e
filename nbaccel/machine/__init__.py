"""What exists: devices, cores, memory and platform, probed without waking CUDA or a TPU."""

from nbaccel.machine.machine import Gpu, Machine, Obstacle, TpuSoftware
from nbaccel.machine.probe import probe

__all__ = ["Gpu", "Machine", "Obstacle", "TpuSoftware", "probe"]
