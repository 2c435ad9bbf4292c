//! Goods with a tax rule of their own: compensation cess (RULES G34) and tax on the retail sale price (G35).

use super::sheet::{self, Period, TableFault};
use crate::gst::date::Date;
use crate::gst::hsn::{Hsn, HsnPrefix};

#[derive(Clone, Debug)]
struct GoodsRow {
    is_cess: bool,
    rate_milli: Option<i64>,
    in_force: Period,
    hsn_prefixes: Vec<HsnPrefix>,
    except_prefixes: Vec<HsnPrefix>,
}

impl GoodsRow {
    fn names(&self, hsn: Hsn) -> bool {
        let named =
            self.hsn_prefixes.is_empty() || self.hsn_prefixes.iter().any(|&p| hsn.matches(p));
        named && !self.except_prefixes.iter().any(|&p| hsn.starts_with(p))
    }
}

/// Why a compensation cess is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CessFault {
    NotInForce,
    HsnNotLiable,
}

#[derive(Clone, Debug)]
pub struct GoodsTable {
    cess: Vec<GoodsRow>,
    rsp: Vec<GoodsRow>,
    /// The rates under which the retail sale price can matter: lets nearly every line pass with one comparison.
    rsp_rates: Vec<i64>,
}

impl GoodsTable {
    const HEADER: &'static str =
        "rule,rate_milli,valid_from,valid_to,hsn_prefixes,except_prefixes,note";

    pub(super) fn parse(text: &str) -> Result<GoodsTable, TableFault> {
        let rows = sheet::rows("special_goods", Self::HEADER, text, |row, _| {
            let is_cess = match row.text(0) {
                "CESS" => true,
                "RSP" => false,
                other => return Err(row.fault(other, "CESS or RSP")),
            };
            Ok(GoodsRow {
                is_cess,
                rate_milli: if is_cess {
                    None
                } else {
                    Some(row.rate_milli(1)?)
                },
                in_force: row.period(2, 3)?,
                hsn_prefixes: row.prefixes(4)?,
                except_prefixes: row.prefixes(5)?,
            })
        })?;
        let (cess, rsp): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_cess);
        let rsp_rates = rsp.iter().filter_map(|row| row.rate_milli).collect();
        Ok(GoodsTable {
            cess,
            rsp,
            rsp_rates,
        })
    }

    /// May goods of this code carry compensation cess on this day?
    pub fn cess(&self, tax_date: Date, hsn: Hsn) -> Result<(), CessFault> {
        let day = tax_date.max(Date::GST_BEGAN);
        let mut fault = CessFault::NotInForce;
        for row in self.cess.iter().filter(|row| row.in_force.holds(day)) {
            if row.names(hsn) {
                return Ok(());
            }
            fault = CessFault::HsnNotLiable;
        }
        Err(fault)
    }

    /// Is tax on these goods due on the printed retail sale price?
    #[inline]
    pub fn on_retail_price(&self, rate_milli: i64, tax_date: Date, hsn: Hsn) -> bool {
        self.rsp_rates.contains(&rate_milli)
            && self.rsp.iter().any(|row| {
                row.rate_milli == Some(rate_milli) && row.in_force.holds(tax_date) && row.names(hsn)
            })
    }
}
