//! Ingle's entry in the configuration of a tool host: the new text of the host's file.
//!
//! Owns adding and removing the entry, on texts; [`hosts`] knows the hosts, [`edit`] and [`jsonc`]
//! the syntax, and only `file` accesses the disk. The rest of a file belongs to its owner: it is
//! never rewritten, and a text that cannot be read stays unchanged.

pub(crate) mod edit;
pub(crate) mod file;
pub(crate) mod hosts;
pub(crate) mod jsonc;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use edit::JsonText;
use hosts::ServerEntry;
use jsonc::{Document, Field, Node, SyntaxError};

/// A reason not to change a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EditError {
    /// It cannot be parsed.
    Syntax(SyntaxError),
    /// The value that starts at this byte should be an object.
    NotAnObject {
        /// Byte offset.
        at: usize,
        /// Its name; empty for the whole text.
        name: String,
    },
    /// A name occurs twice, and readers differ in which one counts.
    Twice {
        /// Byte offset of the second.
        at: usize,
        /// The name.
        name: String,
    },
    /// An entry of this name starts another program.
    Foreign {
        /// Byte offset.
        at: usize,
        /// The program that it starts.
        command: String,
    },
    /// The edited text would not have the intended value: a bug of ours.
    Unsound,
}

impl From<SyntaxError> for EditError {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax(error)
    }
}

/// Adds `entry` to the map `servers` of a text. `None` stands for a missing file.
///
/// The text is unchanged where it has the entry already. An entry of this name that is Ingle's is
/// updated and keeps its other fields; one of another program is replaced with `force` only.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn install(
    text: Option<&str>,
    servers: &str,
    entry: &ServerEntry,
    force: bool,
) -> Result<String, EditError> {
    let new = add_entry(text, servers, entry, force)?;
    let old = text.map_or_else(|| Ok(nothing()), value_of)?;
    let mut expected = old;
    let before = expected[servers].get(&entry.name).cloned();
    expected[servers][&entry.name] = merged_value(before.as_ref(), entry);
    let is_sound = value_of(&new).is_ok_and(|value| value == expected);
    is_sound.then_some(new).ok_or(EditError::Unsound)
}

fn add_entry(
    text: Option<&str>,
    servers: &str,
    entry: &ServerEntry,
    force: bool,
) -> Result<String, EditError> {
    let Some(text) = text.filter(|text| !is_blank(text)) else {
        let document = JsonText::Object(vec![(servers.to_owned(), named(entry))]);
        let mark = text.filter(|text| text.starts_with('\u{feff}')).map_or("", |_| "\u{feff}");
        return Ok(format!("{mark}{}\n", document.pretty()));
    };
    let document = jsonc::parse(text)?;
    let map = match find(&document.root, "", servers)? {
        None => {
            return Ok(edit::insert(text, &document, &document.root, servers, &named(entry)));
        }
        Some(map) => map,
    };
    match find(&map.value, servers, &entry.name)? {
        None => Ok(edit::insert(text, &document, &map.value, &entry.name, &entry.json_text())),
        Some(found) if hosts::is_ours(&found.value.value()) => {
            match found.value.opaque_token_at() {
                Some(at) => {
                    Err(SyntaxError { at, problem: "this is no value that can be represented" }
                        .into())
                }
                None => update(text, servers, entry),
            }
        }
        Some(found) if found.value.value() == entry.value() => Ok(text.to_owned()),
        Some(found) if force => Ok(edit::replace(text, found, &entry.json_text())),
        Some(found) => Err(EditError::Foreign {
            at: found.key_span.start,
            command: hosts::command_of(&found.value.value()),
        }),
    }
}

/// Removes the entry called `name` from a text. `before` has texts that the file may have had
/// before the entry was added: the one that certainly was is restored byte for byte.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn uninstall(
    text: &str,
    servers: &str,
    name: &str,
    before: &[String],
    force: bool,
) -> Result<Removed, EditError> {
    let removed = remove_entry(text, servers, name, before, force)?;
    let left = match &removed {
        Removed::Nothing => return Ok(removed),
        Removed::Text(rest) => value_of(rest),
        Removed::File => Ok(nothing()),
    };
    let mut expected = value_of(text)?;
    if let Some(map) = expected[servers].as_object_mut() {
        map.remove(name);
    }
    let mut without_map = expected.clone();
    if let (Some(root), true) =
        (without_map.as_object_mut(), expected[servers] == Value::Object(Map::new()))
    {
        root.remove(servers);
    }
    let is_sound = left.is_ok_and(|left| left == expected || left == without_map);
    is_sound.then_some(removed).ok_or(EditError::Unsound)
}

