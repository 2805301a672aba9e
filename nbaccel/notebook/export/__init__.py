"""`%accelerate export`: cells that ran become a script and its configuration, which `nbaccel launch` runs."""

from nbaccel.notebook.export.exporting import Exported, export

__all__ = ["Exported", "export"]
