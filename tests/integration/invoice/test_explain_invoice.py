"""ExplainInvoice: which rate row, which date, which rule gave each figure."""

from __future__ import annotations

from invochain.api.invoice.v1 import invoice_service_pb2 as pb


async def test_a_stored_invoice_is_explained_figure_by_figure(market):
    """Every figure names its rule and adds up to what was issued."""
    seller, buyer = await market.register("27"), await market.register("29")
    invoice = await market.issue(seller, market.invoice(buyer, market.line(sku="")))

    request = pb.ExplainInvoiceRequest(invoice_id=invoice.invoice_id)
    explained = await market.call(market.invoices.ExplainInvoice, request, buyer, None)

    (line,) = explained.lines
    assert (line.rate.gst_rate_milli, line.rate.kind, line.rate.HasField("valid_to_date")) == (
        18_000,
        "STANDARD",
        False,
    )
    figures = {figure.field: (figure.amount_paise, figure.rule) for figure in (*line.figures, *explained.totals)}
    assert figures["invoice.lines[0].igst_paise"] == (180_000, "G39")
    assert figures["invoice.totals.total_paise"] == (invoice.totals.total_paise, "G48")
    assert explained.inter_state_why.startswith("G24")
    assert explained.heads == "IGST"


async def test_a_proposed_invoice_is_explained_as_it_would_be_issued(market):
    """The seller comes from the token; nothing is stored."""
    seller = await market.register("27")
    proposed = market.invoice("27AAPFU0939F1ZV", market.line()).invoice

    explained = await market.call(
        market.invoices.ExplainInvoice, pb.ExplainInvoiceRequest(invoice=proposed), seller, None
    )

    assert (explained.heads, explained.inter_state) == ("CGST and SGST", False)
    mine = "SELECT 1 FROM invoice WHERE merchant_id = $1::text::uuid"
    assert await market.sql("invoice", mine, seller.merchant.merchant_id) == []


async def test_an_unlawful_proposal_is_answered_with_its_violations(market):
    """There is nothing to explain; what is wrong is said."""
    seller = await market.register("27")
    proposed = market.invoice("27AAPFU0939F1ZO", market.line()).invoice

    explained = await market.call(
        market.invoices.ExplainInvoice, pb.ExplainInvoiceRequest(invoice=proposed), seller, None
    )

    assert [(v.field, v.code) for v in explained.violations] == [("invoice.buyer.gstin", "GSTIN_CHECKSUM_INVALID")]


async def test_one_of_the_two_is_wanted(market):
    """Neither, or a foreign invoice, is refused."""
    seller, other = await market.register("27"), await market.register("29")
    invoice = await market.issue(seller, market.invoice("29AABCR1718E1ZL", market.line(sku="")))

    neither = await market.refused(market.invoices.ExplainInvoice, pb.ExplainInvoiceRequest(), seller, None)
    assert ("invoice_id", "ONE_OF_TWO") in neither.broken
    request = pb.ExplainInvoiceRequest(invoice_id=invoice.invoice_id)
    assert (await market.refused(market.invoices.ExplainInvoice, request, other, None)).reason == "INVOICE_NOT_FOUND"
