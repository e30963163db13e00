//! Registrations of one phone, reordered and replayed over two proxies, never bring back what it removed.

mod common;

use common::{AOR, Client, Folder, Sqlite, binding, register, remove_all};
use dialtone_location::{Save, SaveOutcome};
use proptest::prelude::*;

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

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn removed_bindings_stay_removed(
        steps in proptest::collection::vec(step(), 2..7),
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..20),
    ) {
        let folder = Folder::new("reordering");
        let backend = Sqlite(folder.0.join("location.db"));
        let writers = [Client::open(&backend, 1), Client::open(&backend, 2)];
        let mut accepted = vec![false; steps.len()];
        // Every request arrives at least once; any of them may arrive again, anywhere, at either proxy.
        let arrivals = order.iter().map(|(index, writer)| (index.index(steps.len()), usize::from(*writer)));
        for (number, writer) in arrivals.chain((0..steps.len()).map(|number| (number, number % 2))) {
            match writers[writer].save(request(steps[number], number as u32 + 1)) {
                SaveOutcome::Saved { .. } => accepted[number] = true,
                SaveOutcome::OutOfOrder => {}
                SaveOutcome::TooMany => panic!("too many"),
            }
        }
        let expected: Vec<&str> = (0..CONTACTS.len())
            .filter(|&contact| matches!(decided_by(&steps, &accepted, contact), Some(Step::Add(_))))
            .map(|contact| CONTACTS[contact])
            .collect();
        prop_assert_eq!(writers[0].found(AOR, NOW), expected.clone(), "accepted {:?}", accepted);
        for writer in &writers {
            writer.await_replica(AOR, NOW, &expected);
        }
    }
}
