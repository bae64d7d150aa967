//! Values, compared with what PostgreSQL itself says of them.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::harness::{Database, Platform, Running, until_events};

const ROWS: usize = 600;

/// A random number as text: up to `whole` and `fraction` digits.
fn number(random: &mut StdRng, whole: usize, fraction: usize) -> String {
    let digits = |random: &mut StdRng, most: usize| -> String {
        let count = random.random_range(0..=most);
        (0..count)
            .map(|_| char::from(b'0' + random.random_range(0..10_u8)))
            .collect()
    };
    let sign = if random.random() { "-" } else { "" };
    format!(
        "{sign}0{}.{}0",
        digits(random, whole),
        digits(random, fraction)
    )
}

fn moment(random: &mut StdRng) -> String {
    let (era, year) = match random.random_range(0..10) {
        0 => (" BC", random.random_range(1..4000)),
        1 => ("", random.random_range(10_000..200_000)),
        _ => ("", random.random_range(1..3000)),
    };
    let fraction = match random.random_range(0..3) {
        0 => String::new(),
        1 => format!(".{:03}", random.random_range(0..1000)),
        _ => format!(".{:06}", random.random_range(0..1_000_000)),
    };
    format!(
        "{year:04}-{:02}-{:02} {:02}:{:02}:{:02}{fraction}{era}",
        random.random_range(1..=12),
        random.random_range(1..=28),
        random.random_range(0..24),
        random.random_range(0..60),
        random.random_range(0..60),
    )
}

/// The digits of a two's complement number.
fn decimal(bytes: &[u8]) -> String {
    let negative = bytes[0] >= 0x80;
    let mut digits = vec![0_u8];
    for byte in bytes {
        let mut carry = u32::from(if negative { !byte } else { *byte });
        for digit in digits.iter_mut().rev() {
            let value = u32::from(*digit) * 256 + carry;
            *digit = u8::try_from(value % 10).unwrap();
            carry = value / 10;
        }
        while carry > 0 {
            digits.insert(0, u8::try_from(carry % 10).unwrap());
            carry /= 10;
        }
    }
    if negative {
        // -x is the complement of x - 1.
        for digit in digits.iter_mut().rev() {
            *digit = (*digit + 1) % 10;
            if *digit != 0 {
                break;
            }
        }
        if digits.iter().all(|digit| *digit == 0) {
            digits.insert(0, 1);
        }
    }
    let text: String = digits
        .iter()
        .map(|digit| char::from(b'0' + digit))
        .collect();
    format!("{}{text}", if negative { "-" } else { "" })
}

/// What a cell's text in the harness means as an exact decimal.
fn numeric(text: &str) -> String {
    let (bytes, scale) = text.split_once("e-").expect("a numeric");
    let bytes: Vec<u8> = bytes
        .trim_matches(['[', ']'])
        .split(", ")
        .map(|byte| byte.parse().unwrap())
        .collect();
    assert!(
        bytes.len() == 1 || !matches!((bytes[0], bytes[1]), (0x00, 0..0x80) | (0xFF, 0x80..)),
        "{bytes:?} is not the shortest form"
    );
    format!("{}e-{scale}", decimal(&bytes))
}

