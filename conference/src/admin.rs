//! `/rooms`: who is where, and how they fare.

use std::collections::HashMap;
use std::time::Instant;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::core::{CallId, Focus};
use crate::media::LineStats;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct RoomsView {
    pub participants: usize,
    /// From 0 to 1.
    pub load: f64,
    pub rooms: Vec<RoomView>,
}

/// One room.
#[derive(Clone, Debug, Serialize)]
pub struct RoomView {
    pub name: Box<str>,
    /// For so many seconds.
    pub age_s: u64,
    pub subscriptions: usize,
    pub participants: Vec<ParticipantView>,
}

/// One participant; what the media threads know is as of the last second, and not there in the first one.
#[derive(Clone, Debug, Serialize)]
pub struct ParticipantView {
    pub uri: Box<str>,
    pub name: Box<str>,
    pub age_s: u64,
    /// `false` while the room's number is wanted.
    pub is_inside: bool,
    pub on_hold: bool,
    pub muted: bool,
    #[serde(flatten)]
    pub media: Option<MediaView>,
}

/// What the media threads know of a participant.
#[derive(Clone, Debug, Serialize)]
pub struct MediaView {
    pub codec: &'static str,
    pub speaking: bool,
    pub packets_received: u64,
    pub packets_sent: u64,
    pub packets_lost: u64,
    pub packets_late: u64,
    pub packets_of_strangers: u64,
    pub wrong_payload: u64,
    pub frames_made_up: u64,
    pub jitter_ms: u32,
    pub buffer_ms: u32,
    pub round_trip_ms: Option<u32>,
    /// Of what we sent lately, as the other side reports.
    pub remote_lost: f32,
}

/// What is going on.
pub(crate) fn view(now: Instant, focus: &Focus, lines: &[LineStats]) -> RoomsView {
    let lines: HashMap<CallId, &LineStats> = lines.iter().map(|line| (line.call, line)).collect();
    let age = |since: Instant| now.saturating_duration_since(since).as_secs();
    let rooms = focus.rooms().map(|room| RoomView {
        age_s: age(room.began),
        name: room.name,
        subscriptions: room.subscriptions,
        participants: room
            .participants
            .into_iter()
            .map(|participant| ParticipantView {
                age_s: age(participant.joined),
                is_inside: participant.is_inside,
                on_hold: participant.on_hold,
                muted: participant.muted,
                media: lines.get(&participant.call).map(|line| media(line)),
                uri: participant.uri,
                name: participant.name,
            })
            .collect(),
    });
    RoomsView { participants: focus.participants(), load: focus.load(), rooms: rooms.collect() }
}

fn media(line: &LineStats) -> MediaView {
    let member = &line.member;
    MediaView {
        codec: member.codec.name(),
        speaking: member.speaking,
        packets_received: member.reception.packets,
        packets_sent: member.sent,
        packets_lost: member.lost,
        packets_late: member.reception.late,
        packets_of_strangers: line.strangers,
        wrong_payload: member.reception.wrong_payload,
        frames_made_up: member.reception.made_up,
        jitter_ms: member.jitter_ms,
        buffer_ms: member.delay_ms,
        round_trip_ms: member.round_trip_ms,
        remote_lost: member.remote_lost,
    }
}

/// The routes; each request is a question to the driver.
pub(crate) fn routes(questions: mpsc::Sender<oneshot::Sender<RoomsView>>) -> Router {
    let answer = move || {
        let questions = questions.clone();
        async move {
            let (sender, receiver) = oneshot::channel();
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            questions.try_send(sender).map_err(|_| unavailable)?;
            receiver.await.map(Json).map_err(|_| unavailable)
        }
    };
    Router::new().route("/rooms", get(answer))
}
