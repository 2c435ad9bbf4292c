//! Says where every figure of a document comes from: which rate row, which day, which rule.

use serde::Serialize;

use super::date::Date;
use super::document::{Document, Given, Line, RoundOffMode, SupplyType, TaxpayerType};
use super::facts::Facts;
use super::hsn::Hsn;
use super::outcome::{Computed, ComputedLine, SupplySplit, Violation};
use super::period::FinancialYear;
use super::{check, Context, Mode};
use crate::money::{milli_text, paise_text, short_milli_text};

/// One figure: its neutral path, its amount, the rule that gave it, and the sum in words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedFigure {
    pub path: String,
    pub amount: String,
    pub rule: &'static str,
    pub how: String,
}

/// The row of the rate table that made a rate lawful.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedRate {
    pub rate: String,
    pub in_force_from: String,
    /// Empty: no end.
    pub in_force_to: String,
    pub kind: String,
    pub hsn_prefixes: String,
    pub note: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedLine {
    pub index: usize,
    pub hsn: String,
    /// `None` only for lines that were waived under review.
    pub rate_row: Option<ExplainedRate>,
    pub figures: Vec<ExplainedFigure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub financial_year: String,
    /// The day that decided rates and cess, and why that day (RULES G17).
    pub tax_date: String,
    pub tax_date_why: String,
    pub inter_state: bool,
    /// Why, and which heads follow (RULES G24, G27).
    pub inter_state_why: String,
    pub heads: &'static str,
    /// The date the tables were declared true for.
    pub tables_as_of: String,
    pub lines: Vec<ExplainedLine>,
    pub totals: Vec<ExplainedFigure>,
}

/// Explains a lawful document. Errors: the violations [`check`] finds, for then there is nothing to explain.
pub fn explain(
    document: &Document<'_>,
    context: &Context<'_>,
    prior: Vec<Violation>,
) -> Result<Explanation, Vec<Violation>> {
    let computed = check(document, context, prior)?;
    let Some(facts) = Facts::of(document, context) else {
        return Err(Vec::new());
    };
    let lines = document
        .lines
        .iter()
        .zip(&computed.lines)
        .enumerate()
        .map(|(index, (line, figures))| explain_line(&facts, index, line, figures))
        .collect();
    Ok(Explanation {
        financial_year: FinancialYear::of(facts.date).to_string(),
        tax_date: facts.tax_date.to_string(),
        tax_date_why: tax_date_why(&facts),
        inter_state: facts.inter_state,
        inter_state_why: inter_state_why(&facts),
        heads: match computed.split {
            SupplySplit::Integrated => "IGST",
            SupplySplit::CentralAndState => "CGST and SGST",
            SupplySplit::CentralAndUnionTerritory => "CGST and UTGST (carried in the sgst fields)",
        },
        tables_as_of: context.tables.as_of.to_string(),
        lines,
        totals: explain_totals(&facts, &computed),
    })
}

fn tax_date_why(facts: &Facts<'_, '_, '_>) -> String {
    let document = facts.document;
    let why = match (document.tax_point, &document.original) {
        (Given::Known(_), _) => "the tax point given",
        (_, Some(_)) if facts.doc_type.is_note() => "the date of the original document",
        _ => "the date of the document",
    };
    format!("G17: {why}")
}

fn inter_state_why(facts: &Facts<'_, '_, '_>) -> String {
    let document = facts.document;
    let (from, to) = (document.seller.state, document.buyer.pos);
    let why = if facts.supply.is_sez() || facts.supply.is_export() {
        format!(
            "supply type {} is always inter-state",
            facts.supply.as_str()
        )
    } else if document.seller.taxpayer_type.known() == Some(TaxpayerType::Sez) {
        "the seller is in a special economic zone".to_owned()
    } else if document.igst_on_intra {
        "integrated tax was asked for on an intra-state supply".to_owned()
    } else if facts.inter_state {
        format!("seller state {from} and place of supply {to} differ")
    } else {
        format!("seller state and place of supply are both {to}")
    };
    format!("G24: {why}")
}

