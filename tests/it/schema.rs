//! `src/schema.rs` equals what the migrations make: `.ci/schema-drift` runs this.

use std::collections::BTreeMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};

use crate::support::Database;

const GENERATED: &str = include_str!("../../src/schema.rs");

/// Tables by name: `primary key …`, then `column Type` in the order of the columns.
type Tables = BTreeMap<String, Vec<String>>;

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table: String,
    #[diesel(sql_type = Array<Text>)]
    key: Vec<String>,
    #[diesel(sql_type = Text)]
    column: String,
    #[diesel(sql_type = Text)]
    udt: String,
    #[diesel(sql_type = Bool)]
    nullable: bool,
}

/// Tables without a primary key, and the key that `schema.rs` declares: diesel requires one.
const KEYLESS: &[(&str, &str)] = &[("usage_records", "org_id, occurred_at, event_key, meter_id, correction")];

/// The migrations' own tables and partitions have no block in `schema.rs`.
const COLUMNS: &str = "SELECT c.relname::text AS table,
        ARRAY(SELECT k.attname::text FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS n (attnum, place)
              JOIN pg_attribute k ON k.attnum = n.attnum AND k.attrelid = c.oid
              WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY place) AS key,
        a.attname::text AS column, t.typname::text AS udt, NOT a.attnotnull AS nullable
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'coulomb'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
      AND a.attnum > 0 AND NOT a.attisdropped
          AND c.relname NOT IN ('__diesel_schema_migrations', 'coulomb_migrations')
    ORDER BY c.relname, a.attnum";

/// The database's tables, in diesel's words.
fn in_database(database: &Database) -> Tables {
    let columns: Vec<Column> =
        diesel::sql_query(COLUMNS).load(&mut database.owner()).expect("the catalogue answers");
    let mut tables = Tables::new();
    for Column { table, key, column, udt, nullable } in columns {
        let by_hand = KEYLESS.iter().find(|(name, _)| key.is_empty() && *name == table).map(|(_, key)| *key);
        let key = by_hand.map_or_else(|| key.join(", "), str::to_owned);
        let lines = tables.entry(table).or_insert_with(|| vec![primary_key(&key)]);
        let plain = diesel_type(&udt);
        let sql_type = if nullable { format!("Nullable<{plain}>") } else { plain };
        lines.push(format!("{column} {sql_type}"));
    }
    tables
}

fn primary_key(columns: &str) -> String {
    format!("primary key {columns}")
}

/// The name that `diesel print-schema` gives a type: that of `pg_type`, in camel case.
fn diesel_type(udt: &str) -> String {
    match udt.strip_prefix('_') {
        Some(element) => format!("Array<Nullable<{}>>", diesel_type(element)),
        None => udt[..1].to_uppercase() + &udt[1..],
    }
}

/// The `diesel::table!` blocks of `schema.rs`, with the database's names.
fn in_schema_rs(text: &str) -> Tables {
    let mut tables = Tables::new();
    for block in text.split("diesel::table! {").skip(1) {
        let mut names = BTreeMap::new();
        let (mut table, mut renamed, mut lines) = (None, None, Vec::new());
        for line in block.lines().map(str::trim).take_while(|line| !line.starts_with("diesel::")) {
            if let Some(name) = line.strip_prefix("#[sql_name = \"") {
                renamed = Some(name.trim_end_matches("\"]").to_owned());
            } else if let Some((name, sql_type)) = line.split_once(" -> ") {
                let column = renamed.take().unwrap_or_else(|| name.to_owned());
                lines.push(format!("{column} {}", sql_type.trim_end_matches(',')));
                names.insert(name, column);
            } else if let Some((name, key)) = line.strip_suffix(") {").and_then(|line| line.split_once(" ("))
            {
                table = Some((renamed.take().unwrap_or_else(|| name.to_owned()), key));
            }
        }
        let (table, key) = table.unwrap_or_else(|| panic!("a block names no table:\n{block}"));
        let key: Vec<&str> = key.split(", ").map(|name| names[name].as_str()).collect();
        lines.insert(0, primary_key(&key.join(", ")));
        tables.insert(table, lines);
    }
    tables
}

/// One line for each thing that only one side has, or that differs.
fn differences(ours: &Tables, theirs: &Tables) -> Vec<String> {
    let mut found = Vec::new();
    for table in ours.keys().chain(theirs.keys().filter(|table| !ours.contains_key(*table))) {
        match (ours.get(table), theirs.get(table)) {
            (Some(_), None) => found.push(format!("{table}: only in src/schema.rs")),
            (None, _) => found.push(format!("{table}: only in the migrations")),
            (Some(ours), Some(theirs)) => {
                let only = |a: &[String], b: &[String], where_: &str| -> Vec<String> {
                    a.iter()
                        .filter(|line| !b.contains(line))
                        .map(|line| format!("{table}: {line}: only {where_}"))
                        .collect()
                };
                let before = found.len();
                found.extend(only(ours, theirs, "in src/schema.rs"));
                found.extend(only(theirs, ours, "in the migrations"));
                if ours != theirs && found.len() == before {
                    found.push(format!("{table}: the columns stand in another order"));
                }
            }
        }
    }
    found
}

#[test]
fn schema_rs_is_what_the_migrations_make() {
    let (ours, theirs) = (in_schema_rs(GENERATED), in_database(&Database::new()));
    assert!(theirs.len() > 20, "the catalogue shows the tables");
    let found = differences(&ours, &theirs);
    assert!(
        found.is_empty(),
        "src/schema.rs is not what the migrations make: `diesel print-schema > src/schema.rs` writes it \
            anew\n{}",
        found.join("\n")
    );
}

/// Every table may be joined with every other, as in the output of `print-schema`.
#[test]
fn schema_rs_lets_all_tables_meet() {
    let (_, list) = GENERATED.split_once("allow_tables_to_appear_in_same_query!(").expect("the list");
    let named: Vec<&str> = list
        .trim()
        .trim_end_matches(");")
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(named, in_schema_rs(GENERATED).into_keys().collect::<Vec<_>>());
}

/// The comparison finds each kind of change.
#[test]
fn schema_drift_is_seen() {
    for (change, told) in [
        ("CREATE TABLE extra (id bigint PRIMARY KEY)", "extra: only in the migrations"),
        ("DROP TABLE tax_rates", "tax_rates: only in src/schema.rs"),
        ("ALTER TABLE orgs ADD COLUMN seats smallint", "orgs: seats Nullable<Int2>: only in the migrations"),
        ("ALTER TABLE orgs DROP COLUMN name", "orgs: name Text: only in src/schema.rs"),
        (
            "ALTER TABLE orgs ALTER COLUMN name DROP NOT NULL",
            "orgs: name Nullable<Text>: only in the migrations",
        ),
        (
            "ALTER TABLE refunds ALTER COLUMN amount TYPE numeric",
            "refunds: amount Nullable<Numeric>: only in the migrations",
        ),
        (
            "ALTER TABLE plans DROP CONSTRAINT plans_pkey, ADD PRIMARY KEY (plan_id, name)",
            "plans: primary key plan_id, name: only in the migrations",
        ),
        (
            "ALTER TABLE credit_notes RENAME type TO kind",
            "credit_notes: kind Nullable<Text>: only in the migrations",
        ),
    ] {
        let database = Database::new();
        database.execute(change);
        let found = differences(&in_schema_rs(GENERATED), &in_database(&database));
        assert!(found.iter().any(|line| line == told), "after {change}: {found:?}");
    }
}
