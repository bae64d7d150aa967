//! Schemas by id and ids by subject, as `<cluster>.schemas` has them.
//!
//! A worker follows the topic and so knows every schema without the control plane; only registering
//! a schema that is not there yet asks the registry over HTTP.

use std::sync::Arc;

use hutong_schemas::class::{Class, Classified};
use hutong_schemas::position::SchemaId;

/// The worker's view of the registry.
#[derive(Debug)]
pub(crate) struct SchemaCache {}

impl SchemaCache {
    /// Returns the schema with this id, as registered. Waits a while for one that the topic may
    /// still bring.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] (transient) if it does not come.
    pub(crate) async fn schema(&self, id: SchemaId) -> Result<Arc<str>, Error> {
        Err(Error::Unknown { id })
    }

    /// Returns the id under which a subject already has this schema, without asking anybody.
    pub(crate) fn known(&self, _subject: &str, _schema: &str) -> Option<SchemaId> {
        None
    }

    /// Returns the id of a schema under a subject: the known one, else by registering it.
    ///
    /// # Errors
    ///
    /// Transient while the registry cannot be reached, definite when it refuses.
    pub(crate) async fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, Error> {
        self.known(subject, schema).ok_or(Error::Unknown {
            id: SchemaId(0),
        })
    }
}

/// A schema could not be found or registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The topic has not brought this schema.
    #[error("schema {id} is not known yet")]
    Unknown {
        /// The schema's id.
        id: SchemaId,
    },
}

impl Classified for Error {
    fn class(&self) -> Class {
        match self {
            Self::Unknown { .. } => Class::Transient,
        }
    }
}
