"""Slows down whoever guesses passwords: per account and per network address, in the database, for all replicas alike.

A try is counted before the password is looked at, so that a thousand at once are a thousand tries, and taken back when
it ends in a sign-in. Some failures are free; each one after that doubles the wait, up to a minute for an account (its
owner must not be locked out by a stranger) and a quarter of an hour for an address. A quiet hour forgets. Fails closed:
without the database nobody signs in.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from invochain.chassis import telemetry
from invochain.chassis.postgres import Postgres, Sql, Tx
from invochain.errors import Code, Refusal, Retry
from invochain.merchant.settings import MerchantSettings

ACCOUNT_WAIT_S_MAX, ADDRESS_WAIT_S_MAX = 60, 15 * 60
# Callers that did not come through the gateway have no address here and share one count.
DIRECT = "direct"


@dataclass(eq=False)
class TooManyTries(Refusal):
    """Too many sign-ins of this account, or from this address, have failed; nothing was tried."""

    code, reason, retry = Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", Retry.AFTER_CORRECTION
    message = "too many failed sign-ins of this {scope}; try again in {wait_s} s"
    scope: str
    wait_s: int

    def to_status(self) -> status_pb2.Status:
        """With the wait itself as RetryInfo: it is longer than a retry's usual second."""
        status = super().to_status()
        delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=self.wait_s))
        packed = any_pb2.Any()
        packed.Pack(delay)
        status.details.append(packed)
        return status


@dataclass(frozen=True)
class Try:
    """One sign-in, as it is counted."""

    account: bytes
    address: bytes


class SlowDown:
    """Counts tries."""

    def __init__(self, config: MerchantSettings) -> None:
        self._free = [config.sign_in_free_per_account, config.sign_in_free_per_address]
        self._waits_max = [ACCOUNT_WAIT_S_MAX, ADDRESS_WAIT_S_MAX]

    async def take(self, postgres: Postgres, email: str, address: str) -> Try:
        """Counts one try. Refuses: TooManyTries, and then counts nothing."""
        this = Try(_subject(email), _subject(address or DIRECT))
        async with postgres.transaction() as tx:
            subjects = [this.account, this.address]
            counted = await tx.fetch(COUNT, ["account", "address"], subjects, self._free, self._waits_max)
            if len(counted) == 2:
                return this
            # Raised inside the transaction: what was counted of the other scope is rolled back.
            blocked = await tx.fetchrow(BLOCKED, this.account, this.address)
            scope, wait_s = (blocked["scope"], blocked["wait_s"]) if blocked else ("account", 1)
            telemetry.RATE_LIMITED.labels(scope=f"sign_in_{scope}").inc()
            raise TooManyTries(scope, max(1, math.ceil(wait_s)))

    async def succeeded(self, tx: Tx, this: Try) -> None:
        """The try ended in a sign-in: the account starts anew, the address is charged one less."""
        await tx.execute(FORGET_ACCOUNT, this.account)
        await tx.execute(UNCOUNT, "address", this.address, self._free[1])

    async def take_back(self, tx: Tx, this: Try) -> None:
        """The try did not happen: its password was never looked at. Rows are locked in the order `take` locks them."""
        await tx.execute(UNCOUNT, "account", this.account, self._free[0])
        await tx.execute(UNCOUNT, "address", this.address, self._free[1])


def _subject(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


# clock_timestamp(), not now(): who waited here for a rival's row must be judged by the time after the wait.
COUNT = Sql(
    "sign_in_count",
    """
INSERT INTO sign_in_attempt AS known (scope, subject, failures, last_time, blocked_until)
SELECT scope, subject, 1, clock_timestamp(), '-infinity'
FROM unnest($1::text[], $2::bytea[]) AS tried (scope, subject)
ORDER BY scope
ON CONFLICT (scope, subject) DO UPDATE
SET failures = CASE
        WHEN known.last_time < clock_timestamp() - interval '1 hour' THEN 1
        ELSE known.failures + 1
    END,
    last_time = clock_timestamp(),
    blocked_until = (
        SELECT CASE
            WHEN known.last_time < clock_timestamp() - interval '1 hour' OR known.failures < free THEN '-infinity'
            ELSE clock_timestamp() + make_interval(secs => least(power(2, least(known.failures - free, 20)), wait_max))
        END
        FROM unnest($1::text[], $3::integer[], $4::integer[]) AS bounds (scope, free, wait_max)
        WHERE bounds.scope = known.scope
    )
WHERE known.blocked_until <= clock_timestamp()
RETURNING scope
""",
)

BLOCKED = Sql(
    "sign_in_blocked",
    """
SELECT scope, extract(epoch FROM blocked_until - clock_timestamp())::float8 AS wait_s
FROM sign_in_attempt
WHERE ((scope = 'account' AND subject = $1) OR (scope = 'address' AND subject = $2))
  AND blocked_until > clock_timestamp()
ORDER BY blocked_until DESC
LIMIT 1
""",
)

FORGET_ACCOUNT = Sql("sign_in_forget_account", "DELETE FROM sign_in_attempt WHERE scope = 'account' AND subject = $1")

UNCOUNT = Sql(
    "sign_in_uncount",
    """
UPDATE sign_in_attempt
SET failures = greatest(failures - 1, 0),
    blocked_until = CASE WHEN failures - 1 <= $3 THEN '-infinity' ELSE blocked_until END
WHERE scope = $1 AND subject = $2
""",
)
