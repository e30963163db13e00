//! Which node to talk to.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::connect::{Connection, Fault};
use super::{ClientFile, Node, clock};

/// How long a node that failed comes last.
const SUSPECT_FOR: Duration = Duration::from_secs(3);

/// The nodes in the order in which one task tries them: those that failed a short while ago last, and otherwise the one
/// with the smallest identifier first, so that all processes choose the same one.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    nodes: watch::Receiver<Vec<Node>>,
    /// The last ones that there were: a pool that is empty now may have lost its registrars only.
    known: Vec<Node>,
    suspects: BTreeMap<Node, Instant>,
    pub(crate) client: ClientFile,
}

impl Route {
    pub(crate) fn new(nodes: watch::Receiver<Vec<Node>>, client: ClientFile) -> Self {
        Self { nodes, known: Vec::new(), suspects: BTreeMap::new(), client }
    }

    /// All of them, best first.
    pub(crate) fn order(&mut self) -> Vec<Node> {
        self.refresh();
        let now = clock();
        self.suspects.retain(|_, since| now.saturating_duration_since(*since) < SUSPECT_FOR);
        let mut order = self.known.clone();
        order.sort_by_key(|node| (self.suspects.get(node).copied(), *node));
        order
    }

    /// Where all processes are to write.
    pub(crate) fn preferred(&mut self) -> Option<Node> {
        self.refresh();
        self.known.iter().min().copied()
    }

    pub(crate) fn suspect(&mut self, node: Node) {
        self.suspects.insert(node, clock());
    }

    /// A connection to the first node that gives one; what was wrong with the last one if none does.
    pub(crate) async fn connect(&mut self) -> Result<Connection, Fault> {
        let mut last = Fault::Gone("no node is known".to_owned());
        for node in self.order() {
            match Connection::open(node, &self.client).await {
                Ok(connection) => {
                    self.suspects.remove(&node);
                    return Ok(connection);
                }
                Err(fault) => {
                    tracing::debug!(node = %node.address, %fault, "database node not usable");
                    self.suspect(node);
                    last = fault;
                }
            }
        }
        Err(last)
    }

    fn refresh(&mut self) {
        let nodes = self.nodes.borrow_and_update();
        if !nodes.is_empty() && *nodes != self.known {
            self.known.clone_from(&nodes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_identifier_comes_first_unless_it_failed() {
        let node = |id: u32| Node { id, address: ([127, 0, 0, 1], id as u16).into() };
        let (sender, nodes) = watch::channel(vec![node(3), node(1), node(2)]);
        let client = ClientFile { user: "u".into(), password: "p".into(), database: "d".into() };
        let mut route = Route::new(nodes, client);
        assert_eq!(route.order(), [node(1), node(2), node(3)]);
        route.suspect(node(1));
        assert_eq!(route.order(), [node(2), node(3), node(1)]);
        assert_eq!(route.preferred(), Some(node(1)));
        sender.send_replace(Vec::new());
        assert_eq!(route.order(), [node(2), node(3), node(1)], "an empty pool forgets nothing");
        sender.send_replace(vec![node(2)]);
        assert_eq!(route.order(), [node(2)]);
    }
}
