//! Registration, import, ownership, checksums and the handle table.

mod common;

use common::element;
use dialtone_handlespace::{
    Checksum, Cursor, Element, Handle, Handlespace, Imported, PeId, Policy, ServerId,
};
use dialtone_wire::{Cause, CauseCode, SctpTransport, Transport, TransportUse};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn handle(name: &str) -> Handle {
    name.parse().unwrap()
}

fn sctp(use_: TransportUse) -> Transport<'static> {
    let addrs = std::net::IpAddr::from([192, 0, 2, 7]).into();
    Transport::Sctp(SctpTransport { port: 5060, use_, addrs })
}

/// RFC 5352, section 3.1, rule 3, with the information of RFC 5354, section 3.12.
#[test]
fn a_misfit_is_refused_with_what_the_pool_has() {
    let mut space = Handlespace::new();
    let pool = handle("sip");
    let first = Element {
        transport: sctp(TransportUse::DATA_ONLY),
        ..element(1, 9, Policy::LeastUsed { load: 77 })
    };
    assert!(space.register(&pool, first.clone()).unwrap().created_pool);

    let misfit = element(2, 9, Policy::RoundRobin);
    let causes = space.register(&pool, misfit).unwrap_err().causes;
    assert_eq!(causes.len(), 2);
    assert_eq!(causes[0].code, CauseCode::INCONSISTENT_POLICY);
    assert_eq!(causes[0].policy(), Some(Policy::LeastUsed { load: 0 }));
    assert_eq!(causes[1].code, CauseCode::INCONSISTENT_TRANSPORT);
    assert_eq!(causes[1].transport(), Some(first.transport.clone()));

    let other_use = Element {
        pe_id: PeId(2),
        transport: sctp(TransportUse::DATA_PLUS_CONTROL),
        ..first.clone()
    };
    let causes = space.register(&pool, other_use).unwrap_err().causes;
    assert_eq!(causes, [Cause::plain(CauseCode::INCONSISTENT_USE)]);

    // G6: a lone element cannot change its policy type either.
    let changed = Element { policy: Policy::Random, ..first.clone() };
    assert_eq!(space.register(&pool, changed).unwrap_err().causes.len(), 1);

    // G35: registering again replaces all attributes, and moves the ownership.
    let again = Element {
        life: 7,
        home: ServerId(8),
        policy: Policy::LeastUsed { load: 1 },
        ..first.clone()
    };
    let registered = space.register(&pool, again.clone()).unwrap();
    assert_eq!((registered.previous, registered.created_pool), (Some(first), false));
    assert_eq!(space.get(b"sip", PeId(1)), Some(&again));
    assert_eq!(space.checksum(ServerId(9)), 0xffff);
    assert_eq!(space.remove(&pool, PeId(1)), Some(again));
    assert!(space.is_empty() && space.pool(b"sip").is_none());
}

#[test]
fn values_that_nobody_can_use_are_named() {
    let transport = sctp(TransportUse(2));
    let policy =
        Policy::Other { number: dialtone_wire::PolicyType(0x4000_0000), data: vec![].into() };
    let causes = Element { transport, ..element(0, 9, policy) }.invalid_values();
    assert_eq!(
        causes.iter().map(|cause| cause.code).collect::<Vec<_>>(),
        [CauseCode::INVALID_VALUES; 3]
    );
    let lives = |life| Element { life, ..element(1, 9, Policy::RoundRobin) }.invalid_values().len();
    assert_eq!([-2, -1, 0, 1].map(lives), [1, 0, 1, 0]);
}

/// G17: two registrars created the pool at the same moment; whatever comes first where, all end alike.
#[test]
fn policies_of_one_pool_created_twice_end_alike_everywhere() {
    let pool = handle("sip");
    let smaller = element(1, 10, Policy::RoundRobin);
    let larger = element(2, 20, Policy::Random);
    let mut spaces = [(); 2].map(|()| Handlespace::new());
    for (space, order) in spaces.iter_mut().zip([[&smaller, &larger], [&larger, &smaller]]) {
        let [first, second] = order.map(|element| space.import(&pool, element.clone()));
        assert_eq!((first.outcome, first.evicted), (Imported::Added, vec![]));
        match (second.outcome, &second.evicted[..]) {
            (Imported::Refused(conflict), []) => {
                assert_eq!(conflict.causes[0].code, CauseCode::INCONSISTENT_POLICY);
            }
            (Imported::Added, [evicted]) => assert_eq!(evicted, &larger),
            other => panic!("{other:?}"),
        }
        assert_eq!(space.conflicts(), 1);
    }
    for space in &spaces {
        assert_eq!(space.elements().collect::<Vec<_>>(), [(&pool, &smaller)]);
        assert_eq!(space.checksum(ServerId(20)), 0xffff);
    }
    // A home's newer word wins over its older one, also about the same element.
    let [space, _] = &mut spaces;
    let newer = Element { policy: Policy::Random, ..smaller.clone() };
    let import = space.import(&pool, newer.clone());
    assert_eq!((import.outcome, import.evicted), (Imported::Replaced(smaller), vec![]));
    let undetermined = element(3, 0, Policy::RoundRobin);
    assert!(matches!(space.import(&pool, undetermined).outcome, Imported::Refused(_)));
    assert_eq!(space.elements().collect::<Vec<_>>(), [(&pool, &newer)]);
}

