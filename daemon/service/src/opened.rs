//! The models that are open, at most so many.
//!
//! Owns which one goes when there are too many: of those that no request uses, the one used longest
//! ago. Pure; knows nothing of files.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Open things by key.
#[derive(Debug)]
pub(super) struct Opened<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts uses, to tell earlier ones from later ones.
    uses: u64,
    most: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> Opened<K, V> {
    /// Keeps `most` while they are idle; more only as long as all are in use.
    pub(super) fn new(most: usize) -> Self {
        Self { entries: HashMap::new(), uses: 0, most }
    }

    /// The entry of that key if it is `wanted`. Counts as a use.
    pub(super) fn get(&mut self, key: &K, wanted: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        self.uses += 1;
        let entry = self.entries.get_mut(key).filter(|entry| wanted(&entry.value))?;
        entry.used = self.uses;
        Some(Arc::clone(&entry.value))
    }

    /// Puts an entry in, in the place of an older one of its key.
    pub(super) fn insert(&mut self, key: K, value: Arc<V>) {
        self.uses += 1;
        if self.entries.len() >= self.most && !self.entries.contains_key(&key) {
            // Requests that use one keep it for as long as they need it.
            let idle =
                self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.value) == 1);
            let oldest = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            if let Some(key) = oldest {
                self.entries.remove(&key);
            }
        }
        self.entries.insert(key, Entry { value, used: self.uses });
    }

    /// Drops the entries whose key is not wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| wanted(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_one_used_longest_ago_goes_and_none_for_its_own_successor() {
        let mut opened = Opened::new(3);
        for key in ["a", "b", "c"] {
            opened.insert(key, Arc::new(key));
        }
        let has = |opened: &Opened<&str, &str>| {
            let mut keys: Vec<&str> = opened.entries.keys().copied().collect();
            keys.sort_unstable();
            keys.concat()
        };
        // Another version takes the place of the first one alone.
        opened.insert("b", Arc::new("b2"));
        assert_eq!(has(&opened), "abc");
        assert!(opened.get(&"b", |value| *value == "b").is_none());
        // `a` is used again, and `c` is in use.
        opened.get(&"a", |_| true).unwrap();
        let in_use = opened.get(&"c", |_| true).unwrap();
        opened.insert("d", Arc::new("d"));
        assert_eq!(has(&opened), "acd");
        opened.insert("e", Arc::new("e"));
        assert_eq!(has(&opened), "cde");
        drop(in_use);
        opened.retain(|key| *key != "d");
        assert_eq!(has(&opened), "ce");
    }
}
