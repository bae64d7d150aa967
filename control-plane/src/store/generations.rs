//! Generations of views that were closed and whose topics are to be deleted.

use sqlx::PgConnection;

use super::views::View;
use crate::error::Error;

/// A closed generation.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(crate) struct Closed {
    /// The view.
    pub(crate) view: String,
    /// The generation.
    pub(crate) generation: i64,
    /// Its topic.
    pub(crate) topic: String,
    /// The table's topic.
    pub(crate) source_topic: String,
    /// Rows that it held.
    pub(crate) rows: i64,
    /// Who might read it.
    pub(crate) kafka_principal: Option<String>,
}

/// Notes that a view's generation is closed.
pub(crate) async fn close(db: &mut PgConnection, view: &View, rows: i64) -> Result<(), Error> {
    sqlx::query(
        "insert into view_generation
            (view, generation, owner, topic, source_topic, rows, kafka_principal)
         values ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(&view.name)
    .bind(view.generation)
    .bind(&view.owner)
    .bind(&view.compiled.topic)
    .bind(&view.source_topic)
    .bind(rows)
    .bind(&view.kafka_principal)
    .execute(db)
    .await?;
    Ok(())
}

/// Lists closed generations.
pub(crate) async fn list(db: &mut PgConnection) -> Result<Vec<Closed>, Error> {
    let rows = sqlx::query_as(
        "select view, generation, topic, source_topic, rows, kafka_principal
         from view_generation order by view, generation",
    )
    .fetch_all(db)
    .await?;
    Ok(rows)
}

/// Forgets a closed generation, whose topic is gone.
pub(crate) async fn forget(db: &mut PgConnection, closed: &Closed) -> Result<(), Error> {
    sqlx::query("delete from view_generation where view = $1 and generation = $2")
        .bind(&closed.view)
        .bind(closed.generation)
        .execute(db)
        .await?;
    Ok(())
}
