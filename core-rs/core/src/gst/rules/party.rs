//! Rules of seller, buyer and e-commerce operator: registration numbers, roles, states (RULES G1 to G10, G23).

use super::{Found, Rule};
use crate::gst::document::{SupplyType, TaxpayerType};
use crate::gst::facts::{Facts, PartyFault};
use crate::gst::gstin::{Fault, Kind, URP};
use crate::gst::tables::{Liveness, State};

const REGISTRATION: &str =
    "CGST Act 2017, s. 25; CGST Rules 2017, rule 10 (form of the registration number)";

/// Reports this fault for each party that has it.
#[inline(always)]
fn of_parties(facts: &Facts<'_, '_, '_>, found: &mut Found, fault: PartyFault, wanted: &str) {
    if facts.seller.fault == Some(fault) {
        found.at("seller.gstin", facts.document.seller.gstin, wanted);
    }
    if facts.buyer.fault == Some(fault) {
        found.at("buyer.gstin", facts.document.buyer.gstin, wanted);
    }
}

pub const GSTIN_REQUIRED: Rule = Rule::semantics(
    "GSTIN_REQUIRED",
    "G1",
    "CGST Rules 2017, rule 46(a), (d); NIC 2155, 2214",
    |facts, found| {
        of_parties(
            facts,
            found,
            PartyFault::Text(Fault::Required),
            "a GSTIN of 15 characters",
        )
    },
);

pub const GSTIN_LENGTH_INVALID: Rule = Rule::semantics(
    "GSTIN_LENGTH_INVALID",
    "G1",
    "INV-01 Gstin",
    |facts, found| {
        of_parties(
            facts,
            found,
            PartyFault::Text(Fault::Length),
            "exactly 15 characters",
        )
    },
);

pub const GSTIN_FORMAT_INVALID: Rule = Rule::semantics(
    "GSTIN_FORMAT_INVALID",
    "G2",
    REGISTRATION,
    |facts, found| {
        of_parties(
            facts,
            found,
            PartyFault::Text(Fault::Format),
            "the shape of a registration, capitals and digits",
        )
    },
);

pub const GSTIN_STATE_INVALID: Rule = Rule::semantics(
    "GSTIN_STATE_INVALID",
    "G3",
    "CGST Rules 2017, rule 10; NIC 2259, 2260",
    |facts, found| {
        of_parties(
            facts,
            found,
            PartyFault::Text(Fault::State),
            "a state code in front: 01 to 38, 97 or 99",
        )
    },
);

pub const GSTIN_CHECKSUM_INVALID: Rule = Rule::semantics(
    "GSTIN_CHECKSUM_INVALID",
    "G4",
    "check character, modulo 36; NIC 3028",
    |facts, found| {
        let mut judge = |party: Option<PartyFault>, path: &str, gstin: &str| {
            if party == Some(PartyFault::Text(Fault::Checksum)) {
                let right = gstin.get(..14).and_then(crate::gst::gstin::check_char);
                let wanted = right.map_or_else(String::new, |c| {
                    format!("the check character {c}, or other digits")
                });
                found.at(path, gstin, wanted);
            }
        };
        judge(
            facts.seller.fault,
            "seller.gstin",
            facts.document.seller.gstin,
        );
        judge(facts.buyer.fault, "buyer.gstin", facts.document.buyer.gstin);
    },
);

pub const GSTIN_URP_NOT_ALLOWED: Rule = Rule::semantics(
    "GSTIN_URP_NOT_ALLOWED",
    "G6",
    "CGST Act 2017, s. 31; NIC 2212, 2213, 2171",
    |facts, found| {
        of_parties(
            facts,
            found,
            PartyFault::UrpNotAllowed,
            "a registration: this supply is between registered parties",
        )
    },
);

pub const GSTIN_KIND_NOT_ALLOWED: Rule = Rule::semantics(
    "GSTIN_KIND_NOT_ALLOWED",
    "G6",
    "CGST Act 2017, ss. 24, 25, 31; NIC 2300",
    |facts, found| {
        let kind = |kind: Option<Kind>| kind.map_or("", Kind::as_str);
        if facts.seller.fault == Some(PartyFault::KindNotAllowed) {
            found.at(
                "seller.gstin",
                kind(facts.seller.kind),
                "a REGULAR or GOVT registration",
            );
        }
        if facts.buyer.fault == Some(PartyFault::KindNotAllowed) {
            found.at(
                "buyer.gstin",
                kind(facts.buyer.kind),
                "a registration other than NRI and OIDAR",
            );
        }
    },
);

