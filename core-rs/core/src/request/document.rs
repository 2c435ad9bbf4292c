//! The request as the GST engine sees it: what the contract's message says, as a [`gst::Document`].

use crate::contract::{CivilDate, Invoice, InvoiceLine, Party, Totals};
use crate::gst::{self, Date, Given};

use super::{Asked, Profile};

/// The request as the GST engine sees it. What the engine does not know (SKU, names, addresses) stays behind.
pub fn document_of<'a>(invoice: &Invoice<'a>) -> gst::Document<'a> {
    let blank = Party::default();
    let seller = invoice.seller.as_ref().unwrap_or(&blank);
    let buyer = invoice.buyer.as_ref().unwrap_or(&blank);
    gst::Document {
        supply_type: chosen(invoice.supply_type, gst::SupplyType::ALL),
        doc_type: match invoice.doc_type {
            0 => Given::Known(gst::DocType::Invoice),
            number => chosen(number, gst::DocType::ALL),
        },
        number: invoice.number,
        date: day(invoice.invoice_date.as_ref()),
        tax_point: day(invoice.tax_point_date.as_ref()),
        reverse_charge: invoice.reverse_charge,
        igst_on_intra: invoice.igst_on_intra,
        exclude_tax_from_total: invoice.exclude_tax_from_total,
        ecommerce_gstin: invoice.ecommerce_gstin,
        seller: gst::Seller {
            gstin: seller.gstin,
            state: seller.state,
            taxpayer_type: chosen(seller.taxpayer_type, gst::TaxpayerType::ALL),
            aato_paise: Some(seller.annual_turnover_paise),
        },
        buyer: gst::Buyer {
            gstin: buyer.gstin,
            state: buyer.state,
            pos: buyer.place_of_supply,
            taxpayer_type: chosen(buyer.taxpayer_type, gst::TaxpayerType::ALL),
        },
        original: invoice.original.as_ref().map(|original| gst::Original {
            number: original.number,
            date: day(original.invoice_date.as_ref()),
            creditable_paise: original.creditable_paise,
            value_paise: original.value_paise,
        }),
        lines: lines_of(&invoice.lines),
        totals: invoice.totals.as_ref().map(totals_of).unwrap_or_default(),
    }
}

/// An enumeration of the contract: 0 is absent, 1 is the law's first value, and so on.
pub(super) fn chosen<'a, T: Copy>(number: i32, all: &[T]) -> Given<'a, T> {
    match usize::try_from(number) {
        Ok(0) => Given::Absent,
        Ok(number) => all
            .get(number - 1)
            .map_or(Given::Unknown("a value this API does not know"), |v| {
                Given::Known(*v)
            }),
        Err(_) => Given::Unknown("a negative enum value"),
    }
}

pub(super) fn day<'a>(date: Option<&CivilDate<'_>>) -> Given<'a, Date> {
    let Some(date) = date else {
        return Given::Absent;
    };
    let part = |number: i32| u8::try_from(number).ok();
    match (u16::try_from(date.year), part(date.month), part(date.day)) {
        (Ok(year), Some(month), Some(day)) if year <= 9_999 => {
            Date::new(year, month, day).map_or(Given::Unknown("no such day"), Given::Known)
        }
        _ => Given::Unknown("no such day"),
    }
}

fn lines_of<'a>(lines: &[InvoiceLine<'a>]) -> Vec<gst::Line<'a>> {
    let positions = lines.iter().all(|line| line.serial_number.is_empty());
    lines
        .iter()
        .enumerate()
        .map(|(index, line)| gst::Line {
            sl: if positions {
                position(index)
            } else {
                line.serial_number
            },
            is_service: line.is_service,
            hsn: line.hsn,
            quantity_milli: line.quantity_milli,
            unit: line.unit,
            unit_price_milli: line.unit_price_milli,
            gst_rate_milli: line.gst_rate_milli.map(i64::from),
            discount_paise: line.discount_paise,
            cess_rate_milli: line.cess_rate_milli.map(i64::from),
            cess_per_unit_milli: line.cess_per_unit_milli,
            cess_nonadvol_paise: line.cess_nonadvol_paise,
            state_cess_rate_milli: line.state_cess_rate_milli.map(i64::from),
            state_cess_nonadvol_paise: line.state_cess_nonadvol_paise,
            other_charges_paise: line.other_charges_paise,
            rsp_paise: line.rsp_paise,
            claims: gst::LineClaims {
                gross_paise: line.gross_paise,
                taxable_paise: line.taxable_paise,
                igst_paise: line.igst_paise,
                cgst_paise: line.cgst_paise,
                sgst_paise: line.sgst_paise,
                cess_paise: line.cess_paise,
                state_cess_paise: line.state_cess_paise,
                total_paise: line.total_paise,
            },
        })
        .collect()
}

fn totals_of<'a>(totals: &Totals<'_>) -> gst::Totals<'a> {
    gst::Totals {
        discount_paise: totals.discount_paise,
        other_charges_paise: totals.other_charges_paise,
        round_off_paise: totals.round_off_paise,
        round_off_mode: chosen(totals.round_off_mode, gst::RoundOffMode::ALL),
        claims: gst::TotalsClaims {
            taxable_paise: totals.taxable_paise,
            igst_paise: totals.igst_paise,
            cgst_paise: totals.cgst_paise,
            sgst_paise: totals.sgst_paise,
            cess_paise: totals.cess_paise,
            state_cess_paise: totals.state_cess_paise,
            total_paise: totals.total_paise,
        },
    }
}

/// The serial number of a line that came without one: its position, from 1.
fn position(index: usize) -> &'static str {
    static POSITIONS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let positions = POSITIONS.get_or_init(|| (1..=1_001).map(|n| n.to_string()).collect());
    positions[index.min(1_000)].as_str()
}

/// Puts in what the registration knows: the seller wholly, of the buyer what was left out.
pub(super) fn fill<'a>(
    document: &mut gst::Document<'a>,
    asked: &'a Asked<'_>,
    buyer: Option<&Profile>,
    invoice: &Invoice<'a>,
) {
    document.seller = gst::Seller {
        gstin: &asked.seller.gstin,
        state: &asked.seller.state,
        taxpayer_type: chosen(asked.seller.taxpayer_type, gst::TaxpayerType::ALL),
        aato_paise: Some(asked.seller.annual_turnover_paise),
    };
    if invoice.invoice_date.is_none() {
        document.date = Given::Known(asked.today);
    }
    if let Some(profile) = buyer {
        if document.buyer.taxpayer_type == Given::Absent {
            document.buyer.taxpayer_type = chosen(profile.taxpayer_type, gst::TaxpayerType::ALL);
        }
    }
    if document.buyer.state.is_empty()
        && document.buyer.gstin.len() == 15
        && document.buyer.gstin.is_ascii()
    {
        document.buyer.state = &document.buyer.gstin[..2];
    }
}
