//! What the rules need to know of a document whose structure is sound, worked out once.

use super::date::Date;
use super::document::{DocType, Document, Line, Original, SupplyType, TaxpayerType};
use super::gstin::{Fault, Gstin, Kind};
use super::hsn::Hsn;
use super::outcome::SupplySplit;
use super::tables::{Liveness, RateFault, Tables};
use super::Context;

/// Why a party's registration does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyFault {
    Text(Fault),
    UrpNotAllowed,
    KindNotAllowed,
    MustBeUrp,
}

/// How a party's registration was judged: G1 to G6, the first fault only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartyFacts {
    pub fault: Option<PartyFault>,
    /// `None` for `URP`, and where the text is no registration.
    pub kind: Option<Kind>,
}

impl PartyFacts {
    /// A registration that passed.
    #[inline]
    pub fn is_registered(self) -> bool {
        self.fault.is_none() && self.kind.is_some()
    }

    fn refused(fault: PartyFault) -> PartyFacts {
        PartyFacts {
            fault: Some(fault),
            kind: None,
        }
    }

    #[inline]
    fn of_registered(text: &str, tables: &Tables, suits: impl FnOnce(Kind) -> bool) -> PartyFacts {
        match Gstin::read(text, tables) {
            Err(fault) => PartyFacts::refused(PartyFault::Text(fault)),
            Ok(Gstin::Unregistered) => PartyFacts::refused(PartyFault::UrpNotAllowed),
            Ok(Gstin::Registered { kind, .. }) => PartyFacts {
                fault: (!suits(kind)).then_some(PartyFault::KindNotAllowed),
                kind: Some(kind),
            },
        }
    }

    #[inline]
    fn of_seller(text: &str, tables: &Tables) -> PartyFacts {
        PartyFacts::of_registered(text, tables, |kind| {
            matches!(kind, Kind::Regular | Kind::Govt)
        })
    }

    #[inline]
    fn of_buyer(text: &str, supply: SupplyType, tables: &Tables) -> PartyFacts {
        if supply.needs_buyer_gstin() {
            return PartyFacts::of_registered(text, tables, |kind| {
                !matches!(kind, Kind::Nri | Kind::Oidar)
            });
        }
        let may_be_absent = supply == SupplyType::B2c;
        if text == super::gstin::URP || (may_be_absent && text.is_empty()) {
            return PartyFacts::default();
        }
        PartyFacts::refused(PartyFault::MustBeUrp)
    }
}

/// Why a place of supply does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceFault {
    Required,
    MustBe96,
    Not96,
    Withdrawn,
    Invalid,
}

#[inline]
fn place_fault(pos: &str, supply: SupplyType, date: Date, tables: &Tables) -> Option<PlaceFault> {
    if pos.is_empty() {
        return Some(PlaceFault::Required);
    }
    match (supply.is_export(), pos == "96") {
        (true, is_96) => (!is_96).then_some(PlaceFault::MustBe96),
        (false, true) => Some(PlaceFault::Not96),
        (false, false) => match tables.states.liveness(pos, date) {
            Liveness::Live => None,
            Liveness::Withdrawn => Some(PlaceFault::Withdrawn),
            Liveness::NotYet | Liveness::NoPlace => Some(PlaceFault::Invalid),
        },
    }
}

/// A document whose structure is sound.
#[derive(Clone, Copy)]
pub struct Facts<'d, 'a, 't> {
    pub document: &'d Document<'a>,
    pub context: &'d Context<'t>,
    pub supply: SupplyType,
    pub doc_type: DocType,
    pub date: Date,
    /// Of a note that names its original in full.
    pub original_date: Option<Date>,
    /// Decides rate, cess and retail-price rules; never before GST began (RULES G17, G70).
    pub tax_date: Date,
    pub seller: PartyFacts,
    pub buyer: PartyFacts,
    pub place_fault: Option<PlaceFault>,
    pub inter_state: bool,
}

