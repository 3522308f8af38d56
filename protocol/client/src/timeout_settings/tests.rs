//! The order of sources, every name, every error.

use proptest::prelude::*;

use super::*;
use ingle_protocol::error::{ErrorBody, ErrorCode};
use ingle_protocol::timeouts::{Class, Ladder, Layer, layer_limit_ms};

fn sources(config: &str, env_file: &str, environment: &[(&str, &str)]) -> Sources {
    let file = |name: &str, text: &str| TextFile {
        path: format!("/home/.ingle/{name}").into(),
        bytes: text.as_bytes().to_vec(),
    };
    let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
    Sources {
        config: file("config.toml", config),
        env_file: file(".env", env_file),
        environment: environment.iter().map(owned).collect(),
    }
}

fn resolved(config: &str, env_file: &str, environment: &[(&str, &str)]) -> ResolvedTimeouts {
    resolve(&sources(config, env_file, environment)).unwrap()
}

fn refused(config: &str, env_file: &str, environment: &[(&str, &str)]) -> ErrorBody {
    ErrorBody::from(&resolve(&sources(config, env_file, environment)).unwrap_err())
}

#[test]
fn defaults_give_the_documented_ladder() {
    let ResolvedTimeouts { timeouts, given, unknown } = resolved("", "", &[("PATH", "/bin")]);
    let seconds = Setting::ALL.map(|setting| setting.ms(&timeouts) / 1_000);
    assert_eq!(seconds, [60, 300, 180, 900, 600, 120, 120, 30, 90, 120, 150, 300]);
    assert!(given.is_empty() && unknown.is_empty());
    assert_eq!(timeouts.http_limit_ms(Class::Chat), 900_000);
    assert_eq!(timeouts.http_limit_ms(Class::Simple), 300_000);
}

#[test]
fn environment_overrides_env_file_and_config() {
    let config = "[timeouts]\nchat = 10\ncompletions = 11\nembeddings = 12\n";
    let env_file = "INGLE_TIMEOUT_COMPLETIONS=21\nINGLE_TIMEOUT_EMBEDDINGS=22\n";
    let found = resolved(config, env_file, &[("MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS", "32")]);
    let WorkTimeouts { chat_ms, completions_ms, embeddings_ms, .. } = found.timeouts;
    assert_eq!((chat_ms, completions_ms, embeddings_ms), (10_000, 21_000, 32_000));
    let origins = [Class::Chat, Class::Completions, Class::Embeddings]
        .map(|class| found.given(Setting::Work(class)).unwrap().named.to_string());
    assert_eq!(
        origins,
        [
            "`timeouts.chat` (`/home/.ingle/config.toml`, line 2)",
            "`INGLE_TIMEOUT_COMPLETIONS` (`/home/.ingle/.env`, line 1)",
            "`MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS` (the environment)",
        ]
    );
}

#[test]
fn every_setting_has_key_variable_and_aliases() {
    for setting in Setting::ALL {
        let (key, variable) = (setting.key(), setting.variable());
        // Longer than a workflow may be short: only the limits of the classes are compared.
        let workflow = "[timeouts]\nworkflow = 400\nhttp = 400\n";
        let seconds = if matches!(setting, Setting::Http) { 500 } else { 70 };
        let config = match key {
            "workflow" => {
                format!("[timeouts]\nworkflow = {seconds}\nsimple = 1\nexpert_analysis = 1")
            }
            "http" => format!("[timeouts]\nworkflow = 400\nhttp = {seconds}"),
            _ => format!("{workflow}{key} = {seconds}"),
        };
        assert_eq!(setting.ms(&resolved(&config, "", &[]).timeouts), seconds * 1_000, "{key}");
        let low = "[timeouts]\nsimple = 1\nexpert_analysis = 1\n";
        for name in [&[variable.as_str()], setting.aliases()].concat() {
            let value = seconds.to_string();
            let found = resolved(low, "", &[(name, &value)]);
            assert_eq!(setting.ms(&found.timeouts), seconds * 1_000, "{name}");
            let found = resolved(low, &format!("export {name}=\"{value}\"  # why"), &[]);
            assert_eq!(setting.ms(&found.timeouts), seconds * 1_000, "{name}");
        }
    }
    let aliases: usize = Setting::ALL.iter().map(|setting| setting.aliases().len()).sum();
    assert_eq!(aliases, 10, "those of the specification");
}

