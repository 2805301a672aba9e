"""The configuration form: one layer is edited, and every key shows live which layer wins."""

from nbaccel_widgets.config_form.form import ConfigForm

__all__ = ["ConfigForm"]
