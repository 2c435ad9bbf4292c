//! Reads INV-01, the JSON of the e-invoice system (RULES G54): JSON numbers, `DD/MM/YYYY`, `Y` and `N`.
//!
//! Numbers are taken from their digits as written, so no float comes near. What INV-01 does not say is settled by what
//! it implies: a supply to an SEZ has an SEZ buyer.

use serde_json::Value;

use super::document::{
    Buyer, Date, DocType, Document, Given, Line, LineClaims, Original, Seller, SupplyType,
    TaxpayerType, Totals, TotalsClaims,
};
use super::neutral::Read;
use super::outcome::Violation;
use super::reading::{Fields, Malformed};
use crate::money::DecimalField;

/// Does this JSON look like INV-01 rather than the neutral form?
pub fn is_inv01(value: &Value) -> bool {
    value.get("DocDtls").is_some() || value.get("TranDtls").is_some()
}

/// Reads one INV-01 payload. Paths in violations are neutral. Errors: the JSON has another shape.
pub fn read(value: &Value) -> Result<Read<'_>, Malformed> {
    let mut prior = Vec::new();
    let top = Fields::document(value)?;
    let transaction = top.object("TranDtls", "")?;
    let header = top.object("DocDtls", "")?;
    let seller = top.object("SellerDtls", "seller")?;
    let buyer = top.object("BuyerDtls", "buyer")?;
    let supply_type = Given::read(transaction.text("SupTyp"), SupplyType::parse);
    let is_sez = supply_type.known().is_some_and(SupplyType::is_sez);
    let preceding = top
        .object("RefDtls", "original")?
        .array("PrecDocDtls", "original")?;
    let original = Fields::of(preceding.first(), "original")?;
    let lines = top
        .array("ItemList", "items")?
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
        supply_type,
        doc_type: Given::read(header.text("Typ"), DocType::parse),
        number: header.text("No"),
        date: header.date("Dt", Date::parse_inv01),
        tax_point: Given::Absent,
        reverse_charge: is_yes(&transaction, "RegRev"),
        igst_on_intra: is_yes(&transaction, "IgstOnIntra"),
        exclude_tax_from_total: false,
        ecommerce_gstin: transaction.text("EcmGstin"),
        seller: Seller {
            gstin: seller.text("Gstin"),
            state: seller.text("Stcd"),
            taxpayer_type: Given::Absent,
            aato_paise: None,
        },
        buyer: Buyer {
            gstin: buyer.text("Gstin"),
            state: buyer.text("Stcd"),
            pos: buyer.text("Pos"),
            taxpayer_type: if is_sez {
                Given::Known(TaxpayerType::Sez)
            } else {
                Given::Absent
            },
        },
        original: (!original.is_empty()).then(|| Original {
            number: original.text("InvNo"),
            date: original.date("InvDt", Date::parse_inv01),
            ..Original::default()
        }),
        lines,
        totals: totals(&top.object("ValDtls", "totals")?, &mut prior),
    };
    Ok(Read { document, prior })
}

fn is_yes(fields: &Fields<'_>, key: &str) -> bool {
    fields.text(key) == "Y"
}

fn line<'a>(item: &Fields<'a>, prior: &mut Vec<Violation>) -> Result<Line<'a>, Malformed> {
    let mut number =
        |key: &str, name: &str, field: DecimalField| item.json_number(key, name, field, prior);
    Ok(Line {
        sl: item.text("SlNo"),
        is_service: is_yes(item, "IsServc"),
        hsn: item.text("HsnCd"),
        quantity_milli: number("Qty", "qty", DecimalField::QUANTITY),
        unit: item.text("Unit"),
        unit_price_milli: number("UnitPrice", "unit_price", DecimalField::PRICE),
        gst_rate_milli: number("GstRt", "gst_rate", DecimalField::RATE),
        discount_paise: number("Discount", "discount", DecimalField::ITEM),
        cess_rate_milli: number("CesRt", "cess_rate", DecimalField::RATE),
        cess_per_unit_milli: None,
        cess_nonadvol_paise: number("CesNonAdvlAmt", "cess_nonadvol", DecimalField::ITEM),
        state_cess_rate_milli: number("StateCesRt", "state_cess_rate", DecimalField::RATE),
        state_cess_nonadvol_paise: number(
            "StateCesNonAdvlAmt",
            "state_cess_nonadvol",
            DecimalField::ITEM,
        ),
        other_charges_paise: number("OthChrg", "other_charges", DecimalField::ITEM),
        rsp_paise: number("Rsp", "rsp", DecimalField::ITEM),
        claims: LineClaims {
            gross_paise: number("TotAmt", "gross", DecimalField::ITEM),
            taxable_paise: number("AssAmt", "taxable", DecimalField::ITEM),
            igst_paise: number("IgstAmt", "igst", DecimalField::ITEM),
            cgst_paise: number("CgstAmt", "cgst", DecimalField::ITEM),
            sgst_paise: number("SgstAmt", "sgst", DecimalField::ITEM),
            cess_paise: number("CesAmt", "cess", DecimalField::ITEM),
            state_cess_paise: number("StateCesAmt", "state_cess", DecimalField::ITEM),
            total_paise: number("TotItemVal", "total", DecimalField::ITEM),
        },
    })
}

