//! The migrations in this binary, those that the database has, and the difference.

use std::collections::BTreeMap;

use diesel::migration::{Migration, MigrationSource};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use sha2::{Digest, Sha256};

use super::MigrateError;
use crate::db::own_schema;

pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// The same SQL again, for the checksums: diesel offers no way to read it back from [`MIGRATIONS`].
const TEXTS: &[(&str, &str)] = &[
    ("2026-11-21-000100", include_str!("../../../migrations/2026-11-21-000100_foundation/up.sql")),
    ("2026-11-21-000200", include_str!("../../../migrations/2026-11-21-000200_stripe_inbox/up.sql")),
    ("2026-11-21-000300", include_str!("../../../migrations/2026-11-21-000300_mirrors/up.sql")),
    ("2026-11-21-000400", include_str!("../../../migrations/2026-11-21-000400_links_and_plans/up.sql")),
    ("2026-11-21-000500", include_str!("../../../migrations/2026-11-21-000500_metering/up.sql")),
    ("2026-11-21-000600", include_str!("../../../migrations/2026-11-21-000600_quotas/up.sql")),
    ("2026-11-21-000700", include_str!("../../../migrations/2026-11-21-000700_usage_upkeep/up.sql")),
    ("2026-11-21-000800", include_str!("../../../migrations/2026-11-21-000800_plans/up.sql")),
    ("2026-11-21-000900", include_str!("../../../migrations/2026-11-21-000900_battery/up.sql")),
    ("2026-11-21-001000", include_str!("../../../migrations/2026-11-21-001000_battery_effects/up.sql")),
    ("2026-11-21-001100", include_str!("../../../migrations/2026-11-21-001100_records_index/up.sql")),
    ("2026-11-21-001200", include_str!("../../../migrations/2026-11-21-001200_stripe_arrivals/up.sql")),
    ("2026-11-21-001300", include_str!("../../../migrations/2026-11-21-001300_effects_skipped/up.sql")),
    ("2026-11-21-001400", include_str!("../../../migrations/2026-11-21-001400_copied_keys/up.sql")),
    ("2026-11-28-001300", include_str!("../../../migrations/2026-11-28-001300_org_standing/up.sql")),
    ("2026-11-28-001400", include_str!("../../../migrations/2026-11-28-001400_erasure/up.sql")),
    ("2026-11-21-001500", include_str!("../../../migrations/2026-11-21-001500_arrival_errors/up.sql")),
    ("2026-11-21-001600", include_str!("../../../migrations/2026-11-21-001600_records_by_key/up.sql")),
    ("2026-11-21-001800", include_str!("../../../migrations/2026-11-21-001800_own_schema/up.sql")),
    ("2026-11-27-000100", include_str!("../../../migrations/2026-11-27-000100_narrow_rights/up.sql")),
    ("2026-11-27-010001", include_str!("../../../migrations/2026-11-27-010001_money_facts/up.sql")),
    ("2026-11-27-010002", include_str!("../../../migrations/2026-11-27-010002_trusted_realms/up.sql")),
    ("2026-11-27-010003", include_str!("../../../migrations/2026-11-27-010003_idle_links/up.sql")),
    ("2026-11-27-020001", include_str!("../../../migrations/2026-11-27-020001_exact_amounts/up.sql")),
    ("2026-11-27-020002", include_str!("../../../migrations/2026-11-27-020002_own_days/up.sql")),
    ("2026-11-27-020003", include_str!("../../../migrations/2026-11-27-020003_unpriced/up.sql")),
    ("2026-11-27-030001", include_str!("../../../migrations/2026-11-27-030001_billing_periods/up.sql")),
    ("2026-11-27-030002", include_str!("../../../migrations/2026-11-27-030002_default_plan/up.sql")),
    (
        "2026-11-27-040001",
        include_str!("../../../migrations/2026-11-27-040001_usage_below_zero_and_over/up.sql"),
    ),
    ("2026-11-27-040002", include_str!("../../../migrations/2026-11-27-040002_levels/up.sql")),
    ("2026-11-27-050001", include_str!("../../../migrations/2026-11-27-050001_own_rate_cards/up.sql")),
    ("2026-11-28-000100", include_str!("../../../migrations/2026-11-28-000100_own_invoices/up.sql")),
    ("2026-11-28-000200", include_str!("../../../migrations/2026-11-28-000200_finance_columns/up.sql")),
    ("2026-11-28-000300", include_str!("../../../migrations/2026-11-28-000300_month_manifests/up.sql")),
    ("2026-11-28-000400", include_str!("../../../migrations/2026-11-28-000400_usage_currencies/up.sql")),
    ("2026-11-28-000500", include_str!("../../../migrations/2026-11-28-000500_usage_labels/up.sql")),
    ("2026-11-28-000600", include_str!("../../../migrations/2026-11-28-000600_short_periods/up.sql")),
    ("2026-11-28-001100", include_str!("../../../migrations/2026-11-28-001100_audit_months/up.sql")),
    ("2026-11-28-001200", include_str!("../../../migrations/2026-11-28-001200_keys/up.sql")),
    ("2026-11-28-020001", include_str!("../../../migrations/2026-11-28-020001_messages/up.sql")),
    ("2026-11-28-020005", include_str!("../../../migrations/2026-11-28-020005_rolling_quotas/up.sql")),
    ("2026-11-28-030001", include_str!("../../../migrations/2026-11-28-030001_stripe_sync/up.sql")),
    ("2026-11-28-031001", include_str!("../../../migrations/2026-11-28-031001_charging/up.sql")),
    ("2026-11-28-032001", include_str!("../../../migrations/2026-11-28-032001_checkout_line_items/up.sql")),
    ("2026-11-28-040001", include_str!("../../../migrations/2026-11-28-040001_discarded_usage/up.sql")),
    ("2026-11-28-040002", include_str!("../../../migrations/2026-11-28-040002_sent_deltas/up.sql")),
    ("2026-11-28-040003", include_str!("../../../migrations/2026-11-28-040003_meter_of_a_price/up.sql")),
    ("2026-11-28-040004", include_str!("../../../migrations/2026-11-28-040004_ended_ways/up.sql")),
    ("2026-11-29-010001", include_str!("../../../migrations/2026-11-29-010001_package_of_a_price/up.sql")),
];

