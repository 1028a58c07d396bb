//! Settings in JSON: what is ours in them, put in and taken out, with everything else as it was.

use super::{SERVER, another_server, is_our_hook, is_our_server};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Reads the settings, changes them and writes them in the form that they had. What is no JSON is left alone.
pub(super) fn edit(
    before: Option<&str>,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<(), String>,
) -> Result<Option<String>, String> {
    let text = before.unwrap_or_default();
    let mut value: Value = match text.trim().is_empty() {
        true => json!({}),
        false => {
            serde_json::from_str(text).map_err(|error| format!("this is no plain JSON ({error}); change it by hand"))?
        }
    };
    let settings = value.as_object_mut().ok_or("this is no JSON object; change it by hand")?;
    let old = settings.clone();
    change(settings)?;
    // Somebody's own layout is kept where nothing changes, and no file is made for nothing.
    if *settings == old {
        return Ok(before.map(str::to_owned));
    }
    // An object that is empty now stays: nobody knows whether the file was there before us.
    let indent: String = text.lines().nth(1).map_or("  ", |line| &line[..line.len() - line.trim_start().len()]).into();
    let indent = if indent.is_empty() { "  ".to_owned() } else { indent };
    let mut out = Vec::new();
    let form = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, form)).map_err(|error| error.to_string())?;
    let mut out = String::from_utf8(out).map_err(|error| error.to_string())?;
    if before.is_none() || text.ends_with('\n') {
        out.push('\n');
    }
    Ok(Some(out))
}

/// The object below a key, made if there is none; none if something else is there.
pub(super) fn below<'a>(settings: &'a mut Map<String, Value>, key: &str) -> Option<&'a mut Map<String, Value>> {
    settings.entry(key).or_insert_with(|| json!({})).as_object_mut()
}

/// Removes an object that is empty.
pub(super) fn tidy(settings: &mut Map<String, Value>, key: &str) {
    if settings.get(key).and_then(Value::as_object).is_some_and(Map::is_empty) {
        settings.shift_remove(key);
    }
}

/// The form of hooks that most clients share: `hooks.EVENT[] {matcher, hooks[{command}]}`. `wanted` has our group for
/// each event; none of ours stays where none is wanted. What is empty without our doing is somebody else's.
pub(super) fn hooks(settings: &mut Map<String, Value>, word: &str, wanted: &[(&str, Value)]) {
    if wanted.is_empty() && !settings.contains_key("hooks") {
        return;
    }
    let Some(hooks) = below(settings, "hooks") else { return };
    for (event, group) in wanted {
        let groups = hooks.entry(*event).or_insert_with(|| json!([]));
        let Some(groups) = groups.as_array_mut() else { continue };
        match groups.iter().position(|group| has_ours(group, word)) {
            Some(at) => groups[at] = without_ours(&groups[at], word, Some(group)),
            None => groups.push(group.clone()),
        }
    }
    let mut is_emptied = false;
    hooks.retain(|event, groups| {
        let Some(groups) = groups.as_array_mut() else { return true };
        // The first of ours stays where one is wanted; others come from an older layout.
        let mut keep = wanted.iter().any(|(name, _)| name == event);
        let before = groups.len();
        groups.retain_mut(|group| {
            if !has_ours(group, word) || std::mem::take(&mut keep) {
                return true;
            }
            *group = without_ours(group, word, None);
            !group["hooks"].as_array().is_some_and(Vec::is_empty)
        });
        let goes = groups.is_empty() && before > 0;
        is_emptied |= goes;
        !goes
    });
    if is_emptied {
        tidy(settings, "hooks");
    }
}

fn commands(group: &Value) -> impl Iterator<Item = &str> {
    let hooks = group["hooks"].as_array().into_iter().flatten();
    hooks.filter_map(|hook| hook["command"].as_str())
}

fn has_ours(group: &Value, word: &str) -> bool {
    commands(group).any(|command| is_our_hook(command, word))
}

/// A group with ours as wanted, or without; somebody may have put other commands beside it.
fn without_ours(group: &Value, word: &str, wanted: Option<&Value>) -> Value {
    let others = group["hooks"].as_array().into_iter().flatten();
    let is_ours = |hook: &&Value| hook["command"].as_str().is_some_and(|command| is_our_hook(command, word));
    let others: Vec<Value> = others.filter(|hook| !is_ours(hook)).cloned().collect();
    match wanted {
        Some(wanted) if others.is_empty() => wanted.clone(),
        _ => {
            let ours = wanted.and_then(|wanted| wanted["hooks"].as_array()).cloned().unwrap_or_default();
            let mut group = group.clone();
            group["hooks"] = others.into_iter().chain(ours).collect();
            group
        }
    }
}

