//! What the server's catalogue says of tables, and which of it can be captured.

use std::collections::BTreeMap;
use std::sync::Arc;

use hutong_connectors_core::postgres_source::Config;
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, DefaultValue, TableId, TableSchema};
use tokio::io::{AsyncRead, AsyncWrite};

use super::client::Client;
use super::error::Error;
use super::sql;
use super::text;
use super::types::{self, Types};

/// A table as the catalogue has it.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) id: TableId,
    pub(crate) oid: u32,
    pub(crate) kind: Kind,
    pub(crate) replica_identity: ReplicaIdentity,
    /// The planner's estimate of the number of rows.
    pub(crate) rows_estimate: Option<u64>,
    pub(crate) may_use_schema: bool,
    /// Whether we are its owner or a member of the owner, and so may publish it.
    pub(crate) may_publish: bool,
    /// In the order of their numbers.
    pub(crate) columns: Vec<CatalogueColumn>,
    /// Column numbers of the primary key, in its order; empty without one.
    pub(crate) primary_key: Vec<i16>,
    /// Whether the primary key is checked at commit only, which makes it no replica identity.
    pub(crate) primary_key_deferrable: bool,
    /// Column numbers of the index that is the replica identity, if one was set.
    pub(crate) identity_index: Vec<i16>,
    /// Which files hold the rows; it changes when they are written anew.
    pub(crate) storage: Option<String>,
    /// The highest column number ever given, of dropped columns too.
    pub(crate) highest: i16,
    /// What the database has for types beside those of every server.
    pub(crate) types: Arc<Types>,
}

/// What kind of relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ordinary,
    Partitioned,
    Unlogged,
}

/// What of a row before a change reaches the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
    Default,
    Full,
    Index,
    Nothing,
}

/// A column as the catalogue has it.
#[derive(Clone, Debug)]
pub(crate) struct CatalogueColumn {
    pub(crate) attnum: i16,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
    /// As `format_type` writes it.
    pub(crate) type_text: String,
    pub(crate) is_domain: bool,
    pub(crate) not_null: bool,
    pub(crate) generated: bool,
    pub(crate) default_text: Option<String>,
    /// The value of rows older than the column, which no event carried.
    pub(crate) fill: Option<String>,
    pub(crate) may_select: bool,
}

/// Which tables to look at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    All,
    Oid(u32),
}

/// The files of a table's rows, as SQL: of all its partitions, if it has any.
pub(crate) const STORAGE: &str = "CASE WHEN c.relkind = 'p' THEN \
     (SELECT md5(string_agg(pg_relation_filenode(t.relid)::text, ',' ORDER BY t.relid)) \
     FROM pg_partition_tree(c.oid) t WHERE t.isleaf) \
     ELSE pg_relation_filenode(c.oid)::text END";

/// The same, as the transaction's snapshot sees it; the functions look at the catalogue of now.
const STORAGE_SEEN: &str = "CASE WHEN c.relkind = 'p' THEN \
     (SELECT md5(string_agg(nullif(l.relfilenode, 0)::text, ',' ORDER BY l.oid)) \
     FROM pg_partition_tree(c.oid) t JOIN pg_catalog.pg_class l ON l.oid = t.relid WHERE t.isleaf) \
     ELSE c.relfilenode::text END";

/// Returns an SQL condition that holds if a table's rows lie where the transaction's snapshot sees them.
/// Where they do not, the snapshot may find the table empty: statements that write a table anew, other
/// than CLUSTER and VACUUM, leave no older versions of its rows (PostgreSQL's documentation, "Caveats" of
/// its concurrency control). Asked under a lock of the table: then it stays so.
pub(crate) fn is_as_seen(oid: u32) -> String {
    let storage =
        |files: &str| format!("(SELECT {files} FROM pg_catalog.pg_class c WHERE c.oid = {oid})");
    format!(
        "{} IS NOT DISTINCT FROM {}",
        storage(STORAGE_SEEN),
        storage(STORAGE)
    )
}

/// Returns an SQL condition that holds if a table is partitioned.
pub(crate) fn is_partitioned(oid: u32) -> String {
    format!("(SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = {oid})")
}

/// Returns a table in a FROM clause. Rows of inheriting tables belong to those, rows of partitions to the
/// root that publishes them.
pub(crate) fn from_clause(table: &TableId, is_partitioned: bool) -> String {
    let only = if is_partitioned { "" } else { "ONLY " };
    format!("{only}{}", sql::table(table))
}

