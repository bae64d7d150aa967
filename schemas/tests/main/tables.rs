//! The tables of the tests, written like SQL.

use hutong_schemas::cell::{Cell, Numeric};
use hutong_schemas::sql_type::SqlType;
use hutong_schemas::table::{Column, DefaultValue, TableId, TableSchema};

/// Returns a table. A column is `name type`, then ` !` for NOT NULL and ` ~` for a default that is
/// an expression.
pub(crate) fn table(id: &str, key: &[&str], columns: &[&str]) -> TableSchema {
    let (schema, table) = id.split_once('.').expect("a table has a schema");
    let columns: Vec<Column> = (1..)
        .zip(columns)
        .map(|(attnum, text)| column(attnum, text))
        .collect();
    let place = |name: &&str| {
        let place = columns.iter().position(|column| column.name == *name);
        place.expect("the key is of the table's columns")
    };
    TableSchema {
        id: TableId {
            schema: schema.to_owned(),
            table: table.to_owned(),
        },
        oid: 16_384,
        key: key.iter().map(place).collect(),
        columns,
    }
}

fn column(attnum: i16, text: &str) -> Column {
    let (name, rest) = text.split_once(' ').expect("a column has a type");
    let (rest, has_default_expression) = strip(rest, " ~");
    let (rest, not_null) = strip(rest, " !");
    Column {
        name: name.to_owned(),
        attnum,
        sql_type: rest.parse().expect("a type that is supported"),
        nullable: !not_null,
        default: None,
        has_default_expression,
        labels: labels(rest),
    }
}

fn labels(sql_type: &str) -> Vec<String> {
    let is_enum = sql_type.starts_with("enum");
    let labels = ["sad", "ok", "happy"].iter().map(ToString::to_string);
    labels.filter(|_| is_enum).collect()
}

