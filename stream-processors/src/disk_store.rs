//! The store on disk: a keyspace for the rows and one for each view's members, written in one batch.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hutong_state_store as state_store;
use hutong_state_store::{Batch, Keyspace};

use crate::Error;
use crate::store::{Member, Store, StoreBatch, StorePosition, ViewId, VisitMember, VisitRow};

const ROWS: &str = "rows";
const MEMBERS: &str = "members/";

/// The store. Clones are the same store: another thread may read one while this one writes.
#[derive(Clone, Debug)]
pub struct DiskStore {
    store: state_store::Store,
    keyspaces: Arc<Mutex<Keyspaces>>,
}

/// Keyspaces that were asked for, so that their names are not looked up for every key.
#[derive(Debug)]
struct Keyspaces {
    rows: Keyspace,
    members: HashMap<ViewId, Keyspace>,
}

fn failed(operation: &'static str) -> impl Fn(state_store::Error) -> Error {
    move |source| Error::Store {
        operation,
        source: Box::new(source),
    }
}

/// An error while the store was read, or of who looked at what was found.
enum Visited {
    Store(state_store::Error),
    Visitor(Error),
}

impl From<state_store::Error> for Visited {
    fn from(error: state_store::Error) -> Self {
        Self::Store(error)
    }
}

impl From<Visited> for Error {
    fn from(visited: Visited) -> Self {
        match visited {
            Visited::Store(error) => failed("read")(error),
            Visited::Visitor(error) => error,
        }
    }
}

impl DiskStore {
    /// Opens or creates the store in a folder. One that is broken is a cache that is broken: it is
    /// begun anew. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`], also while somebody else has it open, such as an attempt that is ending.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let store = state_store::Store::open(folder).map_err(failed("open"))?;
        let keyspaces = Keyspaces {
            rows: store.ensure_keyspace(ROWS),
            members: HashMap::new(),
        };
        Ok(Self {
            store,
            keyspaces: Arc::new(Mutex::new(keyspaces)),
        })
    }

    fn keyspaces(&self) -> MutexGuard<'_, Keyspaces> {
        self.keyspaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> Keyspace {
        self.keyspaces().rows
    }

    /// Returns a view's keyspace, if it has any members.
    fn members(&self, view: &ViewId) -> Option<Keyspace> {
        let mut keyspaces = self.keyspaces();
        if let Some(known) = keyspaces.members.get(view) {
            return Some(*known);
        }
        let found = self.store.keyspace(&members_name(view))?;
        keyspaces.members.insert(view.clone(), found);
        Some(found)
    }
}

fn members_name(view: &ViewId) -> String {
    let (name, generation) = view.parts();
    format!("{MEMBERS}{generation}/{name}")
}

fn view_of(keyspace: &str) -> Option<ViewId> {
    let (generation, name) = keyspace.strip_prefix(MEMBERS)?.split_once('/')?;
    Some(ViewId::new(name, generation.parse().ok()?))
}

/// Puts entries into a batch in the order of their keys, those of one key in the order given: each is
/// then looked for where the one before it was put, which is in the processor's cache. How keys begin
/// is compared first, without a look at the keys themselves.
fn in_order<'a, V>(
    entries: impl Iterator<Item = (&'a [u8], V)>,
) -> impl Iterator<Item = (&'a [u8], V)> {
    let mut entries: Vec<_> = entries
        .map(|(key, value)| (state_store::beginning(key), key, value))
        .collect();
    entries.sort_by(|left, right| (left.0, left.1).cmp(&(right.0, right.1)));
    entries.into_iter().map(|(_, key, value)| (key, value))
}

impl Store for DiskStore {
    fn position(&self) -> Result<Option<StorePosition>, Error> {
        match self.store.meta() {
            None => Ok(None),
            Some(text) => {
                crate::position::read_versioned(text.as_bytes(), "the state store's position")
                    .map(Some)
            }
        }
    }

    fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let row = self.store.get_vec(self.rows(), key);
        row.map_err(failed("read"))
    }

    fn has_row(&self, key: &[u8]) -> Result<bool, Error> {
        let has_row = self.store.contains(self.rows(), key);
        has_row.map_err(failed("read"))
    }

    fn rows_after(&self, key: Option<&[u8]>, visit: VisitRow<'_>) -> Result<(), Error> {
        self.store
            .visit_after(self.rows(), key, |key, row| {
                visit(key, row).map_err(Visited::Visitor)
            })
            .map_err(Error::from)
    }

    fn count_rows(&self) -> Result<u64, Error> {
        let mut count = 0;
        self.rows_after(None, &mut |_, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }

    fn member(&self, view: &ViewId, key: &[u8]) -> Result<Option<Member>, Error> {
        let Some(members) = self.members(view) else {
            return Ok(None);
        };
        let member = self.store.get(members, key, Member::from_bytes);
        Ok(member.map_err(failed("read"))?.flatten())
    }

    fn members_after(
        &self,
        view: &ViewId,
        key: Option<&[u8]>,
        visit: VisitMember<'_>,
    ) -> Result<(), Error> {
        let Some(members) = self.members(view) else {
            return Ok(());
        };
        self.store
            .visit_after(members, key, |key, member| {
                match Member::from_bytes(member) {
                    Some(member) => visit(key, member).map_err(Visited::Visitor),
                    None => Ok(true),
                }
            })
            .map_err(Error::from)
    }

    fn apply(&mut self, changes: &StoreBatch, position: &StorePosition) -> Result<(), Error> {
        let rows = changes.rows.iter();
        let row_bytes = rows.map(|(key, row)| key.len() + row.as_ref().map_or(0, Vec::len));
        let members = changes
            .members
            .iter()
            .flat_map(|(_, members)| members.keys());
        let member_bytes = members.map(|key| key.len() + Member::BYTES);
        let bytes: usize = row_bytes.sum::<usize>() + member_bytes.sum::<usize>();
        let members = changes.members.iter().map(|(_, members)| members.len());
        let count = changes.rows.len() + members.sum::<usize>();
        let mut batch = Batch::with_capacity(count, bytes);

        let rows = changes.rows.iter().map(|(key, row)| (&**key, row));
        let keyspace = self.rows();
        for (key, row) in in_order(rows) {
            batch.put(keyspace, key, row.as_deref());
        }
        for (view, members) in &changes.members {
            let keyspace = self.store.ensure_keyspace(&members_name(view));
            let members = members.iter().map(|(key, member)| (&**key, member));
            for (key, member) in in_order(members) {
                let bytes = member.map(Member::to_bytes);
                batch.put(
                    keyspace,
                    key,
                    bytes.as_ref().map(<[u8; Member::BYTES]>::as_slice),
                );
            }
        }
        let text = serde_json::to_string(position).expect("a position is representable in JSON");
        self.store.apply(batch, &text).map_err(failed("write"))
    }

    fn clear_rows(&mut self) -> Result<(), Error> {
        let mut keyspaces = self.keyspaces();
        let dropped = self.store.drop_keyspaces(&[ROWS], None);
        dropped.map_err(failed("clear"))?;
        keyspaces.rows = self.store.ensure_keyspace(ROWS);
        Ok(())
    }

    fn clear_members(&mut self, view: &ViewId) -> Result<(), Error> {
        let mut keyspaces = self.keyspaces();
        keyspaces.members.remove(view);
        let name = members_name(view);
        if self.store.keyspace(&name).is_some() {
            let meta = self.store.meta();
            let dropped = self.store.drop_keyspaces(&[&name], meta.as_deref());
            dropped.map_err(failed("clear"))?;
        }
        Ok(())
    }

    fn views(&self) -> Result<Vec<ViewId>, Error> {
        let names = self.store.keyspaces();
        let mut views: Vec<ViewId> = names.iter().filter_map(|name| view_of(name)).collect();
        views.sort();
        Ok(views)
    }
}
