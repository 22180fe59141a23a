//! Which accounts there are, and when a budget's period ends.

use super::{Budget, Period, Unit};
use crate::calendar::civil_from_days;
use crate::store::Moment;

const DAY: i64 = 86_400_000;

/// Somebody's money, or what is left of a budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// A user's money.
    Purse {
        /// Whose.
        user_id: String,
    },
    /// A budget in its current period.
    Budget(Budget),
}

impl Account {
    /// What it counts.
    pub fn unit(&self) -> Unit {
        match self {
            Self::Purse { .. } => Unit::Money,
            Self::Budget(budget) => budget.unit,
        }
    }
}

impl std::fmt::Display for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Purse { user_id } => write!(f, "the balance of user {user_id}"),
            Self::Budget(budget) => write!(f, "the budget {}", budget.id()),
        }
    }
}

/// What the ids of purses begin with.
pub(super) const PURSE: &str = "user:";

/// The id of a user's purse.
pub(super) fn purse_id(user_id: &str) -> String {
    format!("{PURSE}{user_id}")
}

/// The account of a budget in the period that a moment lies in, and that period's end. Days begin `offset` milliseconds
/// before UTC's.
pub(super) fn budget_account(budget: &Budget, at: Moment, offset: i64) -> (String, Option<Moment>) {
    let day = (at + offset).div_euclid(DAY);
    let starts = |day: i64| day * DAY - offset;
    let (name, ends_at) = match budget.period {
        Period::Day => (date(day), Some(starts(day + 1))),
        Period::Month => {
            let first = day + 1 - civil(day).2 as i64;
            let next = (first + 28..=first + 31).find(|day| civil(*day).2 == 1);
            (date(first), next.map(starts))
        }
        Period::Total => ("total".to_owned(), None),
    };
    (format!("budget:{}/{name}", budget.id()), ends_at)
}

/// `2026-01-31` of a day since 1970.
pub(super) fn date(day: i64) -> String {
    let (year, month, day) = civil(day);
    format!("{year}-{month:02}-{day:02}")
}

fn civil(day: i64) -> (u64, u64, u64) {
    civil_from_days(day.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Subject, parse_day};

    #[test]
    fn days_are_read_as_they_are_written() {
        for day in [0, 1, 58, 59, 60, 11_016, 20_000, 2_932_896] {
            assert_eq!(parse_day(&date(day)), Some(day), "{}", date(day));
        }
        for wrong in ["", "2026", "2026-02-29", "2026-13-01", "2026-1-1", "1969-12-31", "2026-01-31x", "x-y-z"] {
            assert_eq!(parse_day(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn periods_begin_and_end_with_the_calendar() {
        let account = |period, at, offset| {
            let budget = Budget { subject: Subject::User("u".into()), period, unit: Unit::Tokens, limit: 1 };
            budget_account(&budget, at, offset)
        };
        let leap = 1_709_164_800_000; // 2024-02-29T00:00:00Z
        assert_eq!(
            account(Period::Day, leap, 0),
            ("budget:user:u/day/tokens/2024-02-29".into(), Some(1_709_251_200_000))
        );
        assert_eq!(
            account(Period::Month, leap + DAY - 1, 0),
            ("budget:user:u/month/tokens/2024-02-01".into(), Some(1_709_251_200_000))
        );
        assert_eq!(account(Period::Month, leap + DAY, 0).0, "budget:user:u/month/tokens/2024-03-01");
        assert_eq!(account(Period::Total, leap, 0), ("budget:user:u/total/tokens/total".into(), None));
        let moscow = 3 * 3_600_000;
        let (name, end) = account(Period::Day, leap - moscow, moscow);
        assert_eq!(
            (name.as_str(), end),
            ("budget:user:u/day/tokens/2024-02-29", Some(leap - moscow + DAY)),
            "the day begins in Moscow"
        );
        assert_eq!(account(Period::Day, leap - moscow - 1, moscow).0, "budget:user:u/day/tokens/2024-02-28");
    }
}
