//! What sources did before, and which of their lines wait.

use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::{DocumentRow, DocumentTypes, pack_json, parse_documents};
use crate::battery::effects::model::{Facts, SaleSource};
use crate::battery::effects::sql::bind_sources;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;

statement!(DoneBefore -> DocumentTypes: concat!(
    "SELECT k.account, k.livemode, k.kind, k.id, json_build_object(
         'effects', coalesce(e.effects, '[]'),
         'waiting', coalesce(w.waiting, '[]'))
     FROM unnest(?, ?, ?, ?) AS k (account, livemode, kind, id)
     CROSS JOIN LATERAL (
         SELECT json_agg(json_build_object(
                 'line', e.line,
                 'org_id', e.org_id,
                 'grant', e.grant_number,
                 'units', e.units::text,
                 'what', e.what,
                 'start', e.period_start,
                 'end', e.period_end,
                 'paid', e.paid_minor,
                 'quantity', e.quantity)
             ORDER BY e.line) AS effects
         FROM battery_effects e
         WHERE e.source_id = k.id
             AND e.source_kind = k.kind
             AND e.account = k.account
             AND e.livemode = k.livemode) e
     CROSS JOIN LATERAL (
         SELECT json_agg(json_build_object(
                 'line', w.line,
                 'since', w.since,
                 'dismissed', w.dismissed_at IS NOT NULL,
                 'org', w.assigned_org,
                 'quantity', w.assigned_quantity,
                 'pack', (
                     SELECT ", pack_json!(), "
                     FROM battery_packs b
                     WHERE b.pack_id = w.assigned_pack))) AS waiting
         FROM battery_effects_waiting w
         WHERE w.source_id = k.id
             AND w.source_kind = k.kind
             AND w.account = k.account
             AND w.livemode = k.livemode) w
     WHERE e.effects IS NOT NULL
         OR w.waiting IS NOT NULL"));

/// The effects and the waiting lines of these sources, in [`Facts`] that are empty otherwise.
pub(super) fn load(
    conn: &mut PgConnection,
    sources: &[&SaleSource],
) -> Result<Vec<(SaleSource, Facts)>, Error> {
    parse_documents(bind_sources(Prepared::<DoneBefore>::new(), sources).load::<DocumentRow>(conn)?)
}
