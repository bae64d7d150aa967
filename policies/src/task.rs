//! A view as a processor's task carries it: the document, what it was compiled against, and where
//! its output goes.

use hutong_schemas::position::SchemaId;
use hutong_schemas::table::TableSchema;
use serde::{Deserialize, Serialize};

use crate::document::ViewDocument;

/// Whether a view delivers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewState {
    /// It does, within its validity.
    #[default]
    Live,
    /// It was taken back: nothing more is written to its topic.
    Revoked,
}

/// One view over an input topic, complete: a processor needs nothing else to apply it, so it goes
/// on when the control plane is away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewTask {
    /// The view's name, unique in the cluster.
    pub name: String,
    /// The document.
    pub document: ViewDocument,
    /// The policy's version: rises with every change.
    pub version: u64,
    /// The generation of the output topic.
    pub generation: u32,
    /// The output topic.
    pub topic: String,
    /// The output topic's id.
    pub topic_id: String,
    /// The input table, as the document was compiled against.
    pub table: TableSchema,
    /// The id of the schema that the table's events had then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table_schema_id: Option<SchemaId>,
    /// The id of `key_schema`.
    pub key_schema_id: SchemaId,
    /// The id of `value_schema`.
    pub value_schema_id: SchemaId,
    /// The Avro schema of the view's keys.
    pub key_schema: String,
    /// The Avro schema of the view's rows.
    pub value_schema: String,
    /// The fingerprint of the secret that the view was made with, if it is known and used; see
    /// [`crate::secret::fingerprint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_fingerprint: Option<String>,
    /// Whether applying the view takes the master secret: it hides a key or hashes a column.
    #[serde(default)]
    pub needs_secret: bool,
    /// The version of the share's key, see [`crate::secret`].
    #[serde(default = "first_key_version")]
    pub share_key_version: u32,
    /// Whether the view delivers.
    #[serde(default)]
    pub state: ViewState,
    /// Milliseconds since 1970 UTC from which on the view is empty; `None` is without end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_ms: Option<i64>,
}

fn first_key_version() -> u32 {
    1
}