fn explain_line(
    facts: &Facts<'_, '_, '_>,
    index: usize,
    line: &Line<'_>,
    figures: &ComputedLine,
) -> ExplainedLine {
    let rate_milli = line.gst_rate_milli.unwrap_or(0);
    let hsn = Hsn::parse(line.hsn);
    let rate_row = hsn.and_then(|hsn| {
        facts
            .context
            .tables
            .rates
            .look_up(rate_milli, facts.tax_date, hsn)
            .ok()
    });
    let on_retail_price = hsn.is_some_and(|hsn| facts.is_on_retail_price(rate_milli, hsn));
    let mut out = Vec::new();
    let claims = line_claims(line);
    let mut tell = |name: &str, paise: i64, rule: &'static str, how: String| {
        let path = format!("items[{index}].{name}");
        let claim = claims.iter().find(|(claimed, _)| *claimed == name);
        let how = stands_as(facts, claim.and_then(|(_, claim)| *claim), how);
        out.push(ExplainedFigure {
            path,
            amount: paise_text(paise),
            rule,
            how,
        });
    };

    tell("gross", figures.gross_paise, "G37", gross_how(facts, line));
    let discount = line.discount_paise.unwrap_or(0);
    let taxable_how = format!(
        "gross {} less discount {}",
        paise_text(figures.gross_paise),
        paise_text(discount)
    );
    tell("taxable", figures.taxable_paise, "G38", taxable_how);
    let rate = short_milli_text(rate_milli);
    let tax_how = |share: &str| match (
        facts.supply.is_without_payment(),
        on_retail_price,
        line.rsp_paise,
    ) {
        (true, ..) => format!(
            "none: {} is a supply without payment of tax",
            facts.supply.as_str()
        ),
        (_, true, Some(rsp)) => format!(
            "{} x retail price {} x {rate} / (100 + {rate}){share}, half up",
            milli_text(line.quantity_milli.unwrap_or(0)),
            paise_text(rsp),
        ),
        _ => format!(
            "{} x {rate} %{share}, half up",
            paise_text(figures.taxable_paise)
        ),
    };
    let tax_rule = match (facts.supply.is_without_payment(), on_retail_price) {
        (true, _) => "G40",
        (_, true) => "G35",
        _ => "G39",
    };
    if facts.inter_state {
        tell("igst", figures.igst_paise, tax_rule, tax_how(""));
    } else {
        tell(
            "cgst",
            figures.cgst_paise,
            tax_rule,
            tax_how(" / 2, rounded by itself"),
        );
        tell(
            "sgst",
            figures.sgst_paise,
            tax_rule,
            tax_how(" / 2, rounded by itself"),
        );
    }
    let percent_of = |rate: Option<i64>| {
        format!(
            "{} x {} %, half up",
            paise_text(figures.taxable_paise),
            short_milli_text(rate.unwrap_or(0))
        )
    };
    if figures.cess_paise != 0 {
        tell(
            "cess",
            figures.cess_paise,
            "G42",
            percent_of(line.cess_rate_milli),
        );
    }
    if figures.cess_nonadvol_paise != 0 {
        let how = match line.cess_per_unit_milli {
            Some(per_unit) => format!("quantity x {} per unit, half up", milli_text(per_unit)),
            None => "as given".to_owned(),
        };
        tell("cess_nonadvol", figures.cess_nonadvol_paise, "G42", how);
    }
    let mut tell_given = |name: &str, paise: i64, rule: &'static str| {
        if paise != 0 {
            tell(name, paise, rule, "as given".to_owned());
        }
    };
    tell_given(
        "state_cess_nonadvol",
        figures.state_cess_nonadvol_paise,
        "G43",
    );
    tell_given("other_charges", figures.other_charges_paise, "G44");
    if figures.state_cess_paise != 0 {
        tell(
            "state_cess",
            figures.state_cess_paise,
            "G43",
            percent_of(line.state_cess_rate_milli),
        );
    }
    tell(
        "total",
        figures.total_paise,
        "G44",
        total_how(facts).to_owned(),
    );
    ExplainedLine {
        index,
        hsn: line.hsn.to_owned(),
        rate_row: rate_row.map(|row| ExplainedRate {
            rate: short_milli_text(row.rate_milli),
            in_force_from: row.in_force.first.to_string(),
            in_force_to: if row.in_force.last == Date::END {
                String::new()
            } else {
                row.in_force.last.to_string()
            },
            kind: row.kind.clone(),
            hsn_prefixes: row.hsn_text.clone(),
            note: row.note.clone(),
        }),
        figures: out,
    }
}

/// The claims of a line that take the place of a calculated figure in `nic`; of gross the words say so themselves.
fn line_claims(line: &Line<'_>) -> [(&'static str, Option<i64>); 8] {
    let claims = &line.claims;
    let per_unit = line.cess_per_unit_milli.and(line.cess_nonadvol_paise);
    [
        ("taxable", claims.taxable_paise),
        ("igst", claims.igst_paise),
        ("cgst", claims.cgst_paise),
        ("sgst", claims.sgst_paise),
        ("cess", claims.cess_paise),
        ("cess_nonadvol", per_unit),
        ("state_cess", claims.state_cess_paise),
        ("total", claims.total_paise),
    ]
}

