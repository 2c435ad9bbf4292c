"""`invochain dlq`: dead letters, for operators: what waits, what a replay would do, replay it, or discard it by two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from invochain.api.operator.v1 import operator_service_pb2 as pb

ROOMS = ("merchant", "inventory", "invoice")
TIMEOUT_S = 5

app = typer.Typer(help="Dead letters: work that waits for an operator.", no_args_is_help=True)

Room = Annotated[str, typer.Argument(help="Whose letter: merchant, inventory or invoice.")]
LetterId = Annotated[str, typer.Argument(help="The letter's id, a UUID.")]
Token = Annotated[str, typer.Option(help="An operator's access token; INVOCHAIN_TOKEN if it is not given.")]
Address = Annotated[str, typer.Option(help="host:port of the service; that of the running stack if it is not given.")]


def register(main: typer.Typer) -> None:
    main.add_typer(app, name="dlq")


@app.command("list")
def list_(
    room: Annotated[str, typer.Option(help="Only of one service.")] = "",
    state: Annotated[str, typer.Option(help="OPEN, REPLAYING, DONE or DISCARDED; none: what waits.")] = "",
    kind: Annotated[str, typer.Option(help="CONFIRM, RELEASE, SELL, REVERSE, PUBLISH, CONSUME, RECONCILE.")] = "",
    aggregate: Annotated[str, typer.Option(help="For example an invoice's id; then letters of every state.")] = "",
    token: Token = "",
    address: Address = "",
) -> None:
    """List letters, newest first."""
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    _known(room, ("", *ROOMS), "--room")
    _known(state, ("", *pb.DeadLetterState.keys()), "--state")
    _known(kind, ("", *pb.DeadLetterKind.keys()), "--kind")
    count = 0
    for name in [room] if room else ROOMS:
        page = ""
        with _service(name, token, address) as (stub, metadata):
            while True:
                request = pb.ListDeadLettersRequest(
                    room=name, state=state or None, kind=kind or None, aggregate=aggregate, page_token=page
                )
                answer = stub.ListDeadLetters(request, metadata=metadata, timeout=TIMEOUT_S)
                for letter in answer.dead_letters:
                    typer.echo(_line(letter))
                count += len(answer.dead_letters)
                page = answer.next_page_token
                if not page:
                    break
    typer.echo(f"{count} dead letters", err=True)


@app.command("show")
def show(room: Room, letter: LetterId, token: Token = "", address: Address = "") -> None:
    """Show a letter, what was done to it, and what a replay would do now. Changes nothing."""
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    with _service(room, token, address) as (stub, metadata):
        request = pb.GetDeadLetterRequest(room=room, dead_letter_id=letter)
        _tell(stub.GetDeadLetter(request, metadata=metadata, timeout=TIMEOUT_S))


@app.command("replay")
def replay(
    room: Room,
    letter: LetterId,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what it would do.")] = False,
    token: Token = "",
    address: Address = "",
) -> None:
    """Do what is left to do, derived anew from what decides; harmless if there is nothing."""
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    with _service(room, token, address) as (stub, metadata):
        request = pb.ReplayDeadLetterRequest(room=room, dead_letter_id=letter, validate_only=dry_run)
        _tell(stub.ReplayDeadLetter(request, metadata=metadata, timeout=TIMEOUT_S))


@app.command("discard")
def discard(
    room: Room,
    letter: LetterId,
    reason: Annotated[str, typer.Option(help="Why it is never to be done, 1 to 500 characters.")],
    token: Token = "",
    address: Address = "",
) -> None:
    """Propose that it is never done; another operator has to approve."""
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    with _service(room, token, address) as (stub, metadata):
        request = pb.DiscardDeadLetterRequest(room=room, dead_letter_id=letter, reason=reason)
        _tell(stub.DiscardDeadLetter(request, metadata=metadata, timeout=TIMEOUT_S))


@app.command("approve")
def approve(
    room: Room,
    letter: LetterId,
    etag: Annotated[str, typer.Option(help="Of the letter as `invochain dlq show` told it.")],
    token: Token = "",
    address: Address = "",
) -> None:
    """Approve a discard that another operator proposed. It cannot be undone."""
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    with _service(room, token, address) as (stub, metadata):
        request = pb.ApproveDiscardRequest(room=room, dead_letter_id=letter, etag=etag)
        _tell(stub.ApproveDiscard(request, metadata=metadata, timeout=TIMEOUT_S))


def _known(value: str, wanted: tuple[str, ...], option: str) -> None:
    if value not in wanted:
        raise typer.BadParameter(
            f"found {value!r}; wanted is one of {', '.join(filter(None, wanted))}", param_hint=option
        )


@contextmanager
def _service(room: str, token: str, address: str) -> Iterator[tuple[Any, list[tuple[str, str]]]]:
    """A service's operator door, and the metadata of a call. A refusal is one line and exit code 1."""
    import uuid

    from invochain.api.operator.v1.operator_service_pb2_grpc import OperatorServiceStub
    from invochain.chassis.dial import blocking_channel
    from invochain.cli.call import authorization, refused_in_one_line
    from invochain.supervisor.state import running_stack

    _known(room, ROOMS, "ROOM")
    with (
        refused_in_one_line("dlq"),
        blocking_channel(address or running_stack().addresses[room]) as channel,
    ):
        yield OperatorServiceStub(channel), [authorization(token), ("idempotency-key", str(uuid.uuid4()))]


def _line(letter: pb.DeadLetter) -> str:
    from invochain.api.operator.v1 import operator_service_pb2 as pb

    kind, state = pb.DeadLetterKind.Name(letter.kind), pb.DeadLetterState.Name(letter.state)
    since = letter.first_time.ToJsonString()
    who = f" by {letter.consumer}" if letter.consumer else ""
    return (
        f"{letter.room:<9} {letter.dead_letter_id} {state:<9} {kind:<8} since {since} tries {letter.attempts} "
        f"{letter.reason}{who} aggregate {letter.aggregate}"
    )


def _tell(letter: pb.DeadLetter) -> None:
    typer.echo(_line(letter))
    typer.echo(f"  about {letter.subject}, merchant {letter.merchant_id}, etag {letter.etag}")
    if letter.detail:
        typer.echo(f"  said: {letter.detail}")
    if letter.discard_reason:
        typer.echo(f"  discard proposed by {letter.proposer_id}: {letter.discard_reason}")
    for action in letter.actions:
        who = action.actor_id or "the system"
        typer.echo(f"  {action.create_time.ToJsonString()} {action.action:<15} {who}  {action.note}")
    if letter.HasField("plan"):
        typer.echo(f"  found: {letter.plan.found}")
        for number, step in enumerate(letter.plan.steps, 1):
            typer.echo(f"  a replay would {number}. {step}")
        if not letter.plan.steps:
            typer.echo("  nothing is left to do")
