//! Ingle in the configuration of a tool host: what the text of a host's file becomes.
//!
//! Owns installing and taking out again, on texts; [`hosts`] knows the hosts, [`edit`] and
//! [`jsonc`] the syntax, and `file` alone touches the disk. Everything else in a file is its
//! owner's: it is never written anew, and a text that cannot be read is left as it is.

pub(crate) mod edit;
pub(crate) mod file;
pub(crate) mod hosts;
pub(crate) mod jsonc;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use edit::Form;
use hosts::Entry;
use jsonc::{Document, Member, Node, SyntaxError};

/// Why a text is left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot be read.
    Syntax(SyntaxError),
    /// The value that starts at this byte should be an object.
    NotAnObject {
        /// Byte offset.
        at: usize,
        /// What it is called; empty for the whole text.
        name: String,
    },
    /// A name stands there twice, and its readers differ in which one counts.
    Twice {
        /// Byte offset of the second.
        at: usize,
        /// The name.
        name: String,
    },
    /// There is an entry of our name that starts something else.
    Foreign {
        /// Byte offset.
        at: usize,
        /// What it starts.
        command: String,
    },
    /// What would be written says something else than was meant: a fault of ours.
    Unsound,
}

impl From<SyntaxError> for Refusal {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax(error)
    }
}

/// The text with `entry` in the map `servers`. `None` stands for a file that is not there. The text
/// comes back unchanged where the entry is there already. An entry of that name that is Ingle's is
/// brought up to date and keeps what else stands in it; another program's is replaced with `force`
/// only.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn install(
    text: Option<&str>,
    servers: &str,
    entry: &Entry,
    force: bool,
) -> Result<String, Refusal> {
    let new = put_in(text, servers, entry, force)?;
    let old = text.map_or_else(|| Ok(nothing()), value_of)?;
    let mut expected = old;
    let before = expected[servers].get(&entry.name).cloned();
    expected[servers][&entry.name] = becomes(before.as_ref(), entry);
    let is_sound = value_of(&new).is_ok_and(|value| value == expected);
    is_sound.then_some(new).ok_or(Refusal::Unsound)
}

fn put_in(
    text: Option<&str>,
    servers: &str,
    entry: &Entry,
    force: bool,
) -> Result<String, Refusal> {
    let Some(text) = text.filter(|text| !is_blank(text)) else {
        let document = Form::Object(vec![(servers.to_owned(), named(entry))]);
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
        None => Ok(edit::insert(text, &document, &map.value, &entry.name, &entry.form())),
        Some(found) if hosts::is_ours(&found.value.value()) => match found.value.opaque_at() {
            Some(at) => {
                Err(SyntaxError { at, problem: "no value can be as this is written" }.into())
            }
            None => update(text, servers, entry),
        },
        Some(found) if found.value.value() == entry.value() => Ok(text.to_owned()),
        Some(found) if force => Ok(edit::replace(text, found, &entry.form())),
        Some(found) => Err(Refusal::Foreign {
            at: found.key_span.start,
            command: hosts::command_of(&found.value.value()),
        }),
    }
}

/// The text without the entry called `name`, and what the file becomes. `before` are texts that the
/// file may have had before the entry was put in: the one that is sure to have been comes back to
/// the byte.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn uninstall(
    text: &str,
    servers: &str,
    name: &str,
    before: &[String],
    force: bool,
) -> Result<Removed, Refusal> {
    let removed = take_out(text, servers, name, before, force)?;
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
    is_sound.then_some(removed).ok_or(Refusal::Unsound)
}

fn take_out(
    text: &str,
    servers: &str,
    name: &str,
    before: &[String],
    force: bool,
) -> Result<Removed, Refusal> {
    if is_blank(text) {
        return Ok(Removed::Nothing);
    }
    let document = jsonc::parse(text)?;
    let Some(map) = find(&document.root, "", servers)? else { return Ok(Removed::Nothing) };
    let Some(found) = find(&map.value, servers, name)? else { return Ok(Removed::Nothing) };
    let value = found.value.value();
    if !hosts::is_ours(&value) && !force {
        let command = hosts::command_of(&value);
        return Err(Refusal::Foreign { at: found.key_span.start, command });
    }
    // The entry as it stands here, put into what may have been before: if that gives this text, it
    // was, and nothing else has changed since.
    let members = found.value.members().unwrap_or_default();
    let members = members.iter().map(|member| (member.key.clone(), member.value.value()));
    let entry = Entry { name: name.to_owned(), members: members.collect() };
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
        let members = node.members().unwrap_or_default();
        members.iter().position(|member| member.key == name).unwrap_or(members.len())
    };
    // A map that came with the entry goes with it, unless somebody has remarked on it.
    let had_no_map = |before: &&String| {
        jsonc::parse(before)
            .is_ok_and(|document| matches!(find(&document.root, "", servers), Ok(None)))
    };
    let is_last = map.value.members().is_some_and(|members| members.len() == 1);
    let (around, ours) =
        (map.key_span.start..map.value.span.end, found.key_span.start..found.value.span.end);
    let has_remarks = document
        .comments
        .iter()
        .any(|remark| around.contains(&remark.span.start) && !ours.contains(&remark.span.start));
    let rest = if is_last && !has_remarks && before.first().is_some_and(had_no_map) {
        edit::remove(text, &document, &document.root, place(&document.root, servers))
    } else {
        edit::remove(text, &document, &map.value, place(&map.value, name))
    };
    Ok(Removed::Text(rest))
}

