"""The house keeps its promises: public names, light and silent imports, no torch in the kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nbaccel

HOME = Path(__file__).parents[1]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)


def test_public_names_are_there() -> None:
    for name in nbaccel.__all__:
        assert getattr(nbaccel, name) is not None
    assert set(nbaccel.__all__) <= set(dir(nbaccel))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="notebook_luncher"):
        nbaccel.notebook_luncher  # noqa: B018


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("nbaccel", ("torch", "IPython", "pydantic", "numpy", "ipywidgets", "multiprocess")),
        ("nbaccel.notebook.launcher", ("torch", "IPython", "ipywidgets")),
        ("nbaccel.notebook.extension", ("torch", "pydantic", "multiprocess")),
        ("nbaccel.cli.main", ("torch", "IPython", "ipywidgets")),
        ("nbaccel.plan", ("torch", "IPython")),
    ],
)
def test_importing_is_light_and_silent(module: str, forbidden: tuple[str, ...]) -> None:
    done = run_python(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))")
    loaded = set(json.loads(done.stdout))
    assert not loaded & set(forbidden)
    assert done.stderr == ""


def test_a_launch_imports_no_torch_into_the_kernel() -> None:
    code = (
        "import sys; from nbaccel import notebook_launcher\n"
        "assert notebook_launcher(lambda: 42, num_processes=2) == 42\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    run_python(code)


def test_every_folder_of_the_package_stands_in_the_readme() -> None:
    readme = (HOME / "README.md").read_text()
    folders = [path.name for path in (HOME / "nbaccel").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert [name for name in folders if f"{name}/" not in readme] == []


def test_what_the_tree_in_the_readme_names_is_there() -> None:
    tree = (HOME / "README.md").read_text().split("```text\nnbaccel/\n")[1].split("```")[0]
    path: list[str] = []
    named = []
    for line in tree.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        if depth <= 2:
            path = [*(["nbaccel"] if depth else []), *path[1:depth], name]
            named.append(HOME.joinpath(*path))
    assert len(named) > 100
    assert [one for one in named if not one.exists()] == []


def test_versions_agree() -> None:
    assert f'version = "{nbaccel.__version__}"' in (HOME / "pyproject.toml").read_text()
