//! Reads the neutral JSON form of a document: decimal texts, ISO dates (tests/vectors/gst/README.md).

use serde_json::Value;

use super::document::{
    Buyer, Date, DocType, Document, Given, Line, LineClaims, Original, RoundOffMode, Seller,
    SupplyType, TaxpayerType, Totals, TotalsClaims,
};
use super::outcome::Violation;
use super::reading::{Fields, Malformed};
use crate::money::DecimalField;

/// A document and what its reader already found wrong with its numbers: hand both to [`check`](super::check).
#[derive(Debug, Default)]
pub struct Read<'a> {
    pub document: Document<'a>,
    pub prior: Vec<Violation>,
}

/// Reads one document. Errors: the JSON has another shape than a document; everything else is left to the rules.
pub fn read(value: &Value) -> Result<Read<'_>, Malformed> {
    let mut prior = Vec::new();
    let top = Fields::document(value)?;
    let seller = top.object("seller", "seller")?;
    let buyer = top.object("buyer", "buyer")?;
    let original = top.object("original", "original")?;
    let lines = top
        .array("items", "items")?
        .iter()
        .enumerate()
        .map(|(index, item)| {
            line(
                &Fields::of(Some(item), format!("items[{index}]"))?,
                &mut prior,
            )
        })
        .collect::<Result<Vec<_>, Malformed>>()?;
    let document = Document {
        supply_type: Given::read(top.text("supply_type"), SupplyType::parse),
        doc_type: Given::read(top.text("doc_type"), DocType::parse),
        number: top.text("number"),
        date: top.date("date", Date::parse_iso),
        tax_point: top.date("tax_point", Date::parse_iso),
        reverse_charge: top.flag("reverse_charge")?,
        igst_on_intra: top.flag("igst_on_intra")?,
        exclude_tax_from_total: top.flag("exclude_tax_from_total")?,
        ecommerce_gstin: top.text("ecommerce_gstin"),
        seller: Seller {
            gstin: seller.text("gstin"),
            state: seller.text("state"),
            taxpayer_type: Given::read(seller.text("taxpayer_type"), TaxpayerType::parse),
            aato_paise: seller.decimal("aato_crore", "aato_crore", DecimalField::CRORE, &mut prior),
        },
        buyer: Buyer {
            gstin: buyer.text("gstin"),
            state: buyer.text("state"),
            pos: buyer.text("pos"),
            taxpayer_type: Given::read(buyer.text("taxpayer_type"), TaxpayerType::parse),
        },
        original: if original.is_empty() {
            None
        } else {
            Some(Original {
                number: original.text("number"),
                date: original.date("date", Date::parse_iso),
                creditable_paise: original.decimal(
                    "creditable",
                    "creditable",
                    DecimalField::DOCUMENT,
                    &mut prior,
                ),
                value_paise: original.decimal("value", "value", DecimalField::DOCUMENT, &mut prior),
            })
        },
        lines,
        totals: totals(&top.object("totals", "totals")?, &mut prior),
    };
    Ok(Read { document, prior })
}

fn line<'a>(item: &Fields<'a>, prior: &mut Vec<Violation>) -> Result<Line<'a>, Malformed> {
    let mut number = |name: &str, field: DecimalField| item.decimal(name, name, field, prior);
    Ok(Line {
        sl: item.text("sl"),
        is_service: item.flag("is_service")?,
        hsn: item.text("hsn"),
        quantity_milli: number("qty", DecimalField::QUANTITY),
        unit: item.text("unit"),
        unit_price_milli: number("unit_price", DecimalField::PRICE),
        gst_rate_milli: number("gst_rate", DecimalField::RATE),
        discount_paise: number("discount", DecimalField::ITEM),
        cess_rate_milli: number("cess_rate", DecimalField::RATE),
        cess_per_unit_milli: number("cess_per_unit", DecimalField::PRICE),
        cess_nonadvol_paise: number("cess_nonadvol", DecimalField::ITEM),
        state_cess_rate_milli: number("state_cess_rate", DecimalField::RATE),
        state_cess_nonadvol_paise: number("state_cess_nonadvol", DecimalField::ITEM),
        other_charges_paise: number("other_charges", DecimalField::ITEM),
        rsp_paise: number("rsp", DecimalField::ITEM),
        claims: LineClaims {
            gross_paise: number("gross", DecimalField::ITEM),
            taxable_paise: number("taxable", DecimalField::ITEM),
            igst_paise: number("igst", DecimalField::ITEM),
            cgst_paise: number("cgst", DecimalField::ITEM),
            sgst_paise: number("sgst", DecimalField::ITEM),
            cess_paise: number("cess", DecimalField::ITEM),
            state_cess_paise: number("state_cess", DecimalField::ITEM),
            total_paise: number("total", DecimalField::ITEM),
        },
    })
}

fn totals<'a>(given: &Fields<'a>, prior: &mut Vec<Violation>) -> Totals<'a> {
    let mut number = |name: &str, field: DecimalField| given.decimal(name, name, field, prior);
    Totals {
        discount_paise: number("discount", DecimalField::DOCUMENT),
        other_charges_paise: number("other_charges", DecimalField::DOCUMENT),
        round_off_paise: number("round_off", DecimalField::ROUND_OFF),
        round_off_mode: Given::read(given.text("round_off_mode"), RoundOffMode::parse),
        claims: TotalsClaims {
            taxable_paise: number("taxable", DecimalField::DOCUMENT),
            igst_paise: number("igst", DecimalField::DOCUMENT),
            cgst_paise: number("cgst", DecimalField::DOCUMENT),
            sgst_paise: number("sgst", DecimalField::DOCUMENT),
            cess_paise: number("cess", DecimalField::DOCUMENT),
            state_cess_paise: number("state_cess", DecimalField::DOCUMENT),
            total_paise: number("total", DecimalField::DOCUMENT),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn null_is_absent_and_other_types_are_refused_by_the_rule_or_by_the_reader() {
        let value = json!({"number": null, "items": [{"sl": 1, "qty": 2, "hsn": null, "rsp": "1.005"}], "original": {}});
        let read = read(&value).expect("the shape of a document");
        assert_eq!((read.document.number, read.document.original), ("", None));
        assert_eq!(read.document.lines[0].sl, super::super::reading::NOT_A_TEXT);
        let told: Vec<_> = read
            .prior
            .iter()
            .map(|v| (v.code, v.path.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("NUMBER_FORMAT_INVALID", "items[0].qty"),
                ("PRECISION_EXCEEDED", "items[0].rsp")
            ]
        );
        for (value, path) in [
            (json!([]), "document"),
            (json!(null), "document"),
            (json!({"items": {}}), "items"),
            (json!({"items": [3]}), "items[0]"),
            (json!({"seller": "x"}), "seller"),
            (json!({"reverse_charge": "yes"}), "reverse_charge"),
            (json!({"items": [{"is_service": 1}]}), "items[0].is_service"),
        ] {
            assert_eq!(super::read(&value).expect_err("malformed").path, path);
        }
    }
}
