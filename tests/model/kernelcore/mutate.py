"""Code that is changed for a test: mutations, and windows in which another CPU may run.

A *mutation* replaces a piece of a function's source by another: a fault that a check of the suite must find. A *window*
is a point between two statements at which the simulator may run other CPUs. The simulator by itself switches CPUs only
where a thread awaits or spins; with windows, code that another CPU may interrupt anywhere is tested as such. An
augmented assignment to a field is opened too: it is no single step where CPUs are OS threads.

Both exchange the code of the function in place, so that it makes no difference who has imported it.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType, FunctionType
from typing import Any, Final

_sources: dict[FunctionType, str] = {}  # of functions that are changed now
_cache: dict[tuple[FunctionType, str, bool], CodeType] = {}

WINDOW: Final = "__window__"
_RAW_LOCKS: Final = ("t_lock", "_first_hold")  # taken by blocking the OS thread: no window while one is held


def source_of(fn: FunctionType) -> str:
    """The source of `fn`, as changed by a mutation that is in force."""
    return _sources.get(fn) or textwrap.dedent(inspect.getsource(fn))


@contextmanager
def mutation(fn: Any, old: str, new: str) -> Iterator[None]:
    """Run `fn` with `old`, which must occur exactly once in its source, replaced by `new`."""
    fn = inspect.unwrap(fn)
    source = source_of(fn)
    assert source.count(old) == 1, f"{fn.__qualname__} has {source.count(old)} times {old!r}"
    changed = source.replace(old, new)
    before = _sources.get(fn)
    with _exchanged(fn, _compiled(fn, changed, windows=False)):
        _sources[fn] = changed
        try:
            yield
        finally:
            if before is None:
                del _sources[fn]
            else:
                _sources[fn] = before


@contextmanager
def windows(functions: tuple[Any, ...], window: Callable[[], object]) -> Iterator[None]:
    """Call `window` before each statement of `functions`."""
    with ExitStack() as stack:
        for fn in map(inspect.unwrap, functions):
            if WINDOW not in fn.__globals__:
                fn.__globals__[WINDOW] = window
                stack.callback(fn.__globals__.pop, WINDOW)
            stack.enter_context(_exchanged(fn, _compiled(fn, source_of(fn), windows=True)))
        yield


@contextmanager
def _exchanged(fn: FunctionType, code: CodeType) -> Iterator[None]:
    before = fn.__code__
    fn.__code__ = code
    try:
        yield
    finally:
        fn.__code__ = before


def _compiled(fn: FunctionType, source: str, windows: bool) -> CodeType:
    key = (fn, source, windows)
    if key not in _cache:
        _cache[key] = _compile(fn, source, windows)
    return _cache[key]


def _compile(fn: FunctionType, source: str, windows: bool) -> CodeType:
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    node.decorator_list = []
    if windows:
        _open_windows(node)
    factory = ast.parse(f"def factory({', '.join(fn.__code__.co_freevars)}): pass").body[0]
    assert isinstance(factory, ast.FunctionDef)
    factory.body = [node, ast.Return(ast.Name(node.name, ast.Load()))]
    tree = ast.fix_missing_locations(ast.Module([factory], []))
    names: dict[str, Any] = {}
    flags = __future__.annotations.compiler_flag
    exec(compile(tree, f"<{fn.__qualname__}, changed>", "exec", flags, dont_inherit=True), fn.__globals__, names)
    made = names["factory"](*fn.__code__.co_freevars)
    code: CodeType = made.__code__
    return code.replace(co_flags=code.co_flags | fn.__code__.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _open_windows(node: ast.stmt) -> None:
    for field in ("body", "orelse", "finalbody"):
        body: list[ast.stmt] = getattr(node, field, [])
        if not body or _holds_raw_lock(node):
            continue
        opened: list[ast.stmt] = []
        for stmt in body:
            opened += [_call_window(), *_split(stmt)]
            _open_windows(stmt)
        setattr(node, field, opened)
    for handler in getattr(node, "handlers", []):
        _open_windows(handler)


def _holds_raw_lock(node: ast.stmt) -> bool:
    if not isinstance(node, ast.With):
        return False
    return any(ast.unparse(item.context_expr).rpartition(".")[2] in _RAW_LOCKS for item in node.items)


def _call_window() -> ast.stmt:
    return ast.Expr(ast.Call(ast.Name(WINDOW, ast.Load()), [], []))


def _split(stmt: ast.stmt) -> list[ast.stmt]:
    """`a.b |= c` becomes: read and combine; window; write."""
    if not isinstance(stmt, ast.AugAssign) or not isinstance(stmt.target, ast.Attribute):
        return [stmt]
    target = stmt.target
    read = ast.Attribute(target.value, target.attr, ast.Load())
    store = ast.Assign([ast.Name("__value", ast.Store())], ast.BinOp(read, stmt.op, stmt.value))
    return [store, _call_window(), ast.Assign([target], ast.Name("__value", ast.Load()))]
