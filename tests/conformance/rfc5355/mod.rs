//! RFC 5355, threats: what does not need secure mode. The tests of secure mode stand beside it.

mod s2_threats;
