//! Settings of the Flight SQL door.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use skep_common::{ByteSize, Error, Result};

/// Settings of the Flight SQL door. Table `[flight]` of the config file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Idle time after which a session ends. 1 s to 7 d. A session with a running statement is not idle.
    #[serde(with = "skep_common::unit::duration")]
    pub session_ttl: Duration,
    /// Time in which a ticket must be redeemed. 1 s to 1 d.
    #[serde(with = "skep_common::unit::duration")]
    pub ticket_ttl: Duration,
    /// Most sessions at a time. More callers are turned away.
    pub sessions_max: usize,
    /// Most prepared statements in one session.
    pub prepared_max: usize,
    /// Most transactions that one session has open at a time.
    pub transactions_max: usize,
    /// Most statements, over all sessions, that run while their clients poll or wait to be fetched after that. Each may keep
    /// `polled_bytes` of rows.
    pub polled_max: usize,
    /// Rows of such a statement that are made before somebody fetches them. 1 KiB to 1 GiB.
    pub polled_bytes: ByteSize,
    /// How long a poll waits for the end of its statement before it answers how far it is. 0 to 1 min.
    #[serde(with = "skep_common::unit::duration")]
    pub poll_wait: Duration,
    /// Most connections at a time. More are closed as they come.
    pub connections_max: usize,
    /// Time that a connection has until it speaks HTTP/2.
    #[serde(with = "skep_common::unit::duration")]
    pub greeting_timeout: Duration,
    /// Longest message that is accepted, and most bytes of parameters bound to one statement.
    pub message_max: ByteSize,
    /// Size at which rows are cut into messages.
    pub message_target: ByteSize,
    /// Silence after which bound rows are answered although the client has not closed its side; some wait for the
    /// answer before they do.
    #[serde(with = "skep_common::unit::duration")]
    pub answer_after: Duration,
    /// How often an idle connection is probed.
    #[serde(with = "skep_common::unit::duration")]
    pub keepalive_interval: Duration,
    /// Silence after a probe that ends a connection.
    #[serde(with = "skep_common::unit::duration")]
    pub keepalive_timeout: Duration,
    /// Time that open calls get to finish when the door closes.
    #[serde(with = "skep_common::unit::duration")]
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            session_ttl: Duration::from_secs(30 * 60),
            ticket_ttl: Duration::from_secs(10 * 60),
            sessions_max: 10_000,
            prepared_max: 1_000,
            transactions_max: 16,
            polled_max: 64,
            polled_bytes: ByteSize::mib(4),
            poll_wait: Duration::from_millis(500),
            connections_max: 10_000,
            greeting_timeout: Duration::from_secs(10),
            message_max: ByteSize::mib(64),
            message_target: ByteSize::mib(2),
            answer_after: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// [`Kind::Invalid`](skep_common::Kind::Invalid), naming the key.
    pub fn validate(&self) -> Result<()> {
        const MILLI: Duration = Duration::from_millis(1);
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        for (key, value, least, most) in [
            ("session_ttl", self.session_ttl, SECOND, 7 * DAY),
            ("ticket_ttl", self.ticket_ttl, SECOND, DAY),
            ("poll_wait", self.poll_wait, Duration::ZERO, MINUTE),
            ("greeting_timeout", self.greeting_timeout, 10 * MILLI, 10 * MINUTE),
            ("answer_after", self.answer_after, MILLI, MINUTE),
            ("keepalive_interval", self.keepalive_interval, SECOND, DAY),
            ("keepalive_timeout", self.keepalive_timeout, SECOND, DAY),
            ("drain_timeout", self.drain_timeout, Duration::ZERO, DAY),
        ] {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(format!("[flight] {key} = {value:?} is out of range"))
                    .hint(format!("{least:?} to {most:?}")));
            }
        }
        for (key, value) in [
            ("sessions_max", self.sessions_max),
            ("prepared_max", self.prepared_max),
            ("transactions_max", self.transactions_max),
            ("polled_max", self.polled_max),
            ("connections_max", self.connections_max),
        ] {
            if value == 0 {
                return Err(Error::invalid(format!("[flight] {key} = 0 lets nothing in")).hint("1 or more"));
            }
        }
        let (kib, gib) = (1 << 10, 1 << 30);
        for (key, value, least, most) in [
            ("message_max", self.message_max, 64 * kib, gib),
            ("message_target", self.message_target, kib, gib),
            ("polled_bytes", self.polled_bytes, kib, gib),
        ] {
            if !(least..=most).contains(&value.bytes()) {
                return Err(Error::invalid(format!("[flight] {key} = {value} is out of range"))
                    .hint(format!("{least} to {most} bytes")));
            }
        }
        Ok(())
    }
}
