//! The style of the API, checked on its descriptors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    process::Command,
};

use lattice_gateway::proto::PACKAGE;
use prost_reflect::DescriptorPool;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions, MethodDescriptorProto,
};

use crate::harness::api;

/// Numbers in a path of source information, from `descriptor.proto`.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const SERVICES: i32 = 6;
const MEMBERS: i32 = 2;
const NESTED_MESSAGES: i32 = 3;
const NESTED_ENUMS: i32 = 4;

/// Finds what lacks a comment in one file.
struct Comments<'a> {
    file: &'a FileDescriptorProto,
    commented: BTreeSet<&'a [i32]>,
    checked: usize,
    missing: Vec<String>,
}

impl<'a> Comments<'a> {
    fn of(file: &'a FileDescriptorProto) -> Self {
        let locations = &file.source_code_info.as_ref().unwrap().location;
        let commented = locations
            .iter()
            .filter(|location| !location.leading_comments().trim().is_empty())
            .map(|location| location.path.as_slice())
            .collect();
        Self {
            file,
            commented,
            checked: 0,
            missing: Vec::new(),
        }
    }

    fn check(&mut self, path: &[i32], name: &str) {
        self.checked += 1;
        if !self.commented.contains(path) {
            self.missing.push(format!("{}: {name}", self.file.name()));
        }
    }

    fn check_all(&mut self, path: &[i32], names: impl Iterator<Item = impl Display>, of: &str) {
        for (index, name) in numbered(names) {
            self.check(&[path, &[index]].concat(), &format!("{of}.{name}"));
        }
    }

    fn check_message(&mut self, path: &[i32], message: &DescriptorProto) {
        // The entries of maps are made, not written.
        if message.options.as_ref().is_some_and(MessageOptions::map_entry) {
            return;
        }
        self.check(path, message.name());
        let fields = message.field.iter().map(FieldDescriptorProto::name);
        self.check_all(&[path, &[MEMBERS]].concat(), fields, message.name());
        for (index, nested) in numbered(message.nested_type.iter()) {
            self.check_message(&[path, &[NESTED_MESSAGES, index]].concat(), nested);
        }
        for (index, nested) in numbered(message.enum_type.iter()) {
            self.check_enum(&[path, &[NESTED_ENUMS, index]].concat(), nested);
        }
    }

    fn check_enum(&mut self, path: &[i32], of: &EnumDescriptorProto) {
        self.check(path, of.name());
        let values = of.value.iter().map(EnumValueDescriptorProto::name);
        self.check_all(&[path, &[MEMBERS]].concat(), values, of.name());
    }
}

fn numbered<T>(items: impl Iterator<Item = T>) -> impl Iterator<Item = (i32, T)> {
    (0_i32..).zip(items)
}

#[test]
fn everything_has_a_comment() {
    let files = api::files();
    let (mut missing, mut checked) = (Vec::new(), 0);
    for file in &files {
        let mut comments = Comments::of(file);
        for (index, service) in numbered(file.service.iter()) {
            comments.check(&[SERVICES, index], service.name());
            let methods = service.method.iter().map(MethodDescriptorProto::name);
            comments.check_all(&[SERVICES, index, MEMBERS], methods, service.name());
        }
        for (index, message) in numbered(file.message_type.iter()) {
            comments.check_message(&[MESSAGES, index], message);
        }
        for (index, of) in numbered(file.enum_type.iter()) {
            comments.check_enum(&[ENUMS, index], of);
        }
        missing.extend(comments.missing);
        checked += comments.checked;
    }
    assert_eq!(missing, [""; 0]);
    assert!(checked > 200, "only {checked} were checked");
}

#[test]
fn files_lie_where_their_package_says() {
    let files = api::files();
    assert!(files.len() >= 6);
    for file in &files {
        let folder = format!("{}/", file.package().replace('.', "/"));
        assert!(file.name().starts_with(&folder), "{}", file.name());
        let stem = file
            .name()
            .strip_prefix(&folder)
            .and_then(|name| name.strip_suffix(".proto"));
        assert!(is_snake_case(stem.unwrap()), "{}", file.name());
        // One service a file, which bears its name.
        let services = file.service.iter().map(|service| snake_case(service.name()));
        assert!(
            services.eq(stem.filter(|stem| stem.ends_with("_service")).map(str::to_owned)),
            "{}",
            file.name()
        );
    }
}

#[test]
fn the_zero_of_every_enum_is_unspecified() {
    let files = api::files();
    let enums = files.iter().flat_map(|file| {
        let nested = file.message_type.iter().flat_map(|message| &message.enum_type);
        file.enum_type.iter().chain(nested)
    });
    let mut count = 0;
    for of in enums {
        count += 1;
        let prefix = snake_case(of.name()).to_uppercase();
        assert_eq!(of.value[0].number(), 0);
        assert_eq!(of.value[0].name(), format!("{prefix}_UNSPECIFIED"));
        for value in &of.value[1..] {
            // Reasons go over the wire as they are, without the enum's name.
            let is_reason = of.name() == "ErrorReason";
            let is_prefixed = value.name().starts_with(&format!("{prefix}_"));
            assert_eq!(is_prefixed, !is_reason, "{}", value.name());
        }
    }
    assert!(count >= 4);
}