/// What is left when the entry has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It was not there.
    Nothing,
    /// This.
    Text(String),
    /// Nothing at all: the file was made for the entry.
    File,
}

/// The entry called `name` in a file's text, if it has one.
///
/// # Errors
/// See [`Refusal`].
pub(crate) fn entry_in(text: &str, servers: &str, name: &str) -> Result<Option<Value>, Refusal> {
    if is_blank(text) {
        return Ok(None);
    }
    let document = jsonc::parse(text)?;
    let Some(map) = find(&document.root, "", servers)? else { return Ok(None) };
    Ok(find(&map.value, servers, name)?.map(|member| member.value.value()))
}

fn has_entry(text: &str, servers: &str, name: &str) -> bool {
    entry_in(text, servers, name).is_ok_and(|entry| entry.is_some())
}

/// What a text says; a blank one says no more than an empty object.
fn value_of(text: &str) -> Result<Value, SyntaxError> {
    if is_blank(text) { Ok(nothing()) } else { Ok(jsonc::parse(text)?.root.value()) }
}

fn nothing() -> Value {
    Value::Object(Map::new())
}

/// What installing makes of an entry's value.
fn becomes(old: Option<&Value>, entry: &Entry) -> Value {
    let Some(Value::Object(old)) = old.filter(|old| hosts::is_ours(old)) else {
        return entry.value();
    };
    let mut new = old.clone();
    new.extend(entry.members.iter().cloned());
    let ours = entry.members.iter().find(|(key, _)| key == "env");
    let ours = ours.map_or_else(nothing, |(_, env)| env.clone());
    if let Some(old) = old.get("env") {
        new.insert("env".to_owned(), hosts::merge_env(old, &ours));
    }
    Value::Object(new)
}

fn is_blank(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim().is_empty()
}

fn named(entry: &Entry) -> Form {
    Form::Object(vec![(entry.name.clone(), entry.form())])
}

/// The member called `key` of a value that must be an object; `name` is what the value is called.
fn find<'a>(node: &'a Node, name: &str, key: &str) -> Result<Option<&'a Member>, Refusal> {
    let Some(members) = node.members() else {
        return Err(Refusal::NotAnObject { at: node.span.start, name: name.to_owned() });
    };
    let mut found = members.iter().filter(|member| member.key == key);
    let first = found.next();
    match found.next() {
        Some(second) => Err(Refusal::Twice { at: second.key_span.start, name: second.key.clone() }),
        None => Ok(first),
    }
}

/// Brings an entry of ours up to date, one member after the other.
fn update(text: &str, servers: &str, entry: &Entry) -> Result<String, Refusal> {
    let mut text = text.to_owned();
    // Variables of ours that an entry no longer sets go from those that stand there.
    let none = ("env".to_owned(), Value::Object(Map::new()));
    let sets_env = entry.members.iter().any(|(key, _)| *key == none.0);
    let env = (!sets_env).then_some(&none);
    for (key, value) in entry.members.iter().chain(env) {
        let document = jsonc::parse(&text)?;
        let Some(found) = find_entry(&document, servers, &entry.name)? else { break };
        let present = find(&found.value, &entry.name, key)?;
        let value = match present.map(|present| present.value.value()) {
            Some(old) if key == "env" => hosts::merge_env(&old, value),
            _ => value.clone(),
        };
        match present {
            Some(present) if present.value.value() == value => {}
            Some(present) => text = edit::replace(&text, present, &Form::Flat(value)),
            None if value == none.1 => {}
            None => {
                text = edit::insert(&text, &document, &found.value, key, &Form::Flat(value));
            }
        }
    }
    Ok(text)
}

fn find_entry<'a>(
    document: &'a Document,
    servers: &str,
    name: &str,
) -> Result<Option<&'a Member>, Refusal> {
    let Some(map) = find(&document.root, "", servers)? else { return Ok(None) };
    find(&map.value, servers, name)
}
