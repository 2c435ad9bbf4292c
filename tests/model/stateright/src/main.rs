//! Checks the protocol of CreateInvoice exhaustively. See tests/model/README.md.
//!
//! saga-twin NAME                     one exploration; prints its states and transitions
//! saga-twin NAME MUTANT              the same with one rule broken; must end with a violation
//! saga-twin                          lists the names

mod model;
mod restore;
mod safety;
mod state;

use model::{Asked, Mutant, Saga, MUTANTS};
use stateright::{Checker, Expectation, HasDiscoveries, Model};
use std::process::ExitCode;

fn explorations() -> Vec<(&'static str, Saga)> {
    let asked = |handlers, attempts, wants| Asked {
        handlers,
        attempts,
        wants,
        rival: true,
    };
    let saga = |asked, skus, restore| Saga {
        asked,
        skus,
        restore,
        mutant: Mutant::None,
    };
    vec![
        // The very state space of saga_model.py, so its counts must be the same.
        (
            "one-key-two-handlers",
            saga(vec![asked(2, 2, [1, 0])], 1, false),
        ),
        (
            "one-key-three-handlers",
            saga(vec![asked(3, 2, [1, 0])], 1, false),
        ),
        // One wants both SKUs, the other one of them; one attempt each.
        (
            "two-keys-one-attempt",
            saga(vec![asked(1, 1, [1, 1]), asked(1, 1, [0, 1])], 2, false),
        ),
        (
            "two-keys",
            saga(vec![asked(1, 2, [1, 1]), asked(1, 1, [0, 1])], 2, false),
        ),
        // One database is set back once, anywhere.
        ("restore", saga(vec![asked(1, 2, [1, 1])], 2, true)),
        (
            "restore-two-handlers",
            saga(vec![asked(2, 2, [1, 1])], 2, true),
        ),
    ]
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let explorations = explorations();
    let Some((_, saga)) = explorations
        .iter()
        .find(|(name, _)| args.first().is_some_and(|arg| arg == name))
    else {
        println!(
            "explorations: {}",
            explorations
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(" ")
        );
        println!(
            "mutants: {}",
            MUTANTS
                .iter()
                .map(|(name, _)| *name)
                .collect::<Vec<_>>()
                .join(" ")
        );
        return if args.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    };
    let mut saga = saga.clone();
    if let Some(wanted) = args.get(1) {
        let Some((_, mutant)) = MUTANTS.iter().find(|(name, _)| name == wanted) else {
            println!("there is no mutant {wanted}");
            return ExitCode::from(2);
        };
        saga.mutant = *mutant;
    }
    check(saga)
}

fn check(saga: Saga) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = saga
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let mut violated = false;
    let mut unreached = Vec::new();
    for property in checker.model().properties() {
        match (property.expectation, checker.discovery(property.name)) {
            (Expectation::Always, Some(path)) => {
                println!("VIOLATION: {} (after {states} states)", property.name);
                path.into_actions()
                    .iter()
                    .for_each(|(step, _)| println!("  {step:?}"));
                violated = true;
            }
            (Expectation::Sometimes, None) => unreached.push(property.name),
            _ => {}
        }
    }
    if violated {
        return ExitCode::FAILURE;
    }
    println!(
        "{states} states, {} transitions, safe; every state settles",
        checker.state_count() - 1
    );
    unreached
        .iter()
        .for_each(|name| println!("NEVER REACHED: {name}"));
    if unreached.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
