//! Rules of the place of supply and of tax heads (RULES G8, G21, G22, G25). Of one place only the first fault is told.

use super::Rule;
use crate::gst::facts::{Facts, PlaceFault};

const PLACE: &str = "CGST Rules 2017, rule 46(n); IGST Act 2017, ss. 10 to 13; NIC 2243";

#[inline(always)]
fn has(facts: &Facts<'_, '_, '_>, fault: PlaceFault) -> bool {
    facts.place_fault == Some(fault)
}

pub const POS_REQUIRED: Rule = Rule::semantics("POS_REQUIRED", "G21", PLACE, |facts, found| {
    if has(facts, PlaceFault::Required) {
        found.at("buyer.pos", "", "the two-digit code of the place of supply");
    }
})
.never_waived();

pub const POS_MUST_BE_96: Rule = Rule::semantics(
    "POS_MUST_BE_96",
    "G22",
    "IGST Act 2017, s. 2(5), (6), s. 11; NIC 2229, 2232",
    |facts, found| {
        if has(facts, PlaceFault::MustBe96) {
            found.at("buyer.pos", facts.document.buyer.pos, "96 for exports");
        }
    },
);

pub const POS_96_NOT_ALLOWED: Rule = Rule::semantics(
    "POS_96_NOT_ALLOWED",
    "G22",
    "IGST Act 2017, s. 11; NIC 2242",
    |facts, found| {
        if has(facts, PlaceFault::Not96) {
            found.at("buyer.pos", "96", "a state: 96 is for exports");
        }
    },
)
.never_waived();

pub const POS_WITHDRAWN: Rule = Rule::semantics(
    "STATE_CODE_WITHDRAWN",
    "G8",
    "Notifications 10/2020-CT and 45/2020-CT; NIC 2243",
    |facts, found| {
        if has(facts, PlaceFault::Withdrawn) {
            found.at(
                "buyer.pos",
                facts.document.buyer.pos,
                format!("a state as of {}", facts.date),
            );
        }
    },
);

pub const POS_INVALID: Rule = Rule::semantics("POS_INVALID", "G21", PLACE, |facts, found| {
    if has(facts, PlaceFault::Invalid) {
        found.at(
            "buyer.pos",
            facts.document.buyer.pos,
            format!("a two-digit state code live on {}", facts.date),
        );
    }
})
.never_waived();

pub const BUYER_STATE_MUST_BE_96: Rule = Rule::semantics(
    "BUYER_STATE_MUST_BE_96",
    "G22",
    "IGST Act 2017, s. 2(5); NIC 2261",
    |facts, found| {
        if facts.supply.is_export() && facts.document.buyer.state != "96" {
            found.at("buyer.state", facts.document.buyer.state, "96 for exports");
        }
    },
);

pub const IGST_ON_INTRA_POS_MISMATCH: Rule = Rule::semantics(
    "IGST_ON_INTRA_POS_MISMATCH",
    "G25",
    "IGST Act 2017, s. 7(5); NIC 2262",
    |facts, found| {
        let document = facts.document;
        if document.igst_on_intra && document.seller.state != document.buyer.pos {
            let found_text = format!(
                "seller state {}, place of supply {}",
                document.seller.state, document.buyer.pos
            );
            found.at("igst_on_intra", found_text, "both in one state");
        }
    },
);

pub const IGST_ON_INTRA_REQUIRES_RCM: Rule = Rule::semantics(
    "IGST_ON_INTRA_REQUIRES_RCM",
    "G25",
    "NIC notes of June 2021; NIC 2263",
    |facts, found| {
        if facts.document.igst_on_intra && !facts.document.reverse_charge {
            found.at("igst_on_intra", "no reverse charge", "reverse charge");
        }
    },
);
