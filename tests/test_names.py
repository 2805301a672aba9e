"""Which names a cell uses, those that its magics hold included."""

from __future__ import annotations

import ast

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nbaccel.notebook.names import bound_names, used_names

transform = TransformerManager().transform_cell


@pytest.mark.parametrize(
    ("cell", "used"),
    [
        ("f(x)", "f x"),
        ("x = 1\nprint(x)", "print"),
        ("if a:\n    x = 1\nx", "a x"),
        ("n += 1\ndel m", "n m"),
        ("def g():\n    global n\n    return n + k", "n k"),
        ("%time f(x)", "f x"),
        ("%%time\nf(x)", "f x"),
        ("# a comment\n%%time\nf(x)", "f x"),
        ("%time y = f(x)\ny", "f x"),
        ("%%time\ny = f(x)\ny", "f x"),
        ("y = %time f(x)\ny", "f x"),
        ("%timeit -n 1 -r 3 f(x)", "f x"),
        ("%timeit -q -o -n100 x", "x"),
        ("%timeit y = f(x)\ny", "f x y"),
        ("%%timeit -n 2 s = start(a)\nf(s, x)", "start a f s x"),
        ("%prun -l 5 -s cumulative f(x)", "f x"),
        ("%%capture out\nf(x)\n!echo {d}", "f x d"),
        ("for i in range(3):\n    %time f(i, x)", "range f i x"),
        ("def g(a):\n    !echo {a} $b", "a b"),
        ("%time %timeit f(x)", "f x"),
        ("%%time\n%timeit f(x)\n!ls {folder}", "f x folder"),
        ("f?", "f"),
        ("!echo {x} $y $$z ${w} {n + 1:>3}", "x y w n"),
        ("files = !ls {folder.name}\nfiles", "folder"),
        ("!awk '{print $1}' $file", "file"),
        ("!echo { $x", ""),
        ("!echo x", ""),
        ("%cd {folder}/x", "folder"),
        ("%%bash -s {x}\necho {y} $z", "x"),
        ("%time f(", ""),
        ("%%time\nf(", ""),
        ("%matplotlib inline", ""),
        ("get_ipython().run_line_magic(name, 'f()')", "name"),
        ("get_ipython().system()", ""),
        ("other.system('{x}')", "other"),
    ],
)
def test_names_that_a_cell_uses(cell: str, used: str) -> None:
    found = used_names(ast.parse(transform(cell)), transform)
    assert [name for name in found if name != "get_ipython"] == used.split()


def test_without_magics_nothing_needs_to_be_transformed() -> None:
    assert used_names(ast.parse("y = f(x)\ny")) == ["f", "x"]
    assert bound_names(ast.parse("y = f(x)\ny")) == {"y"}


@pytest.mark.parametrize(
    ("cell", "bound"),
    [
        ("with open(p) as file:\n    a, (b, *c) = file", "file a b c"),
        ("import os.path, sys as system\nfrom x import y", "os system y"),
        ("def g(a, *b, c=1, **d): pass\nclass C: pass", "g a b c d C"),
        ("try:\n    pass\nexcept E as error:\n    pass", "error"),
        ("%time y = f(x)", "y"),
        ("%%time\nfor i in x:\n    !echo {i}", "i"),
        ("%timeit (lambda n: n)(1)", "n"),
    ],
)
def test_names_that_a_cell_binds(cell: str, bound: str) -> None:
    assert bound_names(ast.parse(transform(cell)), transform) == set(bound.split())
