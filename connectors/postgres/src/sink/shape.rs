//! How the table that is there differs from what an input needs, and what may be done about it.
//!
//! A pure comparison. What is the subscriber's is never changed: a table that it made itself gains
//! columns and nothing else. Of a table that we made, types and key may change too, as long as no
//! value is lost that will not come again.

use hutong_schemas::record::FieldInfo;
use hutong_schemas::sql_type::SqlType;

use super::error::Error;
use super::target::{Target, qualified, quote};

/// A table as the catalogue has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) oid: u32,
    pub(super) columns: Vec<ExistingColumn>,
    /// The column names, sorted, of each index that `ON CONFLICT` can use.
    pub(super) unique_keys: Vec<Vec<String>>,
    /// The constraint that is the primary key.
    pub(super) primary_key: Option<String>,
    /// What else keeps rows from being written, each with what to do.
    pub(super) obstacles: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExistingColumn {
    pub(super) name: String,
    pub(super) format_type: String,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    /// The server computes its values, so none can be written.
    pub(super) is_generated: bool,
}

impl Existing {
    /// Returns whether every column is of the wanted type but for its length or scale: only then its
    /// values have the same binary form.
    pub(super) fn is_exact(&self, target: &Target) -> bool {
        // `timestamp(3) with time zone[]` is `timestamp with time zone[]`, of some length.
        let base = |text: &str| match (text.split_once('('), text.rsplit_once(')')) {
            (Some((name, _)), Some((_, rest))) => format!("{name}{rest}"),
            _ => text.to_owned(),
        };
        target.columns().iter().all(|field| {
            let wanted = base(&field.sql_type.to_string());
            let column = self.columns.iter().find(|column| column.name == field.name);
            // One that is missing is about to be made.
            column.is_none_or(|column| base(&column.format_type) == wanted)
        })
    }
}

/// What may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Freedom {
    /// Columns may be added: the table is the subscriber's.
    None,
    /// The table is ours: a type may be widened.
    Columns,
    /// Every value comes again: a type may be replaced, with NULL for its values.
    Types,
    /// There are no rows: the key may be replaced too.
    Everything,
}

/// A change, as a part of `ALTER TABLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) sql: String,
    pub(super) why: String,
}

/// Returns what is to be changed.
///
/// # Errors
///
/// Definite, with all differences that may not be changed, and what a person can do about each.
pub(super) fn reconcile(
    target: &Target,
    existing: &Existing,
    freedom: Freedom,
) -> Result<Vec<Action>, Error> {
    let mut comparison = Comparison {
        target,
        existing,
        freedom,
        actions: Vec::new(),
        differences: existing.obstacles.clone(),
    };
    comparison.key();
    for (index, field) in target.columns().iter().enumerate() {
        comparison.column(target.is_key(index), field);
    }
    comparison.others();
    if comparison.differences.is_empty() {
        return Ok(comparison.actions);
    }
    let (differences, remedies) = comparison.differences.into_iter().unzip();
    Err(Error::Incompatible {
        table: target.table().clone(),
        differences,
        remedies,
    })
}

struct Comparison<'a> {
    target: &'a Target,
    existing: &'a Existing,
    freedom: Freedom,
    actions: Vec<Action>,
    differences: Vec<(String, String)>,
}

