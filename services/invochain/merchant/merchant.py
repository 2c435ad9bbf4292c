"""The nouns: a merchant, its users, what the law and the contract want of them, and how they lie in the database."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from google.protobuf.timestamp_pb2 import Timestamp

from invochain import core
from invochain.api.merchant.v1.merchant_service_pb2 import (
    Address,
    CompliancePolicy,
    Merchant,
    NewUser,
    Role,
    TaxpayerType,
    User,
)
from invochain.chassis import clock
from invochain.chassis.ids import to_text
from invochain.errors import Code, FieldViolation, Refusal, Retry
from invochain.merchant.passwords import CHARS_MAX, CHARS_MIN, composed

OPERATOR = "OPERATOR"
# Paise. 10^17 is a hundred thousand times the turnover of India's largest company: beyond it is a slip of the unit.
TURNOVER_PAISE_MAX = 10**17

# Who may be a seller (RULES G6).
_SELLERS = ("REGULAR", "GOVT")
_PIN_CODE = re.compile(r"[1-9][0-9]{5}", re.ASCII)
_PHONE = re.compile(r"[0-9]{6,12}", re.ASCII)
# The addresses that browsers take (HTML, valid e-mail address), with a domain of at least two parts.
_EMAIL = re.compile(
    r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+",
    re.ASCII | re.IGNORECASE,
)
# Embeddings, overrides and isolates of the writing direction: in a name they only deceive.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(eq=False)
class MerchantNotFound(Refusal):
    """There is no such merchant, or it is not the caller's."""

    code, reason, retry = Code.NOT_FOUND, "MERCHANT_NOT_FOUND", Retry.AFTER_CORRECTION
    message = "no such merchant"


@dataclass(eq=False)
class EmailAlreadyRegistered(Refusal):
    """The e-mail signs in somebody else on this platform."""

    code, reason, retry = Code.ALREADY_EXISTS, "EMAIL_ALREADY_REGISTERED", Retry.WITH_NEW_KEY
    message = "this e-mail is registered already; sign in, or use another one with a new key"


# ---------------------------------------------------------------- what is wanted


class Findings(list[FieldViolation]):
    """Collects every broken rule of a request."""

    def at(self, path: str, code: str, found: object, wanted: str) -> None:
        """Adds one: what was found (shortened), what is wanted."""
        what = "nothing" if found in ("", None) else f"{str(found)[:60]!r}"
        self.append(FieldViolation(path, code, f"found {what}; {wanted} wanted"))

    def text(self, path: str, text: str, least: int, most: int, *, optional: bool = False) -> None:
        """A text of so many characters, without control characters and white space at its ends."""
        if not text:
            if not optional:
                self.at(path, "FIELD_REQUIRED", "", f"{least} to {most} characters are")
        elif not least <= len(text) <= most:
            self.append(
                FieldViolation(path, "TEXT_LENGTH_INVALID", f"{len(text)} characters; {least} to {most} are wanted")
            )
        elif text != text.strip() or any(unicodedata.category(c) == "Cc" or c in _DIRECTIONS for c in text):
            self.at(path, "TEXT_INVALID", text, "no control characters and no white space at the ends are")

    def email(self, path: str, email: str, most: int, *, optional: bool = False) -> None:
        self.text(path, email, 6, most, optional=optional)
        if 6 <= len(email) <= most and not _EMAIL.fullmatch(email):
            self.at(path, "EMAIL_INVALID", email, "an address such as name@example.in is")


def check_merchant(merchant: Merchant, today: dt.date, found: Findings) -> None:
    """Everything that is wrong with a merchant as written. Source: RULES G1 to G8, INV-01 (party details)."""
    check_gstin(merchant.gstin, merchant.state, today, found)
    check_changeable(merchant, found)


def check_gstin(gstin: str, state: str, today: dt.date, found: Findings) -> None:
    """The registration number and state of a seller (RULES G1 to G8); the state may be left out."""
    path = "merchant.gstin"
    kind, prefix, fault = core.check_gstin(gstin)
    if fault == "GSTIN_CHECKSUM_INVALID":
        right = core.gstin_check_char(gstin[:14])
        found.at(path, fault, gstin, f"the check character {right}, or other digits before it, is")
    elif fault:
        found.at(path, fault, gstin, "a GSTIN of 15 capitals and digits is")
    elif kind == "URP":
        found.at(path, "GSTIN_URP_NOT_ALLOWED", gstin, "a registration is")
    elif kind not in _SELLERS:
        found.at(path, "GSTIN_KIND_NOT_ALLOWED", f"{gstin} ({kind})", "a REGULAR or GOVT registration is")
    else:
        if state and state != prefix:
            found.at("merchant.state", "STATE_GSTIN_MISMATCH", state, f"{prefix}, as the GSTIN begins, is")
        # A state that lives; 99 and other codes that are no place are left to the GSTIN (RULES G8).
        elif core.state_liveness(prefix, today.year, today.month, today.day) in ("WITHDRAWN", "NOT_YET"):
            at = "merchant.state" if state else path
            found.at(at, "STATE_CODE_WITHDRAWN", prefix, f"a state as of {today} is")


