//! Whom a node lets go on from the component at which it stands, kept in a file: a component has one successor.
//!
//! A node that goes on without the others begins a primary component of its own, while the others still stand at the
//! former one, of which they may be a majority. So it begins only when a majority has noted that it may, and serves only
//! when a majority of that component is with it. Whoever has noted it helps no other one to go on from there. That can
//! be changed for a node that came farther, as long as the first one has not begun: it gives up itself, for good, before
//! anybody else may.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use dialtone_daemon::data_dir::write_atomically;
use dialtone_wire::PeId;

use super::{
    disk::Component,
    standstill::{Notice, successor},
};

/// What was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    pub component: Component,
    pub candidate: PeId,
    /// It is this node, which has begun.
    pub begun: bool,
}

/// What follows from what is in the data folder now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node stands where it was, or in a company that is no majority of it.
    Open,
    /// It is in a component that a majority made: no other one can.
    Settled,
}

impl Vote {
    fn encode(&self) -> String {
        let begun = if self.begun { "begun" } else { "-" };
        format!("{} {begun} {}\n", self.candidate.0, self.component)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        Some(Self {
            candidate: PeId(words.next()?.parse().ok()?),
            begun: words.next()? == "begun",
            component: Component::from_words(words.next()?, words.next()?),
        })
    }

    /// `found`: the last component in the data folder.
    pub fn outcome(&self, found: Option<&Component>) -> Outcome {
        match found {
            Some(found)
                if *found != self.component && self.component.has_majority(found.members.len()) =>
            {
                Outcome::Settled
            }
            _ => Outcome::Open,
        }
    }
}

/// The vote in its file.
#[derive(Debug)]
pub struct BallotBox {
    path: PathBuf,
    vote: Option<Vote>,
}

impl BallotBox {
    /// A file that cannot be read is an error: a node that forgot could help a second one.
    pub fn load(folder: &Path) -> io::Result<Self> {
        let path = folder.join("vote");
        let vote = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(Vote::parse(&text?).ok_or(io::ErrorKind::InvalidData)?),
        };
        Ok(Self { path, vote })
    }

    pub fn vote(&self) -> Option<&Vote> {
        self.vote.as_ref()
    }

    /// On the disk when this returns.
    pub fn put(&mut self, vote: Option<Vote>) -> io::Result<()> {
        if vote == self.vote {
            return Ok(());
        }
        match &vote {
            Some(vote) => write_atomically(&self.path, vote.encode().as_bytes(), 0o644)?,
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        if let Some(folder) = self.path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
        self.vote = vote;
        Ok(())
    }
}

/// For whom a node at this component is now, after what it has noted and what all say.
pub fn choice(
    me: PeId,
    component: &Component,
    noted: Option<&Vote>,
    notices: &BTreeMap<PeId, Notice>,
) -> Option<PeId> {
    let noted = noted.filter(|vote| vote.component == *component);
    let stands =
        |id: &PeId| notices.get(id).filter(|notice| notice.component.as_ref() == Some(component));
    let best = successor(notices).filter(|best| stands(best).is_some());
    let Some(noted) = noted else { return best };
    let candidate = noted.candidate;
    let Some(best) = best else { return Some(candidate) };
    let gave_up = if candidate == me {
        !noted.begun
    } else {
        stands(&candidate).and_then(|notice| notice.vote).is_some_and(|vote| vote != candidate)
    };
    // Whoever has given up does not come back: others rely on that.
    if gave_up && best != me { Some(best) } else { Some(candidate) }
}