#[test]
fn takeover_moves_what_the_target_owns_and_nothing_else() {
    let mut space = Handlespace::new();
    for (pe_id, home) in [(1, 10), (2, 20), (3, 10)] {
        space.register(&handle("sip"), element(pe_id, home, Policy::RoundRobin)).unwrap();
    }
    let moved = space.take_over(ServerId(10), ServerId(30));
    assert_eq!(moved, [(handle("sip"), PeId(1)), (handle("sip"), PeId(3))]);
    let homes: Vec<_> = space.elements().map(|(_, element)| element.home.0).collect();
    assert_eq!(homes, [30, 20, 30]);
    assert_eq!(space.owners().collect::<Vec<_>>(), [ServerId(20), ServerId(30)]);
    assert_eq!(space.set_home(&handle("sip"), PeId(9), ServerId(30)), None);
}

/// G29: what comes and goes during a download disturbs nobody else.
#[test]
fn a_download_goes_on_behind_a_cursor_that_is_gone() {
    let mut space = Handlespace::new();
    for pe_id in 1..=6 {
        space.register(&handle("b"), element(pe_id, 10 + pe_id % 2, Policy::RoundRobin)).unwrap();
    }
    let chunk = space.chunk(None, None, 3, usize::MAX);
    assert_eq!(chunk.pools.len(), 1);
    let next = chunk.next.unwrap();
    assert_eq!(next, Cursor { handle: handle("b"), pe_id: PeId(3) });
    space.remove(&handle("b"), PeId(3));
    space.register(&handle("a"), element(9, 10, Policy::RoundRobin)).unwrap();
    let chunk = space.chunk(None, Some(&next), 3, usize::MAX);
    let pe_ids: Vec<_> = chunk.pools[0].elements.iter().map(|element| element.pe_id.0).collect();
    assert_eq!((pe_ids, chunk.next), (vec![4, 5, 6], None));
    let own = space.chunk(Some(ServerId(10)), Some(&next), 100, usize::MAX);
    let pe_ids: Vec<_> = own.pools[0].elements.iter().map(|element| element.pe_id.0).collect();
    assert_eq!(pe_ids, [4, 6]);
    assert_eq!(space.chunk(None, None, 100, 1).pools[0].elements.len(), 1, "at least one");
}

#[test]
fn handles_print_readably() {
    assert_eq!(handle("sip-proxy").to_string(), "sip-proxy");
    assert_eq!(Handle::new([0xff, 0x00]).unwrap().to_string(), "0xff00");
    assert_eq!(Handle::new("a\nb").unwrap().to_string(), "0x610a62");
    assert!(Handle::new("").is_err());
    assert!(Handle::new([0; 65532]).is_err());
}

#[test]
fn elements_survive_the_wire() {
    let element = Element {
        encaps_port: Some(40000),
        asap_transport: Some(SctpTransport {
            port: 3863,
            use_: TransportUse::DATA_ONLY,
            addrs: std::net::IpAddr::from([192, 0, 2, 7]).into(),
        }),
        transport: Transport::Opaque(b"sqlite:1:/x".as_slice().into()),
        ..element(1, 2, Policy::WeightedRoundRobin { weight: 3 })
    };
    assert_eq!(Element::from(element.to_wire()), element);
}

/// A later figure is memory per element: the entry itself stays within this.
#[test]
fn elements_are_small() {
    assert!(size_of::<Element>() <= 120, "{}", size_of::<Element>());
}

