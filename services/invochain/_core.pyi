"""The Rust core as Python sees it. Ids and hashes are `bytes` of 16 and 32."""

from collections.abc import Iterable, Sequence
from typing import Any

FINGERPRINT_VERSION: int

# ---- identity (core-rs/core/src/identity.rs; PROTOCOL section 2)
def request_id(merchant_id: bytes, operation: str, key: str) -> bytes: ...
def invoice_id(rid: bytes) -> bytes: ...
def reservation_id(rid: bytes, attempt: int) -> bytes: ...
def movement_id(cause: bytes, sku: str, kind: str) -> bytes: ...
def event_id(aggregate_id: bytes, version: int, kind: str) -> bytes: ...
def partition(id: bytes, count: int) -> int: ...

# Ids and hash partitions (`partition(aggregate_id, partitions)`) of a batch of events, in their order.
# Raises ValueError for columns of different lengths and for an id that has not 16 bytes.
def event_columns(
    aggregate_ids: list[bytes], versions: list[int], kinds: list[str], partitions: int
) -> tuple[list[bytes], list[int]]: ...

# ---- records of the broker
# The headers of each record as a JSON array of [name, value], in their order. Raises TypeError for what is no text,
# UnicodeEncodeError for text that is not UTF-8.
def header_texts(records: list[tuple[tuple[str, str], ...]]) -> list[str]: ...

# ---- outcomes in the cache (core-rs/core/src/outcome.rs; PROTOCOL section 7)
# (name, fingerprint, `+` or `-`, answer or refusal) of each; what is to lie in the cache under that name.
def seal_outcomes(mac_key: bytes, outcomes: list[tuple[bytes, bytes, bytes, bytes]]) -> list[bytes]: ...

# (fingerprint, state, payload) of what was sealed under this name; None: it was not, or not with this key.
def open_outcome(mac_key: bytes, name: bytes, sealed: bytes) -> tuple[bytes, bytes, bytes] | None: ...

# ---- invoices (core-rs/core/src/{request,answer,audit}.rs; PROTOCOL sections 2, 3, 11)
class Directory:
    """What is known of parties (the local copy of the merchant directory), and since when (monotonic milliseconds)."""

    def __init__(self) -> None: ...
    def learn(
        self,
        merchant_id: bytes,
        gstin: str,
        state: str,
        taxpayer_type: int,
        annual_turnover_paise: int,
        review: bool,
        party: bytes,
        at_ms: int,
    ) -> None: ...
    def learn_unknown(self, gstin: str, at_ms: int) -> None: ...
    def __len__(self) -> int: ...

Violations = list[tuple[str, str, str]]
"""(proto path, reason code, words) each."""

class Drafts:
    """The drafts of a batch. Methods take positions and give one entry for each, as columns for the database."""

    def __len__(self) -> int: ...
    @property
    def live(self) -> list[int]: ...
    @property
    def malformed(self) -> list[tuple[int, str]]: ...
    @property
    def violations(self) -> list[tuple[int, Violations]]: ...
    @property
    def sellers_not_looked_up(self) -> list[tuple[int, bytes]]: ...
    @property
    def buyers_not_looked_up(self) -> list[tuple[int, str]]: ...
    def merchant_ids(self, at: list[int]) -> list[bytes]: ...
    def rids(self, at: list[int]) -> list[bytes]: ...
    def invoice_ids(self, at: list[int]) -> list[bytes]: ...
    def fingerprints(self, at: list[int]) -> list[bytes]: ...
    def takes_stock(self, at: list[int]) -> list[bool]: ...
    def given_days(self, at: list[int]) -> list[int]:
        """Days since 1970 of dates the client gave; -1 where the server put in its own day."""
    def days(self, at: list[int]) -> list[int]: ...
    def seller_gstins(self, at: list[int]) -> list[str]: ...
    def buyer_gstins(self, at: list[int]) -> list[str]: ...
    def buyer_merchant_ids(self, at: list[int]) -> list[bytes | None]: ...
    def numbers(self, at: list[int]) -> list[str]:
        """Empty where the server gives the number."""
    def financial_years(self, at: list[int]) -> list[str]: ...
    def series_prefixes(self, at: list[int]) -> list[str]: ...
    def invoice_columns(self, at: list[int]) -> tuple[list[str], list[bool], list[list[int]]]:
        """supply_type; inter_state; taxable, igst, cgst, sgst, cess, state_cess, discount, other_charges, round_off,
        total (paise)."""
    def item_columns(
        self, at: list[int]
    ) -> tuple[
        list[int], list[int], list[str | None], list[str], list[str], list[bool], list[int | None], list[list[int]]
    ]:
        """Index into `at`, line, sku, hsn, unit, is_service, quantity_milli; unit_price_milli, gst_rate_milli, gross,
        discount, taxable, igst, cgst, sgst, cess, state_cess, total (paise)."""
    def reserve_request(self, at: list[int], attempts: list[int]) -> bytes:
        """An encoded BatchReserveStockRequest, one request a position."""
    def previews(self, at: list[int]) -> list[bytes]: ...
    def waived(self, at: list[int]) -> list[Violations]: ...
    def finish(
        self,
        at: list[int],
        numbers: list[str],
        buyer_merchant_ids: list[bytes | None],
        attempts: list[int],
        actor_ids: list[bytes],
        salts: list[bytes],
        time_micros: int,
        audit_key: bytes,
    ) -> tuple[list[bytes], list[bytes], list[bytes], list[bytes]]:
        """Documents, events, audit hashes, audit MACs."""

