//! Where unpredictable bytes come from: the operating system, or a seed in simulations.

use ring::rand::{SecureRandom as _, SystemRandom};

pub(crate) enum Entropy {
    System(SystemRandom),
    /// Equal seeds, equal tags, sequence numbers and cookies: for simulations and fuzz targets.
    Seeded(fastrand::Rng),
}

impl Entropy {
    pub(crate) fn system() -> Self {
        Self::System(SystemRandom::new())
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], ring::error::Unspecified> {
        let mut bytes = [0; N];
        match self {
            Self::System(random) => random.fill(&mut bytes)?,
            Self::Seeded(random) => random.fill(&mut bytes),
        }
        Ok(bytes)
    }
}