#[tokio::test]
async fn numbers_and_moments_are_exactly_those_of_the_server() {
    let seed = rand::random::<u64>();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = Database::create(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric, s numeric(30,7), x numeric(12,0), big numeric(900,400), \
         d date, t time, ts timestamp, tz timestamptz, ms timestamp(3), zone_s timestamptz(0), f8 float8, f4 float4, b bytea);",
    )
    .await;
    let insert = |random: &mut StdRng, id: usize| {
        format!(
            "INSERT INTO t VALUES ({id}, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}+{:02}:{:02}', '{}', '{}+00', \
             '{}e{}'::float8, {}::float4, decode('{}', 'hex'));",
            number(random, 60, 40),
            number(random, 22, 9),
            number(random, 11, 3),
            number(random, 400, 400),
            moment(random),
            ["00:00:00", "24:00:00", "23:59:59.999999", "12:34:56.7"][random.random_range(0..4)],
            moment(random),
            moment(random).replace(" BC", ""),
            random.random_range(0..12),
            random.random_range(0..60),
            moment(random),
            moment(random).replace(" BC", ""),
            number(random, 15, 5),
            random.random_range(-200..200),
            number(random, 7, 5),
            (0..random.random_range(0..20))
                .map(|_| format!("{:02x}", random.random::<u8>()))
                .collect::<String>(),
        )
    };
    let mut statements = String::new();
    for id in 0..ROWS / 2 {
        statements.push_str(&insert(&mut random, id));
    }
    database.execute(&statements).await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    platform.until_streaming().await;
    statements.clear();
    for id in ROWS / 2..ROWS {
        statements.push_str(&insert(&mut random, id));
    }
    database.execute(&statements).await;
    until_events(&platform, ROWS).await;
    running.stop().await.unwrap();

    let rows = database
        .sql
        .query(
            "SELECT id, replace(n::text, '.', '') || 'e-' || scale(n), \
             (s * 10000000)::numeric(60,0)::text || 'e-7', x::text || 'e-0', \
             (big * ('1e400'::numeric))::numeric(1000,0)::text || 'e-400', \
             (d - date '1970-01-01')::text, \
             (extract(epoch from t) * 1000000)::bigint::text, \
             (extract(epoch from ts) * 1000000)::bigint::text, \
             (extract(epoch from tz) * 1000000)::bigint::text, \
             (extract(epoch from ms) * 1000000)::bigint::text, \
             (extract(epoch from zone_s) * 1000000)::bigint::text, \
             f8::text, f4::text, encode(b, 'hex') FROM t",
            &[],
        )
        .await
        .unwrap();
    let expected: HashMap<i32, Vec<String>> = rows
        .iter()
        .map(|row| (row.get(0), (1..14).map(|column| row.get(column)).collect()))
        .collect();
    for event in platform.events() {
        let row = event.after.unwrap();
        let id: i32 = row[0].parse().unwrap();
        let expected = &expected[&id];
        for column in 0..4 {
            assert_eq!(
                numeric(&row[column + 1]),
                trimmed(&expected[column]),
                "row {id} numeric {column}"
            );
        }
        assert_eq!(row[5..11], expected[4..10], "row {id}");
        assert_eq!(
            row[11].parse::<f64>().unwrap(),
            expected[10].parse::<f64>().unwrap()
        );
        assert_eq!(
            row[12].parse::<f32>().unwrap(),
            expected[11].parse::<f32>().unwrap()
        );
        let bytes: Vec<u8> = row[13]
            .trim_matches(['[', ']'])
            .split(", ")
            .filter(|byte| !byte.is_empty())
            .map(|byte| byte.parse().unwrap())
            .collect();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected[12]);
    }
}

/// Without leading zeros and without a minus before zero.
fn trimmed(text: &str) -> String {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let (digits, scale) = rest.split_once("e-").unwrap();
    let digits = digits.trim_start_matches('0');
    match digits {
        "" => format!("0e-{scale}"),
        digits => format!("{negative}{digits}e-{scale}"),
    }
}

#[tokio::test]
async fn the_other_types_arrive_as_they_are() {
    let database = Database::create(
        "CREATE TABLE t (id smallint PRIMARY KEY, i bigint, b bool, c char(5), v varchar(9), u uuid, j json, jb jsonb, d date, ts timestamp, tz timestamptz, f float8, n numeric(5,-2)); \
         INSERT INTO t VALUES (-32768, -9223372036854775808, true, 'ab', '汉字', '00000000-0000-0000-0000-00000000000A', '{ \"a\":1}', '{\"b\": 1, \"a\":2}', 'infinity', '-infinity', 'infinity', 'NaN', 12345); \
         INSERT INTO t (id) VALUES (32767);",
    )
    .await;
    let platform = Platform::default();
    let running = Running::start(&database, &platform, &[]).await;
    until_events(&platform, 2).await;
    running.stop().await.unwrap();
    let row = platform.events()[0].after.clone().unwrap();
    assert_eq!(
        row[..8],
        [
            "-32768",
            "-9223372036854775808",
            "true",
            "ab   ",
            "汉字",
            "00000000-0000-0000-0000-00000000000a",
            "{ \"a\":1}",
            "{\"a\": 2, \"b\": 1}",
        ]
    );
    assert_eq!(row[8], i64::MAX.to_string());
    assert_eq!(row[9], i64::MIN.to_string());
    assert_eq!(row[10], i64::MAX.to_string());
    assert_eq!(row[11], "NaN");
    assert_eq!(row[12], "[123]e--2");
    assert!(
        platform.events()[1].after.as_ref().unwrap()[1..]
            .iter()
            .all(|cell| cell == "NULL")
    );
}
