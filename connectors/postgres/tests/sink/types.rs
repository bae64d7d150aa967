//! Every type, from a column of the source through an event to a column of the subscriber. PostgreSQL
//! is the oracle: what it says of a value on one side, it says on the other; what cannot be carried
//! exactly stands here with what arrives instead.

use hutong_schemas::event_decoder::EventDecoder;

use super::*;
use crate::source::harness::{Database, Platform, Running, until_events};

/// A column of the source and its values.
struct Column {
    sql_type: &'static str,
    /// Literals.
    values: &'static [&'static str],
    /// What the subscriber has, where that is another text.
    arrives: &'static [(&'static str, &'static str)],
}

const fn exact(sql_type: &'static str, values: &'static [&'static str]) -> Column {
    Column {
        sql_type,
        values,
        arrives: &[],
    }
}

const fn lossy(
    sql_type: &'static str,
    values: &'static [&'static str],
    arrives: &'static [(&'static str, &'static str)],
) -> Column {
    Column {
        sql_type,
        values,
        arrives,
    }
}

const SETUP: &str = "
    CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE EXTENSION hstore;
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'very, very \"happy\"');
    CREATE DOMAIN zip AS varchar(6) CHECK (VALUE ~ '^[0-9]*$');
    CREATE DOMAIN outer_zip AS zip NOT NULL DEFAULT '0';
    CREATE DOMAIN price AS numeric(10,2);
    CREATE DOMAIN moods AS mood[];";