/// Returns SQL conditions, one for each column: whether it may be read and still has its name, in a table
/// that still has its own. Rows are read by names, and what has the name by now may be another column,
/// which nobody granted. The functions look at the catalogue as it is now, not as the transaction's
/// snapshot sees it. Asked under a lock of the table, it stays so but for the name of its schema, which is
/// not locked: [`has_its_name`] asks for that when the rows are there.
pub(crate) fn still_named(schema: &TableSchema) -> Vec<String> {
    let (oid, id) = (schema.oid, &schema.id);
    let still_named = |column: &Column| {
        format!(
            "CASE WHEN has_column_privilege({oid}::oid, {number}::int2, 'SELECT') \
             THEN (pg_identify_object_as_address(1259, {oid}, {number})).object_names \
             = ARRAY[{}, {}, {}] END",
            sql::literal(&id.schema),
            sql::literal(&id.table),
            sql::literal(&column.name),
            number = column.attnum,
        )
    };
    schema.columns.iter().map(still_named).collect()
}

/// Returns an SQL condition that no row of another table meets, whichever has the name by now. Rows of
/// partitions are rows of their root.
pub(crate) fn is_row_of(table: &Table) -> String {
    let oid = table.oid;
    match table.kind {
        Kind::Partitioned => format!("tableoid IN (SELECT relid FROM pg_partition_tree({oid}))"),
        Kind::Ordinary | Kind::Unlogged => format!("tableoid = {oid}"),
    }
}

/// Returns an SQL condition that holds if a table's name leads to it now.
pub(crate) fn has_its_name(schema: &TableSchema) -> String {
    let name = sql::literal(&sql::table(&schema.id));
    format!("coalesce(to_regclass({name})::oid = {}, false)", schema.oid)
}

/// The error of a table whose name has become another one's.
pub(crate) fn is_another(table: &TableId) -> Error {
    Error::Definite {
        message: format!("table {table} was to be read, and another table has its name by now"),
        hint: None,
    }
}

/// Locks a table for reading until the transaction ends, and makes sure that the transaction's snapshot
/// finds its rows, and that its columns are those of the schema.
pub(crate) async fn lock_as_seen<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    schema: &TableSchema,
    from: &str,
) -> Result<(), Error> {
    let table = &schema.id;
    let doing = format!("read rows of table {table}");
    // A statement at a time: more is refused where the connection is one for replication.
    client
        .query(&doing, &format!("SELECT 1 FROM {from} LIMIT 0"))
        .await?;
    let mut look = vec![has_its_name(schema), is_as_seen(schema.oid)];
    look.extend(still_named(schema));
    let look = format!("SELECT {}", look.join(", "));
    let rows = client.query(&doing, &look).await?;
    let row = Row(rows.into_iter().next().unwrap_or_default());
    if !row.flag(0)? {
        return Err(is_another(table));
    }
    for (column, index) in schema.columns.iter().zip(2..) {
        if row.optional(index) != Some("t") {
            return Err(Error::definite(
                format!(
                    "table {table} was to be read, and its column \"{}\" was renamed or dropped meanwhile, or may not be read any more",
                    column.name
                ),
                format!(
                    "look at the columns, and at what is granted on {}",
                    sql::readable_table(table)
                ),
            ));
        }
    }
    if row.flag(1)? {
        Ok(())
    } else {
        Err(Error::transient(format!(
            "table {table} was written anew while it was to be read"
        )))
    }
}

/// Reads the catalogue.
///
/// The functions that look at privileges see what is committed while they run, not the query's
/// snapshot: they return null for what has been dropped since, which is left out here.
pub(crate) async fn fetch_tables<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    wanted: Wanted,
) -> Result<Vec<Table>, Error> {
    const DOING: &str = "read the catalogue";
    let condition = match wanted {
        Wanted::All => "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'".to_owned(),
        Wanted::Oid(oid) => format!("c.oid = {oid}"),
    };
    let relations = client
        .query(
            DOING,
            &format!(
                "SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence, c.relreplident, \
                 c.reltuples::bigint, has_schema_privilege(n.oid, 'USAGE'), \
                 pg_has_role(c.relowner, 'USAGE'), {STORAGE}, c.relnatts \
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {condition} \
                 ORDER BY n.nspname, c.relname"
            ),
        )
        .await?;
    let types = Arc::new(types::fetch(client).await?);
    let mut tables = BTreeMap::new();
    let mut order = Vec::new();
    for row in relations {
        let row = Row(row);
        if row.optional(7).is_none() {
            continue;
        }
        let table = relation(&row, Arc::clone(&types))?;
        order.push(table.oid);
        tables.insert(table.oid, table);
    }
    fetch_columns(client, &condition, &mut tables).await?;
    fetch_indexes(client, &condition, &mut tables).await?;
    Ok(order
        .into_iter()
        .filter_map(|oid| tables.remove(&oid))
        .collect())
}

