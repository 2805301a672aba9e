"""A real check of a set-up: starts the planned workers by torch's launcher and reports what their checks say."""

from nbaccel.launch.selftest.report import Report, Result
from nbaccel.launch.selftest.run import run_test

__all__ = ["Report", "Result", "run_test"]
