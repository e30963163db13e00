//! Section 3.7: what is not understood.

use crate::lab::bytes::*;
use crate::lab::registrars::Lab;

/// Proves E-101, E-102.
#[test]
fn what_is_unknown_is_reported_when_its_type_asks_for_that() {
    let mut lab = Lab::alone(1);
    let mut peer = lab.peer(50);
    let unknown = |kind: u16| enrp(LIST_REQUEST, 0, 50, 1, &[tlv(kind, b"xyz")]);
    for (kind, answered, reported) in
        [(0x3ffe, false, false), (0x7ffe, false, true), (0xbffe, true, false), (0xfffe, true, true)]
    {
        let answers = lab.ask_peer(&mut peer, unknown(kind));
        let of = |kind: u8| answers.iter().filter(|answer| answer.kind == kind).collect::<Vec<_>>();
        assert_eq!(of(LIST_RESPONSE).len(), usize::from(answered), "{kind:#06x}: {answers:?}");
        assert_eq!(of(ENRP_ERROR).len(), usize::from(reported), "{kind:#06x}: {answers:?}");
        for report in of(ENRP_ERROR) {
            let error = report.behind(8);
            assert_eq!((report.route(), error.len(), error[0].kind), ((1, 50), 1, OPERATION_ERROR));
            let causes = error[0].behind(0);
            assert_eq!(causes, [Tlv { kind: 0x1, value: tlv(kind, b"xyz") }]);
        }
    }
    let silent = enrp(0x3e, 0, 50, 1, &[]);
    assert!(lab.ask_peer(&mut peer, silent).iter().all(|answer| answer.kind != ENRP_ERROR));
    let message = enrp(0x7e, 0, 50, 1, &[]);
    let answers = lab.ask_peer(&mut peer, message.clone());
    let report = answers.iter().find(|answer| answer.kind == ENRP_ERROR).unwrap();
    assert_eq!(report.behind(8)[0].behind(0), [Tlv { kind: 0x2, value: message }]);
    // An error has no answer (G36).
    let error = enrp(ENRP_ERROR, 0, 50, 1, &[tlv(OPERATION_ERROR, &tlv(0x7ffe, b""))]);
    assert!(lab.ask_peer(&mut peer, error).iter().all(|answer| answer.kind != ENRP_ERROR));
    assert_eq!(lab.status(50), Some("active"));
}
