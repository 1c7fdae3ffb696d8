//! A gRPC gateway for wasmCloud lattices.
//!
//! wasmCloud hosts keep what their lattice knows (claims, links, OCI references, configs) in JetStream: those of 0.50 to
//! 0.59 in a stream, `LATTICECACHE_<lattice>`, on keyed subjects `lc.<lattice>.>`, later ones in buckets. Nobody is to
//! publish there by hand: a wrong key, a malformed body or a careless retry corrupts every host's cache. The gateway is
//! the way in: it validates, publishes as a host would, and gives an honest answer whatever breaks. *An acknowledged write
//! stands, a retried one is harmless*, within the durability of the stream, which `GetLattice` states.
//!
//! # The map
//!
//! ```text
//! main -> command -> { app, config, dev, store::permissions, systemd, telemetry }
//! app  -> { config, reload, rpc, control, auth, audit, store, telemetry }    the composition root: builds, serves, drains
//! rpc  -> { control, auth, audit, domain, proto }               TLS and gRPC in, operations out
//! control -> { auth::Grant, audit::Trail, domain, store }       the operations and the write protocol
//! store -> { domain, telemetry }                                subjects, bodies, headers, the mirror, NATS
//! auth -> { domain }         domain -> nothing                  proto: generated
//! expiry -> { domain }                                           when certificates and JWTs end, for rpc and store
//! ```
//!
//! # One `PutLinkDefinition`, straight through
//!
//! ```text
//! rpc::server            a connection, by TLS where configured, with who is at its other end
//! rpc::layers            who calls (auth::authenticate), the caller's limits, deadline, span, the audit's trail
//! rpc::link_definition   parse (all violations together) -> carry out -> convert
//! rpc::change            grant -> one operation; what came by `Apply` joins here (rpc::apply)
//! control::operations    intent: the message id and the fingerprint of what is asked
//! control::mutate        one turn in the entry's queue, then at the stream's gate; then, until there is an answer:
//!   control::decide        look at the mirror -> refresh | probe | publish | answer | refuse    (pure)
//!   store::publish         one publish to the entry's home subject, with an expectation and the evidence
//! store::mirror          the write comes back through the consumer: seen, with its time
//! control::effects       providers and the lattice's events are told, while it still stands
//! rpc::status            errors: one code and one reason each
//! ```
//!
//! # The write protocol
//!
//! **One mutation is one publish** to the entry's *home subject*. Hosts fold links by (actor, contract, link name)
//! and the highest sequence wins, so that one message is the whole change. Nothing is ever tombstoned on another
//! subject: a crash between two publishes would lose an acknowledged link.
//!
//! **Ids name intents, never contents** ([`control::intent`]). JetStream's message id is one namespace a stream and
//! does not look at the payload: with an id made of the content, putting A, B and A again within the window would end
//! at B.
//!
//! **Every publish carries an expectation**, the sequence of the home message that it replaces. It is the only fence
//! against a publish that was given up on and lands later: of any number of copies at most one can ever land.
//!
//! **Evidence travels with the value** ([`store::evidence`]). JetStream rebuilds its memory of ids only from messages
//! that it still stores, so with one message a subject the id of everything overwritten is forgotten at a restart, and
//! a plain retry would bring an old value back. Each message therefore carries the last 32 calls on its entry and a
//! *horizon*, the stream time up to which a client's id may have been lost.
//!
//! **A retry is recognised or refused, never applied twice** ([`control::decide`]): its id is on record → already
//! applied; the record is complete since its first attempt → it never landed, go on; else JetStream is asked whether it
//! remembers the id; else nobody can tell, and the answer is `OUTCOME_SUPERSEDED`. Where the record ends (a host overwrote
//! the entry, somebody purged it), a mirror that has followed the stream without a gap knows as much for as long as it
//! has ([`store::witness`]).
//!
//! **An answer that publishes nothing is given only from a fresh mirror**, one that has reached the last sequence that
//! the stream's leader told during the call. A publish may rest on a stale one: its expectation catches that.
//!
//! **A reason that says *not applied* is given only while no publish of the call is unknown** ([`control::mutate`]), and to a
//! retry only where its first attempt is known not to have been applied. Of an entry of which there is nothing, that is only
//! what this mirror has followed: the entry and its record may have gone together, with the stream or by a purge. What is
//! asked for is then written (again), and a refusal is `OUTCOME_SUPERSEDED`.
//!
//! **Nothing is published for a caller that has gone away**: it may be back on another gateway, and be refused there. What
//! was published already is seen through.
//!
//! # Layouts, parts, and records that many entries share
//!
//! How an era's hosts keep a lattice is a [`Layout`](store::layout::Layout); it has one [`Part`](store::layout::Part) for each
//! stream, and a part alone knows where an entry is, in which form, and how it is deleted. A mirror, its feed and the write
//! protocol work on any part. `docs/layouts.md` says what is written in each, and who reads it.
//!
//! In lattices of 1.x all links of a source are *one record*, which hosts write back without a check. There an edit goes
//! through [`control::links`] instead of a publish of its own: edits of a source queue, each is judged against the record as
//! the ones before it leave it, and those that may be applied share one publish, whose evidence names them all, each with its
//! link. That batch is frozen until its outcome is known. Beside hosts an edit then has to stand for a while before it is
//! acknowledged; what is undone before that is applied again.
//!
//! # More than a stream takes, and a stream that does not answer
//!
//! Each stream has a [`gate`](control::gate), by which go writes and fully consistent reads. It lets in as many as the stream lately
//! did in its own shortest time; others wait before it, where they are known not to be applied, and who would wait for too long is
//! refused at once. A stream that is silent while calls are in flight is not waited for: who needs it is told so, but for a
//! probe now and then. A connection that is a black hole is given up by its pings ([`store::connection`]), and making it anew is
//! what finds out when it is back. Reads from memory, health and watches pass by no gate, and of the places for calls a quarter is
//! no writer's ([`rpc::layers`]).
//!
//! # One `Watch`, the other way round
//!
//! ```text
//! store::feed            the one consumer of a stream delivers; the inspector finds out what it cannot
//! store::mirror          folds it, and notes which entries changed
//! store::changes         the log of those, as far back as it is remembered
//! control::watch         each watch pulls from its place in the log; what many want is written once for all (its group)
//! rpc::watch             bytes to the client, for as long as the caller's credentials and grant last
//! ```
//!
//! Nothing is pushed into a queue of a watch: a slow one is behind in the log, reads an entry that changed often as one
//! change, and is ended once the log has forgotten its place. Watches are woken in rounds, the longer apart the more there are.
//! What a log cannot tell (another gateway, a reset, another layout) begins the watch anew, with the reason.
//!
//! # The same calls over HTTP
//!
//! ```text
//! rpc::http              the route (google.api.http in proto/) from the head alone; the call by the name that gRPC has for it
//! rpc::layers            as for gRPC: who, until when, one span, one count, bounds
//! rpc::http::request     JSON or a query → the message, over the descriptors
//! rpc::…                 the handler of gRPC, by an in-process request of gRPC
//! rpc::http::answer      the message → JSON; a status → an error in JSON
//! ```
//!
//! So nothing is granted, bounded or recorded twice, and an RPC has its form in JSON by its annotation. Requests of gRPC pass
//! by all of it after a look at their content type. `docs/http.md` is for callers.
//!
//! # Provisioning
//!
//! [`control::provision`] reads what there is of each stream, [`store::provisioning`] plans from that (pure: create, change what
//! was chosen, leave, leave and tell what is wrong), then creations are checked as far as JetStream tells before they are made,
//! and the plan is carried out. What wadm's streams are like, and what it does where they are not, is in [`store::wadm`].
//! `docs/provisioning.md` is for operators.
//!
//! # What is wrong with a lattice
//!
//! [`control::diagnose`] reads streams, consumers, entries and who answers of the hosts, makes findings of what was read, each
//! with its evidence and the command that mends it, and changes nothing. `docs/doctor.md` has the kinds.
//!
//! # What JetStream does, as far as this rests on it
//!
//! Measured on nats-server 2.10 to 2.15, one and three replicas; `tests/it/facts.rs` holds it.
//!
//! * The expectation is checked *before* the id on a standalone server since 2.12, and after it on 2.10, 2.11 and in
//!   clusters: the retry of a publish that landed is a "wrong last sequence" here and a duplicate there. Both lead to
//!   the entry being read again.
//! * In a cluster a publish beside one that is in flight on the subject is refused with 10164 or 10158, not 10071.
//! * Clusters before 2.12 keep an id that they refused, as if it were under way, for as long as the window lasts. A call
//!   that lost a race goes on there under a second id: its record names it by its stamp, and its copies are fenced by
//!   the expectation, whatever the id.
//! * A duplicate's acknowledgement carries the sequence of the *original*, which may be overwritten by now. Ids survive
//!   purges and deletes of messages.
//! * A publish while the server is stopped or the connection is stalled may land after the client has given up.
//! * A publish with an id and an invalid `Nats-Rollup` is answered as a duplicate where the id is known and refused with
//!   10111 where not; it is never stored. That is the probe.
//! * A memory stream whose servers all restarted may have the same creation time and begin at sequence 1 again, so an
//!   etag holds a tag of the write besides epoch and sequence.
//! * An update of a stream that there is not has its configuration judged first and makes nothing: that is the rehearsal of a
//!   creation. Room, servers and the subjects of others are not looked at.
//! * Consumers are told of neither purges nor deletions; the inspector ([`store::feed`]) asks the leader.
//! * `Nats-Expected-Last-Msg-Id`, rollups, message TTLs and the subject form of the expectation are never sent.
//!
//! # Invariants, and what holds them
//!
//! | | invariant | held by |
//! |---|---|---|
//! | I1 | An operation needs a grant, and works on the grant's lattice | [`auth::Grant`] and [`auth::GrantOnAll`] have no public constructor; `tests/it/tenancy.rs` |
//! | I2 | Subjects and bodies are made and read in [`store::layout`] alone | property tests there; `tests/it/golden.rs` |
//! | I3 | What the API shows is what a host reads | `tests/it/model.rs` and its like against models of each era's hosts |
//! | I4 | A mutation is one publish, or shares one, with an expectation | `tests/it/dedup.rs`, `tests/it/golden.rs`, `tests/campaign` |
//! | I5 | Whatever is retried, wherever and whenever, is applied at most once | `tests/it/dedup.rs`, `tests/it/outage.rs`, `tests/campaign` |
//! | I6 | `UNAVAILABLE` means that nothing was written; nothing is queued for later | `tests/it/outage.rs`, `tests/campaign` |
//! | I7 | Nothing unparsed reaches a subject or a header | types of [`domain`]; `tests/it/hostile.rs` |
//! | I8 | Statuses are made in [`rpc::status`] alone, one reason each | clippy's `disallowed-methods`; `tests/it/errors.rs` |
//! | I9 | Malformed messages stop nothing and are listed | `tests/it/foreign.rs` |
//! | I10 | Streams are made and changed by provisioning alone, in what it was asked for, and never deleted | `tests/it/provisioning.rs`, `tests/it/lattice.rs`, `tests/it/outage.rs` |
//! | I11 | Nobody is told of what does not stand | `tests/it/effects.rs` |
//! | I12 | Nothing of another tenant is in answers, errors, metrics or logs; no secret is anywhere | `tests/it/tenancy.rs`, `tests/it/secured.rs` |
//! | I13 | Every attempt to change something leaves one record, where that is configured | `tests/it/audit.rs`, `tests/campaign` |
//! | I14 | No edit of a shared record loses another; an acknowledged one stands beside careless hosts | `tests/it/component.rs` |
//! | I15 | After each message a watch's view is what the stream held at one revision, or the message says that it is not | `tests/it/watch.rs`, the watchers of `tests/campaign` |
//! | I16 | What is refused for load or silence was never sent; reads and health are served all the same | `tests/it/overload.rs` |
//!
//! Each [`safeguard`] can be left out in the campaign's build, and the campaign has to notice: `docs/reliability.md`.
//!
//! # Adding an RPC
//!
//! The same five places, in this order: `proto/` (with its route over HTTP, its rules, and `make api-docs`), [`domain`] (its types
//! and strict parser), [`control::operations`] (with the grant it needs), `rpc/` (parse → grant → operation → convert; its name in
//! [`rpc::layers`]), `tests/it/` (its rows in `tenancy.rs`, its file, and the Python client with a valid request in
//! `test_rules.py`). The names of those that change something begin with `Put`, `Set`, `Delete`, `Provision` or `Migrate`, by which
//! the audit knows them. A change of an entry is an operation of `Apply`, too: in `apply_service.proto`, `rpc/change.rs` and
//! `rpc/apply.rs`; `tests/it/apply.rs` tells where one is missing.
//!
//! `proto/accepted.binpb` is what callers have: `make lint-proto` refuses what breaks it.

#[cfg(feature = "server")]
pub mod app;
#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "server")]
pub mod auth;
mod codec;
#[cfg(feature = "server")]
pub mod command;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod dev;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
mod expiry;
#[cfg(feature = "server")]
mod jitter;
pub mod proto;
#[cfg(feature = "server")]
pub mod reload;
#[cfg(feature = "server")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod safeguard;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
mod systemd;
#[cfg(feature = "server")]
pub mod telemetry;