def check_invoices(
    raws: list[bytes],
    merchant_ids: list[bytes],
    keys: list[str],
    today: tuple[int, int, int],
    directory: Directory,
    fresh_since_ms: int,
) -> Drafts:
    """Reads, checks, sums, names and hashes the CreateInvoiceRequests of a batch in one crossing."""

def validate_document(raw: bytes, mode: str, today: tuple[int, int, int] | None) -> tuple[bytes | None, Violations]:
    """Checks a document made elsewhere (an encoded Invoice): the document with its figures, or its violations. `mode`:
    compute, strict or nic. ValueError if the bytes are no Invoice."""

def explain_document(raw: bytes) -> tuple[str | None, Violations]:
    """Explains an issued or previewed invoice (an encoded Invoice): JSON text, or None and its violations."""

def split_batch(raw: bytes) -> tuple[list[tuple[bytes, str]], bool]:
    """Cuts a BatchCreateInvoicesRequest into (CreateInvoiceRequest, key) items; ValueError if it is none."""

def split_import(raw: bytes) -> list[tuple[bytes, str, int]]:
    """Cuts an ImportInvoicesRequest into (CreateInvoiceRequest, key, offset) items; ValueError if it is none."""

def join_results(results: list[tuple[bytes, bool, bool, int]], durable_offset: int) -> bytes:
    """An encoded BatchCreateInvoicesResponse (offsets 0) or ImportInvoicesResponse, from (Invoice or google.rpc.Status,
    is it an invoice, replayed, offset) results."""

def join_page(invoices: list[bytes], next_page_token: str) -> bytes:
    """An encoded ListInvoicesResponse, from encoded invoices."""

def reserve_results(raw: bytes) -> list[tuple[int, bytes]]:
    """Reads a BatchReserveStockResponse: (state, google.rpc.Status or empty) a result."""

def present_invoice(
    document: bytes,
    state: int,
    version: int,
    update_micros: int,
    reason: str,
    buyer_merchant_id: bytes | None,
    actions: list[str],
    with_lines: bool,
) -> bytes:
    """An invoice as the caller sees it now, encoded."""

def present_issued(document: bytes, actions: list[str]) -> bytes:
    """A document as issued, with what its seller may do first."""

def change_invoice(
    merchant_id: bytes,
    invoice_id: bytes,
    document: bytes,
    buyer_merchant_id: bytes | None,
    state: int,
    version: int,
    action: str,
    reason: str,
    hold: tuple[bytes, int, bytes] | None,
    previous: bytes,
    actor: tuple[bytes, bytes],
    time_micros: int,
    salt: bytes,
    audit_key: bytes,
) -> tuple[bytes, bytes, bytes, bytes]:
    """Completes one change of state: audit payload, event, audit hash, audit MAC. `hold`: (rid, attempt, fingerprint)."""

AuditRow = tuple[int, str, bytes, bytes, int, bytes, bytes, bytes, bytes, bytes]
"""version, action, actor_id, actor_merchant_id, time_micros, salt, payload, previous, hash, mac."""

def verify_audit(
    merchant_id: bytes, invoice_id: bytes, rows: list[AuditRow], audit_key: bytes
) -> tuple[int, str] | None:
    """Recomputes an invoice's audit chain, oldest first; None if it verifies, else (position, what is wrong)."""

# ---- party (core-rs/core/src/gst/gstin.rs and tables/states.rs; RULES G1 to G5, G8)
def check_gstin(text: str) -> tuple[str, str, str]:
    """Kind (REGULAR, GOVT, ... or URP), state of two digits, code of the first fault; what does not apply is empty."""

def gstin_check_char(first14: str) -> str | None:
    """The fifteenth character for the first fourteen; None if they are not 14 of 0-9 and A-Z."""

def state_liveness(code: str, year: int, month: int, day: int) -> str:
    """LIVE, WITHDRAWN, NOT_YET or NO_PLACE: how a state code stands on a day. Raises ValueError for no day."""

