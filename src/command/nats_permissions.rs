//! `nats-permissions`: the permissions of NATS users as a nats-server's configuration, or as commands of `nsc`.

use std::process::ExitCode;

use clap::ValueEnum;

use super::{EX_USAGE, LayoutArg, fail, say};
use crate::{
    domain::LatticeName,
    store::permissions::{self, Permission, Permissions, Provisions},
};

#[derive(Debug, clap::Args)]
pub(super) struct NatsPermissions {
    /// A lattice that the gateway serves, by its whole name (NATS knows no globs within a name); once for each.
    #[arg(long = "lattice", value_name = "NAME", required = true)]
    lattices: Vec<String>,
    /// What to print: a fragment of nats-server's configuration, or commands of `nsc`.
    #[arg(long, value_enum, default_value = "server")]
    format: Format,
    /// The gateway's user.
    #[arg(long, value_name = "NAME", default_value = "lattice-gateway")]
    user: String,
    /// Print an account of that name, for the `accounts` of a nats-server's configuration: users and passwords are named after it.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The JetStream domain, as `nats.domain` names it to the gateway.
    #[arg(long)]
    domain: Option<String>,
    /// How hosts keep the lattices; run it once a layout where they differ.
    #[arg(long, value_enum, default_value = "cache-stream")]
    layout: LayoutArg,
    /// Let the gateway create the lattices' streams, and scale them.
    #[arg(long)]
    provision: bool,
    /// Let the gateway create the streams of wadm, and scale them.
    #[arg(long)]
    wadm: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Server,
    Nsc,
}

const HOSTS: &str = "hosts";
const OTHERS: &str = "everybody-else";

/// What a nats-server's configuration calls those whom it knows, apart in each account: it knows a user's name once.
struct Names {
    /// Where the users are.
    place: String,
    gateway: String,
    hosts: String,
    others: String,
    /// The variables of their passwords begin so.
    variable: String,
}

impl Names {
    fn new(user: &str, account: Option<&str>) -> Self {
        let of = |name: &str| account.map_or_else(|| name.to_owned(), |account| format!("{account}-{name}"));
        let variable = account.map(|account| format!("{}_", account.replace('-', "_").to_ascii_uppercase()));
        Self {
            place: account.map_or_else(
                || "authorization {\n".to_owned(),
                |account| format!("{account} {{\n  jetstream: enabled\n"),
            ),
            gateway: of(user),
            hosts: of(HOSTS),
            others: of(OTHERS),
            variable: format!("NATS_{}", variable.unwrap_or_default()),
        }
    }
}

impl NatsPermissions {
    pub(super) fn run(self) -> ExitCode {
        match self.text() {
            Ok(text) => {
                say(text.trim_end());
                ExitCode::SUCCESS
            }
            Err(mistakes) => fail(&mistakes.join("\n"), EX_USAGE),
        }
    }

    fn text(&self) -> Result<String, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut lattices = Vec::new();
        for name in &self.lattices {
            match LatticeName::parse(name) {
                Ok(name) if lattices.contains(&name) => {}
                Ok(name) => lattices.push(name),
                Err(invalid) => mistakes.push(format!("--lattice {name:?}: {invalid}")),
            }
        }
        let words = [
            ("--user", Some(&self.user)),
            ("--domain", self.domain.as_ref()),
            ("--account", self.account.as_ref()),
        ];
        for (option, text) in words {
            if let Some(text) = text.filter(|text| !is_word(text)) {
                mistakes.push(format!("{option} {text:?}: must be made of A-Z a-z 0-9 _ -"));
            }
        }
        if [HOSTS, OTHERS].contains(&self.user.as_str()) {
            mistakes.push(format!("--user {:?}: is another user's name here", self.user));
        }
        if self.account.is_some() && matches!(self.format, Format::Nsc) {
            mistakes.push("--account: commands of `nsc` take it from the shell, as ACCOUNT".to_owned());
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let gateway = permissions::of_gateway(
            &lattices,
            self.layout.into(),
            self.domain.as_deref(),
            Provisions {
                lattices: self.provision,
                wadm: self.wadm,
            },
        );
        let denied = permissions::kept_from_others(&lattices);
        Ok(match self.format {
            Format::Server => server(
                &Names::new(&self.user, self.account.as_deref()),
                &gateway,
                &denied,
            ),
            Format::Nsc => nsc(&self.user, &gateway, &denied),
        })
    }
}

