use clap::Parser;

use super::*;
use crate::args::{Cli, Command};

fn request(line: &str) -> Result<WatchRequest, String> {
    let line = format!("latticectl watch {line}");
    let Command::Watch(arguments) = Cli::parse_from(line.trim().split(' ')).command else {
        panic!("{line}");
    };
    arguments.filter.request("blue")
}

fn filters(line: &str) -> Vec<Identity> {
    let filters = request(line).unwrap().filters.into_iter();
    filters.filter_map(|filter| filter.identity).collect()
}

fn link(actor_id: &str, link_name: &str) -> Identity {
    Identity::LinkDefinition(LinkDefinitionIdentity {
        actor_id: actor_id.to_owned(),
        link_name: link_name.to_owned(),
        ..LinkDefinitionIdentity::default()
    })
}

fn interface_link(source_id: &str, name: &str) -> Identity {
    Identity::InterfaceLink(InterfaceLinkIdentity {
        source_id: source_id.to_owned(),
        name: name.to_owned(),
        ..InterfaceLinkIdentity::default()
    })
}

#[test]
fn without_options_everything_is_watched() {
    let expected = WatchRequest {
        lattice: "blue".to_owned(),
        ..WatchRequest::default()
    };
    assert_eq!(request(""), Ok(expected));
}

#[test]
fn kinds_and_filters_are_asked_for_as_they_are_given() {
    let request = request("--kind link --kind claims --actor M").unwrap();
    assert_eq!(
        request.kinds,
        [EntryKind::LinkDefinition, EntryKind::Claims].map(i32::from)
    );
    assert_eq!(filters("--actor M"), [link("M", "")]);
    let each = "--public-key M --actor M --source web --url a --config port";
    let kinds: Vec<_> = filters(each).iter().map(Kind::of_identity).collect();
    assert_eq!(kinds, Kind::ALL);
}

#[test]
fn a_name_is_that_of_links_of_the_kinds_that_are_watched() {
    assert_eq!(filters("--kind link --name blue"), [link("", "blue")]);
    assert_eq!(filters("--actor M --name blue"), [link("M", "blue")]);
    assert_eq!(
        filters("--source web --name blue"),
        [interface_link("web", "blue")]
    );
    assert_eq!(
        filters("--kind iface --kind link --name blue"),
        [link("", "blue"), interface_link("", "blue")]
    );
    assert!(request("--name blue").is_err());
}

#[test]
fn a_filter_of_a_kind_that_is_left_out_is_refused() {
    assert_eq!(
        request("--kind claims --actor M").unwrap_err(),
        "there is a filter for link, and --kind leaves it out; add --kind link"
    );
}