#[test]
fn names_of_one_setting_must_agree() {
    let (ours, alias) = ("INGLE_TIMEOUT_WORKFLOW", "WORKFLOW_TOOL_TIMEOUT_SECS");
    let error = refused("", "", &[(ours, "400"), (alias, "500")]);
    assert_eq!(error.code, ErrorCode::ConfigInvalid);
    for part in [ours, alias, "400 s", "500 s", "timeouts.workflow"] {
        assert!(error.message.contains(part), "{error}");
    }
    let error = refused("", "GLM_TIMEOUT_SECS=1\n\nGLM_TIMEOUT_SECS=2", &[]);
    assert!(error.message.contains("line 1") && error.message.contains("line 3"), "{error}");
    // The same value twice is allowed, and one source overrides another by their order.
    assert_eq!(resolved("", "", &[(ours, "400"), (alias, "400.0")]).timeouts.workflow_ms, 400_000);
    assert_eq!(resolved("", "GLM_TIMEOUT_SECS=1", &[("GLM_TIMEOUT_SECS", "2")]).given.len(), 1);
}

#[test]
fn derived_limits_cannot_be_set() {
    for (name, class, ratio) in [
        ("INGLE_DAEMON_TIMEOUT", "workflow", "1.5 x"),
        ("INGLE_SHIM_TIMEOUT", "workflow", "2 x"),
        ("INGLE_CLIENT_TIMEOUT_SECS", "workflow", "2.5 x"),
        ("EXAI_WS_DAEMON_TIMEOUT", "workflow", "1.5 x"),
        ("EXAI_WS_SHIM_TIMEOUT_SECONDS", "workflow", "2 x"),
        ("EXAI_WS_CLIENT_TIMEOUT", "workflow", "2.5 x"),
        ("INGLE_TIMEOUT_DAEMON", "workflow", "1.5 x"),
        ("INGLE_TIMEOUT_EXPERT_ANALYSIS_SHIM", "expert_analysis", "2 x"),
        ("INGLE_CHAT_CLIENT_TIMEOUT_MS", "chat", "2.5 x"),
    ] {
        let error = refused("", "", &[(name, "1")]);
        assert_eq!(error, refused("", "", &[(name, "900")]), "no value is allowed");
        assert_eq!(error.code, ErrorCode::ConfigInvalid);
        assert!(error.message.contains(name) && error.message.contains(ratio), "{error}");
        assert!(
            error.remediation().contains(&format!("set timeouts.{class} instead")),
            "{error:?}"
        );
        let error = refused("", &format!("OTHER=1\n{name}=1"), &[]);
        assert!(error.message.contains("`/home/.ingle/.env`, line 2"), "{error}");
        resolved("", "", &[(name, " ")]);
    }
    for (key, class) in [
        ("daemon", "workflow"),
        ("shim", "workflow"),
        ("client", "workflow"),
        ("client_timeout_secs", "workflow"),
        ("chat_daemon", "chat"),
        ("daemon_job", "job"),
    ] {
        let error = refused(&format!("# first\n[timeouts]\n{key} = 1"), "", &[]);
        let place = format!("`timeouts.{key}` (`/home/.ingle/config.toml`, line 3)");
        assert!(error.message.contains(&place), "{error}");
        assert!(
            error.remediation().contains(&format!("set timeouts.{class} instead")),
            "{error:?}"
        );
    }
}

#[test]
fn misspelt_variables_are_reported() {
    let environment = [("DAEMON_TIMEOUT", "x"), ("INGLE_HOME", "/x"), ("INGLE_TIMEOUT_CHATT", "1")];
    let found = resolved("", "OTHER_TIMEOUT=soon\nINGLE_TIMEOUT_HTTP_CLIENT=3", &environment);
    let unknown: Vec<_> = found.unknown.iter().map(|named| named.name.as_str()).collect();
    assert_eq!(unknown, ["INGLE_TIMEOUT_HTTP_CLIENT", "INGLE_TIMEOUT_CHATT"]);
    assert_eq!(found.timeouts, WorkTimeouts::default());
}

