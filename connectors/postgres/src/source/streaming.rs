//! Following the server's changes: the part of streaming that does.
//!
//! ```text
//!   server ──CopyBoth──▶ Client ──messages──▶ Changes ──batch, position──▶ Delivery ──▶ worker
//!      ▲                                                                                   │
//!      └────────────── standby status: flushed = durable ◀──────── confirmed ◀─────────────┘
//! ```
//!
//! # When a batch is closed
//!
//! Whole transactions fill a batch. It is handed over when the server has nothing more to say and the
//! worker can take it, so that at low load the latency is one commit of the worker; or when it is
//! full or old, and then we wait for the worker. While the worker is busy with one batch the next one
//! fills, so that under load batches grow by themselves. Where the server is late with what it sends, a
//! batch is held for a small share of that ([`Changes::held_until`]): a server may have nothing more to say
//! for a moment after each transaction of a long backlog. A transaction that does not fit leaves in parts.
//!
//! # What the server may forget
//!
//! The slot is told a place only after the batch up to there is durable, so it never passes the
//! stored position. A quiet stream advances in the same order: a batch without records, whose
//! position is how far the server has looked, then the confirmation.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hutong_connectors_core::postgres_source::Config;
use hutong_schemas::class::{Class, Classified};
use hutong_schemas::position::Lsn;
use tokio::task::yield_now;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::backfill::Backfill;
use super::beside::{ASK_INTERVAL, OverallPace};
use super::changes::{Changes, Closed, Step};
use super::client::{self, Frame};
use super::connect::AnyClient;
use super::delivery::{Delivery, Flow, in_memory, more_confirmed, stopped};
use super::error::Error;
use super::pgoutput::{Piece, piece, status_update};
use super::side::Side;
use super::silent_change::Watch;
use super::{slot, sql, toast};

/// How often time-driven work is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// How often an idle stream stores a new position.
const IDLE_ADVANCE_INTERVAL: Duration = Duration::from_secs(10);
/// How often the server is asked for the end of its log and what the slot retains.
const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// How long the server may be silent although it is asked for a sign of life again and again.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Shortest time between two status messages that nobody asked for.
const STATUS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How often the byte budget is asked again.
const BUDGET_RETRY_INTERVAL: Duration = Duration::from_millis(5);
/// How long a batch waits for the byte budget while nothing of ours holds any of it.
const BUDGET_PATIENCE: Duration = Duration::from_secs(1);
/// The same where nobody can wait for us: a row that is large beside the budget.
const BUDGET_PATIENCE_ALONE: Duration = Duration::from_secs(10);
/// How long the end of a run waits for batches to become durable.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to let go of the slot.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// How long nothing is read, while nothing of it could leave. The server sends a piece for each change:
/// where nobody takes them they gather with it, and it sends many at once, which costs it less than half.
const PAUSE: Duration = Duration::from_millis(5);
/// How many bytes may arrive meanwhile: more for large rows, so that it is a number of them.
const GATHER_BYTES: usize = 64 << 10;
const GATHER_BYTES_MAX: usize = 512 << 10;
const GATHER_ROWS: usize = 128;
/// How many bytes of a transaction's events say that many more will follow.
const LONG_TRANSACTION_BYTES: usize = 256 << 10;
/// How many bytes of messages are decoded before other tasks get their turn.
const DECODE_BYTES_MAX: usize = 64 << 10;

/// A stream of changes.
pub(crate) struct Streaming {
    pub(crate) config: Arc<Config>,
    pub(crate) client: AnyClient,
    pub(crate) side: Side,
    pub(crate) delivery: Delivery,
    pub(crate) changes: Changes,
    /// The rows of tables that are read beside the stream.
    pub(crate) backfill: Option<Backfill>,
    /// When an idle server was asked last how far it has looked, for rows that wait.
    pub(crate) asked_at: Instant,
    /// When progress was shown last.
    pub(crate) shown_at: Instant,
    /// Whether there is progress that was not shown.
    pub(crate) is_show_due: bool,
    pub(crate) pace: OverallPace,
    pub(crate) watch: Watch,
    /// Whether the stream ends when all tables are read.
    pub(crate) ends_after_reading: bool,
    /// The newest place that the server has spoken of.
    received: Lsn,
    /// The newest place that the slot may forget up to.
    durable: Lsn,
    /// The newest place that was handed over.
    handed_over: Lsn,
    status_due: bool,
    status_sent_at: Instant,
    heard_at: Instant,
    advanced_at: Instant,
    lag_read_at: Option<Instant>,
}