/// A row of `coulomb_migrations`: a migration that the database has.
#[derive(QueryableByName)]
pub(super) struct AppliedMigration {
    #[diesel(sql_type = Text)]
    pub(super) version: String,
    #[diesel(sql_type = Text)]
    sha256: String,
}

/// The migrations that the database has, oldest first; none if it has no tables of ours.
pub(super) fn applied(conn: &mut PgConnection) -> QueryResult<Vec<AppliedMigration>> {
    if !own_schema::select(conn)? {
        return Ok(Vec::new());
    }
    diesel::sql_query("SELECT version, sha256 FROM coulomb_migrations ORDER BY version").load(conn)
}

/// Notes that this binary's migration `version` was applied.
pub(super) fn record_applied(conn: &mut PgConnection, version: &str) -> QueryResult<()> {
    diesel::sql_query("INSERT INTO coulomb_migrations (version, sha256) VALUES ($1, $2)")
        .bind::<Text, _>(version)
        .bind::<Text, _>(checksum(version))
        .execute(conn)
        .map(drop)
}

/// The versions of this binary that `applied` does not have, oldest first.
///
/// # Errors
/// If `applied` has a migration that this binary does not know, or knows with another text.
pub(super) fn missing(applied: &[AppliedMigration]) -> Result<Vec<String>, MigrateError> {
    let known: BTreeMap<&str, String> =
        TEXTS.iter().map(|(version, _)| (*version, checksum(version))).collect();
    for row in applied {
        match known.get(with_dashes(&row.version).as_str()) {
            None => return Err(MigrateError::NewerDatabase(row.version.clone())),
            Some(sha256) if *sha256 != row.sha256 => return Err(MigrateError::Changed(row.version.clone())),
            Some(_) => {}
        }
    }
    let versions = embedded()?.into_iter().map(|migration| migration.name().version().to_string());
    Ok(versions.filter(|version| !applied.iter().any(|row| row.version == *version)).collect())
}

/// This binary's migrations, oldest first.
pub(super) fn embedded() -> Result<Vec<Box<dyn Migration<Pg>>>, MigrateError> {
    let mut migrations: Vec<Box<dyn Migration<Pg>>> =
        MIGRATIONS.migrations().map_err(|error| MigrateError::Failed(error.to_string()))?;
    migrations.sort_by_key(|migration| migration.name().version().to_string());
    Ok(migrations)
}

/// The version as [`TEXTS`] writes it. Diesel removes the dashes; `TEXTS` keeps them, for readers.
fn with_dashes(version: &str) -> String {
    TEXTS
        .iter()
        .find(|(dashed, _)| dashed.replace('-', "") == version.replace('-', ""))
        .map_or_else(|| version.to_owned(), |(dashed, _)| (*dashed).to_owned())
}

/// SHA-256 of the migration's SQL, in hexadecimal.
fn checksum(version: &str) -> String {
    let version = with_dashes(version);
    let text = TEXTS.iter().find(|(dashed, _)| *dashed == version).map_or("", |(_, text)| text);
    hex::encode(Sha256::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_has_its_text_for_the_checksum() {
        let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().expect("readable");
        assert_eq!(migrations.len(), TEXTS.len());
        for migration in migrations {
            let version = migration.name().version().to_string();
            assert!(
                TEXTS.iter().any(|(dashed, _)| *dashed == with_dashes(&version)),
                "{version} has no text in TEXTS"
            );
        }
    }
}
