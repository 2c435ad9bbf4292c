//! What a decoder hands to the engine: one invoice, credit note or debit note, borrowed from the bytes it came in.
//!
//! Units are in the names: `_paise` is a hundredth of a rupee, `_milli` a thousandth of the natural unit (of a piece,
//! a rupee, a percent). Text that is absent is `""`: law and wire treat an empty text and a missing one alike.
//! A number that is absent is `None`; a number that could not be read is `None` too, and its violation is handed to
//! [`check`](super::check) as `prior`.
//! Every type has a `Default`, which is "nothing was given".
//! Source: RULES.md, sections 3 to 6; field names are those of the neutral format (tests/vectors/gst/README.md).

pub use super::date::Date;

/// A value that came as text: not there, understood, or there but not understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Given<'a, T> {
    #[default]
    Absent,
    Known(T),
    /// Present, and none of the values the law knows: the text as it was found.
    Unknown(&'a str),
}

impl<'a, T: Copy> Given<'a, T> {
    /// Reads a text with `read`; the empty text is absent.
    pub fn read(text: &'a str, read: impl FnOnce(&str) -> Option<T>) -> Self {
        match read(text) {
            Some(value) => Given::Known(value),
            None if text.is_empty() => Given::Absent,
            None => Given::Unknown(text),
        }
    }

    #[inline]
    pub fn known(self) -> Option<T> {
        match self {
            Given::Known(value) => Some(value),
            _ => None,
        }
    }

    /// The text for a refusal: empty where nothing was given.
    pub fn text(&self) -> &'a str {
        match self {
            Given::Unknown(text) => text,
            _ => "",
        }
    }
}

/// A text enumeration of the law: its values, and how they are written.
macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every value, in the order of the law.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// Exactly as the law writes it: case matters, nothing is trimmed.
            #[inline]
            pub fn parse(text: &str) -> Option<$name> {
                match text {
                    $($text => Some($name::$variant),)+
                    _ => None,
                }
            }

            pub const fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)+
                }
            }
        }
    };
}

text_enum! {
    /// What kind of supply a document reports (RULES G12).
    SupplyType {
        B2b = "B2B",
        B2c = "B2C",
        /// To a special economic zone, with payment of integrated tax.
        SezWithPayment = "SEZWP",
        SezWithoutPayment = "SEZWOP",
        ExportWithPayment = "EXPWP",
        ExportWithoutPayment = "EXPWOP",
        DeemedExport = "DEXP",
    }
}

impl SupplyType {
    #[inline]
    pub const fn is_export(self) -> bool {
        matches!(
            self,
            SupplyType::ExportWithPayment | SupplyType::ExportWithoutPayment
        )
    }

    #[inline]
    pub const fn is_sez(self) -> bool {
        matches!(
            self,
            SupplyType::SezWithPayment | SupplyType::SezWithoutPayment
        )
    }

    /// EXPWOP and SEZWOP: the supply carries no tax and no cess (RULES G40).
    #[inline]
    pub const fn is_without_payment(self) -> bool {
        matches!(
            self,
            SupplyType::ExportWithoutPayment | SupplyType::SezWithoutPayment
        )
    }

    /// B2B, SEZWP, SEZWOP and DEXP name a registered buyer (RULES G1).
    #[inline]
    pub const fn needs_buyer_gstin(self) -> bool {
        matches!(self, SupplyType::B2b | SupplyType::DeemedExport) || self.is_sez()
    }
}

text_enum! {
    /// Which document it is (RULES G11). The figures of all three are positive; the type carries the sign (G20).
    DocType {
        Invoice = "INV",
        CreditNote = "CRN",
        DebitNote = "DBN",
    }
}

impl DocType {
    #[inline]
    pub const fn is_note(self) -> bool {
        matches!(self, DocType::CreditNote | DocType::DebitNote)
    }
}

text_enum! {
    /// How the document total meets the whole rupee (RULES G47).
    RoundOffMode {
        None = "NONE",
        NearestRupee = "NEAREST_RUPEE",
    }
}

text_enum! {
    /// What a registered party is, as far as the rules ask (RULES G23, G24, G26, G67).
    TaxpayerType {
        Regular = "REGULAR",
        /// A unit in, or the developer of, a special economic zone.
        Sez = "SEZ",
        /// Input service distributor.
        Isd = "ISD",
        Composition = "COMP",
    }
}

