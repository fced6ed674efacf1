//! Migrations: embedded in the binary, run under an advisory lock, never on a database that is newer than the
//! binary or whose applied migrations differ from ours.

use std::collections::BTreeMap;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use sha2::{Digest, Sha256};

use super::home;
use super::losses;
use crate::error::Error;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// The texts once more, for their checksums: diesel keeps no way to read them back.
const TEXTS: &[(&str, &str)] = &[
    ("2026-11-21-000100", include_str!("../../migrations/2026-11-21-000100_foundation/up.sql")),
    ("2026-11-21-000200", include_str!("../../migrations/2026-11-21-000200_stripe_inbox/up.sql")),
    ("2026-11-21-000300", include_str!("../../migrations/2026-11-21-000300_mirrors/up.sql")),
    ("2026-11-21-000400", include_str!("../../migrations/2026-11-21-000400_links_and_plans/up.sql")),
    ("2026-11-21-000500", include_str!("../../migrations/2026-11-21-000500_metering/up.sql")),
    ("2026-11-21-000600", include_str!("../../migrations/2026-11-21-000600_quotas/up.sql")),
    ("2026-11-21-000700", include_str!("../../migrations/2026-11-21-000700_usage_upkeep/up.sql")),
    ("2026-11-21-000800", include_str!("../../migrations/2026-11-21-000800_plans/up.sql")),
    ("2026-11-21-000900", include_str!("../../migrations/2026-11-21-000900_battery/up.sql")),
    ("2026-11-21-001000", include_str!("../../migrations/2026-11-21-001000_battery_effects/up.sql")),
    ("2026-11-21-001100", include_str!("../../migrations/2026-11-21-001100_records_index/up.sql")),
    ("2026-11-21-001200", include_str!("../../migrations/2026-11-21-001200_stripe_arrivals/up.sql")),
    ("2026-11-21-001300", include_str!("../../migrations/2026-11-21-001300_effects_skipped/up.sql")),
    ("2026-11-21-001400", include_str!("../../migrations/2026-11-21-001400_copied_keys/up.sql")),
    ("2026-11-21-001500", include_str!("../../migrations/2026-11-21-001500_arrival_errors/up.sql")),
    ("2026-11-21-001600", include_str!("../../migrations/2026-11-21-001600_records_by_key/up.sql")),
    ("2026-11-21-001800", include_str!("../../migrations/2026-11-21-001800_own_schema/up.sql")),
    ("2026-11-27-000100", include_str!("../../migrations/2026-11-27-000100_narrow_rights/up.sql")),
    ("2026-11-27-010001", include_str!("../../migrations/2026-11-27-010001_money_facts/up.sql")),
    ("2026-11-27-010002", include_str!("../../migrations/2026-11-27-010002_trusted_realms/up.sql")),
    ("2026-11-27-010003", include_str!("../../migrations/2026-11-27-010003_idle_links/up.sql")),
    ("2026-11-27-020001", include_str!("../../migrations/2026-11-27-020001_exact_amounts/up.sql")),
    ("2026-11-27-020002", include_str!("../../migrations/2026-11-27-020002_own_days/up.sql")),
    ("2026-11-27-020003", include_str!("../../migrations/2026-11-27-020003_unpriced/up.sql")),
    ("2026-11-27-030001", include_str!("../../migrations/2026-11-27-030001_billing_periods/up.sql")),
    ("2026-11-27-030002", include_str!("../../migrations/2026-11-27-030002_default_plan/up.sql")),
    (
        "2026-11-27-040001",
        include_str!("../../migrations/2026-11-27-040001_usage_below_zero_and_over/up.sql"),
    ),
    ("2026-11-27-040002", include_str!("../../migrations/2026-11-27-040002_levels/up.sql")),
    ("2026-11-27-050001", include_str!("../../migrations/2026-11-27-050001_own_rate_cards/up.sql")),
];
const ROLES: &str = include_str!("roles.sql");
const DROP_POLICIES: &str = "DO $$ DECLARE p record; BEGIN
    FOR p IN SELECT policyname, tablename FROM pg_policies
    WHERE schemaname = current_schema() AND policyname IN ('platform', 'own_org') LOOP
        EXECUTE format('DROP POLICY %I ON %I', p.policyname, p.tablename);
    END LOOP; END $$";
/// Any number that nobody else uses: "coulomb" on a phone's keys.
const LOCK: i64 = 2_685_662;
const OLDEST_SERVER: i32 = 150_000;

