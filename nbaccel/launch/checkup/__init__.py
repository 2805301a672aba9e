"""A look at the machine, the installation and the configuration: what a launch would do, and what stands in its way."""

from nbaccel.launch.checkup.checkup import Checkup, check_up
from nbaccel.launch.checkup.problems import Problem

__all__ = ["Checkup", "Problem", "check_up"]