# ---- gst (core-rs/core/src/gst/; RULES). Documents and answers are JSON text; amounts in them are decimal texts.
def gst_check(document: str, mode: str | None = None, today: str | None = None) -> str:
    """Judges one document, neutral JSON or INV-01: `{form, ok, errors: [{code, path, found, wanted, law}], computed}`.

    `mode`: compute, strict or nic; None: nic for INV-01, else strict. `today` (YYYY-MM-DD) is India's; None: no document
    is in the future. Raises ValueError for what is no JSON, no document, no mode or no date.
    """

def gst_check_batch(documents: list[str], mode: str, today: str | None = None) -> list[str]:
    """The answers of `gst_check` in one crossing, without the GIL."""

def gst_explain(document: str, mode: str | None = None, today: str | None = None) -> str:
    """As `gst_check`, with `explanation` for `computed`: per figure its rule, per line its rate row, and the dates."""

def gst_vector(vector: str) -> str:
    """Answers one vector of `invochain-gst-vectors/1`: `{ok, errors, computed}`. Raises ValueError for an unknown kind."""

GST_KINDS: list[str]  # every kind of question `gst_answer` and `gst_vector` know

def gst_answer(kind: str, input: str, mode: str = "strict", today: str | None = None) -> str:
    """Answers one question of a kind as `gst_vector` does. Raises ValueError if the input is no object of that kind."""

def gst_gstin(text: str) -> str:
    """`{ok, errors, computed: {kind, state, pan, pan_holder}}` of one GSTIN."""

def gst_irn(
    seller_gstin: str, date: str, doc_type: str, number: str, generated_on: str | None = None
) -> tuple[str, str]:
    """Preimage and IRN (64 hex digits). ValueError for a date that is none; no other part is checked."""

def gst_rules() -> list[tuple[str, str, int, bool, bool, str]]:
    """(code, rule, phase, waivable under REVIEW, found while reading, law) of every rule, in order of precedence."""

def gst_reason(code: str) -> tuple[str, str, str] | None:
    """(rule, NIC codes, meaning) of a reason code."""

def gst_rates(on: str | None = None) -> list[tuple[str, str, str, str, str, str]]:
    """(rate in percent, first day, last day or empty, kind, HSN prefixes, note) of the rows in force on a day, or all."""

def gst_replace_table(name: str, text: str) -> str:
    """Puts a dated table (first line `# as of YYYY-MM-DD`) in force in this process; the date of the tables then.

    `name`: rate_slabs, state_codes, uqc_codes, special_goods, reason_codes. ValueError names the first bad line; nothing
    is replaced then.
    """

def gst_builtin_tables() -> None:
    """Puts the tables built into the core back in force."""

# ---- stock (core-rs/core/src/stock.rs; PROTOCOL 4.2 and 9)

# Holds that one call may ask for, confirm or release.
HOLDS_MAX: int

class Holds:
    """The holds that a batch of BatchReserveStockRequests asks for. A hold is named by its place over all calls, a stock
    row by its place in the sorted table of keys, which is the order of locks."""

    def __init__(self, calls: list[bytes]) -> None: ...
    def __len__(self) -> int: ...
    # Where the holds of each call begin, and the end of the last.
    starts: list[int]
    # (call, why) of calls whose bytes are no request; they have no holds.
    malformed: list[tuple[int, str]]
    # (hold, [(field, code, found)]) of holds that are refused before anything is touched.
    def faults(self) -> list[tuple[int, list[tuple[str, str, str]]]]: ...
    # (later, earlier, same body) of holds that name an id for the second time.
    def repeats(self) -> list[tuple[int, int, bool]]: ...
    def id_texts(self) -> list[str]: ...
    def resolvers(self) -> list[str]: ...
    def fingerprints(self) -> list[bytes]: ...
    # merchant_id, reservation_id, resolver
    def names(self, chosen: list[int]) -> tuple[list[bytes], list[bytes], list[str]]: ...
    def keys_of(self, chosen: list[int]) -> list[int]: ...
    # merchant_id, sku
    def key_columns(self, keys: list[int]) -> tuple[list[bytes], list[str]]: ...
    # -> granted; (hold, busy key); (hold, reason, sku, asked_milli, free_milli, unit asked, unit kept)
    # Keys that are neither locked nor absent are busy.
    def grant(
        self, chosen: list[int], keys: list[int], units: list[str], free_milli: list[int], absent: list[int]
    ) -> tuple[list[int], list[tuple[int, int]], list[tuple[int, str, str, int, int, str, str]]]: ...
    # One hold as a call of its own.
    def alone(self, index: int) -> bytes: ...
    # merchant_id, sku, quantity_milli: what the holds take together, in the order of locks.
    def sums(self, chosen: list[int]) -> tuple[list[bytes], list[str], list[int]]: ...
    # merchant_id, reservation_id, resolver, rid, attempt, fingerprint, skus, quantities_milli (array texts), ttl_s
    def rows(
        self, chosen: list[int]
    ) -> tuple[
        list[bytes], list[bytes], list[str], list[bytes], list[int], list[bytes], list[str], list[str], list[int]
    ]: ...
    # The encoded BatchReserveStockResponse to one call, all of whose holds were made.
    def all_pending(self, call: int) -> bytes: ...