pub const BUYER_MUST_BE_URP: Rule = Rule::semantics(
    "BUYER_MUST_BE_URP",
    "G6",
    "CGST Rules 2017, rule 46(e), (f); NIC 2248",
    |facts, found| {
        if facts.buyer.fault == Some(PartyFault::MustBeUrp) {
            let wanted = if facts.supply == SupplyType::B2c {
                "URP, or no GSTIN"
            } else {
                URP
            };
            found.at("buyer.gstin", facts.document.buyer.gstin, wanted);
        }
    },
);

/// The state as written beside a registration that passed; the state of others is not judged (RULES G8).
#[inline(always)]
fn each_registered_state(
    facts: &Facts<'_, '_, '_>,
    mut judge: impl FnMut(&'static str, &str, &str),
) {
    let document = facts.document;
    if facts.seller.is_registered() {
        judge("seller.state", document.seller.state, document.seller.gstin);
    }
    if facts.buyer.is_registered() {
        judge("buyer.state", document.buyer.state, document.buyer.gstin);
    }
}

pub const STATE_GSTIN_MISMATCH: Rule = Rule::semantics(
    "STATE_GSTIN_MISMATCH",
    "G7",
    "CGST Rules 2017, rule 10; NIC 2258, 2265",
    |facts, found| {
        each_registered_state(facts, |path, state, gstin| {
            if !gstin.starts_with(state) || state.len() != 2 {
                found.at(path, state, format!("{}, as the GSTIN begins", &gstin[..2]));
            }
        });
    },
);

pub const STATE_CODE_WITHDRAWN: Rule = Rule::semantics(
    "STATE_CODE_WITHDRAWN",
    "G8",
    "Notifications 10/2020-CT and 45/2020-CT; Jammu and Kashmir Reorganisation Act 2019; NIC 2259, 2260",
    |facts, found| {
        let states = &facts.context.tables.states;
        each_registered_state(facts, |path, state, _| {
            if let Some(known) = states.get(state) {
                if states.liveness(state, facts.date) != Liveness::Live {
                    let State { name, .. } = known;
                    found.at(path, format!("{state} ({name})"), format!("a state as of {}", facts.date));
                }
            }
        });
    },
);

pub const SELLER_BUYER_SAME: Rule = Rule::semantics(
    "SELLER_BUYER_SAME",
    "G9",
    "CGST Act 2017, s. 7; NIC 2211",
    |facts, found| {
        let document = facts.document;
        if facts.buyer.is_registered() && document.seller.gstin == document.buyer.gstin {
            found.at(
                "buyer.gstin",
                document.buyer.gstin,
                "another registration than the seller's",
            );
        }
    },
);

pub const ECOMMERCE_GSTIN_NOT_TCS: Rule = Rule::semantics(
    "ECOMMERCE_GSTIN_NOT_TCS",
    "G10",
    "CGST Act 2017, s. 52; NIC 2195",
    |facts, found| {
        let text = facts.document.ecommerce_gstin;
        if !text.is_empty() && !facts.ecommerce_is_tcs() {
            found.at(
                "ecommerce_gstin",
                text,
                "a valid registration of the kind TCS",
            );
        }
    },
);

const SEZ: &str = "IGST Act 2017, s. 16(1)(b); NIC 2247, 2246";

pub const BUYER_NOT_SEZ: Rule = Rule::semantics("BUYER_NOT_SEZ", "G23", SEZ, |facts, found| {
    if facts.supply.is_sez()
        && facts.document.buyer.taxpayer_type.known() != Some(TaxpayerType::Sez)
    {
        found.at(
            "supply_type",
            facts.supply.as_str(),
            "a buyer that is an SEZ unit or developer",
        );
    }
});

pub const BUYER_SEZ_NOT_ALLOWED: Rule =
    Rule::semantics("BUYER_SEZ_NOT_ALLOWED", "G23", SEZ, |facts, found| {
        let is_domestic = matches!(facts.supply, SupplyType::B2b | SupplyType::DeemedExport);
        if is_domestic && facts.document.buyer.taxpayer_type.known() == Some(TaxpayerType::Sez) {
            found.at(
                "supply_type",
                facts.supply.as_str(),
                "SEZWP or SEZWOP: the buyer is an SEZ unit or developer",
            );
        }
    });
