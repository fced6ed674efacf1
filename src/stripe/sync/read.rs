//! Reads lists and single objects at Stripe. Each answer becomes fetches; nothing is stored here.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::kinds::{InnerList, Listed, Place, TAX_IDS, path_of};
use super::window::{PAGE, Window};
use crate::realm::Realm;
use crate::stripe::client::{Answer, Call, CallError, StripeClient};
use crate::stripe::inbox::Fetch;

/// What a reader needs: the client, whose account, and in which version.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) client: StripeClient,
    pub(super) realm: Realm,
    pub(super) version: Option<String>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct ReadPage {
    pub(super) fetches: Vec<Fetch>,
    /// What is left of the list.
    pub(super) rest: Option<Window>,
    pub(super) requests: u32,
}

/// A page of events.
#[derive(Debug)]
pub(super) struct EventPage {
    pub(super) events: Vec<Box<RawValue>>,
    pub(super) rest: Option<Window>,
    /// Stripe's clock.
    pub(super) observed: DateTime<Utc>,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    #[serde(default)]
    has_more: bool,
}

/// The objects of a page with their names, and the answer that had them.
struct WholePage {
    objects: Vec<(Name, Box<RawValue>)>,
    answer: Answer,
}

#[derive(Deserialize)]
struct Name {
    id: String,
    #[serde(default)]
    object: String,
    #[serde(default)]
    created: i64,
    livemode: Option<bool>,
}

fn name_of(raw: &RawValue) -> Result<Name, CallError> {
    serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable(error.to_string()))
}