/// One word in the configuration, in a shell, in a URL and in a subject alike.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// What both formats say of how far it holds.
const REACH: &str = "\
# NATS asks for permissions where a user publishes, subscribes or calls; not where the server
# publishes for a user, on the reply subject of a request or by a stream's republish. Who is not
# trusted at all belongs into another account.
";

fn server(names: &Names, gateway: &Permissions, denied: &Permissions) -> String {
    let Names {
        place,
        gateway: user,
        hosts,
        others,
        variable,
    } = names;
    let allowed_publish = server_list(10, &gateway.publish);
    let allowed_subscribe = server_list(10, &gateway.subscribe);
    let denied_publish = server_list(6, &denied.publish);
    let denied_subscribe = server_list(6, &denied.subscribe);
    format!(
        r#"# Who may do what around the lattices of a lattice gateway. Include this in the configuration of
# every nats-server that clients come to, or merge it with what is there; an account's belongs into
# its `accounts`.
#
# Passwords are taken from the server's environment; without them it does not start. The server reads
# their values as configuration, so put double quotes into them: {variable}HOSTS_PASSWORD='"..."'. The
# gateway's also goes into a URL, `nats.servers`: make it of letters and digits.
#
{REACH}{place}  users: [
    # The gateway: what it does, and nothing else.
    {{
      user: "{user}", password: ${variable}GATEWAY_PASSWORD
      permissions: {{
        publish: {{ allow: [
{allowed_publish}        ] }}
        subscribe: {{ allow: [
{allowed_subscribe}        ] }}
      }}
    }}
    # Hosts write the lattices by themselves: nothing is taken from them.
    {{ user: "{hosts}", password: ${variable}HOSTS_PASSWORD, permissions: {{ publish: ">", subscribe: ">" }} }}
    # Everybody else. Add users like this one: the default permissions apply to each that has none.
    {{ user: "{others}", password: ${variable}EVERYBODY_ELSE_PASSWORD }}
  ]
  default_permissions: {{
    publish: {{ deny: [
{denied_publish}    ] }}
    subscribe: {{ deny: [
{denied_subscribe}    ] }}
  }}
}}
# Lets in who names no user, as everybody else:
# no_auth_user: "{others}"
"#
    )
}

/// The subjects, one a line, each with what happens there.
fn server_list(indent: usize, permissions: &[Permission]) -> String {
    let lines = permissions
        .iter()
        .map(|Permission { subject, purpose }| format!("{:indent$}\"{subject}\"  # {purpose}\n", ""));
    lines.collect::<Vec<_>>().concat()
}

fn nsc(user: &str, gateway: &Permissions, denied: &Permissions) -> String {
    let (allowed, denied) = (nsc_options("allow", gateway), nsc_options("deny", denied));
    format!(
        r#"# Who may do what around the lattices of a lattice gateway. For a shell that knows the account and a
# user of the hosts: ACCOUNT=... HOSTS=...
#
{REACH}
# The gateway: what it does, and nothing else. Its credentials, for `nats.credentials_file`:
# nsc generate creds --account "$ACCOUNT" --name {user}
nsc add user --account "$ACCOUNT" --name {user}{allowed}

# Hosts write the lattices by themselves: nothing is taken from them. So for each user of theirs:
nsc edit user --account "$ACCOUNT" --name "$HOSTS" --allow-pubsub '>'

# Everybody else: the account's permissions apply to each user that has none of its own. Give the same
# options to those that have some, with: nsc edit user --account "$ACCOUNT" --name USER
nsc edit account --name "$ACCOUNT"{denied}

nsc push --account "$ACCOUNT"
"#
    )
}

fn nsc_options(verdict: &str, permissions: &Permissions) -> String {
    let option = |direction: &str, permission: &Permission| {
        format!(" \\\n    --{verdict}-{direction} '{}'", permission.subject)
    };
    let publish = permissions
        .publish
        .iter()
        .map(|permission| option("pub", permission));
    let subscribe = permissions
        .subscribe
        .iter()
        .map(|permission| option("sub", permission));
    publish.chain(subscribe).collect::<Vec<_>>().concat()
}