def check_changeable(merchant: Merchant, found: Findings) -> None:
    """The fields an owner may change later."""
    found.text("merchant.legal_name", merchant.legal_name, 3, 100)
    found.text("merchant.trade_name", merchant.trade_name, 3, 100, optional=True)
    address = merchant.address
    found.text("merchant.address.line1", address.line1, 1, 100)
    found.text("merchant.address.line2", address.line2, 3, 100, optional=True)
    found.text("merchant.address.location", address.location, 3, 50)
    if not _PIN_CODE.fullmatch(address.pin_code):
        code = "FIELD_REQUIRED" if not address.pin_code else "PIN_CODE_INVALID"
        found.at("merchant.address.pin_code", code, address.pin_code, "six digits, the first not 0, are")
    if merchant.taxpayer_type not in TaxpayerType.values():
        found.at("merchant.taxpayer_type", "ENUM_INVALID", merchant.taxpayer_type, "REGULAR, SEZ, ISD or COMP is")
    if merchant.compliance_policy not in CompliancePolicy.values():
        found.at("merchant.compliance_policy", "ENUM_INVALID", merchant.compliance_policy, "ENFORCE or REVIEW is")
    if not 0 <= merchant.annual_turnover_paise <= TURNOVER_PAISE_MAX:
        found.at(
            "merchant.annual_turnover_paise", "AMOUNT_OUT_OF_RANGE", merchant.annual_turnover_paise, "0 to 10^17 is"
        )
    found.email("merchant.email", merchant.email, 100, optional=True)
    if merchant.phone and not _PHONE.fullmatch(merchant.phone):
        found.at("merchant.phone", "PHONE_INVALID", merchant.phone, "6 to 12 digits are")


def check_user(user: NewUser, path: str, found: Findings) -> None:
    """Who is to sign in: e-mail, name, password."""
    found.email(f"{path}.email", user.email, 254)
    found.text(f"{path}.name", user.name, 1, 100)
    check_password(user.password, f"{path}.password", found)


def check_password(password: str, path: str, found: Findings) -> None:
    length = len(composed(password))
    if not CHARS_MIN <= length <= CHARS_MAX:
        code = "TEXT_LENGTH_INVALID" if password else "FIELD_REQUIRED"
        found.append(FieldViolation(path, code, f"{length} characters; {CHARS_MIN} to {CHARS_MAX} are wanted"))


def check_roles(roles: Sequence[int], path: str, found: Findings) -> None:
    """At least one role of a merchant's own, each known."""
    if not roles:
        found.at(path, "FIELD_REQUIRED", "", "at least one role is")
    for index, role in enumerate(roles):
        if role not in Role.values() or role in (Role.ROLE_UNSPECIFIED, Role.OPERATOR):
            name = Role.Name(role) if role in Role.values() else role
            found.at(f"{path}[{index}]", "ENUM_INVALID", name, "OWNER, ISSUER, APPROVER, STOCK_KEEPER or VIEWER is")


def role_names(roles: Sequence[int]) -> list[str]:
    """Roles as they lie in the database and in tokens: each once, in the order of the contract."""
    return [Role.Name(role) for role in sorted(set(roles))]


# ---------------------------------------------------------------- how they lie in the database

# One order for INSERT, UPDATE and `columns`.
CHANGEABLE = (
    "legal_name, trade_name, address_line1, address_line2, address_location, address_pin_code, "
    "taxpayer_type, annual_turnover_paise, compliance_policy, email, phone"
)
COLUMNS = f"merchant_id, gstin, state, {CHANGEABLE}, version, create_time, update_time"


def changeable(merchant: Merchant) -> tuple[object, ...]:
    """The values of CHANGEABLE."""
    address = merchant.address
    return (
        merchant.legal_name,
        merchant.trade_name,
        address.line1,
        address.line2,
        address.location,
        address.pin_code,
        merchant.taxpayer_type,
        merchant.annual_turnover_paise,
        merchant.compliance_policy,
        merchant.email,
        merchant.phone,
    )


def merchant_of(row: asyncpg.Record) -> Merchant:
    """A merchant from a row of COLUMNS."""
    return Merchant(
        merchant_id=to_text(row["merchant_id"]),
        gstin=row["gstin"],
        state=row["state"],
        legal_name=row["legal_name"],
        trade_name=row["trade_name"],
        address=Address(
            line1=row["address_line1"],
            line2=row["address_line2"],
            location=row["address_location"],
            pin_code=row["address_pin_code"],
        ),
        taxpayer_type=row["taxpayer_type"],
        annual_turnover_paise=row["annual_turnover_paise"],
        compliance_policy=row["compliance_policy"],
        email=row["email"],
        phone=row["phone"],
        create_time=timestamp(row["create_time"]),
        update_time=timestamp(row["update_time"]),
        version=row["version"],
        etag=str(row["version"]),
    )


def user_of(row: asyncpg.Record) -> User:
    """A user from a row of app_user."""
    return User(
        user_id=to_text(row["user_id"]),
        merchant_id=to_text(row["merchant_id"]) if row["merchant_id"] else "",
        email=row["email"],
        name=row["name"],
        roles=row["roles"],
        create_time=timestamp(row["create_time"]),
    )


def timestamp(value: dt.datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp


def today() -> dt.date:
    """The civil date in India, by which states live and die."""
    return clock.today_ist()
