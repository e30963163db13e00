//! What the location store tells, on its way from the store's threads to the driver.
//!
//! A store reads its table faster than the driver takes it in. What waits in between would be memory that the process
//! keeps: the thread that reads changes waits instead. Answers are as many as there are requests, and never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dialtone_location::{Sink, StoreEvent};
use tokio::sync::mpsc;

/// Batches of changes that may wait for the driver.
const BATCHES: usize = 16;
/// How often a thread that waits looks again, and how many times.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 5_000;

/// The driver's end.
#[derive(Debug)]
pub struct Intake {
    batches: mpsc::UnboundedReceiver<Vec<StoreEvent>>,
    changes: Arc<AtomicUsize>,
}

/// The store's end, and the driver's.
pub fn intake() -> (impl Sink, Intake) {
    let (sender, batches) = mpsc::unbounded_channel();
    let changes = Arc::new(AtomicUsize::new(0));
    let waiting = changes.clone();
    let sink = move |events: Vec<StoreEvent>| {
        if has_changes(&events) {
            // A driver that has ended takes nothing; one that does not come to it for so long has other troubles.
            let mut looks = 0;
            while waiting.load(Ordering::Relaxed) >= BATCHES && looks < LOOKS && !sender.is_closed()
            {
                std::thread::sleep(LOOK);
                looks += 1;
            }
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        // The driver may have ended.
        let _ = sender.send(events);
    };
    (sink, Intake { batches, changes })
}

impl Intake {
    /// What comes next; `None` when the store has ended. Cancel safe.
    pub async fn recv(&mut self) -> Option<Vec<StoreEvent>> {
        let batch = self.batches.recv().await?;
        if has_changes(&batch) {
            self.changes.fetch_sub(1, Ordering::Relaxed);
        }
        Some(batch)
    }
}

fn has_changes(events: &[StoreEvent]) -> bool {
    events.iter().any(|event| matches!(event, StoreEvent::Changes(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_wait_for_the_driver_and_answers_do_not() {
        let (sink, mut intake) = intake();
        let reader = std::thread::spawn(move || {
            for _ in 0..3 * BATCHES {
                sink(vec![StoreEvent::Changes(Vec::new())]);
            }
            sink(vec![StoreEvent::Loaded]);
            sink
        });
        let mut taken = 0;
        while intake.recv().await != Some(vec![StoreEvent::Loaded]) {
            assert!(intake.changes.load(Ordering::Relaxed) <= BATCHES);
            taken += 1;
        }
        assert_eq!(taken, 3 * BATCHES);
        let sink = reader.join().unwrap();
        (0..2 * BATCHES).for_each(|_| sink(vec![StoreEvent::Recovered]));
        // Nobody waits for a driver that is gone.
        drop(intake);
        (0..2 * BATCHES).for_each(|_| sink(vec![StoreEvent::Changes(Vec::new())]));
    }
}
