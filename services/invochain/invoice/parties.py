"""The local copy of the merchant directory: what the hot path needs of sellers and buyers.

Kept by `merchant.changed` events (on_merchant_events.py). What is missing is asked for once at the merchant service, so
the first invoice after a registration works. The core holds what was read, for a few seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from contextlib import suppress

import asyncpg

from invochain import core
from invochain.api.invoice.v1 import invoice_service_pb2 as api
from invochain.api.merchant.v1 import merchant_service_pb2 as merchants
from invochain.api.merchant.v1.merchant_service_pb2_grpc import MerchantServiceStub
from invochain.chassis import clock
from invochain.chassis.breaker import OPEN_S, Breaker
from invochain.chassis.channel import Channel
from invochain.chassis.ids import Id, from_text, to_text
from invochain.chassis.postgres import PASSING, Postgres, Sql, Tx
from invochain.chassis.target import Target
from invochain.errors import BulkheadFull, DependencyDown

# A changed policy or turnover is in force after this at the latest.
FRESH_MS = 5_000
# A GSTIN that is not registered here is asked for at the merchant service this often; its event comes by itself.
ASK_AGAIN_S = 60.0
ASKED_MAX = 100_000
LOOKUP_TIMEOUT_S = 1.0


class Parties:
    """Looks parties up, and remembers."""

    def __init__(self, postgres: Postgres, merchant_service: Channel, breaker_open_s: float = OPEN_S) -> None:
        self.directory = core.Directory()
        self._postgres, self._channel = postgres, merchant_service
        self._stub = MerchantServiceStub(merchant_service.channel)
        breaker = Breaker("merchant", what=merchant_service.what, open_s=breaker_open_s)
        self._target = Target(breaker, retries=False)
        self._asked: OrderedDict[str, float] = OrderedDict()

    def fresh_since_ms(self) -> int:
        return _now_ms() - FRESH_MS

    async def look_up(self, merchant_ids: Collection[Id], gstins: Collection[str]) -> None:
        """Learns the parties; a GSTIN that nobody knows is learned as unknown.

        A seller who cannot be asked for now stays unlearned: his requests are refused, and nobody else's.
        """
        async with self._postgres.reading() as tx:
            rows = await tx.fetch(READ, list(merchant_ids), list(gstins))
        for row in rows:
            self._learn(row)
        found_ids = {bytes(row["merchant_id"]) for row in rows}
        found_gstins = {row["gstin"] for row in rows}
        missing_ids = [id_ for id_ in merchant_ids if id_ not in found_ids]
        missing_gstins = [gstin for gstin in gstins if gstin not in found_gstins]
        to_ask = [gstin for gstin in missing_gstins if self._may_ask(gstin)]
        if missing_ids or to_ask:
            # A buyer who cannot be asked for is linked when his event comes.
            with suppress(DependencyDown, BulkheadFull, *PASSING):
                found_gstins |= await self._fetch(missing_ids, to_ask)
        for gstin in missing_gstins:
            if gstin not in found_gstins:
                self.directory.learn_unknown(gstin, _now_ms())

    def _may_ask(self, gstin: str) -> bool:
        now = clock.monotonic()
        if now - self._asked.get(gstin, -ASK_AGAIN_S) < ASK_AGAIN_S:
            return False
        self._asked[gstin] = now
        if len(self._asked) > ASKED_MAX:
            self._asked.popitem(last=False)
        return True

    async def _fetch(self, merchant_ids: list[Id], gstins: list[str]) -> set[str]:
        request = merchants.LookupMerchantsRequest(merchant_ids=[to_text(id_) for id_ in merchant_ids], gstins=gstins)

        async def send(timeout_s: float) -> merchants.LookupMerchantsResponse:
            found: merchants.LookupMerchantsResponse = await self._channel.call(
                self._stub.LookupMerchants, request, timeout_s=timeout_s
            )
            return found

        response = await self._target.ask(
            send,
            timeout_s=LOOKUP_TIMEOUT_S,
            time_left_s=LOOKUP_TIMEOUT_S,
            items=len(merchant_ids) + len(gstins),
        )
        if response.merchants:
            async with self._postgres.transaction() as tx:
                rows = await keep(tx, response.merchants)
            for row in rows:
                self._learn(row)
        return {merchant.gstin for merchant in response.merchants}

    def _learn(self, row) -> None:  # type: ignore[no-untyped-def]
        self.directory.learn(
            row["merchant_id"],
            row["gstin"],
            row["state"],
            row["taxpayer_type"],
            row["annual_turnover_paise"],
            row["review"],
            row["party"],
            _now_ms(),
        )


def _now_ms() -> int:
    return int(clock.monotonic() * 1_000)


async def keep(tx: Tx, changed: Iterable[merchants.Merchant]) -> list[asyncpg.Record]:
    """Writes merchants into the copy, unless a newer version is there; returns the rows as they stand now.

    There is none for a merchant whose GSTIN another one has, which is impossible by design.
    The event of a merchant and a look-up may write it at the same moment: the later one waits for the other, and adds
    what is newer.
    """
    newest = {merchant.merchant_id: merchant for merchant in sorted(changed, key=lambda m: m.version)}
    rows = sorted(newest.values(), key=lambda m: m.merchant_id)
    ids = [from_text(merchant.merchant_id, "merchant_id") for merchant in rows]
    columns = (
        ids,
        [merchant.gstin for merchant in rows],
        [merchant.state for merchant in rows],
        [merchant.taxpayer_type for merchant in rows],
        [merchant.annual_turnover_paise for merchant in rows],
        [merchant.compliance_policy == merchants.REVIEW for merchant in rows],
        [printed(merchant) for merchant in rows],
        [merchant.version for merchant in rows],
    )
    if await tx.count(KEEP_NEW, *columns) < len(rows):
        await tx.execute(KEEP_NEWER, *columns)
    return await tx.fetch(READ, ids, [])


def printed(merchant: merchants.Merchant) -> bytes:
    """The party as it stands on its documents, encoded."""
    party = api.Party(
        gstin=merchant.gstin,
        state=merchant.state,
        # PartyType and TaxpayerType have the same numbers.
        taxpayer_type=int(merchant.taxpayer_type),  # type: ignore[arg-type]
        legal_name=merchant.legal_name,
        trade_name=merchant.trade_name,
        phone=merchant.phone,
        email=merchant.email,
    )
    if merchant.HasField("address"):
        address = merchant.address
        party.address.line1, party.address.line2 = address.line1, address.line2
        party.address.location, party.address.pin_code = address.location, address.pin_code
    return party.SerializeToString(deterministic=True)


READ = Sql(
    "party_read",
    """
