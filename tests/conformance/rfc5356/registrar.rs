//! What registrars put into their answers, policy by policy; the fine print of each selection is shown beside the
//! handlespace.

use super::Listed;
use crate::lab::bytes::*;
use crate::lab::registrars::Lab;

/// A policy's number, a pool, and what its answers are to be.
type Case<T> = (u32, &'static [Listed], T);

/// Identifiers in the order of each of so many answers, of a pool with these elements and policy values.
fn answers(number: u32, elements: &[Listed], count: usize) -> Vec<Vec<u32>> {
    let mut lab = Lab::new(1);
    let who = lab.sctp(9, 1);
    for (id, values) in elements {
        let policy = policy(number, values);
        lab.register(who, "echo", &Pe { policy, ..Pe::new(*id, who.ip()) });
    }
    (0..count)
        .map(|_| {
            let answer = lab.ask(who, resolution("echo", false));
            lab.keep_alives(who);
            (1..=9).for_each(|id| lab.ack(who, "echo", id));
            answer.elements()
        })
        .collect()
}

/// Proves L-002, L-003, L-004, L-015, L-018, L-021, L-024, L-029, L-037.
#[test]
fn answers_come_in_the_order_of_the_policy() {
    const MAX: u32 = u32::MAX;
    let table: [Case<&[&[u32]]>; 6] = [
        // The head moves on by one.
        (0x1, &[(1, &[]), (2, &[]), (3, &[])], &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 2, 3]]),
        // As round robin, since nobody knows it.
        (0x8000_0001, &[(1, &[7]), (2, &[7])], &[&[1, 2], &[2, 1], &[1, 2]]),
        (0x5, &[(1, &[1]), (2, &[9]), (3, &[9]), (4, &[0])], &[&[2, 3, 1, 4], &[3, 2, 1, 4]]),
        (0x4000_0001, &[(1, &[50]), (2, &[10]), (3, &[50]), (4, &[MAX])], &[&[2, 1, 3, 4]]),
        // Whoever is named pays: 10 15 40, 20 35 45, 30 55 50.
        (
            0x4000_0002,
            &[(1, &[10, 10]), (2, &[15, 20]), (3, &[40, 5])],
            &[&[1, 2, 3], &[1, 2, 3], &[1, 3, 2]],
        ),
        (
            0x4000_0003,
            &[(2, &[50, 50]), (1, &[50, 10]), (3, &[20, 40])],
            &[&[1, 3, 2], &[3, 1, 2], &[1, 3, 2]],
        ),
    ];
    for (number, elements, expected) in table {
        assert_eq!(answers(number, elements, expected.len()), expected, "{number:#x}");
    }
}

/// Proves L-006, L-007, L-009, L-011, L-034.
#[test]
fn answers_name_elements_as_often_as_the_policy_wants() {
    const HALF: u32 = 1 << 31;
    // Weights, and the share of first places of each in 1,200 answers.
    let table: [Case<[usize; 3]>; 4] = [
        (0x2, &[(1, &[1]), (2, &[2]), (3, &[3])], [200, 400, 600]),
        (0x3, &[(1, &[]), (2, &[]), (3, &[])], [400, 400, 400]),
        (0x4, &[(1, &[1]), (2, &[2]), (3, &[3])], [200, 400, 600]),
        // Free: 1, 1/2, 1/2.
        (0x4000_0004, &[(1, &[0]), (2, &[HALF]), (3, &[HALF])], [600, 300, 300]),
    ];
    for (number, elements, expected) in table {
        let answers = answers(number, elements, 1200);
        for answer in &answers {
            let mut named = answer.clone();
            named.sort_unstable();
            assert_eq!(named, [1, 2, 3], "{number:#x}: each once");
        }
        let firsts = [1, 2, 3].map(|id| answers.iter().filter(|answer| answer[0] == id).count());
        // Round robin exactly; draws within five standard deviations.
        let slack = if number == 0x2 { 0 } else { 87 };
        let right = firsts.iter().zip(expected).all(|(got, wanted)| got.abs_diff(wanted) <= slack);
        assert!(right, "{number:#x}: {firsts:?}, not {expected:?}");
        if number == 0x2 {
            // Spread: the heaviest never more than twice in a row.
            let in_a_row =
                answers.windows(3).any(|three| three.iter().all(|answer| answer[0] == 3));
            assert!(!in_a_row);
        }
    }
}
