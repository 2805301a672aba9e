"""Runs a script that imports one package with another in its place: `library_names.py OLD NEW SCRIPT ARGUMENTS...`."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Same(Loader):
    """Loads a module by handing out one that another name has."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just written its own


class Renaming(MetaPathFinder):
    """Finds `old` and its submodules under `new`."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top, _, rest = fullname.partition(".")
        if top != self._old:
            return None
        module = import_module(f"{self._new}.{rest}" if rest else self._new)
        return ModuleSpec(fullname, _Same(module), is_package=hasattr(module, "__path__"))


def main() -> None:
    _, old, new, script, *rest = sys.argv
    assert old not in sys.modules
    if old != new:
        sys.meta_path.insert(0, Renaming(old, new))
    sys.argv = [script, *rest]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
