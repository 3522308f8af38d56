//! Adding and removing entries: realistic files, and random layouts.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::hosts::{Environment, Host, Scope};
use super::*;

const PROGRAM: &str = "/opt/ingle/bin/ingle";

fn entry(host: Host, seconds: u64) -> ServerEntry {
    ServerEntry::new(host, "ingle", PROGRAM, Duration::from_secs(seconds), &[])
}

/// The text after installing. Also checks that a second install changes nothing, and that
/// uninstalling restores the text.
fn installed(host: Host, text: &str, seconds: u64) -> String {
    let entry = entry(host, seconds);
    let after = install(Some(text), host.servers(), &entry, false).unwrap();
    assert_eq!(install(Some(&after), host.servers(), &entry, false).unwrap(), after);
    let removed = uninstall(&after, host.servers(), "ingle", &[text.to_owned()], false).unwrap();
    assert_eq!(removed, Removed::Text(text.to_owned()));
    after
}

#[test]
fn entry_is_added_after_the_others() {
    let text = r#"{
  "globalShortcut": "Alt+Space",
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/ada"]
    }
  },
  "isUsingBuiltInNodeForMcp": true
}"#;
    let expected = r#"{
  "globalShortcut": "Alt+Space",
  "mcpServers": {
    "filesystem": {
      "command": "npx",
      "args": ["-y", "@modelcontextprotocol/server-filesystem", "/home/ada"]
    },
    "ingle": {
      "command": "/opt/ingle/bin/ingle",
      "args": ["mcp"]
    }
  },
  "isUsingBuiltInNodeForMcp": true
}"#;
    assert_eq!(installed(Host::ClaudeDesktop, text, 60), expected);
}

#[test]
fn comments_and_trailing_commas_are_kept() {
    let text = r#"// Zed settings
//
// For information on how to configure Zed, see the documentation.
{
	"theme": "One Dark", // the dark one
	"context_servers": {
		// searches the issues
		"github": {
			"command": "docker",
			"args": ["run", "-i"],
		}, // do not touch
		/* "old": { "command": "x" }, */
	},
	"vim_mode": false,
}
"#;
    let expected = text.replace(
        "// do not touch\n",
        "// do not touch
		\"ingle\": {
			\"command\": \"/opt/ingle/bin/ingle\",
			\"args\": [\"mcp\", \"--host-timeout\", \"600\"],
			\"timeout\": 600
		},\n",
    );
    assert_eq!(installed(Host::Zed, text, 600), expected);
}

#[test]
fn comment_after_the_last_server_stays() {
    let text = "{\r\n    \"servers\": {\r\n        \"a\": { \"url\": \"https://x/\" } // the first\r\n    },\r\n    \"inputs\": []\r\n}\r\n";
    let expected = text.replace(
        " } // the first\r\n",
        " }, // the first\r\n        \"ingle\": {\r\n            \"type\": \"stdio\",\r\n            \"command\": \"/opt/ingle/bin/ingle\",\r\n            \"args\": [\"mcp\"]\r\n        }\r\n",
    );
    assert_eq!(installed(Host::Vscode, text, 60), expected);
}

