//! Rendezvous hashing (highest random weight): for a key, every machine and every version puts the same members into
//! the same order, and a member that comes or goes moves only the keys that it wins or won.
//!
//! The hash is part of what processes agree on and never changes: FNV-1a (64 bits) of the key, plus the member's
//! identifier times 0x9e3779b97f4a7c15, then the finalizer of SplitMix64. A member with weight w scores
//! -log2(hash / 2^64) / w, smaller is better; the logarithm has 32 fractional bits and is computed in integers, so
//! that no floating point unit or library has a say.

use dialtone_wire::PeId;

/// A member of a pool and its share of the keys; weight 0 gets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub pe_id: PeId,
    pub weight: u32,
}

impl From<PeId> for Member {
    /// A member with a share like everybody else's.
    fn from(pe_id: PeId) -> Self {
        Self { pe_id, weight: 1 }
    }
}

/// The members in the order in which `key` prefers them. The order of `members` is irrelevant; each is to be there
/// only once.
pub fn order(key: &[u8], members: impl IntoIterator<Item = impl Into<Member>>) -> Vec<PeId> {
    let key = fnv1a(key);
    let members = members.into_iter().map(Into::into).filter(|member: &Member| member.weight > 0);
    let mut ranked: Vec<Ranked> = members.map(|member| Ranked::new(key, member)).collect();
    ranked.sort_unstable_by(|a, b| a.compare(b));
    ranked.into_iter().map(|ranked| ranked.member.pe_id).collect()
}

struct Ranked {
    member: Member,
    hash: u64,
    cost: u64,
}

impl Ranked {
    fn new(key: u64, member: Member) -> Self {
        let hash =
            mix(key.wrapping_add(u64::from(member.pe_id.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        Self { member, hash, cost: negative_log2(hash) }
    }

    /// By cost / weight without a division; what rounding made equal, by hash.
    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let ours = u128::from(self.cost) * u128::from(other.member.weight);
        let theirs = u128::from(other.cost) * u128::from(self.member.weight);
        ours.cmp(&theirs)
            .then(other.hash.cmp(&self.hash))
            .then(self.member.pe_id.cmp(&other.member.pe_id))
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// -log2(hash / 2^64) with 32 fractional bits; 0 counts as 1.
const fn negative_log2(hash: u64) -> u64 {
    let hash = if hash == 0 { 1 } else { hash };
    let zeros = hash.leading_zeros();
    // The mantissa in [1, 2) with 63 fractional bits; squaring it yields one bit of its logarithm at a time.
    let mut mantissa = hash << zeros;
    let mut fraction: u64 = 0;
    let mut bit = 0;
    while bit < 32 {
        let square = (mantissa as u128 * mantissa as u128) >> 63;
        let overflow = (square >> 64) as u32;
        mantissa = (square >> overflow) as u64;
        fraction = fraction << 1 | overflow as u64;
        bit += 1;
    }
    ((zeros as u64 + 1) << 32) - fraction
}
