//! `[memory]`, `[mlx]` and `[models."name"]` of `config.toml`.
//!
//! Owns the syntax of sizes (`8 GiB`, `512 MiB`, `70%`) and the ranges of these settings. Does not
//! know the machine: shares become bytes elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use ingle_protocol::keep_alive::KeepAlive;
use serde::Deserialize;

use ingle_engine::settings::EngineSettings;
use ingle_scheduler::memory::{Budget, MemoryOptions, ModelOptions, key};

/// The smallest valid budget, in bytes: less is a mistake.
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

/// The memory settings of these tables, without the machine's memory.
pub(super) fn options(
    memory: &MemoryTable,
    models: BTreeMap<String, ModelTable>,
) -> Result<MemoryOptions, String> {
    let budget = memory.budget.as_deref().map(budget).transpose()?.unwrap_or_default();
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let mut options = BTreeMap::new();
    for (name, ModelTable { keep_alive, pin }) in models {
        let key = model_key(&name, home.as_deref());
        if options.insert(key, ModelOptions { keep_alive, pin }).is_some() {
            return Err(format!("[models.\"{name}\"] is there twice: capitals do not count"));
        }
    }
    Ok(MemoryOptions {
        budget,
        memory_bytes: 0,
        keep_alive: memory.keep_alive.unwrap_or_default(),
        models: options,
    })
}

/// Sets the cache limit and the wired limit of MLX.
pub(super) fn set_mlx_limits(settings: &mut EngineSettings, mlx: &MlxTable) -> Result<(), String> {
    let size = |key: &str, text: &Option<String>| match text {
        Some(text) => bytes(text).map(Some).ok_or_else(|| bad_size(key, text)),
        None => Ok(None),
    };
    settings.mlx_cache_bytes = size("mlx.cache_limit", &mlx.cache_limit)?;
    settings.mlx_wired_bytes = size("mlx.wired_limit", &mlx.wired_limit)?;
    Ok(())
}

/// The key of a model for a name in the settings.
///
/// A model outside the models folder and all libraries is named by its path.
fn model_key(name: &str, home: Option<&Path>) -> String {
    let name = name.trim();
    match (name.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest).to_string_lossy().into_owned(),
        _ => key(name).into_owned(),
    }
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
    fn sizes_are_read_with_their_units() {
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

    #[test]
    fn model_keys_ignore_case_of_names() {
        let home = Some(Path::new("/home/Ann"));
        for (written, name) in [
            ("SmolLM2", "smollm2"),
            ("smollm2:q4_k_m", "smollm2:Q4_K_M"),
            ("qwen/qwen3-0.6b", "Qwen/Qwen3-0.6B"),
            ("/m/A.gguf", "/m/A.gguf"),
            ("~/m/A.gguf", "/home/Ann/m/A.gguf"),
        ] {
            assert_eq!(model_key(written, home), key(name), "{written}");
        }
        assert_ne!(model_key("/m/a.gguf", home), key("/m/A.gguf"));
        let twice = ["A/b", "a/B"].map(|name| (name.to_owned(), ModelTable::default()));
        let problem = options(&MemoryTable::default(), twice.into()).unwrap_err();
        assert!(problem.contains("[models.\"a/B\"] is there twice"), "{problem}");
    }
}
