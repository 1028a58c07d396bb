//! Settings in JSON: what is ours in them, put in and taken out, with everything else as it was.

use super::{CALLED, Hooks, SERVER, another_server, is_doubtful_hook, is_our_hook, is_our_server, place, text};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Reads the settings, changes them and writes them in the form that they had. What is no JSON is left alone.
pub(super) fn edit(
    before: Option<&str>,
    change: impl FnOnce(&mut Map<String, Value>) -> Result<(), String>,
) -> Result<Option<String>, String> {
    let read = match before.unwrap_or_default().trim() {
        "" => Ok(json!({})),
        _ => text::read(before.unwrap_or_default()),
    };
    let mut value = match read {
        Ok(value) => value,
        Err(why) => {
            let mut ours = Map::new();
            change(&mut ours)?;
            return Err(format!("{why}; change it by hand{}", text::to_add(ours)));
        }
    };
    let settings = value.as_object_mut().ok_or("this is no JSON object; change it by hand")?;
    let old = settings.clone();
    change(settings)?;
    // Somebody's own layout is kept where nothing changes, and no file is made for nothing. An object that is empty now
    // stays: nobody knows whether the file was there before us.
    match *settings == old {
        true => Ok(before.map(str::to_owned)),
        false => text::written(&value, before).map(Some),
    }
}