fn relation(row: &Row, types: Arc<Types>) -> Result<Table, Error> {
    Ok(Table {
        oid: row.parse(0)?,
        id: TableId {
            schema: row.text(1)?.to_owned(),
            table: row.text(2)?.to_owned(),
        },
        kind: match (row.text(3)?, row.text(4)?) {
            ("p", _) => Kind::Partitioned,
            (_, "u") => Kind::Unlogged,
            _ => Kind::Ordinary,
        },
        replica_identity: match row.text(5)? {
            "f" => ReplicaIdentity::Full,
            "i" => ReplicaIdentity::Index,
            "n" => ReplicaIdentity::Nothing,
            _ => ReplicaIdentity::Default,
        },
        // -1 says that the table was never analysed.
        rows_estimate: row.parse::<i64>(6)?.try_into().ok(),
        may_use_schema: row.flag(7)?,
        may_publish: row.flag(8)?,
        columns: Vec::new(),
        primary_key: Vec::new(),
        primary_key_deferrable: false,
        identity_index: Vec::new(),
        storage: row.optional(9).map(str::to_owned),
        highest: row.parse(10)?,
        types,
    })
}

async fn fetch_columns<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    condition: &str,
    tables: &mut BTreeMap<u32, Table>,
) -> Result<(), Error> {
    let rows = client
        .query(
            "read the catalogue",
            &format!(
                "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod, \
                 pg_catalog.format_type(a.atttypid, a.atttypmod), t.typtype = 'd', a.attnotnull, \
                 a.attgenerated <> '', pg_catalog.pg_get_expr(d.adbin, d.adrelid), \
                 (CASE WHEN a.atthasmissing THEN a.attmissingval END::text::text[])[1], \
                 has_column_privilege(a.attrelid, a.attnum, 'SELECT') \
                 FROM pg_catalog.pg_attribute a \
                 JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                 LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
                 WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') \
                 AND {condition} ORDER BY a.attrelid, a.attnum"
            ),
        )
        .await?;
    for row in rows {
        let row = Row(row);
        if row.optional(11).is_none() {
            continue;
        }
        let Some(table) = tables.get_mut(&row.parse(0)?) else {
            continue;
        };
        table.columns.push(CatalogueColumn {
            attnum: row.parse(1)?,
            name: row.text(2)?.to_owned(),
            type_oid: row.parse(3)?,
            type_modifier: row.parse(4)?,
            type_text: row.text(5)?.to_owned(),
            is_domain: row.flag(6)?,
            not_null: row.flag(7)?,
            generated: row.flag(8)?,
            default_text: row.0.get(9).cloned().flatten(),
            fill: row.optional(10).map(str::to_owned),
            may_select: row.flag(11)?,
        });
    }
    Ok(())
}

async fn fetch_indexes<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    condition: &str,
    tables: &mut BTreeMap<u32, Table>,
) -> Result<(), Error> {
    let rows = client
        .query(
            "read the catalogue",
            &format!(
                "SELECT i.indrelid, i.indkey, i.indisprimary, i.indisreplident, i.indimmediate \
                 FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE (i.indisprimary OR i.indisreplident) AND i.indisvalid AND {condition}"
            ),
        )
        .await?;
    for row in rows {
        let row = Row(row);
        let Some(table) = tables.get_mut(&row.parse(0)?) else {
            continue;
        };
        let numbers = row
            .text(1)?
            .split(' ')
            .map(|number| number.parse().map_err(|_| unreadable()))
            .collect::<Result<Vec<i16>, _>>()?;
        if row.flag(2)? {
            table.primary_key.clone_from(&numbers);
            table.primary_key_deferrable = !row.flag(4)?;
        }
        if row.flag(3)? {
            table.identity_index = numbers;
        }
    }
    Ok(())
}

