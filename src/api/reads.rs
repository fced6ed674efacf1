//! Reads: what lists and look-ups have in common.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::ACCEPT;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use diesel::pg::PgConnection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::api::http::{address, app_of};
use crate::api::params::{Params, pairs};
use crate::app::App;
use crate::audit::{AuditEntry, Author};
use crate::auth::Principal;
use crate::billing::directory::Directory;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::page::{PageQuery, PageRequest};

/// A request that reads, by the bearer of a valid key. Whether that key may read it, the handler checks.
pub struct ReadRequest {
    pub app: web::Data<App>,
    pub principal: Principal,
    /// Query parameters that the handler has not taken yet.
    pub params: Params,
    request: HttpRequest,
}

impl ReadRequest {
    /// Takes the query parameters that are fields of `T`.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the parameter whose value does not fit.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        self.params.take()
    }

    /// Takes the page of `list` that is asked for, and refuses the parameters that are left. `K` is the sort
    /// key of the list's rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the parameter that does not fit, or that this route does not have.
    pub fn take_page<K: DeserializeOwned>(&mut self, list: &'static str) -> Result<PageRequest<K>, Error> {
        let page: PageQuery = self.take()?;
        self.params.done()?;
        page.of(list)
    }

    /// Finds orgs inside the transaction.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.app.directory)
    }

    /// Runs `work` on the rows that the caller may see.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.app.db.run(self.principal.rows, work).await
    }

    /// Runs `work` with the rights of the platform: what it reads belongs to one org that the caller may see,
    /// but is made of tables that orgs may not read (sellers, tax rates, coupons).
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn run_as_platform<T: Send + 'static>(
        &self,
        work: impl Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.app.db.run_for_holder(self.principal.holder(), RowScope::Platform, work).await
    }

    /// What the path is of, such as `invoices`.
    #[must_use]
    pub fn collection(&self) -> String {
        self.request.path().rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Notes in the audit log that the caller reads money: `target`, of the org whose row id `org` finds. It
    /// is stored before the answer; when that fails, so does the read.
    ///
    /// # Errors
    /// The database fails, or those of `org`.
    pub async fn note(
        &self,
        action: &'static str,
        target: &str,
        org: impl Fn(&mut PgConnection) -> Result<i64, Error> + Send + 'static,
    ) -> Result<(), Error> {
        let (now, query) = (self.app.clock.now(), self.request.query_string());
        let actor = format!("key:{}", self.principal.key_id);
        let read = (&*actor, target, query);
        if self.app.noted_reads.has(&read, now) {
            return Ok(());
        }
        let origin = address::origin(&self.app, &self.request);
        let parameters: Map<String, Value> =
            pairs(query)?.into_iter().map(|(name, text)| (name, Value::String(text))).collect();
        let (by, of) = (actor.clone(), target.to_owned());
        let written = self.run_as_platform(move |conn| {
            let entry = AuditEntry {
                org_id: org(conn)?,
                action,
                target: of.clone(),
                detail: json!({ "parameters": parameters.clone() }),
            };
            entry.write(conn, &Author { actor: &by, at: now, origin: Some(&origin) })?;
            Ok(())
        });
        written.await?;
        self.app.noted_reads.note(&read, now);
        Ok(())
    }

    /// Answers with what `find` finds, as JSON.
    ///
    /// # Errors
    /// Those of `find`.
    pub async fn show<T: Serialize + Send + 'static>(
        &self,
        find: impl Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    ) -> Result<HttpResponse, Error> {
        Ok(HttpResponse::Ok().json(self.run(find).await?))
    }

    /// Answers with a page of what `fetch` fetches; `key` gives a row's sort key.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn list<K, T>(
        &self,
        page: PageRequest<K>,
        key: impl Fn(&T) -> K,
        fetch: impl Fn(&mut PgConnection, &PageRequest<K>) -> Result<Vec<T>, Error> + Send + 'static,
    ) -> Result<HttpResponse, Error>
    where
        K: Serialize + Send + Sync + 'static,
        T: Serialize + Send + 'static,
    {
        let page = Arc::new(page);
        let wanted = Arc::clone(&page);
        let rows = self.run(move |conn| fetch(conn, &wanted)).await?;
        Ok(HttpResponse::Ok().json(page.page(rows, key)?))
    }

    /// As [`Self::list`], of rows that come with their sort keys.
    ///
    /// # Errors
    /// Those of `fetch`.
    pub async fn list_keyed<K, T>(
        &self,
        page: PageRequest<K>,
        fetch: impl Fn(&mut PgConnection, &PageRequest<K>) -> Result<Vec<(K, T)>, Error> + Send + 'static,
    ) -> Result<HttpResponse, Error>
    where
        K: Serialize + Clone + Send + Sync + 'static,
        T: Serialize + Send + 'static,
    {
        let page = Arc::new(page);
        let wanted = Arc::clone(&page);
        let rows = self.run(move |conn| fetch(conn, &wanted)).await?;
        Ok(HttpResponse::Ok().json(page.page_of_keyed(rows)?))
    }
}

/// True when the `Accept` header asks for CSV.
#[must_use]
pub fn accepts_csv(request: &HttpRequest) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/csv"))
}

impl FromRequest for ReadRequest {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let principal = Principal::extract(&request).await?;
            let params = Params::parse(request.query_string())?;
            Ok(Self { app: app_of(&request)?, principal, params, request })
        })
    }
}