#[test]
fn missing_empty_or_one_line_map_is_filled() {
    let inner = r#""ingle": {"command": "/opt/ingle/bin/ingle", "args": ["mcp"]}"#;
    let lines = "\"ingle\": {\n      \"command\": \"/opt/ingle/bin/ingle\",\n      \"args\": [\"mcp\"]\n    }";
    for (text, expected) in [
        ("{}", format!("{{\n  \"mcpServers\": {{\n    {lines}\n  }}\n}}")),
        ("{\n}\n", format!("{{\n  \"mcpServers\": {{\n    {lines}\n  }}\n}}\n")),
        (
            "{\n  \"a\": 1\n}\n",
            format!("{{\n  \"a\": 1,\n  \"mcpServers\": {{\n    {lines}\n  }}\n}}\n"),
        ),
        ("{\n  \"mcpServers\": {}\n}", format!("{{\n  \"mcpServers\": {{\n    {lines}\n  }}\n}}")),
        (
            "{\n  \"mcpServers\": {\n    // none yet\n  }\n}",
            format!("{{\n  \"mcpServers\": {{\n    // none yet\n    {lines}\n  }}\n}}"),
        ),
        (r#"{"mcpServers":{}}"#, format!(r#"{{"mcpServers":{{{inner}}}}}"#)),
        (
            r#"{"a":1,"mcpServers":{"b":{}}}"#,
            format!(r#"{{"a":1,"mcpServers":{{"b":{{}},{inner}}}}}"#),
        ),
        (
            r#"{ "mcpServers": { "b": {} } }"#,
            format!(r#"{{ "mcpServers": {{ "b": {{}}, {inner} }} }}"#),
        ),
        (r#"{"a":1,}"#, format!(r#"{{"a":1,"mcpServers": {{{inner}}},}}"#)),
    ] {
        assert_eq!(installed(Host::Cursor, text, 60), expected, "{text}");
    }
}

#[test]
fn file_made_for_the_entry_is_removed() {
    let entry = entry(Host::ClaudeCode, 750);
    let text = install(None, "mcpServers", &entry, false).unwrap();
    assert_eq!(
        text,
        r#"{
  "mcpServers": {
    "ingle": {
      "type": "stdio",
      "command": "/opt/ingle/bin/ingle",
      "args": ["mcp", "--host-timeout", "750"],
      "timeout": 750000
    }
  }
}
"#
    );
    assert_eq!(uninstall(&text, "mcpServers", "ingle", &[], false).unwrap(), Removed::File);
    // It was changed since: it is no longer ours alone.
    let text = text.replacen("{\n", "{\n  \"theme\": \"dark\",\n", 1);
    let rest = "{\n  \"theme\": \"dark\",\n  \"mcpServers\": {}\n}\n".to_owned();
    let removed = uninstall(&text, "mcpServers", "ingle", &[], false).unwrap();
    assert_eq!(removed, Removed::Text(rest));
}

#[test]
fn map_made_for_the_entry_is_removed() {
    let before = "{\n  \"numStartups\": 7\n}\n";
    let entry = entry(Host::ClaudeCode, 750);
    let after = install(Some(before), "mcpServers", &entry, false).unwrap();
    let after = after.replace("Startups\": 7", "Startups\": 8");
    let removed = uninstall(&after, "mcpServers", "ingle", &[before.to_owned()], false).unwrap();
    assert_eq!(removed, Removed::Text(before.replace('7', "8")));
    assert_eq!(uninstall(before, "mcpServers", "ingle", &[], false).unwrap(), Removed::Nothing);
    assert_eq!(uninstall("", "mcpServers", "ingle", &[], false).unwrap(), Removed::Nothing);
}

#[test]
fn own_entry_is_updated_and_keeps_fields() {
    let text = r#"{
  "mcpServers": {
    "ingle": {
      "command": "/usr/local/bin/ingle",
      "args": ["mcp"],
      "env": { "INGLE_HOME": "/old", "RUST_LOG": "debug" },
      "disabled": true // for now
    }
  }
}"#;
    let entry = entry(Host::ClaudeCode, 300);
    let after = install(Some(text), "mcpServers", &entry, false).unwrap();
    let expected = r#"{
  "mcpServers": {
    "ingle": {
      "command": "/opt/ingle/bin/ingle",
      "args": ["mcp", "--host-timeout", "300"],
      "env": {"RUST_LOG": "debug"},
      "disabled": true, // for now
      "type": "stdio",
      "timeout": 300000
    }
  }
}"#;
    assert_eq!(after, expected);
    assert_eq!(install(Some(&after), "mcpServers", &entry, false).unwrap(), after);
    let home = [("INGLE_HOME".to_owned(), "/new".to_owned())];
    let entry = ServerEntry::new(Host::Cursor, "ingle", PROGRAM, Duration::from_secs(60), &home);
    let after = install(Some(text), "mcpServers", &entry, false).unwrap();
    let env = entry_in(&after, "mcpServers", "ingle").unwrap().unwrap()["env"].clone();
    assert_eq!(env, json!({ "INGLE_HOME": "/new", "RUST_LOG": "debug" }));
}

#[test]
fn foreign_entry_is_replaced_only_by_force() {
    let text = r#"{"mcpServers": {"ingle": {"command": "/bin/fireplace"}}}"#;
    let entry = entry(Host::Cursor, 60);
    let refusal = EditError::Foreign { at: 16, command: "/bin/fireplace".to_owned() };
    assert_eq!(install(Some(text), "mcpServers", &entry, false), Err(refusal.clone()));
    assert_eq!(uninstall(text, "mcpServers", "ingle", &[], false), Err(refusal));
    let after = install(Some(text), "mcpServers", &entry, true).unwrap();
    assert_eq!(entry_in(&after, "mcpServers", "ingle").unwrap(), Some(entry.value()));
    let removed = uninstall(&after, "mcpServers", "ingle", &[text.to_owned()], false).unwrap();
    assert_eq!(removed, Removed::Text(r#"{"mcpServers": {}}"#.to_owned()), "the old one stays out");
}

#[test]
fn bad_files_are_refused_with_positions() {
    let entry = entry(Host::Cursor, 60);
    for (text, place, problem) in [
        ("{\n  \"mcpServers\": {\n", (3, 1), "double quotes"),
        ("[1]", (1, 1), ""),
        ("{\"mcpServers\": []}", (1, 16), "mcpServers"),
        ("{\"mcpServers\": {}, \"mcpServers\": {}}", (1, 20), "mcpServers"),
        ("{\"mcpServers\": {\"ingle\": {}, \"ingle\": {}}}", (1, 30), "ingle"),
        ("{\"mcpServers\": {\"ingle\": 5}}", (1, 17), "nothing"),
        ("// only a remark", (1, 17), "value"),
        (
            r#"{"mcpServers": {"ingle": {"command": "ingle", "args": ["mcp", 1e999]}}}"#,
            (1, 63),
            "no value",
        ),
    ] {
        let refusal = install(Some(text), "mcpServers", &entry, false).unwrap_err();
        let (at, what) = match &refusal {
            EditError::Syntax(error) => (error.at, error.problem),
            EditError::NotAnObject { at, name } | EditError::Twice { at, name } => (*at, &name[..]),
            EditError::Foreign { at, command } => (*at, &command[..]),
            EditError::Unsound => (usize::MAX, "unsound"),
        };
        assert_eq!(jsonc::line_and_column(text, at), place, "{text}");
        assert!(what.contains(problem), "{text}: {refusal:?}");
    }
}

#[test]
fn text_after_a_comment_with_spaces_stays() {
    for end in ["", " ", " \t ", "\u{a0}", " \r"] {
        let ours = r#""ingle": {"command": "ingle", "args": ["mcp"]}"#;
        for (text, rest) in [
            (
                format!("{{\"mcpServers\": {{ // x{end}\n  {ours}, \"b\": {{}}\n}}}}"),
                json!({ "mcpServers": { "b": {} } }),
            ),
            (
                format!("{{\"mcpServers\": {{\"b\": {{}}, // x{end}\n  {ours} }} }}"),
                json!({ "mcpServers": { "b": {} } }),
            ),
        ] {
            let removed = uninstall(&text, "mcpServers", "ingle", &[], false).unwrap();
            let Removed::Text(left) = removed else { panic!("{removed:?}") };
            assert_eq!(value_of(&left).unwrap(), rest, "{text:?} {left:?}");
            assert!(left.contains("// x"), "{left:?}");
        }
    }
}

#[test]
fn map_with_comments_stays() {
    let before = "{\n  \"a\": \"\\ud83d\"\n}\n";
    let after = install(Some(before), "mcpServers", &entry(Host::Cursor, 60), false).unwrap();
    let after = after.replace("    }\n", "    } // the only one\n").replace("ud83d", "ud83e");
    let removed = uninstall(&after, "mcpServers", "ingle", &[before.to_owned()], false).unwrap();
    let Removed::Text(left) = removed else { panic!("{removed:?}") };
    assert!(left.contains("// the only one") && left.contains("\"mcpServers\""), "{left}");
}

#[test]
fn every_host_has_its_file() {
    let linux = Environment {
        home: PathBuf::from("/home/ada"),
        here: PathBuf::from("/src/p"),
        ..Environment::default()
    };
    let mac = Environment { home: PathBuf::from("/Users/ada"), is_mac: true, ..linux.clone() };
    let moved = Environment {
        xdg_config_home: Some(PathBuf::from("/cfg")),
        claude_config_dir: Some(PathBuf::from("/claude")),
        ..linux.clone()
    };
    let file = |host: Host, scope, around: &Environment| {
        host.file(scope, around).map(|path| path.to_str().unwrap().to_owned())
    };
    let mac_desktop = "/Users/ada/Library/Application Support/Claude/claude_desktop_config.json";
    let mac_code = "/Users/ada/Library/Application Support/Code/User/mcp.json";
    for (host, on_linux, on_mac, elsewhere, project) in [
        (
            Host::ClaudeDesktop,
            "/home/ada/.config/Claude/claude_desktop_config.json",
            mac_desktop,
            "/cfg/Claude/claude_desktop_config.json",
            None,
        ),
        (
            Host::ClaudeCode,
            "/home/ada/.claude.json",
            "/Users/ada/.claude.json",
            "/claude/.claude.json",
            Some("/src/p/.mcp.json"),
        ),
        (
            Host::Cursor,
            "/home/ada/.cursor/mcp.json",
            "/Users/ada/.cursor/mcp.json",
            "/home/ada/.cursor/mcp.json",
            Some("/src/p/.cursor/mcp.json"),
        ),
        (
            Host::Zed,
            "/home/ada/.config/zed/settings.json",
            "/Users/ada/.config/zed/settings.json",
            "/cfg/zed/settings.json",
            Some("/src/p/.zed/settings.json"),
        ),
        (
            Host::Vscode,
            "/home/ada/.config/Code/User/mcp.json",
            mac_code,
            "/cfg/Code/User/mcp.json",
            Some("/src/p/.vscode/mcp.json"),
        ),
    ] {
        assert_eq!(file(host, Scope::User, &linux).as_deref(), Some(on_linux));
        assert_eq!(file(host, Scope::User, &mac).as_deref(), Some(on_mac));
        assert_eq!(file(host, Scope::User, &moved).as_deref(), Some(elsewhere));
        assert_eq!(file(host, Scope::Project, &linux).as_deref(), project);
    }
}

#[test]
fn tool_timeouts_follow_the_host() {
    let longest = Duration::from_secs(750);
    let s = |seconds| Some(Duration::from_secs_f64(seconds));
    for (host, wanted, given) in [
        (Host::ClaudeCode, None, Ok(750_000)),
        (Host::ClaudeCode, s(1.5), Ok(1_500)),
        (Host::ClaudeCode, s(0.5), Err("1000")),
        (Host::Zed, None, Ok(600_000)),
        (Host::Zed, s(601.0), Err("600")),
        (Host::Zed, s(2.5), Err("whole")),
        (Host::Zed, s(90.0), Ok(90_000)),
        (Host::Cursor, None, Ok(60_000)),
        (Host::Vscode, s(300.0), Ok(300_000)),
        (Host::ClaudeDesktop, None, Ok(60_000)),
    ] {
        let timeout = host.timeout(wanted, longest).map(|timeout| timeout.as_millis());
        match given {
            Ok(ms) => assert_eq!(timeout, Ok(ms), "{host:?} {wanted:?}"),
            Err(part) => assert!(timeout.unwrap_err().contains(part), "{host:?} {wanted:?}"),
        }
    }
    let half = ServerEntry::new(Host::ClaudeCode, "x", PROGRAM, Duration::from_millis(1_500), &[]);
    assert_eq!(half.value()["args"], json!(["mcp", "--host-timeout", "1.5"]));
    assert_eq!(half.value()["timeout"], 1_500);
}

/// White space and comments that may stand between any two tokens.
fn gap() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "",
        "",
        " ",
        "\n",
        "\n  ",
        "\n\t",
        "\r\n    ",
        " /* {\" */ ",
        " // \"x\": {\n",
        "\n// y\r\n  ",
    ])
}

