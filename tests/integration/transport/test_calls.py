"""Single calls: answers, refusals, metadata, tokens and keys, deadlines, callers that leave; alike on every door."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.integration.transport.probe import GOOD, SERVICE, Wire, fails, until
from tests.kit.market import Refused

KEY = ("idempotency-key", "0123456789abcdef")


def trailing(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    return dict(tuple(error.trailing_metadata() or ()))


class TestAnswers:
    async def test_an_answer_and_its_initial_metadata(self, wire: Wire):
        """The bytes come back as they are; what the use case sets goes out before them, with an id of the request."""
        call = wire.method("Echo")(b"\x00\xffbytes")
        assert b"\x00\xffbytes" == await call
        initial = dict(tuple(await call.initial_metadata()))
        assert "0/16B3748" == initial["x-consistency-token"]
        assert 36 == len(initial["x-request-id"])

    async def test_an_empty_message_is_a_message(self, wire: Wire):
        assert b"" == await wire.method("Echo")(b"")

    async def test_a_thousand_calls_at_once(self, wire: Wire):
        """Each gets its own answer."""
        sent = [b"%d" % number for number in range(1_000)]
        assert sent == await asyncio.gather(*(wire.method("Echo")(one, timeout=60) for one in sent))

    async def test_a_typed_method(self, wire: Wire):
        """Decoded for the method, which sees no bytes; a field that the message does not have is refused by name."""
        typed = wire.channel.unary_unary(
            f"/{SERVICE}/Decoded",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        assert 3 == (await typed(HealthCheckRequest(service="abc"))).status
        told = Refused.of(await wire.refused("Decoded", b"\x7a\x01a"))
        assert ("INVALID_ARGUMENT", "MALFORMED_REQUEST") == (told.code, told.reason)
        assert "15" in told.message


class TestRefusals:
    async def test_code_message_details_and_trailing_metadata(self, wire: Wire):
        """google.rpc.Status in `grpc-status-details-bin`, the same message, what else the caller is to know."""
        error = await wire.refused("Refuse", metadata=[("x-request-id", "mine")])
        status = status_pb2.Status.FromString(trailing(error)["grpc-status-details-bin"])
        assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
        assert error.details() == status.message == "a.field: दो lines\nand 100 %"
        assert ("mine", "true") == (trailing(error)["x-request-id"], trailing(error)["x-idempotent-replayed"])
        told = Refused.of(error)
        assert {("a.field", "A_CODE")} == told.broken and "VALIDATION_FAILED" == told.reason

    async def test_a_defect_is_told_as_unknown(self, wire: Wire):
        """INTERNAL with the id that finds the log line, and nothing of what happened."""
        error = await wire.refused("Break")
        assert grpc.StatusCode.INTERNAL == error.code()
        assert str(trailing(error)["x-request-id"]) in error.details()
        assert "a defect" not in error.details()

    @pytest.mark.parametrize("path", [f"/{SERVICE}/Nothing", "/no.such.v1.Service/Echo", "/x"])
    async def test_what_is_not_there_is_unimplemented(self, wire: Wire, path: str):
        """Unknown methods and services."""
        assert grpc.StatusCode.UNIMPLEMENTED == (await fails(wire.channel.unary_unary(path)(b""))).code()


class TestMetadata:
    async def test_what_the_caller_sends_reaches_the_use_case(self, wire: Wire):
        """Trace, request id, etag, consistency token, waiting time: each in its field."""
        await wire.method("Echo")(
            b"",
            metadata=[
                ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                ("x-request-id", "mine"),
                ("if-match", '"7"'),
                ("x-consistency-token", "0/1"),
                ("x-idempotency-wait-ms", "99999"),
                ("some-bin", b"\x00\xff"),
            ],
        )
        (call,) = wire.seen.calls
        assert "0af7651916cd43dd8448eb211c80319c" == call.trace.trace_id
        assert ("mine", '"7"', "0/1", 2_000) == (call.request_id, call.if_match, call.consistency_token, call.wait_ms)
        assert "127.0.0.1" == call.client_ip

    async def test_the_gateway_names_its_caller(self, wire: Wire):
        await wire.method("Echo")(b"", metadata=[("x-forwarded-client-ip", "203.0.113.9")])
        assert "203.0.113.9" == wire.seen.calls[0].client_ip

    async def test_metadata_that_come_twice_pick_no_winner(self, wire: Wire):
        """Two keys are no key: joined, they are outside the grammar."""
        twice = [KEY, ("idempotency-key", "fedcba9876543210"), GOOD]
        told = Refused.of(await wire.refused("Keyed", metadata=twice))
        assert "IDEMPOTENCY_KEY_INVALID" == told.reason


class TestWhoIsCalling:
    @pytest.mark.parametrize("method", ["Keyed", "Collect"])
    async def test_a_token_and_a_key(self, wire: Wire, method: str):
        """Both are needed, in this order; the second call is known by sight."""
        for sent, reason in (((KEY,), "TOKEN_INVALID"), ((GOOD,), "IDEMPOTENCY_KEY_REQUIRED")):
            assert reason == Refused.of(await wire.refused(method, metadata=sent)).reason
        bad = [GOOD, ("idempotency-key", "short")]
        assert "IDEMPOTENCY_KEY_INVALID" == Refused.of(await wire.refused(method, metadata=bad)).reason
        for _ in range(2):
            assert KEY[1].encode() == await wire.method(method)(KEY[1].encode(), metadata=[GOOD, KEY])
        strange = [("authorization", "Bearer evil"), KEY]
        assert "TOKEN_INVALID" == Refused.of(await wire.refused(method, metadata=strange)).reason

    async def test_a_role_that_is_missing(self, wire: Wire):
        told = Refused.of(await wire.refused("ForIssuers", metadata=[GOOD]))
        assert ("PERMISSION_DENIED", "ROLE_MISSING") == (told.code, told.reason)

    async def test_services_prove_themselves(self, wire: Wire):
        token = ("x-invochain-service-token", "of the invoice service")
        assert b"invoice" == await wire.method("ForServices")(b"", metadata=[token])
        assert "SERVICE_ONLY" == Refused.of(await wire.refused("ForServices", metadata=[GOOD])).reason
        wrong = [("x-invochain-service-token", "of nobody")]
        assert "TOKEN_INVALID" == Refused.of(await wire.refused("ForServices", metadata=wrong)).reason


class TestCollecting:
    """A method that takes its calls together: on one door they cost a task each, on the other none."""

    async def send(self, wire: Wire, raw: bytes, **more: float) -> bytes:
        return await wire.method("Collect")(raw, metadata=[GOOD, KEY], **more)

    async def test_calls_that_wait_are_answered_together(self, wire: Wire):
        """Each by its own future: bytes, replays, refusals at once and later, side by side."""
        await self.send(wire, b"known by sight now")
        wire.seen.collected.clear()
        one, again, at_once, later = await asyncio.gather(
            *(self.send(wire, raw, timeout=20) for raw in (b"one", b"again", b"!", b"x")), return_exceptions=True
        )
        assert (b"one", b"again") == (one, again)
        assert ["at once", "later"] == [error.details().split(": ")[1] for error in (at_once, later)]

    async def test_a_replay_says_so(self, wire: Wire):
        """And what the use case adds to replays goes out with it; nothing of it with a first answer."""
        for raw, replayed in ((b"again", "true"), (b"again", "true"), (b"one", None)):
            call = wire.method("Collect")(raw, metadata=[GOOD, KEY])
            await call
            initial = dict(tuple(await call.initial_metadata()))
            assert replayed == initial.get("x-idempotent-replayed")
            assert (replayed and "0/2") == initial.get("x-consistency-token")

    async def test_a_deadline_ends_the_waiting_and_not_the_work(self, wire: Wire):
        """The caller is told; the call is still its batch's to decide."""
        await self.send(wire, b"known by sight now")
        wire.seen.collected.clear()
        assert grpc.StatusCode.DEADLINE_EXCEEDED == (await fails(self.send(wire, b"never", timeout=0.3))).code()
        assert 1 == len(wire.seen.collected)

    async def test_a_caller_that_leaves_cancels_nothing(self, wire: Wire):
        await self.send(wire, b"known by sight now")
        wire.seen.collected.clear()
        call = wire.method("Collect")(b"never", metadata=[GOOD, KEY])
        waiting = asyncio.ensure_future(call)
        await until(lambda: wire.seen.collected)
        call.cancel()
        await asyncio.wait([waiting])
        (collected,) = wire.seen.collected
        assert not collected.answer.cancelled()
        collected.reply(b"decided all the same")
        wire.seen.collected.clear()
        assert b"one" == await self.send(wire, b"one", timeout=20)


