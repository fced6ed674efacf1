//! The baseline of usage: binary COPY of stored rows into a copy of their table without indexes.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use coulomb::db;
use diesel::connection::SimpleConnection;
use diesel::pg::CopyFormat;
use diesel::prelude::*;

use super::support::Postgres;

diesel::table! {
    /// The table into which the rows are copied.
    bench_raw (org_id) {
        /// Its first column.
        org_id -> BigInt,
    }
}

/// Rows per second of that COPY, with 1,000 rows per commit.
pub(crate) fn rate(postgres: &Postgres, rows: usize) -> f64 {
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    conn.batch_execute("DROP TABLE IF EXISTS bench_raw; CREATE TABLE bench_raw (LIKE usage_records)")
        .expect("a table");
    // COPY cannot read a partitioned table. A temporary table of the same name hides it.
    conn.batch_execute("CREATE TEMP TABLE usage_records AS SELECT * FROM coulomb.usage_records LIMIT 100000")
        .expect("a copy");
    let mut bytes = Vec::new();
    diesel::copy_to(coulomb::schema::usage_records::table)
        .with_format(CopyFormat::Binary)
        .load_raw(&mut conn)
        .expect("copies")
        .read_to_end(&mut bytes)
        .expect("reads");
    let batches = Arc::new(split(&bytes, 1000));
    let each = rows / 2000;
    let started = Instant::now();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let (url, batches) = (postgres.url.clone(), Arc::clone(&batches));
            std::thread::spawn(move || {
                let mut conn = db::connect_as_login(&url).expect("connects");
                for batch in batches.iter().cycle().take(each) {
                    diesel::copy_from(bench_raw::table)
                        .from_raw_data(Raw, |out| {
                            out.write_all(batch)
                                .map_err(|error| diesel::result::Error::SerializationError(Box::new(error)))
                        })
                        .with_format(CopyFormat::Binary)
                        .execute(&mut conn)
                        .expect("copies");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("copies"));
    let rate = (each * 2000) as f64 / started.elapsed().as_secs_f64();
    conn.batch_execute("DROP TABLE bench_raw; CHECKPOINT").expect("drops");
    rate
}

/// All columns of `bench_raw`.
struct Raw;

impl diesel::pg::CopyTarget for Raw {
    type Table = bench_raw::table;
    type SqlType = bench_raw::SqlType;

    fn walk_target(mut out: diesel::query_builder::AstPass<'_, '_, diesel::pg::Pg>) -> QueryResult<()> {
        out.push_sql("bench_raw");
        Ok(())
    }
}

/// Splits the rows of one binary COPY into several COPYs of `size` rows.
fn split(bytes: &[u8], size: usize) -> Vec<Vec<u8>> {
    let (head, mut rest) = bytes.split_at(19);
    let mut batches = Vec::new();
    loop {
        let mut batch = head.to_vec();
        for _ in 0..size {
            let fields = i16::from_be_bytes([rest[0], rest[1]]);
            if fields < 0 {
                return batches;
            }
            let mut at = 2;
            for _ in 0..fields {
                let length = i32::from_be_bytes(rest[at..at + 4].try_into().expect("four bytes"));
                at += 4 + usize::try_from(length).unwrap_or(0);
            }
            batch.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
        }
        batch.extend_from_slice(&(-1_i16).to_be_bytes());
        batches.push(batch);
    }
}