/// What a file of settings says, to look at; null if there is none. Where it cannot be understood, but does not speak
/// of us, there is nothing of ours in it.
pub(super) fn of(path: &Path) -> Result<Value, String> {
    let text = place::text(path)?.unwrap_or_default();
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    match text::read(&text) {
        Err(why) if text.contains("flockd") || text.contains(CALLED) => Err(format!("{}: {why}", path.display())),
        read => Ok(read.unwrap_or_default()),
    }
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
pub(super) fn hooks(
    settings: &mut Map<String, Value>,
    word: &str,
    wanted: &[(&'static str, Value)],
) -> Result<(), String> {
    if wanted.is_empty() && !settings.get("hooks").is_some_and(Value::is_object) {
        return Ok(());
    }
    let hooks = below(settings, "hooks").ok_or("hooks is no object; change it by hand")?;
    let mut kept = HashMap::new();
    for (event, group) in wanted {
        let groups = hooks.entry(*event).or_insert_with(|| json!([])).as_array_mut();
        let groups = groups.ok_or_else(|| format!("hooks.{event} is no list; change it by hand"))?;
        // With commands of others it keeps its matcher, and if that leaves tools out, ours needs a group of its own.
        let fits = |there: &Value| covers(there, group) || commands(there).all(|command| is_our_hook(command, word));
        let at = groups.iter().position(|there| has_ours(there, word) && fits(there));
        match at {
            Some(at) => groups[at] = without_ours(&groups[at], word, Some(group)),
            None => groups.push(group.clone()),
        }
        kept.insert(*event, at.unwrap_or(groups.len() - 1));
    }
    let mut is_emptied = false;
    hooks.retain(|event, groups| {
        let Some(groups) = groups.as_array_mut() else { return true };
        let before = groups.len();
        let mut number = 0..;
        // One of ours stays where one is wanted; others come from an older layout.
        groups.retain_mut(|group| {
            let is_kept = kept.get(&**event).copied() == number.next();
            if is_kept || !has_ours(group, word) {
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
    Ok(())
}

fn commands(group: &Value) -> impl Iterator<Item = &str> {
    let hooks = group["hooks"].as_array().into_iter().flatten();
    hooks.filter_map(|hook| hook["command"].as_str())
}

fn has_ours(group: &Value, word: &str) -> bool {
    commands(group).any(|command| is_our_hook(command, word))
}

/// Whether a group is called for all tools that another one is called for.
fn covers(group: &Value, wanted: &Value) -> bool {
    let tools = |group: &Value| group["matcher"].as_str().unwrap_or("*").to_owned();
    let (there, wanted) = (tools(group), tools(wanted));
    let there: Vec<&str> = there.split('|').collect();
    matches!(there[..], [""] | ["*"] | [".*"]) || wanted.split('|').all(|tool| there.contains(&tool))
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

/// What calls us in these settings, or is meant to, and what of it is not there that `wanted` has.
pub(super) fn found(path: &Path, word: &str, wanted: &[(&'static str, Value)]) -> Result<Hooks, String> {
    let settings = of(path)?;
    let is_hook = |command: &str| is_our_hook(command, word) || is_doubtful_hook(command, word);
    let groups = |event: &str| settings["hooks"][event].as_array().into_iter().flatten();
    let events = settings["hooks"].as_object().into_iter().flatten();
    let all = events.filter_map(|(_, groups)| groups.as_array()).flatten().flat_map(commands);
    let mut found = Hooks { commands: all.filter(|it| is_hook(it)).map(str::to_owned).collect(), ..Hooks::default() };
    if found.commands.is_empty() {
        return Ok(found);
    }
    let mut missing = Vec::new();
    for (event, wanted) in wanted {
        let ours: Vec<&Value> = groups(event).filter(|group| commands(group).any(is_hook)).collect();
        let tools = |group: &Value| group["matcher"].as_str().unwrap_or_default().to_owned();
        let soonest = |group: &Value| {
            let hooks = group["hooks"].as_array().into_iter().flatten();
            let ours = hooks.filter(|hook| hook["command"].as_str().is_some_and(is_hook));
            ours.filter_map(|hook| hook["timeout"].as_f64()).reduce(f64::min)
        };
        let wants = soonest(wanted).unwrap_or_default();
        match ours.first() {
            None => missing.push(*event),
            Some(first) if !ours.iter().any(|group| covers(group, wanted)) => {
                let text = format!("{event} is for {} and not for {}", tools(first), tools(wanted));
                found.lacks.push(text);
            }
            Some(_) => {
                let given = ours.iter().filter_map(|group| soonest(group)).reduce(f64::min);
                let given = given.filter(|given| *given < wants);
                found.lacks.extend(given.map(|given| format!("{event} has a timeout of {given} and not {wants}")));
            }
        }
    }
    if !missing.is_empty() {
        found.lacks.push(format!("there is none for {}", missing.join(", ")));
    }
    found.lacks.iter_mut().for_each(|lack| *lack = format!("{lack} in {}", path.display()));
    Ok(found)
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

/// What is under our name among the servers below these keys; null if nothing is.
pub(super) fn server_of(path: &Path, keys: &[&str]) -> Result<Value, String> {
    let settings = of(path)?;
    Ok(keys.iter().fold(&settings, |at, key| &at[*key])[SERVER].clone())
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
        let put = |text: &str| edit(Some(text), |it| hooks(it, "x", &[("Pre", ours.clone())])).unwrap().unwrap();
        let after = put(before);
        assert!(after.starts_with("{\n    \"zebra\": 1,\n    \"hooks\": {"), "{after}");
        assert!(
            after.find("zebra") < after.find("apple") && after.contains("1.5") && !after.ends_with('\n'),
            "{after}"
        );
        assert_eq!(put(&after), after, "a second call changes nothing");
        let out = edit(Some(&after), |it| hooks(it, "x", &[])).unwrap().unwrap();
        assert!(!out.contains("flockd") && out.contains("apple"), "{out}");
    }

    #[test]
    fn hooks_of_others_stay_also_in_one_group_with_ours() {
        let mut settings = json!({"hooks": {"Pre": [
            group("lint"),
            {"hooks": [{"command": "other"}, {"command": "'/old place/flockd' hook --client x --mode warn"}]},
            group("flokd hook --client x"),
            group("flockd hook --client y"),
        ]}});
        let settings = settings.as_object_mut().unwrap();
        hooks(settings, "x", &[("Pre", group("/new/flockd hook --client x"))]).unwrap();
        let text = Value::from(settings.clone()).to_string();
        assert!(text.contains("lint") && text.contains("other") && text.contains("flokd"), "{text}");
        assert!(!text.contains("client y"), "called for another client here, it does nothing: {text}");
        assert!(text.contains("/new/flockd") && !text.contains("/old"), "{text}");
        hooks(settings, "x", &[]).unwrap();
        let text = Value::from(settings.clone()).to_string();
        assert!(text.contains("other") && text.contains("flokd") && !text.contains("flockd"), "{text}");
    }

    #[test]
    fn what_is_no_json_is_left_alone() {
        let error = edit(Some("{ // a comment\n}"), |_| Ok(())).unwrap_err();
        assert!(error.contains("by hand"), "{error}");
        assert_eq!(edit(Some("{ \"odd\" :1}"), |_| Ok(())).unwrap().unwrap(), "{ \"odd\" :1}");
        assert_eq!(edit(None, |_| Ok(())).unwrap(), None, "no file is made for nothing");
    }
}