class TestDeadlines:
    async def test_the_server_stops_the_work(self, wire: Wire):
        """DEADLINE_EXCEEDED for the caller, and an end for the method."""
        assert grpc.StatusCode.DEADLINE_EXCEEDED == (await wire.refused("Wait", timeout=0.3)).code()
        await until(lambda: wire.seen.cancelled == 1)
        assert 0 == wire.seen.under_way

    async def test_the_use_case_knows_how_long_it_has(self, wire: Wire):
        """The caller's time (which the client's library rounds up), and never more than 4.8 s (PROTOCOL 13)."""
        await wire.method("Echo")(b"", timeout=2)
        await wire.method("Echo")(b"", timeout=3_600)
        await wire.method("Echo")(b"")
        given = [call.deadline - call.arrived for call in wire.seen.calls]
        assert 1.0 < given[0] <= 2.1
        # A monotonic clock of some hours rounds to billionths.
        assert all(4.7 < one < 4.8 + 1e-6 for one in given[1:])


class TestCallersThatLeave:
    async def test_a_cancelled_call_ends_the_method(self, wire: Wire):
        call = wire.method("Wait")(b"")
        waiting = asyncio.ensure_future(call)
        await until(lambda: wire.seen.under_way == 1)
        call.cancel()
        await asyncio.wait([waiting])
        await until(lambda: wire.seen.cancelled == 1)

    async def test_a_connection_that_breaks_ends_its_calls(self, wire: Wire):
        """All calls of the connection end; the server serves the next one."""
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{wire.port}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        )
        waiting = [asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"")) for _ in range(20)]
        await until(lambda: wire.seen.under_way == 20)
        await channel.close()
        await asyncio.wait(waiting)
        await until(lambda: wire.seen.cancelled == 20)
        assert b"still here" == await wire.method("Echo")(b"still here")
