//! Tests of the memory ledger: examples of evictions, and properties of every plan.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// An idle model with `weights`, last used at second `used`.
fn idle(start: Instant, model: &str, weights: u64, used: u64) -> Holding {
    Holding {
        model: model.to_owned(),
        weights,
        running: 0,
        kept: Vec::new(),
        active: 0,
        loading: false,
        pinned: false,
        last_used: start + Duration::from_secs(used),
    }
}

fn unload(model: &str, bytes: u64) -> EvictionStep {
    EvictionStep::Unload { model: model.to_owned(), bytes }
}

fn drop_kept(model: &str, sequences: usize, bytes: u64) -> EvictionStep {
    EvictionStep::DropKept { model: model.to_owned(), sequences, bytes }
}

fn need(bytes: u64) -> MemoryNeed<'static> {
    MemoryNeed { model: "new", bytes }
}

#[test]
fn kept_sequences_are_evicted_before_models() {
    let start = Instant::now();
    let cached = Holding { kept: vec![5, 10], ..idle(start, "cached", 30, 9) };
    let ledger = Ledger::new(100, vec![idle(start, "b", 20, 2), idle(start, "a", 20, 1), cached]);
    assert_eq!(ledger.plan(need(15)), MemoryPlan::Fits(vec![]));
    assert_eq!(ledger.plan(need(20)), MemoryPlan::Fits(vec![drop_kept("cached", 1, 5)]));
    assert_eq!(
        ledger.plan(need(50)),
        MemoryPlan::Fits(vec![drop_kept("cached", 2, 15), unload("a", 20)])
    );
    // After both models are unloaded, no kept sequence has to be dropped.
    assert_eq!(ledger.plan(need(52)), MemoryPlan::Fits(vec![unload("a", 20), unload("b", 20)]));
    let all = vec![unload("a", 20), unload("b", 20), unload("cached", 45)];
    assert_eq!(ledger.plan(need(100)), MemoryPlan::Fits(all));
    assert!(matches!(ledger.plan(need(101)), MemoryPlan::Never(_)));
}

#[test]
fn shortage_names_all_holders_with_bytes() {
    let start = Instant::now();
    let busy = Holding { active: 2, running: 1_000, ..idle(start, "busy", 4_000_000_000, 1) };
    let pinned = Holding { pinned: true, ..idle(start, "pinned", 1_500_000_000, 2) };
    let ledger = Ledger::new(6_000_000_000, vec![busy, pinned]);
    let MemoryPlan::Wait(shortage) = ledger.plan(need(4_500_000_000)) else { panic!("not a wait") };
    assert_eq!(
        shortage.to_string(),
        "`new` needs 4.50 GB of memory, and 500 MB of the budget of 6.00 GB is free; `busy` holds \
         4.00 GB (in use); `pinned` holds 1.50 GB (pinned)"
    );
    assert!(matches!(ledger.plan(need(4_500_000_001)), MemoryPlan::Never(_)));
}

#[test]
fn continued_sequence_is_counted_once_and_kept() {
    let start = Instant::now();
    let own = Holding { kept: vec![10, 30], ..idle(start, "new", 50, 1) };
    let mut ledger = Ledger::new(100, vec![own]);
    assert_eq!(ledger.take_over("new", 1), 30);
    // 40 for the sequence, of which it brings 30.
    assert_eq!(ledger.plan(need(10)), MemoryPlan::Fits(vec![]));
    assert_eq!(ledger.plan(need(15)), MemoryPlan::Fits(vec![drop_kept("new", 1, 10)]));
    // Running sequences will end; the model's own weights stay.
    assert!(matches!(ledger.plan(need(50)), MemoryPlan::Wait(_)));
    assert!(matches!(ledger.plan(need(51)), MemoryPlan::Never(_)));
}

prop_compose! {
    fn any_holding()(
        weights in 0_u64..50,
        running in 0_u64..30,
        kept in prop::collection::vec(0_u64..20, 0..4),
        active in 0_usize..2,
        (loading, pinned) in (prop::bool::weighted(0.2), prop::bool::weighted(0.2)),
        used in 0_u64..8,
    ) -> (u64, u64, Vec<u64>, usize, bool, bool, u64) {
        (weights, running, kept, active, loading, pinned, used)
    }
}

proptest! {
    #[test]
    fn plan_frees_enough_and_spares_used_and_recent(
        holdings in prop::collection::vec(any_holding(), 0..6),
        budget in 0_u64..300,
        bytes in 0_u64..200,
        own in 0_usize..7,
    ) {
        let start = Instant::now();
        let holdings: Vec<Holding> = holdings.into_iter().enumerate().map(
            |(index, (weights, running, kept, active, loading, pinned, used))| Holding {
                running: if active > 0 { running } else { 0 },
                kept: if loading { Vec::new() } else { kept },
                active,
                loading,
                pinned,
                ..idle(start, &index.to_string(), weights, used)
            },
        ).collect();
        let own = own.to_string();
        let need = MemoryNeed { model: &own, bytes };
        let ledger = Ledger::new(budget, holdings.clone());
        let droppable: u64 = holdings.iter().map(|holding| {
            let goes = holding.is_evictable() && holding.model != own;
            if goes { holding.total() } else { sum(&holding.kept) }
        }).sum();
        let reachable = ledger.used_bytes() - droppable + bytes <= budget;
        let steps = match ledger.plan(need) {
            MemoryPlan::Fits(steps) => steps,
            refusal => {
                prop_assert!(!reachable);
                let stays = holdings.iter().filter(|holding| holding.pinned || holding.model == own);
                let stays: u64 = stays.map(|holding| holding.weights).sum();
                prop_assert_eq!(matches!(refusal, MemoryPlan::Never(_)), stays + bytes > budget);
                return Ok(());
            }
        };
        prop_assert!(reachable || steps.is_empty());
        let mut freed = 0;
        let mut unloaded = Vec::new();
        for step in &steps {
            match step {
                EvictionStep::DropKept { model, sequences, bytes } => {
                    let holding = holdings.iter().find(|holding| holding.model == *model).unwrap();
                    prop_assert_eq!(*bytes, sum(&holding.kept[..*sequences]));
                    freed += bytes;
                }
                EvictionStep::Unload { model, bytes } => {
                    let holding = holdings.iter().find(|holding| holding.model == *model).unwrap();
                    prop_assert!(holding.is_evictable() && *model != own);
                    prop_assert_eq!(*bytes, holding.total());
                    unloaded.push(holding);
                    freed += bytes;
                }
            }
        }
        prop_assert!(ledger.used_bytes() - freed + bytes <= budget);
        // The last step is never superfluous.
        if let Some(EvictionStep::Unload { bytes: last, .. }) = steps.last() {
            prop_assert!(ledger.used_bytes() - (freed - last) + bytes > budget || *last == 0);
        }
        let stayed = |holding: &&Holding| {
            holding.is_evictable()
                && holding.model != own
                && !unloaded.iter().any(|gone| gone.model == holding.model)
        };
        for stays in holdings.iter().filter(stayed) {
            prop_assert!(unloaded.iter().all(|gone| gone.last_used <= stays.last_used));
        }
        for dropped in steps.iter().filter_map(|step| match step {
            EvictionStep::DropKept { model, .. } => Some(model),
            EvictionStep::Unload { .. } => None,
        }) {
            prop_assert!(unloaded.iter().all(|gone| gone.model != *dropped));
        }
    }
}
