use clap::Parser;

use super::*;
use crate::args::Cli;

fn item(entry: &str, action: MigrationAction, reason: &str) -> MigrationItem {
    MigrationItem {
        entry: entry.to_owned(),
        action: action.into(),
        reason: reason.to_owned(),
    }
}

#[test]
fn a_plan_tells_what_is_moved_and_what_is_not_and_why() {
    let planned = MigrateLatticeResponse {
        remaining_count: 1,
        kept_count: 1,
        left_count: 1,
        stale_copies: 2,
        items: vec![
            item("claims M", MigrationAction::Create, ""),
            item("claims V", MigrationAction::Keep, "is younger"),
            item("lc.a.x", MigrationAction::Leave, "no JSON"),
        ],
        ..MigrateLatticeResponse::default()
    };
    assert_eq!(
        plan(&planned),
        "create   claims M\n\
         keep     claims V  (is younger)\n\
         leave    lc.a.x  (no JSON)\n\
         1 to move, 0 moved already, 1 kept, 1 malformed left behind, 2 superseded copies left behind\n"
    );
}

#[test]
fn nothing_is_deleted_by_an_option_alone() {
    let parse = |line: &str| Cli::try_parse_from(format!("latticectl migrate {line}").split(' '));
    assert!(parse("blue --to kv").is_ok());
    assert!(parse("blue --to kv --yes --delete-source --yes-delete").is_ok());
    for refused in [
        "blue",
        "blue --to component",
        "blue --to kv --yes-delete",
        "blue --to kv --dry-run --delete-source",
    ] {
        assert!(parse(refused).is_err(), "{refused}");
    }
}
