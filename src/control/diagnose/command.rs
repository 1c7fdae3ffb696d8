//! The commands that remedies name, for a POSIX shell.

use crate::domain::LatticeName;

/// Writes commands about one lattice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Commands<'a> {
    pub(super) lattice: &'a LatticeName,
    /// The JetStream domain in which it is kept, where that is named.
    pub(super) domain: Option<&'a str>,
}

impl Commands<'_> {
    /// One of `latticectl`.
    pub(super) fn latticectl(self, words: &[&str]) -> String {
        let lattice = ["latticectl", "--lattice", self.lattice.as_str()];
        line(lattice.iter().chain(words))
    }

    /// One of the NATS command line.
    pub(super) fn nats(self, words: &[&str]) -> String {
        nats_in(self.domain, words)
    }

    /// Removes one message; empty where nothing removes it alone.
    pub(super) fn remove(self, stream: &str, subject: &str, sequence: u64, may_delete: bool) -> String {
        // Of a subject that is stored as it is these are no wildcards; of a purge they are.
        let has_wildcard = subject.split('.').any(|token| token == "*" || token == ">");
        match (may_delete, has_wildcard) {
            (true, _) => self.nats(&["stream", "rmm", stream, &sequence.to_string(), "--force"]),
            (false, false) => self.nats(&["stream", "purge", stream, "--subject", subject, "--force"]),
            (false, true) => String::new(),
        }
    }
}

/// One of the NATS command line, in any domain.
pub(super) fn nats_in(domain: Option<&str>, words: &[&str]) -> String {
    let domain = domain.map(|domain| ["--js-domain", domain]);
    line(["nats"].iter().chain(domain.iter().flatten()).chain(words))
}

fn line<'a>(words: impl Iterator<Item = &'a &'a str>) -> String {
    words.map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(check: impl FnOnce(Commands<'_>)) {
        let lattice = LatticeName::parse("blue").unwrap();
        check(Commands {
            lattice: &lattice,
            domain: Some("hub"),
        });
    }

    #[test]
    fn a_shell_takes_every_word_as_one() {
        with(|commands| {
            assert_eq!(
                commands.latticectl(&["config", "delete", "a b'; rm -rf /"]),
                r"latticectl --lattice blue config delete 'a b'\''; rm -rf /'"
            );
            assert_eq!(
                commands.nats(&["stream", "info", "$KV.x"]),
                "nats --js-domain hub stream info '$KV.x'"
            );
            assert_eq!(nats_in(None, &["kv", "ls", ""]), "nats kv ls ''");
        });
    }

    #[test]
    fn no_command_removes_more_than_one_message() {
        with(|commands| {
            assert_eq!(
                commands.remove("S", "lc.x.>", 7, true),
                "nats --js-domain hub stream rmm S 7 --force"
            );
            assert_eq!(
                commands.remove("S", "lc.x.a", 7, false),
                "nats --js-domain hub stream purge S --subject lc.x.a --force"
            );
            for wild in ["lc.x.*", "lc.x.>", "lc.*.a"] {
                assert_eq!(commands.remove("S", wild, 7, false), "");
            }
        });
    }
}