/// In `nic` an accepted claim is the figure (RULES G51); what would have been calculated stands beside it.
fn stands_as(facts: &Facts<'_, '_, '_>, claim: Option<i64>, how: String) -> String {
    if facts.context.mode == Mode::Nic && claim.is_some() {
        format!("as claimed; calculated: {how}")
    } else {
        how
    }
}

fn gross_how(facts: &Facts<'_, '_, '_>, line: &Line<'_>) -> String {
    let price = milli_text(line.unit_price_milli.unwrap_or(0));
    match line.quantity_milli {
        Some(_) if facts.is_value_only(line) => {
            "as given: a line of quantity 0 changes only the value".to_owned()
        }
        _ if facts.context.mode == Mode::Nic && line.claims.gross_paise.is_some() => {
            "as claimed".to_owned()
        }
        Some(quantity) => format!("{} x {price}, half up", milli_text(quantity)),
        None => format!("one service at {price}, half up"),
    }
}

fn total_how(facts: &Facts<'_, '_, '_>) -> &'static str {
    if facts.document.reverse_charge {
        "taxable + other charges; the buyer pays the tax under reverse charge"
    } else if facts.supply == SupplyType::ExportWithPayment && facts.document.exclude_tax_from_total
    {
        "taxable + other charges; the foreign buyer does not pay the tax"
    } else {
        "taxable + taxes + cesses + other charges"
    }
}

fn explain_totals(facts: &Facts<'_, '_, '_>, computed: &Computed) -> Vec<ExplainedFigure> {
    let totals = &computed.totals;
    let round_off_how = match facts.document.totals.round_off_mode {
        Given::Known(RoundOffMode::NearestRupee) => "to the nearest rupee, 50 paise up",
        _ => "as given",
    };
    let total_how = format!(
        "line totals - discount {} + other charges {} + round-off {}",
        paise_text(totals.discount_paise),
        paise_text(totals.other_charges_paise),
        paise_text(totals.round_off_paise),
    );
    let (sum, both) = ("sum of the lines", "sum of the lines, ad valorem and not");
    let claims = &facts.document.totals.claims;
    [
        (
            "taxable",
            totals.taxable_paise,
            "G45",
            sum,
            claims.taxable_paise,
        ),
        ("igst", totals.igst_paise, "G45", sum, claims.igst_paise),
        ("cgst", totals.cgst_paise, "G45", sum, claims.cgst_paise),
        ("sgst", totals.sgst_paise, "G45", sum, claims.sgst_paise),
        ("cess", totals.cess_paise, "G45", both, claims.cess_paise),
        (
            "state_cess",
            totals.state_cess_paise,
            "G45",
            both,
            claims.state_cess_paise,
        ),
        (
            "round_off",
            totals.round_off_paise,
            "G47",
            round_off_how,
            None,
        ),
        (
            "total",
            totals.total_paise,
            "G48",
            total_how.as_str(),
            claims.total_paise,
        ),
    ]
    .into_iter()
    .map(|(name, paise, rule, how, claim)| ExplainedFigure {
        path: format!("totals.{name}"),
        amount: paise_text(paise),
        rule,
        how: stands_as(facts, claim, how.to_owned()),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gst::{inv01, neutral, PathForm, Tables};
    use serde_json::{json, Value};

    fn explained(value: &Value, mode: Mode) -> Explanation {
        let read = if inv01::is_inv01(value) {
            inv01::read(value)
        } else {
            neutral::read(value)
        }
        .expect("a document");
        let context = Context {
            mode,
            today: None,
            tables: Tables::builtin(),
            form: PathForm::Neutral,
            number_by_server: false,
        };
        explain(&read.document, &context, read.prior).expect("lawful")
    }

    /// `path amount rule how`, of one line and of the totals.
    fn told(explanation: &Explanation) -> Vec<String> {
        let figures = explanation.lines.iter().flat_map(|line| &line.figures);
        figures
            .chain(&explanation.totals)
            .map(|f| format!("{} {} {} {}", f.path, f.amount, f.rule, f.how))
            .collect()
    }

    #[test]
    fn a_payload_of_the_e_invoice_system_is_explained_in_neutral_paths_claims_as_claims() {
        let value = json!({
            "TranDtls": {"SupTyp": "B2B"}, "DocDtls": {"Typ": "INV", "No": "E/1", "Dt": "10/10/2025"},
            "SellerDtls": {"Gstin": "27AAPFU0939F1ZV", "Stcd": "27"},
            "BuyerDtls": {"Gstin": "29AABCR1718E1ZL", "Stcd": "29", "Pos": "29"},
            "ItemList": [{"SlNo": "1", "IsServc": "N", "HsnCd": "610910", "Qty": 3, "Unit": "NOS", "UnitPrice": 33.333,
                "TotAmt": 100, "AssAmt": 100.01, "GstRt": 18, "IgstAmt": 18.5, "OthChrg": 2, "TotItemVal": 120.5}],
            "ValDtls": {"AssVal": 100, "IgstVal": 18, "TotInvVal": 120},
        });
        assert_eq!(
            told(&explained(&value, Mode::Nic)),
            [
                "items[0].gross 100.00 G37 as claimed",
                "items[0].taxable 100.01 G38 as claimed; calculated: gross 100.00 less discount 0.00",
                "items[0].igst 18.50 G39 as claimed; calculated: 100.01 x 18 %, half up",
                "items[0].other_charges 2.00 G44 as given",
                "items[0].total 120.50 G44 as claimed; calculated: taxable + taxes + cesses + other charges",
                "totals.taxable 100.00 G45 as claimed; calculated: sum of the lines",
                "totals.igst 18.00 G45 as claimed; calculated: sum of the lines",
                "totals.cgst 0.00 G45 sum of the lines",
                "totals.sgst 0.00 G45 sum of the lines",
                "totals.cess 0.00 G45 sum of the lines, ad valorem and not",
                "totals.state_cess 0.00 G45 sum of the lines, ad valorem and not",
                "totals.round_off 0.00 G47 as given",
                "totals.total 120.00 G48 as claimed; calculated: line totals - discount 0.00 + other charges 0.00 \
                 + round-off 0.00",
            ]
        );
    }

    #[test]
    fn every_way_to_a_figure_has_its_words() {
        let document = json!({
            "supply_type": "B2B", "doc_type": "INV", "number": "E1", "date": "2025-10-10",
            "seller": {"gstin": "27AAPFU0939F1ZV", "state": "27"},
            "buyer": {"gstin": "29AABCR1718E1ZL", "state": "29", "pos": "29"},
            "items": [{"sl": "1", "hsn": "24022090", "qty": "2", "unit": "NOS", "unit_price": "50", "gst_rate": "28",
                "cess_rate": "5", "cess_per_unit": "2.076", "state_cess_rate": "1", "state_cess_nonadvol": "0.50"}],
        });
        let with = |changes: Value| {
            let mut changed = document.clone();
            for (key, value) in changes.as_object().expect("changes") {
                match value.as_object().filter(|_| key != "original") {
                    Some(inner) => {
                        let target = if key == "item" {
                            &mut changed["items"][0]
                        } else {
                            &mut changed[key]
                        };
                        for (key, value) in inner {
                            target[key] = value.clone();
                        }
                    }
                    None => changed[key] = value.clone(),
                }
            }
            explained(&changed, Mode::Strict)
        };
        let plain = with(json!({}));
        for line in [
            "items[0].gross 100.00 G37 2.000 x 50.000, half up",
            "items[0].cess 5.00 G42 100.00 x 5 %, half up",
            "items[0].cess_nonadvol 4.15 G42 quantity x 2.076 per unit, half up",
            "items[0].state_cess 1.00 G43 100.00 x 1 %, half up",
            "items[0].state_cess_nonadvol 0.50 G43 as given",
        ] {
            assert!(told(&plain).iter().any(|told| told == line), "{line}");
        }
        let no_cess = json!({"cess_rate": null, "cess_per_unit": null, "cess_nonadvol": "3"});
        let exported =
            json!({"supply_type": "EXPWP", "buyer": {"gstin": "URP", "state": "96", "pos": "96"}});
        for (changes, words) in [
            (
                json!({"doc_type": "CRN", "original": {"number": "A", "date": "2025-10-01"}, "item": {"qty": "0", "gross": "9"}}),
                "as given: a line of quantity 0 changes only the value",
            ),
            (
                json!({"item": no_cess}),
                "items[0].cess_nonadvol 3.00 G42 as given",
            ),
            (
                json!({"reverse_charge": true}),
                "the buyer pays the tax under reverse charge",
            ),
            (exported.clone(), "taxable + taxes + cesses"),
            (
                json!({"totals": {"round_off_mode": "NEAREST_RUPEE"}}),
                "to the nearest rupee, 50 paise up",
            ),
            (
                json!({"date": "2026-03-01", "item": {"gst_rate": "40", "rsp": "70", "cess_rate": null, "cess_per_unit": null}}),
                "items[0].igst 40.00 G35 2.000 x retail price 70.00 x 40 / (100 + 40), half up",
            ),
            (
                json!({"buyer": {"pos": "27"}}),
                "items[0].sgst 14.00 G39 100.00 x 28 % / 2, rounded by itself, half up",
            ),
            (
                json!({"item": {"is_service": true, "hsn": "998314", "gst_rate": "18", "qty": null, "cess_rate": null,
                "cess_per_unit": null}}),
                "one service at 50.000, half up",
            ),
        ] {
            let told = told(&with(changes.clone()));
            assert!(
                told.iter().any(|told| told.contains(words)),
                "{changes}: {told:#?}"
            );
        }
        let mut without_tax = exported.clone();
        without_tax["exclude_tax_from_total"] = json!(true);
        assert!(told(&with(without_tax))
            .iter()
            .any(|told| told.contains("the foreign buyer does not pay")));
        let mut unpaid = exported.clone();
        unpaid["supply_type"] = json!("EXPWOP");
        assert!(told(&with(unpaid))
            .iter()
            .any(|told| told.ends_with("G40 none: EXPWOP is a supply without payment of tax")));

        for (changes, why, heads) in [
            (
                json!({}),
                "G24: seller state 27 and place of supply 29 differ",
                "IGST",
            ),
            (
                exported,
                "G24: supply type EXPWP is always inter-state",
                "IGST",
            ),
            (
                json!({"seller": {"taxpayer_type": "SEZ"}, "buyer": {"pos": "27"}}),
                "G24: the seller is in a special economic zone",
                "IGST",
            ),
            (
                json!({"igst_on_intra": true, "reverse_charge": true, "buyer": {"pos": "27"}}),
                "G24: integrated tax was asked for on an intra-state supply",
                "IGST",
            ),
            (
                json!({"buyer": {"pos": "27"}}),
                "G24: seller state and place of supply are both 27",
                "CGST and SGST",
            ),
        ] {
            let explanation = with(changes);
            assert_eq!(
                (explanation.inter_state_why.as_str(), explanation.heads),
                (why, heads)
            );
        }
        let note =
            with(json!({"doc_type": "DBN", "original": {"number": "A", "date": "2025-10-01"}}));
        assert_eq!(
            (note.tax_date.as_str(), note.tax_date_why.as_str()),
            ("2025-10-01", "G17: the date of the original document")
        );
        assert_eq!(plain.tax_date_why, "G17: the date of the document");
        assert_eq!(plain.financial_year, "2025-26");
        let row = plain.lines[0].rate_row.as_ref().expect("a row");
        assert_eq!(
            (row.rate.as_str(), row.in_force_to.as_str()),
            ("28", "2026-01-31")
        );
        assert_eq!(
            with(json!({"item": {"gst_rate": "18"}})).lines[0]
                .rate_row
                .as_ref()
                .expect("a row")
                .in_force_to,
            ""
        );
    }

    #[test]
    fn a_figure_is_traced_to_its_row_its_day_and_its_rule() {
        let value = json!({
            "supply_type": "B2B", "doc_type": "INV", "number": "E1", "date": "2025-09-25", "tax_point": "2025-09-20",
            "seller": {"gstin": "27AAPFU0939F1ZV", "state": "27"},
            "buyer": {"gstin": "27AABCR1718E1ZP", "state": "27", "pos": "27"},
            "items": [{"sl": "1", "hsn": "610910", "qty": "2", "unit": "NOS", "unit_price": "50", "gst_rate": "12"}],
        });
        let told = explained(&value, Mode::Strict);
        assert_eq!(
            (told.tax_date.as_str(), told.tax_date_why.as_str()),
            ("2025-09-20", "G17: the tax point given")
        );
        assert_eq!(
            told.inter_state_why,
            "G24: seller state and place of supply are both 27"
        );
        let line = &told.lines[0];
        assert_eq!(
            line.rate_row.as_ref().map(|row| row.in_force_to.as_str()),
            Some("2025-09-21")
        );
        let cgst = line
            .figures
            .iter()
            .find(|figure| figure.path == "items[0].cgst")
            .expect("a figure");
        assert_eq!((cgst.amount.as_str(), cgst.rule), ("6.00", "G39"));
        assert_eq!(cgst.how, "100.00 x 12 % / 2, rounded by itself, half up");
        let total = told.totals.last().expect("a total");
        assert_eq!(
            (total.path.as_str(), total.amount.as_str()),
            ("totals.total", "112.00")
        );
    }
}
