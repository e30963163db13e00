//! Section 2.2.14 at the registrar: what it does not understand.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;

/// Proves, P-003, P-004, P-005, P-006, P-025.
#[test]
fn what_is_unknown_is_reported_when_its_type_asks_for_that() {
    let mut lab = Lab::new(1);
    let element = lab.element("echo", 7, 1);
    let user = lab.tcp(9, 1);
    let unknown = |kind: u16| message(HANDLE_RESOLUTION, 0, &[handle("echo"), tlv(kind, b"xyz")]);
    // The upper two bits of a parameter's type: stop, stop and report, skip, skip and report.
    for (kind, answered, reported) in
        [(0x3ffe, false, false), (0x7ffe, false, true), (0xbffe, true, false), (0xfffe, true, true)]
    {
        let answers = lab.answers(user, unknown(kind));
        let kinds: Vec<u8> = answers.iter().map(|answer| answer.kind).collect();
        let expected = [reported.then_some(ERROR), answered.then_some(HANDLE_RESOLUTION_RESPONSE)];
        assert_eq!(kinds, expected.into_iter().flatten().collect::<Vec<_>>(), "{kind:#06x}");
        for report in answers.iter().filter(|answer| answer.kind == ERROR) {
            let causes = report.find(OPERATION_ERROR).unwrap().behind(0);
            assert_eq!((causes.len(), causes[0].kind), (1, 0x1));
            assert_eq!(causes[0].value, tlv(kind, b"xyz"), "the parameter, whole");
        }
    }
    // Of a message's type: discard, discard and report.
    assert_eq!(lab.answers(user, message(0x3e, 0, &[])), []);
    let report = lab.ask(user, message(0x7e, 0, &[handle("echo")]));
    let causes = report.find(OPERATION_ERROR).unwrap().behind(0);
    assert_eq!((report.kind, causes.len(), causes[0].kind), (ERROR, 1, 0x2));
    assert_eq!(causes[0].value, message(0x7e, 0, &[handle("echo")]), "the message");
    // An error is no reason for another one (G36), and no reason to hang up.
    let error = message(ERROR, 0, &[tlv(OPERATION_ERROR, &tlv(0x7ffe, b""))]);
    assert_eq!(lab.answers(user, error), []);
    assert!(lab.world.element(user).is_connected());
    assert_eq!(lab.ask(user, resolution("echo", false)).elements(), [7]);
    assert!(lab.world.element(element).is_connected());
}
