//! Locks as resources, and the word that they have changed, whichever process changed them.

use crate::client::{Client, ERAS, Era};
use crate::util::{Ground, until};
use serde_json::{Value, json};

fn read(client: &mut Client, uri: &str) -> Value {
    let mut read = client.ask("resources/read", json!({ "uri": uri }));
    let contents = &mut read["contents"][0];
    assert_eq!((&contents["uri"], &contents["mimeType"]), (&json!(uri), &json!("application/json")));
    serde_json::from_str(contents["text"].as_str().unwrap()).unwrap()
}

#[test]
fn locks_are_listed_and_read_one_by_one_together_and_by_file() {
    let ground = Ground::new();
    for era in ERAS {
        let held = ground.flockd("b", "lock dir/x --note why --json").gives(0).json();
        let id = held["lock_id"].as_str().unwrap();
        let mut client = Client::new(&ground, "a", era);
        let listed = client.ask("resources/list", json!({}));
        let uris: Vec<&str> =
            listed["resources"].as_array().unwrap().iter().map(|it| it["uri"].as_str().unwrap()).collect();
        assert_eq!(uris, ["locks://active", &format!("locks://lock/{id}")]);
        assert_eq!(listed["resources"][1]["title"], held["path"]);
        let templates = client.ask("resources/templates/list", json!({}));
        assert_eq!(templates["resourceTemplates"].as_array().unwrap().len(), 2);

        assert_eq!(read(&mut client, "locks://active")["locks"][0]["note"], "why");
        assert_eq!(read(&mut client, &format!("locks://lock/{id}"))["agent"], "b");
        let whole = format!("locks://file/{}", held["path"].as_str().unwrap());
        for uri in ["locks://file/dir/x", "locks://file/dir%2Fx", "locks://file/dir", &whole] {
            assert_eq!(read(&mut client, uri)["locks"][0]["lock_id"], id, "{uri}");
        }
        assert_eq!(read(&mut client, "locks://file/other")["locks"], json!([]));

        ground.flockd("b", "unlock dir/x").gives(0);
        let not_found = if era == Era::Older { -32002 } else { -32602 };
        for uri in
            [&*format!("locks://lock/{id}"), "locks://lock/", "locks://else", "file:///etc/passwd", "locks://file/%zz"]
        {
            assert_eq!(client.fails("resources/read", json!({ "uri": uri })), not_found, "{uri}");
        }
    }
}

#[test]
fn a_subscriber_of_the_older_era_hears_of_what_other_processes_do() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Older);
    client.ask("resources/subscribe", json!({ "uri": "locks://file/x" }));
    ground.flockd("b", "lock y").gives(0);
    ground.flockd("b", "lock x").gives(0);
    assert_eq!(client.notice("notifications/resources/updated")["uri"], "locks://file/x");
    client.ask("resources/subscribe", json!({ "uri": "locks://active" }));
    ground.flockd("b", "unlock y").gives(0);
    assert_eq!(client.notice("notifications/resources/updated")["uri"], "locks://active", "x has not changed");
    ground.kill_daemon();
    ground.flockd("b", "unlock x").gives(0);
    let mut told = [client.notice("notifications/resources/updated"), client.notice("notifications/resources/updated")]
        .map(|told| told["uri"].as_str().unwrap().to_owned());
    told.sort();
    assert_eq!(told, ["locks://active", "locks://file/x"], "also after a restart of the daemon");

    client.ask("resources/unsubscribe", json!({ "uri": "locks://active" }));
    client.ask("resources/unsubscribe", json!({ "uri": "locks://file/x" }));
    ground.flockd("b", "lock x").gives(0);
    client.ask("resources/subscribe", json!({ "uri": "locks://file/z" }));
    ground.flockd("b", "lock z").gives(0);
    assert_eq!(client.notice("notifications/resources/updated")["uri"], "locks://file/z", "and of nothing else");
    assert_eq!(client.fails("resources/subscribe", json!({ "uri": "locks://else" })), -32602);
    assert_eq!(client.fails("subscriptions/listen", json!({ "notifications": {} })), -32601, "not of this era");
}

#[test]
fn a_subscriber_of_the_newer_era_hears_it_under_the_number_of_its_request() {
    let ground = Ground::new();
    let mut client = Client::new(&ground, "a", Era::Newer);
    let wanted = json!({ "resourceSubscriptions": ["locks://file/x", "locks://else"], "resourcesListChanged": true,
        "toolsListChanged": true });
    let id = client.begin("subscriptions/listen", json!({ "notifications": wanted }));
    let confirmed = client.notice("notifications/subscriptions/acknowledged");
    let number = |told: &Value| told["_meta"]["io.modelcontextprotocol/subscriptionId"].clone();
    assert_eq!(number(&confirmed), id);
    assert_eq!(
        confirmed["notifications"],
        json!({ "resourceSubscriptions": ["locks://file/x"], "resourcesListChanged": true })
    );
    // Once as it is subscribed to; from then on as it happens.
    let both = |client: &mut Client| {
        let updated = client.notice("notifications/resources/updated");
        assert_eq!((&updated["uri"], number(&updated)), (&json!("locks://file/x"), json!(id)));
        assert_eq!(number(&client.notice("notifications/resources/list_changed")), id);
    };
    both(&mut client);
    ground.flockd("b", "lock x").gives(0);
    both(&mut client);
    ground.flockd("b", "lock y").gives(0);
    assert_eq!(number(&client.notice("notifications/resources/list_changed")), id);

    client.cancel(id);
    until("it is told no more", || (ground.daemon_status().subscribers <= 1).then_some(()));
    let (ended, rest) = client.end();
    assert_eq!((ended, rest), (Some(0), vec![]));
}
