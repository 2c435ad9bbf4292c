"""Files of invoices: what each line becomes, what is wrong with it, and the key it gets every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from invochain.api.invoice.v1 import invoice_service_pb2 as pb
from invochain.cli.importing.row import CannotRead, Row
from invochain.cli.importing.rows import Reader

LINE = '{"description": "Bolt", "hsn": "731815", "quantity_milli": "10000", "gst_rate_milli": 18000}'
HEADER = (
    "invoice,supply_type,buyer.gstin,invoice_date,line.sku,line.quantity,line.unit_price,line.gst_rate,line.is_service"
)


def read(tmp_path: Path, text: str, name: str = "sales.jsonl", source: str = "sales") -> list[Row]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return list(Reader(path, source, csv=name.endswith(".csv")).rows())


class TestJsonLines:
    def test_a_line_is_an_invoice_with_or_without_a_key(self, tmp_path):
        """The API's JSON form, alone or beside its key; empty lines do not count."""
        rows = read(
            tmp_path,
            f'{{"supply_type": "B2B", "lines": [{LINE}]}}\n\n'
            f'{{"idempotency_key": "my-own-key-000001", "invoice": {{"lines": [{LINE}]}}}}\n',
        )
        assert [(row.line, row.faults) for row in rows] == [(1, []), (3, [])]
        assert rows[0].invoice.lines[0].quantity_milli == 10_000
        assert rows[0].key.startswith("import-")
        assert rows[1].key == "my-own-key-000001"

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ('{"lines": [{"quantity_milli": 10.5}]}', "found 10.5; amounts and quantities are integers"),
            ('{"lines": [{"quantity_milli": 1e3}]}', "found 1e3"),
            ('{"lines": [{"quantity_milli": NaN}]}', "found NaN"),
            ('{"number": "A/1", "number": "A/2"}', "found number twice"),
            ('{"colour": "red"}', 'no field named "colour"'),
            ('{"invoice": {}, "colour": "red"}', "found colour beside the invoice"),
            ('["a"]', "found no object"),
            ('{"doc_type": "XX"}', "XX"),
            ("{", "Expecting"),
            ('{"idempotency_key": "\\ud800-half-a-pair-01", "invoice": {}}', "surrogates not allowed"),
            ('{"\\ud800": 1, "invoice": {}}', "found \\ud800 beside the invoice"),
            ('{"\\ud800": 1, "\\ud800": 2}', "found \\ud800 twice"),
        ],
    )
    def test_what_is_no_invoice_is_named_with_its_line_and_the_others_go_on(self, tmp_path, line, words):
        """A float, a name twice, an unknown field, broken JSON: this line is refused, the next is read. Whatever the
        line has in it, what is said of it is text, for it goes into the report."""
        bad, good = read(tmp_path, f'{line}\n{{"lines": [{LINE}]}}\n')
        assert (bad.key + bad.faults[0]).encode()
        assert words in bad.faults[0]
        assert (bad.invoice, good.faults) == (None, [])