fn remove_entry(
    text: &str,
    servers: &str,
    name: &str,
    before: &[String],
    force: bool,
) -> Result<Removed, EditError> {
    if is_blank(text) {
        return Ok(Removed::Nothing);
    }
    let document = jsonc::parse(text)?;
    let Some(map) = find(&document.root, "", servers)? else { return Ok(Removed::Nothing) };
    let Some(found) = find(&map.value, servers, name)? else { return Ok(Removed::Nothing) };
    let value = found.value.value();
    if !hosts::is_ours(&value) && !force {
        let command = hosts::command_of(&value);
        return Err(EditError::Foreign { at: found.key_span.start, command });
    }
    // The present entry, added to a text that may have been before: if that gives the present text,
    // that text was before, and nothing else has changed since.
    let fields = found.value.fields().unwrap_or_default();
    let fields = fields.iter().map(|field| (field.key.clone(), field.value.value()));
    let entry = ServerEntry { name: name.to_owned(), fields: fields.collect() };
    let gives = |before: Option<&str>| {
        install(before, servers, &entry, false).is_ok_and(|after| after == text)
    };
    let before: Vec<&String> =
        before.iter().filter(|before| !has_entry(before, servers, name)).collect();
    if let Some(before) = before.iter().find(|before| gives(Some(before))) {
        return Ok(Removed::Text((*before).clone()));
    }
    if before.is_empty() && gives(None) {
        return Ok(Removed::File);
    }
    let place = |node: &Node, name: &str| {
        let fields = node.fields().unwrap_or_default();
        fields.iter().position(|field| field.key == name).unwrap_or(fields.len())
    };
    // A map that was added with the entry is removed with it, unless it has comments.
    let had_no_map = |before: &&String| {
        jsonc::parse(before)
            .is_ok_and(|document| matches!(find(&document.root, "", servers), Ok(None)))
    };
    let is_last = map.value.fields().is_some_and(|fields| fields.len() == 1);
    let (around, ours) =
        (map.key_span.start..map.value.span.end, found.key_span.start..found.value.span.end);
    let has_comments = document
        .comments
        .iter()
        .any(|comment| around.contains(&comment.span.start) && !ours.contains(&comment.span.start));
    let rest = if is_last && !has_comments && before.first().is_some_and(had_no_map) {
        edit::remove(text, &document, &document.root, place(&document.root, servers))
    } else {
        edit::remove(text, &document, &map.value, place(&map.value, name))
    };
    Ok(Removed::Text(rest))
}

/// The file after the removal of the entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removed {
    /// Unchanged: there was no entry.
    Nothing,
    /// The new text.
    Text(String),
    /// No file: it was created for the entry.
    File,
}

/// The entry called `name` of a text, if it has one.
///
/// # Errors
/// See [`EditError`].
pub(crate) fn entry_in(text: &str, servers: &str, name: &str) -> Result<Option<Value>, EditError> {
    if is_blank(text) {
        return Ok(None);
    }
    let document = jsonc::parse(text)?;
    let Some(map) = find(&document.root, "", servers)? else { return Ok(None) };
    Ok(find(&map.value, servers, name)?.map(|field| field.value.value()))
}

fn has_entry(text: &str, servers: &str, name: &str) -> bool {
    entry_in(text, servers, name).is_ok_and(|entry| entry.is_some())
}

/// The value of a text; a blank one counts as an empty object.
fn value_of(text: &str) -> Result<Value, SyntaxError> {
    if is_blank(text) { Ok(nothing()) } else { Ok(jsonc::parse(text)?.root.value()) }
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

/// The value of an entry after installing.
fn merged_value(old: Option<&Value>, entry: &ServerEntry) -> Value {
    let Some(Value::Object(old)) = old.filter(|old| hosts::is_ours(old)) else {
        return entry.value();
    };
    let mut new = old.clone();
    new.extend(entry.fields.iter().cloned());
    let ours = entry.fields.iter().find(|(key, _)| key == "env");
    let ours = ours.map_or_else(nothing, |(_, env)| env.clone());
    if let Some(old) = old.get("env") {
        new.insert("env".to_owned(), hosts::merge_env(old, &ours));
    }
    Value::Object(new)
}

fn is_blank(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim().is_empty()
}

fn named(entry: &ServerEntry) -> JsonText {
    JsonText::Object(vec![(entry.name.clone(), entry.json_text())])
}

/// The field called `key` of a value that must be an object; `name` is the name of the value.
fn find<'a>(node: &'a Node, name: &str, key: &str) -> Result<Option<&'a Field>, EditError> {
    let Some(fields) = node.fields() else {
        return Err(EditError::NotAnObject { at: node.span.start, name: name.to_owned() });
    };
    let mut found = fields.iter().filter(|field| field.key == key);
    let first = found.next();
    match found.next() {
        Some(second) => {
            Err(EditError::Twice { at: second.key_span.start, name: second.key.clone() })
        }
        None => Ok(first),
    }
}

/// Updates an entry of ours, field by field.
fn update(text: &str, servers: &str, entry: &ServerEntry) -> Result<String, EditError> {
    let mut text = text.to_owned();
    // Variables of ours that the new entry does not set are removed from the present ones.
    let none = ("env".to_owned(), Value::Object(Map::new()));
    let sets_env = entry.fields.iter().any(|(key, _)| *key == none.0);
    let env = (!sets_env).then_some(&none);
    for (key, value) in entry.fields.iter().chain(env) {
        let document = jsonc::parse(&text)?;
        let Some(found) = find_entry(&document, servers, &entry.name)? else { break };
        let present = find(&found.value, &entry.name, key)?;
        let value = match present.map(|present| present.value.value()) {
            Some(old) if key == "env" => hosts::merge_env(&old, value),
            _ => value.clone(),
        };
        match present {
            Some(present) if present.value.value() == value => {}
            Some(present) => text = edit::replace(&text, present, &JsonText::Flat(value)),
            None if value == none.1 => {}
            None => {
                text = edit::insert(&text, &document, &found.value, key, &JsonText::Flat(value));
            }
        }
    }
    Ok(text)
}

fn find_entry<'a>(
    document: &'a Document,
    servers: &str,
    name: &str,
) -> Result<Option<&'a Field>, EditError> {
    let Some(map) = find(&document.root, "", servers)? else { return Ok(None) };
    find(&map.value, servers, name)
}
