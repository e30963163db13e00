//! A conference server: a SIP focus (RFC 4579) that mixes the audio of everybody in a room.
