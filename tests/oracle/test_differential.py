"""The Rust engine and the Python oracle are two readings of one law: over generated documents they must agree."""

from __future__ import annotations

import json
import os

import pytest

from invochain import core

from . import gst_oracle
from .differential import difference, run
from .documents import TODAY, Documents

DOCUMENTS = 100_000
DOCUMENTS_LONG = 10_000_000


class TestTheEngineAgreesWithTheOracle:
    @pytest.mark.timeout(600)
    def test_over_a_hundred_thousand_documents(self):
        """Same errors at the same paths, or the same figures to the paisa; and every rule was broken at least once."""
        count, findings, reached = run(DOCUMENTS)

        assert count >= DOCUMENTS
        assert not findings, "\n".join(findings)
        unreached = {code for code, *_ in core.gst_rules()} - set(reached)
        assert unreached == set()
        assert all(reached[f"lawful {mode}"] > 5_000 for mode in ("compute", "strict", "nic"))

    @pytest.mark.long
    @pytest.mark.timeout(0)
    def test_over_ten_million_documents(self):
        """The same with other seeds, for a quiet machine."""
        count, findings, _ = run(DOCUMENTS_LONG, first_seed=1_000_000, processes=os.cpu_count() or 1)
        assert count >= DOCUMENTS_LONG
        assert not findings, "\n".join(findings)


class TestTheComparison:
    """A differential test that cannot fail would prove nothing."""

    def lawful_case(self):
        cases = (case for case in Documents(7) if case[1] == "compute")
        return next(case for case in cases if not gst_oracle.judge(*case)[0])

    def test_a_paisa_of_difference_is_seen(self):
        """One figure of the engine's answer moved by a paisa is reported."""
        case = self.lawful_case()
        answer = json.loads(core.gst_check(json.dumps(case[0]), case[1], case[2]))
        assert difference(case, json.dumps(answer))[0] is None
        total = answer["computed"]["totals"]["total"]
        answer["computed"]["totals"]["total"] = total[:-1] + ("1" if total[-1] == "0" else "0")
        assert difference(case, json.dumps(answer))[0] is not None

    def test_a_rounding_habit_is_seen(self, monkeypatch):
        """An oracle that rounds half down differs from the engine within a few hundred documents."""
        half_down = lambda value: value.quantize(gst_oracle.PAISA, rounding="ROUND_HALF_DOWN")  # noqa: E731
        monkeypatch.setattr(gst_oracle, "half_up", half_down)
        stream = iter(Documents(11))
        cases = [next(stream) for _ in range(500)]
        answers = [core.gst_check(json.dumps(document), mode, today) for document, mode, today in cases]
        assert any(difference(case, answer)[0] for case, answer in zip(cases, answers, strict=True))

    def test_the_same_seed_gives_the_same_documents(self):
        """A finding names its seed: that must be enough to see it again."""
        first, second = iter(Documents(3)), iter(Documents(3))
        assert [next(first) for _ in range(50)] == [next(second) for _ in range(50)]


class TestTheOracleByItself:
    def test_the_worked_example_of_the_check_character(self):
        """RULES G4: 27AAPFU0939F1Z takes V."""
        assert gst_oracle.check_character("27AAPFU0939F1Z") == "V"

    def test_every_document_vector(self, every_document_vector):
        """The oracle was written from RULES; the vectors hold it to what RULES mean."""
        for vector in every_document_vector:
            today = vector.get("context", {}).get("as_of")
            errors, computed = gst_oracle.judge(vector["input"], vector["mode"], today)
            expected = vector["expected"]
            assert errors == {(error["code"], error["path"]) for error in expected["errors"]}, vector["id"]
            if expected["ok"]:
                assert computed == computed | expected["computed"], vector["id"]

    @pytest.fixture
    def every_document_vector(self):
        folder = gst_oracle.DATA.parents[2] / "tests" / "vectors" / "gst"
        files = [json.loads(file.read_text()) for file in folder.glob("document_*.json")]
        return [vector for file in files for vector in file["vectors"]]


def test_today_is_a_day_the_documents_cross():
    """Documents dated after today must exist, or DATE_IN_FUTURE would not be reached."""
    assert any(
        case[0].get("date") and case[0]["date"] > TODAY for case, _ in zip(Documents(1), range(500), strict=False)
    )
