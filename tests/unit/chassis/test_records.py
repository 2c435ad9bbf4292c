"""Headers of broker records as JSON, by the core."""

import json

import pytest

from invochain import core


class TestHeaderTexts:
    def test_any_text_reads_back_as_it_was(self):
        """In its order; a name may come twice, and a record may have no header."""
        odd = (("x", 'ü"\\\n\x00'), ("x", "\N{SNOWMAN}\N{CRAB}"), ("", ""))

        texts = core.header_texts([odd, (), (("ce_type", "a.b"),)])

        assert [[list(header) for header in odd], [], [["ce_type", "a.b"]]] == [json.loads(text) for text in texts]

    @pytest.mark.parametrize(
        ("headers", "error"),
        [
            ((("x", 1),), TypeError),
            ((("x", b"y"),), TypeError),
            ([("x", "y")], TypeError),
            ((("x",),), ValueError),
            ((("x", "\ud800"),), UnicodeEncodeError),
        ],
        ids=["number", "bytes", "list", "no value", "lone surrogate"],
    )
    def test_what_is_no_header_is_refused(self, headers, error):
        """Never written down in part."""
        with pytest.raises(error):
            core.header_texts([headers])