impl<'d, 'a, 't> Facts<'d, 'a, 't> {
    /// `None` only if the structure was not checked before.
    #[inline]
    pub(super) fn of(
        document: &'d Document<'a>,
        context: &'d Context<'t>,
    ) -> Option<Facts<'d, 'a, 't>> {
        let (supply, doc_type) = (document.supply_type.known()?, document.doc_type.known()?);
        let date = document.date.known()?;
        let of_original = document.original.as_ref().filter(|_| doc_type.is_note());
        let tax_date = document
            .tax_point
            .known()
            .or_else(|| of_original.and_then(|original| original.date.known()))
            .unwrap_or(date)
            .max(Date::GST_BEGAN);
        let inter_state = supply.is_sez()
            || supply.is_export()
            || document.seller.taxpayer_type.known() == Some(TaxpayerType::Sez)
            || document.igst_on_intra
            || document.seller.state != document.buyer.pos;
        Some(Facts {
            document,
            context,
            supply,
            doc_type,
            date,
            original_date: of_original
                .filter(|original| !original.number.is_empty())
                .and_then(|original| original.date.known()),
            tax_date,
            seller: PartyFacts::of_seller(document.seller.gstin, context.tables),
            buyer: PartyFacts::of_buyer(document.buyer.gstin, supply, context.tables),
            place_fault: place_fault(document.buyer.pos, supply, date, context.tables),
            inter_state,
        })
    }

    /// The original, if it is named.
    pub fn original(&self) -> Option<&'d Original<'a>> {
        self.document
            .original
            .as_ref()
            .filter(|original| !original.number.is_empty())
    }

    pub fn ecommerce_is_tcs(&self) -> bool {
        let read = Gstin::read(self.document.ecommerce_gstin, self.context.tables);
        matches!(
            read,
            Ok(Gstin::Registered {
                kind: Kind::Tcs,
                ..
            })
        )
    }

    /// Which heads the tax falls under; the local half is UTGST where the place of supply says so (RULES G24, G27).
    #[inline]
    pub fn split(&self) -> SupplySplit {
        let is_utgst = || {
            self.context
                .tables
                .states
                .get(self.document.buyer.pos)
                .is_some_and(|state| state.utgst)
        };
        match self.inter_state {
            true => SupplySplit::Integrated,
            false if is_utgst() => SupplySplit::CentralAndUnionTerritory,
            false => SupplySplit::CentralAndState,
        }
    }

    /// Tax on the printed retail price instead of the taxable value (RULES G35).
    #[inline]
    pub fn is_on_retail_price(&self, rate_milli: i64, hsn: Hsn) -> bool {
        self.context
            .tables
            .goods
            .on_retail_price(rate_milli, self.tax_date, hsn)
    }

    /// A line of quantity 0 on a note changes only the value: its gross is given, not computed (RULES G32).
    #[inline]
    pub fn is_value_only(&self, line: &Line<'_>) -> bool {
        self.doc_type.is_note() && line.quantity_milli == Some(0)
    }
}

/// A line whose structure is sound.
#[derive(Clone, Copy)]
pub struct LineFacts<'d, 'a> {
    pub index: usize,
    pub line: &'d Line<'a>,
    pub hsn: Hsn,
    pub rate_milli: i64,
    pub rate_fault: Option<RateFault>,
    pub is_on_retail_price: bool,
}

impl<'d, 'a> LineFacts<'d, 'a> {
    /// `None` only if the structure was not checked before.
    #[inline]
    pub(super) fn of(
        facts: &Facts<'_, '_, '_>,
        index: usize,
        line: &'d Line<'a>,
    ) -> Option<LineFacts<'d, 'a>> {
        let (hsn, rate_milli) = (Hsn::parse(line.hsn)?, line.gst_rate_milli?);
        let rate_fault = facts
            .context
            .tables
            .rates
            .look_up(rate_milli, facts.tax_date, hsn)
            .err();
        let is_on_retail_price = facts.is_on_retail_price(rate_milli, hsn);
        Some(LineFacts {
            index,
            line,
            hsn,
            rate_milli,
            rate_fault,
            is_on_retail_price,
        })
    }
}
