//! What is done while a transaction is on its way: the next group is read, on a connection of its own, and decided as
//! if that transaction were committed already. If it is not, nothing of this is used.
//!
//! Rows of users that both groups are about are taken from the first group's decisions. For all others it does not
//! matter whether the transaction was committed when they were read. That nobody else has changed them since is checked
//! by the second transaction as always: it expects the revision that the first one leaves.

use std::sync::Arc;

use super::connect::{CONNECT_WITHIN, Connection, Fault};
use super::group::{self, Plan, Scope, State};
use super::queue::Entry;
use super::{ClientFile, Node, Shared};
use crate::record::WriterId;

/// Fewer than this are not worth a transaction of their own while another one is under way: more come meanwhile.
const WORTH: usize = 200;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Ahead {
    shared: Arc<Shared>,
    writer: WriterId,
    client: ClientFile,
    connection: Option<Connection>,
}

/// A group with what was decided about it.
#[derive(Debug)]
pub(crate) struct Next {
    pub(crate) group: Vec<Entry>,
    pub(crate) decided: Decided,
}

#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) token: u64,
    pub(crate) plan: Plan,
}

impl Ahead {
    pub(crate) fn new(shared: Arc<Shared>, writer: WriterId, client: ClientFile) -> Self {
        Self { shared, writer, client, connection: None }
    }

    /// Takes the next saves from the queue, if there are many, and decides them; `token` is for their transaction,
    /// `current` is on its way at `node`. Takes little longer than that unless the node stands still.
    pub(crate) async fn prepare(
        &mut self,
        node: Node,
        limit: usize,
        token: u64,
        current: &Plan,
    ) -> Option<Next> {
        let group = self.shared.queue.take_saves(limit, WORTH.min(limit))?;
        let scope = Scope::of(&group);
        match self.read(node, &scope).await {
            Ok(mut state) => {
                state.follow(&current.after);
                let plan = group::plan(self.writer, token, &group, &scope, state);
                Some(Next { group, decided: Decided { token, plan } })
            }
            Err(fault) => {
                tracing::debug!(%fault, "nothing is read ahead");
                self.shared.queue.put_back(group);
                None
            }
        }
    }

    async fn read(&mut self, node: Node, scope: &Scope) -> Result<State, Fault> {
        let connection = self.connection.take().filter(|connection| connection.node == node);
        let mut connection = match connection {
            Some(connection) => connection,
            None => Connection::open(node, &self.client).await?,
        };
        let sets = connection.query(&scope.read(self.writer), CONNECT_WITHIN).await?;
        self.connection = Some(connection);
        State::read(scope, sets)
    }
}
