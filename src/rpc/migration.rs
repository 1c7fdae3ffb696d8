//! `LatticeService.MigrateLattice`.

use super::{
    Call, Gateway,
    convert::{self, finish},
    status::Failure,
};
use crate::{
    auth::VerbName,
    control::{
        decide::Mode,
        migrate::{Action, Asked, Kept, Migrated},
        mutate::Outcome,
    },
    domain::{EntryKey, Invalid, Revision, Violations},
    proto::{MigrateLatticeRequest, MigrateLatticeResponse, MigrationAction, MigrationItem},
    store::mirror::Malformed,
};

/// Items of a sort that an answer lists, at most.
const ITEMS_MAX: usize = 1000;

impl Gateway {
    pub(super) async fn migrate(
        &self,
        call: &Call,
        request: &MigrateLatticeRequest,
    ) -> Result<MigrateLatticeResponse, Failure> {
        let mut violations = Violations::new();
        let name = convert::lattice(&request.lattice, &mut violations);
        let delete_source_at = violations.check("delete_source_at", delete_source_at(request));
        let (name, delete_source_at) = finish(name.zip(delete_source_at), violations)?;
        call.trail.note(|record| {
            record.lattice = Some(name.to_string());
            record.verb = Some(VerbName::Provision.as_str());
            record.validate_only = request.validate_only;
        });
        let grant = self.grant(call, &name)?;
        let asked = Asked {
            mode: convert::mode(request.validate_only),
            delete_source_at,
        };
        let migrated = self.control.migrate(&grant, asked, call.deadline).await?;
        let did_change = migrated.moved > 0 || migrated.did_delete_source;
        let outcome = match (asked.mode, did_change) {
            (Mode::ValidateOnly, _) => Outcome::Validated,
            (Mode::Live, true) => Outcome::Applied,
            (Mode::Live, false) => Outcome::Unchanged,
        };
        call.trail
            .note(|record| record.outcome = Some(outcome.as_str().to_owned()));
        Ok(response(&migrated))
    }
}

/// A rehearsal deletes nothing.
fn delete_source_at(request: &MigrateLatticeRequest) -> Result<Option<Revision>, Invalid> {
    match (&request.delete_source_at, request.validate_only) {
        (Some(_), true) => Err(Invalid::Rule(
            "deletes, and validate_only writes nothing; leave one out",
        )),
        (at, _) => Ok(at.as_ref().map(convert::revision_seen)),
    }
}

fn response(migrated: &Migrated) -> MigrateLatticeResponse {
    let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
    let prefix = &migrated.subject_prefix;
    let moves = migrated.remaining.iter().take(ITEMS_MAX).map(item_of_move);
    let kept = migrated.kept.iter().take(ITEMS_MAX).map(item_of_kept);
    let left = migrated.malformed.iter().take(ITEMS_MAX);
    let left = left.map(|malformed| item_left(prefix, malformed));
    MigrateLatticeResponse {
        moved_count: count(migrated.moved),
        remaining_count: count(migrated.remaining.len()),
        unchanged_count: count(migrated.unchanged),
        kept_count: count(migrated.kept.len()),
        left_count: count(migrated.malformed.len()),
        stale_copies: count(migrated.stale_copies),
        items: moves.chain(kept).chain(left).collect(),
        source_revision: migrated.source.map(convert::revision),
        verified: migrated.is_verified,
        deletable_in: migrated.deletable_in.map(Into::into),
        source_deleted: migrated.did_delete_source,
    }
}

fn item_of_move((key, action): &(EntryKey, Action)) -> MigrationItem {
    let action = match action {
        Action::Create => MigrationAction::Create,
        Action::Replace => MigrationAction::Replace,
        Action::Delete => MigrationAction::Delete,
    };
    MigrationItem {
        entry: key.to_string(),
        action: action.into(),
        reason: String::new(),
    }
}

fn item_of_kept((key, kept): &(EntryKey, Kept)) -> MigrationItem {
    MigrationItem {
        entry: key.to_string(),
        action: MigrationAction::Keep.into(),
        reason: kept.reason().to_owned(),
    }
}

fn item_left(prefix: &str, malformed: &Malformed) -> MigrationItem {
    MigrationItem {
        entry: format!("{prefix}{}", malformed.tokens),
        action: MigrationAction::Leave.into(),
        reason: malformed.reason.to_owned(),
    }
}
