"""`invochain sagas`: what is not settled yet, since when, and whom it waits for; for operators."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("sagas")(sagas)


def sagas(
    older_than: Annotated[float, typer.Option(min=0, help="Only what has waited at least so many seconds.")] = 0,
    waits_for: Annotated[
        str, typer.Option(help="DECISION, CONFIRMATION, GIVING_BACK, PUBLICATION, CONSUMER or REPLAY; none: all.")
    ] = "",
    at_most: Annotated[int, typer.Option(min=1, max=100_000, help="Lines at most.")] = 1_000,
    token: Annotated[str, typer.Option(help="An operator's access token; INVOCHAIN_TOKEN if it is not given.")] = "",
    address: Annotated[str, typer.Option(help="host:port; that of the running stack if it is not given.")] = "",
) -> None:
    """List what is not settled, each with its age; the newest state of a moving system, not a snapshot."""
    from invochain.api.invoice.v1 import invoice_service_pb2 as api
    from invochain.api.invoice.v1.invoice_service_pb2_grpc import InvoiceServiceStub
    from invochain.chassis.dial import blocking_channel
    from invochain.cli.call import authorization, refused_in_one_line
    from invochain.supervisor.state import running_stack

    if waits_for and waits_for not in api.SagaWait.keys()[1:]:
        wanted = ", ".join(api.SagaWait.keys()[1:])
        raise typer.BadParameter(f"found {waits_for!r}; one of {wanted} is wanted", param_hint="--waits-for")
    request = api.ListSagasRequest(older_than_ms=int(older_than * 1_000), waits_for=waits_for or None)
    count, skipped = 0, set()
    with (
        refused_in_one_line("sagas"),
        blocking_channel(address or running_stack().addresses["invoice"]) as channel,
    ):
        stub = InvoiceServiceStub(channel)
        while count < at_most:
            request.page_size = min(500, at_most - count)
            answer = stub.ListSagas(request, metadata=[authorization(token)], timeout=5)
            for saga in answer.sagas:
                typer.echo(_line(saga))
            count += len(answer.sagas)
            skipped.update(answer.not_looked_at)
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
    for what in sorted(skipped):
        typer.echo(f"not looked at: {what}", err=True)
    typer.echo(f"{count} not settled{', and maybe more' if request.page_token else ''}", err=True)


def _line(saga: object) -> str:
    from invochain.api.invoice.v1 import invoice_service_pb2 as api

    assert isinstance(saga, api.Saga)
    what = f"rid {saga.rid} attempt {saga.attempt}" if saga.rid else f"event {saga.event_id} {saga.event_type}"
    who = f" {saga.consumer}" if saga.consumer else ""
    return (
        f"{saga.age_ms / 1_000:>10.1f} s  {api.SagaWait.Name(saga.waits_for)}{who}  invoice {saga.invoice_id}  "
        f"merchant {saga.merchant_id}  {what}"
    )
