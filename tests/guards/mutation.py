"""Guards of a statement, and the statement without one of them: mechanically, by PostgreSQL's own parser.

A guard is one conjunct of a WHERE, of a JOIN .. ON or of an ON CONFLICT .. DO UPDATE .. WHERE, wherever it stands.
Without it means `guard OR true`: nothing else moves, and parameters keep their types. The same guard twice
(where rows are locked, and again where they are changed) is one: only without both is it gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import BoolExprType
from pglast.stream import RawStream

Replace = Callable[[ast.Node], None]


@dataclass(frozen=True)
class Guard:
    """One guard of the statement `name`; `text` as PostgreSQL reads it."""

    name: str
    text: str
    # The statement without it.
    mutated: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def guards(name: str, sql: str) -> list[Guard]:
    """Every guard of a statement, in the order they stand."""
    texts: dict[str, str] = {}
    for node, _ in _conjuncts(parse_sql(sql)[0].stmt):
        texts.setdefault(_what(node), RawStream()(node))
    return [Guard(name, text, _without(sql, what)) for what, text in texts.items()]


def written(sql: str) -> set[str]:
    """The tables that a statement inserts into, updates or deletes from."""
    kinds = (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt)
    return {node.relation.relname for node in _nodes(parse_sql(sql)[0].stmt) if isinstance(node, kinds)}


def _nodes(node: Any) -> Iterator[ast.Node]:
    if isinstance(node, tuple):
        for item in node:
            yield from _nodes(item)
    elif isinstance(node, ast.Node):
        yield node
        for attribute in node:
            yield from _nodes(getattr(node, attribute))


def _without(sql: str, what: str) -> str:
    tree = parse_sql(sql)
    for node, replace in list(_conjuncts(tree[0].stmt)):
        if _what(node) == what:
            true = ast.A_Const(isnull=False, val=ast.Boolean(boolval=True))
            replace(ast.BoolExpr(boolop=BoolExprType.OR_EXPR, args=(node, true)))
    return RawStream()(tree)


def _what(node: ast.Node) -> str:
    """What a conjunct speaks of: the column it compares, or all of it."""
    if isinstance(node, ast.A_Expr) and isinstance(node.lexpr, ast.ColumnRef):
        return RawStream()(node.lexpr)
    return RawStream()(node)


def _conjuncts(node: Any) -> Iterator[tuple[ast.Node, Replace]]:
    """Conjuncts with the means to put something else into their place; outer ones before those inside them."""
    if isinstance(node, tuple):
        for item in node:
            yield from _conjuncts(item)
    elif isinstance(node, ast.Node):
        for attribute in node:
            value = getattr(node, attribute)
            if attribute in ("whereClause", "quals") and isinstance(value, ast.Node):
                yield from _parts(value, _setter(node, attribute))
            yield from _conjuncts(value)


def _parts(node: ast.Node, replace: Replace) -> Iterator[tuple[ast.Node, Replace]]:
    if isinstance(node, ast.BoolExpr) and node.boolop == BoolExprType.AND_EXPR:
        for place, argument in enumerate(node.args):
            yield from _parts(argument, _setter_at(node, place))
    else:
        yield node, replace


def _setter(node: ast.Node, attribute: str) -> Replace:
    return lambda new: setattr(node, attribute, new)


def _setter_at(node: ast.Node, place: int) -> Replace:
    def replace(new: ast.Node) -> None:
        node.args = (*node.args[:place], new, *node.args[place + 1 :])

    return replace
