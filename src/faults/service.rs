//! Whether everybody is in service.

use crate::launcher::Launcher;

/// Whether each of so many registrars knows so many elements of each pool.
pub(super) fn is_complete(launcher: &mut Launcher, registrars: u8, pools: &[(&str, u8)]) -> bool {
    (1..=registrars).all(|n| {
        launcher.pools(&registrar(n)).is_some_and(|known| {
            pools.iter().all(|(pool, size)| known.elements(pool).len() == usize::from(*size))
        })
    })
}

/// The name of registrar `n`, from 1.
pub(super) fn registrar(n: u8) -> String {
    format!("registrar-ns-{n}")
}