impl Comparison<'_> {
    fn act(&mut self, sql: String, why: String) {
        self.actions.push(Action { sql, why });
    }

    fn differ(&mut self, why: String, action: &str) {
        let remedy = format!("ALTER TABLE {} {action}", qualified(self.target.table()));
        self.differences.push((why, remedy));
    }

    fn key(&mut self) {
        let mut wanted: Vec<_> = self.target.key_names().collect();
        wanted.sort_unstable();
        if self.existing.unique_keys.iter().any(|key| *key == wanted) {
            return;
        }
        let why = format!(
            "there is no primary key or unique index on exactly ({})",
            wanted.join(", ")
        );
        let columns: Vec<_> = self.target.key_names().map(quote).collect();
        let add = format!("ADD PRIMARY KEY ({})", columns.join(", "));
        if self.freedom < Freedom::Everything {
            let table = qualified(self.target.table());
            let remedy = format!("CREATE UNIQUE INDEX ON {table} ({})", columns.join(", "));
            self.differences.push((why, remedy));
            return;
        }
        if let Some(old) = &self.existing.primary_key {
            let drop = format!("DROP CONSTRAINT {}", quote(old));
            self.act(drop, why.clone());
        }
        self.act(add, why);
    }

    fn column(&mut self, is_key: bool, field: &FieldInfo) {
        let (name, quoted) = (&field.name, quote(&field.name));
        let Some(column) = self.existing.columns.iter().find(|c| c.name == *name) else {
            let add = format!("ADD COLUMN {quoted} {}", field.sql_type);
            if is_key && self.freedom < Freedom::Everything {
                let why = format!(
                    "column {name} {} is missing, which is part of the key",
                    field.sql_type
                );
                self.differ(why, &add);
            } else {
                let why = format!("column {name} {} is missing", field.sql_type);
                self.act(add, why);
            }
            return;
        };
        if column.is_generated {
            let why = format!("the values of column {name} are generated by the server");
            self.differ(why, &format!("ALTER COLUMN {quoted} DROP EXPRESSION"));
        }
        if !holds(&column.format_type, &field.sql_type) {
            self.retype(is_key, field, &column.format_type);
        }
        if column.not_null && !is_key {
            let why = format!("column {name} is NOT NULL, it must take NULL");
            let relax = format!("ALTER COLUMN {quoted} DROP NOT NULL");
            if self.freedom >= Freedom::Columns {
                self.act(relax, why);
            } else if field.nullable {
                self.differ(why, &relax);
            }
        }
    }

    fn retype(&mut self, is_key: bool, field: &FieldInfo, existing: &str) {
        let (name, quoted, wanted) = (&field.name, quote(&field.name), &field.sql_type);
        let why = format!("column {name} is {existing}, it must be {wanted}");
        let retype = format!("ALTER COLUMN {quoted} TYPE {wanted}");
        let may_replace = match self.freedom {
            Freedom::Everything => true,
            Freedom::Types => !is_key,
            Freedom::None | Freedom::Columns => false,
        };
        if self.freedom >= Freedom::Columns && is_widening(existing, wanted) {
            self.act(retype, why);
        } else if may_replace {
            self.act(format!("{retype} USING NULL::{wanted}"), why);
        } else {
            self.differ(why, &retype);
        }
    }

    /// Columns that the input does not have.
    fn others(&mut self) {
        for column in &self.existing.columns {
            let is_ours = |field: &FieldInfo| field.name == column.name;
            let is_filled = column.has_default || column.is_generated;
            if self.target.columns().iter().any(is_ours) || !column.not_null || is_filled {
                continue;
            }
            let why = format!(
                "column {} {} is NOT NULL without a default, and is not delivered",
                column.name, column.format_type
            );
            let relax = format!("ALTER COLUMN {} DROP NOT NULL", quote(&column.name));
            if self.freedom >= Freedom::Columns {
                self.actions.push(Action { sql: relax, why });
            } else {
                let table = qualified(self.target.table());
                let remedy = format!("ALTER TABLE {table} {relax}");
                self.differences.push((why, remedy));
            }
        }
    }
}

/// Returns whether a column of an existing type can take the wanted one and keep all its values, by
/// the server's own assignment.
pub(super) fn is_widening(existing: &str, wanted: &SqlType) -> bool {
    let wanted_text = wanted.to_string();
    match existing {
        "smallint" => matches!(wanted, SqlType::Int4 | SqlType::Int8),
        "integer" => matches!(wanted, SqlType::Int8),
        "real" => matches!(wanted, SqlType::Float8),
        "json" => false,
        _ => match (modifier(existing, "character varying"), wanted) {
            (Some(_), SqlType::Text | SqlType::Varchar { length: None }) => true,
            (
                Some(existing),
                SqlType::Varchar {
                    length: Some(wanted),
                },
            ) => existing <= *wanted,
            _ => match (numeric(existing), numeric(&wanted_text)) {
                (Some((p, s)), Some((wanted_p, wanted_s))) => {
                    wanted_s >= s && wanted_p - wanted_s >= p - s
                }
                (Some(_), None) => matches!(wanted, SqlType::NumericUnscaled),
                (None, _) => false,
            },
        },
    }
}

