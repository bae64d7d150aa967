//! Reading and moving the positions of a table by hand, while nobody writes it.
//!
//! A change takes the table over as an owner does: it ends the session of the former one, raises the
//! epoch, and moves the positions under it, in one transaction. A former owner that wakes up later
//! finds neither its epoch nor, after a reset, its position. A table whose positions were reset keeps
//! its rows: the next owner reads everything again and in the end deletes what it has not met
//! (`rebuild`).

use hutong_schemas::table::TableId;

use super::error::Error;
use super::position::{self, failed, table as positions};
use super::statement::execute;
use super::{Sink, holding};

/// What becomes of the positions of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The partitions go on at these offsets; one without is read from its beginning.
    Alter(Vec<(i32, Option<i64>)>),
    /// Everything is read again.
    Reset,
}

impl Sink {
    /// Returns the next offset of each partition of a topic that goes into a table.
    ///
    /// # Errors
    ///
    /// By class of the server's answer.
    pub async fn offsets(&self, table: &TableId, topic: &str) -> Result<Vec<(i32, i64)>, Error> {
        let client = &self.session.client;
        if !position::exists(client, table).await? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT partition, next_offset FROM {} WHERE target = $1 AND topic = $2 ORDER BY partition",
            positions(table)
        );
        let rows = client.query(&sql, &[&table.to_string(), &topic]).await;
        let rows = rows.map_err(failed(table, "read the positions of"))?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Moves the positions of a table. The caller has made sure that the offsets are some that the
    /// topic has. Returns false, and changes nothing, if no position of the topic is stored: the
    /// topic was never read into the table.
    ///
    /// # Errors
    ///
    /// By class of the server's answer.
    ///
    /// # Cancel safety
    ///
    /// May be dropped: what was not committed never was.
    pub async fn change_offsets(
        &self,
        table: &TableId,
        topic: &str,
        change: &Change,
    ) -> Result<bool, Error> {
        let client = &self.session.client;
        if !position::exists(client, table).await? {
            return Ok(false);
        }
        position::terminate_predecessors(client, table).await?;
        execute(client, table, "begin a transaction on", "BEGIN").await?;
        position::ensure(client, table).await?;
        let held = holding::locked(client, table).await?;
        let stored = position::stored(client, table).await?;
        let is_ours = stored.iter().any(|stored| stored.topic == topic);
        let Some(held) = held.filter(|_| is_ours) else {
            execute(client, table, "leave", "ROLLBACK").await?;
            return Ok(false);
        };
        let epoch = holding::take(client, table, &held).await?;
        match change {
            Change::Reset => position::forget(client, table).await?,
            Change::Alter(offsets) => self.alter(table, topic, offsets, epoch).await?,
        }
        execute(client, table, "move the positions of", "COMMIT").await?;
        Ok(true)
    }

    async fn alter(
        &self,
        table: &TableId,
        topic: &str,
        offsets: &[(i32, Option<i64>)],
        epoch: i64,
    ) -> Result<(), Error> {
        let client = &self.session.client;
        let name = table.to_string();
        let fence = format!(
            "UPDATE {} SET epoch = $2 WHERE target = $1",
            positions(table)
        );
        client
            .execute(&fence, &[&name, &epoch])
            .await
            .map_err(failed(table, "take over"))?;
        // A partition that is read from its beginning is one without a position.
        let alter = format!(
            "UPDATE {} SET next_offset = $4 WHERE target = $1 AND topic = $2 AND partition = $3",
            positions(table)
        );
        let forget = format!(
            "DELETE FROM {} WHERE target = $1 AND topic = $2 AND partition = $3",
            positions(table)
        );
        for (partition, offset) in offsets {
            let done = match offset {
                Some(offset) => {
                    client
                        .execute(&alter, &[&name, &topic, partition, offset])
                        .await
                }
                None => client.execute(&forget, &[&name, &topic, partition]).await,
            };
            done.map_err(failed(table, "move the positions of"))?;
        }
        Ok(())
    }
}