impl Streaming {
    /// Starts the stream at the position.
    pub(crate) async fn start(
        config: Arc<Config>,
        mut client: AnyClient,
        side: Side,
        delivery: Delivery,
        changes: Changes,
    ) -> Result<Self, Error> {
        let lsn = changes.position().lsn;
        let publication = sql::identifier(&config.publication_name).replace('\'', "''");
        client
            .start_copy_both(
                &format!("stream from replication slot \"{}\"", config.slot_name),
                &format!(
                    "START_REPLICATION SLOT {} LOGICAL {lsn} (proto_version '1', publication_names '{publication}')",
                    sql::identifier(&config.slot_name),
                ),
            )
            .await?;
        let now = Instant::now();
        Ok(Self {
            config,
            client,
            side,
            delivery,
            changes,
            backfill: None,
            asked_at: now,
            shown_at: now,
            is_show_due: false,
            pace: OverallPace::default(),
            watch: Watch::default(),
            ends_after_reading: false,
            received: lsn,
            durable: Lsn(0),
            handed_over: lsn,
            status_due: false,
            status_sent_at: now,
            heard_at: now,
            advanced_at: now,
            lag_read_at: None,
        })
    }

    /// Says that the position that the stream starts at is durable already.
    pub(crate) fn start_is_durable(&mut self) {
        self.durable = self.changes.position().lsn;
        self.status_due = true;
    }

    /// Streams until asked to stop or an error, or until all tables are read where nothing follows.
    /// Returns the connection beside the stream, and the delivery.
    pub(crate) async fn run(mut self) -> Result<(Side, Delivery), Error> {
        let outcome = self.stream().await;
        // What came before a fault is good and leaves; the position then stands right before it.
        if let Err(error) = &outcome
            && error.class() == Class::Definite
            && !self.changes.writer.is_empty()
        {
            // Settling is next in either case.
            let _ = self.hand_over().await?;
        }
        self.settle().await;
        // What the server says last is little.
        self.client.gather(1);
        // The slot is free for the next one when this returns, if the server plays along.
        let _ = timeout(END_TIMEOUT, self.client.end_copy_both()).await;
        self.client.close().await;
        outcome.map(|()| (self.side, self.delivery))
    }

