//! Who holds how much memory, and what has to go so that something new fits.
//!
//! Owns the sum against the budget and the order of eviction: prompt caches first, then idle models
//! by last use; never a model that is in use, being loaded or pinned. Pure policy: it evicts
//! nothing itself, does no I/O and reads no clock. The worker fills it from what the engines say
//! whenever a decision is due, so that it cannot drift from the truth.

use std::fmt::Write as _;
use std::time::Instant;

/// What one model holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The model.
    pub model: String,
    /// Bytes that stay as long as it is loaded: weights and whatever the engine keeps beside them.
    /// While it is being loaded, all that the load may take.
    pub weights: u64,
    /// Bytes its running sequences hold or may yet come to hold.
    pub running: u64,
    /// Bytes of each kept sequence of its prompt cache, least recently used first.
    pub kept: Vec<u64>,
    /// Requests at work on it, and of those that wait for it as many as protect it.
    pub active: usize,
    /// Whether it is being loaded.
    pub loading: bool,
    /// Whether it must stay.
    pub pinned: bool,
    /// When it was used last.
    pub last_used: Instant,
}

impl Holding {
    fn total(&self) -> u64 {
        self.weights.saturating_add(self.running).saturating_add(sum(&self.kept))
    }

    fn is_evictable(&self) -> bool {
        self.active == 0 && !self.loading && !self.pinned && self.total() > 0
    }
}

/// What something new needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need<'a> {
    /// The model it is for; it is never unloaded for its own sake.
    pub model: &'a str,
    /// Bytes.
    pub bytes: u64,
}

/// One step on the way to enough memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Give up the least recently used sequences of a prompt cache.
    DropKept {
        /// Whose.
        model: String,
        /// How many.
        sequences: usize,
        /// What that frees.
        bytes: u64,
    },
    /// Unload an idle model.
    Unload {
        /// Which.
        model: String,
        /// What that frees.
        bytes: u64,
    },
}

/// What to do about a need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It fits, once these steps have been taken.
    Fits(Vec<Step>),
    /// It will fit when models that are in use have become idle.
    Wait(Shortage),
    /// It cannot fit as long as the budget is what it is and what is pinned stays.
    Never(Shortage),
}

/// Why something does not fit, with numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The model it was needed for.
    pub model: String,
    /// Bytes that were needed.
    pub needed_bytes: u64,
    /// Bytes that are free.
    pub free_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Who holds the rest.
    pub holders: Vec<Holder>,
}

/// One model in a [`Shortage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub model: String,
    /// What it holds.
    pub bytes: u64,
    /// Why it is not evicted.
    pub state: &'static str,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut holders = String::new();
        for holder in &self.holders {
            let _ = write!(
                holders,
                "; `{}` holds {} ({})",
                holder.model,
                human(holder.bytes),
                holder.state
            );
        }
        write!(
            formatter,
            "`{}` needs {} of memory, and {} of the budget of {} is free{holders}",
            self.model,
            human(self.needed_bytes),
            human(self.free_bytes),
            human(self.budget_bytes)
        )
    }
}

/// The budget and everybody's holdings at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    budget_bytes: u64,
    holdings: Vec<Holding>,
}

impl Ledger {
    /// The ledger of these holdings.
    #[must_use]
    pub fn new(budget_bytes: u64, holdings: Vec<Holding>) -> Self {
        Self { budget_bytes, holdings }
    }

