//! How long one request takes, stage by stage, and (under callgrind) how many instructions.
//!
//! `cargo bench -p invochain-core --bench engine` prints nanoseconds a document: the fastest of many rounds, which is
//! what the code costs when nothing disturbs it, and the median. `... -- --count STAGE LINES` runs one stage 1,000 times
//! for `valgrind --tool=callgrind --toggle-collect='*collected*'` (benchmarks/gst/instructions.py). `... -- --serve FILE`
//! runs a stage over the requests of a file each time it is asked, beside other contenders (benchmarks/gst/compare.py).

use std::hint::black_box;
use std::io::BufRead;
use std::time::Instant;

use invochain_core::contract::{
    CivilDate, CreateInvoiceRequest, Invoice, InvoiceLine, Party, Totals,
};
use invochain_core::gst::{check_into, Computed, Context, Date, Mode, PathForm, Tables};
use invochain_core::request::{document_of, draft, read, Asked, Known, Profile};
use invochain_core::wire::Message;

const ROUNDS: usize = 300;
const PER_ROUND: u32 = 200;
const COUNTED: u32 = 1_000;

/// An encoded request with this many lines; every second request of a real client claims its totals, so this one does.
fn request(lines: usize) -> Vec<u8> {
    let serials: Vec<String> = (1..=lines).map(|n| n.to_string()).collect();
    let line = |serial: &'static str| InvoiceLine {
        serial_number: serial,
        sku: "WIDGET-7",
        description: "Widget, blue, boxed",
        hsn: "610910",
        quantity_milli: Some(10_000),
        unit: "NOS",
        unit_price_milli: Some(1_000_000),
        gst_rate_milli: Some(18_000),
        ..Default::default()
    };
    let invoice = Invoice {
        supply_type: 1,
        invoice_date: Some(CivilDate {
            year: 2026,
            month: 10,
            day: 10,
            ..Default::default()
        }),
        buyer: Some(Party {
            gstin: "29AABCR1718E1ZL",
            state: "29",
            place_of_supply: "29",
            legal_name: "Rangoli Retail Private Limited",
            ..Default::default()
        }),
        seller: Some(Party {
            gstin: "27AAPFU0939F1ZV",
            state: "27",
            ..Default::default()
        }),
        number: "INV/26-27/001",
        lines: serials
            .into_iter()
            .map(|serial| line(serial.leak()))
            .collect(),
        totals: Some(Totals {
            total_paise: i64::try_from(lines).ok().map(|lines| 1_180_000 * lines),
            ..Default::default()
        }),
        ..Default::default()
    };
    CreateInvoiceRequest {
        invoice: Some(invoice),
        ..Default::default()
    }
    .encode()
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Decode and fingerprint.
    Read,
    Check,
    /// Read and check: what the law and the identity cost.
    All,
    /// Everything a request becomes before the database is asked (request.rs).
    Draft,
}

const STAGES: [(&str, Stage); 4] = [
    ("read", Stage::Read),
    ("check", Stage::Check),
    ("all", Stage::All),
    ("draft", Stage::Draft),
];

struct Bench {
    raws: Vec<Vec<u8>>,
    context: Context<'static>,
    computed: Computed,
}

impl Bench {
    fn of(raws: Vec<Vec<u8>>) -> Bench {
        let context = Context {
            mode: Mode::Strict,
            today: Date::new(2026, 11, 22),
            tables: Tables::builtin(),
            form: PathForm::Api,
            number_by_server: true,
        };
        Bench {
            raws,
            context,
            computed: Computed::default(),
        }
    }

    /// One stage over every request, `times` over. Only this function is counted by callgrind.
    #[inline(never)]
    fn collected(&mut self, stage: Stage, times: u32) {
        let raws = std::mem::take(&mut self.raws);
        let each = || (0..times).flat_map(|_| &raws).map(black_box);
        match stage {
            Stage::Read => {
                for raw in each() {
                    let mut request = CreateInvoiceRequest::default();
                    black_box(read(raw, &mut request).expect("a request"));
                    black_box(&request);
                }
            }
            Stage::Check => {
                for raw in &raws {
                    let request = CreateInvoiceRequest::decode(raw).expect("a request");
                    let document = document_of(request.invoice.as_ref().expect("an invoice"));
                    for _ in 0..times {
                        self.check(black_box(&document));
                    }
                }
            }
            Stage::Draft => {
                let seller = Profile {
                    gstin: "27AAPFU0939F1ZV".to_owned(),
                    state: "27".to_owned(),
                    taxpayer_type: 1,
                    ..Profile::default()
                };
                let asked = Asked {
                    merchant_id: [7; 16],
                    key: "0123456789abcdef",
                    today: Date::new(2026, 11, 22).expect("a day"),
                    tables: Tables::builtin(),
                    seller: &seller,
                };
                for raw in each() {
                    black_box(draft(raw, &asked, |_| Known::No).expect("lawful"));
                }
            }
            Stage::All => {
                for raw in each() {
                    let mut request = CreateInvoiceRequest::default();
                    black_box(read(raw, &mut request).expect("a request"));
                    self.check(&document_of(request.invoice.as_ref().expect("an invoice")));
                }
            }
        }
        self.raws = raws;
    }

    fn check(&mut self, document: &invochain_core::gst::Document<'_>) {
        check_into(document, &self.context, Vec::new(), &mut self.computed).expect("lawful");
        black_box(&self.computed);
    }

    /// Nanoseconds a document: fastest round and median round.
    fn measure(&mut self, stage: Stage) -> (u128, u128) {
        let mut rounds: Vec<u128> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                self.collected(stage, PER_ROUND);
                start.elapsed().as_nanos()
            })
            .collect();
        rounds.sort_unstable();
        let each = |round: u128| round / u128::from(PER_ROUND);
        (each(rounds[0]), each(rounds[ROUNDS / 2]))
    }
}

/// Each request of the file stands behind its length in four bytes, little endian.
fn requests(file: &str) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(file).expect("a readable file");
    let (mut rest, mut out) = (bytes.as_slice(), Vec::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (request, next) = after.split_at(u32::from_le_bytes(*length) as usize);
        out.push(request.to_vec());
        rest = next;
    }
    out
}

/// For each line on standard input, a stage: runs it once over every request and says so.
fn serve(file: &str) {
    let mut bench = Bench::of(requests(file));
    for line in std::io::stdin().lock().lines() {
        let stage = stage_named(&line.expect("a line"));
        bench.collected(stage, 1);
        println!("done");
    }
}

fn stage_named(name: &str) -> Stage {
    let named = STAGES.iter().find(|(known, _)| *known == name);
    named.expect("read, check, all or draft").1
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--count") {
        let stage = stage_named(&arguments[at + 1]);
        let lines = arguments[at + 2].parse().expect("a number of lines");
        let mut bench = Bench::of(vec![request(lines)]);
        bench.collected(stage, COUNTED);
        return;
    }
    if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        serve(&arguments[at + 1]);
        return;
    }
    println!(
        "{:8} {:>6} {:>12} {:>12}   nanoseconds a document",
        "stage", "lines", "fastest", "median"
    );
    for lines in [1, 10, 100] {
        let mut bench = Bench::of(vec![request(lines)]);
        for (name, stage) in STAGES {
            let (fastest, median) = bench.measure(stage);
            println!("{name:8} {lines:>6} {fastest:>12} {median:>12}");
        }
    }
}
