//! One rule after the other.

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

#[tokio::test]
async fn a_request_costs_what_it_used_and_leaves_a_row() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let key_id = Some("key".to_owned());
        let hold = ledger.hold(NewHold { key_id: key_id.clone(), ..request("r1") }).await.unwrap();
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 1000, held: 500 });
        assert_eq!(ledger.largest_cost("m", 100, 100), 500);
        let cost = hold.settle(usage(50, 20, 10), Outcome::Cancelled, "{\"a\":1}".to_owned()).await.unwrap();
        assert_eq!(cost, 30 * 2 + 20 + 10 * 3);
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 890, held: 0 });
        let row = store.finished_request("r1").await.unwrap().unwrap();
        assert_eq!((row.prompt_tokens, row.cached_tokens, row.completion_tokens, row.cost), (50, 20, 10, 110));
        assert_eq!((row.outcome.as_str(), row.details.as_str(), row.key_id), ("cancelled", "{\"a\":1}", key_id));
        assert!(row.started_at <= row.finished_at && row.model == "m" && row.user_id == "ann");
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn a_request_is_held_once_at_a_time_and_charged_once() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let hold = ledger.hold(request("r1")).await.unwrap();
        assert!(matches!(ledger.hold(request("r1")).await, Err(LedgerError::Duplicate(id)) if id == "r1"));
        assert_eq!(ledger.end(hold, usage(10, 0, 0)).await, 20);
        let again = ledger.hold(request("r1")).await.unwrap();
        assert_eq!(ledger.end(again, usage(100, 0, 100)).await, 20, "what it cost the first time");
        drop(ledger.hold(request("r1")).await.unwrap());
        ledger.assert_sound().await;
        let balance = ledger.balance("ann").await.unwrap().balance;
        assert_eq!((balance, ledger.transactions("ann", 9, 0).await.unwrap().len()), (980, 2));
    }
}

