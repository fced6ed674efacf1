//! What the daemon needs of the PostgreSQL server.

use chrono::Utc;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;

use super::{CLOCK_SLACK_S, Finding};
use crate::db;
use crate::error::Error;

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    value: String,
}

fn setting(conn: &mut PgConnection, name: &str) -> Result<String, Error> {
    let setting: Setting =
        diesel::sql_query("SELECT current_setting($1) AS value").bind::<Text, _>(name).get_result(conn)?;
    Ok(setting.value)
}

pub(super) fn version(conn: &mut PgConnection) -> Result<Finding, Error> {
    Ok(Finding::Good(format!("PostgreSQL {}", setting(conn, "server_version")?)))
}

pub(super) fn durability(conn: &mut PgConnection) -> Result<Finding, Error> {
    for name in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value = setting(conn, name)?;
        if value == "off" {
            return Ok(Finding::Bad(format!(
                "{name} is off: a crash of the server can lose what was acknowledged; set {name} = on"
            )));
        }
    }
    if setting(conn, "data_checksums")? != "on" {
        return Ok(Finding::Note(
            "data checksums are off: a disk fault would go unnoticed; `pg_checksums --enable` turns them on"
                .to_owned(),
        ));
    }
    Ok(Finding::Good("fsync, full_page_writes, synchronous_commit and data checksums are on".to_owned()))
}

/// Checks that the server writes errors in English: we tell their kinds by the words.
pub(super) fn messages(conn: &mut PgConnection) -> Result<Finding, Error> {
    let language = setting(conn, "lc_messages")?;
    Ok(if is_english(&language) {
        Finding::Good("the server writes errors in English".to_owned())
    } else {
        Finding::Bad(format!(
            "the server writes errors in another language ({language}), so the daemon cannot tell which of \
             them a retry can help: have an administrator run `ALTER ROLE … SET lc_messages = 'C'` for this \
             user, and restart the daemon"
        ))
    })
}

/// True when PostgreSQL's messages in this locale are the English ones.
fn is_english(locale: &str) -> bool {
    ["", "C", "POSIX"].contains(&locale)
        || ["C.", "en", "English"].iter().any(|start| locale.starts_with(start))
}

pub(super) fn clock(conn: &mut PgConnection) -> Result<Finding, Error> {
    let apart = (Utc::now() - db::server_time(conn)?).num_seconds();
    Ok(if apart.abs() > CLOCK_SLACK_S {
        Finding::Bad(format!(
            "this machine and the database are {apart} s apart: run NTP on both, or Stripe's signatures will \
             be refused"
        ))
    } else {
        Finding::Good(format!("{apart} s from the database's"))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn locales_with_messages_in_english_are_known() {
        for locale in ["C", "C.UTF-8", "POSIX", "", "en_US.UTF-8", "en_GB", "English_United States.1252"] {
            assert!(super::is_english(locale), "{locale}");
        }
        for locale in ["de_DE.UTF-8", "fr_FR", "ca_ES", "German_Germany.1252"] {
            assert!(!super::is_english(locale), "{locale}");
        }
    }
}