#[test]
fn wrong_value_is_named_with_origin_and_range() {
    for value in
        ["-1", "0", "0.09", "nan", "inf", "864000.1", "1e300", "5s", "0x10", "a\u{1b}[31mb"]
    {
        let error = refused("", "", &[("SIMPLE_TOOL_TIMEOUT_SECS", value)]);
        assert!(error.message.contains("`SIMPLE_TOOL_TIMEOUT_SECS` (the environment)"), "{error}");
        assert!(error.message.contains("from 0.1 to 864000"), "{error}");
        assert!(!error.message.contains('\u{1b}'), "{error}");
        let error = refused("", &format!("A=1\nSIMPLE_TOOL_TIMEOUT_SECS='{value}'"), &[]);
        assert!(error.message.contains("`/home/.ingle/.env`, line 2"), "{error}");
    }
    for value in ["0", "-0.5", "nan", "inf", "\"60\"", "true", "[1]", "{ daemon = 1 }"] {
        let error = refused(&format!("[timeouts]\nchat = {value}"), "", &[]);
        assert!(error.message.contains("`timeouts.chat` (`/home/.ingle/config.toml`, line 2)"));
        assert!(error.message.contains("from 0.1 to 864000"), "{error}");
    }
    let long = "9".repeat(10_000);
    assert!(refused("", "", &[("GLM_TIMEOUT_SECS", &long)]).message.len() < 300);
}

#[test]
fn broken_files_are_named() {
    let error = refused("[timeouts]\nchatt = 1", "", &[]);
    assert!(error.message.contains("`timeouts.chatt`") && error.message.contains("line 2"));
    assert!(error.remediation().contains("upstream_kimi_web_search"), "{error:?}");
    assert!(refused("[timeouts", "", &[]).message.contains("/home/.ingle/config.toml"));
    assert!(refused("timeouts = 3", "", &[]).message.contains("/home/.ingle/config.toml"));
    let error = refused("", "A=1\npassword hunter2", &[]);
    assert!(error.message.contains("`/home/.ingle/.env`, line 2"), "{error}");
    assert!(!error.message.contains("hunter2"), "{error}");

    use std::os::unix::ffi::OsStringExt;
    let mut found = sources("", "", &[]);
    found.environment = vec![("KIMI_TIMEOUT_SECS".into(), OsString::from_vec(vec![0xff]))];
    let error = resolve(&found).unwrap_err().to_string();
    assert!(error.contains("`KIMI_TIMEOUT_SECS`") && error.contains("UTF-8"), "{error}");
    found.environment.clear();
    found.config.bytes = b"a = 1\n# \xff".to_vec();
    let error = resolve(&found).unwrap_err().to_string();
    assert!(error.contains("config.toml`: line 2 is not UTF-8"), "{error}");
}

#[test]
fn files_are_read_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(".env");
    assert!(TextFile::read(path.clone()).unwrap().bytes.is_empty());
    std::fs::write(&path, vec![b'\n'; 1 << 21]).unwrap();
    assert!(TextFile::read(path).unwrap_err().to_string().contains("more than 1048576 bytes"));
    let error = TextFile::read(folder.path().to_owned()).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}

#[test]
fn broken_order_is_refused_with_both_values() {
    let error = refused("[timeouts]\nsimple = 400.5", "", &[]);
    for part in [
        "timeouts.simple (400.5 s from `/home",
        "line 2",
        "timeouts.workflow (300 s from the default)",
    ] {
        assert!(error.message.contains(part), "{error}");
    }
    assert!(error.remediation().contains("at most 300"), "{error:?}");
    let error = refused("", "", &[("WORKFLOW_TOOL_TIMEOUT_SECS", "100")]);
    assert!(error.message.contains("timeouts.expert_analysis (180 s from the default)"), "{error}");
    assert!(error.message.contains("`WORKFLOW_TOOL_TIMEOUT_SECS` (the environment)"), "{error}");
    let error = refused("", "EX_HTTP_TIMEOUT_SECONDS=299", &[]);
    assert!(error.message.contains("timeouts.http (299 s from"), "{error}");
    assert!(error.remediation().contains("at least 300"), "{error:?}");
}