#[tokio::test]
async fn a_dropped_hold_is_void_and_a_settlement_outlives_its_caller() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        drop(ledger.hold(request("r1")).await.unwrap());
        let unpolled =
            ledger.hold(request("r2")).await.unwrap().settle(usage(9, 0, 9), Outcome::Completed, "{}".into());
        drop(unpolled);
        ledger.quiet().await;
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 1000, held: 0 });
        let mut left = Box::pin(ledger.hold(request("r3")).await.unwrap().settle(
            usage(10, 0, 0),
            Outcome::Completed,
            "{}".into(),
        ));
        tokio::select! { biased; _ = &mut left => (), () = std::future::ready(()) => () }
        drop(left);
        ledger.quiet().await;
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 980, held: 0 });
        assert!(store.finished_request("r1").await.unwrap().is_none());
        assert!(store.finished_request("r3").await.unwrap().is_some());
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn a_hold_takes_from_all_accounts_or_from_none_and_says_which_is_short() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let budget = daily(Subject::Department("d".into()), 150);
        ledger.set_budget(budget.clone(), "root").await.unwrap();
        let of_department = |id| NewHold { department_id: Some("d".into()), ..request(id) };
        let (account, missing) = short(ledger.hold(of_department("r1")).await);
        assert_eq!((account, missing), (Account::Budget(budget), 50));
        ledger.quiet().await;
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 1000, held: 0 });
        let first = ledger.hold(request("r2")).await.unwrap();
        let _second = ledger.hold(request("r3")).await.unwrap();
        let (account, missing) = short(ledger.hold(NewHold { max_completion_tokens: 50, ..of_department("r4") }).await);
        assert_eq!((account, missing), (Account::Purse { user_id: "ann".into() }, 350));
        assert_eq!(ledger.budgets().await.unwrap()[0].held, 0);
        drop(first);
        ledger.quiet().await;
        let hold = ledger.hold(NewHold { max_completion_tokens: 50, ..of_department("r4") }).await.unwrap();
        assert_eq!(ledger.budgets().await.unwrap()[0].held, 150);
        ledger.end(hold, usage(100, 0, 0)).await;
        assert_eq!((ledger.budgets().await.unwrap()[0].used, ledger.budgets().await.unwrap()[0].held), (100, 0));
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn tokens_count_where_nothing_costs_money() {
    for (store, _folder) in stores().await {
        let no_billing = LedgerSettings { billing: false, ..settings() };
        for (settings, model) in [(no_billing, "m"), (settings(), "free")] {
            let billing = settings.billing;
            let ledger = Ledger::open(store.clone(), settings).await.unwrap();
            let id = format!("r-{model}");
            let hold = ledger.hold(NewHold { model: model.into(), ..request(&id) }).await.unwrap();
            assert_eq!(ledger.end(hold, usage(50, 0, 10)).await, 0);
            assert_eq!(store.finished_request(&id).await.unwrap().unwrap().completion_tokens, 10);
            ledger.set_budget(daily(Subject::User("ann".into()), 250), "root").await.unwrap();
            let hold = ledger.hold(NewHold { model: model.into(), ..request(&format!("{id}2")) }).await.unwrap();
            assert_eq!(ledger.end(hold, usage(70, 70, 80)).await, 0);
            let (account, missing) = short(ledger.hold(NewHold { model: model.into(), ..request("r") }).await);
            assert_eq!((account.unit(), missing), (Unit::Tokens, 100), "billing: {billing}");
            assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 1000, held: 0 });
            ledger.assert_sound().await;
            // The next round begins with a budget that counts from zero.
            store.execute("DELETE FROM entries WHERE counter_account <> 'issued:money'").await;
            store.execute("DELETE FROM accounts WHERE kind = 'budget'").await;
            ledger.remove_budget("user:ann/day/tokens").await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_budget_is_full_again_when_its_period_begins() {
    static LATER: AtomicI64 = AtomicI64::new(0);
    for (store, _folder) in stores().await {
        let clock = || now() + LATER.load(Ordering::Relaxed);
        let ledger = Ledger::open(store.clone(), LedgerSettings { clock, ..settings() }).await.unwrap();
        ledger.set_budget(daily(Subject::User("ann".into()), 300), "root").await.unwrap();
        let total = Budget { period: Period::Total, ..daily(Subject::User("ann".into()), 500) };
        ledger.set_budget(total.clone(), "root").await.unwrap();
        let hold = ledger.hold(NewHold { model: "free".into(), ..request("r1") }).await.unwrap();
        ledger.end(hold, usage(100, 0, 100)).await;
        let free = |id| NewHold { model: "free".into(), ..request(id) };
        let refused = ledger.hold(free("r2")).await;
        assert!(
            matches!(refused, Err(LedgerError::Short { missing: 100, resets_at: Some(at), .. }) if at > now()),
            "{refused:?}"
        );
        LATER.fetch_add(86_400_000, Ordering::Relaxed);
        let across = ledger.hold(free("r2")).await.unwrap();
        LATER.fetch_add(86_400_000, Ordering::Relaxed);
        let next = ledger.hold(NewHold { max_prompt_tokens: 0, ..free("r3") }).await.unwrap();
        ledger.end(across, usage(100, 0, 100)).await;
        let states = ledger.budgets().await.unwrap();
        assert_eq!(states.iter().map(|state| (state.used, state.held)).collect::<Vec<_>>(), [(0, 100), (400, 100)]);
        drop(next);
        ledger.quiet().await;
        assert_eq!(short(ledger.hold(free("r4")).await), (Account::Budget(total), 100), "a total is never full again");
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn limits_change_at_once_and_removal_forgets_nothing() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        let budget = |limit| daily(Subject::User("ann".into()), limit);
        ledger.set_budget(budget(200), "root").await.unwrap();
        let hold = ledger.hold(request("r1")).await.unwrap();
        ledger.set_budget(budget(50), "root").await.unwrap();
        assert_eq!(short(ledger.hold(NewHold { max_completion_tokens: 0, ..request("r2") }).await).1, 250);
        ledger.end(hold, usage(100, 0, 50)).await;
        ledger.set_budget(budget(250), "root").await.unwrap();
        let hold = ledger.hold(NewHold { max_completion_tokens: 0, ..request("r2") }).await.unwrap();
        ledger.end(hold, usage(10, 0, 0)).await;
        ledger.remove_budget("user:ann/day/tokens").await.unwrap();
        assert!(ledger.remove_budget("user:ann/day/tokens").await.is_err());
        assert!(ledger.budgets().await.unwrap().is_empty());
        ledger.end(ledger.hold(request("r3")).await.unwrap(), usage(100, 0, 0)).await;
        ledger.set_budget(budget(170), "root").await.unwrap();
        assert_eq!(ledger.budgets().await.unwrap()[0].used, 160, "not what was used while there was no budget");
        assert_eq!(short(ledger.hold(NewHold { max_completion_tokens: 0, ..request("r4") }).await).1, 90);
        assert!(matches!(ledger.set_budget(budget(-1), "root").await, Err(LedgerError::Amount(-1))));
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn top_ups_have_author_and_reason_and_take_back_only_what_is_free() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        assert_eq!(ledger.top_up("ann", 500, "root", "премия").await.unwrap(), 1500);
        let hold = ledger.hold(request("r1")).await.unwrap();
        let (account, missing) = short(ledger.top_up("ann", -1001, "root", "too much").await);
        assert_eq!((account, missing), (Account::Purse { user_id: "ann".into() }, 1));
        assert_eq!(ledger.top_up("ann", -1000, "root", "back").await.unwrap(), 500);
        ledger.end(hold, usage(0, 0, 100)).await;
        for amount in [0, i64::MAX, i64::MIN] {
            assert!(matches!(ledger.top_up("ann", amount, "root", "").await, Err(LedgerError::Amount(_))));
        }
        let list = ledger.transactions("ann", 10, 0).await.unwrap();
        let told: Vec<_> =
            list.iter().map(|entry| (entry.amount, entry.author.as_deref(), entry.description.as_str())).collect();
        let mut expected = [
            (-300, None, "m"),
            (-1000, Some("root"), "back"),
            (500, Some("root"), "премия"),
            (1000, Some("system"), "opening balance"),
        ];
        assert!(list.is_sorted_by_key(|entry| std::cmp::Reverse(entry.created_at)));
        let mut sorted = told.clone();
        sorted.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(ledger.transactions("ann", 2, 1).await.unwrap(), list[1..3]);
        assert_eq!(ledger.transactions("bob", 2, 0).await.unwrap(), []);
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn no_more_is_charged_than_was_held() {
    for (store, _folder) in stores().await {
        let ledger = Ledger::open(store.clone(), settings()).await.unwrap();
        ledger.set_budget(daily(Subject::User("ann".into()), 1000), "root").await.unwrap();
        let hold = ledger.hold(request("r1")).await.unwrap();
        assert_eq!(ledger.end(hold, usage(u64::MAX, 0, 5000)).await, 500);
        assert_eq!(ledger.balance("ann").await.unwrap(), Balance { balance: 500, held: 0 });
        assert_eq!(ledger.budgets().await.unwrap()[0].used, 200);
        ledger.assert_sound().await;
    }
}

#[tokio::test]
async fn requests_add_up_by_day_model_and_key() {
    static LATER: AtomicI64 = AtomicI64::new(0);
    for (store, _folder) in stores().await {
        LATER.store(0, Ordering::Relaxed);
        // Midnight of the second day of 2026 in Moscow is three hours before UTC's.
        let clock = || 1_767_301_200_000 - 1 + LATER.load(Ordering::Relaxed);
        let settings = LedgerSettings { clock, day_offset: 10_800_000, ..settings() };
        let ledger = Ledger::open(store.clone(), settings).await.unwrap();
        for (index, user, key, model) in [(0, "ann", None, "m"), (1, "ann", Some("k"), "free"), (2, "bob", None, "m")] {
            LATER.store(index, Ordering::Relaxed);
            let new = NewHold {
                user_id: user.into(),
                key_id: key.map(str::to_owned),
                model: model.into(),
                ..request(&index.to_string())
            };
            let hold = ledger.hold(new).await.unwrap();
            ledger.end(hold, usage(10, 5, 1)).await;
        }
        let report = async |user, by| {
            let rows = ledger.usage(user, 0, i64::MAX, by).await.unwrap();
            rows.into_iter().map(|row| (row.group, row.requests, row.prompt_tokens, row.cost)).collect::<Vec<_>>()
        };
        let row = |group: &str, requests, tokens, cost| (group.to_owned(), requests, tokens, cost);
        assert_eq!(report(None, GroupBy::Day).await, [row("2026-01-01", 1, 10, 18), row("2026-01-02", 2, 20, 18)]);
        assert_eq!(report(None, GroupBy::Model).await, [row("free", 1, 10, 0), row("m", 2, 20, 36)]);
        assert_eq!(report(Some("ann"), GroupBy::Key).await, [row("", 1, 10, 18), row("k", 1, 10, 0)]);
        let from = clock();
        assert_eq!(ledger.usage(None, from, from, GroupBy::Model).await.unwrap(), []);
        assert_eq!(ledger.usage(None, from, from + 1, GroupBy::Model).await.unwrap().len(), 1);

        let mut seen = Vec::new();
        let mut cursor = Cursor::default();
        loop {
            let page = store.purse_entries_after(&cursor, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            cursor = last.cursor();
            seen.extend(page);
        }
        assert_eq!(seen.iter().map(|entry| entry.amount).sum::<i64>(), 2000 - 36);
        assert!(seen.len() == 4 && seen.is_sorted_by_key(|entry| entry.created_at), "{seen:?}");
    }
}
