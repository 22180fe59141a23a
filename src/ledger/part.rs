//! The parts of a hold: which accounts a request concerns, and the most that it may take of each.

use super::account::{budget_account, purse_id};
use super::{Account, Inner, NewHold, Unit, Usage};
use crate::store::Moment;

/// A part of a hold: one account.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub id: String,
    pub account: Account,
    pub ends_at: Option<Moment>,
    pub amount: i64,
}

impl Part {
    pub(super) fn purse(user_id: &str, amount: i64) -> Self {
        let account = Account::Purse { user_id: user_id.to_owned() };
        Self { id: purse_id(user_id), account, ends_at: None, amount }
    }
}

impl Inner {
    /// The accounts that a request concerns, with the most that it may take of each, by account.
    pub(super) fn parts(&self, new: &NewHold, now: Moment) -> Vec<Part> {
        let cost = self.price(&new.model).largest_cost(new.max_prompt_tokens, new.max_completion_tokens);
        let largest = Usage {
            prompt_tokens: new.max_prompt_tokens,
            completion_tokens: new.max_completion_tokens,
            ..Usage::default()
        };
        let of_unit = |unit| if unit == Unit::Money { cost } else { largest.tokens() };
        let budgets = self.budgets_for(new).into_iter().map(|budget| {
            let (id, ends_at) = budget_account(&budget, now, self.settings.day_offset);
            Part { id, ends_at, amount: of_unit(budget.unit), account: Account::Budget(budget) }
        });
        let mut parts: Vec<Part> = budgets.chain([Part::purse(&new.user_id, cost)]).collect();
        parts.retain(|part| part.amount > 0);
        parts.sort_by(|a, b| a.id.cmp(&b.id));
        parts
    }
}

/// Ids and amounts, by account.
pub(super) fn amounts(parts: &[Part]) -> Vec<(String, i64)> {
    parts.iter().map(|part| (part.id.clone(), part.amount)).collect()
}

/// Their ids.
pub(super) fn accounts(amounts: &[(String, i64)]) -> Vec<String> {
    amounts.iter().map(|(account, _)| account.clone()).collect()
}
