//! A store in memory, for tests: it can be copied, and so be lost or found stale.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::Error;
use crate::store::{Member, Store, StoreBatch, StorePosition, ViewId, VisitMember, VisitRow};

/// The store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    position: Option<StorePosition>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    members: BTreeMap<ViewId, BTreeMap<Vec<u8>, Member>>,
}

fn behind(key: Option<&[u8]>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (
        key.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

impl Store for MemoryStore {
    fn position(&self) -> Result<Option<StorePosition>, Error> {
        Ok(self.position.clone())
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.rows.get(key).cloned())
    }

    fn has_row(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.rows.contains_key(key))
    }

    fn rows_after(&self, key: Option<&[u8]>, visit: VisitRow<'_>) -> Result<(), Error> {
        for (key, row) in self.rows.range::<[u8], _>(behind(key)) {
            if !visit(key, row)? {
                break;
            }
        }
        Ok(())
    }

    fn count_rows(&self) -> Result<u64, Error> {
        Ok(u64::try_from(self.rows.len()).unwrap_or(u64::MAX))
    }

    fn member(&self, view: &ViewId, key: &[u8]) -> Result<Option<Member>, Error> {
        Ok(self
            .members
            .get(view)
            .and_then(|members| members.get(key))
            .copied())
    }

    fn members_after(
        &self,
        view: &ViewId,
        key: Option<&[u8]>,
        visit: VisitMember<'_>,
    ) -> Result<(), Error> {
        let Some(members) = self.members.get(view) else {
            return Ok(());
        };
        for (key, member) in members.range::<[u8], _>(behind(key)) {
            if !visit(key, *member)? {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, batch: &StoreBatch, position: &StorePosition) -> Result<(), Error> {
        for (key, row) in &batch.rows {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
        for (view, changed) in &batch.members {
            let members = self.members.entry(view.clone()).or_default();
            for (key, member) in changed.iter() {
                match member {
                    Some(member) => members.insert(key.clone(), *member),
                    None => members.remove(key),
                };
            }
        }
        self.position = Some(position.clone());
        Ok(())
    }

    fn clear_rows(&mut self) -> Result<(), Error> {
        self.position = None;
        self.rows.clear();
        Ok(())
    }

    fn clear_members(&mut self, view: &ViewId) -> Result<(), Error> {
        self.members.remove(view);
        Ok(())
    }

    fn views(&self) -> Result<Vec<ViewId>, Error> {
        Ok(self.members.keys().cloned().collect())
    }
}
