//! How each era begins, and what nobody can make sense of.

use crate::client::{Client, ERAS, Era, NEWER, OLDER, server};
use crate::util::Ground;
use serde_json::{Value, json};

/// The list of tools, as it is sent. Models act on every word of it.
const TOOLS: &str = include_str!("tools.json");

#[test]
fn the_older_era_begins_with_initialize_in_every_revision_that_had_it() {
    let ground = Ground::new();
    for (asked, answered) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        (OLDER, OLDER),
        ("2099-01-01", OLDER),
        (NEWER, OLDER),
    ] {
        let mut client = Client::silent(server(&ground, "a"), Era::Older);
        let greeting =
            json!({ "protocolVersion": asked, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let greeted = client.ask("initialize", greeting);
        assert_eq!(greeted["protocolVersion"], answered);
        assert_eq!((&greeted["serverInfo"]["name"], &greeted["serverInfo"]["version"]), (&json!("flockd"), &version()));
        assert_eq!(greeted["capabilities"]["resources"], json!({ "subscribe": true }));
        assert_eq!(sentences(&greeted["instructions"]), 3);
        assert_eq!(client.ask("ping", json!({})), json!({}));
    }
}

#[test]
fn the_newer_era_begins_with_any_request_and_can_be_discovered() {
    let ground = Ground::new();
    let mut client = Client::silent(server(&ground, "a"), Era::Newer);
    let known = client.ask("server/discover", json!({}));
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", OLDER, NEWER] {
        assert!(known["supportedVersions"].as_array().unwrap().contains(&revision.into()), "{revision}: {known}");
    }
    assert_eq!((&known["resultType"], &known["cacheScope"]), (&json!("complete"), &json!("private")));
    assert_eq!(known["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "flockd");
    assert_eq!(sentences(&known["instructions"]), 3);
    let (held, _) = client.call("lock_file", json!({ "path": "x" }));
    assert_eq!(held["acquired"], true);
    assert_eq!(client.fails("ping", json!({})), -32601, "it went with the older era");

    let mut without = Client::silent(server(&ground, "a"), Era::Newer);
    let (status, _) = without.call("check_lock_status", json!({}));
    assert_eq!(status["locks"][0]["lock_id"], held["lock_id"], "the first request needs no greeting");
}

#[test]
fn a_revision_that_is_not_known_is_refused_with_those_that_are() {
    let ground = Ground::new();
    let mut client = Client::silent(server(&ground, "a"), Era::Newer);
    let (id, mut line) = client.request("tools/list", json!({}));
    line["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01".into();
    client.send(&line);
    let error = client.answer(id)["error"].take();
    assert_eq!((&error["code"], &error["data"]["requested"]), (&json!(-32022), &json!("2099-01-01")));
    assert!(error["data"]["supported"].as_array().unwrap().contains(&NEWER.into()), "{error}");
    let (id, mut line) = client.request("tools/list", json!({}));
    line["params"] = json!({});
    client.send(&line);
    assert_eq!(client.answer(id)["error"]["code"], -32602, "nothing said");
    assert!(client.ask("tools/list", json!({}))["tools"].is_array(), "it serves on");
}

#[test]
fn tools_are_listed_word_for_word_the_same_in_both_eras() {
    let ground = Ground::new();
    let expected: Value = serde_json::from_str(TOOLS).unwrap();
    for era in ERAS {
        let listed = Client::new(&ground, "a", era).ask("tools/list", json!({}))["tools"].take();
        let text = serde_json::to_string_pretty(&listed).unwrap();
        assert_eq!(listed, expected, "tests/mcp/tools.json should be, if this is what is meant:\n{text}");
    }
}

#[test]
fn schemas_say_nothing_that_a_client_refuses() {
    fn look(schema: &Value, at: &str) {
        let known = ["type", "description", "properties", "required", "items", "enum", "minimum", "maximum"];
        for (word, value) in schema.as_object().unwrap_or_else(|| panic!("{at} is no object")) {
            assert!(known.contains(&word.as_str()), "{at} says {word}, which Gemini or the Inspector may refuse");
            if word == "type" {
                assert!(value.is_string(), "{at} has several types");
            }
        }
        for (name, below) in schema["properties"].as_object().into_iter().flatten() {
            look(below, &format!("{at}.{name}"));
        }
        if let Some(items) = schema.get("items") {
            look(items, &format!("{at}[]"));
        }
    }
    let tools: Value = serde_json::from_str(TOOLS).unwrap();
    for tool in tools.as_array().unwrap() {
        let name = tool["name"].as_str().unwrap();
        look(&tool["inputSchema"], name);
        look(&tool["outputSchema"], name);
        for hint in ["readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint"] {
            assert!(tool["annotations"][hint].is_boolean(), "{name} says nothing of {hint}");
        }
        assert!(tool["title"].is_string() && tool["annotations"]["title"] == tool["title"], "{name}");
    }
}

#[test]
fn what_makes_no_sense_disturbs_nothing() {
    let ground = Ground::new();
    for era in ERAS {
        let mut client = Client::silent(server(&ground, "a"), era);
        let late = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 77 } });
        for line in ["", "garbage", "{\"jsonrpc\":", "\u{feff}", "[]", "{}", &late.to_string()] {
            client.send_text(line);
        }
        client.send(&json!({ "jsonrpc": "2.0", "id": 3, "result": {} }));
        match era {
            Era::Newer => drop(client.ask("server/discover", json!({}))),
            Era::Older => {
                let greeting = json!({ "protocolVersion": OLDER, "capabilities": {},
                    "clientInfo": { "name": "t", "version": "1" } });
                client.ask("initialize", greeting);
            }
        }
        client.send_text("more garbage");
        client.send(&late);
        assert_eq!(client.fails("tools/call", json!({ "name": "lock_everything" })), -32602);
        for (params, says) in [
            (json!({ "name": "lock_file", "arguments": "{\"path\":\"x\"}" }), "arguments must be an object"),
            (json!({ "name": "lock_file", "arguments": ["x"] }), "arguments must be an object"),
            (json!({ "arguments": { "path": "x" } }), "must have a name"),
            (json!({ "name": 7, "arguments": {} }), "must have a name"),
        ] {
            let id = client.begin("tools/call", params.clone());
            let error = client.answer(id)["error"].take();
            assert_eq!(error["code"], -32602, "{params}: {error}");
            assert!(error["message"].as_str().unwrap().contains(says), "{params}: {error}");
        }
        assert_eq!(client.fails("resources/read", json!({})), -32602);
        assert_eq!(client.fails("tools/steal", json!({})), -32601);
        assert_eq!(client.fails("prompts/list", json!({})), -32601, "there are none");
        client.send_text(&format!("{{\"jsonrpc\":\"2.0\",\"id\":5,\"x\":\"{}\"}}", "x".repeat(17 * 1024 * 1024)));
        assert_eq!(client.call("check_lock_status", json!({})).1, "nothing is locked, nobody waits");
        let invalid = client.kept().iter().filter(|message| message["error"]["code"] == -32600);
        assert!(invalid.count() > 0, "what is JSON and no message is answered as such: {:?}", client.kept());
    }
}

fn version() -> Value {
    env!("CARGO_PKG_VERSION").into()
}

fn sentences(text: &Value) -> usize {
    text.as_str().unwrap().matches(". ").count() + 1
}
