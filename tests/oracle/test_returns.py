"""The figures of returns, read twice: generated periods must give the same GSTR-1, GSTR-3B and HSN summary."""

from __future__ import annotations

import json

from invochain import core

from .documents import lawful_documents
from .returns_oracle import classify, summarise

PERIODS, DOCUMENTS = 150, 12


def ask(kind: str, content: dict) -> dict:
    return json.loads(core.gst_vector(json.dumps({"kind": kind, "input": content})))


def test_every_document_goes_to_the_section_the_oracle_names():
    """Section, table and type by supply, note, value and rate; all eight sections are reached."""
    reached = set()
    for document, _ in zip(lawful_documents(5), range(3_000), strict=False):
        answer = ask("gstr1_classify", document)
        assert classify(document) == answer["computed"], json.dumps(document)
        reached.add(answer["computed"]["section"])
    assert {"b2b", "exp", "b2cl", "b2cs", "cdnr", "cdnur", "nil"} == reached


def test_a_period_sums_to_what_the_oracle_sums():
    """Sections, 3.1, 3.2 and table 12, signed; negative nets are kept."""
    documents = lawful_documents(6)
    some_negative = False
    for _ in range(PERIODS):
        period = [next(documents) for _ in range(DOCUMENTS)]
        answer, wanted = ask("return_summary", {"documents": period})["computed"], summarise(period)
        for part in ("gstr1_sections", "gstr3b", "hsn"):
            assert wanted[part] == answer[part], json.dumps(period)
        some_negative = some_negative or any(row["txval"][0] == "-" for row in answer["hsn"])
    assert some_negative


def test_an_unlawful_document_is_named_by_its_place_in_the_period():
    """Nothing is summed; every violation has the path of its document."""
    documents = lawful_documents(7)
    period = [next(documents), next(documents) | {"number": "0"}]
    answer = ask("return_summary", {"documents": period})
    assert [("DOC_NUMBER_LEADING_CHAR", "documents[1].number")] == [(e["code"], e["path"]) for e in answer["errors"]]
