//! What a batch has changed and Kafka has not committed: seen before the store, dropped by an abort.

use std::collections::HashMap;

use crate::store::{Member, StoreBatch, ViewId};

/// The changes.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Rows by key; `None` was deleted.
    pub(crate) rows: HashMap<Vec<u8>, Option<Vec<u8>>>,
    /// Members by view and key; `None` was deleted.
    pub(crate) members: HashMap<ViewId, HashMap<Vec<u8>, Option<Member>>>,
}

impl Pending {
    pub(crate) fn member(&self, view: &ViewId, key: &[u8]) -> Option<Option<Member>> {
        self.members.get(view)?.get(key).copied()
    }

    pub(crate) fn set_member(&mut self, view: &ViewId, key: &[u8], member: Option<Member>) {
        if let Some(members) = self.members.get_mut(view) {
            members.insert(key.to_vec(), member);
        } else {
            let members = HashMap::from([(key.to_vec(), member)]);
            self.members.insert(view.clone(), members);
        }
    }

    /// Turns the changes into what enters the store, and leaves none.
    pub(crate) fn take(&mut self) -> StoreBatch {
        let members = std::mem::take(&mut self.members);
        let members = members.into_iter().flat_map(|(view, keys)| {
            keys.into_iter()
                .map(move |(key, member)| (view.clone(), key, member))
        });
        StoreBatch {
            members: members.collect(),
            rows: std::mem::take(&mut self.rows).into_iter().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.members.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.members.clear();
    }
}
