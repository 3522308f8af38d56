//! `ingle mcp install`: the configuration files of hosts, before and after.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use ingle_client::exit;
use ingle_tests::Home;
use serde_json::{Value, json};

/// The file in which each host keeps its servers, and the key.
const HOSTS: [(&str, &str, &str, &str); 5] = [
    (
        "claude-desktop",
        ".config/Claude/claude_desktop_config.json",
        "Library/Application Support/Claude/claude_desktop_config.json",
        "mcpServers",
    ),
    ("claude-code", ".claude.json", ".claude.json", "mcpServers"),
    ("cursor", ".cursor/mcp.json", ".cursor/mcp.json", "mcpServers"),
    ("zed", ".config/zed/settings.json", ".config/zed/settings.json", "context_servers"),
    (
        "vscode",
        ".config/Code/User/mcp.json",
        "Library/Application Support/Code/User/mcp.json",
        "servers",
    ),
];

fn file(home: &Home, (_, linux, mac, _): (&str, &str, &str, &str)) -> PathBuf {
    home.folder().join(if cfg!(target_os = "macos") { mac } else { linux })
}

fn hosts(home: &Home) -> Vec<(String, bool, bool)> {
    let listed = home.ingle(["mcp", "hosts", "--json"]).ok().json();
    let hosts = listed["hosts"].as_array().unwrap().iter();
    let seen = |host: &Value| (host["found"] == true, host["installed"]["ours"] == true);
    hosts
        .map(|host| (host["host"].as_str().unwrap().to_owned(), seen(host).0, seen(host).1))
        .collect()
}

#[test]
fn every_host_gets_a_working_entry() {
    let home = Home::with_sim(json!({ "reply": "crackle" }));
    assert!(hosts(&home).iter().all(|(_, found, installed)| !found && !installed));
    for host in HOSTS {
        let (name, servers, path) = (host.0, host.3, file(&home, host));
        let printed = home.ingle(["mcp", "install", "--host", name, "--print"]).ok();
        assert!(!path.exists());
        let done = home.ingle(["mcp", "install", "--host", name, "--json"]).ok().json();
        assert_eq!((&done["changed"], &done["backup"]), (&json!(true), &Value::Null));
        let written: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(printed.json(), written);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // The entry starts the pump, and the host's timeout matches the pump's.
        let entry = &written[servers]["ingle"];
        let args: Vec<&str> =
            entry["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let told = match name {
            "claude-code" => Some((json!(750_000), "750")),
            "zed" => Some((json!(600), "600")),
            _ => None,
        };
        assert_eq!(entry.get("timeout"), told.as_ref().map(|told| &told.0));
        assert_eq!(args.get(2).copied(), told.as_ref().map(|told| told.1));
        let mut shim = Command::new(entry["command"].as_str().unwrap());
        let shim = shim.args(args).env_clear().env("HOME", home.folder());
        let output = run_with_input(shim, &json!({ "id": 1, "method": "ping", "jsonrpc": "2.0" }));
        assert!(output.contains("\"id\":1"), "{name}: {output}");
        let again = home.ingle(["mcp", "install", "--host", name, "--json"]).ok().json();
        assert_eq!(again["changed"], false);
    }
    assert!(hosts(&home).iter().all(|(_, found, installed)| *found && *installed));
    for host in HOSTS {
        let gone = home.ingle(["mcp", "uninstall", "--host", host.0, "--json"]).ok().json();
        assert_eq!((&gone["changed"], &gone["file_removed"]), (&json!(true), &json!(true)));
        assert!(!file(&home, host).exists());
        home.ingle(["mcp", "uninstall", "--host", host.0]).ok();
    }
}

fn run_with_input(command: &mut Command, frame: &Value) -> String {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{frame}\n").as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn host_file_is_restored_to_the_byte() {
    let home = Home::new();
    let path = file(&home, HOSTS[3]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let text = "// mine\r\n{\r\n\t\"vim_mode\": true, // yes\r\n\t\"context_servers\": { \"a\": { \"command\": \"b\", }, },\r\n}\r\n";
    fs::write(&path, text).unwrap();
    let done = home.ingle(["mcp", "install", "--host", "zed", "--host-timeout", "90"]).ok();
    assert!(done.stdout.contains("90 s"), "{done:?}");
    let after = fs::read_to_string(&path).unwrap();
    assert!(
        after.contains("\"--host-timeout\", \"90\"") && after.contains("// yes\r\n"),
        "{after}"
    );
    let backup = path.with_file_name("settings.json.ingle-backup-1");
    assert_eq!(fs::read_to_string(&backup).unwrap(), text);
    home.ingle(["mcp", "uninstall", "--host", "zed"]).ok();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn unreadable_file_is_kept_and_error_has_line() {
    let home = Home::new();
    let path = file(&home, HOSTS[2]);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for (text, place) in [
        (&b"{\n  \"mcpServers\": {\n"[..], "line 3, column 1"),
        (b"[]", "line 1, column 1"),
        (b"{\"mcpServers\": \"\xff\"}", "line 1"),
    ] {
        fs::write(&path, text).unwrap();
        for verb in ["install", "uninstall"] {
            let refused = home.ingle(["mcp", verb, "--host", "cursor"]);
            assert_eq!(refused.code(), i32::from(exit::CONFIG), "{refused:?}");
            assert!(
                refused.stderr.contains(place) && refused.stderr.contains("--print"),
                "{refused:?}"
            );
            assert!(refused.stderr.contains("mcp.json"), "{refused:?}");
        }
        assert_eq!(fs::read(&path).unwrap(), text);
        let listed = home.ingle(["mcp", "hosts", "--json"]).ok().json();
        assert!(listed["hosts"][2]["problem"].as_str().unwrap().contains(place), "{listed}");
    }
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no backup is made");
    // An entry with that name that Ingle did not write.
    fs::write(&path, r#"{"mcpServers": {"ingle": {"command": "fireplace"}}}"#).unwrap();
    let refused = home.ingle(["mcp", "install", "--host", "cursor"]);
    assert!(
        refused.stderr.contains("fireplace") && refused.stderr.contains("--force"),
        "{refused:?}"
    );
    home.ingle(["mcp", "install", "--host", "cursor", "--name", "ingle-2"]).ok();
    home.ingle(["mcp", "install", "--host", "cursor", "--force"]).ok();
    assert_eq!(home.ingle(["mcp", "install", "--host", "zed", "--host-timeout", "601"]).code(), 2);
    assert_eq!(home.ingle(["mcp", "--host-timeout", "9", "install", "--host", "zed"]).code(), 2);
    let project = ["mcp", "install", "--host", "claude-desktop", "--scope", "project"];
    assert_eq!(home.ingle(project).code(), i32::from(exit::USAGE));
}

#[test]
fn entry_names_project_file_and_other_home() {
    let home = Home::new();
    let project = home.folder().join("project");
    fs::create_dir(&project).unwrap();
    let mut command = home.command("ingle");
    command.args(["mcp", "install", "--host", "claude-code", "--scope", "project"]);
    command.current_dir(&project).env("INGLE_HOME", home.folder().join("elsewhere"));
    assert!(command.output().unwrap().status.success());
    let text = fs::read_to_string(project.join(".mcp.json")).unwrap();
    let written: Value = serde_json::from_str(&text).unwrap();
    let elsewhere = home.folder().join("elsewhere");
    assert_eq!(written["mcpServers"]["ingle"]["env"]["INGLE_HOME"], json!(elsewhere));
}
