"""Forms of plain ipywidgets for nbaccel; they run in every notebook that shows ipywidgets 7.7.1 or later."""

from importlib.util import find_spec

from nbaccel.errors import MissingExtraError

if find_spec("ipywidgets") is None:
    raise MissingExtraError("ipywidgets", "nbaccel_widgets", "pip install 'nbaccel[widgets]'")

from nbaccel_widgets.config_form import ConfigForm

__all__ = ["ConfigForm"]
