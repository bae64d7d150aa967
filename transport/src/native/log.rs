//! librdkafka's log lines, handed to `tracing`. They name brokers, topics and groups, never a
//! record.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use crate::error::{Error, Failure};

/// Writes one line. Its levels are lowered by one: what librdkafka calls an error is a connection
/// that it will try again.
pub(crate) fn line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// How long a trouble explains a silence.
const FRESH: Duration = Duration::from_secs(30);

/// The context of a client: writes its log, and remembers what was last wrong with its connections,
/// because the calls that suffer from it say no more than that they had no answer in time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logged {
    trouble: Arc<Mutex<Option<Trouble>>>,
}

#[derive(Clone, Debug)]
struct Trouble {
    at: Instant,
    failure: Failure,
}

impl Logged {
    /// Remembers a trouble, unless a fresh one says more.
    fn note(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let says_more = trouble.as_ref().is_some_and(|known| {
            known.at.elapsed() < FRESH && weight(known.failure.code) > weight(code)
        });
        if !says_more {
            *trouble = Some(Trouble {
                at: Instant::now(),
                failure: Failure::described(code, reason),
            });
        }
    }

    /// Returns a fresh refusal of the client by a broker: waiting longer will not help.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let trouble = trouble.as_ref()?;
        let is_refusal = trouble.failure.code == RDKafkaErrorCode::Authentication;
        (is_refusal && trouble.at.elapsed() < FRESH).then(|| trouble.failure.clone())
    }

    /// Puts the trouble behind a silence into its place.
    pub(crate) fn explain(&self, failure: Failure) -> Failure {
        let is_silence = matches!(
            failure.code,
            RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::MessageTimedOut
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::WaitingForCoordinator
        );
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble.as_ref() {
            Some(trouble) if is_silence && trouble.at.elapsed() < FRESH => Failure {
                code: trouble.failure.code,
                message: format!("{}: {}", failure.message, trouble.failure.message),
                ..failure
            },
            _ => failure,
        }
    }

    /// Explains the source of an error.
    pub(crate) fn explain_error(&self, error: Error) -> Error {
        match error {
            Error::Operation {
                operation,
                subject,
                source,
            } => Error::Operation {
                operation,
                subject,
                source: self.explain(source),
            },
            other => other,
        }
    }
}

/// A refused password says more than a lost connection, which says more than "all brokers down".
fn weight(code: RDKafkaErrorCode) -> u8 {
    match code {
        RDKafkaErrorCode::Authentication => 3,
        RDKafkaErrorCode::SSL => 2,
        RDKafkaErrorCode::AllBrokersDown => 0,
        _ => 1,
    }
}

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(target: "librdkafka", %error, "{reason}");
        if let Some(code) = error.rdkafka_error_code() {
            self.note(code, reason);
        }
    }
}

impl ConsumerContext for Logged {}

impl ProducerContext for Logged {
    type DeliveryOpaque = ();

    fn delivery(&self, _result: &DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_explained_by_the_trouble_that_says_most() {
        let logged = Logged::default();
        let silence = || Failure::of(RDKafkaErrorCode::OperationTimedOut);
        assert_eq!(
            logged.explain(silence()).code,
            RDKafkaErrorCode::OperationTimedOut
        );
        logged.note(RDKafkaErrorCode::Authentication, "wrong password");
        logged.note(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down");
        let explained = logged.explain(silence());
        assert_eq!(explained.code, RDKafkaErrorCode::Authentication);
        assert!(explained.message.ends_with("wrong password"), "{explained}");
        let other = Failure::of(RDKafkaErrorCode::TopicAuthorizationFailed);
        assert_eq!(logged.explain(other.clone()).code, other.code);
    }
}
