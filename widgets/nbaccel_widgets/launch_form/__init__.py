"""The launch form."""

from nbaccel_widgets.launch_form.form import LaunchForm

__all__ = ["LaunchForm"]