fn strip<'t>(text: &'t str, suffix: &str) -> (&'t str, bool) {
    match text.strip_suffix(suffix) {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

/// Gives columns constant defaults.
pub(crate) fn with_defaults(mut table: TableSchema, defaults: &[(&str, Cell<'_>)]) -> TableSchema {
    for (name, cell) in defaults {
        let column = table.columns.iter_mut().find(|column| column.name == *name);
        let column = column.expect("the default is of one of the table's columns");
        column.default = DefaultValue::from_cell(column.sql_type, cell);
    }
    table
}

pub(crate) fn number(unscaled: &[u8], scale: i32) -> Cell<'_> {
    Cell::Numeric(Numeric { unscaled, scale })
}

/// One type of each kind, as columns of random tables have them.
pub(crate) fn every_sql_type() -> Vec<SqlType> {
    let texts = [
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "numeric(18,4)",
        "numeric(9,0)",
        "numeric(5,-2)",
        "numeric",
        "text",
        "character varying",
        "character varying(20)",
        "character(4)",
        "bytea",
        "date",
        "time(0) without time zone",
        "time(3) without time zone",
        "time(6) without time zone",
        "timestamp(0) without time zone",
        "timestamp(3) without time zone",
        "timestamp(6) without time zone",
        "timestamp(0) with time zone",
        "timestamp(3) with time zone",
        "timestamp(6) with time zone",
        "uuid",
        "json",
        "jsonb",
        "enum",
        "bit(1)",
        "bit(12)",
        "bit varying(1)",
        "bit varying(70)",
        "bit varying",
        "oid",
        "money",
        "interval",
        "time(6) with time zone",
        "inet",
        "cidr",
        "macaddr",
        "macaddr8",
        "xml",
        "tsvector",
        "citext",
        "ltree",
        "hstore",
        "int4range",
        "int8range",
        "numrange",
        "tsrange",
        "tstzrange",
        "daterange",
        "point",
        "line",
        "lseg",
        "box",
        "path",
        "polygon",
        "circle",
        "boolean[]",
        "smallint[]",
        "integer[]",
        "bigint[]",
        "real[]",
        "double precision[]",
        "numeric(18,4)[]",
        "numeric[]",
        "text[]",
        "bytea[]",
        "date[]",
        "time(6) without time zone[]",
        "timestamp(3) without time zone[]",
        "timestamp(6) with time zone[]",
        "uuid[]",
        "jsonb[]",
        "enum[]",
        "interval[]",
        "int4range[]",
    ];
    texts
        .iter()
        .map(|text| text.parse().expect("a type that is supported"))
        .collect()
}

pub(crate) fn ent_base() -> TableSchema {
    let table = table(
        "aic.ent_base",
        &["pripid"],
        &[
            "pripid bigint !",
            "reg_no character varying(15)",
            "uscc character(18)",
            "ent_name character varying(200) !",
            "ent_type character(4) !",
            "industry character(5)",
            "reg_cap numeric(18,4)",
            "reg_cap_cur character(3) !",
            "est_date date !",
            "op_from date",
            "op_to date",
            "dom character varying(300) !",
            "region character(6) !",
            "reg_org character varying(9) !",
            "op_scope text",
            "leg_rep character varying(120) !",
            "leg_id_type character(2) !",
            "leg_id_no character varying(20)",
            "phone character varying(30)",
            "reg_state character(1) !",
            "is_branch boolean !",
            "parent_no character varying(18)",
            "appr_date date !",
            "secret_flag smallint !",
            "upd_time timestamp(3) with time zone !",
        ],
    );
    with_defaults(
        table,
        &[
            ("reg_cap_cur", Cell::Text("CNY")),
            ("leg_id_type", Cell::Text("10")),
            ("secret_flag", Cell::Int(0)),
        ],
    )
}

pub(crate) fn ent_inspect() -> TableSchema {
    table(
        "aic.ent_inspect",
        &["pripid", "year"],
        &[
            "pripid bigint !",
            "year smallint !",
            "result character(1) !",
            "insp_date date",
            "assets numeric(18,2)",
            "revenue numeric(18,2)",
            "upd_time timestamp(3) with time zone !",
        ],
    )
}

pub(crate) fn dj_nsrxx() -> TableSchema {
    table(
        "stax.dj_nsrxx",
        &["nsrdzdah"],
        &[
            "nsrdzdah bigint !",
            "nsrsbh character varying(20) !",
            "nsrmc character varying(300) !",
            "shxydm character(18)",
            "zzjg_dm character(9)",
            "gszch character varying(18)",
            "djzclx_dm character(3) !",
            "hy_dm character(4)",
            "fddbrmc character varying(150)",
            "fddbr_zjlx character(3)",
            "fddbr_zjhm character varying(30)",
            "zcdz character varying(300)",
            "scjydz character varying(300)",
            "dhhm character varying(50)",
            "jyfw character varying(2000)",
            "swjg_dm character(11) !",
            "xzqh_dm character(6) !",
            "djrq character(8) !",
            "nsrzt_dm character(2) !",
            "xgrq timestamp(0) without time zone !",
        ],
    )
}

pub(crate) fn tax_reg() -> TableSchema {
    table(
        "ltax.tax_reg",
        &["reg_id"],
        &[
            "reg_id bigint ! ~",
            "taxpayer_no character varying(20) !",
            "name character varying(300) !",
            "org_code character varying(10)",
            "biz_reg_no character varying(20)",
            "uscc character varying(18)",
            "reg_type character(3) !",
            "industry character varying(6)",
            "leg_name character varying(150)",
            "leg_id character varying(30)",
            "reg_addr character varying(300)",
            "op_addr character varying(300)",
            "tel character varying(50)",
            "tax_office character varying(11) !",
            "region character(6) !",
            "reg_date date !",
            "status smallint !",
            "tax_kinds character varying(200)",
            "is_self_emp boolean !",
            "updated_at timestamp(3) with time zone !",
        ],
    )
}

pub(crate) fn org_code() -> TableSchema {
    table(
        "qts.org_code",
        &["jgdm"],
        &[
            "jgdm character(9) !",
            "jgmc character varying(300) !",
            "jglx character(2) !",
            "fddbr character varying(120)",
            "zjhm character varying(30)",
            "jgdz character varying(300)",
            "xzqh character(6) !",
            "jjhy character(5)",
            "pzwh character varying(60)",
            "zgdm character(9)",
            "zczj numeric(18,4)",
            "dhhm character varying(30)",
            "bzrq date !",
            "yxq date !",
            "bzjg character(6) !",
            "zt character(1) !",
            "shxydm character(18)",
            "gxsj timestamp(0) without time zone !",
        ],
    )
}

pub(crate) fn every_type() -> TableSchema {
    table(
        "samples.every_type",
        &["id"],
        &[
            "id bigint !",
            "n_bool boolean",
            "r_bool boolean !",
            "n_int2 smallint",
            "r_int2 smallint !",
            "n_int4 integer",
            "r_int4 integer !",
            "n_int8 bigint",
            "r_int8 bigint !",
            "n_float4 real",
            "r_float4 real !",
            "n_float8 double precision",
            "r_float8 double precision !",
            "n_numeric numeric(18,4)",
            "r_numeric numeric(18,4) !",
            "n_numeric0 numeric(9,0)",
            "r_numeric0 numeric(9,0) !",
            "n_unscaled numeric",
            "r_unscaled numeric !",
            "n_text text",
            "r_text text !",
            "n_varchar character varying",
            "r_varchar character varying(20) !",
            "n_char character(4)",
            "r_char character(4) !",
            "n_bytea bytea",
            "r_bytea bytea !",
            "n_date date",
            "r_date date !",
            "n_time0 time(0) without time zone",
            "r_time3 time(3) without time zone !",
            "n_time4 time(4) without time zone",
            "r_time time(6) without time zone !",
            "n_timestamp0 timestamp(0) without time zone",
            "r_timestamp3 timestamp(3) without time zone !",
            "n_timestamp5 timestamp(5) without time zone",
            "r_timestamp timestamp(6) without time zone !",
            "n_timestamptz timestamp(6) with time zone",
            "r_timestamptz timestamp(6) with time zone !",
            "n_timestamptz0 timestamp(0) with time zone",
            "r_timestamptz3 timestamp(3) with time zone !",
            "n_uuid uuid",
            "r_uuid uuid !",
            "n_json json",
            "r_json json !",
            "n_jsonb jsonb",
            "r_jsonb jsonb !",
        ],
    )
}
