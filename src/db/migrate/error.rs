//! Why a migration did not happen.

/// Why a migration did not happen. The database is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The server is older than PostgreSQL 15.
    #[error("DATABASE_URL names a PostgreSQL {0} server, but Coulomb needs version 15 or newer")]
    OldServer(String),
    /// The server or the database accepts no writes; the text says which.
    #[error(
        "DATABASE_URL names {0}, but Coulomb has to write: name the primary server, and a user and database \
         that may"
    )]
    ReadOnly(&'static str),
    /// A newer Coulomb has migrated this database: it has this migration, which this binary does not know.
    #[error(
        "the database is newer than this binary (it has migration {0}): run the newer binary, or restore a \
         backup"
    )]
    NewerDatabase(String),
    /// The SQL of this applied migration differs from the SQL in this binary.
    #[error(
        "migration {0} was applied with another text than this binary has: run the binary that applied it, \
         or restore a backup"
    )]
    Changed(String),
    /// A migration's SQL failed, and was rolled back.
    #[error("migrating failed, and nothing was changed: {0}")]
    Failed(String),
    /// Another program has a schema with a name that we need.
    #[error(
        "the database has a schema {0} that is not Coulomb's: rename it, or give Coulomb a database of its \
         own"
    )]
    Foreign(&'static str),
    /// The caller asked to revert more migrations than this number, which the database has.
    #[error("only {0} migration(s) are applied")]
    TooMany(usize),
    /// Reverting would destroy data, and the caller did not allow that.
    #[error(
        "taking back {migrations} migration(s) destroys data: {lost}; back the database up first, then say \
         `--destroy-data-of {database}` to have it done"
    )]
    WouldDestroy {
        /// How many migrations would be reverted.
        migrations: usize,
        /// What would be lost, as text for people.
        lost: String,
        database: String,
    },
    /// This number of other connections is open.
    #[error(
        "{0} other connection(s) to this database are open, of a daemon or another program that works on its \
         tables: end it first; nothing was changed"
    )]
    InUse(i64),
    /// The caller allowed to destroy the data of another database.
    #[error("`--destroy-data-of {given}` names another database: this one is {database}")]
    OtherDatabase {
        /// The name that the caller gave.
        given: String,
        database: String,
    },
    #[error("the database failed: {0}")]
    Database(#[from] diesel::result::Error),
}