fn numeric(format_type: &str) -> Option<(i64, i64)> {
    let rest = format_type.strip_prefix("numeric(")?.strip_suffix(')')?;
    let (precision, scale) = rest.split_once(',')?;
    Some((precision.parse().ok()?, scale.parse().ok()?))
}

/// Returns whether a column of a type, as `format_type` writes it, holds every value of the wanted
/// type and gives it back unchanged.
fn holds(existing: &str, wanted: &SqlType) -> bool {
    let same = |sql_type: &SqlType| plain(&sql_type.to_string()) == plain(existing);
    if same(wanted) {
        return true;
    }
    match wanted {
        SqlType::Int2 => existing == "integer" || existing == "bigint",
        SqlType::Int4 => existing == "bigint",
        SqlType::Numeric { .. } => existing == "numeric",
        SqlType::Varchar { length } => {
            let is_wider = modifier(existing, "character varying")
                .zip(*length)
                .is_some_and(|(existing, wanted)| existing >= wanted);
            existing == "text" || existing == "character varying" || is_wider
        }
        SqlType::Text => existing == "character varying",
        SqlType::Time { .. } => existing == "time without time zone",
        SqlType::Timestamp { .. } => existing == "timestamp without time zone",
        SqlType::Timestamptz { .. } => existing == "timestamp with time zone",
        SqlType::Timetz { .. } => existing == "time with time zone",
        SqlType::Varbit { length } => {
            let is_wider = modifier(existing, "bit varying")
                .zip(*length)
                .is_some_and(|(existing, wanted)| existing >= wanted);
            existing == "bit varying" || is_wider
        }
        // The element's binary form counts, so nothing but its length may differ.
        SqlType::Array { element } => existing
            .strip_suffix("[]")
            .is_some_and(|existing| holds(existing, &SqlType::from(*element))),
        _ => false,
    }
}

/// A precision of six digits is what the types of time have without one.
fn plain(format_type: &str) -> String {
    if format_type.starts_with("time") {
        format_type.replace("(6)", "")
    } else {
        format_type.to_owned()
    }
}

fn modifier(format_type: &str, name: &str) -> Option<u32> {
    let rest = format_type.strip_prefix(name)?;
    rest.strip_prefix('(')?.strip_suffix(')')?.parse().ok()
}

#[cfg(test)]
mod tests {

    use super::super::target::fixture::target;
    use super::*;

    fn existing(columns: &[(&str, &str, bool, bool)], key: &[&str]) -> Existing {
        Existing {
            columns: columns
                .iter()
                .map(
                    |(name, format_type, not_null, has_default)| ExistingColumn {
                        name: (*name).to_owned(),
                        format_type: (*format_type).to_owned(),
                        not_null: *not_null,
                        has_default: *has_default,
                        is_generated: false,
                    },
                )
                .collect(),
            unique_keys: vec![key.iter().map(|name| (*name).to_owned()).collect()],
            primary_key: Some("t_pkey".to_owned()),
            ..Existing::default()
        }
    }

    #[test]
    fn a_wider_column_holds_a_narrower_one_and_nothing_else_does() {
        let varchar = SqlType::Varchar { length: Some(20) };
        assert!(holds("text", &varchar));
        assert!(holds("character varying(30)", &varchar));
        assert!(!holds("character varying(10)", &varchar));
        assert!(!holds("text", &SqlType::Char { length: 3 }));
        assert!(holds("bigint", &SqlType::Int2));
        assert!(!holds("integer", &SqlType::Int8));
        let timestamp = |precision| SqlType::Timestamp { precision };
        assert!(holds("timestamp without time zone", &timestamp(6)));
        assert!(holds("timestamp without time zone", &timestamp(3)));
        assert!(!holds("timestamp(0) without time zone", &timestamp(6)));
        assert!(!holds("timestamp with time zone", &timestamp(6)));
        let numeric = SqlType::Numeric {
            precision: 6,
            scale: 2,
        };
        assert!(!holds("numeric(8,2)", &numeric));
        assert!(holds("numeric(6,2)", &numeric));
    }

