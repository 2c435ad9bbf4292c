"""Decimal text becomes integers exactly, or is refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invochain_client import line, percent_milli, quantity_milli, quantity_text, rupees, rupees_milli, rupees_text


class TestAnAmount:
    @pytest.mark.parametrize(
        ("given_", "paise"),
        [
            ("1000.00", 100_000),
            ("1000", 100_000),
            (1000, 100_000),
            (Decimal("1000.5"), 100_050),
            (Decimal("1E+3"), 100_000),
            ("0.01", 1),
            ("-0.50", -50),
            ("0.100", 10),
            ("007", 700),
        ],
    )
    def test_is_exact_paise(self, given_, paise):
        """Text, int and Decimal, with zeros wherever they change nothing."""
        assert rupees(given_) == paise

    @pytest.mark.parametrize("given_", [1000.0, 0.1, True, None, b"1"])
    def test_is_never_a_float(self, given_):
        """What is not exact, or no number, is a TypeError that says what is wanted."""
        with pytest.raises(TypeError, match="text, int or Decimal is wanted"):
            rupees(given_)

    @pytest.mark.parametrize(
        "given_", ["", "1,000.00", "1e3", "1.", ".5", "1.005", " 1", "1\n", "١", "Rs 5", "--1", "nan", "1_000"]
    )
    def test_that_reads_two_ways_is_refused(self, given_):
        """Separators, exponents, foreign digits and a third decimal are a ValueError."""
        with pytest.raises(ValueError, match="rupees: found"):
            rupees(given_)

    @pytest.mark.parametrize("given_", [Decimal("NaN"), Decimal("Infinity"), Decimal("0.001"), "9" * 4_400, 10**17])
    def test_that_no_invoice_can_carry_is_refused(self, given_):
        """Not a number, too fine, or beyond 64 bits."""
        with pytest.raises(ValueError, match="rupees: found"):
            rupees(given_)

    @given(st.integers(-(10**15), 10**15))
    def test_comes_back_as_it_was(self, paise):
        """Text of paise reads back as the same paise."""
        assert rupees(rupees_text(paise)) == paise
        assert quantity_milli(quantity_text(paise)) == paise

    def test_has_a_text_only_from_whole_paise(self):
        """A float of paise is refused on the way out as well."""
        assert (rupees_text(1_180_000), rupees_text(-5), quantity_text(2_500)) == ("11800.00", "-0.05", "2.5")
        with pytest.raises(TypeError):
            rupees_text(1.5)


def test_prices_quantities_and_rates_have_three_decimals():
    """Thousandths of a rupee, of a unit, of a percent."""
    assert (rupees_milli("0.125"), quantity_milli("2.5"), percent_milli("0.25")) == (125, 2_500, 250)
    with pytest.raises(ValueError, match="at most 3 decimals"):
        quantity_milli("0.0001")


def test_a_line_carries_what_was_said_and_leaves_the_rest_to_the_server():
    """Claims stay absent; a discount is set only where there is one."""
    made = line("Bolt", sku="BOLT-M8", hsn="731815", quantity="10", price="1000.00", gst_rate=18)

    assert (made.quantity_milli, made.unit_price_milli, made.gst_rate_milli) == (10_000, 1_000_000, 18_000)
    assert not any(made.HasField(claim) for claim in ("discount_paise", "gross_paise", "taxable_paise", "total_paise"))
    assert line("B", hsn="731815", quantity=1, price=1, gst_rate=18, discount="0.50").discount_paise == 50
    with pytest.raises(TypeError, match=r"rupees of a unit price: found 1\.5"):
        line("B", hsn="731815", quantity=1, price=1.5, gst_rate=18)