impl Reader {
    /// Asks Stripe, and again where the object behind which a page should begin has gone.
    async fn list(
        &self,
        path: &str,
        params: &[(String, String)],
        window: &mut Window,
    ) -> Result<Option<Answer>, CallError> {
        loop {
            let own = window.query();
            let params = params.iter().map(|(name, value)| (&**name, &**value));
            let query: Vec<(&str, &str)> =
                params.chain(own.iter().map(|(name, value)| (*name, &**value))).collect();
            match self.get(path, &query).await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) if is_missing_cursor(&error) => match window.without_first() {
                    Some(rest) => *window = rest,
                    None => return Ok(None),
                },
                Err(error) => return Err(error),
            }
        }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, CallError> {
        let mut call = Call::get(path, query).of(&self.realm.account);
        if let Some(version) = &self.version {
            call = call.version(version);
        }
        self.client.send(&call).await
    }

    /// Reads the next page of a kind.
    ///
    /// # Errors
    /// When the call fails; [`CallError::Unreadable`] when the object is of another mode than the key.
    pub(super) async fn page(
        &self,
        kind: &'static Listed,
        params: &[(String, String)],
        window: &Window,
    ) -> Result<ReadPage, CallError> {
        let mut window = window.clone();
        let Some(answer) = self.list(kind.path, params, &mut window).await? else {
            return Ok(ReadPage { fetches: Vec::new(), rest: None, requests: 1 });
        };
        let page: Page<'_> = answer.read()?;
        let names = page.data.iter().map(|raw| name_of(raw)).collect::<Result<Vec<_>, _>>()?;
        let (mut fetches, mut requests) = (Vec::new(), 1);
        for (raw, name) in page.data.iter().zip(&names) {
            if !window.keeps(&name.id, name.created) {
                continue;
            }
            self.check_mode(name)?;
            let (more, asked) = self.inner_lists(kind, &name.id, raw).await?;
            requests += asked;
            self.add(kind, name, raw, more, &answer, &mut fetches)?;
        }
        let dated: Vec<(&str, i64)> = names.iter().map(|name| (&*name.id, name.created)).collect();
        Ok(ReadPage { fetches, rest: window.after(&dated, page.has_more), requests })
    }

    fn check_mode(&self, name: &Name) -> Result<(), CallError> {
        if name.livemode.is_some_and(|livemode| livemode != self.realm.livemode) {
            let mode = if self.realm.livemode { "live" } else { "test" };
            let why = format!("{} is not of the {mode} mode, as the key is", name.id);
            return Err(CallError::Unreadable(why));
        }
        Ok(())
    }

    /// Adds the fetch of an object. The tax ids within a customer are objects of their own.
    fn add(
        &self,
        kind: &Listed,
        name: &Name,
        raw: &RawValue,
        more: Option<Box<RawValue>>,
        answer: &Answer,
        fetches: &mut Vec<Fetch>,
    ) -> Result<(), CallError> {
        if kind.object != "customer" || !raw.get().contains(TAX_IDS) {
            fetches.push(self.fetch(kind.object, &name.id, raw.to_owned(), more, answer));
            return Ok(());
        }
        let unreadable = |error: serde_json::Error| CallError::Unreadable(error.to_string());
        let parsed = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).map_err(unreadable);
        let take_list = |value: &mut Value| value.as_object_mut().and_then(|fields| fields.remove(TAX_IDS));
        let mut customer = parsed(raw)?;
        let mut more = more.as_deref().map(parsed).transpose()?.unwrap_or_default();
        let first = take_list(&mut customer).map(|mut list| list["data"].take());
        for tax_id in first.iter().chain(&take_list(&mut more)).filter_map(Value::as_array).flatten() {
            let id = tax_id["id"].as_str().unwrap_or_default();
            let raw = serde_json::value::to_raw_value(tax_id).map_err(unreadable)?;
            fetches.push(self.fetch("tax_id", id, raw, None, answer));
        }
        let json = serde_json::value::to_raw_value(&customer).map_err(unreadable)?;
        fetches.push(self.fetch(kind.object, &name.id, json, None, answer));
        Ok(())
    }

    fn fetch(
        &self,
        object: &str,
        id: &str,
        json: Box<RawValue>,
        more: Option<Box<RawValue>>,
        answer: &Answer,
    ) -> Fetch {
        Fetch {
            realm: self.realm.clone(),
            object: object.to_owned(),
            id: id.to_owned(),
            observed: answer.observed.timestamp(),
            version: answer.version.clone().or_else(|| self.version.clone()),
            json,
            more,
            same_as: None,
        }
    }

    /// The entries of an object's lists that the object itself lacks, and how many requests that took.
    async fn inner_lists(
        &self,
        kind: &Listed,
        id: &str,
        raw: &RawValue,
    ) -> Result<(Option<Box<RawValue>>, u32), CallError> {
        let (mut more, mut requests) = (serde_json::Map::new(), 0);
        let is_cut_off = raw.get().contains("\"has_more\":true") || raw.get().contains("\"has_more\": true");
        for inner in kind.inner.iter().filter(|inner| is_cut_off || inner.left_out.is_some()) {
            let object: Value =
                serde_json::from_str(raw.get()).map_err(|error| CallError::Unreadable(error.to_string()))?;
            let list = &object[inner.field];
            let is_left_out = list.is_null() && inner.left_out.is_some_and(|is_wanted| is_wanted(&object));
            if list["has_more"] != true && !is_left_out {
                continue;
            }
            let last = list["data"].as_array().and_then(|data| data.last()?["id"].as_str());
            let (entries, asked) = self.rest_of(kind, inner, id, last).await?;
            requests += asked;
            more.insert(inner.field.to_owned(), json!(entries));
        }
        let raw = (!more.is_empty()).then(|| serde_json::value::to_raw_value(&more)).transpose();
        Ok((raw.map_err(|error| CallError::Unreadable(error.to_string()))?, requests))
    }

    /// The entries of a list behind this one.
    async fn rest_of(
        &self,
        kind: &Listed,
        inner: &InnerList,
        id: &str,
        last: Option<&str>,
    ) -> Result<(Vec<Value>, u32), CallError> {
        let (path, params) = match inner.place {
            Place::Below(name) => (format!("{}/{id}/{name}", kind.path), None),
            Place::Beside(path, param) => (path.to_owned(), Some((param, id))),
        };
        let pages = self.all(&path, params.as_slice(), last).await?;
        let requests = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        let entries = pages.iter().flat_map(|page| &page.objects);
        let entries = entries.map(|(_, raw)| serde_json::from_str(raw.get()).unwrap_or_default());
        Ok((entries.collect(), requests))
    }

    /// Reads one object, whole. `None`: Stripe does not have it.
    ///
    /// # Errors
    /// When the call fails, or nothing tells where Stripe has such an object.
    pub(super) async fn retrieve(
        &self,
        object: &str,
        id: &str,
        path: Option<&str>,
    ) -> Result<Option<Vec<Fetch>>, CallError> {
        let path = path.map(str::to_owned).or_else(|| path_of(object, id));
        let Some(path) = path else {
            return Err(CallError::Unreadable(format!("Coulomb does not know where Stripe has a {object}")));
        };
        let answer = match self.get(&path, &[]).await {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let raw: &RawValue = answer.read()?;
        let name = name_of(raw)?;
        self.check_mode(&name)?;
        let object = if name.object.is_empty() { object } else { &name.object };
        let (more, _) = match super::kinds::find(object) {
            Some(kind) => self.inner_lists(kind, &name.id, raw).await?,
            None => (None, 0),
        };
        Ok(Some(vec![self.fetch(object, &name.id, raw.to_owned(), more, &answer)]))
    }

    /// The fetch that says that Stripe does not have an object any more.
    ///
    /// # Errors
    /// When Stripe cannot prove that it is the same account: an answer of 404 alone proves nothing.
    pub(super) async fn tombstone(
        &self,
        object: &str,
        id: &str,
        stripe_id: &str,
    ) -> Result<Fetch, CallError> {
        let (account, answer) = self.account().await?;
        if account != stripe_id {
            let why = format!("the key is of {account} now, not of {stripe_id}");
            return Err(CallError::OtherAccount(why));
        }
        let gone = json!({ "id": id, "object": object, "deleted": true });
        let raw = serde_json::value::to_raw_value(&gone);
        let raw = raw.map_err(|error| CallError::Unreadable(error.to_string()))?;
        Ok(self.fetch(object, id, raw, None, &answer))
    }

    /// The account's own id.
    pub(super) async fn account(&self) -> Result<(String, Answer), CallError> {
        let answer = self.get("/v1/account", &[]).await?;
        let name: Name = answer.read()?;
        Ok((name.id, answer))
    }

    /// Whether the key may read a kind.
    pub(super) async fn may_read(&self, kind: &Listed) -> Result<bool, CallError> {
        match self.get(kind.path, &[("limit", "1")]).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_forbidden() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the next page of events.
    pub(super) async fn events(&self, window: &Window) -> Result<EventPage, CallError> {
        let mut window = window.clone();
        let Some(answer) = self.list("/v1/events", &[], &mut window).await? else {
            return Ok(EventPage { events: Vec::new(), rest: None, observed: Utc::now() });
        };
        let page: Page<'_> = answer.read()?;
        let names = page.data.iter().map(|raw| name_of(raw)).collect::<Result<Vec<_>, _>>()?;
        let kept = page.data.iter().zip(&names).filter(|(_, name)| window.keeps(&name.id, name.created));
        let events = kept.map(|(raw, _)| (*raw).to_owned()).collect();
        let dated: Vec<(&str, i64)> = names.iter().map(|name| (&*name.id, name.created)).collect();
        Ok(EventPage { events, rest: window.after(&dated, page.has_more), observed: answer.observed })
    }

    /// What exists on test clocks, which lists leave out: customers and subscriptions.
    pub(super) async fn on_test_clocks(&self) -> Result<(Vec<Fetch>, u32), CallError> {
        let (mut fetches, mut requests) = (Vec::new(), 0);
        let clocks = self.all("/v1/test_helpers/test_clocks", &[], None).await?;
        requests += u32::try_from(clocks.len()).unwrap_or(u32::MAX);
        for (clock, _) in clocks.iter().flat_map(|page| &page.objects) {
            for kind in ["customer", "subscription"].into_iter().filter_map(super::kinds::find) {
                let mut params = vec![("test_clock", &*clock.id)];
                params.extend(kind.variants.iter().flat_map(|variant| variant.iter().copied()));
                let pages = self.all(kind.path, &params, None).await?;
                requests += u32::try_from(pages.len()).unwrap_or(u32::MAX);
                for WholePage { objects, answer } in pages {
                    for (name, raw) in objects {
                        let (more, asked) = self.inner_lists(kind, &name.id, &raw).await?;
                        requests += asked;
                        self.add(kind, &name, &raw, more, &answer, &mut fetches)?;
                    }
                }
            }
        }
        Ok((fetches, requests))
    }

    /// All pages of a short list, behind this object.
    async fn all(
        &self,
        path: &str,
        params: &[(&str, &str)],
        behind: Option<&str>,
    ) -> Result<Vec<WholePage>, CallError> {
        let (mut pages, mut last) = (Vec::new(), behind.map(str::to_owned));
        let limit = PAGE.to_string();
        loop {
            let mut query = vec![("limit", &*limit)];
            query.extend(params.iter().copied());
            query.extend(last.as_deref().map(|last| ("starting_after", last)));
            let answer = self.get(path, &query).await?;
            let page: Page<'_> = answer.read()?;
            let named = page.data.iter().map(|raw| Ok((name_of(raw)?, (*raw).to_owned())));
            let objects = named.collect::<Result<Vec<_>, CallError>>()?;
            let has_more = page.has_more && !objects.is_empty();
            last = objects.last().map(|(name, _)| name.id.clone());
            pages.push(WholePage { objects, answer });
            if !has_more {
                return Ok(pages);
            }
        }
    }
}

/// Whether Stripe does not have the object behind which a page should begin.
fn is_missing_cursor(error: &CallError) -> bool {
    error.refusal().is_some_and(|refusal| {
        refusal.status == 400 && refusal.param.as_deref() == Some("starting_after")
            || refusal.code.as_deref() == Some("resource_missing") && refusal.param.is_some()
    })
}