    async fn stream(&mut self) -> Result<(), Error> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop = self.delivery.stop_signal();
        let mut confirmed = self.delivery.confirmed_signal();
        let mut reading = Reading::Waits;
        loop {
            if self.read_buffered().await? == Flow::Stop {
                return Ok(());
            }
            if self.drive_backfill().await? == Flow::Stop {
                return Ok(());
            }
            if self.is_at_its_end() {
                return self.end().await;
            }
            self.changes.rows_wait = self.can_emit_rows();
            let rows_wait = self.backfill.is_some();
            let held_until = self.changes.held_until().filter(|_| !rows_wait);
            let may_close = held_until.is_none()
                && !self.changes.in_transaction()
                && (!self.changes.writer.is_empty()
                    || self.changes.states.are_changed()
                    || self.can_emit_rows());
            let has_time = held_until.is_some() || self.has_time();
            let pauses = has_time && reading == Reading::Done;
            self.client.gather(if pauses { self.gathered() } else { 1 });
            let is_awaited = may_close || (pauses && !self.delivery.is_ready());
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(()),
                report = Self::next_report(&mut self.backfill), if rows_wait => {
                    self.on_report(report)?;
                }
                filled = self.client.fill(), if !pauses => {
                    filled?;
                    reading = Reading::Reads;
                    self.heard_at = Instant::now();
                }
                // The system was asked once more and has nothing, as far as is known.
                () = yield_now(), if has_time && reading == Reading::Reads => {
                    reading = Reading::Done;
                }
                () = sleep(PAUSE), if pauses => reading = Reading::Waits,
                () = at(held_until) => {}
                flow = self.delivery.ready(), if is_awaited => {
                    if flow == Flow::Continue && pauses {
                        // What has arrived meanwhile leaves too.
                        reading = Reading::Waits;
                        self.client.gather(1);
                        yield_now().await;
                        continue;
                    }
                    if flow == Flow::Stop || self.hand_over().await? == Flow::Stop {
                        return Ok(());
                    }
                }
                flow = more_confirmed(&mut confirmed) => {
                    if flow == Flow::Stop {
                        return Ok(());
                    }
                    self.note_confirmed();
                    self.send_status_if_due().await?;
                }
                () = sleep(ASK_INTERVAL), if rows_wait => {}
                _ = tick.tick() => {
                    if !pauses {
                        self.notice_silence()?;
                    }
                    if self.on_tick().await? == Flow::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Right after nothing was there to be read.
    fn notice_silence(&self) -> Result<(), Error> {
        if self.heard_at.elapsed() > SILENCE_MAX {
            return Err(Error::transient(format!(
                "the server has not been heard for {} s",
                SILENCE_MAX.as_secs()
            )));
        }
        Ok(())
    }

    /// Returns whether nothing of what arrives could leave now, so that it may gather.
    fn has_time(&self) -> bool {
        let writer = &self.changes.writer;
        if self.changes.in_transaction() && writer.bytes() >= LONG_TRANSACTION_BYTES {
            return true;
        }
        !writer.is_empty() && !self.delivery.is_ready()
    }

    /// Returns how many bytes may gather here, a power of two: the system is not told for each event.
    fn gathered(&self) -> usize {
        let writer = &self.changes.writer;
        let row_bytes = writer.bytes() / writer.batch.records.len().max(1);
        let bytes = (GATHER_ROWS * row_bytes).clamp(GATHER_BYTES, GATHER_BYTES_MAX);
        1 << bytes.ilog2()
    }

    /// Goes over the complete messages in the buffer.
    async fn read_buffered(&mut self) -> Result<Flow, Error> {
        loop {
            self.changes.now_us = now_us();
            let (read, step) = self.read_some()?;
            self.client.consume(read.bytes);
            if read.reply_requested {
                self.send_status(false).await?;
            }
            match step {
                Step::Continue if !self.cover() => {
                    if self.make_room().await? == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                Step::Continue => {}
                Step::Relation(relation) => match self.on_relation(&relation).await {
                    Err(error) if error.class() == Class::Definite => {
                        self.fail_table(relation.oid, &error)?;
                    }
                    flow => {
                        if flow? == Flow::Stop {
                            return Ok(Flow::Stop);
                        }
                    }
                },
                Step::Unfit { oid, error } => self.fail_table(oid, &error)?,
                Step::Full => {
                    // Where the budget had to be waited for in vain, it has left already.
                    if !self.cover() && self.make_room().await? == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                    if self.hand_over().await? == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                Step::Truncate(truncate) => {
                    if self.truncate(truncate).await? == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
            }
            if read.exhausted {
                return Ok(Flow::Continue);
            }
            yield_now().await;
        }
    }

    fn read_some(&mut self) -> Result<(Read, Step), Error> {
        let buffer = self.client.buffered();
        let mut read = Read::default();
        while read.bytes < DECODE_BYTES_MAX {
            let rest = &buffer[read.bytes..];
            let Frame::Complete { tag, bytes } = client::frame(rest)? else {
                read.exhausted = true;
                break;
            };
            let body = client::body(rest, bytes);
            read.bytes += bytes;
            match tag {
                b'd' => match piece(body)? {
                    Piece::Keepalive {
                        sent,
                        reply_requested,
                    } => {
                        read.reply_requested |= reply_requested;
                        self.received = self.received.max(sent);
                        self.changes.advance(sent);
                    }
                    Piece::Data {
                        lsn,
                        sent_us,
                        message,
                    } => {
                        self.received = self.received.max(lsn);
                        self.changes.sent_us = sent_us;
                        let step = self.changes.message(lsn, message)?;
                        if matches!(step, Step::Relation(_)) {
                            // The message is given again when the table was looked at.
                            read.bytes -= bytes;
                        }
                        if !matches!(step, Step::Continue) {
                            return Ok((read, step));
                        }
                    }
                },
                b'E' => return Err(client::server_error("stream changes", body)),
                b'c' => {
                    return Err(Error::transient(
                        "the server has ended the stream of changes",
                    ));
                }
                b'N' | b'S' | b'A' => {}
                other => {
                    return Err(Error::Protocol(format!(
                        "an unexpected message '{}' while streaming",
                        other.escape_ascii()
                    )));
                }
            }
        }
        Ok((read, Step::Continue))
    }

    /// Takes the memory of the batch being filled from the byte budget.
    pub(crate) fn cover(&mut self) -> bool {
        let bytes_max = self.config.batch_bytes_max;
        let bytes = self.changes.writer.bytes();
        self.delivery.cover(in_memory(bytes, bytes_max))
    }

    /// Waits for the byte budget: what we have handed over gives its share back when it is durable.
    /// If the budget stays used up by others, the batch leaves as it is, even within a transaction,
    /// so that two sources never wait for each other with half a batch each.
    async fn make_room(&mut self) -> Result<Flow, Error> {
        let mut tick = interval(BUDGET_RETRY_INTERVAL);
        let mut stop = self.delivery.stop_signal();
        // What we hold, or rows that wait for the stream, might be what the others wait for.
        let rows_wait = self
            .backfill
            .as_ref()
            .is_some_and(|rows| !rows.holds_nothing());
        let is_waited_for = rows_wait || self.delivery.holds_something();
        let patience = if is_waited_for {
            BUDGET_PATIENCE
        } else {
            BUDGET_PATIENCE_ALONE
        };
        let deadline = Instant::now() + patience;
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(Flow::Stop),
                _ = tick.tick() => {}
            }
            self.note_confirmed();
            self.send_status_if_due().await?;
            self.send_status_by_time().await?;
            if self.cover() {
                return Ok(Flow::Continue);
            }
            if self.delivery.is_settled() && Instant::now() > deadline {
                // A row larger than the whole budget goes through alone.
                return if self.changes.writer.is_empty() {
                    Ok(Flow::Continue)
                } else {
                    self.hand_over().await
                };
            }
        }
    }

    /// Closes the batch with all that is in it and hands it over, answering the server meanwhile.
    pub(crate) async fn hand_over(&mut self) -> Result<Flow, Error> {
        if self.resolve_waiting().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        let mut closed = self.changes.close()?;
        self.join_chunks(&mut closed)?;
        self.hand_over_closed(closed).await
    }

    /// Whether the tables are read and nothing shall follow.
    fn is_at_its_end(&self) -> bool {
        self.ends_after_reading && self.backfill.is_none() && !self.changes.in_transaction()
    }

    /// Says durably that nothing follows.
    async fn end(&mut self) -> Result<(), Error> {
        self.changes.position_mut().ended = true;
        // Settling is next in either case.
        let _ = self.hand_over().await?;
        Ok(())
    }

    /// Gives the events that lack values their rows, answering the server meanwhile. What is complete
    /// leaves where the rows do not fit a batch.
    pub(crate) async fn resolve_waiting(&mut self) -> Result<Flow, Error> {
        while !self.changes.writer.waiting.is_empty() {
            let mut side = self.side.lend();
            let mut writer = std::mem::take(&mut self.changes.writer);
            let bytes_max = self.config.batch_bytes_max;
            let host = Arc::clone(&self.delivery.host);
            let resolving = toast::resolve(&mut side, &mut writer, bytes_max, host.as_ref());
            let resolved = self.while_answering(resolving).await;
            self.changes.writer = writer;
            self.side.give_back(side);
            let Some(resolved) = resolved? else {
                return Ok(Flow::Stop);
            };
            for unfit in resolved? {
                self.fail_table(unfit.oid, &unfit.error)?;
            }
            if let Some(closed) = self.changes.close_before_waiting()
                && self.hand_over_closed(closed).await? == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::Continue)
    }

    pub(crate) async fn hand_over_closed(&mut self, closed: Closed) -> Result<Flow, Error> {
        if self.wait_for_room().await? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        self.handed_over = closed.position.lsn;
        self.advanced_at = Instant::now();
        self.delivery.progress.events_total = self.changes.events_total;
        self.delivery.progress.lag_seconds = closed
            .last_commit_ts_us
            .map(|committed| seconds(self.changes.now_us - committed));
        self.delivery.send(closed).await
    }

    async fn wait_for_room(&mut self) -> Result<Flow, Error> {
        let mut tick = interval(TICK);
        let mut stop = self.delivery.stop_signal();
        loop {
            tokio::select! {
                biased;
                flow = self.delivery.ready() => return Ok(flow),
                () = stopped(&mut stop) => return Ok(Flow::Stop),
                _ = tick.tick() => {
                    self.note_confirmed();
                    self.send_status_if_due().await?;
                    self.send_status_by_time().await?;
                }
            }
        }
    }

    /// Waits until all that was handed over is durable.
    pub(crate) async fn wait_until_settled(&mut self) -> Result<Flow, Error> {
        let mut tick = interval(TICK);
        let mut stop = self.delivery.stop_signal();
        let mut confirmed = self.delivery.confirmed_signal();
        loop {
            self.note_confirmed();
            if self.delivery.is_settled() {
                return Ok(Flow::Continue);
            }
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(Flow::Stop),
                flow = more_confirmed(&mut confirmed) => {
                    if flow == Flow::Stop {
                        return Ok(flow);
                    }
                }
                _ = tick.tick() => self.send_status_by_time().await?,
            }
        }
    }

    /// At the end of a run: what is on its way becomes durable, and the slot learns of it.
    async fn settle(&mut self) {
        let mut confirmed = self.delivery.confirmed_signal();
        let settled = async {
            loop {
                self.note_confirmed();
                if self.delivery.is_settled() || more_confirmed(&mut confirmed).await == Flow::Stop
                {
                    return;
                }
            }
        };
        // Whatever is not confirmed in time is confirmed after the next start.
        let _ = timeout(SETTLE_TIMEOUT, settled).await;
        if self.status_due {
            let _ = self.send_status(false).await;
        }
    }

    async fn on_tick(&mut self) -> Result<Flow, Error> {
        self.note_confirmed();
        self.send_status_if_due().await?;
        self.send_status_by_time().await?;
        self.read_lag_by_time().await;
        self.look_at_visible().await;
        self.show_if_due();
        self.look_for_silent_changes().await?;
        if self.delivery.is_settled() {
            self.changes.writer.rest();
        }
        self.advance_idle().await
    }

    /// Stores how far a quiet server has looked.
    async fn advance_idle(&mut self) -> Result<Flow, Error> {
        let idle = self.changes.writer.is_empty()
            && !self.changes.in_transaction()
            && self.delivery.is_settled()
            && self.changes.position().lsn > self.handed_over
            && self.advanced_at.elapsed() >= IDLE_ADVANCE_INTERVAL;
        if idle {
            return self.hand_over().await;
        }
        Ok(Flow::Continue)
    }

    fn note_confirmed(&mut self) {
        if let Some(durable) = self.delivery.take_confirmed() {
            self.status_due |= durable > self.durable;
            self.durable = self.durable.max(durable);
            if self.delivery.is_settled() {
                self.delivery.progress.lag_seconds = Some(0.0);
            }
        }
    }

    async fn send_status_if_due(&mut self) -> Result<(), Error> {
        if self.status_due && self.status_sent_at.elapsed() >= STATUS_INTERVAL_MIN {
            self.send_status(false).await?;
        }
        Ok(())
    }

    pub(crate) async fn send_status_by_time(&mut self) -> Result<(), Error> {
        if self.status_sent_at.elapsed() >= self.config.status_update_interval {
            // The answer is a sign of life, and says how far the server has looked.
            self.send_status(true).await?;
        }
        Ok(())
    }

    pub(crate) async fn send_status(&mut self, wants_reply: bool) -> Result<(), Error> {
        let confirms = self.status_due;
        if confirms {
            self.delivery.host.reached("source-confirm-before").await;
        }
        let status = status_update(self.received, self.durable, now_us(), wants_reply);
        self.client.send_copy_data(&status).await?;
        if confirms {
            self.delivery.host.reached("source-confirm-after").await;
        }
        self.status_due = false;
        self.status_sent_at = Instant::now();
        Ok(())
    }

    /// Shows lag and retained log. A fault here concerns the display only; the stream has its own.
    async fn read_lag_by_time(&mut self) {
        if self
            .lag_read_at
            .is_some_and(|at| at.elapsed() < LAG_INTERVAL)
        {
            return;
        }
        self.lag_read_at = Some(Instant::now());
        let slot = match self.side.client().await {
            Ok(client) => {
                let fetched = slot::fetch(client, &self.config.slot_name);
                timeout(self.config.query_timeout, fetched).await
            }
            Err(_) => return,
        };
        match slot {
            Ok(Ok(Some(slot))) => {
                let durable = self.durable.max(Lsn(0));
                let lag = slot.end_of_log.0.saturating_sub(durable.0);
                self.delivery.progress.lag_bytes = (durable.0 > 0).then_some(lag);
                self.delivery.progress.retained_wal_bytes = slot.retained_bytes;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "could not read the lag");
                self.side.discard();
            }
            Err(_) => self.side.discard(),
        }
        self.delivery.progress.events_total = self.changes.events_total;
        self.delivery.show();
    }
}

/// What is done about what arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The next piece is waited for.
    Waits,
    /// There was something, and there may be more.
    Reads,
    /// All that was there is read: where there is time, nothing more is read for a while.
    Done,
}

/// Waits until then; without it, for ever.
async fn at(instant: Option<std::time::Instant>) {
    match instant {
        Some(instant) => sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

/// What was read from the buffer.
#[derive(Default)]
struct Read {
    bytes: usize,
    /// Whether no complete message is left.
    exhausted: bool,
    reply_requested: bool,
}

/// The connector's clock.
pub(crate) fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_micros()).ok())
        .unwrap_or(0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a lag shown to people; microseconds of years fit a double"
)]
fn seconds(micros: i64) -> f64 {
    micros as f64 / 1e6
}