class TestCsv:
    def test_lines_below_one_another_are_one_invoice_and_decimals_are_scaled_exactly(self, tmp_path):
        """Two rows of one invoice, then one alone; 0.1 and 1234.567 arrive to the thousandth."""
        rows = read(
            tmp_path,
            f"{HEADER}\n"
            "7,B2B,27AAPFU0939F1ZV,2026-11-22,BOLT-M8,0.1,1234.567,18,\n"
            "7,,,,NUT-M8,2,3,0.25,\n"
            "8,B2B,27AAPFU0939F1ZV,2026-11-22,,1,9,5,true\n",
            "sales.csv",
        )
        first, second = rows
        assert [row.line for row in rows] == [2, 4]
        assert [(line.quantity_milli, line.unit_price_milli, line.gst_rate_milli) for line in first.invoice.lines] == [
            (100, 1_234_567, 18_000),
            (2_000, 3_000, 250),
        ]
        assert (first.invoice.invoice_date.year, first.invoice.buyer.gstin) == (2026, "27AAPFU0939F1ZV")
        assert second.invoice.lines[0].is_service

    @pytest.mark.parametrize(
        ("cells", "words"),
        [
            ("7,B2B,x,2026-11-22,B,0.1234,1,18,", "line.quantity: found '0.1234'; wanted 3 digits"),
            ("7,B2B,x,22/11/2026,B,1,1,18,", "invoice_date: found '22/11/2026'; wanted a date"),
            ("7,B2B,x,2026-11-22,B,1e3,1,18,", "line.quantity: found '1e3'; wanted a plain decimal"),
            ("7,B2B,x,2026-11-22,B,1,1,18,yes", "line.is_service: found 'yes'; wanted true or false"),
            ("7,B2B,x", "found 3 cells; wanted 9"),
            ("7,NOPE,x,2026-11-22,B,1,1,18,", "NOPE"),
        ],
    )
    def test_a_wrong_cell_is_named_with_what_is_wanted(self, tmp_path, cells, words):
        """Found and wanted, and the invoices around it are read."""
        (row,) = read(tmp_path, f"{HEADER}\n{cells}\n", "sales.csv")
        assert words in row.faults[0]
        assert row.invoice is None

    def test_rows_of_an_invoice_that_disagree_refuse_it_with_every_line_that_is_wrong(self, tmp_path):
        """Another buyer in the second row, no number in the third; the invoice below is read."""
        disagreeing, other = read(
            tmp_path,
            f"{HEADER}\n7,B2B,x,,B,1,1,18,\n7,B2B,y,,B,1,1,18,\n7,,,,B,one,1,18,\n8,B2B,x,,B,1,1,18,\n",
            "sales.csv",
        )
        assert disagreeing.faults == [
            "line 3: buyer.gstin: found 'y'; another line of this invoice says otherwise",
            "line 4: line.quantity: found 'one'; wanted a plain decimal",
        ]
        assert disagreeing.invoice is None
        assert other.faults == []

    @pytest.mark.parametrize("at", [0, 1, 2], ids=["first", "between", "last"])
    def test_an_invoice_with_a_row_of_too_many_cells_is_refused_whole(self, tmp_path, at):
        """A stray comma in one row of three: the invoice is never sent with the other two."""
        rows = ["7,B2B,x,,B,1,1,18,", "7,,,,N,2,1,18,", "7,,,,W,3,1,18,"]
        rows[at] += ","
        found = read(tmp_path, "\n".join([HEADER, *rows]) + "\n", "sales.csv")
        assert [row.invoice for row in found] == [None] * len(found)
        assert all(f"line {2 + at}" in row.faults[0] and "found 10 cells; wanted 9" in row.faults[0] for row in found)

    @pytest.mark.parametrize("stray", ["7,,,,N,2,1,1,8,", ",,,,N,2,1,18,"], ids=["cells", "no name"])
    def test_a_row_of_nobody_refuses_the_invoices_on_both_sides_of_it(self, tmp_path, stray):
        """It may be the last line of the one or the first of the other; those farther away are read."""
        above, before, behind, below = read(
            tmp_path,
            f"{HEADER}\n5,B2B,x,,B,1,1,18,\n6,B2B,x,,B,1,1,18,\n{stray}\n8,B2B,x,,B,1,1,18,\n9,B2B,x,,B,1,1,18,\n",
            "sales.csv",
        )
        assert [row.invoice is None for row in (above, before, behind, below)] == [False, True, True, False]
        assert [row.line for row in (before, behind)] == [3, 5]
        assert all(len(row.faults) == 1 and row.faults[0].startswith("line 4") for row in (before, behind))

    def test_an_invoice_whose_lines_stand_apart_is_not_issued_in_parts(self, tmp_path):
        """Neither the first part nor the second, though the second comes far below."""
        between = "".join(f"{n},B2B,x,,B,1,1,18,\n" for n in range(100, 200))
        rows = read(tmp_path, f"{HEADER}\n7,B2B,x,,B,1,1,18,\n{between}7,B2B,x,,B,1,1,18,\n", "sales.csv")
        assert [row.line for row in rows if row.faults] == [2, 103]
        assert all("stands in more than one place" in row.faults[0] for row in rows if row.faults)
        assert len(rows) == 102

    def test_a_mark_of_the_byte_order_is_no_part_of_the_header(self, tmp_path):
        """As spreadsheets write it."""
        (row,) = read(tmp_path, f"\ufeff{HEADER}\n7,B2B,x,,B,1,1,18,\n", "sales.csv")
        assert row.faults == []

    def test_without_a_name_for_invoices_every_row_is_one(self, tmp_path):
        """A row that cannot be read is one invoice, and refuses no other."""
        header = HEADER.removeprefix("invoice,")
        good = "B2B,x,,B,1,1,18,\n"
        rows = read(tmp_path, f"{header}\n{good}B2B,x\n\n{good}", "sales.csv")
        assert [(row.line, bool(row.faults)) for row in rows] == [(2, False), (3, True), (5, False)]

    @pytest.mark.parametrize("column", ["number", "idempotency_key"])
    def test_without_names_rows_of_one_number_or_key_are_one_invoice(self, tmp_path, column):
        """Never two, of which the second would be refused and the first be issued with one line; none: an invoice."""
        header = HEADER.replace("invoice,", f"{column},", 1)
        good = "B2B,x,,B,1,1,18,\n"
        text = f"{header}\nA/1,{good}A/1,{good},{good},{good}A/2,{good}A/3,{good}A/2,{good}"
        rows = read(tmp_path, text, "sales.csv")
        assert [(row.line, row.invoice and len(row.invoice.lines)) for row in rows] == [
            (2, 2),
            (4, 1),
            (5, 1),
            (6, None),
            (7, 1),
            (8, None),
        ]

    def test_a_file_that_is_torn_at_its_end_is_refused_before_its_first_invoice(self, tmp_path):
        """A cell that does not close, far below: nothing above it is handed out."""
        path = tmp_path / "sales.csv"
        path.write_text(f'{HEADER}\n7,B2B,x,,B,1,1,18,\n8,B2B,x,,B,1,1,18,\n9,"B2B\n')
        with pytest.raises(CannotRead, match="line 4"):
            next(Reader(path, "sales", csv=True).rows())

    @pytest.mark.parametrize("name", ["colour", "line.colour", "lines", "buyer", "buyer.address.nope", "totals.lines"])
    def test_a_column_that_is_no_field_refuses_the_file(self, tmp_path, name):
        """Before anything is sent, with every such column named."""
        with pytest.raises(CannotRead, match=f"'{name}' is no field"):
            read(tmp_path, f"invoice,{name}\n1,2\n", "sales.csv")

    def test_quotes_that_do_not_close_refuse_the_file(self, tmp_path):
        """A CSV that ends inside a cell is torn."""
        with pytest.raises(CannotRead, match="line"):
            read(tmp_path, f'{HEADER}\n7,"B2B\n', "sales.csv")


