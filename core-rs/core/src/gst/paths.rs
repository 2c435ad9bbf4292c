//! One field, two names: the neutral one of the vectors and RULES, and the one of the API. This is the only map.

use super::PathForm;

/// Neutral field name, field name in the API. Fields that are not listed keep their name.
const FIELDS: &[(&str, &str)] = &[
    ("date", "invoice_date"),
    ("tax_point", "tax_point_date"),
    ("items", "lines"),
    ("sl", "serial_number"),
    ("pos", "place_of_supply"),
    ("aato_crore", "annual_turnover_paise"),
    ("qty", "quantity_milli"),
    ("unit_price", "unit_price_milli"),
    ("gst_rate", "gst_rate_milli"),
    ("cess_rate", "cess_rate_milli"),
    ("cess_per_unit", "cess_per_unit_milli"),
    ("state_cess_rate", "state_cess_rate_milli"),
    ("discount", "discount_paise"),
    ("cess_nonadvol", "cess_nonadvol_paise"),
    ("state_cess_nonadvol", "state_cess_nonadvol_paise"),
    ("other_charges", "other_charges_paise"),
    ("rsp", "rsp_paise"),
    ("gross", "gross_paise"),
    ("taxable", "taxable_paise"),
    ("igst", "igst_paise"),
    ("cgst", "cgst_paise"),
    ("sgst", "sgst_paise"),
    ("cess", "cess_paise"),
    ("state_cess", "state_cess_paise"),
    ("total", "total_paise"),
    ("round_off", "round_off_paise"),
    ("creditable", "creditable_paise"),
    ("value", "value_paise"),
];

/// A neutral path as the context names it: `items[2].qty` is `invoice.lines[2].quantity_milli`.
pub fn in_form(neutral: String, form: PathForm) -> String {
    match form {
        PathForm::Neutral => neutral,
        PathForm::Api => {
            let mut path = String::from("invoice");
            for element in neutral.split('.') {
                let (name, index) = element.split_at(element.find('[').unwrap_or(element.len()));
                let named = FIELDS
                    .iter()
                    .find(|(neutral, _)| *neutral == name)
                    .map_or(name, |(_, api)| api);
                path.push('.');
                path.push_str(named);
                path.push_str(index);
            }
            path
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neutral_paths_become_paths_of_the_api() {
        for (neutral, api) in [
            ("items[2].qty", "invoice.lines[2].quantity_milli"),
            ("items", "invoice.lines"),
            ("items[0].sl", "invoice.lines[0].serial_number"),
            ("items[0].hsn", "invoice.lines[0].hsn"),
            ("buyer.pos", "invoice.buyer.place_of_supply"),
            ("date", "invoice.invoice_date"),
            ("original.date", "invoice.original.invoice_date"),
            ("original", "invoice.original"),
            ("totals.round_off_mode", "invoice.totals.round_off_mode"),
            ("totals.round_off", "invoice.totals.round_off_paise"),
            ("seller.gstin", "invoice.seller.gstin"),
            ("number", "invoice.number"),
        ] {
            assert_eq!(in_form(neutral.to_owned(), PathForm::Api), api);
            assert_eq!(in_form(neutral.to_owned(), PathForm::Neutral), neutral);
        }
    }

    #[test]
    fn every_path_of_the_api_is_a_field_of_its_contract() {
        let proto =
            include_str!("../../../../proto/invochain/api/invoice/v1/invoice_service.proto");
        for (_, api) in FIELDS {
            assert!(proto.contains(&format!(" {api} = ")), "{api}");
        }
    }
}