# The holds that a service's ConfirmReservationsRequest names.
class Refs:
    # None: a rule is broken, or a hold is named twice; the call is to be read by whoever says what is wrong.
    @staticmethod
    def read(raw: bytes) -> Refs | None: ...
    def __len__(self) -> int: ...
    def id_texts(self) -> list[str]: ...
    # (merchant_id, reservation_id, fingerprint)
    def rows(self) -> list[tuple[bytes, bytes, bytes]]: ...
    # The encoded SettleReservationsResponse: all are HELD.
    def all_held(self) -> bytes: ...

# merchant_id, reservation_id, fingerprint of all of them.
def confirm_columns(calls: list[Refs]) -> tuple[list[bytes], list[bytes], list[bytes]]: ...

# An encoded ConfirmReservationsRequest, or ReleaseReservationsRequest, of the invoice service: (merchant_id, rid,
# attempt, fingerprint) of each hold. Raises ValueError for an attempt below 1.
def settle_request(holds: list[tuple[bytes, bytes, int, bytes]]) -> bytes: ...

# Upper case, or None for what is no SKU.
def normal_sku(text: str) -> str | None: ...

# Whether a unit quantity code is in the table in force (RULES G32).
def known_unit(code: str) -> bool: ...

# ---- arrays of PostgreSQL
class ArrayCodec:
    """Parameters and results of one array type in PostgreSQL's binary form. `element`: bool, int2, int4, int8, text,
    bytea or uuid (16 bytes). One dimension; None is NULL. Raises ValueError, TypeError, OverflowError for other elements.
    """

    def __init__(self, element: str) -> None: ...
    def encode(self, values: Iterable[Any]) -> bytes: ...
    def decode(self, raw: bytes) -> list[Any]: ...

class Transport:
    """A gRPC server over HTTP/2 (tonic, hyper, rustls) on a thread of its own that never takes the interpreter's lock.

    `methods`: (path, "unary" | "collects" | "stream", may anybody call it, bytes of a message at most); a call names its
    method by the position. `read`: the text metadata that calls bring along; `shown_by`: those that show who is calling.
    `limits`: response_bytes_max, metadata_bytes_max, streams_max, request_within_s, connection_age_s,
    connection_grace_s. `tls`: certificates, key and client authorities, all PEM.
    Raises OSError (cannot listen, TLS files do not read), ValueError (arguments).
    """

    def __init__(
        self,
        address: str,
        methods: list[tuple[str, str, bool, int]],
        read: Sequence[str],
        shown_by: Sequence[str],
        limits: dict[str, float],
        *,
        reuse_port: bool,
        tls: tuple[bytes, bytes, bytes | None] | None = None,
    ) -> None: ...
    @property
    def port(self) -> int: ...
    def fileno(self) -> int:
        """Readable when `take` would give something."""
    def take(self) -> list[tuple[Any, ...]]:
        """All that has happened, in order:

        (0, id, method, metadata, peer, remaining_us or None, body)  a call; of a stream, its beginning
        (1, id, body)  a stream's message        (2, id)  its last has come       (3, id)  it has room again
        (4, id)  a collected call's time is over (5, id)  the caller has gone     (6, 0)   drained
        (7, id, method, metadata, peer, remaining_us or None, b"")  may it send its request? `admit` or `refuse`
        """
    def answer(self, answers: Sequence[tuple[int, Sequence[tuple[str, str]], bytes]]) -> None:
        """Answers requests: id, initial metadata, message. Callers that have gone are passed over."""
    def refuse(self, id: int, code: int, message: str, details: bytes, trailing: Sequence[tuple[str, str]]) -> None:
        """Ends a call with a status; `details` is a google.rpc.Status."""
    def admit(self, id: int) -> None:
        """The request that was announced by (7) is read, and comes as a call of its own."""
    def open_stream(self, id: int, initial: Sequence[tuple[str, str]]) -> None: ...
    def send(self, id: int, message: bytes) -> bool:
        """Sends a stream's message; False: no other before it has room (3) or is gone (5)."""
    def consumed(self, id: int, size: int) -> None:
        """A message of so many bytes is used up; others may come."""
    def end_stream(self, id: int) -> None:
        """Ends a stream with OK."""
    def drain(self, within_s: float) -> None:
        """Closes the port; connections finish what is under way and are cut after that time. Then (6, 0)."""
    def close(self) -> None:
        """Ends everything; returns when the thread has ended."""