/// `"name": value` with gaps.
fn field(name: &'static str, value: BoxedStrategy<String>) -> BoxedStrategy<String> {
    (gap(), gap(), gap(), value, gap())
        .prop_map(move |(a, b, c, value, d)| format!("{a}\"{name}\"{b}:{c}{value}{d}"))
        .boxed()
}

/// An object of these fields, with or without a trailing comma.
fn object(fields: Vec<BoxedStrategy<String>>) -> BoxedStrategy<String> {
    (fields, any::<bool>(), gap())
        .prop_map(|(fields, trails, end)| {
            let comma = if trails && !fields.is_empty() { "," } else { "" };
            format!("{{{}{comma}{end}}}", fields.join(","))
        })
        .boxed()
}

fn server() -> BoxedStrategy<String> {
    let command = prop::sample::select(vec![r#""npx""#, r#"["a", /* x */ 1,]"#, "null", "{}"]);
    object(vec![field("command", command.prop_map(str::to_owned).boxed())])
}

/// A file: how many servers it has (none: no map at all), and what it is.
fn file() -> impl Strategy<Value = (Option<usize>, String)> {
    (0_usize..4, 0_usize..3, any::<bool>(), gap(), gap()).prop_flat_map(
        |(others, count, marked, head, tail)| {
            let servers = ["a", "b", "c"].into_iter().take(others.saturating_sub(1));
            let map = object(servers.map(|name| field(name, server())).collect());
            let mut fields = vec![field("theme", server()); count.min(1)];
            if others > 0 {
                fields.push(field("mcpServers", map));
            }
            if count > 1 {
                fields.push(field("last", server()));
            }
            let mark = if marked { "\u{feff}" } else { "" };
            object(fields)
                .prop_map(move |root| (others.checked_sub(1), format!("{mark}{head}{root}{tail}")))
        },
    )
}

proptest! {
    #[test]
    fn install_and_uninstall_round_trip((servers, text) in file()) {
        let entry = entry(Host::ClaudeCode, 750);
        let map = "mcpServers";
        let after = install(Some(&text), map, &entry, false).unwrap();
        let mut expected = jsonc::parse(&text).unwrap().root.value();
        expected[map]["ingle"] = entry.value();
        prop_assert_eq!(jsonc::parse(&after).unwrap().root.value(), expected);
        prop_assert_eq!(&install(Some(&after), map, &entry, false).unwrap(), &after);
        // With the old text at hand it comes back whatever it was; without it, wherever another
        // server shows how the map looked.
        let removed = uninstall(&after, map, "ingle", std::slice::from_ref(&text), false).unwrap();
        prop_assert_eq!(removed, Removed::Text(text.clone()));
        let other = [r#"{"mcpServers": {"z": {}}}"#.to_owned()];
        let removed = uninstall(&after, map, "ingle", &other, false).unwrap();
        let Removed::Text(rest) = removed else { panic!("{removed:?}") };
        let mut expected = jsonc::parse(&text).unwrap().root.value();
        if servers.is_none() {
            expected[map] = json!({});
        }
        prop_assert_eq!(jsonc::parse(&rest).unwrap().root.value(), expected);
        if servers > Some(0) {
            prop_assert_eq!(rest, text);
        }
    }

    /// An entry after ours stays, in any layout.
    #[test]
    fn entry_is_removed_from_the_middle((_, text) in file(), (_, more) in file()) {
        let (first, second) = (entry(Host::Cursor, 60), entry(Host::Zed, 90));
        let second = ServerEntry { name: "second".to_owned(), ..second };
        let map = "mcpServers";
        let after = install(Some(&text), map, &first, false).unwrap();
        let after = install(Some(&after), map, &second, false).unwrap();
        let removed = uninstall(&after, map, "ingle", &[more], false).unwrap();
        let Removed::Text(rest) = removed else { panic!("{removed:?}") };
        let mut expected = jsonc::parse(&text).unwrap().root.value();
        expected[map]["second"] = second.value();
        prop_assert_eq!(jsonc::parse(&rest).unwrap().root.value(), expected);
    }

    #[test]
    fn any_text_is_parsed_safely(text in "[\\[\\]{}\":,/* a1\\\\\n-]{0,60}") {
        let entry = entry(Host::Cursor, 60);
        if let Err(EditError::Syntax(error)) = install(Some(&text), "mcpServers", &entry, true) {
            jsonc::line_and_column(&text, error.at);
        }
        let _ = uninstall(&text, "mcpServers", "ingle", &[], true);
    }
}
