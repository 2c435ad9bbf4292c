"""`invochain gst`: what a person at a terminal sees, and the exit codes a script relies on."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from invochain import core
from invochain.cli import app

VECTORS = Path(__file__).parents[2] / "vectors" / "gst"

LAWFUL = {
    "supply_type": "B2B",
    "doc_type": "INV",
    "number": "INV/25-26/001",
    "date": "2025-10-10",
    "seller": {"gstin": "27AAPFU0939F1ZV", "state": "27"},
    "buyer": {"gstin": "29AABCR1718E1ZL", "state": "29", "pos": "29"},
    "items": [{"sl": "1", "hsn": "610910", "qty": "10", "unit": "NOS", "unit_price": "1000.00", "gst_rate": "18"}],
}

INV01 = """{"Version": "1.1", "TranDtls": {"TaxSch": "GST", "SupTyp": "B2B"},
  "DocDtls": {"Typ": "INV", "No": "E/1", "Dt": "10/10/2025"},
  "SellerDtls": {"Gstin": "27AAPFU0939F1ZV", "Stcd": "27"},
  "BuyerDtls": {"Gstin": "29AABCR1718E1ZL", "Stcd": "29", "Pos": "29"},
  "ItemList": [{"SlNo": "1", "IsServc": "N", "HsnCd": "610910", "Qty": 1, "Unit": "NOS", "UnitPrice": 13028.00,
    "TotAmt": 13028.00, "AssAmt": 13028.00, "GstRt": 18.0, "IgstAmt": TAX, "TotItemVal": TOTAL}],
  "ValDtls": {"AssVal": 13028.00, "IgstVal": TAX, "TotInvVal": TOTAL}}"""


@pytest.fixture
def run(tmp_path):
    def run(*arguments, **files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        words = [str(tmp_path / word) if word in files else word for word in arguments]
        return CliRunner().invoke(app, ["gst", *words])

    return run


class TestCheck:
    def test_a_lawful_document_exits_0_and_names_its_total(self, run):
        """10 x 1,000.00 at 18 % comes to 11,800.00."""
        result = run("check", "one", one=json.dumps(LAWFUL))
        assert (0, True) == (result.exit_code, "lawful, total 11800.00" in result.output)

    def test_every_violation_is_printed_with_what_was_found_and_wanted(self, run):
        """The old sample: a total of 15000 over a line of 11800 is refused with both figures."""
        wrong = LAWFUL | {"totals": {"total": "15000.00", "igst": "1.00"}}
        result = run("check", "one", one=json.dumps(wrong))
        assert 1 == result.exit_code
        for word in ("DOCUMENT_TOTAL_MISMATCH", "15000.00", "11800.00", "TOTAL_TAX_MISMATCH", "totals.igst"):
            assert word in result.output

    def test_json_lines_are_judged_one_by_one(self, run):
        """Each line is a document of its own, named by its line number."""
        lines = "\n".join([json.dumps(LAWFUL), json.dumps(LAWFUL | {"number": "0"}), "{"])
        result = run("check", "--json", "many", many=lines)
        answers = [json.loads(line) for line in result.output.splitlines()]
        assert [True, False, False] == [answer["ok"] for answer in answers]
        assert ["DOC_NUMBER_LEADING_CHAR", "UNREADABLE"] == [answer["errors"][0]["code"] for answer in answers[1:]]
        assert [":1", ":2", ":3"] == [answer["document"][-2:] for answer in answers]

    @pytest.mark.parametrize("tax, code", [("2344.00", 0), ("2343.99", 1)])
    def test_inv01_is_recognised_and_judged_with_its_band(self, run, tax, code):
        """The e-invoice system accepts 2344.00 for 2345.04, and not a paisa less; a list is cut up exactly."""
        total = str(Decimal("13028.00") + Decimal(tax))
        payload = INV01.replace("TAX", tax).replace("TOTAL", total)
        result = run("check", "payload", payload=f"[{payload}]")
        assert code == result.exit_code, result.output

    @pytest.mark.parametrize("text", ["", "[1", "null", "7", '"text"', '{"items": {}}'])
    def test_what_is_no_document_is_refused_and_nothing_crashes(self, run, text):
        """Exit code 1 and a line that says why."""
        result = run("check", "one", one=text)
        assert (1, True) == (result.exit_code, "UNREADABLE" in result.output)

    def test_a_missing_file_is_named(self, run):
        """A file that cannot be read is one refused document."""
        result = run("check", "no-such-file")
        assert (1, True) == (result.exit_code, "no-such-file" in result.output)

    def test_an_unknown_mode_is_a_usage_error(self, run):
        """Exit code 2, as for every wrong option."""
        assert 2 == run("check", "--mode", "lenient", "one", one="{}").exit_code


class TestVectors:
    def test_all_of_ours_pass(self, run):
        """The last line counts them, and the exit code is 0."""
        result = run("vectors", str(VECTORS))
        passed, rest = result.output.splitlines()[-1].split(" ", 1)
        assert (0, "passed, 0 failed") == (result.exit_code, rest)
        assert int(passed) >= 370

    def test_one_that_fails_is_named_and_turns_the_exit_code(self, run):
        """`N passed, N failed`, exit code 1."""
        vector = {
            "id": "X-1",
            "kind": "doc_number",
            "title": "wrong",
            "input": {"number": "A1"},
            "expected": {"ok": False},
        }
        content = {"format": "invochain-gst-vectors/1", "vectors": [vector]}
        result = run("vectors", "file", file=json.dumps(content))
        assert (1, "0 passed, 1 failed") == (result.exit_code, result.output.splitlines()[-1])
        assert "X-1" in result.output

    def test_a_directory_without_vectors_does_not_pass(self, run, tmp_path):
        """Nothing run is nothing proved."""
        assert 1 == run("vectors", str(tmp_path)).exit_code


class TestOneLineQuestions:
    def test_a_gstin_is_explained_or_corrected(self, run):
        """Kind, state and PAN; for a wrong check character the right one."""
        assert "pan_holder FIRM" in run("gstin", "27AAPFU0939F1ZV").output
        wrong = run("gstin", "29AABCU9603R1ZN")
        assert (1, True) == (wrong.exit_code, "29AABCU9603R1ZJ" in wrong.output)
        assert "check character V" in run("gstin", "27AAPFU0939F1Z").output

    def test_the_irn_is_printed_with_its_preimage(self, run):
        """The worked example of RULES G55."""
        lines = run("irn", "27AAPFU0939F1ZV", "2025-10-10", "INV", "inv/25-26/001").output.splitlines()
        assert "5decbc1bc7562c4bab113f0ab7d6efd2db91dcbc2f5ffbff3314d406227df6f9" == lines[0]
        assert "27AAPFU0939F1ZV2025-26INVINV/25-26/001" == lines[1]

    def test_rates_are_those_of_the_day(self, run):
        """The 40 % slab begins on 22 September 2025."""
        rates_on = lambda day: {line.split()[0] for line in run("rates", "--on", day).output.splitlines()}  # noqa: E731
        assert "40" not in rates_on("2025-09-21")
        assert "40" in rates_on("2025-09-22")

    def test_rules_are_printed_in_order_of_precedence(self, run):
        """Structure before semantics before arithmetic; nothing but semantics may be waived."""
        rows = [line.split() for line in run("rules").output.splitlines()[1:]]
        phases = [row[0] for row in rows]
        assert sorted(phases) == phases
        assert {"2"} == {row[0] for row in rows if "waivable" in row[:5]}

    def test_explain_names_row_day_and_rule(self, run):
        """Per line the rate row, per figure the rule and the sum in words."""
        output = run("explain", "one", one=json.dumps(LAWFUL)).output
        for word in ("seller state 27 and place of supply 29 differ", "18 % in force from 2017-07-01", "G39", "x 18 %"):
            assert word in output


class TestDatedTables:
    @pytest.fixture(autouse=True)
    def builtin_tables(self):
        yield
        core.gst_builtin_tables()

    HEAD = "# as of 2027-01-01\nrate_milli,valid_from,valid_to,kind,hsn_prefixes,note\n"

    def test_a_dated_file_brings_a_new_rate_without_a_rebuild(self, run, tmp_path):
        """A rate of 17 % is unknown until a table names it."""
        document = LAWFUL | {"items": [LAWFUL["items"][0] | {"gst_rate": "17"}]}
        assert "GST_RATE_UNKNOWN" in run("check", "one", one=json.dumps(document)).output
        (tmp_path / "rates.csv").write_text(self.HEAD + "17000,2017-07-01,,STANDARD,,new\n")
        result = run("check", "--table", f"rate_slabs={tmp_path}/rates.csv", "one", one=json.dumps(document))
        assert (0, True) == (result.exit_code, "11700.00" in result.output)

    def test_a_bad_file_is_refused_whole_with_its_line(self):
        """The rates in force stay in force."""
        before = core.gst_rates()
        with pytest.raises(ValueError, match="line 4"):
            core.gst_replace_table("rate_slabs", self.HEAD + "0,2017-07-01,,NIL,,\n1e3,2017-07-01,,STANDARD,,\n")
        with pytest.raises(ValueError, match="as of"):
            core.gst_replace_table("rate_slabs", self.HEAD.split("\n", 1)[1])
        with pytest.raises(ValueError, match="rate_slabs"):
            core.gst_replace_table("horoscopes", self.HEAD)
        assert before == core.gst_rates()
