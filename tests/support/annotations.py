"""What checks the calls of the package against its annotations: jaxtyping's import hook with beartype.

An int passes where a float is asked for. Each function is checked in its first calls of every test: what is called a thousand
times, by a self-consistent field for one, is called alike, and the suite would take twice as long. Functions inside of
functions are left alone: the hook would compile their checks anew in every call of the outer one.
"""

import ast
import functools

from beartype import BeartypeConf, beartype
from jaxtyping import _import_hook, install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

CALLS = 4       # of a function that are checked in a test
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


class _AtFirst(_import_hook.JaxtypingTransformer):
    def visit_FunctionDef(self, node):
        before = len(node.decorator_list)
        super().visit_FunctionDef(node)
        if len(node.decorator_list) > before:
            name = ast.parse(f"__import__({__name__!r}, fromlist=['at_first']).at_first", mode="eval").body
            node.decorator_list.insert(-1, ast.copy_location(name, node))
            ast.fix_missing_locations(node)
        return node

    def generic_visit(self, node):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            super().generic_visit(node)


def install(packages):
    """Check the functions and classes of these packages that are imported from now on."""
    _import_hook.JaxtypingTransformer = _AtFirst
    install_import_hook(packages, f"{__name__}.check")
