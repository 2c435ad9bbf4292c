"""REST as partners meet it: the built gateway in front of the real services."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from google.protobuf import json_format

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.api.merchant.v1 import merchant_service_pb2 as merchant_pb
from tests.contract.conftest import Rest
from tests.kit.market import PASSWORD, Trader, fresh_gstin, fresh_key


def order(rest: Rest, buyer: Trader, **more: Any) -> dict[str, Any]:
    """Ten bolts of 1,000 rupees at 18 %, as a JSON body."""
    body = json_format.MessageToDict(rest.market.invoice(buyer).invoice, preserving_proto_field_name=True)
    return {**body, **more}


@pytest.fixture
async def seller(rest: Rest) -> Trader:
    seller = await rest.market.register("27")
    await rest.market.stock_up(seller)
    return seller


@pytest.fixture
async def buyer(rest: Rest) -> Trader:
    return await rest.market.register("29")


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem of a refusal, after its shape was held to RFC 9457 and ours."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told = response.json()
    optional = {"errors", "metadata"}
    assert set(told) - optional == {
        "type",
        "title",
        "status",
        "code",
        "detail",
        "instance",
        "request_id",
        "trace_id",
        "retryable",
    }
    assert told["code"] == code
    assert told["status"] == status
    assert told["type"] == "/problems/" + code.lower().replace("_", "-")
    assert told["instance"] == response.request.url.path
    assert told["request_id"] == response.headers["x-request-id"]
    assert all(set(fault) == {"pointer", "code", "detail"} for fault in told.get("errors", []))
    return told


class TestTheMainJob:
    async def test_from_registration_to_acceptance(self, rest: Rest) -> None:
        """Register two merchants, add stock, issue, repeat, accept, and see the stock where it went; REST only."""
        await rest.market.work()

        async def register(state: str) -> Trader:
            email = f"{fresh_key()}@example.in"
            body = {
                "merchant": {
                    "gstin": fresh_gstin(state),
                    "legal_name": "Traders",
                    "address": {"line1": "1 Bazaar Road", "location": "Pune", "pin_code": "411001"},
                },
                "owner": {"email": email, "name": "Owner", "password": PASSWORD},
            }
            made = await rest.ask("POST", "/v1/merchants", body)
            assert made.status_code == 201, made.text
            assert made.headers["location"] == "/v1/merchant"
            signed_in = await rest.ask("POST", "/v1/auth:sign_in", {"email": email, "password": PASSWORD}, key=None)
            assert signed_in.status_code == 200
            merchant = json_format.ParseDict(made.json()["merchant"], merchant_pb.Merchant())
            return Trader(merchant, signed_in.json()["access_token"])

        seller, buyer = await register("27"), await register("29")
        adjust = {"sku": "BOLT-M8", "adjustment": "ADD", "quantity_milli": "100000", "unit": "NOS", "hsn": "731815"}
        added = await rest.ask("POST", "/v1/stock:adjust", adjust, seller)
        assert added.json()["on_hand_milli"] == "100000"

        key = fresh_key()
        first = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)
        assert first.status_code == 201, first.text
        issued = first.json()
        assert issued["totals"]["total_paise"] == "1180000"
        assert issued["totals"]["igst_paise"] == "180000"
        assert first.headers["location"] == f"/v1/invoices/{issued['invoice_id']}"
        assert first.headers["etag"] == f'"{issued["etag"]}"'
        assert "x-idempotent-replayed" not in first.headers

        again = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, f'"{key}"')
        assert (again.status_code, again.text) == (201, first.text)
        assert again.headers["x-idempotent-replayed"] == "true"

        accepted = await rest.ask(
            "POST",
            f"/v1/invoices/{issued['invoice_id']}:accept",
            {},
            buyer,
            headers={"if-match": first.headers["etag"]},
        )
        assert accepted.status_code == 200, accepted.text
        assert accepted.json()["state"] == "ACCEPTED"

        async def delivered() -> bool:
            at_seller = (await rest.ask("GET", "/v1/stock/BOLT-M8", who=seller)).json()
            at_buyer = (await rest.ask("GET", "/v1/stock", who=buyer)).json()["stock"]
            return at_seller["on_hand_milli"] == "90000" and [s["on_hand_milli"] for s in at_buyer] == ["10000"]

        await rest.market.until(delivered)


class TestOneKeyOnEveryWay:
    async def test_rest_and_grpc_give_one_fingerprint(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """A key used over gRPC is replayed over REST, and the other way round: the request is the same."""
        market, key = rest.market, fresh_key()
        first = await market.issue(seller, market.invoice(buyer), key)
        over_rest = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)
        assert over_rest.status_code == 201, over_rest.text
        assert over_rest.headers["x-idempotent-replayed"] == "true"
        assert json_format.ParseDict(over_rest.json(), pb.Invoice()) == first

        key = fresh_key()
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)
        over_grpc = await market.issue(seller, market.invoice(buyer), key)
        assert over_grpc.invoice_id == made.json()["invoice_id"]
        assert market.last_metadata["x-idempotent-replayed"] == "true"

    async def test_numbers_as_texts_or_not_are_one_request(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """The fingerprint is of the typed request: how JSON writes a number, or orders its fields, does not count."""
        key, body = fresh_key(), order(rest, buyer)
        await rest.ask("POST", "/v1/invoices", body, seller, key)
        line = {name: int(value) if name.endswith("_milli") else value for name, value in body["lines"][0].items()}
        other = dict(reversed({**body, "lines": [line]}.items()))
        again = await rest.ask("POST", "/v1/invoices", other, seller, key)
        assert again.headers.get("x-idempotent-replayed") == "true", again.text


class TestRefusals:
    async def test_a_key_is_needed(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """Without a key nothing is issued."""
        problem(
            await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, None), 400, "IDEMPOTENCY_KEY_REQUIRED"
        )

    async def test_a_malformed_key(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """A key outside the grammar is refused."""
        problem(
            await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, "short"), 400, "IDEMPOTENCY_KEY_INVALID"
        )

    async def test_a_key_with_another_body(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """422, and the first invoice stands."""
        key = fresh_key()
        await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)
        other = await rest.ask("POST", "/v1/invoices", order(rest, buyer, notes="changed"), seller, key)
        problem(other, 422, "KEY_REUSED_WITH_DIFFERENT_PAYLOAD")

    async def test_broken_rules_point_into_the_body(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """Every broken rule at once, each at its place in the body as it was sent."""
        body = order(rest, buyer, number="A" * 17)
        body["lines"].append({**body["lines"][0], "hsn": "7"})
        told = problem(await rest.ask("POST", "/v1/invoices", body, seller), 400, "VALIDATION_FAILED")
        found = {(fault["pointer"], fault["code"]) for fault in told["errors"]}
        assert found == {("/number", "DOC_NUMBER_TOO_LONG"), ("/lines/1/hsn", "HSN_FORMAT_INVALID")}

    async def test_a_wrong_check_character(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """A GSTIN that was mistyped is told at its place."""
        body = order(rest, buyer)
        wrong = "A" if buyer.gstin[-1] != "A" else "B"
        body["buyer"]["gstin"] = buyer.gstin[:-1] + wrong
        told = problem(await rest.ask("POST", "/v1/invoices", body, seller), 400, "VALIDATION_FAILED")
        assert [(fault["pointer"], fault["code"]) for fault in told["errors"]] == [
            ("/buyer/gstin", "GSTIN_CHECKSUM_INVALID")
        ]

    async def test_a_total_that_does_not_add_up(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """Both figures are told."""
        body = order(rest, buyer, totals={"total_paise": "1500000"})
        told = problem(await rest.ask("POST", "/v1/invoices", body, seller), 400, "VALIDATION_FAILED")
        assert [fault["pointer"] for fault in told["errors"]] == ["/totals/total_paise"]

    async def test_an_unknown_field(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """Rupees under an old name are an unknown field, not an invoice of another amount."""
        told = problem(
            await rest.ask("POST", "/v1/invoices", order(rest, buyer, total_amount=11800), seller),
            400,
            "MALFORMED_REQUEST",
        )
        assert [(fault["pointer"], fault["code"]) for fault in told["errors"]] == [("/total_amount", "FIELD_UNKNOWN")]

    async def test_too_little_stock(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """409 with which SKU, what was asked, what is free; final for the key, so a repeat is a replay."""
        key, body = fresh_key(), order(rest, buyer)
        body["lines"][0]["quantity_milli"] = "999000"
        first = await rest.ask("POST", "/v1/invoices", body, seller, key)
        told = problem(first, 409, "INSUFFICIENT_STOCK")
        assert told["metadata"] == {"sku": "BOLT-M8", "asked_milli": "999000", "free_milli": "100000"}
        assert told["retryable"] is False
        again = await rest.ask("POST", "/v1/invoices", body, seller, key)
        problem(again, 409, "INSUFFICIENT_STOCK")
        assert again.headers["x-idempotent-replayed"] == "true"

    async def test_an_illegal_action(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """409 with the present state and what it allows."""
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller)
        path = f"/v1/invoices/{made.json()['invoice_id']}"
        assert (await rest.ask("POST", f"{path}:cancel", {"reason": "typed wrong"}, seller)).status_code == 200
        problem(await rest.ask("POST", f"{path}:accept", {}, buyer), 409, "INVALID_STATE")

    async def test_a_stale_etag(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """412, and not to be repeated as it is."""
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller)
        path = f"/v1/invoices/{made.json()['invoice_id']}:accept"
        told = problem(await rest.ask("POST", path, {}, buyer, headers={"if-match": '"99"'}), 412, "VERSION_MISMATCH")
        assert told["retryable"] is False

    async def test_a_foreign_invoice(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """To anybody else it does not exist."""
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller)
        stranger = await rest.market.register("33")
        path = f"/v1/invoices/{made.json()['invoice_id']}"
        problem(await rest.ask("GET", path, who=stranger), 404, "INVOICE_NOT_FOUND")
        problem(await rest.ask("POST", f"{path}:accept", {}, stranger), 404, "INVOICE_NOT_FOUND")

    @pytest.mark.parametrize("token", ["", "nonsense", "eyJhbGciOiJub25lIn0.e30."])
    async def test_a_token_that_is_none(self, rest: Rest, token: str) -> None:
        """401 with one text, whatever is wrong with it."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        response = await rest.ask("GET", "/v1/invoices", headers=headers)
        problem(response, 401, "TOKEN_INVALID")
        assert response.headers["www-authenticate"].startswith("Bearer")

    async def test_what_is_for_services_only(self, rest: Rest, seller: Trader) -> None:
        """A merchant's token opens nothing of theirs, nor does a header that names one."""
        body = {"items": [{"sku": "BOLT-M8", "quantity_milli": "1000"}], "resolver": "INVOICE", "rid": fresh_key()}
        headers = {"grpc-metadata-x-invochain-service-token": "x", "x-invochain-service-token": "x"}
        refused = await rest.ask("POST", "/v1/reservations", body, seller, headers=headers)
        assert refused.status_code in (400, 403), refused.text


