"""A cell's source as a script has it: magics as comments, launches as plain calls. Pure."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence

from nbaccel.notebook.export.cells import Cell
from nbaccel.notebook.export.edits import Change, edited
from nbaccel.notebook.export.jobs import asked_of_jobs, results_in

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
ON_MAIN = 'if os.environ.get("RANK", "0") == "0"'
"""As in a notebook, the first rank shows what came out."""


class Rewritten:
    """A cell's source with some of its statements written anew.

    Attributes:
        lines: the lines; one may hold several, or none.
        starts: the first line of each statement at the top, counted from 0.
        statements: these statements.
    """

    def __init__(
        self, cell: Cell, extra: Mapping[ast.Call, str], jobs: Collection[str] = (), *, launches: bool
    ) -> None:
        """Rewrite a cell.

        Args:
            cell: the cell.
            extra: arguments that the configuration adds to launched functions, as code, by the launch.
            jobs: names that stand for jobs.
            launches: whether launched functions are called; else launches become comments.
        """
        self._cell, self._extra, self._jobs, self._launches = cell, extra, jobs, launches
        self.lines = cell.source.split("\n")
        self.statements = cell.tree.body
        self.starts = [_first_line(statement) for statement in self.statements]
        for number, statement in reversed(list(enumerate(self.statements))):
            self._rewrite(statement, is_last=number == len(self.statements) - 1)

    @property
    def text(self) -> str:
        return joined(self.lines)

    def _rewrite(self, statement: ast.stmt, *, is_last: bool) -> None:
        if isinstance(statement, DEFINITIONS) or not self._stands_alone(statement):
            return
        if not self._launches and any(self._cell.launches_of(statement)):
            self._put(statement, _commented(f"(not exported) {self._segment(statement)}"))
            return
        called = list(self._called(statement)) if self._launches else []
        values = called if is_last else called[: len(list(self._cell.launches_of(statement)))]
        changes = [*self._comments(statement), *called]
        text = edited(self._cell.source, changes, within=statement)
        value = statement.value if isinstance(statement, ast.Expr) else None
        if any(value is node for node, _ in values):
            text = f"result = {text}\n{ON_MAIN} and result is not None:\n    print(result)"
        elif is_last and self._launches and value is not None and _is_shown(value):
            is_bare = isinstance(value, ast.Tuple) and not text.startswith("(")
            text = f"{ON_MAIN}:\n    print({f'({text})' if is_bare else text})"
        if text != self._segment(statement):
            self._put(statement, text)

    def _stands_alone(self, statement: ast.stmt) -> bool:
        """Whether no other statement shares its lines."""
        spans = [(_first_line(one), one.end_lineno or 0) for one in self.statements if one is not statement]
        first, end = _first_line(statement), statement.end_lineno or 0
        return all(last <= first or begin >= end for begin, last in spans)

    def _segment(self, node: ast.AST) -> str:
        return ast.get_source_segment(self._cell.source, node) or ""

    def _put(self, statement: ast.stmt, text: str) -> None:
        start, end = _first_line(statement), statement.end_lineno or 0
        self.lines[start:end] = [text] + [_GONE] * (end - start - 1)

    def _comments(self, statement: ast.stmt) -> Iterator[Change]:
        """What a script cannot do: what IPython is asked for, and jobs that have ended where they began."""
        for one in _with_shell(statement):
            yield one, _as_comment(one, _without_shell(one, self._segment(one)), inside=one is not statement)
        for one in self._asking(statement):
            yield one, _as_comment(one, f"(not exported) {self._segment(one)}", inside=one is not statement)

    def _asking(self, statement: ast.stmt) -> Iterator[ast.stmt]:
        """The innermost statements that ask jobs for more than their results, and launch nothing."""
        asked = asked_of_jobs(statement, self._cell, self._jobs) if self._launches else []
        around = [one for one in ast.walk(statement) if isinstance(one, ast.stmt)]
        for node in asked:
            innermost = [one for one in around if any(node is inner for inner in ast.walk(one))][-1]
            if not any(self._cell.launches_of(innermost)):
                yield innermost

    def _called(self, statement: ast.stmt) -> Iterator[Change]:
        """Launches as calls of the function itself, for the ranks are there already; then results of jobs, as these."""
        waiting = {job: node for node, job in results_in(statement, self._cell, self._jobs)}
        for call in self._cell.launches_of(statement):
            yield waiting.pop(call, call), self._direct(call)
        yield from ((node, self._segment(job)) for job, node in waiting.items())

    def _direct(self, call: ast.Call) -> str:
        function, *rest = call.args
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        arguments = rest[0] if rest else given.get("args")
        parts: list[str] = []
        if isinstance(arguments, ast.Tuple | ast.List):
            parts += [self._segment(one) for one in arguments.elts]
        elif arguments is not None:
            parts.append(f"*{self._segment(arguments)}")
        named = given.get("kwargs")
        if named is not None:
            parts.append(f"**{self._segment(named)}")
        parts += [self._extra[call]] if call in self._extra else []
        return f"{self._segment(function)}({', '.join(parts)})"


_GONE = "\0"


def joined(lines: Sequence[str]) -> str:
    """The lines that are left."""
    return "\n".join(line for line in lines if line != _GONE)


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(one.lineno for one in decorators)]) - 1


def _is_shown(value: ast.expr) -> bool:
    """Whether a notebook shows an expression for its value, not for what it does."""
    return not isinstance(value, ast.Call | ast.Await | ast.Yield | ast.YieldFrom | ast.Constant)


def _with_shell(statement: ast.stmt) -> list[ast.stmt]:
    """The innermost statements that ask IPython for something."""
    inner = [
        one
        for child in ast.iter_child_nodes(statement)
        for one in (_with_shell(child) if isinstance(child, ast.stmt) else [])
    ]
    if inner:
        return inner
    return [statement] if any(_is_of_notebooks(node) for node in ast.walk(statement)) else []


def _is_of_notebooks(node: ast.AST) -> bool:
    """Whether this calls what is there in a notebook only: IPython, or the export itself."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("get_ipython", "nbaccel.export")


def _without_shell(statement: ast.stmt, text: str) -> str:
    """A statement that needs IPython, as it was written in the notebook."""
    value = getattr(statement, "value", None)
    method = value.func.attr if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else ""
    given = value.args if isinstance(value, ast.Call) else []
    words = [str(one.value) for one in given if isinstance(one, ast.Constant)]
    if method == "run_line_magic" and len(words) >= 2:
        text = f"%{words[0]} {words[1]}".rstrip()
    elif method in ("system", "getoutput") and words:
        text = f"!{words[0]}"
    if isinstance(statement, ast.Assign) and text[:1] in "%!":
        text = f"{', '.join(ast.unparse(target) for target in statement.targets)} = {text}"
    return text


def _as_comment(statement: ast.stmt, text: str, *, inside: bool) -> str:
    if not inside:
        return _commented(text)
    margin = " " * statement.col_offset
    return f"pass  {_commented(text)}".replace("\n", f"\n{margin}")


def _commented(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.split("\n"))
