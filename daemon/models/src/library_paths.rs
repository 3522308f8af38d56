//! Paths of other programs' model libraries, and settings of the hub.
//!
//! Owns the order of their sources: the configuration, then the environment, then the defaults of those
//! programs. Pure: the environment is an argument. Sources: `constants.py` of huggingface_hub; LM
//! Studio's documentation.

use std::path::PathBuf;

use crate::hub::{HubSetup, Secret};
use crate::{Library, LibraryKind};

/// Settings of the `[library]` table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LibrarySettings {
    /// The cache of Hugging Face's programs.
    pub huggingface: LibrarySetting,
    /// LM Studio's folder.
    pub lm_studio: LibrarySetting,
    /// More folders with models, absolute.
    pub folders: Vec<PathBuf>,
    /// Hugging Face's address; when absent, the environment's or the public one.
    pub huggingface_endpoint: Option<String>,
    /// Hugging Face's access token, for models that are not public.
    pub huggingface_token: Option<Secret>,
}

/// Place of another program's library.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LibrarySetting {
    /// That program's default folder.
    #[default]
    Usual,
    /// The library is not used.
    Off,
    /// This folder.
    At(PathBuf),
}

/// Returns an environment variable by name; an empty one counts as absent.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The home folder of Hugging Face's programs.
fn huggingface_home(env: Environment<'_>, home: Option<&PathBuf>) -> Option<PathBuf> {
    let absolute = |path: String| Some(PathBuf::from(path)).filter(|path| path.is_absolute());
    env("HF_HOME").and_then(absolute).or_else(|| {
        let cache = env("XDG_CACHE_HOME").and_then(absolute);
        Some(cache.or_else(|| Some(home?.join(".cache")))?.join("huggingface"))
    })
}

/// The libraries in order of precedence. `home` is the user's home folder.
#[must_use]
pub fn libraries(
    config: &LibrarySettings,
    env: Environment<'_>,
    home: Option<&PathBuf>,
) -> Vec<Library> {
    let mut libraries = Vec::new();
    let mut add = |kind, root: Option<PathBuf>| {
        libraries.extend(root.map(|root| Library { kind, root }));
    };
    match &config.huggingface {
        LibrarySetting::Off => {}
        LibrarySetting::At(path) => add(LibraryKind::HuggingFace, Some(path.clone())),
        LibrarySetting::Usual => {
            let named = env("HF_HUB_CACHE").map(PathBuf::from).filter(|path| path.is_absolute());
            let usual = || Some(huggingface_home(env, home)?.join("hub"));
            add(LibraryKind::HuggingFace, named.or_else(usual));
        }
    }
    match &config.lm_studio {
        LibrarySetting::Off => {}
        LibrarySetting::At(path) => add(LibraryKind::LmStudio, Some(path.clone())),
        LibrarySetting::Usual => {
            for folder in [".lmstudio/models", ".cache/lm-studio/models"] {
                add(LibraryKind::LmStudio, home.map(|home| home.join(folder)));
            }
        }
    }
    for folder in &config.folders {
        add(LibraryKind::Folder, Some(folder.clone()));
    }
    libraries
}

/// The settings of the hub.
#[must_use]
pub fn hub(config: &LibrarySettings, env: Environment<'_>, home: Option<&PathBuf>) -> HubSetup {
    let endpoint = config.huggingface_endpoint.clone().or_else(|| env("HF_ENDPOINT"));
    let token = config.huggingface_token.clone().or_else(|| env("HF_TOKEN").map(Secret::new));
    let token_file = env("HF_TOKEN_PATH").map(PathBuf::from);
    let usual = HubSetup::default();
    HubSetup {
        endpoint: endpoint.map_or(usual.endpoint, |url| url.trim_end_matches('/').to_owned()),
        token,
        token_file: token_file.or_else(|| Some(huggingface_home(env, home)?.join("token"))),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_precedes_environment_and_defaults() {
        let home = PathBuf::from("/home/me");
        let roots = |config: &LibrarySettings, env: Environment<'_>| -> Vec<String> {
            let libraries = libraries(config, env, Some(&home));
            libraries.iter().map(|library| library.root.display().to_string()).collect()
        };
        let usual = LibrarySettings::default();
        assert_eq!(
            roots(&usual, &|_| None),
            [
                "/home/me/.cache/huggingface/hub",
                "/home/me/.lmstudio/models",
                "/home/me/.cache/lm-studio/models"
            ]
        );
        let env = |name: &str| (name == "HF_HOME").then(|| "/big/hf".to_owned());
        assert_eq!(roots(&usual, &env)[0], "/big/hf/hub");
        assert_eq!(hub(&usual, &env, Some(&home)).token_file, Some("/big/hf/token".into()));
        let env = |name: &str| (name == "HF_HUB_CACHE").then(|| "/hub".to_owned());
        assert_eq!(roots(&usual, &env)[0], "/hub");
        let config = LibrarySettings {
            huggingface: LibrarySetting::At("/mine".into()),
            lm_studio: LibrarySetting::Off,
            folders: vec!["/more".into()],
            ..LibrarySettings::default()
        };
        assert_eq!(roots(&config, &env), ["/mine", "/more"]);
        assert!(libraries(&usual, &|_| None, None).is_empty());
        let env = |name: &str| (name == "HF_ENDPOINT").then(|| "http://127.0.0.1:1/".to_owned());
        assert_eq!(hub(&usual, &env, None).endpoint, "http://127.0.0.1:1");
    }
}
