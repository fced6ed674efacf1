//! A plan as somebody defines it: by the API, a plans file, or the metadata of a Stripe product.

use rust_decimal::Decimal;
use serde_json::{Map, Value};

use crate::billing::plans::{self, Facts, Plan, PlanPrices, PlanTerms};
use crate::error::Error;
use crate::quantity::Quantity;
use crate::quota::define::SlotDefinition;
use crate::quota::limits::LimitTerms;

#[derive(Clone, Debug)]
pub struct PlanDefinition {
    pub id: String,
    /// What is the same in all versions.
    pub facts: Facts,
    /// What the newest version offers.
    pub terms: PlanTerms,
    /// Its quotas; `None`: those of the newest version stay.
    pub quotas: Option<Vec<(SlotDefinition, LimitTerms)>>,
}

impl PlanDefinition {
    /// A new plan that offers nothing yet; its name is its id.
    pub(super) fn new(id: &str) -> Self {
        let none = Quantity(Decimal::ZERO);
        let facts = Facts {
            name: id.to_owned(),
            description: None,
            active: true,
            is_default: false,
            rank: 0,
            org: None,
            metadata: Map::new(),
            stripe_prices: Vec::new(),
            stripe_products: Vec::new(),
        };
        let terms = PlanTerms {
            currency: None,
            monthly_amount: None,
            annual_amount: None,
            prices: PlanPrices::new(),
            trial_days: 0,
            grace_days: 0,
            features: Value::Object(Map::new()),
            battery_units: none,
            annual_battery_units: None,
            trial_battery_units: None,
            daily_battery: none,
            battery_debt_limit: None,
        };
        Self { id: id.to_owned(), facts, terms, quotas: None }
    }

    /// The newest version of a stored plan, without its quotas.
    pub(super) fn from_plan(plan: Plan) -> Self {
        let facts = Facts {
            name: plan.name,
            description: plan.description,
            active: plan.active,
            is_default: plan.is_default,
            rank: plan.rank,
            org: plan.org,
            metadata: if let Value::Object(metadata) = plan.metadata { metadata } else { Map::new() },
            stripe_prices: plan.stripe_prices,
            stripe_products: plan.stripe_products,
        };
        Self { id: plan.id, facts, terms: plan.terms, quotas: None }
    }

    /// # Errors
    /// [`Error::Invalid`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        plans::check_id(&self.id)?;
        self.facts.check()?;
        self.terms.check()
    }
}
