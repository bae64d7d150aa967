//! Somebody else who reads from a replication slot: as much of PostgreSQL's replication protocol as
//! holding a slot takes (chapters "Message Formats" and "Streaming Replication Protocol").

use anyhow::{Result, bail};
use hutong_local::testkit::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Holds the slot until it is dropped, or until the server misses an answer (`wal_sender_timeout`).
pub(super) struct OtherReader {
    stream: TcpStream,
}

impl OtherReader {
    /// Creates a slot in the database and reads from it.
    pub(super) async fn start(database: &Database, slot: &str) -> Result<Self> {
        let create = format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        database.connect().await?.batch_execute(&create).await?;
        let stream = TcpStream::connect((database.host.as_str(), database.port)).await?;
        let mut reader = Self { stream };
        reader.log_in(&database.name).await?;
        let start = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names 'theirs')\0"
        );
        reader.stream.write_all(b"Q").await?;
        reader.send(start.as_bytes()).await?;
        reader.read_until(b'W').await?;
        Ok(reader)
    }

    async fn log_in(&mut self, database: &str) -> Result<()> {
        const PROTOCOL_3: u32 = 3 << 16;
        let mut body = PROTOCOL_3.to_be_bytes().to_vec();
        for (name, value) in [
            ("user", "postgres"),
            ("database", database),
            ("replication", "database"),
            ("application_name", "their_reader"),
        ] {
            body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
        }
        body.push(0);
        self.send(&body).await?;
        self.read_until(b'Z').await
    }

    async fn send(&mut self, body: &[u8]) -> Result<()> {
        let length = u32::try_from(body.len() + 4)?;
        self.stream.write_all(&length.to_be_bytes()).await?;
        Ok(self.stream.write_all(body).await?)
    }

    async fn read_until(&mut self, wanted: u8) -> Result<()> {
        loop {
            let tag = self.stream.read_u8().await?;
            let length = usize::try_from(self.stream.read_u32().await?)?;
            let mut body = vec![0; length.saturating_sub(4)];
            self.stream.read_exact(&mut body).await?;
            if tag == wanted {
                return Ok(());
            }
            if tag == b'E' {
                bail!("the server refused: {}", String::from_utf8_lossy(&body));
            }
        }
    }
}
