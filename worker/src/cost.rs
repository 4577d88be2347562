//! What an action costs (`buildbarn.resourceusage.MonetaryResourceUsage`).

use std::collections::BTreeMap;
use std::time::Duration;

use proto::messages;
use proto::wire::protobuf::Any;
use proto::wire::resourceusage::MonetaryResourceUsage;
use proto::wire::resourceusage::monetary_resource_usage::Expense;
use serde::{Deserialize, Serialize};

use crate::Error;

/// One expense of having a slot, each second.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// ISO 4217: three capital letters.
    pub currency: String,
    /// In units of the currency.
    pub cost: f64,
}

/// All expenses of a slot, by name.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Prices(BTreeMap<String, Price>);

impl Prices {
    /// Checks currencies and amounts.
    ///
    /// # Errors
    /// [`Error::Configuration`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |name: &String, reason: &str| {
            Err(Error::Configuration {
                key: "runners.costs_per_second",
                reason: format!("{name}: {reason}"),
            })
        };
        for (name, price) in &self.0 {
            let letters = price.currency.bytes();
            if price.currency.len() != 3 || !letters.into_iter().all(|b| b.is_ascii_uppercase()) {
                return refuse(name, "the currency is not three capital letters (ISO 4217)");
            }
            if !price.cost.is_finite() || price.cost < 0.0 {
                return refuse(name, "the cost is not a positive number");
            }
        }
        Ok(())
    }

    /// What so much time costs; none where nothing has a price.
    pub(crate) fn usage(&self, time: Duration) -> Option<Any> {
        if self.0.is_empty() {
            return None;
        }
        let expense = |price: &Price| Expense {
            currency: price.currency.clone(),
            cost: price.cost * time.as_secs_f64(),
        };
        let expenses = self.0.iter();
        let expenses = expenses.map(|(name, price)| (name.clone(), expense(price)));
        Some(messages::pack(&MonetaryResourceUsage {
            expenses: expenses.collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prices(json: &str) -> Prices {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn time_is_multiplied_by_each_price() {
        let prices = prices(
            r#"{"power": {"currency": "EUR", "cost": 0.5}, "rent": {"currency": "USD", "cost": 2}}"#,
        );
        prices.check().unwrap();
        let usage = prices.usage(Duration::from_millis(1500)).unwrap();
        let name = "buildbarn.resourceusage.MonetaryResourceUsage";
        let usage: MonetaryResourceUsage = messages::unpack(&usage, name).unwrap();
        assert_eq!(usage.expenses["power"].cost, 0.75);
        assert_eq!(usage.expenses["rent"].cost, 3.0);
        assert_eq!(usage.expenses["rent"].currency, "USD");
        assert_eq!(Prices::default().usage(Duration::from_secs(1)), None);
    }

    #[test]
    fn what_is_no_money_is_refused() {
        for wrong in [
            r#"{"x": {"currency": "Euro", "cost": 1}}"#,
            r#"{"x": {"currency": "eur", "cost": 1}}"#,
            r#"{"x": {"currency": "EUR", "cost": -1}}"#,
        ] {
            assert!(prices(wrong).check().is_err(), "{wrong}");
        }
    }
}