#[test]
fn default_http_limit_follows_the_workflow() {
    assert_eq!(resolved("[timeouts]\nworkflow = 600", "", &[]).timeouts.http_ms, 600_000);
    refused("[timeouts]\nworkflow = 600\nhttp = 300", "", &[]);
}

#[test]
fn older_hello_leaves_the_defaults() {
    let found: WorkTimeouts = serde_json::from_str("{\"chat_ms\":5000,\"new_ms\":1}").unwrap();
    assert_eq!(found, WorkTimeouts { chat_ms: 5_000, ..WorkTimeouts::default() });
}

/// The values of one setting: in the config, in `.env`, in the environment.
type Choice = [Option<u64>; 3];

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let ms = proptest::option::weighted(0.3, MIN_WORK_MS..=MAX_WORK_MS);
    proptest::collection::vec([ms.clone(), ms.clone(), ms], Setting::ALL.len())
}

/// Seconds with every digit.
fn written(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn write(choices: &[Choice], alias: bool) -> Sources {
    let mut found = sources("[timeouts]\n", "", &[]);
    for (setting, [config, env_file, environment]) in Setting::ALL.into_iter().zip(choices) {
        let name = setting.aliases().first().filter(|_| alias);
        let name = name.map_or_else(|| setting.variable(), |name| (*name).to_owned());
        if let Some(ms) = config {
            let line = format!("{} = {}\n", setting.key(), written(*ms));
            found.config.bytes.extend(line.bytes());
        }
        if let Some(ms) = env_file {
            found.env_file.bytes.extend(format!("{name}={}\n", written(*ms)).bytes());
        }
        found.environment.extend(environment.map(|ms| (name.into(), written(ms).into())));
    }
    found
}

proptest! {
    /// Whatever is set where: the strongest source counts, to the millisecond, and what comes out
    /// is in order, or is refused because what was set is not.
    #[test]
    fn any_configuration_is_ordered_or_refused(choices in choices(), alias: bool) {
        let outcome = resolve(&write(&choices, alias));
        let mut expected = WorkTimeouts::default();
        for (setting, choice) in Setting::ALL.into_iter().zip(&choices) {
            if let Some(ms) = choice.iter().rev().find_map(|ms| *ms) {
                *setting.slot(&mut expected) = ms;
            }
        }
        let is_http_set = choices[11].iter().any(Option::is_some);
        if !is_http_set {
            expected.http_ms = expected.http_ms.max(expected.workflow_ms);
        }
        let is_ordered = expected.simple_ms <= expected.workflow_ms
            && expected.expert_analysis_ms <= expected.workflow_ms
            && expected.workflow_ms <= expected.http_ms;
        prop_assert_eq!(outcome.is_ok(), is_ordered, "{:?}", outcome);
        let Ok(ResolvedTimeouts { timeouts, .. }) = outcome else { return Ok(()) };
        prop_assert_eq!(&timeouts, &expected);
        for class in Class::ALL {
            let Ladder { work_ms, daemon_ms, shim_ms, client_ms } = timeouts.ladder(class);
            prop_assert!(work_ms < daemon_ms && daemon_ms < shim_ms && shim_ms < client_ms);
            prop_assert!(timeouts.http_limit_ms(class) >= work_ms);
            // Each hop hands on less than it has.
            let shim = layer_limit_ms(Layer::Shim, work_ms, Some(client_ms));
            let daemon = layer_limit_ms(Layer::Daemon, work_ms, Some(shim));
            prop_assert!(work_ms < daemon && daemon < shim && shim < client_ms);
        }
        // And shim and client hold the same numbers as the daemon.
        let carried = serde_json::to_string(&timeouts).unwrap();
        prop_assert_eq!(serde_json::from_str::<WorkTimeouts>(&carried).unwrap(), timeouts);
    }

    #[test]
    fn seconds_are_rounded_up_to_milliseconds(us in MIN_WORK_MS * 1_000..=MAX_WORK_MS * 1_000) {
        let seconds: f64 = format!("{}.{:06}", us / 1_000_000, us % 1_000_000).parse().unwrap();
        prop_assert_eq!(whole_ms(seconds), Some(us.div_ceil(1_000)));
    }
}
