//! `[memory]`, `[mlx]` and `[models."name"]` of `config.toml`.
//!
//! Owns how sizes are written (`8 GiB`, `512 MiB`, `70%`) and the ranges of these settings. Knows
//! nothing of the machine: shares become bytes elsewhere.

use std::collections::BTreeMap;

use ingle_protocol::keep_alive::KeepAlive;
use serde::Deserialize;

use crate::engine::memory::{Budget, MemoryOptions, ModelOptions};

/// Smallest budget that is taken for meant, in bytes.
const MIN_BUDGET: u64 = 1 << 20;

/// `[memory]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryTable {
    budget: Option<String>,
    keep_alive: Option<KeepAlive>,
}

/// `[mlx]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MlxTable {
    cache_limit: Option<String>,
    wired_limit: Option<String>,
}

/// `[models."name"]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelTable {
    keep_alive: Option<KeepAlive>,
    pin: Option<bool>,
}

/// The memory settings of these tables; the machine's memory is not filled in.
pub(super) fn options(
    memory: &MemoryTable,
    mlx: &MlxTable,
    models: BTreeMap<String, ModelTable>,
) -> Result<MemoryOptions, String> {
    let budget = memory.budget.as_deref().map(budget).transpose()?.unwrap_or_default();
    let size = |key: &str, text: &Option<String>| match text {
        Some(text) => bytes(text).map(Some).ok_or_else(|| bad_size(key, text)),
        None => Ok(None),
    };
    let model = |ModelTable { keep_alive, pin }| ModelOptions { keep_alive, pin };
    Ok(MemoryOptions {
        budget,
        memory_bytes: 0,
        keep_alive: memory.keep_alive.unwrap_or_default(),
        // Names of models are in lower case; people write them as they like.
        models: models.into_iter().map(|(name, table)| (lower(name), model(table))).collect(),
        mlx_cache_bytes: size("mlx.cache_limit", &mlx.cache_limit)?,
        mlx_wired_bytes: size("mlx.wired_limit", &mlx.wired_limit)?,
    })
}

/// A model outside the models folder is named by its path, whose case matters.
fn lower(name: String) -> String {
    if name.contains('/') { name } else { name.to_lowercase() }
}

fn budget(text: &str) -> Result<Budget, String> {
    if let Some(percent) = text.trim().strip_suffix('%') {
        return match percent.trim().parse() {
            Ok(percent @ 1..=100) => Ok(Budget::Percent(percent)),
            _ => Err(format!("memory.budget is `{text}`; a share must be from 1% to 100%")),
        };
    }
    match bytes(text) {
        Some(bytes @ MIN_BUDGET..) => Ok(Budget::Bytes(bytes)),
        Some(_) => Err(format!("memory.budget is `{text}`; it must be at least 1 MiB")),
        None => Err(bad_size("memory.budget", text)),
    }
}

fn bad_size(key: &str, text: &str) -> String {
    let share = if key == "memory.budget" { ", or a share such as `70%`" } else { "" };
    format!("{key} is `{text}`; expected a size such as `8 GiB`, `512 MiB` or `4 GB`{share}")
}

/// Bytes of a size such as `8 GiB`, `1.5GB` or `4096`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "sizes are not negative and below 2^53, where floats are exact"
)]
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * unit as f64;
    (bytes < (1_u64 << 53) as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("8 GiB", Some(8 << 30)),
            ("1.5GB", Some(1_500_000_000)),
            ("512 mib", Some(512 << 20)),
            ("4096", Some(4_096)),
            ("8 gigs", None),
            ("GiB", None),
            ("-1 GiB", None),
            ("1e3 MB", None),
            ("99999999 TiB", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_budget_is_a_size_or_a_share() {
        assert_eq!(budget("70%"), Ok(Budget::Percent(70)));
        assert_eq!(budget(" 2 GiB "), Ok(Budget::Bytes(2 << 30)));
        for (text, named) in
            [("0%", "1% to 100%"), ("101%", "100%"), ("1 kB", "1 MiB"), ("x", "70%")]
        {
            assert!(budget(text).unwrap_err().contains(named), "{text}");
        }
    }
}
