"""What is wanted of a merchant and its users, at the edges: the last value that is right, the first that is wrong."""

from __future__ import annotations

import datetime as dt

import pytest

from invochain.api.merchant.v1 import merchant_service_pb2 as pb
from invochain.merchant.merchant import Findings, check_gstin, check_merchant, check_roles, check_user, role_names
from invochain.merchant.update_merchant import FIELDS, PARTS, merge, opaque

TODAY = dt.date(2026, 11, 22)


def merchant(**changed: object) -> pb.Merchant:
    usual: dict[str, object] = {
        "gstin": "27AAPFU0939F1ZV",
        "legal_name": "Deccan Bolts",
        "address": pb.Address(line1="12 MG Road", location="Pune", pin_code="411001"),
    }
    return pb.Merchant(**{**usual, **changed})  # type: ignore[arg-type]


def broken(made: pb.Merchant, today: dt.date = TODAY) -> list[tuple[str, str]]:
    found = Findings()
    check_merchant(made, today, found)
    return [(violation.field, violation.code) for violation in found]


class TestEdges:
    @pytest.mark.parametrize(
        "right",
        [
            {"legal_name": "abc"},
            {"legal_name": "x" * 100},
            {"trade_name": ""},
            {"annual_turnover_paise": 0},
            {"annual_turnover_paise": 10**17},
            {"email": "a@b.in"},
            {"email": "a" * 64 + "@" + "b" * 32 + ".in"},
            {"phone": "123456"},
            {"phone": "1" * 12},
            {"state": "27"},
            {"taxpayer_type": pb.COMP, "compliance_policy": pb.REVIEW},
            {"address": pb.Address(line1="x", line2="abc", location="abc", pin_code="999999")},
            {"address": pb.Address(line1="x" * 100, line2="y" * 100, location="z" * 50, pin_code="100000")},
        ],
        ids=str,
    )
    def test_the_last_right_value_passes(self, right: dict[str, object]):
        """Bounds belong to what is allowed."""
        assert broken(merchant(**right)) == []

    @pytest.mark.parametrize(
        "wrong, path, code",
        [
            ({"legal_name": "ab"}, "merchant.legal_name", "TEXT_LENGTH_INVALID"),
            ({"legal_name": "x" * 101}, "merchant.legal_name", "TEXT_LENGTH_INVALID"),
            ({"legal_name": "\t\t\t\t"}, "merchant.legal_name", "TEXT_INVALID"),
            ({"legal_name": "a\u200f\u202ebc"}, "merchant.legal_name", "TEXT_INVALID"),
            ({"annual_turnover_paise": -1}, "merchant.annual_turnover_paise", "AMOUNT_OUT_OF_RANGE"),
            ({"annual_turnover_paise": 10**17 + 1}, "merchant.annual_turnover_paise", "AMOUNT_OUT_OF_RANGE"),
            ({"email": "a@b.i" + "n" * 96}, "merchant.email", "TEXT_LENGTH_INVALID"),
            ({"email": "a@b..in"}, "merchant.email", "EMAIL_INVALID"),
            ({"email": "a@-b.in"}, "merchant.email", "EMAIL_INVALID"),
            ({"email": "a@b.in\n"}, "merchant.email", "TEXT_INVALID"),
            ({"phone": "12345"}, "merchant.phone", "PHONE_INVALID"),
            ({"phone": "1" * 13}, "merchant.phone", "PHONE_INVALID"),
            ({"phone": "١٢٣٤٥٦٧"}, "merchant.phone", "PHONE_INVALID"),
            ({"state": "7"}, "merchant.state", "STATE_GSTIN_MISMATCH"),
        ],
        ids=str,
    )
    def test_the_first_wrong_value_is_named(self, wrong: dict[str, object], path: str, code: str):
        """The path is the contract's, the code one that a client can switch on."""
        assert (path, code) in broken(merchant(**wrong))

    def test_a_merchant_without_an_address_lacks_its_parts(self):
        """An invoice must carry the supplier's address (CGST Rules 2017, rule 46(a))."""
        made = merchant()
        made.ClearField("address")
        assert [path for path, _ in broken(made)] == [
            "merchant.address.line1",
            "merchant.address.location",
            "merchant.address.pin_code",
        ]

    @pytest.mark.parametrize(
        "gstin, day, right",
        [
            ("25AAACI1681G1ZT", dt.date(2020, 7, 31), True),
            ("25AAACI1681G1ZT", dt.date(2020, 8, 1), False),
            ("38AAACI1681G1ZM", dt.date(2019, 10, 31), True),
            ("38AAACI1681G1ZM", dt.date(2019, 10, 30), False),
            ("97AAACI1681G1ZI", TODAY, True),
        ],
    )
    def test_a_state_lives_and_dies_on_its_day(self, gstin: str, day: dt.date, right: bool):
        """RULES G8."""
        found = Findings()
        check_gstin(gstin, "", day, found)
        assert [violation.code for violation in found] == ([] if right else ["STATE_CODE_WITHDRAWN"])

    def test_a_violation_says_what_was_found_and_what_is_wanted(self):
        """With the right check character, and never more than sixty characters of what came."""
        found = Findings()
        check_gstin("27AAPFU0939F1ZA", "", TODAY, found)
        assert found[0].description == (
            "found '27AAPFU0939F1ZA'; the check character V, or other digits before it, is wanted"
        )
        found.at("merchant.phone", "PHONE_INVALID", "9" * 5_000, "6 to 12 digits are")
        assert len(found[1].description) < 120


class TestUsers:
    @pytest.mark.parametrize("length, right", [(11, False), (12, True), (128, True), (129, False)])
    def test_passwords_have_12_to_128_characters_however_they_are_composed(self, length: int, right: bool):
        """A letter and its accent are one character."""
        for letter in ("x", "e\u0301", "क"):
            found = Findings()
            check_user(pb.NewUser(email="a@example.in", name="A", password=letter * length), "owner", found)
            assert ([violation.field for violation in found] == []) is right

    def test_a_violation_never_repeats_the_password(self):
        """Its length says enough."""
        found = Findings()
        check_user(pb.NewUser(email="a@example.in", name="A", password="hunter2"), "owner", found)
        assert "hunter2" not in found[0].description

    def test_roles_are_kept_once_in_the_order_of_the_contract(self):
        """Every role but OPERATOR may be given."""
        roles = [pb.VIEWER, pb.OWNER, pb.VIEWER, pb.STOCK_KEEPER, pb.APPROVER, pb.ISSUER]
        found = Findings()
        check_roles(roles, "user.roles", found)
        assert found == []
        assert role_names(roles) == ["OWNER", "ISSUER", "APPROVER", "STOCK_KEEPER", "VIEWER"]


class TestUpdate:
    @pytest.mark.parametrize("etag", ["3", '"3"', 'W/"3"', ' "3" '])
    def test_an_etag_is_the_same_with_and_without_quotes(self, etag: str):
        """HTTP quotes it, gRPC does not."""
        assert opaque(etag) == "3"

    def test_any_version_matches_a_star(self):
        """RFC 9110, 13.1.1."""
        assert opaque("*") == ""

    def test_a_path_changes_its_field_alone(self):
        """Whatever else the body holds."""
        before, wanted = merchant(phone="123456"), merchant(legal_name="Other", phone="654321", email="a@b.in")
        for path in (*FIELDS, *PARTS):
            after = merge(before, wanted, [path])
            names = [field.name for field in pb.Merchant.DESCRIPTOR.fields]
            changed = {name for name in names if getattr(after, name) != getattr(before, name)}
            assert changed <= {path.split(".")[0]}