#[test]
fn every_reason_of_errors_says_what_to_do() {
    let files = api::files();
    let mut enums = files.iter().flat_map(|file| &file.enum_type);
    let reasons = enums.find(|of| of.name() == "ErrorReason").unwrap();
    let reasons = reasons.value[1..].iter().map(EnumValueDescriptorProto::name);
    let page = include_str!("../../docs/errors.md");
    let headings = page.lines().filter_map(|line| line.strip_prefix("### "));
    assert_eq!(
        headings.collect::<BTreeSet<_>>(),
        reasons.collect::<BTreeSet<_>>()
    );
}

#[test]
fn every_rpc_has_a_request_and_a_response_of_its_own() {
    let files = api::files();
    let mut used = BTreeSet::new();
    for service in files.iter().flat_map(|file| &file.service) {
        assert!(service.name().ends_with("Service"));
        for method in &service.method {
            for (used_type, suffix) in [
                (method.input_type(), "Request"),
                (method.output_type(), "Response"),
            ] {
                assert_eq!(
                    used_type,
                    format!(".lattice.control.v1.{}{suffix}", method.name())
                );
                assert!(used.insert(used_type.to_owned()), "{used_type} is used twice");
            }
        }
    }
    let written = files
        .iter()
        .flat_map(|file| &file.message_type)
        .map(|message| format!(".lattice.control.v1.{}", message.name()))
        .filter(|name| name.ends_with("Request") || name.ends_with("Response"));
    assert_eq!(
        written.collect::<BTreeSet<_>>(),
        used,
        "a request or response of no RPC"
    );
}

#[test]
fn the_descriptor_set_is_written_with_comments_routes_and_rules() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lattice-gateway"));
    let written = command.arg("descriptor-set").output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let pool = DescriptorPool::decode(&*written.stdout).unwrap();
    let [rules, routes] =
        ["buf.validate.field", "google.api.http"].map(|name| pool.get_extension_by_name(name).unwrap());
    let files = pool.files().filter(|file| file.package_name() == PACKAGE);
    for file in files {
        assert!(file.file_descriptor_proto().source_code_info.is_some());
        for message in file
            .messages()
            .filter(|message| message.name().ends_with("Request"))
        {
            if let Some(lattice) = message.get_field_by_name("lattice") {
                assert!(lattice.options().has_extension(&rules), "{}", message.name());
            }
        }
        for method in file
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
        {
            assert_eq!(
                method.options().has_extension(&routes),
                !method.is_client_streaming()
            );
        }
    }
}

/// The number that a field has wherever it stands, by where it stands.
const NUMBERS: [(&str, &[(&str, i32)]); 3] = [
    ("Request", &[("lattice", 1)]),
    (
        "Mutation",
        &[
            ("request_id", 10),
            ("retry_age", 11),
            ("etag", 12),
            ("must_exist", 13),
            ("must_not_exist", 14),
            ("validate_only", 15),
            ("allow_missing", 16),
        ],
    ),
    ("Resource", &[("etag", 13), ("revision", 14), ("update_time", 15)]),
];

#[test]
fn shared_fields_have_the_same_numbers_everywhere() {
    const RESOURCES: [&str; 5] = [
        "Claims",
        "InterfaceLink",
        "LinkDefinition",
        "NamedConfig",
        "OciReference",
    ];
    let files = api::files();
    let mut seen = BTreeMap::<_, usize>::new();
    for message in files.iter().flat_map(|file| &file.message_type) {
        let is_mutation = message.field.iter().any(|field| field.name() == "request_id");
        let roles = [
            ("Request", message.name().ends_with("Request")),
            ("Mutation", is_mutation),
            ("Resource", RESOURCES.contains(&message.name())),
        ];
        for (role, _) in roles.into_iter().filter(|(_, plays)| *plays) {
            *seen.entry(role).or_default() += 1;
            let (_, numbers) = NUMBERS.iter().find(|(name, _)| *name == role).unwrap();
            for field in &message.field {
                if let Some((_, number)) = numbers.iter().find(|(name, _)| *name == field.name()) {
                    assert_eq!(field.number(), *number, "{}.{}", message.name(), field.name());
                }
                assert!(is_snake_case(field.name()), "{}.{}", message.name(), field.name());
            }
        }
        if is_mutation {
            let is_delete = message.name().starts_with("Delete");
            let wanted = numbers_of("Mutation").filter(|name| is_delete || *name != "allow_missing");
            for name in wanted.chain(["lattice"]) {
                assert!(
                    message.field.iter().any(|field| field.name() == name),
                    "{} lacks {name}",
                    message.name()
                );
            }
        }
    }
    assert_eq!(seen, [("Mutation", 10), ("Request", 30), ("Resource", 5)].into());
}

fn numbers_of(role: &str) -> impl Iterator<Item = &'static str> {
    let (_, numbers) = NUMBERS.iter().find(|(name, _)| *name == role).unwrap();
    numbers.iter().map(|(name, _)| *name)
}

fn is_snake_case(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split('_').all(is_part)
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for character in name.chars() {
        if character.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(character.to_ascii_lowercase());
    }
    snake
}