#[derive(Clone, Debug)]
enum Operation {
    Register(u8, u8, u8, bool),
    Import(u8, u8, u8, bool),
    Remove(u8, u8),
    SetHome(u8, u8, u8),
    TakeOver(u8, u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let (pool, pe, home) = (0_u8..3, 0_u8..5, 0_u8..3);
    prop_oneof![
        4 => (pool.clone(), pe.clone(), home.clone(), any::<bool>())
            .prop_map(|(pool, pe, home, kind)| Operation::Register(pool, pe, home, kind)),
        4 => (pool.clone(), pe.clone(), home.clone(), any::<bool>())
            .prop_map(|(pool, pe, home, kind)| Operation::Import(pool, pe, home, kind)),
        3 => (pool.clone(), pe.clone()).prop_map(|(pool, pe)| Operation::Remove(pool, pe)),
        2 => (pool, pe, home.clone()).prop_map(|(pool, pe, home)| Operation::SetHome(pool, pe, home)),
        1 => (home.clone(), home).prop_map(|(from, to)| Operation::TakeOver(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// After any operations the incremental checksums are those of a fresh computation, and all indexes agree.
    #[test]
    fn checksums_and_indexes_stay_true(operations in vec(operation(), 1..60), max_elements in 1_usize..5, max_bytes in 0_usize..300) {
        let mut space = Handlespace::new();
        let pool = |number: u8| handle(["odd", "even", "x"][usize::from(number)]);
        // Large identifiers: sums beyond 16 bits.
        let pe_id = |number: u8| 0xffff_0000 | u32::from(number);
        let made = |pe: u8, home: u8, kind: bool| {
            element(pe_id(pe), u32::from(home), if kind { Policy::RoundRobin } else { Policy::Random })
        };
        for operation in operations {
            match operation {
                Operation::Register(number, pe, home, kind) => {
                    let checked = space.check(&pool(number), &made(pe, home, kind));
                    prop_assert_eq!(space.register(&pool(number), made(pe, home, kind)).is_ok(), checked.is_ok());
                }
                Operation::Import(number, pe, home, kind) => {
                    let before = space.len();
                    let import = space.import(&pool(number), made(pe, home, kind));
                    let added = usize::from(import.outcome == Imported::Added);
                    prop_assert_eq!(space.len() + import.evicted.len(), before + added);
                }
                Operation::Remove(number, pe) => {
                    space.remove(&pool(number), PeId(pe_id(pe)));
                }
                Operation::SetHome(number, pe, home) => {
                    space.set_home(&pool(number), PeId(pe_id(pe)), ServerId(home.into()));
                }
                Operation::TakeOver(from, to) => {
                    space.take_over(ServerId(from.into()), ServerId(to.into()));
                }
            }
            let mut sums: BTreeMap<ServerId, Checksum> = BTreeMap::new();
            let mut owned = BTreeSet::new();
            for (handle, element) in space.elements() {
                sums.entry(element.home).or_default().add(handle, element.pe_id);
                owned.insert((element.home, handle, element.pe_id));
            }
            for home in (0..3).map(ServerId) {
                prop_assert_eq!(space.checksum(home), sums.get(&home).copied().unwrap_or_default().value());
            }
            let index = |home: ServerId| space.owned(home).map(move |(handle, pe_id)| (home, handle, pe_id));
            prop_assert_eq!(space.owners().flat_map(index).collect::<BTreeSet<_>>(), owned);
            prop_assert_eq!(space.elements().count(), space.len());
            for (_, pool) in space.pools() {
                prop_assert!(pool.len() > 0);
                prop_assert!(pool.elements().all(|element| element.kind() == pool.kind()));
            }
        }
        for owner in [None, Some(ServerId(1))] {
            let (mut cursor, mut downloaded) = (None, Vec::new());
            loop {
                let chunk = space.chunk(owner, cursor.as_ref(), max_elements, max_bytes);
                prop_assert!(chunk.pools.iter().map(|pool| pool.elements.len()).sum::<usize>() <= max_elements);
                for pool in &chunk.pools {
                    downloaded.extend(pool.elements.iter().map(|element| (pool.handle.0.to_vec(), element.pe_id)));
                }
                prop_assert!(downloaded.len() <= space.len(), "a download ends");
                cursor = chunk.next;
                if cursor.is_none() {
                    break;
                }
            }
            let expected = space.elements().filter(|(_, element)| owner.is_none_or(|owner| element.home == owner));
            let expected: Vec<_> = expected.map(|(handle, element)| (handle.as_bytes().to_vec(), element.pe_id)).collect();
            prop_assert_eq!(downloaded, expected);
        }
    }
}