/// The commands of ours that are called before a tool.
pub(super) fn commands_of(text: &str, event: &str, word: &str) -> Vec<String> {
    let settings: Value = serde_json::from_str(text).unwrap_or_default();
    let groups = settings["hooks"][event].as_array().into_iter().flatten();
    groups.flat_map(commands).filter(|command| is_our_hook(command, word)).map(str::to_owned).collect()
}

/// An entry of this name below a key, as wanted or gone.
pub(super) fn entry(settings: &mut Map<String, Value>, key: &str, name: &str, wanted: Option<Value>) {
    let is_there = settings.get(key).is_some_and(|entries| entries.get(name).is_some());
    if wanted.is_none() && !is_there {
        return;
    }
    let Some(entries) = below(settings, key) else { return };
    match wanted {
        Some(wanted) => drop(entries.insert(name.to_owned(), wanted)),
        None => drop(entries.shift_remove(name)),
    }
    tidy(settings, key);
}

/// Our server below a key, as wanted or gone. What somebody has added to it stays, and so does another's of its name.
pub(super) fn server(settings: &mut Map<String, Value>, key: &str, wanted: Option<Value>) -> Result<(), String> {
    let there = settings.get(key).and_then(|entries| entries.get(SERVER));
    let is_ours = there.is_none_or(|there| {
        let args = there["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        is_our_server(there["command"].as_str(), args)
    });
    match wanted {
        None if is_ours => entry(settings, key, SERVER, None),
        None => {}
        Some(_) if !is_ours => return Err(another_server(key)),
        Some(wanted) => {
            let entries = below(settings, key).ok_or_else(|| format!("{key} is no object; change it by hand"))?;
            let entry = entries.entry(SERVER).or_insert_with(|| json!({}));
            for (name, value) in wanted.as_object().into_iter().flatten() {
                if name == "command" || entry.get(name).is_none() {
                    entry[name] = value.clone();
                }
            }
        }
    }
    Ok(())
}

/// What is under our name among the servers below these keys; null if nothing is, or it cannot be read.
pub(super) fn server_of(path: &Path, keys: &[&str]) -> Value {
    let settings: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap_or_default()).unwrap_or_default();
    keys.iter().fold(&settings, |at, key| &at[*key])[SERVER].clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(command: &str) -> Value {
        json!({"matcher": "Edit", "hooks": [{"type": "command", "command": command}]})
    }

    #[test]
    fn what_is_not_ours_keeps_its_place_order_and_form() {
        let before =
            "{\n    \"zebra\": 1,\n    \"hooks\": {\n        \"Stop\": []\n    },\n    \"apple\": [1.5, null]\n}";
        let ours = group("/bin/flockd hook --client x");
        let put = |text: &str| {
            edit(Some(text), |it| {
                hooks(it, "x", &[("Pre", ours.clone())]);
                Ok(())
            })
            .unwrap()
            .unwrap()
        };
        let after = put(before);
        assert!(after.starts_with("{\n    \"zebra\": 1,\n    \"hooks\": {"), "{after}");
        assert!(
            after.find("zebra") < after.find("apple") && after.contains("1.5") && !after.ends_with('\n'),
            "{after}"
        );
        assert_eq!(put(&after), after, "a second call changes nothing");
        let out = edit(Some(&after), |it| {
            hooks(it, "x", &[]);
            Ok(())
        })
        .unwrap()
        .unwrap();
        assert!(!out.contains("flockd") && out.contains("apple"), "{out}");
    }

    #[test]
    fn hooks_of_others_stay_also_in_one_group_with_ours() {
        let mut settings = json!({"hooks": {"Pre": [
            group("lint"),
            {"hooks": [{"command": "other"}, {"command": "'/old place/flockd' hook --client x --mode warn"}]},
            group("flockd hook --client y"),
        ]}});
        let settings = settings.as_object_mut().unwrap();
        hooks(settings, "x", &[("Pre", group("/new/flockd hook --client x"))]);
        let text = Value::from(settings.clone()).to_string();
        assert!(text.contains("lint") && text.contains("other") && text.contains("client y"), "{text}");
        assert!(text.contains("/new/flockd") && !text.contains("/old"), "{text}");
        hooks(settings, "x", &[]);
        let text = Value::from(settings.clone()).to_string();
        assert!(text.contains("other") && text.contains("client y") && !text.contains("client x"), "{text}");
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        let error = edit(Some("{ // a comment\n}"), |_| Ok(())).unwrap_err();
        assert!(error.contains("by hand"), "{error}");
        assert_eq!(edit(Some("{ \"odd\" :1}"), |_| Ok(())).unwrap().unwrap(), "{ \"odd\" :1}");
        assert_eq!(edit(None, |_| Ok(())).unwrap(), None, "no file is made for nothing");
    }
}