    /// Bytes that are taken.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.holdings.iter().fold(0, |used, holding| used.saturating_add(holding.total()))
    }

    /// Bytes that are free.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.used_bytes())
    }

    /// The budget.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// Leaves a model out, because the need is for what takes its place. What it held, if it was
    /// there.
    pub fn leave_out(&mut self, model: &str) -> Option<u64> {
        let index = self.holdings.iter().position(|holding| holding.model == model)?;
        Some(self.holdings.remove(index).total())
    }

    /// Puts a kept sequence behind the model's others, because a new one is about to go on from
    /// it.
    pub fn use_kept(&mut self, model: &str, index: usize) {
        let own = self.holdings.iter_mut().find(|holding| holding.model == model);
        if let Some(own) = own.filter(|own| index < own.kept.len()) {
            own.kept[index..].rotate_left(1);
        }
    }

    /// Counts a kept sequence as running, because a new one is about to take it over.
    pub fn take_over(&mut self, model: &str, index: usize) -> u64 {
        let own = self.holdings.iter_mut().find(|holding| holding.model == model);
        let Some(own) = own.filter(|own| index < own.kept.len()) else { return 0 };
        let bytes = own.kept.remove(index);
        own.running = own.running.saturating_add(bytes);
        bytes
    }

    /// How `need` can be met.
    #[must_use]
    pub fn plan(&self, need: Need<'_>) -> Plan {
        let missing =
            self.used_bytes().saturating_add(need.bytes).saturating_sub(self.budget_bytes);
        if missing == 0 {
            return Plan::Fits(Vec::new());
        }
        let mut eviction = Eviction::default();
        eviction.drop_kept(&self.by_last_use(need.model, |_| true), missing);
        let idle = self.by_last_use(need.model, Holding::is_evictable);
        eviction.unload(idle.into_iter().filter(|idle| idle.model != need.model), missing);
        if eviction.freed < missing {
            return self.refuse(need);
        }
        eviction.spare(missing);
        Plan::Fits(eviction.steps())
    }

    /// Holdings that are `wanted`, least recently used first and the needy model's own last.
    fn by_last_use(&self, own: &str, wanted: impl Fn(&Holding) -> bool) -> Vec<&Holding> {
        let mut holdings: Vec<_> = self.holdings.iter().filter(|holding| wanted(holding)).collect();
        holdings.sort_by_key(|holding| (holding.model == own, holding.last_used));
        holdings
    }

    fn refuse(&self, need: Need<'_>) -> Plan {
        // Everything but this could go or end, sooner or later.
        let stays =
            self.holdings.iter().filter(|holding| holding.pinned || holding.model == need.model);
        let stays = stays.fold(0_u64, |stays, holding| stays.saturating_add(holding.weights));
        let shortage = self.shortage(need);
        if stays.saturating_add(need.bytes) <= self.budget_bytes {
            Plan::Wait(shortage)
        } else {
            Plan::Never(shortage)
        }
    }

    fn shortage(&self, need: Need<'_>) -> Shortage {
        let holders = self.holdings.iter().map(|holding| Holder {
            model: holding.model.clone(),
            bytes: holding.total(),
            state: match holding {
                Holding { loading: true, .. } => "being loaded",
                Holding { active: 1.., .. } => "in use",
                Holding { pinned: true, .. } => "pinned",
                _ => "idle",
            },
        });
        Shortage {
            model: need.model.to_owned(),
            needed_bytes: need.bytes,
            free_bytes: self.free_bytes(),
            budget_bytes: self.budget_bytes,
            holders: holders.collect(),
        }
    }
}

/// What goes, while it is being found out.
#[derive(Debug, Default)]
struct Eviction<'a> {
    freed: u64,
    /// Kept sequences in the order they would be dropped.
    dropped: Vec<(&'a Holding, u64)>,
    unloaded: Vec<&'a Holding>,
}

impl<'a> Eviction<'a> {
    fn drop_kept(&mut self, holdings: &[&'a Holding], missing: u64) {
        for holding in holdings {
            for &bytes in &holding.kept {
                if self.freed >= missing {
                    return;
                }
                self.freed = self.freed.saturating_add(bytes);
                self.dropped.push((holding, bytes));
            }
        }
    }

    fn unload(&mut self, idle: impl Iterator<Item = &'a Holding>, missing: u64) {
        for holding in idle {
            if self.freed >= missing {
                return;
            }
            let is_own = |(owner, _): &&(&Holding, u64)| owner.model == holding.model;
            let dropped: Vec<u64> =
                self.dropped.iter().filter(is_own).map(|(_, bytes)| *bytes).collect();
            self.freed = self.freed.saturating_add(holding.total()).saturating_sub(sum(&dropped));
            self.unloaded.push(holding);
            self.dropped.retain(|(owner, _)| owner.model != holding.model);
        }
    }

    /// Takes back what turned out not to be needed: unloading a model may free so much that no
    /// prompt cache has to go. Of one cache the most recently used sequences come back first.
    fn spare(&mut self, missing: u64) {
        let mut kept_going: Vec<&str> = Vec::new();
        for index in (0..self.dropped.len()).rev() {
            let (holding, bytes) = self.dropped[index];
            if kept_going.contains(&holding.model.as_str()) {
                continue;
            }
            if self.freed.saturating_sub(bytes) >= missing {
                self.freed = self.freed.saturating_sub(bytes);
                self.dropped.remove(index);
            } else {
                kept_going.push(&holding.model);
            }
        }
    }

    fn steps(self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (holding, more) in self.dropped {
            match steps.last_mut() {
                Some(Step::DropKept { model, sequences, bytes }) if *model == holding.model => {
                    *sequences += 1;
                    *bytes = bytes.saturating_add(more);
                }
                _ => steps.push(Step::DropKept {
                    model: holding.model.clone(),
                    sequences: 1,
                    bytes: more,
                }),
            }
        }
        let unloads = self.unloaded.into_iter();
        steps.extend(
            unloads.map(|holding| Step::Unload {
                model: holding.model.clone(),
                bytes: holding.total(),
            }),
        );
        steps
    }
}

fn sum(bytes: &[u64]) -> u64 {
    bytes.iter().fold(0, |sum, &bytes| sum.saturating_add(bytes))
}

/// Bytes for a person.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "rounded to two digits anyway")]
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests;