impl Table {
    /// Returns the table in a FROM clause.
    pub(crate) fn sql_source(&self) -> String {
        from_clause(&self.id, self.kind == Kind::Partitioned)
    }

    /// Returns the type of a column if we carry it.
    pub(crate) fn sql_type(&self, column: &CatalogueColumn) -> Option<SqlType> {
        self.types.sql_type(column.type_oid, column.type_modifier)
    }

    /// Returns the labels of a column of enums.
    pub(crate) fn labels(&self, type_oid: u32) -> Vec<String> {
        self.types.labels(type_oid).to_vec()
    }

    /// Returns the columns that the configuration captures.
    pub(crate) fn captured<'a>(
        &'a self,
        config: &'a Config,
    ) -> impl Iterator<Item = &'a CatalogueColumn> {
        self.columns
            .iter()
            .filter(|column| !column.generated && captures(config, &self.id, &column.name))
    }

    /// Returns the column with a number.
    pub(crate) fn column(&self, attnum: i16) -> Option<&CatalogueColumn> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }

    /// Returns what is captured as a schema. `defaults` holds the constants of [`fetch_defaults`].
    ///
    /// # Errors
    ///
    /// Definite, for a type that we do not carry and for a key column that is not captured.
    pub(crate) fn schema(
        &self,
        config: &Config,
        defaults: &BTreeMap<i16, DefaultValue>,
    ) -> Result<TableSchema, Error> {
        let mut columns = Vec::new();
        for column in self.captured(config) {
            let sql_type = self
                .sql_type(column)
                .ok_or_else(|| self.unsupported(column))?;
            if sql_type.loses_values() && self.primary_key.contains(&column.attnum) {
                return Err(self.ambiguous_key(column));
            }
            columns.push(Column {
                name: column.name.clone(),
                attnum: column.attnum,
                sql_type,
                nullable: !column.not_null,
                default: defaults.get(&column.attnum).cloned(),
                has_default_expression: column.shows_default()
                    && !defaults.contains_key(&column.attnum),
                labels: self.labels(column.type_oid),
            });
        }
        let position = |attnum: &i16| {
            columns
                .iter()
                .position(|column| column.attnum == *attnum)
                .ok_or_else(|| self.excluded_key(*attnum))
        };
        let key = self
            .primary_key
            .iter()
            .map(position)
            .collect::<Result<_, _>>()?;
        Ok(TableSchema {
            id: self.id.clone(),
            oid: self.oid,
            columns,
            key,
        })
    }

    fn unsupported(&self, column: &CatalogueColumn) -> Error {
        let what = if column.is_domain { "domain" } else { "type" };
        Error::definite(
            format!(
                "table {}, column \"{}\": the {what} {} is not supported",
                self.id, column.name, column.type_text
            ),
            format!(
                "leave the column out with column.exclude.list={}.{}",
                self.id, column.name
            ),
        )
    }

    fn ambiguous_key(&self, column: &CatalogueColumn) -> Error {
        Error::definite(
            format!(
                "table {}, column \"{}\": values of type {} are not carried one for one, so they cannot be a key",
                self.id, column.name, column.type_text
            ),
            format!("leave the table out with table.exclude.list={}", self.id),
        )
    }

    fn excluded_key(&self, attnum: i16) -> Error {
        let name = self.column(attnum).map_or("?", |column| &column.name);
        Error::definite(
            format!(
                "table {}: column \"{name}\" belongs to the primary key and is not captured",
                self.id
            ),
            "take the column out of column.exclude.list, or add it to column.include.list",
        )
    }
}

impl CatalogueColumn {
    pub(crate) fn has_default(&self) -> bool {
        // `DEFAULT NULL` is shown as `NULL::type`.
        self.default_text
            .as_ref()
            .is_some_and(|text| !text.starts_with("NULL::"))
    }

    /// Whether a schema shows the default: Debezium's shows none of a domain.
    pub(crate) fn shows_default(&self) -> bool {
        self.has_default() && !self.is_domain
    }

