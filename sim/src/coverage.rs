//! How often the things happened that a run is for.

use std::ops::AddAssign;

/// Counts of one run or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub seeds: u64,
    /// Takeovers that somebody won.
    pub takeovers: u64,
    /// Takeovers given up, since another registrar had precedence.
    pub arbitrations_lost: u64,
    /// Takeovers given up, since the target spoke.
    pub false_alarms: u64,
    pub resyncs: u64,
    /// Takeovers of a registrar that ran at that moment, behind a wall.
    pub splits: u64,
    /// Registrars that started again under the identifier of their last life.
    pub same_identity: u64,
    /// Elements that started again under a new identifier.
    pub new_identity: u64,
    /// Imports that met a pool with another policy.
    pub pool_conflicts: u64,
    /// Associations that came up.
    pub associations: u64,
    /// Messages that reached a core.
    pub messages: u64,
}

impl Coverage {
    /// Every count with its name, but for that of the seeds.
    pub fn rows(&self) -> [(&'static str, u64); 10] {
        [
            ("takeovers", self.takeovers),
            ("arbitrations lost", self.arbitrations_lost),
            ("false alarms", self.false_alarms),
            ("resyncs", self.resyncs),
            ("splits", self.splits),
            ("registrars restarted with the same identity", self.same_identity),
            ("elements restarted with a new identity", self.new_identity),
            ("pools of two policies", self.pool_conflicts),
            ("associations", self.associations),
            ("messages", self.messages),
        ]
    }

    /// What never happened, though so many seeds were run that it should have.
    pub fn missing(&self) -> Vec<&'static str> {
        let enough = self.seeds >= 100;
        let rows = self.rows().into_iter().filter(|(_, count)| enough && *count == 0);
        rows.map(|(name, _)| name).collect()
    }
}

impl AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.takeovers += other.takeovers;
        self.arbitrations_lost += other.arbitrations_lost;
        self.false_alarms += other.false_alarms;
        self.resyncs += other.resyncs;
        self.splits += other.splits;
        self.same_identity += other.same_identity;
        self.new_identity += other.new_identity;
        self.pool_conflicts += other.pool_conflicts;
        self.associations += other.associations;
        self.messages += other.messages;
    }
}
