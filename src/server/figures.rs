//! Brings what the gateway's parts count themselves into the metrics, when somebody reads them.

use super::AppState;
use super::billing::amount;
use crate::cache::CacheCounts;
use crate::resilience::BreakerState;
use crate::telemetry::CacheLookups;

/// Balances of so many users are told at most: each is a series.
const MOST_BALANCES: usize = 1000;

/// Cache, breakers, and, where money is charged, balances.
pub(super) async fn read_gateway(state: &AppState) {
    let (gate, metrics) = (&state.gate, &state.metrics);
    if let Some(cache) = &gate.cache {
        let CacheCounts { hits, misses, errors, rejected } = cache.counts();
        metrics.cache_lookups(CacheLookups { hits, misses, errors, rejected });
    }
    for breaker in gate.breakers.report() {
        let number = match breaker.state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        metrics.breaker(&breaker.name, number, breaker.failures);
    }
    if !gate.ledger.billing() {
        return;
    }
    match gate.ledger.balances(MOST_BALANCES).await {
        Ok(balances) => balances.into_iter().for_each(|(user_id, balance)| metrics.balance(user_id, amount(balance))),
        Err(error) => tracing::debug!(%error, "balances could not be read for the metrics"),
    }
}
