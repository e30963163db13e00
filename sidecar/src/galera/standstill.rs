//! Getting a cluster going again that has no primary component left.
//!
//! A node that is not in service tells the others, through a pool of their own, how far it came and what its last
//! primary component was. From that everybody can see, and comes to the same result, whether it may go on and from whom.
//!
//! When a majority of a component stands at exactly that component, Galera has made no later one: it would have had a
//! majority of this one, and so one of those who are here, who would have noted it. What nodes make themselves from
//! there is kept to one by [`super::vote`]. Nodes that ended in order left their component and have none any more, so
//! they do not count.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr};

use dialtone_wire::PeId;

use super::disk::{Component, Position};

/// What a node that is not in service says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Where its users would reach it.
    pub address: SocketAddr,
    pub position: Option<Position>,
    pub component: Option<Component>,
    /// Who may go on from there, as far as this node is concerned.
    pub vote: Option<PeId>,
}

impl Notice {
    /// As the content of an Opaque transport parameter (RFC 5354 section 3.7).
    pub fn encode(&self) -> String {
        let position = self.position.as_ref().map_or("-".to_owned(), Position::to_string);
        let component = self.component.as_ref().map_or("-".to_owned(), Component::to_string);
        let vote = self.vote.filter(|_| self.component.is_some());
        let vote = vote.map_or(String::new(), |vote| format!(" {}", vote.0));
        format!("galera:{} {position} {component}{vote}", self.address)
    }
}

impl FromStr for Notice {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.strip_prefix("galera:").ok_or(())?.split(' ');
        let address = words.next().and_then(|word| word.parse().ok()).ok_or(())?;
        let position = match words.next().ok_or(())? {
            "-" => None,
            position => Some(position.parse()?),
        };
        let component = match (words.next().ok_or(())?, words.next()) {
            ("-", None) => None,
            (id, Some(members)) => Some(Component::from_words(id, members)),
            _ => return Err(()),
        };
        let vote = match words.next() {
            None => None,
            Some(vote) => Some(PeId(vote.parse().map_err(|_| ())?)),
        };
        Ok(Self { address, position, component, vote })
    }
}

/// Who has come farthest; the smallest identifier among equals. `None` if nobody has data, or if they are of
/// different clusters, which no rule can decide.
pub fn most_advanced(notices: &BTreeMap<PeId, Notice>) -> Option<PeId> {
    let mut best: Option<(PeId, &Position)> = None;
    for (id, notice) in notices {
        let Some(position) = &notice.position else { continue };
        match best {
            Some((_, other)) if other.cluster != position.cluster => return None,
            Some((_, other)) if other.seqno >= position.seqno => {}
            _ => best = Some((*id, position)),
        }
    }
    best.map(|(id, _)| id)
}

/// Who should begin again without being told to: the most advanced of a majority that stands at the same component.
pub fn successor(notices: &BTreeMap<PeId, Notice>) -> Option<PeId> {
    let best = most_advanced(notices)?;
    let component = notices.get(&best)?.component.as_ref()?;
    let here = notices.values().filter(|notice| notice.component.as_ref() == Some(component));
    component.has_majority(here.count()).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(n: u8, seqno: Option<i64>, component: Option<(u8, &str)>) -> (PeId, Notice) {
        let position = seqno.map(|seqno| Position {
            cluster: "070459c0-e50e-11f1-acc8-27d9eeb9924a".into(),
            seqno,
        });
        let component = component.map(|(number, members)| Component {
            id: format!("x/{number}"),
            members: members.chars().map(String::from).collect(),
        });
        let address = SocketAddr::from(([127, 0, 0, n], 3306));
        (PeId(n.into()), Notice { address, position, component, vote: None })
    }

    #[test]
    fn notices_round_trip() {
        for (_, notice) in [
            notice(1, Some(7), Some((5, "abc"))),
            notice(2, None, None),
            notice(3, Some(0), None),
            notice(4, None, Some((1, "a"))),
            (PeId(5), Notice { vote: Some(PeId(7)), ..notice(5, Some(3), Some((1, "ab"))).1 }),
        ] {
            assert_eq!(notice.encode().parse(), Ok(notice));
        }
        for wrong in ["", "galera:", "galera:127.0.0.1:1", "galera:127.0.0.1:1 - x", "sqlite:a:b"] {
            assert!(wrong.parse::<Notice>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_majority_of_the_last_component_goes_on_from_the_most_advanced() {
        let all = Some((5, "abc"));
        let of = |notices: &[(PeId, Notice)]| successor(&notices.iter().cloned().collect());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[notice(1, Some(9), all)]), None);
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(10), all)]), Some(PeId(2)));
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(9), all)]), Some(PeId(1)));
        // 1 was gone before the others made their last component, of which 3 is missing.
        let later = Some((6, "bc"));
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(12), later)]), None);
        assert_eq!(
            of(&[notice(1, Some(9), all), notice(2, Some(12), later), notice(3, Some(11), later)]),
            Some(PeId(2))
        );
        // Even when nothing was written meanwhile, the older component is not a majority at the same place.
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(9), later)]), None);
        // Who ended in order, or lost its data, has no vote.
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(9), None)]), None);
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, None, None)]), None);
        // Two and an arbitrator, which says nothing: two of three.
        assert_eq!(of(&[notice(1, Some(9), all), notice(2, Some(8), all)]), Some(PeId(1)));
    }

    #[test]
    fn who_is_most_advanced() {
        let of = |notices: &[(PeId, Notice)]| most_advanced(&notices.iter().cloned().collect());
        assert_eq!(of(&[notice(1, None, None), notice(2, Some(3), None)]), Some(PeId(2)));
        let mut foreign = notice(3, Some(99), None);
        if let Some(position) = &mut foreign.1.position {
            position.cluster = "170459c0-e50e-11f1-acc8-27d9eeb9924a".to_owned();
        }
        assert_eq!(of(&[notice(2, Some(3), None), foreign]), None);
    }
}
