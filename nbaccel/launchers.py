"""What training code may import from `nbaccel.launchers`; nothing inside nbaccel does."""

from nbaccel.notebook.launcher import debug_launcher, notebook_launcher

__all__ = ["debug_launcher", "notebook_launcher"]