/// Why the schema was left alone.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server is older than PostgreSQL 15.
    #[error("DATABASE_URL names a PostgreSQL {0} server, but Coulomb needs version 15 or newer")]
    OldServer(String),
    /// Nothing can be written to it.
    #[error(
        "DATABASE_URL names {0}, but Coulomb has to write: name the primary server, and a user and database \
         that may"
    )]
    ReadOnly(&'static str),
    /// A newer Coulomb has already migrated this database.
    #[error(
        "the database is newer than this binary (it has migration {0}): run the newer binary, or restore a \
         backup"
    )]
    NewerDatabase(String),
    /// An applied migration is not the one in this binary.
    #[error(
        "migration {0} was applied with another text than this binary has: run the binary that applied it, \
         or restore a backup"
    )]
    Changed(String),
    /// A migration's SQL failed; it was rolled back.
    #[error("migrating failed, and nothing was changed: {0}")]
    Failed(String),
    /// Somebody else has a schema of a name that we need.
    #[error(
        "the database has a schema {0} that is not Coulomb's: rename it, or give Coulomb a database of its \
         own"
    )]
    Foreign(&'static str),
    /// More migrations are to be taken back than there are.
    #[error("only {0} migration(s) are applied")]
    TooMany(usize),
    /// Taking migrations back would destroy data, and nobody said that it may.
    #[error(
        "taking back {migrations} migration(s) destroys data: {lost}; back the database up first, then say \
         `--destroy-data-of {database}` to have it done"
    )]
    WouldDestroy {
        /// How many are to be taken back.
        migrations: usize,
        /// What would be lost, for people.
        lost: String,
        database: String,
    },
    /// Daemons or commands work on it.
    #[error(
        "{0} other connection(s) to this database are open, of a daemon or another program that works on its \
         tables: end it first; nothing was changed"
    )]
    InUse(i64),
    /// The data of another database were given up.
    #[error("`--destroy-data-of {told}` names another database: this one is {database}")]
    OtherDatabase {
        /// The name that was given.
        told: String,
        database: String,
    },
    #[error("the database failed: {0}")]
    Database(#[from] diesel::result::Error),
}

/// What [`run`] did.
#[derive(Debug)]
pub struct Migrated {
    /// Versions applied now, oldest first.
    pub applied: Vec<String>,
    /// Whether the daemon's own roles exist, so that row-level security holds. False: the server does not let
    /// us create them.
    pub roles: bool,
}

#[derive(QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Text)]
    sha256: String,
}

#[derive(QueryableByName)]
struct Server {
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Bool)]
    standby: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
}

/// How the database's schema stands to this binary's.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// There are no tables of ours.
    Absent,
    /// These migrations are lacking, oldest first.
    Behind(Vec<String>),
    /// It is this binary's.
    Current,
}

/// Brings the schema up to this binary's. Daemons that start together wait for one another.
///
/// # Errors
/// See [`MigrateError`]; the database is as it was before.
pub fn run(conn: &mut PgConnection) -> Result<Migrated, MigrateError> {
    check_server(conn)?;
    locked(conn, |conn| {
        let applied = conn.transaction(|conn| {
            home::make(conn)?;
            make_bookkeeping(conn)?;
            let lacking = lacking(applied(conn)?)?;
            let mut done = Vec::new();
            for migration in all()? {
                let version = migration.name().version().to_string();
                if !lacking.contains(&version) {
                    continue;
                }
                conn.run_migration(&migration).map_err(|error| MigrateError::Failed(error.to_string()))?;
                diesel::sql_query("INSERT INTO coulomb_migrations (version, sha256) VALUES ($1, $2)")
                    .bind::<Text, _>(&version)
                    .bind::<Text, _>(checksum(&version))
                    .execute(conn)?;
                done.push(version);
            }
            Ok::<_, MigrateError>(done)
        })?;
        let roles = ensure_roles(conn, !applied.is_empty())?;
        Ok(Migrated { applied, roles })
    })
}

/// How far the schema is. Changes nothing.
///
/// # Errors
/// As [`run`].
pub fn state(conn: &mut PgConnection) -> Result<State, MigrateError> {
    check_server(conn)?;
    let applied = applied(conn)?;
    let absent = applied.is_empty();
    Ok(match lacking(applied)? {
        _ if absent => State::Absent,
        lacking if lacking.is_empty() => State::Current,
        lacking => State::Behind(lacking),
    })
}

/// The versions that [`run`] would apply. Changes nothing.
///
/// # Errors
/// As [`run`].
pub fn plan(conn: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    check_server(conn)?;
    lacking(applied(conn)?)
}