const COLUMNS: &[Column] = &[
    exact(
        "date",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 BC",
            "0001-12-31 BC",
            "5874897-12-31",
            "1970-01-01",
        ],
    ),
    exact(
        "timestamp",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "294246-12-31 23:59:59.999999",
            "10000-01-01 00:00:00",
        ],
    ),
    exact(
        "timestamp(0)",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00 BC",
            "294246-12-31 23:59:59",
        ],
    ),
    exact(
        "timestamptz",
        &[
            "infinity",
            "-infinity",
            "4713-01-01 00:00:00+00 BC",
            "294246-12-31 23:59:59.999999+00",
            "0044-03-15 12:00:00+00 BC",
        ],
    ),
    exact("float4", &["NaN", "-Infinity", "1e-40", "-0"]),
    exact("float8", &["NaN", "Infinity", "5e-324", "0.1"]),
    exact("mood", &["sad", "very, very \"happy\""]),
    exact("zip", &["", "100080"]),
    exact("outer_zip", &["012345"]),
    exact("price", &["-12345678.90"]),
    exact("bit", &["1", "0"]),
    exact(
        "bit(12)",
        &[
            "000000000001",
            "100000000000",
            "000000000000",
            "101100111000",
        ],
    ),
    lossy("varbit(10)", &["1011", "00101", ""], &[("00101", "101")]),
    lossy("varbit", &["1", "0"], &[("0", "")]),
    exact("varbit(1)", &["1", "0"]),
    exact("oid", &["0", "4294967295"]),
    exact(
        "money",
        &["-92233720368547758.08", "12.34", "0", "1234567.8"],
    ),
    lossy(
        "interval",
        &[
            "0",
            "04:05:06.000007",
            "-1 day",
            "1 mon",
            "1 year 2 mons -3 days",
            "26:00:00",
        ],
        &[
            ("-1 day", "-24:00:00"),
            ("1 mon", "730:30:00"),
            ("1 year 2 mons -3 days", "10155:00:00"),
        ],
    ),
    lossy(
        "timetz",
        &[
            "12:34:56.789+00",
            "24:00:00+00",
            "01:00:00+02",
            "23:30:00-02:30",
        ],
        &[
            ("01:00:00+02", "23:00:00+00"),
            ("23:30:00-02:30", "02:00:00+00"),
        ],
    ),
    exact(
        "inet",
        &[
            "10.0.0.1",
            "10.0.0.0/8",
            "::1",
            "2001:db8::/32",
            "::ffff:1.2.3.4",
            "0.0.0.0/0",
        ],
    ),
    exact("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    exact("macaddr", &["08:00:2b:01:02:03"]),
    exact("macaddr8", &["08:00:2b:01:02:03:04:ff"]),
    exact("xml", &["<a b=\"1\">中 &amp;</a>", "text"]),
    exact(
        "tsvector",
        &["", "'a':1A,2B,3C,4 'it''s':5 'back\\\\slash' '中文'"],
    ),
    exact("citext", &["AbC", ""]),
    exact("ltree", &["Top.Science", ""]),
    lossy(
        "hstore",
        &["", "a=>1, \"b \\\"q\\\"\"=>NULL"],
        &[
            ("", "{}"),
            (
                "a=>1, \"b \\\"q\\\"\"=>NULL",
                "{\"a\":\"1\",\"b \\\"q\\\"\":null}",
            ),
        ],
    ),
    exact("int4range", &["empty", "[1,5)", "(,)", "[3,]", "(,0)"]),
    exact("int8range", &["[-9223372036854775808,9223372036854775806]"]),
    exact(
        "numrange",
        &[
            "empty",
            "[1.10,2.2)",
            "(-0.5,NaN]",
            "[,100]",
            "(-Infinity,Infinity)",
        ],
    ),
    exact(
        "tsrange",
        &[
            "[\"2020-01-01 00:00:00\",infinity)",
            "(,\"4713-01-01 00:00:00 BC\"]",
        ],
    ),
    exact(
        "tstzrange",
        &[
            "[2020-01-01 00:00:00+00,2020-01-02 00:00:00+00]",
            "[-infinity,)",
        ],
    ),
    exact(
        "daterange",
        &["[2020-01-01,2020-02-01)", "(,infinity)", "empty"],
    ),
    exact("point", &["(1.5,-2)", "(NaN,Infinity)", "(0,-0)"]),
    exact("line", &["{1,-2,3.25}"]),
    exact("lseg", &["[(1,2),(3,4)]", "[(0,0),(0,0)]"]),
    exact("box", &["(3,4),(1,2)", "(1,1),(1,1)"]),
    exact(
        "path",
        &[
            "[(1,2),(3,4)]",
            "((1,2),(3,4),(5,6))",
            "[(1,1)]",
            "((0,0),(1,1),(0,0))",
        ],
    ),
    lossy(
        "polygon",
        &["((0,0),(1,0),(1,1))", "((2,3))", "((0,0),(1,0),(0,0))"],
        &[("((0,0),(1,0),(0,0))", "((0,0),(1,0))")],
    ),
    exact("circle", &["<(1,-2),3.5>", "<(0,0),0>"]),
    exact("bool[]", &["{t,f,NULL}", "{}"]),
    exact("int2[]", &["{-32768,NULL,32767}"]),
    lossy(
        "int4[]",
        &["{}", "{1,NULL,-3}", "[0:1]={7,8}"],
        &[("[0:1]={7,8}", "{7,8}")],
    ),
    exact("int8[]", &["{9223372036854775807}"]),
    exact("float4[]", &["{NaN,-Infinity,1e-40}"]),
    exact("float8[]", &["{0.1,NULL,Infinity,1e300}"]),
    exact("numeric(12,4)[]", &["{1.2345,-0.5,NULL}"]),
    exact("numeric[]", &["{1.20,123456789012345678901234567890.5}"]),
    exact(
        "text[]",
        &["{a,\"b c\",NULL,\"NULL\",\"\",\"q\\\"\\\\,{}\",中}", "{}"],
    ),
    exact("varchar(5)[]", &["{abc}"]),
    exact("char(3)[]", &["{a}"]),
    exact("bytea[]", &["{\"\\\\x00ff\",NULL}"]),
    exact("date[]", &["{infinity,2020-02-29,\"0044-03-15 BC\"}"]),
    exact("time[]", &["{24:00:00,00:00:00.000001}"]),
    exact("timestamp[]", &["{\"2020-01-01 00:00:00\",-infinity}"]),
    exact("timestamp(3)[]", &["{\"2020-01-01 00:00:00.123\"}"]),
    exact(
        "timestamptz[]",
        &["{\"2020-01-01 00:00:00+00\",infinity,\"10000-01-01 00:00:00+00\"}"],
    ),
    exact("uuid[]", &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"]),
    exact("jsonb[]", &["{\"{\\\"a\\\": [1]}\",null}"]),
    exact("json[]", &["{\"{\\\"a\\\":1}\"}"]),
    exact("money[]", &["{-1.50,NULL}"]),
    exact("bit(3)[]", &["{101,000}"]),
    exact("oid[]", &["{4294967295}"]),
    exact("inet[]", &["{10.0.0.1,::/0}"]),
    exact("int4range[]", &["{\"[1,5)\",empty}"]),
    exact("mood[]", &["{sad,NULL,\"very, very \\\"happy\\\"\"}"]),
    exact("moods", &["{ok}"]),
    exact("citext[]", &["{A,b}"]),
    exact("price[]", &["{1.50}"]),
];

fn column(index: usize) -> String {
    format!("c{index}")
}

/// One row per value, all other columns NULL but those that cannot be.
fn rows_from(first: usize) -> (String, Vec<(usize, usize, usize)>) {
    let mut sql = String::new();
    let mut cases = Vec::new();
    for (index, of) in COLUMNS.iter().enumerate() {
        for (value, literal) in of.values.iter().enumerate() {
            let id = first + cases.len();
            let literal = literal.replace('\'', "''");
            let name = column(index);
            // The literal of a domain is checked by the server like any other.
            sql.push_str(&format!(
                "INSERT INTO t (id, {name}) VALUES ({id}, '{literal}');"
            ));
            cases.push((id, index, value));
        }
    }
    (sql, cases)
}

/// The texts of a column by row.
async fn texts(client: &tokio_postgres::Client, column: &str) -> Vec<(i32, Option<String>)> {
    let sql = format!("SELECT id, {column}::text FROM t ORDER BY id");
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_value_of_any_type_is_at_the_subscriber_what_it_is_at_the_source() {
    let columns: Vec<String> = COLUMNS
        .iter()
        .enumerate()
        .map(|(index, of)| {
            let default = if of.sql_type == "outer_zip" {
                " DEFAULT '0'"
            } else {
                ""
            };
            format!("{} {}{default}", column(index), of.sql_type)
        })
        .collect();
    let (before, mut cases) = rows_from(0);
    let (after, more) = rows_from(1000);
    let all = cases.len() + more.len();
    cases.extend(more);
    let database = Database::create(&format!(
        "{SETUP} CREATE TABLE t (id int PRIMARY KEY, {}); {before}",
        columns.join(", ")
    ))
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database.execute(&after).await;
    until_events(&platform, all).await;
    running.stop().await.unwrap();

    let announced = platform.announced().pop().unwrap().schema;
    let fields: Vec<FieldInfo> = announced
        .columns
        .iter()
        .map(|column| field(&column.name, column.sql_type, true))
        .collect();
    let subscriber = Subscriber::new().await;
    let target = Target::new(table(), &fields[..1], &fields).unwrap();
    let (mut writer, _) = subscriber.assign("a", target, &input()).await.unwrap();
    assert!(writer.may_fill());
    // What was read goes in by COPY, what was streamed by upserts.
    let mut filled = Changes::filling(writer.target());
    let mut upserted = Changes::new(writer.target());
    for (schema, message) in platform.messages() {
        let decoder = EventDecoder::compile(&schema).unwrap();
        let (mut none, mut row) = (Vec::new(), Vec::new());
        decoder.decode(&message, &mut none, &mut row).unwrap();
        let changes = match row[0] {
            Cell::Int(..1000) => &mut filled,
            _ => &mut upserted,
        };
        changes.upsert(writer.target(), &row).unwrap();
    }
    let count = filled.len();
    assert!(writer.fill(0, &filled, 1, now_ms()).await.unwrap());
    assert_eq!(count, all / 2);
    writer.apply(0, &upserted, 2, now_ms()).await.unwrap();

    let mut wrong = Vec::new();
    for (index, of) in COLUMNS.iter().enumerate() {
        let name = column(index);
        let at_source = texts(&database.session().await, &name).await;
        let found = texts(&subscriber.client, &name).await;
        for (source, found) in at_source.iter().zip(&found) {
            let case = cases
                .iter()
                .find(|(id, ..)| i32::try_from(*id) == Ok(source.0));
            let (_, of_case, value) = case.unwrap();
            let literal = of.values.get(*value).filter(|_| *of_case == index);
            let other = literal.and_then(|literal| {
                let mut arrives = of.arrives.iter();
                arrives.find(|(from, _)| from == literal)
            });
            let expected = match other {
                Some((_, text)) => (source.0, Some((*text).to_owned())),
                None => source.clone(),
            };
            if *found != expected {
                wrong.push(format!("{}: {found:?}, not {expected:?}", of.sql_type));
            }
        }
        assert_eq!(found.len(), at_source.len());
    }
    assert_eq!(wrong, Vec::<String>::new());
    subscriber.drop_database().await;
}

#[tokio::test]
async fn an_array_of_several_dimensions_stops_its_table_and_names_the_column() {
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, grid int[]); CREATE TABLE o (id int PRIMARY KEY); \
         INSERT INTO t VALUES (1, '{1,2}');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database
        .execute("INSERT INTO t VALUES (2, '{{1,2},{3,4}}'); INSERT INTO o VALUES (7);")
        .await;
    let error = platform.until_failed("public.t").await;
    assert!(
        error.contains("column \"grid\" (integer[]): the array has more than one dimension"),
        "{error}"
    );
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["r 1,[4, 2, 2, 2, 4, 0]", "c 7"]);
}

#[tokio::test]
async fn a_label_that_an_enum_gains_travels_with_its_first_row() {
    let database = Database::create(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); \
         CREATE TABLE t (id int PRIMARY KEY, m mood NOT NULL DEFAULT 'ok');",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    database.execute("INSERT INTO t VALUES (1, 'sad');").await;
    until_events(&platform, 1).await;
    database
        .execute("ALTER TYPE mood ADD VALUE 'happy' AFTER 'sad'")
        .await;
    database.execute("INSERT INTO t VALUES (2, 'happy');").await;
    database
        .execute("ALTER TABLE t ADD COLUMN note text; INSERT INTO t VALUES (3, 'happy');")
        .await;
    until_events(&platform, 3).await;
    running.stop().await.unwrap();
    assert_eq!(platform.short(), ["c 1,sad", "c 2,happy", "c 3,happy,NULL"]);
    let messages = platform.messages();
    let (first, last) = (&messages[0].0, &messages[2].0);
    assert!(
        first.contains(r#""allowed":"sad,ok"},"connect.default":"ok""#),
        "{first}"
    );
    assert!(last.contains(r#""allowed":"sad,happy,ok""#), "{last}");
}