    #[test]
    fn every_difference_is_named_with_column_and_types() {
        let existing = existing(
            &[
                ("id", "text", true, false),
                ("name", "character varying(5)", false, false),
                ("owner", "text", true, false),
            ],
            &["name"],
        );
        let error = reconcile(&target(), &existing, Freedom::None).unwrap_err();
        let error = hutong_connectors_core::ErrorReport::new(&error);
        let error = format!("{} | {}", error.message, error.hint.unwrap());
        for part in [
            "column id is text, it must be integer",
            "column name is character varying(5), it must be character varying(20)",
            "column owner text is NOT NULL without a default",
            "no primary key or unique index on exactly (id)",
            r#"ALTER TABLE "s"."t" ALTER COLUMN "id" TYPE integer"#,
            r#"ALTER TABLE "s"."t" ALTER COLUMN "owner" DROP NOT NULL"#,
            r#"CREATE UNIQUE INDEX ON "s"."t" ("id")"#,
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn columns_of_the_subscriber_may_stand_beside_ours() {
        let existing = existing(
            &[
                ("id", "integer", true, false),
                ("seen", "timestamp with time zone", true, true),
            ],
            &["id"],
        );
        assert_eq!(
            sql(&existing, Freedom::None),
            [r#"ADD COLUMN "name" character varying(20)"#]
        );
    }

    fn sql(existing: &Existing, freedom: Freedom) -> Vec<String> {
        let actions = reconcile(&target(), existing, freedom).unwrap();
        actions.into_iter().map(|action| action.sql).collect()
    }

    #[test]
    fn a_table_of_ours_changes_its_types_as_long_as_no_value_is_lost() {
        let narrow = existing(
            &[
                ("id", "smallint", true, false),
                ("name", "character varying(5)", true, false),
            ],
            &["id"],
        );
        assert!(reconcile(&target(), &narrow, Freedom::None).is_err());
        let widened = [
            r#"ALTER COLUMN "id" TYPE integer"#,
            r#"ALTER COLUMN "name" TYPE character varying(20)"#,
            r#"ALTER COLUMN "name" DROP NOT NULL"#,
        ];
        assert_eq!(sql(&narrow, Freedom::Columns), widened);
        let other = existing(
            &[
                ("id", "integer", true, false),
                ("name", "date", false, false),
            ],
            &["id"],
        );
        assert!(reconcile(&target(), &other, Freedom::Columns).is_err());
        let replaced =
            [r#"ALTER COLUMN "name" TYPE character varying(20) USING NULL::character varying(20)"#];
        assert_eq!(sql(&other, Freedom::Types), replaced);
    }

    #[test]
    fn only_an_empty_table_of_ours_changes_its_key() {
        let hidden = existing(
            &[
                ("_rk", "text", true, false),
                ("name", "character varying(20)", false, false),
            ],
            &["_rk"],
        );
        assert!(reconcile(&target(), &hidden, Freedom::Types).is_err());
        let rekeyed = [
            r#"DROP CONSTRAINT "t_pkey""#,
            r#"ADD PRIMARY KEY ("id")"#,
            r#"ADD COLUMN "id" integer"#,
            r#"ALTER COLUMN "_rk" DROP NOT NULL"#,
        ];
        assert_eq!(sql(&hidden, Freedom::Everything), rekeyed);
    }

    #[test]
    fn widening_keeps_every_value() {
        let varchar = |length| SqlType::Varchar { length };
        assert!(is_widening("character varying(5)", &varchar(Some(6))));
        assert!(is_widening("character varying(5)", &SqlType::Text));
        assert!(!is_widening("character varying(5)", &varchar(Some(4))));
        assert!(!is_widening("text", &varchar(Some(4))));
        let numeric = |precision, scale| SqlType::Numeric { precision, scale };
        assert!(is_widening("numeric(6,2)", &numeric(8, 2)));
        assert!(is_widening("numeric(6,2)", &SqlType::NumericUnscaled));
        assert!(!is_widening("numeric(6,2)", &numeric(6, 3)));
        assert!(is_widening("integer", &SqlType::Int8));
        assert!(!is_widening("bigint", &SqlType::Int4));
    }
}