/// One document. `number` is the seller's; dates are days in India.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document<'a> {
    pub supply_type: Given<'a, SupplyType>,
    pub doc_type: Given<'a, DocType>,
    /// The seller's number, as typed (RULES G13). May be empty if the server will give it: `Context::number_by_server`.
    pub number: &'a str,
    pub date: Given<'a, Date>,
    /// The time of supply, where it differs from the date of the document (RULES G17).
    pub tax_point: Given<'a, Date>,
    pub reverse_charge: bool,
    /// Integrated tax although seller and place of supply are in one state (RULES G25).
    pub igst_on_intra: bool,
    /// EXPWP only: the foreign buyer does not pay the tax, so the total leaves it out (RULES G44).
    pub exclude_tax_from_total: bool,
    pub ecommerce_gstin: &'a str,
    pub seller: Seller<'a>,
    pub buyer: Buyer<'a>,
    /// What a credit or debit note corrects.
    pub original: Option<Original<'a>>,
    pub lines: Vec<Line<'a>>,
    pub totals: Totals<'a>,
}

/// Who supplies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seller<'a> {
    pub gstin: &'a str,
    /// Two-digit state code; must equal the first two characters of the GSTIN.
    pub state: &'a str,
    /// Only `Sez` changes anything for a seller; `Unknown` counts as an ordinary taxpayer.
    pub taxpayer_type: Given<'a, TaxpayerType>,
    /// Annual aggregate turnover in paise (1 crore rupees is 10^9 paise); `None` counts as 0.
    pub aato_paise: Option<i64>,
}

/// Who receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buyer<'a> {
    /// A GSTIN, `URP` for an unregistered or foreign party, or empty for a consumer.
    pub gstin: &'a str,
    pub state: &'a str,
    /// Place of supply: two-digit state code, `96` for exports.
    pub pos: &'a str,
    pub taxpayer_type: Given<'a, TaxpayerType>,
}

/// The document a note corrects (RULES G18, G19, G63).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original<'a> {
    pub number: &'a str,
    pub date: Given<'a, Date>,
    /// What may still be credited; a credit note above it is refused.
    pub creditable_paise: Option<i64>,
    /// The original's total: decides B2C large in GSTR-1.
    pub value_paise: Option<i64>,
}

/// One line: what is supplied, and what the sender claims its figures are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line<'a> {
    /// Serial number, 1 to 6 digits, unique as a number.
    pub sl: &'a str,
    pub is_service: bool,
    pub hsn: &'a str,
    pub quantity_milli: Option<i64>,
    /// Unit quantity code (UQC).
    pub unit: &'a str,
    pub unit_price_milli: Option<i64>,
    /// The full rate, also for supplies inside a state: 18 % is 18_000.
    pub gst_rate_milli: Option<i64>,
    pub discount_paise: Option<i64>,
    pub cess_rate_milli: Option<i64>,
    /// Specific cess: milli-rupees per unit.
    pub cess_per_unit_milli: Option<i64>,
    /// An input where `cess_per_unit_milli` is absent, a claim beside it (RULES G42).
    pub cess_nonadvol_paise: Option<i64>,
    pub state_cess_rate_milli: Option<i64>,
    pub state_cess_nonadvol_paise: Option<i64>,
    pub other_charges_paise: Option<i64>,
    /// Printed retail sale price per unit, tax included (RULES G35).
    pub rsp_paise: Option<i64>,
    pub claims: LineClaims,
}

/// Derived figures of a line the sender sent along. In `strict` each must equal ours to the paisa.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineClaims {
    /// An input on value-only note lines, and in `nic` (RULES G32, G51).
    pub gross_paise: Option<i64>,
    pub taxable_paise: Option<i64>,
    pub igst_paise: Option<i64>,
    pub cgst_paise: Option<i64>,
    pub sgst_paise: Option<i64>,
    pub cess_paise: Option<i64>,
    pub state_cess_paise: Option<i64>,
    pub total_paise: Option<i64>,
}

/// What stands under the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals<'a> {
    /// Given after tax (RULES G46).
    pub discount_paise: Option<i64>,
    pub other_charges_paise: Option<i64>,
    /// An input, or a claim under `NearestRupee`; the only figure that may be negative.
    pub round_off_paise: Option<i64>,
    pub round_off_mode: Given<'a, RoundOffMode>,
    pub claims: TotalsClaims,
}

/// Derived figures of the document the sender sent along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalsClaims {
    pub taxable_paise: Option<i64>,
    pub igst_paise: Option<i64>,
    pub cgst_paise: Option<i64>,
    pub sgst_paise: Option<i64>,
    pub cess_paise: Option<i64>,
    pub state_cess_paise: Option<i64>,
    pub total_paise: Option<i64>,
}
