"""Every command of `invochain`. Each file here has `register(app)`; this one lists them."""

from __future__ import annotations

import importlib
import pkgutil

import typer

app = typer.Typer(
    name="invochain",
    help="Issues GST invoices exactly once, with tax exactly right, taking stock exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

for _file in sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__"):
    importlib.import_module(f"{__name__}.{_file}").register(app)


def main() -> None:
    """Entry point of the `invochain` command."""
    app()