class TestKeys:
    def keys(self, tmp_path: Path, *numbers: int, source: str = "sales") -> list[str]:
        text = "".join(f'{{"lines": [{{"quantity_milli": "{n}"}}]}}\n' for n in numbers)
        return [row.key for row in read(tmp_path, text, source=source)]

    def test_a_key_stays_wherever_its_line_stands(self, tmp_path):
        """A line above, or one taken out, changes no other key."""
        assert self.keys(tmp_path, 1, 2, 3)[1:] == self.keys(tmp_path, 2, 3)

    def test_two_equal_sales_are_two_sales(self, tmp_path):
        """The second of two equal lines has a key of its own, the same every time."""
        first, second = self.keys(tmp_path, 5, 5)
        assert first != second
        assert self.keys(tmp_path, 5, 6, 5) == [first, self.keys(tmp_path, 6)[0], second]

    def test_without_a_source_an_invoice_that_nothing_tells_apart_is_not_imported(self, tmp_path):
        """Tomorrow's equal sale would be taken for today's; a number or a key of its own tells them apart."""
        with pytest.raises(CannotRead, match="line 1 has neither a number nor an idempotency_key"):
            self.keys(tmp_path, 1, source="")
        (row,) = read(tmp_path, '{"number": "A/1"}\n', source="")
        assert row.key.startswith("import-")

    def test_the_same_data_under_another_name_are_other_sales(self, tmp_path):
        """January and February may look alike."""
        assert self.keys(tmp_path, 1) != self.keys(tmp_path, 1, source="february")


def test_the_scaled_columns_are_fields_of_the_contract():
    """What the help names is there."""
    fields = pb.InvoiceLine.DESCRIPTOR.fields_by_name
    assert {"quantity_milli", "unit_price_milli", "gst_rate_milli", "taxable_paise"} <= set(fields)
