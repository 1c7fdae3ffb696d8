//! Who may watch, how many watches, for how long, and what they see.

use std::path::Path;

use lattice_gateway::{
    config::Config,
    proto::{ErrorReason, ResyncReason},
};
use serde_json::Value;
use tokio::time::Instant;

use super::value_of;
use crate::harness::{
    Nats, TestGateway,
    api::{ACTOR, PROVIDER},
    gateway::caller,
    issuer::Issuer,
    link, put_link, until,
    view::View,
    watch::watch_all,
};

const LATTICE: &str = "[lattices.default]\ntrusted_issuers = [\"*\"]\n";

fn link_without_values(view: &View) -> bool {
    view.entries().len() == 1 && value_of(view, ACTOR).is_none()
}

/// A gateway that follows its configuration's file.
async fn gateway_of(nats: &Nats, file: &Path, callers: &str) -> TestGateway {
    configure(nats, file, callers);
    TestGateway::with(Config::read(file).unwrap()).await
}

fn configure(nats: &Nats, file: &Path, callers: &str) {
    let nats = format!(
        "[nats]\nservers = {:?}\n[server]\nlisten = \"127.0.0.1:0\"\n",
        nats.url()
    );
    std::fs::write(file, [nats.as_str(), LATTICE, callers].concat()).unwrap();
}

#[tokio::test]
async fn values_are_told_to_who_may_read_them_and_the_grant_may_change_and_end() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    let with = |verbs: &str| caller("one", "token", &["default"], &format!("links:write {verbs}"));
    let gateway = gateway_of(&nats, &file, &with("watch")).await.showing("token");
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "a-password")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    assert!(link_without_values(&watching.view));

    configure(&nats, &file, &with("watch values:read"));
    watching
        .until("the value", |view| {
            value_of(view, ACTOR).as_deref() == Some("a-password")
        })
        .await;
    assert_eq!(watching.view.resyncs, [ResyncReason::GrantChanged]);
    configure(&nats, &file, &with("watch"));
    watching.until("it is taken away", link_without_values).await;
    assert_eq!(watching.view.resyncs, [ResyncReason::GrantChanged; 2]);

    configure(&nats, &file, &with("read"));
    assert_eq!(watching.end().await.reason, ErrorReason::LatticeNotGranted);
    configure(&nats, &file, &with("watch"));
    let mut watching = until("it is granted again", async || {
        gateway.watch(watch_all()).await.ok()
    })
    .await;
    configure(&nats, &file, &caller("other", "other", &["default"], "read"));
    assert_eq!(watching.end().await.reason, ErrorReason::CredentialsInvalid);
}

#[tokio::test]
async fn a_watch_ends_soon_after_its_token() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::in_folder(folder.path());
    let by_jwt = "jwt = [{ issuer = \"corp\", claims = { sub = \"ci\" } }]";
    let grants = "grants = [{ lattices = [\"default\"], verbs = [\"watch\"] }]";
    let callers = format!(
        "{}leeway = \"0s\"\n[callers.by-jwt]\n{by_jwt}\n{grants}\n",
        issuer.section()
    );
    let gateway = TestGateway::serving_callers(&nats, &format!("{LATTICE}{callers}")).await;
    let gateway = gateway.showing(&issuer.token_for("ci", 2));
    let began = Instant::now();
    let mut watching = gateway.watch(watch_all()).await.unwrap();
    assert_eq!(watching.end().await.reason, ErrorReason::CredentialsInvalid);
    // Two of the token, five that are promised.
    assert!(began.elapsed().as_secs_f64() < 7.5, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_caller_has_so_many_watches_and_no_more() {
    let nats = Nats::start().await;
    nats.create_stream("default", Value::Null).await;
    let limited = caller("limited", "limited", &["default"], "watch") + "limits = { watches = 2 }\n";
    let free = caller("free", "free", &["default"], "watch");
    let text = [LATTICE, "[server]\nwatches_max = 3\n", &limited, &free].concat();
    let mut gateway = TestGateway::serving_callers(&nats, &text)
        .await
        .showing("limited");
    let first = gateway.watch_from_now(watch_all()).await;
    let _second = gateway.watch_from_now(watch_all()).await;
    let refused = gateway.watch(watch_all()).await.err().unwrap();
    assert_eq!(refused.reason, ErrorReason::RateLimited);
    assert!(refused.message.contains("2 watches"), "{}", refused.message);
    drop(first);
    let _third = until("a place is free", async || gateway.watch(watch_all()).await.ok()).await;
    gateway = gateway.showing("free");
    let _fourth = gateway.watch_from_now(watch_all()).await;
    let refused = gateway.watch(watch_all()).await.err().unwrap();
    assert_eq!(refused.reason, ErrorReason::Overloaded);
}

#[tokio::test]
async fn while_nothing_changes_there_are_bookmarks_that_say_whether_nats_is_there() {
    let mut nats = Nats::start().await;
    let gateway = TestGateway::dev_on_files(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    let bookmarks = watching.view.bookmarks;
    let began = Instant::now();
    watching
        .until("a sign of life", |view| view.bookmarks > bookmarks)
        .await;
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    assert!(!watching.view.is_stale);
    nats.down("KILL");
    watching.until("that NATS is away", |view| view.is_stale).await;
    nats.up().await;
    watching.until("that it is back", |view| !view.is_stale).await;
    assert_eq!(watching.view.resyncs, []);
}

#[tokio::test]
async fn a_server_that_ends_says_where_its_watches_were() {
    let nats = Nats::start().await;
    let gateway = TestGateway::dev(&nats).await;
    gateway
        .put(put_link(link(ACTOR, PROVIDER, "value")))
        .await
        .unwrap();
    let mut watching = gateway.watch_from_now(watch_all()).await;
    let bookmarks = watching.view.bookmarks;
    let began = Instant::now();
    let (ended, ()) = tokio::join!(watching.end(), gateway.running.shut_down());
    assert_eq!(ended.reason, ErrorReason::ShuttingDown);
    assert_eq!(watching.view.bookmarks, bookmarks + 1);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}
