"""The vectors of the project and of the oracle, from Python: through the binding the core answers as in Rust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from invochain.cli.gst import vector_difference

VECTORS = Path(__file__).parents[2] / "vectors"


def every_vector() -> list[pytest.param]:
    out = []
    for file in sorted([*VECTORS.glob("gst/*.json"), *VECTORS.glob("gst-oracle/*.json")]):
        out += [pytest.param(vector, id=vector["id"]) for vector in json.loads(file.read_text())["vectors"]]
    return out


@pytest.mark.parametrize("vector", every_vector())
def test_a_vector_gets_the_answer_it_names(vector):
    """`ok`, the set of (code, path), and every expected key of `computed` agree."""
    assert vector_difference(vector) is None


class TestTheComparison:
    """A runner that passes everything would prove nothing: each kind of difference is seen."""

    @pytest.fixture
    def vector(self):
        by_id = {param.id: param.values[0] for param in every_vector()}
        return json.loads(json.dumps(by_id["S-document_compute-001"]))

    def test_another_verdict_is_a_difference(self, vector):
        """An expected refusal of a lawful document fails, and names both sides."""
        vector["expected"] |= {"ok": False, "errors": [{"code": "POS_REQUIRED", "path": "buyer.pos"}]}
        assert "POS_REQUIRED" in vector_difference(vector)

    def test_another_figure_is_a_difference(self, vector):
        """One paisa anywhere in `computed` fails."""
        vector["expected"]["computed"]["totals"]["total"] = "118.01"
        assert "118.01" in vector_difference(vector)

    def test_an_error_more_or_less_is_a_difference(self, vector):
        """Errors are compared as a set: one that is missing or extra fails."""
        vector["input"]["items"] = []
        errors = [{"code": "ITEMS_EMPTY", "path": "items"}, {"code": "DATE_INVALID", "path": "date"}]
        vector["expected"] = {"ok": False, "errors": errors[:1]}
        assert vector_difference(vector) is None
        vector["expected"]["errors"] = errors
        assert vector_difference(vector) is not None

    def test_an_unknown_kind_is_a_difference_and_no_crash(self, vector):
        """A vector of a kind nobody knows is reported, not skipped."""
        vector["kind"] = "horoscope"
        assert "horoscope" in vector_difference(vector)