    /// Returns the default if it is a literal, with at most one cast. More casts could hide a
    /// moment: `('now'::text)::timestamp` is not the constant that it looks like.
    fn constant_default(&self) -> Option<&str> {
        let text = self.default_text.as_deref()?;
        // Bits are written B'101'.
        let literal = text.strip_prefix('B').unwrap_or(text);
        let is_cast = |rest: &str| {
            rest.is_empty()
                || rest
                    .strip_prefix("::")
                    .is_some_and(|cast| !cast.contains("::") && !cast.contains('\''))
        };
        let is_number = || {
            text.chars().all(|c| c.is_ascii_digit() || c == '.')
                || (text.starts_with(|c: char| c.is_ascii_digit())
                    && text.split_once("::").is_some_and(|(number, cast)| {
                        number.chars().all(|c| c.is_ascii_digit() || c == '.')
                            && !cast.contains("::")
                    }))
        };
        let is_string = || string_end(literal).is_some_and(is_cast);
        let constant = matches!(text, "true" | "false") || is_number() || is_string();
        (self.shows_default() && constant).then_some(text)
    }
}

/// Returns what follows the string literal that `text` begins with.
fn string_end(text: &str) -> Option<&str> {
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (_, after) = rest.split_once('\'')?;
        match after.strip_prefix('\'') {
            Some(doubled) => rest = doubled,
            None => return Some(after),
        }
    }
}

/// Returns whether the configuration captures a table.
pub(crate) fn captures_table(config: &Config, id: &TableId) -> bool {
    config.schemas.accepts(&id.schema) && config.tables.accepts(&id.to_string())
}

fn captures(config: &Config, id: &TableId, column: &str) -> bool {
    config.columns.accepts(&format!("{id}.{column}"))
}

/// Lets the server compute the constant defaults of a table's captured columns, by column number.
pub(crate) async fn fetch_defaults<S: AsyncRead + AsyncWrite + Unpin + Send>(
    client: &mut Client<S>,
    config: &Config,
    table: &Table,
) -> Result<BTreeMap<i16, DefaultValue>, Error> {
    let constants: Vec<_> = table
        .captured(config)
        .filter_map(|column| Some((column, table.sql_type(column)?, column.constant_default()?)))
        .collect();
    if constants.is_empty() {
        return Ok(BTreeMap::new());
    }
    let expressions: Vec<_> = constants
        .iter()
        .map(|(column, _, text)| format!("CAST({text} AS {})", column.type_text))
        .collect();
    let rows = client
        .query(
            &format!("read the defaults of table {}", table.id),
            &format!("SELECT {}", expressions.join(", ")),
        )
        .await?;
    let row = Row(rows.into_iter().next().ok_or_else(unreadable)?);
    let mut defaults = BTreeMap::new();
    let mut scratch = text::Scratch::default();
    for (index, (column, sql_type, _)) in constants.iter().enumerate() {
        let Some(value) = row.0.get(index).and_then(Option::as_deref) else {
            continue;
        };
        let mut arena = scratch.arena(value.len() + text::room(sql_type));
        let cell = text::decode(sql_type, value.as_bytes(), &mut arena).map_err(|error| {
            Error::Definite {
                message: format!(
                    "table {}, column \"{}\": cannot read the default: {error}",
                    table.id, column.name
                ),
                hint: None,
            }
        })?;
        if let Some(default) = DefaultValue::from_cell(*sql_type, &cell) {
            defaults.insert(column.attnum, default);
        }
    }
    Ok(defaults)
}

/// Returns the SQL list of captured columns.
pub(crate) fn column_list(schema: &TableSchema) -> String {
    sql::identifiers(schema.columns.iter().map(|column| column.name.as_str()))
}

/// A row of an answer.
pub(crate) struct Row(pub(crate) Vec<Option<String>>);

impl Row {
    pub(crate) fn optional(&self, index: usize) -> Option<&str> {
        self.0.get(index)?.as_deref()
    }

    pub(crate) fn text(&self, index: usize) -> Result<&str, Error> {
        self.optional(index).ok_or_else(unreadable)
    }

    pub(crate) fn flag(&self, index: usize) -> Result<bool, Error> {
        Ok(self.text(index)? == "t")
    }

    pub(crate) fn parse<T: std::str::FromStr>(&self, index: usize) -> Result<T, Error> {
        self.text(index)?.parse().map_err(|_| unreadable())
    }
}

fn unreadable() -> Error {
    Error::Protocol("an answer to a catalogue query that cannot be read".to_owned())
}
