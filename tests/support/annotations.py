"""What checks the calls of the package against its annotations: jaxtyping's import hook with beartype.

An int passes where a float is asked for. Each function is checked in its first call of every test: what is called a thousand
times, by a self-consistent field for one, is called alike, and the suite would take twice as long. Functions inside of
functions are left alone: the hook would compile their checks anew in every call of the outer one. So are kernels, for numba
compiles the plain function.
"""

import ast
import functools

from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook, install_import_hook

verify = beartype(conf=BeartypeConf(is_pep484_tower=True))

KERNELS = ("jit", "bare", "inlined", "bare_inlined", "spliced")     # decorators of kernels (nddo_ml/common/jit.py)
CALLS = 1       # of a function that are checked in a test
_tests = 0      # that have begun


def begin():
    """A test begins: every function is checked again."""
    global _tests
    _tests += 1


def at_first(checked):
    """A function that is checked in its first calls of a test."""
    plain, test, left = checked.__wrapped__, -1, 0

    @functools.wraps(checked)
    def call(*args, **kwargs):
        nonlocal test, left
        if test != _tests:
            test, left = _tests, CALLS
        if left:
            left -= 1
            return checked(*args, **kwargs)
        return plain(*args, **kwargs)

    return call


def records_at_first(cls):
    """A class whose records are checked when the first of them are made in a test."""
    if hasattr(cls.__init__, "__wrapped__"):
        cls.__init__ = at_first(cls.__init__)
    return cls


class _AtFirst(_import_hook.JaxtypingTransformer):
    def visit_FunctionDef(self, node):
        if any(ast.unparse(decorator).split(".")[-1] in KERNELS for decorator in node.decorator_list):
            return node
        before = len(node.decorator_list)
        super().visit_FunctionDef(node)
        if len(node.decorator_list) > before:
            node.decorator_list.insert(-1, _named("at_first", node))
        return node

    def visit_ClassDef(self, node):
        before = len(node.decorator_list)
        super().visit_ClassDef(node)
        if len(node.decorator_list) > before:
            node.decorator_list.insert(0, _named("records_at_first", node))
        return node

    def generic_visit(self, node):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            super().generic_visit(node)


def _named(function, node):
    """A decorator of this file, at the place of a node."""
    name = ast.parse(f"__import__({__name__!r}, fromlist=[{function!r}]).{function}", mode="eval").body
    return ast.fix_missing_locations(ast.copy_location(name, node))


def install(packages):
    """Check the functions and classes of these packages that are imported from now on."""
    _import_hook.JaxtypingTransformer = _AtFirst
    install_import_hook(packages, f"{__name__}.verify")
