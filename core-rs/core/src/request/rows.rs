//! What a checked request becomes: rows for the database, the demand for stock, and the body of the answer.

use compact_str::CompactString;

use crate::contract::{CivilDate, Invoice, Party, Totals};
use crate::gst::{self, Computed, Date};
use crate::wire::Message;

/// Bytes of most bodies without their lines, and of most lines: room made at once. A guess that fails costs a copy.
const BODY_BYTES: usize = 512;
const LINE_BYTES: usize = 192;

/// One row of `invoice_item`. Its texts are short: up to 24 bytes stand in the row itself.
#[derive(Clone, Debug)]
pub struct ItemRow {
    /// Upper case; empty: the line takes no stock.
    pub sku: CompactString,
    pub is_service: bool,
    pub hsn: CompactString,
    pub unit: CompactString,
    pub quantity_milli: Option<i64>,
    pub unit_price_milli: i64,
    pub gst_rate_milli: i64,
    pub discount_paise: i64,
    pub figures: gst::ComputedLine,
}

/// Units of one SKU that the invoice takes; the lines of one SKU are summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StockDemand {
    pub sku: CompactString,
    pub quantity_milli: i64,
    pub unit: CompactString,
}

pub(super) fn item_rows(
    invoice: &Invoice<'_>,
    document: &gst::Document<'_>,
    computed: &Computed,
) -> Vec<ItemRow> {
    let lines = invoice
        .lines
        .iter()
        .zip(&document.lines)
        .zip(&computed.lines);
    lines
        .map(|((asked, line), figures)| ItemRow {
            sku: upper(asked.sku),
            is_service: line.is_service,
            hsn: line.hsn.into(),
            unit: line.unit.into(),
            quantity_milli: line.quantity_milli,
            unit_price_milli: line.unit_price_milli.unwrap_or(0),
            gst_rate_milli: line.gst_rate_milli.unwrap_or(0),
            discount_paise: line.discount_paise.unwrap_or(0),
            figures: *figures,
        })
        .collect()
}

/// SKUs are compared in upper case, and nearly always written so.
fn upper(sku: &str) -> CompactString {
    let mut upper = CompactString::from(sku);
    if sku.bytes().any(|c| c.is_ascii_lowercase()) {
        upper.make_ascii_uppercase();
    }
    upper
}

/// The engine has bounded each quantity (below 10^13) and the lines (1,000), so the sum stays far inside i64.
pub(super) fn stock_of(items: &[ItemRow]) -> Vec<StockDemand> {
    let mut taking: Vec<&ItemRow> = items.iter().filter(|item| !item.sku.is_empty()).collect();
    // Another unit stays a demand of its own: the inventory refuses the one that is not the stock's.
    taking.sort_unstable_by(|a, b| (&a.sku, &a.unit).cmp(&(&b.sku, &b.unit)));
    taking
        .chunk_by(|a, b| (&a.sku, &a.unit) == (&b.sku, &b.unit))
        .map(|same| StockDemand {
            sku: same[0].sku.clone(),
            quantity_milli: same.iter().filter_map(|item| item.quantity_milli).sum(),
            unit: same[0].unit.clone(),
        })
        .collect()
}

/// Fields 2 to 29 of the answer: the request, which becomes it, with the seller as registered and every figure computed.
pub(super) fn body<'a>(
    answer: &mut Invoice<'a>,
    document: &gst::Document<'a>,
    computed: &Computed,
    seller: Option<Party<'a>>,
) -> Vec<u8> {
    answer.number = "";
    answer.series = "";
    answer.doc_type = answer.doc_type.max(1);
    answer.invoice_date = document.date.known().map(civil);
    answer.seller = seller;
    if let Some(buyer) = &mut answer.buyer {
        buyer.state = document.buyer.state;
    }
    for ((line, checked), figures) in answer
        .lines
        .iter_mut()
        .zip(&document.lines)
        .zip(&computed.lines)
    {
        line.serial_number = checked.sl;
        line.gross_paise = Some(figures.gross_paise);
        line.taxable_paise = Some(figures.taxable_paise);
        line.igst_paise = Some(figures.igst_paise);
        line.cgst_paise = Some(figures.cgst_paise);
        line.sgst_paise = Some(figures.sgst_paise);
        line.total_paise = Some(figures.total_paise);
        line.cess_paise = said(line.cess_paise, figures.cess_paise);
        line.cess_nonadvol_paise = said(line.cess_nonadvol_paise, figures.cess_nonadvol_paise);
        line.state_cess_paise = said(line.state_cess_paise, figures.state_cess_paise);
        line.state_cess_nonadvol_paise = said(
            line.state_cess_nonadvol_paise,
            figures.state_cess_nonadvol_paise,
        );
        line.other_charges_paise = said(line.other_charges_paise, figures.other_charges_paise);
    }
    let totals = answer.totals.get_or_insert_with(Totals::default);
    let sums = &computed.totals;
    totals.taxable_paise = Some(sums.taxable_paise);
    totals.igst_paise = Some(sums.igst_paise);
    totals.cgst_paise = Some(sums.cgst_paise);
    totals.sgst_paise = Some(sums.sgst_paise);
    totals.cess_paise = Some(sums.cess_paise);
    totals.state_cess_paise = Some(sums.state_cess_paise);
    totals.discount_paise = Some(sums.discount_paise);
    totals.other_charges_paise = Some(sums.other_charges_paise);
    totals.round_off_paise = Some(sums.round_off_paise);
    totals.total_paise = Some(sums.total_paise);
    let mut out = Vec::with_capacity(BODY_BYTES + LINE_BYTES * answer.lines.len());
    answer.write_fields(&mut out);
    out.shrink_to_fit(); // it waits for the rest of its batch
    out
}

/// A rarely used figure is shown where it was given or is not zero.
fn said(given: Option<i64>, figure: i64) -> Option<i64> {
    (given.is_some() || figure != 0).then_some(figure)
}

fn civil<'a>(date: Date) -> CivilDate<'a> {
    CivilDate {
        year: i32::from(date.year()),
        month: i32::from(date.month()),
        day: i32::from(date.day()),
        ..Default::default()
    }
}
