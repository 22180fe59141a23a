//! `[billing]`: what answers cost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{Origin, invalid, within};
use crate::ledger::{LedgerSettings, Price};

/// What answers cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawBilling {
    pub enabled: bool,
    pub currency: String,
    pub default_balance: f64,
    pub input_price: f64,
    pub cached_input_price: f64,
    pub output_price: f64,
    pub hit_price: f64,
    pub prices: Vec<String>,
    pub utc_offset_hours: i64,
}

impl Default for RawBilling {
    fn default() -> Self {
        Self {
            enabled: false,
            currency: "RUB".into(),
            default_balance: 0.0,
            input_price: 0.0,
            cached_input_price: 0.0,
            output_price: 0.0,
            hit_price: 0.0,
            prices: Vec::new(),
            utc_offset_hours: 3,
        }
    }
}

impl RawBilling {
    /// Judges the values.
    pub(super) fn resolve(self, origin: Origin) -> Result<LedgerSettings, ConfigError> {
        let amount = |key, value| millionths(value).map_err(|problem| invalid(key, origin, problem));
        let hit = amount("billing.hit_price", self.hit_price)?;
        let prices = self.prices.iter().map(|line| price(line, hit));
        let prices: BTreeMap<String, Price> =
            prices.collect::<Result<_, _>>().map_err(|problem| invalid("billing.prices", origin, problem))?;
        let hours = within("billing.utc_offset_hours", self.utc_offset_hours, -12..=14, origin)?;
        Ok(LedgerSettings {
            billing: self.enabled,
            currency: self.currency,
            default_balance: amount("billing.default_balance", self.default_balance)? as i64,
            prices,
            default_price: Price {
                input: amount("billing.input_price", self.input_price)?,
                cached_input: amount("billing.cached_input_price", self.cached_input_price)?,
                output: amount("billing.output_price", self.output_price)?,
                hit,
            },
            day_offset: hours * 3_600_000,
            ..LedgerSettings::default()
        })
    }
}

/// `MODEL INPUT CACHED_INPUT OUTPUT`.
fn price(line: &str, hit: u64) -> Result<(String, Price), String> {
    let wrong = || format!("must hold lines such as `saiga_llama3_8b 0.15 0.05 0.6`, not `{line}`");
    let words: Vec<&str> = line.split_whitespace().collect();
    let [model, input, cached_input, output] = words[..] else { return Err(wrong()) };
    let amount = |word: &str| millionths(word.parse().map_err(|_| wrong())?);
    let price = Price { input: amount(input)?, cached_input: amount(cached_input)?, output: amount(output)?, hit };
    Ok((model.to_owned(), price))
}

/// An amount of the currency as whole millionths.
fn millionths(amount: f64) -> Result<u64, String> {
    if (0.0..=1e12).contains(&amount) {
        return Ok((amount * 1e6).round() as u64);
    }
    Err(format!("must be an amount from 0 to a million million, not {amount}"))
}
