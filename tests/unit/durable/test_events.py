"""Names of events: which topic a type goes to, how an event is named, what a consumer may not mix up."""

import asyncio
from pathlib import Path

import pytest

from invochain import core
from invochain.chassis.ids import new_id
from invochain.durable import inbox, outbox


class TestTopic:
    @pytest.mark.parametrize(
        ("type_", "topic", "collection"),
        [
            ("invochain.invoice.accepted.v1", "invoice.events", "invoices"),
            ("invochain.merchant.changed.v1", "merchant.events", "merchants"),
            ("invochain.stock.adjusted.v1", "inventory.events", "stock"),
        ],
    )
    def test_the_noun_decides(self, type_, topic, collection):
        """The second word of the type."""
        assert (topic, collection) == (outbox.topic(type_), outbox.collection(type_))

    @pytest.mark.parametrize(
        "type_", ["", "invoice.accepted", "invochain.invoice.accepted", "acme.invoice.accepted.v1"]
    )
    def test_what_is_no_type_is_refused(self, type_):
        """With what a type looks like."""
        with pytest.raises(ValueError, match=r"is no event type: invochain\.<noun>\.<past tense>\.v<n>"):
            outbox.topic(type_)

    def test_every_type_of_the_contract_has_a_topic(self):
        """Types are named in the comments of the *_events.proto files, in backquotes."""
        protos = Path(__file__).parents[3] / "proto"
        types = {
            word
            for path in protos.glob("invochain/api/*/v1/*_events.proto")
            for word in path.read_text(encoding="utf-8").split("`")[1::2]
            if word.startswith("invochain.")
        }
        assert len(types) >= 8
        for type_ in types:
            outbox.topic(type_)


class TestEventColumns:
    def test_a_batch_is_its_events_one_by_one(self):
        """The same ids and partitions as the single calls give."""
        aggregates, versions = [new_id() for _ in range(100)], list(range(1, 101))
        types = ["invochain.invoice.issued.v1", "invochain.invoice.accepted.v1"] * 50

        ids, partitions = core.event_columns(aggregates, versions, types, 32)

        assert [core.event_id(*row) for row in zip(aggregates, versions, types, strict=True)] == ids
        assert [core.partition(aggregate, 32) for aggregate in aggregates] == partitions
        assert all(type(event_id) is bytes for event_id in ids)

    def test_ids_made_in_the_same_minute_spread_over_the_partitions(self):
        """The front of a UUIDv7 is its time; merchants who register together must not share a partition."""
        assert len({core.partition(new_id(), 32) for _ in range(1_000)}) == 32

    @pytest.mark.parametrize(
        ("aggregates", "versions", "types", "partitions"),
        [([b"x" * 16], [1, 2], ["t"], 32), ([b"x" * 15], [1], ["t"], 32), ([b"x" * 16], [1], ["t"], 0)],
    )
    def test_columns_that_do_not_fit_are_refused(self, aggregates, versions, types, partitions):
        """Different lengths, an id of 15 bytes, no partition."""
        with pytest.raises(ValueError, match=r"wanted|16 bytes"):
            core.event_columns(aggregates, versions, types, partitions)


class TestAdmit:
    def test_owners_are_given_for_every_event_or_for_none(self):
        """A missing one would shift the others onto foreign events."""
        event = inbox.Received(new_id(), "t", new_id(), new_id(), 1, b"")
        with pytest.raises(ValueError, match="one merchant id for each event"):
            asyncio.run(inbox.admit(None, "c", [event, event], [new_id()]))