/// Whom a majority of a component lets go on from there, the one itself among them.
pub fn elected(notices: &BTreeMap<PeId, Notice>) -> Option<PeId> {
    notices.iter().find_map(|(id, notice)| {
        let component = notice.component.as_ref()?;
        let is_for = |other: &&Notice| {
            other.vote == Some(*id) && other.component.as_ref() == Some(component)
        };
        let votes = notices.values().filter(is_for).count();
        (notice.vote == Some(*id) && component.has_majority(votes)).then_some(*id)
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::galera::disk::Position;

    fn component(number: u8, members: &str) -> Component {
        Component {
            id: format!("x/{number}"),
            members: members.chars().map(String::from).collect(),
        }
    }

    /// Nodes that note their choices, and begin when they are elected.
    struct Nodes(BTreeMap<PeId, (i64, Option<Vote>)>);

    impl Nodes {
        fn notices(&self, there: &[u32]) -> BTreeMap<PeId, Notice> {
            let all = self.0.iter().filter(|(id, _)| there.contains(&id.0));
            all.map(|(id, (seqno, vote))| {
                let cluster = "070459c0-e50e-11f1-acc8-27d9eeb9924a".into();
                let notice = Notice {
                    address: SocketAddr::from(([127, 0, 0, 1], id.0 as u16)),
                    position: Some(Position { cluster, seqno: *seqno }),
                    component: Some(component(5, "abc")),
                    vote: vote.as_ref().map(|vote| vote.candidate),
                };
                (*id, notice)
            })
            .collect()
        }

        /// One of them looks at what the others said at some time.
        fn look(&mut self, me: u32, seen: &BTreeMap<PeId, Notice>) {
            let me = PeId(me);
            let component = component(5, "abc");
            let (_, vote) = self.0.get_mut(&me).unwrap();
            let candidate = choice(me, &component, vote.as_ref(), seen);
            if vote.as_ref().map(|vote| vote.candidate) != candidate {
                *vote = candidate.map(|candidate| Vote { component, candidate, begun: false });
            }
            if let Some(vote) = vote
                && elected(seen) == Some(me)
                && vote.candidate == me
            {
                vote.begun = true;
            }
        }

        fn begun(&self) -> usize {
            self.0.values().filter(|(_, vote)| vote.as_ref().is_some_and(|vote| vote.begun)).count()
        }
    }

    fn three(seqnos: [i64; 3]) -> Nodes {
        Nodes((1..).map(PeId).zip(seqnos.map(|seqno| (seqno, None))).collect())
    }

    #[test]
    fn who_came_farthest_begins_when_a_majority_has_noted_it() {
        let mut nodes = three([5, 6, 7]);
        for _ in 0..3 {
            let seen = nodes.notices(&[1, 2]);
            nodes.look(1, &seen);
            nodes.look(2, &seen);
        }
        assert_eq!(elected(&nodes.notices(&[1, 2])), Some(PeId(2)));
        // 2 is gone, begun or not: who noted that helps no other one.
        for _ in 0..3 {
            let seen = nodes.notices(&[1, 3]);
            nodes.look(1, &seen);
            nodes.look(3, &seen);
        }
        assert_eq!(elected(&nodes.notices(&[1, 3])), None);
        assert_eq!(nodes.begun(), 1);
    }

    #[test]
    fn one_that_came_farther_is_preferred_until_the_first_has_begun() {
        let mut nodes = three([5, 5, 7]);
        let seen = nodes.notices(&[1, 2]);
        nodes.look(1, &seen);
        nodes.look(2, &seen);
        for _ in 0..3 {
            let seen = nodes.notices(&[1, 2, 3]);
            // 1 looks last: the others wait until it has given up.
            for n in [3, 2, 1] {
                nodes.look(n, &seen);
            }
        }
        assert_eq!(elected(&nodes.notices(&[1, 2, 3])), Some(PeId(3)));
        assert_eq!(nodes.begun(), 1);
    }

    #[test]
    fn no_two_begin_whatever_is_seen_when() {
        for seed in 0..3000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut nodes = three([(); 3].map(|()| random.i64(5..8)));
            let mut seen = vec![nodes.notices(&[])];
            for _ in 0..40 {
                let there: Vec<u32> = (1..=3).filter(|_| random.u8(..4) > 0).collect();
                seen.push(nodes.notices(&there));
                let me = random.u32(1..=3);
                // Old views too; of itself a node knows the present.
                let mut view = seen[random.usize(..seen.len())].clone();
                view.extend(nodes.notices(&[me]));
                nodes.look(me, &view);
            }
            assert!(nodes.begun() <= 1, "seed {seed}");
        }
    }

    #[test]
    fn a_vote_ends_in_the_company_of_a_majority() {
        let vote = Vote { component: component(5, "abc"), candidate: PeId(1), begun: true };
        assert_eq!(Vote::parse(&vote.encode()), Some(vote.clone()));
        for (found, outcome) in [
            (None, Outcome::Open),
            (Some(component(5, "abc")), Outcome::Open),
            (Some(component(6, "d")), Outcome::Open),
            (Some(component(6, "db")), Outcome::Settled),
        ] {
            assert_eq!(vote.outcome(found.as_ref()), outcome, "{found:?}");
        }
        let folder = std::env::temp_dir().join(format!("dialtone-vote-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut noted = BallotBox::load(&folder).unwrap();
        noted.put(Some(vote.clone())).unwrap();
        assert_eq!(BallotBox::load(&folder).unwrap().vote(), Some(&vote));
        noted.put(None).unwrap();
        assert_eq!(BallotBox::load(&folder).unwrap().vote(), None);
        fs::write(folder.join("vote"), "1 -").unwrap();
        assert!(BallotBox::load(&folder).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
