//! What can go wrong with Kafka, and of which class it is.

use std::time::Duration;

use hutong_schemas::class::{Class, Classified};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// An error of this crate. A variant is what could not be done, its source says why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The property is the platform's to set.
    #[error("property kafka.{property} cannot be configured")]
    PropertyRefused {
        /// The librdkafka name.
        property: String,
    },
    /// A property without which nothing works.
    #[error("property kafka.{property} is missing")]
    PropertyMissing {
        /// The librdkafka name.
        property: String,
    },
    /// The properties do not make a client.
    #[error("cannot create a Kafka client")]
    Client(#[source] Failure),
    /// The text is no name of a cluster, location, view or connector.
    #[error("\"{name}\" is not a name: [a-z0-9][a-z0-9_-]{{0,62}} is expected")]
    InvalidName {
        /// The text.
        name: String,
    },
    /// An operation was refused or did not succeed.
    #[error("could not {operation} {subject}")]
    Operation {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what: a topic, a transactional id, a group.
        subject: String,
        /// Why not.
        #[source]
        source: Failure,
    },
    /// An operation had no answer in time. Nothing is known to have changed.
    #[error("could not {operation} {subject} within {} ms", after.as_millis())]
    TimedOut {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On what.
        subject: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Records behind an open transaction cannot be read, and it has been open for longer than any of
    /// ours may be.
    #[error(
        "topic {topic} partition {partition} cannot be read behind offset {offset}: a transaction has been open there for {} ms",
        after.as_millis()
    )]
    TransactionLeftOpen {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The last stable offset.
        offset: i64,
        /// How long it was waited for.
        after: Duration,
    },
    /// Whether the transaction was committed is not known: only a successor that fences this
    /// producer and then reads the stored position can tell.
    #[error("the outcome of a commit of {transactional_id} is not known")]
    CommitOutcomeUnknown {
        /// Whose commit.
        transactional_id: String,
        /// What happened instead of an answer.
        #[source]
        source: Failure,
    },
    /// The producer's epoch has moved on, by another owner or by the transaction's timeout, which
    /// librdkafka does not tell apart.
    #[error("producer {transactional_id} was fenced")]
    Fenced {
        /// Whose epoch.
        transactional_id: String,
        /// How it was told.
        #[source]
        source: Failure,
    },
    /// The member is no longer in its group, so a newer owner may have its partitions.
    #[error("member {member} of group {group} no longer owns partition {partition}")]
    NotOwner {
        /// The group.
        group: String,
        /// The static member.
        member: String,
        /// The partition.
        partition: i32,
        /// How it was told.
        #[source]
        source: Failure,
    },
    /// The topic does not exist.
    #[error("topic {topic} does not exist")]
    TopicMissing {
        /// The topic.
        topic: String,
    },
    /// The topic exists, but not as it must be.
    #[error("topic {topic} has {property}={found}, but {wanted} is needed")]
    TopicMismatch {
        /// The topic.
        topic: String,
        /// `partitions`, `cleanup.policy`, …
        property: String,
        /// What it has.
        found: String,
        /// What it must have.
        wanted: String,
    },
    /// The position lies outside of what the topic holds.
    #[error(
        "topic {topic} partition {partition} was truncated: offset {offset} is not in it any more"
    )]
    TopicTruncated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset that was to be read.
        offset: i64,
    },
    /// A record is larger than the topic, the broker or the client takes.
    #[error("a record of {bytes} bytes for topic {topic} is too large")]
    RecordTooLarge {
        /// The topic.
        topic: String,
        /// Key and value.
        bytes: usize,
        /// Who said so.
        #[source]
        source: Failure,
    },
    /// A record of ours was written by a newer release.
    #[error("{record} has v={found}, but this release reads up to v={supported}")]
    RecordTooNew {
        /// Which record.
        record: String,
        /// Its version.
        found: u64,
        /// The newest known version.
        supported: u64,
    },
    /// A record of ours is not what it should be.
    #[error("{record} cannot be read")]
    RecordMalformed {
        /// Which record.
        record: String,
        /// Where.
        #[source]
        source: serde_json::Error,
    },
    /// A batch refers to something that it does not hold, or asks for a partition that is not there.
    #[error("the batch for topic {topic} is inconsistent: {detail}")]
    BatchInconsistent {
        /// The topic.
        topic: String,
        /// What does not fit.
        detail: String,
    },
    /// The broker has no authorizer, so access cannot be granted or taken away.
    #[error("the Kafka cluster has no authorizer: access lists cannot be kept there")]
    NoAuthorizer,
    /// The client was used after an error that ended it.
    #[error("{0} has ended after an earlier error")]
    Ended(String),
    /// A scripted fault of a test.
    #[error("scripted fault: {0}")]
    Scripted(&'static str),
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::PropertyRefused { .. }
            | Self::PropertyMissing { .. }
            | Self::InvalidName { .. }
            | Self::TopicMissing { .. }
            | Self::TopicMismatch { .. }
            | Self::TopicTruncated { .. }
            | Self::RecordTooLarge { .. }
            | Self::RecordTooNew { .. }
            | Self::RecordMalformed { .. }
            | Self::NoAuthorizer => Class::Definite,
            Self::CommitOutcomeUnknown { .. }
            | Self::Fenced { .. }
            | Self::NotOwner { .. }
            | Self::Ended(_) => Class::Fenced,
            Self::Operation { source, .. } => source.class(),
            // A client that cannot be made will not be made of the same properties either, unless
            // the machine is short of threads.
            Self::Client(failure) if failure.code == RDKafkaErrorCode::CriticalSystemResource => {
                Class::Transient
            }
            Self::Client(_) => Class::Definite,
            Self::TimedOut { .. } | Self::TransactionLeftOpen { .. } | Self::Scripted(_) => {
                Class::Transient
            }
            Self::BatchInconsistent { .. } => Class::Fatal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::PropertyRefused { property } => Some(format!(
                "remove kafka.{property}: the platform sets it itself"
            )),
            Self::TopicMismatch {
                topic,
                property,
                wanted,
                ..
            } => Some(if property == "partitions" {
                format!(
                    "delete topic {topic} if its contents are not needed, so that it is created anew with {wanted} partitions"
                )
            } else {
                format!(
                    "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {property}={wanted}"
                )
            }),
            Self::TopicTruncated { topic, .. } => Some(format!(
                "the records were deleted or the topic {topic} was created anew: what stands on it must be rebuilt"
            )),
            Self::RecordTooLarge { topic, .. } => Some(format!(
                "raise max.message.bytes of topic {topic} and message.max.bytes below kafka:"
            )),
            Self::TransactionLeftOpen { topic, .. } => Some(format!(
                "a broker that was restarted may have left out the end of a transaction (KAFKA-20734): look for it with kafka-transactions.sh find-hanging --topic {topic}, and see \"A transaction that nobody ends\" in the operations manual"
            )),
            Self::RecordTooNew { .. } => Some("upgrade this process".to_owned()),
            Self::NoAuthorizer => Some(
                "set authorizer.class.name on the brokers, or keep subscribers away from Kafka"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Why Kafka or its client did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message} ({})", self.code_name())]
pub struct Failure {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) message: String,
    /// The client cannot be used any more.
    pub(crate) is_fatal: bool,
    /// The transaction must be aborted, the client can go on.
    pub(crate) is_abortable: bool,
    /// The same call may be repeated and will go on where it was.
    pub(crate) is_retriable: bool,
}

