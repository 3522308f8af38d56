//! A least-recently-used cache of shared values.
//!
//! Owns the eviction rule: of the values that no request holds, the one used longest ago. Pure; does
//! not know files or models.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// Shared values by key.
#[derive(Debug)]
pub(super) struct LruCache<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Counts uses, so that entries can be ordered by their last one.
    uses: u64,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: Arc<V>,
    used: u64,
}

impl<K: Clone + Eq + Hash, V> LruCache<K, V> {
    /// Holds `capacity` values, and more only while all of them are in use.
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), uses: 0, capacity }
    }

    /// The value of a key if it is `valid`. Counts as a use.
    pub(super) fn get(&mut self, key: &K, valid: impl Fn(&V) -> bool) -> Option<Arc<V>> {
        self.uses += 1;
        let entry = self.entries.get_mut(key).filter(|entry| valid(&entry.value))?;
        entry.used = self.uses;
        Some(Arc::clone(&entry.value))
    }

    /// Inserts a value, and replaces an older one of its key.
    pub(super) fn insert(&mut self, key: K, value: Arc<V>) {
        self.uses += 1;
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            // A value that a request uses has more than one owner.
            let idle =
                self.entries.iter().filter(|(_, entry)| Arc::strong_count(&entry.value) == 1);
            let oldest = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone());
            if let Some(key) = oldest {
                self.entries.remove(&key);
            }
        }
        self.entries.insert(key, Entry { value, used: self.uses });
    }

    /// Drops the entries whose key fails `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_recently_used_idle_value_is_evicted() {
        let mut cache = LruCache::new(3);
        for key in ["a", "b", "c"] {
            cache.insert(key, Arc::new(key));
        }
        let has = |cache: &LruCache<&str, &str>| {
            let mut keys: Vec<&str> = cache.entries.keys().copied().collect();
            keys.sort_unstable();
            keys.concat()
        };
        // A new version replaces the old one and evicts nothing.
        cache.insert("b", Arc::new("b2"));
        assert_eq!(has(&cache), "abc");
        assert!(cache.get(&"b", |value| *value == "b").is_none());
        // `a` is used again, and `c` is in use.
        cache.get(&"a", |_| true).unwrap();
        let in_use = cache.get(&"c", |_| true).unwrap();
        cache.insert("d", Arc::new("d"));
        assert_eq!(has(&cache), "acd");
        cache.insert("e", Arc::new("e"));
        assert_eq!(has(&cache), "cde");
        drop(in_use);
        cache.retain(|key| *key != "d");
        assert_eq!(has(&cache), "ce");
    }
}