fn totals<'a>(given: &Fields<'a>, prior: &mut Vec<Violation>) -> Totals<'a> {
    let mut number =
        |key: &str, name: &str, field: DecimalField| given.json_number(key, name, field, prior);
    Totals {
        discount_paise: number("Discount", "discount", DecimalField::DOCUMENT),
        other_charges_paise: number("OthChrg", "other_charges", DecimalField::DOCUMENT),
        round_off_paise: number("RndOffAmt", "round_off", DecimalField::ROUND_OFF),
        round_off_mode: Given::Absent,
        claims: TotalsClaims {
            taxable_paise: number("AssVal", "taxable", DecimalField::DOCUMENT),
            igst_paise: number("IgstVal", "igst", DecimalField::DOCUMENT),
            cgst_paise: number("CgstVal", "cgst", DecimalField::DOCUMENT),
            sgst_paise: number("SgstVal", "sgst", DecimalField::DOCUMENT),
            cess_paise: number("CesVal", "cess", DecimalField::DOCUMENT),
            state_cess_paise: number("StCesVal", "state_cess", DecimalField::DOCUMENT),
            total_paise: number("TotInvVal", "total", DecimalField::DOCUMENT),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gst::{check, Context, Mode, PathForm, Tables};

    const PAYLOAD: &str = r#"{"Version": "1.1", "TranDtls": {"TaxSch": "GST", "SupTyp": "SEZWP", "RegRev": "N"},
        "DocDtls": {"Typ": "INV", "No": "E/1", "Dt": "10/10/2025"},
        "SellerDtls": {"Gstin": "27AAPFU0939F1ZV", "Stcd": "27"},
        "BuyerDtls": {"Gstin": "27AABCR1718E1ZP", "Stcd": "27", "Pos": "27"},
        "ItemList": [{"SlNo": "1", "IsServc": "N", "HsnCd": "610910", "Qty": 3, "Unit": "NOS", "UnitPrice": 33.333,
            "TotAmt": 100.00, "AssAmt": 100, "GstRt": 18.0, "IgstAmt": 18.00, "TotItemVal": 118}],
        "ValDtls": {"AssVal": 100, "IgstVal": 18, "TotInvVal": 118.0}}"#;

    #[test]
    fn a_payload_of_the_e_invoice_system_is_judged_like_any_document() {
        let value: Value = serde_json::from_str(PAYLOAD).expect("JSON");
        assert!(is_inv01(&value));
        let read = read(&value).expect("INV-01");
        let context = Context {
            mode: Mode::Nic,
            today: None,
            tables: Tables::builtin(),
            form: PathForm::Neutral,
            number_by_server: false,
        };
        let computed = check(&read.document, &context, read.prior).expect("lawful");
        assert_eq!(computed.totals.total_paise, 11_800);
        assert!(computed.inter_state);
    }

    #[test]
    fn every_field_that_a_rule_asks_for_is_carried_over() {
        let text = r#"{"TranDtls": {"SupTyp": "B2B", "RegRev": "Y", "IgstOnIntra": "Y", "EcmGstin": "E"},
            "DocDtls": {"Typ": "CRN", "No": "N/1", "Dt": "31/12/2025"},
            "SellerDtls": {"Gstin": "S", "Stcd": "27"}, "BuyerDtls": {"Gstin": "B", "Stcd": "29", "Pos": "30"},
            "RefDtls": {"PrecDocDtls": [{"InvNo": "N/0", "InvDt": "01/02/2025"}, {"InvNo": "later"}]},
            "ItemList": [{"SlNo": "7", "IsServc": "Y", "HsnCd": "998314", "Qty": 1.001, "Unit": "NOS", "UnitPrice": 1.002,
                "GstRt": 1.003, "Discount": 0.04, "CesRt": 1.005, "CesNonAdvlAmt": 0.06, "StateCesRt": 1.007,
                "StateCesNonAdvlAmt": 0.08, "OthChrg": 0.09, "Rsp": 0.10, "TotAmt": 0.11, "AssAmt": 0.12, "IgstAmt": 0.13,
                "CgstAmt": 0.14, "SgstAmt": 0.15, "CesAmt": 0.16, "StateCesAmt": 0.17, "TotItemVal": 0.18}],
            "ValDtls": {"Discount": 0.21, "OthChrg": 0.22, "RndOffAmt": -0.23, "AssVal": 0.24, "IgstVal": 0.25,
                "CgstVal": 0.26, "SgstVal": 0.27, "CesVal": 0.28, "StCesVal": 0.29, "TotInvVal": 0.30}}"#;
        let value: Value = serde_json::from_str(text).expect("JSON");
        let Read { document, prior } = read(&value).expect("INV-01");
        assert_eq!(prior, []);
        let day = |y, m, d| Date::new(y, m, d).map_or(Given::Absent, Given::Known);
        let line = Line {
            sl: "7",
            is_service: true,
            hsn: "998314",
            quantity_milli: Some(1_001),
            unit: "NOS",
            unit_price_milli: Some(1_002),
            gst_rate_milli: Some(1_003),
            discount_paise: Some(4),
            cess_rate_milli: Some(1_005),
            cess_per_unit_milli: None,
            cess_nonadvol_paise: Some(6),
            state_cess_rate_milli: Some(1_007),
            state_cess_nonadvol_paise: Some(8),
            other_charges_paise: Some(9),
            rsp_paise: Some(10),
            claims: LineClaims {
                gross_paise: Some(11),
                taxable_paise: Some(12),
                igst_paise: Some(13),
                cgst_paise: Some(14),
                sgst_paise: Some(15),
                cess_paise: Some(16),
                state_cess_paise: Some(17),
                total_paise: Some(18),
            },
        };
        let wanted = Document {
            supply_type: Given::Known(SupplyType::B2b),
            doc_type: Given::Known(DocType::CreditNote),
            number: "N/1",
            date: day(2025, 12, 31),
            tax_point: Given::Absent,
            reverse_charge: true,
            igst_on_intra: true,
            exclude_tax_from_total: false,
            ecommerce_gstin: "E",
            seller: Seller {
                gstin: "S",
                state: "27",
                ..Seller::default()
            },
            buyer: Buyer {
                gstin: "B",
                state: "29",
                pos: "30",
                ..Buyer::default()
            },
            original: Some(Original {
                number: "N/0",
                date: day(2025, 2, 1),
                ..Original::default()
            }),
            lines: vec![line],
            totals: Totals {
                discount_paise: Some(21),
                other_charges_paise: Some(22),
                round_off_paise: Some(-23),
                round_off_mode: Given::Absent,
                claims: TotalsClaims {
                    taxable_paise: Some(24),
                    igst_paise: Some(25),
                    cgst_paise: Some(26),
                    sgst_paise: Some(27),
                    cess_paise: Some(28),
                    state_cess_paise: Some(29),
                    total_paise: Some(30),
                },
            },
        };
        assert_eq!(document, wanted);
        assert!(!is_inv01(&serde_json::json!({"doc_type": "INV"})));
        assert!(
            is_inv01(&serde_json::json!({"DocDtls": {}}))
                && is_inv01(&serde_json::json!({"TranDtls": {}}))
        );
    }

    #[test]
    fn a_number_in_another_notation_is_refused_where_it_stands() {
        let value: Value =
            serde_json::from_str(&PAYLOAD.replace("33.333", "3.3333e1")).expect("JSON");
        let read = read(&value).expect("INV-01");
        assert_eq!(read.prior.len(), 1);
        assert_eq!(
            (read.prior[0].code, read.prior[0].path.as_str()),
            ("NUMBER_FORMAT_INVALID", "items[0].unit_price")
        );
    }
}
