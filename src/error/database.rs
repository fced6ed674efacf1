//! What an error of the database means: whose fault it is, and whether a retry can help. diesel gives no
//! SQLSTATE, so the words decide.

use diesel::result::{DatabaseErrorKind, Error as DieselError};

/// Lost races, lost connections and full servers: running the same transaction again can help.
pub(super) fn is_transient(error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _) => true,
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => {
            let message = info.message();
            [
                "deadlock detected",
                "the database system is",
                "terminating connection",
                "too many clients",
                "canceling statement",
                "No space left on device",
                "out of memory",
                "out of shared memory",
            ]
            .iter()
            .any(|part| message.contains(part))
                || is_disconnected(error)
        }
        _ => is_disconnected(error),
    }
}

/// The disk is full, or a quota on it is used up (`errcode_for_file_access` in elog.c).
pub(crate) fn is_want_of_room(error: &DieselError) -> bool {
    matches!(error, DieselError::DatabaseError(_, info)
        if ["No space left on device", "Disk quota exceeded"]
            .iter()
            .any(|part| info.message().contains(part)))
}

/// libpq reports a lost connection in words only; these are its own and the server's (fe-misc.c, postgres.c).
pub(crate) fn is_disconnected(error: &DieselError) -> bool {
    match error {
        // Read-only: the server has become a standby. The next connection may reach its successor.
        DieselError::DatabaseError(
            DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::ReadOnlyTransaction,
            _,
        )
        | DieselError::BrokenTransactionManager => true,
        DieselError::DatabaseError(
            DatabaseErrorKind::Unknown | DatabaseErrorKind::UnableToSendCommand,
            info,
        ) => {
            let message = info.message();
            [
                "server closed the connection",
                "connection to server",
                "no connection to the server",
                "could not receive data",
                "could not send data",
                "terminating connection",
                "SSL connection",
            ]
            .iter()
            .any(|part| message.contains(part))
        }
        _ => false,
    }
}

/// diesel gives no SQLSTATE, so the texts decide: those of class 22, and those about values that are too long
/// for an index or a page.
pub(super) fn is_about_data(error: &DieselError) -> bool {
    match error {
        DieselError::DatabaseError(
            DatabaseErrorKind::CheckViolation | DatabaseErrorKind::NotNullViolation,
            _,
        ) => true,
        DieselError::DatabaseError(DatabaseErrorKind::Unknown, info) => {
            let message = info.message();
            [
                "out of range",
                "overflow",
                "invalid byte sequence",
                "invalid input syntax",
                "Unicode escape",
                "in external",
                "index row ",
                "row is too big",
                "value too long",
            ]
            .iter()
            .any(|part| message.contains(part))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Messages as PostgreSQL 15 and libpq write them.
    #[test]
    fn the_texts_tell_whose_fault_an_error_is() {
        let transient = [
            "deadlock detected",
            "terminating connection due to administrator command",
            "could not extend file \"base/16384/17214.1\": No space left on device",
            "out of shared memory",
        ];
        let about_data = [
            "integer out of range",
            "value overflows numeric format",
            "invalid byte sequence for encoding \"UTF8\": 0x00",
            "unsupported Unicode escape sequence",
            "invalid input syntax for type json",
            "index row size 2808 exceeds btree version 4 maximum 2704 for index \"usage_uniques_pkey\"",
        ];
        let neither = [
            "permission denied for table usage_keys",
            "relation \"usage_keys\" does not exist",
            "invalid page in block 7 of relation base/16384/17214",
            "temporary file size exceeds temp_file_limit (1024kB)",
        ];
        let judged = |message: &str| {
            let info = Box::new(message.to_owned());
            let error = DieselError::DatabaseError(DatabaseErrorKind::Unknown, info);
            (is_transient(&error), is_about_data(&error))
        };
        transient.iter().for_each(|message| assert_eq!(judged(message), (true, false), "{message}"));
        about_data.iter().for_each(|message| assert_eq!(judged(message), (false, true), "{message}"));
        neither.iter().for_each(|message| assert_eq!(judged(message), (false, false), "{message}"));
    }
}