/// Takes back the newest `steps` migrations. Where that destroys data, the caller must name the database in
/// `destroy`.
///
/// # Errors
/// As [`run`].
pub fn revert(
    conn: &mut PgConnection,
    steps: usize,
    destroy: Option<&str>,
) -> Result<Vec<String>, MigrateError> {
    check_server(conn)?;
    let database = losses::database(conn)?;
    if let Some(told) = destroy.filter(|told| *told != database) {
        return Err(MigrateError::OtherDatabase { told: told.to_owned(), database });
    }
    let others = others(conn)?;
    if others > 0 {
        return Err(MigrateError::InUse(others));
    }
    locked(conn, |conn| {
        let applied = applied(conn)?;
        if steps > applied.len() {
            return Err(MigrateError::TooMany(applied.len()));
        }
        lacking(applied)?;
        conn.transaction(|conn| {
            let lost = losses::of(conn, |conn| take_back(conn, steps).map(drop))?;
            if !lost.is_empty() && destroy.is_none() {
                let lost = lost.join(", ");
                return Err(MigrateError::WouldDestroy { migrations: steps, lost, database });
            }
            take_back(conn, steps)
        })
    })
}

/// Connections to this database, beside this one, by whoever may be a daemon or a command.
fn others(conn: &mut PgConnection) -> QueryResult<i64> {
    diesel::select(diesel::dsl::sql::<BigInt>(
        "(SELECT count(*) FROM pg_stat_activity a
          WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            AND (a.usename = session_user OR EXISTS (
                SELECT FROM pg_roles r
                WHERE r.rolname = 'coulomb_platform' AND pg_has_role(a.usesysid, r.oid, 'MEMBER'))))",
    ))
    .get_result(conn)
}

fn take_back(conn: &mut PgConnection, steps: usize) -> Result<Vec<String>, MigrateError> {
    // Policies tie tables of different migrations together; migrating again brings them back.
    conn.batch_execute(DROP_POLICIES)?;
    conn.batch_execute("COMMENT ON TABLE coulomb_migrations IS NULL")?;
    let mut reverted = Vec::new();
    for _ in 0..steps {
        let version = conn
            .revert_last_migration(MIGRATIONS)
            .map_err(|error| MigrateError::Failed(error.to_string()))?
            .to_string();
        diesel::sql_query("DELETE FROM coulomb_migrations WHERE version = $1")
            .bind::<Text, _>(&version)
            .execute(conn)?;
        reverted.push(version);
    }
    let left: Vec<String> = applied(conn)?.into_iter().map(|row| row.version).collect();
    home::leave(conn, &left)?;
    Ok(reverted)
}

fn locked<T>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    diesel::sql_query(format!("SELECT pg_advisory_lock({LOCK})")).execute(conn)?;
    let result = work(conn);
    diesel::sql_query(format!("SELECT pg_advisory_unlock({LOCK})")).execute(conn)?;
    result
}

fn check_server(conn: &mut PgConnection) -> Result<(), MigrateError> {
    let server: Server = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int AS number,
             current_setting('server_version') AS version,
             pg_is_in_recovery() AS standby, current_setting('transaction_read_only')::bool AS read_only",
    )
    .get_result(conn)?;
    if server.number < OLDEST_SERVER {
        return Err(MigrateError::OldServer(server.version));
    }
    match (server.standby, server.read_only) {
        (true, _) => Err(MigrateError::ReadOnly("a standby server")),
        (_, true) => Err(MigrateError::ReadOnly("a database that is read-only")),
        _ => Ok(()),
    }
}

fn make_bookkeeping(conn: &mut PgConnection) -> Result<(), MigrateError> {
    conn.batch_execute("SET LOCAL client_min_messages = warning")?;
    conn.batch_execute(
        "CREATE TABLE IF NOT EXISTS coulomb_migrations (version text PRIMARY KEY, sha256 text NOT NULL)",
    )?;
    // Asking makes diesel's own table where it is lacking.
    conn.applied_migrations().map_err(|error| MigrateError::Failed(error.to_string()))?;
    Ok(())
}

/// The applied migrations, oldest first; none where nothing of ours is there.
fn applied(conn: &mut PgConnection) -> QueryResult<Vec<Applied>> {
    if !home::find(conn)? {
        return Ok(Vec::new());
    }
    diesel::sql_query("SELECT version, sha256 FROM coulomb_migrations ORDER BY version").load(conn)
}

/// The versions of this binary that are not among the applied ones, each of which must be one of ours.
fn lacking(applied: Vec<Applied>) -> Result<Vec<String>, MigrateError> {
    let known: BTreeMap<&str, String> =
        TEXTS.iter().map(|(version, _)| (*version, checksum(version))).collect();
    for row in &applied {
        match known.get(squeeze(&row.version).as_str()) {
            None => return Err(MigrateError::NewerDatabase(row.version.clone())),
            Some(sha256) if *sha256 != row.sha256 => return Err(MigrateError::Changed(row.version.clone())),
            Some(_) => {}
        }
    }
    let versions = all()?.into_iter().map(|migration| migration.name().version().to_string());
    Ok(versions.filter(|version| !applied.iter().any(|row| row.version == *version)).collect())
}

