//! Records of topics, decoded into text.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::{Context, Result, bail};
use hutong_schemas::cell::Cell;
use hutong_schemas::envelope::Op;
use hutong_schemas::event_decoder::EventDecoder;
use hutong_schemas::position::SchemaId;
use hutong_schemas::record::RecordDecoder;
use hutong_schemas::wire;
use hutong_transport::reader::Message;

use crate::world::World;

/// The schemas that records name, fetched when they are first needed.
#[derive(Default)]
pub(super) struct Schemas {
    texts: HashMap<SchemaId, String>,
    flat: HashMap<SchemaId, RecordDecoder>,
    events: HashMap<SchemaId, EventDecoder>,
}

impl Schemas {
    /// Fetches what some records need.
    pub(super) async fn learn<'a>(
        &mut self,
        world: &World,
        messages: impl IntoIterator<Item = &'a Message>,
    ) -> Result<()> {
        for message in messages {
            for part in [&message.key, &message.value].into_iter().flatten() {
                let (id, _) = wire::split(part)?;
                if let Entry::Vacant(unknown) = self.texts.entry(id) {
                    let path = format!("/schemas/ids/{}", id.0);
                    let answer = world.api().registry("GET", &path, None).await?.ok()?;
                    let schema = answer["schema"].as_str().context("no schema")?;
                    unknown.insert(schema.to_owned());
                }
            }
        }
        Ok(())
    }

    /// Returns the schemas by id.
    pub(super) fn texts(&self) -> &HashMap<SchemaId, String> {
        &self.texts
    }

    /// Decodes a flat record: names and values of its fields.
    pub(super) fn flat(&mut self, bytes: &[u8]) -> Result<Vec<(String, Option<String>)>> {
        let (id, _) = wire::split(bytes)?;
        let decoder = match self.flat.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(RecordDecoder::compile(&self.texts[&id])?),
        };
        let mut cells = Vec::new();
        decoder.decode(bytes, &mut cells)?;
        let names = decoder.fields().iter().map(|field| field.name.clone());
        names
            .zip(cells)
            .map(|(name, cell)| Ok((name, text(cell)?)))
            .collect()
    }

    /// Decodes the key of a table's record, which is one integer.
    pub(super) fn table_key(&mut self, message: &Message) -> Result<i64> {
        let key = message.key.as_deref().context("no key")?;
        match self.flat(key)?.as_slice() {
            [(_, Some(id))] => Ok(id.parse()?),
            other => bail!("the key is {other:?}"),
        }
    }

    /// Decodes a table's event: operation and number of the change (0 for deletes); `None` for a
    /// tombstone.
    pub(super) fn event(&mut self, message: &Message) -> Result<Option<(char, i64)>> {
        let Some(value) = message.value.as_deref() else {
            return Ok(None);
        };
        let (id, _) = wire::split(value)?;
        let decoder = match self.events.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(EventDecoder::compile(&self.texts[&id])?),
        };
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let head = decoder.decode(value, &mut before, &mut after)?;
        let op = match head.op {
            Op::Read => 'r',
            Op::Create => 'c',
            Op::Update => 'u',
            Op::Delete => return Ok(Some(('d', 0))),
            Op::Truncate => bail!("a truncate in a compacted topic"),
        };
        let mut columns = decoder.columns().iter();
        let at = columns.position(|column| column.name == "ver");
        match after.get(at.context("no ver")?) {
            Some(Cell::Int(ver)) => Ok(Some((op, *ver))),
            _ => bail!("ver is not an integer"),
        }
    }
}

fn text(cell: Cell<'_>) -> Result<Option<String>> {
    match cell {
        Cell::Null => Ok(None),
        Cell::Int(number) => Ok(Some(number.to_string())),
        Cell::Text(text) => Ok(Some(text.to_owned())),
        other => bail!("a value of a kind that the tables do not have: {other:?}"),
    }
}

/// Where a view's record comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    /// The version of the policy under which it was written.
    pub(super) policy: u64,
    /// The source transaction and the place of the change in its log, if a change caused it.
    pub(super) change: Option<(String, String)>,
}

/// Reads the header `hutong`.
pub(super) fn origin(message: &Message) -> Result<Origin> {
    let header = message.header_hutong.as_deref().context("no header")?;
    let header = std::str::from_utf8(header)?;
    let mut words = header.split(' ');
    anyhow::ensure!(words.next() == Some("v1"), "a header {header:?}");
    let words: HashMap<&str, &str> = words.filter_map(|word| word.split_once('=')).collect();
    let own = |name| words.get(name).map(|value| (*value).to_owned());
    Ok(Origin {
        policy: words.get("policy").context("no policy")?.parse()?,
        change: own("tx").zip(own("lsn")),
    })
}
