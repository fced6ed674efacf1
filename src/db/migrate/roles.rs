//! The daemon's database roles `coulomb_platform` and `coulomb_org`, and their rights (`roles.sql`).

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use sha2::{Digest, Sha256};

use super::MigrateError;
use crate::error::Error;

const ROLES: &str = include_str!("../roles.sql");
/// SQL that drops all row-level policies of ours; `roles.sql` creates them again.
pub(super) const DROP_POLICIES: &str = "DO $$ DECLARE p record; BEGIN
    FOR p IN SELECT policyname, tablename FROM pg_policies
    WHERE schemaname = current_schema() AND policyname IN ('platform', 'own_org') LOOP
        EXECUTE format('DROP POLICY %I ON %I', p.policyname, p.tablename);
    END LOOP; END $$";

#[derive(QueryableByName)]
struct YesOrNo {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

/// Creates the daemon's roles and grants their rights; returns whether the daemon can use the roles. `false`:
/// the server does not allow us to create roles, and the daemon runs as the owner.
pub(super) fn create(conn: &mut PgConnection, migrated: bool) -> Result<bool, MigrateError> {
    for role in ["coulomb_platform", "coulomb_org"] {
        // Roles belong to the whole server: a daemon of another database may create them at the same time.
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
            tracing::warn!(%error, role, "this server does not allow Coulomb to create its roles: \
                row-level security is off, and only the code separates the orgs");
            return Ok(false);
        }
    }
    // Grants lock every table, which slows a running daemon. So grant only if something has changed.
    let checksum = hex::encode(Sha256::digest(ROLES));
    if migrated || !are_granted(conn, &checksum)? {
        grant(conn, &checksum)?;
    }
    are_usable(conn).map_err(Into::into)
}

/// Whether the rights of `roles.sql` with this checksum were granted and are still there: somebody may have
/// restored a dump without them.
fn are_granted(conn: &mut PgConnection, checksum: &str) -> QueryResult<bool> {
    diesel::sql_query(
        "SELECT coalesce(obj_description('coulomb_migrations'::regclass, 'pg_class') = $1, false)
            AND has_table_privilege('coulomb_platform', 'stripe_inbox', 'INSERT')
                AND has_table_privilege('coulomb_org', 'orgs', 'SELECT')
            AND (SELECT count(*) > 0 FROM pg_policies
                WHERE schemaname = current_schema() AND policyname = 'own_org') AS yes",
    )
    .bind::<Text, _>(checksum)
    .get_result::<YesOrNo>(conn)
    .map(|row| row.yes)
}

/// Runs `roles.sql`, again after a deadlock: running daemons lock the same tables in another order.
fn grant(conn: &mut PgConnection, checksum: &str) -> Result<(), MigrateError> {
    let sql = format!("{ROLES}; COMMENT ON TABLE coulomb_migrations IS '{checksum}'");
    crate::db::run_with_retries(conn, |conn| Ok(conn.batch_execute(&sql)?)).map_err(|error| match error {
        Error::Database(error) => error.into(),
        other => MigrateError::Failed(other.to_string()),
    })
}

/// Whether the connection's user may act as the daemon's roles.
pub fn are_usable(conn: &mut PgConnection) -> QueryResult<bool> {
    diesel::sql_query(
        "SELECT count(*) = 2 AS yes FROM pg_roles
         WHERE rolname IN ('coulomb_platform', 'coulomb_org') AND pg_has_role(current_user, oid, 'MEMBER')",
    )
    .get_result::<YesOrNo>(conn)
    .map(|row| row.yes)
}