SELECT merchant_id, gstin, state, taxpayer_type, annual_turnover_paise, review, party
FROM party
WHERE merchant_id = ANY ($1::uuid[]) OR gstin = ANY ($2::text[])
""",
)

_GIVEN = """unnest(
    $1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::bigint[], $6::boolean[], $7::bytea[], $8::bigint[]
)"""

# No index is named: the rival's row may be met first in either of the two, its id's or its GSTIN's.
KEEP_NEW = Sql(
    "party_keep_new",
    f"""
INSERT INTO party (merchant_id, gstin, state, taxpayer_type, annual_turnover_paise, review, party, version)
SELECT * FROM {_GIVEN}
ON CONFLICT DO NOTHING
""",
)

KEEP_NEWER = Sql(
    "party_keep_newer",
    f"""
WITH newer AS MATERIALIZED (
    SELECT given.*
    FROM {_GIVEN} AS given (
        merchant_id, gstin, state, taxpayer_type, annual_turnover_paise, review, party, version
    )
    JOIN party ON party.merchant_id = given.merchant_id
    WHERE party.version < given.version
    ORDER BY party.merchant_id
    FOR NO KEY UPDATE OF party
)
UPDATE party
SET gstin = newer.gstin, state = newer.state, taxpayer_type = newer.taxpayer_type,
    annual_turnover_paise = newer.annual_turnover_paise, review = newer.review, party = newer.party,
    version = newer.version
FROM newer
WHERE party.merchant_id = newer.merchant_id AND party.version < newer.version
""",
)