/// This binary's migrations, oldest first.
fn all() -> Result<Vec<Box<dyn Migration<Pg>>>, MigrateError> {
    let mut all: Vec<Box<dyn Migration<Pg>>> =
        MIGRATIONS.migrations().map_err(|error| MigrateError::Failed(error.to_string()))?;
    all.sort_by_key(|migration| migration.name().version().to_string());
    Ok(all)
}

/// Diesel drops the dashes of a version; [`TEXTS`] keeps them for the eye.
fn squeeze(version: &str) -> String {
    TEXTS
        .iter()
        .find(|(dashed, _)| dashed.replace('-', "") == version.replace('-', ""))
        .map_or_else(|| version.to_owned(), |(dashed, _)| (*dashed).to_owned())
}

fn checksum(version: &str) -> String {
    let text = TEXTS.iter().find(|(dashed, _)| *dashed == squeeze(version)).map_or("", |(_, text)| text);
    hex::encode(Sha256::digest(text))
}

#[derive(QueryableByName)]
struct RoleState {
    #[diesel(sql_type = Bool)]
    usable: bool,
}

/// Creates the daemon's roles and gives them their rights. A server that refuses leaves the daemon running as
/// owner.
fn ensure_roles(conn: &mut PgConnection, migrated: bool) -> Result<bool, MigrateError> {
    for role in ["coulomb_platform", "coulomb_org"] {
        // Roles belong to the whole server: another database's daemon may be creating them now.
        let created = conn.batch_execute(&format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}')
                     THEN CREATE ROLE {role} NOLOGIN NOBYPASSRLS; END IF;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
             DO $$ BEGIN
                 IF NOT pg_has_role(current_user, '{role}', 'MEMBER')
                     THEN EXECUTE format('GRANT {role} TO %I', current_user); END IF;
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ));
        if let Err(error) = created {
            tracing::warn!(%error, role, "this server does not let us create our roles: row-level security \
                is off, code alone keeps orgs apart");
            return Ok(false);
        }
    }
    // Giving rights locks every table, which a running daemon would feel: so only where something is new.
    let rights = hex::encode(Sha256::digest(ROLES));
    if migrated || !has_rights(conn, &rights)? {
        apply_roles(conn, &rights)?;
    }
    roles_usable(conn).map_err(Into::into)
}

/// Whether these rights were given, and are there: a dump may have been restored without them.
fn has_rights(conn: &mut PgConnection, rights: &str) -> QueryResult<bool> {
    diesel::sql_query(
        "SELECT coalesce(obj_description('coulomb_migrations'::regclass, 'pg_class') = $1, false)
            AND has_table_privilege('coulomb_platform', 'stripe_inbox', 'INSERT')
                AND has_table_privilege('coulomb_org', 'orgs', 'SELECT')
            AND (SELECT count(*) > 0 FROM pg_policies
                WHERE schemaname = current_schema() AND policyname = 'own_org') AS usable",
    )
    .bind::<Text, _>(rights)
    .get_result::<RoleState>(conn)
    .map(|state| state.usable)
}

/// Daemons that run meanwhile lock these tables in orders of their own: whoever loses a deadlock tries again.
fn apply_roles(conn: &mut PgConnection, rights: &str) -> Result<(), MigrateError> {
    let sql = format!("{ROLES}; COMMENT ON TABLE coulomb_migrations IS '{rights}'");
    super::retrying(conn, |conn| Ok(conn.batch_execute(&sql)?)).map_err(|error| match error {
        Error::Database(error) => error.into(),
        other => MigrateError::Failed(other.to_string()),
    })
}

/// Whether the connection's user may act as the daemon's roles.
///
/// # Errors
/// When the connection fails.
pub fn roles_usable(conn: &mut PgConnection) -> QueryResult<bool> {
    diesel::sql_query(
        "SELECT count(*) = 2 AS usable FROM pg_roles
         WHERE rolname IN ('coulomb_platform', 'coulomb_org') AND pg_has_role(current_user, oid, 'MEMBER')",
    )
    .get_result::<RoleState>(conn)
    .map(|state| state.usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_has_its_text_for_the_checksum() {
        let all: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().expect("readable");
        assert_eq!(all.len(), TEXTS.len());
        for migration in all {
            let version = migration.name().version().to_string();
            assert!(
                TEXTS.iter().any(|(dashed, _)| *dashed == squeeze(&version)),
                "{version} has no text in TEXTS"
            );
        }
    }
}