impl Failure {
    pub(crate) fn of(code: RDKafkaErrorCode) -> Self {
        Self {
            code,
            message: code.to_string(),
            is_fatal: false,
            is_abortable: false,
            is_retriable: false,
        }
    }

    pub(crate) fn described(code: RDKafkaErrorCode, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::of(code)
        }
    }

    /// Returns the name of the code, such as `TopicAuthorizationFailed`.
    #[must_use]
    pub fn code_name(&self) -> String {
        format!("{:?}", self.code)
    }

    /// Returns the class of the code.
    #[must_use]
    pub fn class(&self) -> Class {
        class_of(self.code)
    }
}

impl From<KafkaError> for Failure {
    fn from(error: KafkaError) -> Self {
        let code = match &error {
            KafkaError::AdminOp(code) => *code,
            other => other
                .rdkafka_error_code()
                .unwrap_or(RDKafkaErrorCode::Unknown),
        };
        match error {
            // The wrapper would print the value, which may be a secret.
            KafkaError::ClientConfig(_, reason, property, _) => {
                let reason = if crate::config::is_secret(&property) {
                    "invalid value".to_owned()
                } else {
                    reason
                };
                Self::described(code, format!("property {property}: {reason}"))
            }
            error => Self::described(code, error.to_string()),
        }
    }
}

/// Whether a code tells that this client's place was taken, or that the broker gave it up.
pub(crate) fn is_fencing(code: RDKafkaErrorCode) -> bool {
    class_of(code) == Class::Fenced
}

