//! What a node tells the others, in a pool beside that of the servers.

use dialtone_handlespace::Handle;
use dialtone_pool_element::{ElementConfig, PoolElement, Registration, State};
use dialtone_wire::{PeId, Transport};
use tokio::{
    task::JoinHandle,
    time::{Duration, timeout},
};

/// One text in one pool, or none.
#[derive(Debug)]
pub(super) struct Board {
    elements: PoolElement,
    pool: Handle,
    pe_id: PeId,
    /// Each change registers the same element anew; all that was registered ends together.
    told: Option<(String, Vec<Registration>)>,
    withdrawn: Option<JoinHandle<bool>>,
}

impl Board {
    pub(super) fn new(elements: PoolElement, pool: Handle, pe_id: PeId) -> Self {
        Self { elements, pool, pe_id, told: None, withdrawn: None }
    }

    /// To be called again and again: there are moments in which nothing can be told.
    pub(super) fn tell(&mut self, text: String) {
        if self.withdrawn.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        self.withdrawn = None;
        if self.told.as_ref().is_some_and(|(told, _)| *told == text) {
            return;
        }
        let transport = Transport::Opaque(text.clone().into_bytes().into());
        let element = ElementConfig::new(self.pool.clone(), self.pe_id, transport);
        // Busy now, not for ever: there is a next call.
        if let Ok(registration) = self.elements.register(element) {
            let (told, registrations) = self.told.get_or_insert_with(Default::default);
            *told = text;
            registrations.push(registration);
        }
    }

    /// Waits until a registrar has what was told last; whether it has.
    pub(super) async fn is_heard(&self, patience: Duration) -> bool {
        let Some(last) = self.told.as_ref().and_then(|(_, all)| all.last()) else { return false };
        let mut state = last.state();
        let heard = state.wait_for(|state| matches!(state, State::Registered { .. }));
        matches!(timeout(patience, heard).await, Ok(Ok(_)))
    }

    pub(super) fn withdraw(&mut self) {
        if let Some((_, mut registrations)) = self.told.take()
            && let Some(last) = registrations.pop()
        {
            self.withdrawn = Some(tokio::spawn(async move {
                let confirmed = last.deregister().await;
                drop(registrations);
                confirmed
            }));
        }
    }
}