class TestTheRest:
    async def test_update_takes_what_the_body_names(self, rest: Rest, seller: Trader) -> None:
        """PATCH changes the named fields, empties one that is named empty, and leaves the others."""
        before = (await rest.ask("GET", "/v1/merchant", who=seller)).json()
        changed = await rest.ask("PATCH", "/v1/merchant", {"trade_name": "Bolts and More"}, seller)
        assert changed.status_code == 200, changed.text
        after = changed.json()
        assert after["trade_name"] == "Bolts and More"
        assert after["legal_name"] == before["legal_name"]
        emptied = await rest.ask("PATCH", "/v1/merchant", {"trade_name": ""}, seller)
        assert emptied.json()["trade_name"] == ""

    async def test_update_of_a_part_of_the_address(self, rest: Rest, seller: Trader) -> None:
        """A named part of a part changes alone."""
        changed = await rest.ask("PATCH", "/v1/merchant", {"address": {"line1": "2 Bazaar Road"}}, seller)
        assert changed.status_code == 200, changed.text
        assert changed.json()["address"] == {
            "line1": "2 Bazaar Road",
            "line2": "",
            "location": "Pune",
            "pin_code": "411001",
        }

    async def test_update_under_if_match(self, rest: Rest, seller: Trader) -> None:
        """The ETag of a read guards the change; a stale one refuses it."""
        etag = (await rest.ask("GET", "/v1/merchant", who=seller)).headers["etag"]
        first = await rest.ask("PATCH", "/v1/merchant", {"trade_name": "Once"}, seller, headers={"if-match": etag})
        assert first.status_code == 200, first.text
        second = await rest.ask("PATCH", "/v1/merchant", {"trade_name": "Twice"}, seller, headers={"if-match": etag})
        problem(second, 412, "VERSION_MISMATCH")

    async def test_a_batch_tells_each_item(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """200 with a result an item, a refusal's details among them."""
        short = order(rest, buyer)
        short["lines"] = [{**short["lines"][0], "quantity_milli": "999000"}]
        items = [{"invoice": body, "idempotency_key": fresh_key()} for body in (order(rest, buyer), short)]
        response = await rest.ask("POST", "/v1/invoices:batch_create", {"items": items}, seller, None)
        assert response.status_code == 200, response.text
        good, bad = response.json()["results"]
        assert good["invoice"]["totals"]["total_paise"] == "1180000"
        assert bad["error"]["details"][0]["reason"] == "INSUFFICIENT_STOCK"

    async def test_lists_page_by_token(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """Pages follow each other, and a token of another list is refused."""
        for _ in range(3):
            await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller)
        first = (await rest.ask("GET", "/v1/invoices", who=seller, page_size=2)).json()
        token = first["next_page_token"]
        second = (await rest.ask("GET", "/v1/invoices", who=seller, page_size=2, page_token=token)).json()
        assert len({i["invoice_id"] for i in first["invoices"] + second["invoices"]}) == 3
        assert second["next_page_token"] == ""
        other = await rest.ask("GET", "/v1/invoices", who=seller, page_token=token, filter='state = "ACCEPTED"')
        problem(other, 400, "PAGE_TOKEN_MISMATCH")

    async def test_ask_what_became_of_a_key(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """GetOperation over REST tells the invoice of a key."""
        key = fresh_key()
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)
        told = await rest.ask("GET", "/v1/operations", who=seller, operation="invoice.create", key=None)
        assert told.status_code == 400, "the key is part of the question"
        response = await rest.http.get(
            "/v1/operations",
            params={"operation": "invoice.create", "key": key},
            headers={"authorization": f"Bearer {seller.token}"},
        )
        assert response.json()["state"] == "SUCCEEDED", response.text
        assert response.json()["invoice"]["invoice_id"] == made.json()["invoice_id"]

    async def test_the_keys_of_tokens_are_public(self, rest: Rest) -> None:
        """The JWK set needs no token."""
        keys = (await rest.ask("GET", "/.well-known/jwks.json")).json()["keys"]
        assert {(key["kty"], key["crv"], key["alg"]) for key in keys} == {("EC", "P-256", "ES256")}

    async def test_ready_when_the_services_are(self, rest: Rest) -> None:
        """Readiness asks each service."""

        async def ready() -> bool:
            return (await rest.ask("GET", "/readyz")).status_code == 200

        await rest.market.until(ready)

    async def test_the_log_tells_no_secrets(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """No GSTIN, token or body in a line; the trace and the key's hash are there."""
        key = fresh_key()
        await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller, key)

        async def logged() -> bool:
            return any(line.get("route") == "/v1/invoices" for line in rest.log)

        await rest.market.until(logged)
        line = next(line for line in rest.log if line.get("route") == "/v1/invoices")
        assert len(line["trace_id"]) == 32
        assert len(line["key"]) == 12
        text = str(rest.log)
        for secret in (seller.gstin, buyer.gstin, seller.token, key, "Hex bolt"):
            assert secret not in text


class TestDeadLetters:
    async def test_operators_reach_each_room_by_its_path(self, rest: Rest, seller: Trader) -> None:
        """The room in the path says which service is asked; an unknown one and another role are refused."""
        ann, bob = rest.market.operator(), rest.market.operator()
        for room in ("merchant", "inventory", "invoice"):
            listed = await rest.ask("GET", f"/v1/dead_letters/{room}", who=ann)
            assert listed.json() == {"dead_letters": [], "next_page_token": ""}, listed.text
            problem(await rest.ask("GET", f"/v1/dead_letters/{room}", who=seller), 403, "ROLE_MISSING")
            nothing = f"/v1/dead_letters/{room}/{fresh_key()}"
            problem(await rest.ask("GET", nothing, who=ann), 404, "DEAD_LETTER_NOT_FOUND")
            problem(await rest.ask("POST", f"{nothing}:replay", {}, seller), 403, "ROLE_MISSING")
        told = problem(await rest.ask("GET", "/v1/dead_letters/moon", who=ann), 400, "VALIDATION_FAILED")
        assert [("/room", "ROOM_UNKNOWN")] == [(one["pointer"], one["code"]) for one in told["errors"]]

        await rest.market.sql(
            "inventory",
            """INSERT INTO dead_letter (merchant_id, dead_letter_id, kind, subject, aggregate, rid, attempt,
                 fingerprint, reason, attempts)
               SELECT $1::uuid, $2::uuid, 'SELL', $3::text, $3::text, $2::uuid, 1, sha256(''), 'X', 1""",
            seller.merchant.merchant_id,
            (letter_id := fresh_key()),
            (hold := fresh_key()),
        )
        path = f"/v1/dead_letters/inventory/{letter_id}"
        read = (await rest.ask("GET", path, who=ann)).json()
        assert ("SELL", "OPEN", [f"sell hold {hold}"]) == (read["kind"], read["state"], read["plan"]["steps"])
        problem(await rest.ask("POST", f"{path}:replay", {}, ann, None), 400, "IDEMPOTENCY_KEY_REQUIRED")
        dry = await rest.ask("POST", f"{path}:replay", {"validate_only": True}, ann)
        assert (200, "OPEN") == (dry.status_code, dry.json()["state"]), dry.text
        proposed = await rest.ask("POST", f"{path}:discard", {"reason": "written off"}, ann)
        assert (200, "written off") == (proposed.status_code, proposed.json()["discard_reason"]), proposed.text
        approval = {"etag": proposed.json()["etag"]}
        alone = await rest.ask("POST", f"{path}:approve_discard", approval, ann)
        problem(alone, 409, "SECOND_APPROVER_NEEDED")
        approved = await rest.ask("POST", f"{path}:approve_discard", approval, bob)
        assert (200, "DISCARDED") == (approved.status_code, approved.json()["state"]), approved.text

    async def test_what_is_not_settled_is_told_to_operators(self, rest: Rest, seller: Trader, buyer: Trader) -> None:
        """GET /v1/sagas: an accepted invoice whose event nobody has published yet."""
        made = await rest.ask("POST", "/v1/invoices", order(rest, buyer), seller)
        invoice_id = made.json()["invoice_id"]
        accepted = await rest.ask("POST", f"/v1/invoices/{invoice_id}:accept", {}, buyer)
        assert accepted.status_code == 200, accepted.text
        problem(await rest.ask("GET", "/v1/sagas", who=seller), 403, "ROLE_MISSING")
        told = await rest.ask("GET", "/v1/sagas", who=rest.market.operator(), waits_for="PUBLICATION")
        (saga,) = told.json()["sagas"]
        assert (invoice_id, "PUBLICATION") == (saga["invoice_id"], saga["waits_for"]), told.text
        problem(
            await rest.ask("GET", "/v1/sagas", who=rest.market.operator(), waits_for="RAIN"), 400, "MALFORMED_REQUEST"
        )