/// The class of each code of librdkafka 2.12, local ones (negative) and the broker's.
///
/// Codes from outside that a later release adds are transient: a wrong retry is cheap and visible,
/// a wrong stop is an outage.
fn class_of(code: RDKafkaErrorCode) -> Class {
    use RDKafkaErrorCode as C;
    match code {
        // Data, configuration or rights are wrong.
        C::InvalidArgument
        | C::ExistingSubscription
        | C::UnknownProtocol
        | C::NotImplemented
        | C::UnsupportedFeature
        | C::NotConfigured
        | C::AutoOffsetReset
        | C::LogTruncation
        | C::OffsetOutOfRange
        | C::MessageSizeTooLarge
        | C::OffsetMetadataTooLarge
        | C::InvalidTopic
        | C::MessageBatchTooLarge
        | C::InvalidRequiredAcks
        | C::InconsistentGroupProtocol
        | C::InvalidGroupId
        | C::InvalidSessionTimeout
        | C::InvalidCommitOffsetSize
        | C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::SaslAuthenticationFailed
        | C::Authentication
        | C::UnsupportedVersion
        | C::TopicAlreadyExists
        | C::InvalidPartitions
        | C::InvalidReplicationFactor
        | C::InvalidReplicaAssignment
        | C::InvalidConfig
        | C::UnsupportedForMessageFormat
        | C::PolicyViolation
        | C::InvalidTransactionTimeout
        | C::SecurityDisabled
        | C::DelegationTokenAuthDisabled
        | C::DelegationTokenNotFound
        | C::DelegationTokenOwnerMismatch
        | C::DelegationTokenRequestNotAllowed
        | C::DelegationTokenAuthorizationFailed
        | C::DelegationTokenExpired
        | C::InvalidPrincipalType
        | C::NonEmptyGroup
        | C::GroupIdNotFound
        | C::TopicDeletionDisabled
        | C::UnsupportedCompressionType
        | C::GroupMaxSizeReached
        | C::InvalidRecord
        | C::InvalidTimestamp
        | C::ResourceNotFound
        | C::DuplicateResource
        | C::UnacceptableCredential
        | C::GroupSubscribedToTopic
        | C::UnknownTopic
        | C::UnknownTopicOrPartition
        | C::UnknownPartition
        | C::UnknownTopicId
        | C::UnsupportedAssignor
        | C::TelemetryTooLarge
        | C::PrincipalDeserializationFailure => Class::Definite,
        // Somebody newer has the work, or the broker believes so.
        C::Fenced
        | C::ProducerFenced
        | C::InvalidProducerEpoch
        | C::InvalidProducerIdMapping
        | C::TransactionCoordinatorFenced
        | C::FencedInstanceId
        | C::FencedMemberEpoch
        | C::StaleMemberEpoch
        | C::UnknownMemberId
        | C::IllegalGeneration
        | C::AssignmentLost
        | C::PollExceeded
        | C::UnreleasedInstanceId
        | C::UnknownProducerId => Class::Fenced,
        // The client's or our own bookkeeping is broken.
        C::BadMessage
        | C::BadCompression
        | C::KeySerialization
        | C::ValueSerialization
        | C::KeyDeserialization
        | C::ValueDeserialization
        | C::InvalidType
        | C::Underflow
        | C::Inconsistent
        | C::GaplessGuarantee
        | C::Fatal
        | C::Conflict
        | C::State
        | C::ReadOnly
        | C::OutOfOrderSequenceNumber
        | C::DuplicateSequenceNumber
        | C::InvalidTransactionalState
        | C::InvalidRequest
        | C::InvalidMessage
        | C::InvalidMessageSize
        | C::InvalidDifferentRecord
        | C::NoEnt
        | C::Application
        | C::CriticalSystemResource => Class::Fatal,
        // The world may heal. Sentinels and successes are here because they are no errors at all.
        C::NoError
        | C::BrokerDestroy
        | C::Fail
        | C::BrokerTransportFailure
        | C::Resolve
        | C::MessageTimedOut
        | C::PartitionEOF
        | C::FileSystem
        | C::AllBrokersDown
        | C::OperationTimedOut
        | C::QueueFull
        | C::ISRInsufficient
        | C::NodeUpdate
        | C::SSL
        | C::WaitingForCoordinator
        | C::UnknownGroup
        | C::InProgress
        | C::PreviousInProgress
        | C::AssignPartitions
        | C::RevokePartitions
        | C::NoOffset
        | C::Outdated
        | C::TimedOutQueue
        | C::WaitCache
        | C::Interrupted
        | C::Partial
        | C::Retry
        | C::PurgeQueue
        | C::PurgeInflight
        | C::UnknownBroker
        | C::Noop
        | C::DestroyBroker
        | C::Unknown
        | C::LeaderNotAvailable
        | C::NotLeaderForPartition
        | C::RequestTimedOut
        | C::BrokerNotAvailable
        | C::ReplicaNotAvailable
        | C::StaleControllerEpoch
        | C::NetworkException
        | C::CoordinatorLoadInProgress
        | C::CoordinatorNotAvailable
        | C::NotCoordinator
        | C::NotEnoughReplicas
        | C::NotEnoughReplicasAfterAppend
        | C::RebalanceInProgress
        | C::NotController
        | C::ConcurrentTransactions
        | C::OperationNotAttempted
        | C::KafkaStorageError
        | C::LogDirNotFound
        | C::ReassignmentInProgress
        | C::FetchSessionIdNotFound
        | C::InvalidFetchSessionEpoch
        | C::ListenerNotFound
        | C::FencedLeaderEpoch
        | C::UnknownLeaderEpoch
        | C::StaleBrokerEpoch
        | C::OffsetNotAvailable
        | C::MemberIdRequired
        | C::PreferredLeaderNotAvailable
        | C::EligibleLeadersNotAvailable
        | C::ElectionNotNeeded
        | C::NoReassignmentInProgress
        | C::UnstableOffsetCommit
        | C::ThrottlingQuotaExceeded
        | C::InconsistentVoterSet
        | C::InvalidUpdateVersion
        | C::FeatureUpdateFailed
        | C::UnknownSubscriptionId
        | C::RebootstrapRequired => Class::Transient,
        _ => Class::Transient,
    }
}
