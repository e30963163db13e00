//! Registrations of one phone, reordered and replayed over two proxies, never bring back what it removed.

mod common;

use std::cell::Cell;

use common::mariadb::Server;
use common::{AOR, Client, Folder, Sqlite, binding, register, remove_all};
use dialtone_location::{Save, SaveOutcome};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const NOW: u64 = 1_000_000_000;
const CONTACTS: [&str; 3] = ["sip:p@1", "sip:p@2", "sip:p@3"];

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(usize),
    Remove(usize),
    RemoveAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..CONTACTS.len()).prop_map(Step::Add),
        2 => (0..CONTACTS.len()).prop_map(Step::Remove),
        1 => Just(Step::RemoveAll),
    ]
}

fn request(step: Step, cseq: u32) -> Save {
    match step {
        Step::Add(contact) => register("phone", cseq, NOW, vec![binding(CONTACTS[contact], 60)]),
        Step::Remove(contact) => register("phone", cseq, NOW, vec![binding(CONTACTS[contact], 0)]),
        Step::RemoveAll => remove_all("phone", cseq, NOW),
    }
}

/// Which request decides about a contact: the last accepted one that concerns it.
fn decided_by(steps: &[Step], accepted: &[bool], contact: usize) -> Option<Step> {
    let concerns = |step: Step| match step {
        Step::Add(other) | Step::Remove(other) => other == contact,
        Step::RemoveAll => true,
    };
    let of = |(&step, &accepted): (&Step, &bool)| (accepted && concerns(step)).then_some(step);
    steps.iter().zip(accepted).rev().find_map(of)
}

/// What arrives: the requests of a phone in their order, then which of them comes when, and at which proxy.
type Arrivals = (Vec<Step>, Vec<(prop::sample::Index, bool)>);

fn arrivals() -> impl Strategy<Value = Arrivals> {
    (
        proptest::collection::vec(step(), 2..7),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..20),
    )
}

fn removed_bindings_stay_removed(
    writers: &[Client; 2],
    aor: &str,
    (steps, order): Arrivals,
) -> Result<(), TestCaseError> {
    let mut accepted = vec![false; steps.len()];
    // Every request arrives at least once; any of them may arrive again, anywhere, at either proxy.
    let arrivals =
        order.iter().map(|(index, writer)| (index.index(steps.len()), usize::from(*writer)));
    for (number, writer) in arrivals.chain((0..steps.len()).map(|number| (number, number % 2))) {
        let save = request(steps[number], number as u32 + 1);
        match writers[writer].save(Save { aor: aor.into(), ..save }) {
            SaveOutcome::Saved { .. } => accepted[number] = true,
            SaveOutcome::OutOfOrder => {}
            SaveOutcome::TooMany => panic!("too many"),
        }
    }
    let expected: Vec<&str> = (0..CONTACTS.len())
        .filter(|&contact| matches!(decided_by(&steps, &accepted, contact), Some(Step::Add(_))))
        .map(|contact| CONTACTS[contact])
        .collect();
    prop_assert_eq!(writers[0].found(aor, NOW), expected.clone(), "accepted {:?}", accepted);
    for writer in writers {
        writer.await_replica(aor, NOW, &expected);
    }
    Ok(())
}

#[test]
fn removed_bindings_stay_removed_on_sqlite() {
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    let result = runner.run(&arrivals(), |arrivals| {
        let folder = Folder::new("reordering");
        let backend = Sqlite(folder.0.join("location.db"));
        let writers = [Client::open(&backend, 1), Client::open(&backend, 2)];
        removed_bindings_stay_removed(&writers, AOR, arrivals)
    });
    result.unwrap_or_else(|error| panic!("{error}\n{runner}"));
}

#[test]
fn removed_bindings_stay_removed_on_mariadb() {
    let Some(server) = Server::start("reordering-mariadb") else { return };
    let backend = server.database("reordering");
    let writers = [Client::open(&backend, 1), Client::open(&backend, 2)];
    let users = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 100, ..ProptestConfig::default() });
    let result = runner.run(&arrivals(), |arrivals| {
        users.set(users.get() + 1);
        let aor = format!("user{}@dialtone.test", users.get());
        removed_bindings_stay_removed(&writers, &aor, arrivals)
    });
    result.unwrap_or_else(|error| panic!("{error}\n{runner}"));
}
