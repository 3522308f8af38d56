//! Forward passes in flight, from their queueing to their sampled tokens.
//!
//! Owns the tickets, and the sample specs of each pass. Does not know how logits are computed: each
//! engine stores its own handle to the logits with the pass.

use std::collections::BTreeMap;

use super::backend::Ticket;
use super::error::EngineError;
use super::sampling::{self, SampleSpec, SampledToken};

/// The passes of one generator, with handles to their logits.
pub struct Passes<L> {
    in_flight: BTreeMap<u64, Pass<L>>,
    next_id: u64,
}

/// One pass.
pub struct Pass<L> {
    /// The handle to its logits.
    pub logits: L,
    /// Position of the last token of each row that wants logits, in row order.
    positions: Vec<usize>,
    /// The sample spec of each of those rows.
    specs: Vec<SampleSpec>,
}

impl<L> Default for Passes<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> Passes<L> {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self { in_flight: BTreeMap::new(), next_id: 0 }
    }

    /// Adds a pass, which stays until it is collected.
    ///
    /// `positions` are those of the last token of each row that wants logits, in row order.
    pub fn insert(&mut self, logits: L, positions: Vec<usize>) -> Ticket {
        self.next_id += 1;
        self.in_flight.insert(self.next_id, Pass { logits, positions, specs: Vec::new() });
        Ticket(self.next_id)
    }

    /// The handles to the logits of all passes in flight.
    pub fn logits_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.in_flight.values_mut().map(|pass| &mut pass.logits)
    }

    /// Sets the sample specs, one for each row that wants logits.
    ///
    /// A refused pass is dropped, because it will not be collected.
    ///
    /// # Errors
    /// [`EngineError::Native`] when there is no such pass or the counts differ.
    pub fn sample(&mut self, ticket: &Ticket, specs: &[SampleSpec]) -> Result<(), EngineError> {
        let mut pass = self.remove(ticket)?;
        if specs.len() != pass.positions.len() {
            return Err(EngineError::Native(format!(
                "{} rows want logits, {} sampler settings were given",
                pass.positions.len(),
                specs.len()
            )));
        }
        pass.specs = specs.to_vec();
        self.in_flight.insert(ticket.0, pass);
        Ok(())
    }

    /// Removes a pass to collect it.
    ///
    /// # Errors
    /// [`EngineError::Native`] when there is no such pass, or when it has logits and no sampling
    /// was queued.
    #[expect(clippy::needless_pass_by_value, reason = "a ticket is used once")]
    pub fn take(&mut self, ticket: Ticket) -> Result<Pass<L>, EngineError> {
        let pass = self.remove(&ticket)?;
        if pass.specs.len() != pass.positions.len() {
            let problem = "the pass has logits, but no sampling was queued";
            return Err(EngineError::Native(problem.to_owned()));
        }
        Ok(pass)
    }

    fn remove(&mut self, ticket: &Ticket) -> Result<Pass<L>, EngineError> {
        let pass = self.in_flight.remove(&ticket.0);
        pass.ok_or_else(|| EngineError::Native(format!("pass {} is not in flight", ticket.0)))
    }
}

impl<L> Pass<L> {
    /// Number of rows that want logits.
    pub fn wanted(&self) -> usize {
        self.positions.len()
    }

    /// Samples the token of the `index`th row that wants logits.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`], and [`EngineError::Native`] when there is no such row.
    pub fn draw(&self, index: usize, logits: &[f32]) -> Result<SampledToken, EngineError> {
        let row = self.specs.get(index).zip(self.positions.get(index));
        let Some((spec, &position)) = row else {
            return Err(EngineError::Native(format!("the pass has no row {index}")));
        };
        sampling::sample(logits, spec).map_err(|error| EngineError::of_sampling(error, position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_is_collected_once_and_dropped_if_refused() {
        let mut passes = Passes::new();
        let (first, second, empty) =
            (passes.insert(1, vec![4]), passes.insert(2, vec![5, 6]), passes.insert(3, vec![]));
        passes.sample(&first, &[SampleSpec::GREEDY]).unwrap();
        let refused = passes.sample(&second, &[SampleSpec::GREEDY]).unwrap_err().to_string();
        assert!(refused.contains("2 rows want logits, 1 sampler"), "{refused}");
        assert_eq!(passes.logits_mut().map(|logits| *logits).collect::<Vec<_>>(), [1, 3]);
        assert!(passes.take(second).is_err(), "nothing is kept of it");
        let pass = passes.take(Ticket(first.0)).unwrap();
        assert_eq!(pass.draw(0, &[0.0, 1.0]).map(|sampled| sampled.token), Ok(1));
        let failed = pass.draw(0, &[f32::NAN, 1.0]);
        assert_eq!(failed, Err(EngineError::NotFinite { what: "NaN", position: 4 }));
        assert!(passes.take(first).is_err());
        assert!(passes.take(empty).is_ok(), "there is nothing to draw");
        let undrawn = passes.insert(4, vec![7]);
        assert!(passes.take(undrawn).is_err());
        assert_eq!(passes.logits_mut().count(), 0);
    }
}
