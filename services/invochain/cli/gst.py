"""`invochain gst`: judge documents, run vectors, answer one-line questions about GST. No service has to run.

The core is imported by the commands that need it, so that `invochain doctor` works where it is not built.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Check GST documents and answer questions about GSTINs, rates, rules and IRNs.",
    no_args_is_help=True,
)

VECTOR_FORMAT = "invochain-gst-vectors/1"
MODES = ("compute", "strict", "nic")

Files = Annotated[list[Path], typer.Argument(help="JSON, JSON lines or INV-01 JSON; `-` reads standard input.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of a table.")]
ModeOption = Annotated[
    str | None, typer.Option("--mode", help="compute, strict or nic. Default: nic for INV-01, else strict.")
]
Today = Annotated[
    str | None, typer.Option("--today", help="Today in India, YYYY-MM-DD; without it no date is in the future.")
]
TableFiles = Annotated[
    list[str],
    typer.Option("--table", help="NAME=FILE: a dated table to use instead of the built-in one; may be repeated."),
]


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="gst")


@app.command()
def check(
    files: Files,
    mode: ModeOption = None,
    today: Today = None,
    as_json: AsJson = False,
    table: TableFiles = [],  # noqa: B006
) -> None:
    """Judge documents by every rule of RULES and print what is wrong. Exit code 1 if any document is refused."""
    from invochain import core

    if mode is not None and mode not in MODES:
        raise typer.BadParameter(f"found {mode!r}, wanted one of {', '.join(MODES)}", param_hint="--mode")
    _use_tables(table)
    lawful = refused = 0
    for name, document in _documents(files):
        try:
            if isinstance(document, Unreadable):
                raise ValueError(document.why)
            answer = json.loads(core.gst_check(document, mode, today))
        except ValueError as error:
            answer = {"form": "unreadable", "ok": False, "errors": [_unreadable(str(error))], "computed": None}
        lawful, refused = (lawful + 1, refused) if answer["ok"] else (lawful, refused + 1)
        if as_json:
            typer.echo(json.dumps({"document": name, **answer}, ensure_ascii=False))
        else:
            _print_answer(name, answer)
    if not as_json:
        typer.echo(f"{lawful} lawful, {refused} refused")
    raise typer.Exit(1 if refused else 0)


@app.command()
def explain(files: Files, mode: ModeOption = None, today: Today = None, as_json: AsJson = False) -> None:
    """Say where every figure of a document comes from: rate row, dates, rule. Exit code 1 if a document is refused."""
    from invochain import core

    refused = 0
    for name, document in _documents(files):
        if isinstance(document, Unreadable):
            raise typer.BadParameter(f"{name}: {document.why}")
        try:
            answer = json.loads(core.gst_explain(document, mode, today))
        except ValueError as error:
            raise typer.BadParameter(f"{name}: {error}") from None
        refused += not answer["ok"]
        if as_json:
            typer.echo(json.dumps({"document": name, **answer}, ensure_ascii=False))
        elif answer["ok"]:
            _print_explanation(name, answer["explanation"])
        else:
            _print_answer(name, answer)
    raise typer.Exit(1 if refused else 0)


@app.command()
def vectors(
    directory: Annotated[
        Path, typer.Argument(help="A directory (or file) of the format invochain-gst-vectors/1.", exists=True)
    ],
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Name every vector, not only those that fail.")
    ] = False,
) -> None:
    """Run every vector and say what differs. Ends with `N passed, N failed`; exit code 1 if any failed."""
    passed = failed = 0
    files = [directory] if directory.is_file() else sorted(directory.rglob("*.json"))
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or content.get("format") != VECTOR_FORMAT:
                typer.echo(f"skipped {file}: its format is not {VECTOR_FORMAT}", err=True)
                continue
            entries = content["vectors"]
        except (ValueError, KeyError) as error:
            failed += 1
            typer.echo(f"FAILED {file}: {error!r}")
            continue
        for vector in entries:
            difference = vector_difference(vector)
            passed, failed = (passed, failed + 1) if difference else (passed + 1, failed)
            if difference:
                typer.echo(f"FAILED {file.name} {vector.get('id')} {vector.get('title')}\n       {difference}")
            elif verbose:
                typer.echo(f"passed {file.name} {vector.get('id')} {vector.get('title')}")
    if passed + failed == 0:
        failed = 1
        typer.echo(f"FAILED {directory}: no vector of the format {VECTOR_FORMAT} was found")
    typer.echo(f"{passed} passed, {failed} failed")
    raise typer.Exit(1 if failed else 0)


def vector_difference(vector: dict[str, Any]) -> str | None:
    """What differs between the answer and the expectation of one vector, in words; None if nothing does.

    `ok` is compared, errors as a set of (code, path), and every key of `computed` that is expected.
    Source: tests/vectors/gst/README.md.
    """
    from invochain import core

    try:
        answer = json.loads(core.gst_vector(json.dumps(vector)))
    except (ValueError, KeyError, TypeError) as error:
        return f"cannot be run: {error!r}"
    return answer_difference(vector, answer)


def answer_difference(vector: dict[str, Any], answer: dict[str, Any]) -> str | None:
    """What differs between an answer (`ok`, `errors`, `computed`) and the expectation of its vector, in words."""
    try:
        expected = vector["expected"]
        wanted = {(error["code"], error["path"]) for error in expected.get("errors", [])}
    except (ValueError, KeyError, TypeError) as error:
        return f"cannot be run: {error!r}"
    told = {(error["code"], error["path"]) for error in answer["errors"]}
    if expected["ok"] != answer["ok"] or wanted != told:
        return f"expected ok={expected['ok']} {sorted(wanted)}, got ok={answer['ok']} {sorted(told)}"
    computed = answer["computed"] or {}
    for key, value in (expected.get("computed") or {}).items():
        if key not in computed or computed[key] != value:
            return f"{key}: expected {json.dumps(value)}, got {json.dumps(computed.get(key))}"
    return None


@app.command()
def irn(
    seller_gstin: str,
    date: Annotated[str, typer.Argument(help="Date of the document, YYYY-MM-DD.")],
    doc_type: Annotated[str, typer.Argument(help="INV, CRN or DBN.")],
    number: str,
    generated_on: Annotated[str | None, typer.Option(help="Day of registration; default: the document date.")] = None,
) -> None:
    """Print the invoice reference number, and the text it is the hash of."""
    from invochain import core

    try:
        preimage, value = core.gst_irn(seller_gstin, date, doc_type, number, generated_on)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(f"{value}\n{preimage}")


@app.command()
def gstin(texts: Annotated[list[str], typer.Argument(help="GSTINs, or their first 14 characters.")]) -> None:
    """Say what each GSTIN is or what is wrong with it (exit code 1); of 14 characters, print the check character."""
    from invochain import core

    wrong = 0
    for text in texts:
        if len(text) == 14 and (check_char := core.gstin_check_char(text)):
            typer.echo(f"{text}{check_char}  check character {check_char}")
            continue
        answer = json.loads(core.gst_gstin(text))
        if answer["ok"]:
            computed, keys = answer["computed"], ("kind", "state", "pan", "pan_holder")
            typer.echo(f"{text}  " + "  ".join(f"{key} {computed[key]}" for key in keys if key in computed))
        else:
            wrong += 1
            error = answer["errors"][0]
            typer.echo(f"{text}  {error['code']}: wanted {error['wanted']}")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def rates(
    on: Annotated[str | None, typer.Option("--on", help="Only rows in force on this day, YYYY-MM-DD.")] = None,
    table: TableFiles = [],  # noqa: B006
) -> None:
    """Print the rate table: rate, days in force, kind, goods, note."""
    from invochain import core

    _use_tables(table)
    try:
        rows = core.gst_rates(on)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--on") from None
    _print_columns(("RATE %", "FROM", "TO", "KIND", "HSN", "NOTE"), rows)


@app.command()
def rules() -> None:
    """Print every rule in order of precedence: phase, code, rule of RULES, whether REVIEW may waive it, law."""
    from invochain import core

    rows = [
        (str(phase), code, number, "reader" if of_reader else "waivable" if waivable else "firm", law)
        for code, number, phase, waivable, of_reader, law in core.gst_rules()
    ]
    _print_columns(("PHASE", "CODE", "RULE", "POLICY", "LAW"), rows)


class Unreadable:
    """A document that could not be taken from its file, and why."""

    def __init__(self, why: str) -> None:
        self.why = why


def _unreadable(why: str) -> dict[str, str]:
    return {"code": "UNREADABLE", "path": "", "found": why, "wanted": "a document: neutral JSON or INV-01", "law": ""}


def _documents(files: list[Path]) -> Iterator[tuple[str, str | Unreadable]]:
    """Name and JSON text of every document: a file holds one, a list of them, or one a line.

    Numbers stay as they were written: the text is cut up, never parsed into floats and printed again.
    """
    for file in files:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            yield str(file), Unreadable(str(error))
            continue
        try:
            value = json.loads(text, parse_float=_Written, parse_int=_Written)
        except ValueError as error:
            lines = [line for line in text.splitlines() if line.strip()]
            if len(lines) < 2:
                yield str(file), Unreadable(f"no JSON: {error}")
                continue
            for number, line in enumerate(text.splitlines(), start=1):
                if line.strip():
                    yield f"{file}:{number}", line
            continue
        if isinstance(value, list):
            for index, one in enumerate(value):
                yield f"{file}[{index}]", _dumped(one)
        else:
            yield str(file), text


class _Written(str):
    """A JSON number in the digits it was written in; no float is ever made of it."""


def _dumped(value: object) -> str:
    """JSON text again, with every number in its own digits."""
    if isinstance(value, _Written):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_dumped(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dumped, value)) + "]"
    return json.dumps(value)


def _use_tables(tables: list[str]) -> None:
    from invochain import core

    for entry in tables:
        name, _, file = entry.partition("=")
        try:
            core.gst_replace_table(name, Path(file).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{entry}: {error}", param_hint="--table") from None


def _print_answer(name: str, answer: dict[str, Any]) -> None:
    if answer["ok"]:
        typer.echo(f"{name}: lawful, total {answer['computed']['totals']['total']}")
        return
    errors = answer["errors"]
    typer.echo(f"{name}: {len(errors)} violation{'s' if len(errors) != 1 else ''}")
    rows = [
        (error["path"], error["code"], error["found"] or "nothing", error["wanted"], error["law"]) for error in errors
    ]
    _print_columns(("FIELD", "CODE", "FOUND", "WANTED", "LAW"), rows, indent="  ")


def _print_explanation(name: str, told: dict[str, Any]) -> None:
    typer.echo(f"{name}: financial year {told['financial_year']}, tables as of {told['tables_as_of']}")
    typer.echo(f"  tax date {told['tax_date']} ({told['tax_date_why']})")
    typer.echo(f"  {told['heads']} ({told['inter_state_why']})")
    for line in told["lines"]:
        if row := line["rate_row"]:
            until = f" to {row['in_force_to']}" if row["in_force_to"] else ""
            goods = f", HSN {row['hsn_prefixes']}" if row["hsn_prefixes"] else ""
            typer.echo(
                f"  line {line['index']}: HSN {line['hsn']}, {row['rate']} % "
                f"in force from {row['in_force_from']}{until}{goods}"
            )
    figures = [figure for line in told["lines"] for figure in line["figures"]] + told["totals"]
    rows = [(figure["path"], figure["amount"], figure["rule"], figure["how"]) for figure in figures]
    _print_columns(("FIGURE", "AMOUNT", "RULE", "HOW"), rows, indent="  ")


def _print_columns(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """A plain table; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        typer.echo(indent + "  ".join(cells).rstrip())
